# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The instrumentor, and the helpers for messages that are handed on."""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context, attach, get_current
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._calls import own_mark
from opentelemetry.instrumentation.nats._contexts import Body, ambient
from opentelemetry.instrumentation.nats._delivering import begin_or_join
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._holding import delivery_of
from opentelemetry.instrumentation.nats._options import (
    InstrumentOptions,
    NatsConfiguration,
    read_options,
)
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._processing import Delivery
from opentelemetry.instrumentation.nats._propagation import extract
from opentelemetry.instrumentation.nats._providers import suppressed
from opentelemetry.instrumentation.nats._receiving import give_back
from opentelemetry.instrumentation.nats._telemetry import Telemetry
from opentelemetry.instrumentation.nats._values import read_provider
from opentelemetry.instrumentation.nats.package import _instruments  # pyright: ignore[reportPrivateUsage] (contrib's name)
from opentelemetry.trace import INVALID_SPAN, Span, get_current_span

if TYPE_CHECKING:
    from typing_extensions import Unpack

_active: Telemetry | None = None
"""The telemetry of the instrumentor while it is instrumented: what `process_message` reports to."""


class NatsInstrumentor(BaseInstrumentor):
    """Instruments nats-py."""

    configuration = NatsConfiguration
    """The type that a declarative configuration file's options are checked against."""

    _patches: Any = None

    def instrument(self, **kwargs: Unpack[InstrumentOptions]) -> None:
        """Instruments nats-py.

        Args:
            **kwargs: The options, see `InstrumentOptions` and the configuration page; a bad value is logged as a
                warning and replaced by its default. Nothing is raised.
        """
        super().instrument(**kwargs)

    def instrumentation_dependencies(self) -> Collection[str]:
        """Returns the versions of nats-py that can be instrumented."""
        return _instruments

    def _instrument(self, **kwargs: Any) -> None:
        global _active
        try:
            # They import nats, which a program that only has this package installed may not have.
            from opentelemetry.instrumentation.nats._patches import Patches  # noqa: PLC0415
            from opentelemetry.instrumentation.nats._patches._errors import classify  # noqa: PLC0415

            tracer_provider = read_provider(kwargs, "tracer_provider", "get_tracer")
            meter_provider = read_provider(kwargs, "meter_provider", "get_meter")
            logger_provider = read_provider(kwargs, "logger_provider", "get_logger")
            telemetry = Telemetry(tracer_provider, meter_provider, read_options(kwargs), classify, logger_provider)
            self._patches = Patches(telemetry)
            _active = telemetry
        except FAULTS:
            # Raised, it would stop every later instrumentor. `Patches` leaves nothing half done.
            _faults.report("instrument()")

    def _uninstrument(self, **kwargs: Any) -> None:
        global _active
        _active = None
        if self._patches is not None:
            self._patches.remove()
            self._patches = None
        try:
            give_back()
        except FAULTS:
            _faults.report("uninstrument()")


NATSInstrumentor = NatsInstrumentor
"""The other spelling that people guess."""


def message_context(msg: Any) -> Context:
    """Reads the creation context of a message: that of whoever published it.

    Args:
        msg: A `nats.aio.msg.Msg`, or an update of a KV or object store watcher.

    Returns:
        A context with the publisher's span context and baggage; an empty one where the message has none.
    """
    delivery = delivery_of(msg)
    headers = None if delivery is None else delivery.headers
    try:
        return extract(headers or getattr(msg, "headers", None), Context())
    except FAULTS:
        _faults.report("reading the context of a message")
        return Context()


@contextmanager
def process_message(msg: Any) -> Generator[Span]:
    """Makes the process span of a message in hand: after `next_msg`, from a queue, in another task or thread.

    While it lasts the span is current, as in a subscription's callback. With a span current around it, it is a child of
    that one, else of the message's creation context; it links to the latter either way. Where a process span is
    already open for the message, because its callback or loop body has not ended, that one is made current instead.

    Args:
        msg: A `nats.aio.msg.Msg`.

    Yields:
        The span. An invalid one when nats-py is not instrumented.
    """
    telemetry = _active
    current = ambient()
    if telemetry is None or telemetry.idle() or suppressed(current):
        if telemetry is None or not telemetry.options.propagation_only or suppressed(current):
            yield INVALID_SPAN
            return
        previous = get_current()
        if not get_current_span(current).get_span_context().is_valid:
            attach(message_context(msg))
        try:
            yield get_current_span()
        finally:
            attach(previous)
        return
    body = Body(own_mark(), current)
    delivery = None
    try:
        known = delivery_of(msg)
        origin = (None if known is None else known.origin) or _origin_of(telemetry, msg)
        delivery = begin_or_join(origin, msg, current, body)
    except FAULTS:
        _faults.report("process_message")
    # The block may be all that holds it: `with process_message(queue.get_nowait())`.
    del msg
    attach(body.context)
    try:
        yield get_current_span()
    except BaseException as error:
        _leave(body, delivery, error)
        raise
    else:
        _leave(body, delivery, None)


def _leave(body: Body, delivery: Delivery | None, error: BaseException | None) -> None:
    try:
        body.leave()
        if delivery is not None:
            delivery.leave(body, error)
    except FAULTS:
        _faults.report("process_message")


def _origin_of(telemetry: Telemetry, msg: Any) -> Origin:
    from opentelemetry.instrumentation.nats._patches._keeping import origin_of_message  # noqa: PLC0415 (imports nats)

    return origin_of_message(telemetry, msg)
