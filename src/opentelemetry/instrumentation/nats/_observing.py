# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""An operation whose span is made when it is over.

Only the answer tells the message, the links, or that there is nothing to tell; and what is given to a span at its
creation costs 1 us less than what is set later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter_ns, time_ns
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._arrived import note_read
from opentelemetry.instrumentation.nats._calls import Call
from opentelemetry.instrumentation.nats._contexts import with_span
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._hooks import run_consume_hook
from opentelemetry.instrumentation.nats._operations import Prototype, Recorded
from opentelemetry.instrumentation.nats._propagation import extract
from opentelemetry.instrumentation.nats._providers import span_context
from opentelemetry.instrumentation.nats._telemetry import Failure
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext

_NO_CONTEXT = Context()

Consumed = Callable[[Any], Sequence[Any]]
"""Finds in the result of a call what the application has consumed by it: messages, entries, infos of objects."""


class Reading:
    """How a method that reads what is stored is told.

    Args:
        absent: The exceptions that say that what was looked for does not exist.
        links: Whether to link to the writers of what is read inside.
        consumed: Finds what the consume hook is to see.
    """

    __slots__ = ("absent", "consumed", "links")

    def __init__(
        self, absent: tuple[type[BaseException], ...] = (), links: bool = False, consumed: Consumed | None = None
    ) -> None:
        self.absent = absent
        self.links = links
        self.consumed = consumed


NOTHING_READ = Reading()
"""Of a method that reads nothing stored."""


class Observed(Call, Recorded):
    """An operation that is told when it is over, and the mark for what nats-py calls inside.

    Args:
        parent: The context that holds the parent.
        prototype: The operation and what it is about; None where that is known at the end, see `be`.

    Attributes:
        attributes: All attributes of the span; to be added to.
        parent: The context that holds the parent.
        started_at: When it began, in nanoseconds since the epoch.
        reading: What is told of what it reads.
        asked: Whether `is_dropped` has found out.
        dropped: The span, where it is certain that it is not.
    """

    recorded = True
    prototype: Prototype
    follows = "get_msg"
    reading: Reading = NOTHING_READ
    asked: bool = False
    dropped: Span | None = None

    def __init__(self, parent: Context, prototype: Prototype | None = None) -> None:
        self.parent = parent
        self.started = perf_counter_ns()
        self.started_at = time_ns()
        if prototype is not None:
            self.prototype = prototype
            self.attributes = prototype.attributes.copy()

    def be(self, prototype: Prototype) -> None:
        """Says what it is about, once that is known."""
        self.prototype = prototype  # pyright: ignore[reportIncompatibleVariableOverride] (a Call may have none)
        self.attributes = prototype.attributes.copy()

    def is_dropped(self) -> bool:
        """Tells whether its span is certain not to be recorded, so that attributes need not be found."""
        if not self.asked:
            self.asked = True
            parent = self.parent
            try:
                self.dropped = self.prototype.telemetry.sampling.dropped(span_context(parent) if parent else None)
            except FAULTS:
                _faults.report("starting a span")
                self.dropped = INVALID_SPAN
        return self.dropped is not None

    def fail(self, error: BaseException) -> None:
        """Ends the operation with an exception; being cancelled is no failure."""
        reading = self.reading
        none = isinstance(error, reading.absent)
        if none and getattr(error, "entry", None) is None:
            self.stored = ()  # nats-py has found something, but not what it was asked for
        self.succeed(None if none else error)

    def succeed(self, failure: BaseException | Failure | None, instance: Any = None, result: Any = None) -> None:
        """Ends the operation.

        Args:
            failure: What its answer told that failed.
            instance: What was called.
            result: What it returned.
        """
        reading = self.reading
        consumed = reading.consumed
        self.end(
            failure,
            (),
            () if consumed is None or result is None else consumed(result),
            self._links_to_writers if reading.links and self.stored else None,
        )

    def _links_to_writers(self) -> Sequence[Link]:
        found = [(writer_of(headers), attributes) for headers, attributes in self.stored]
        return [Link(writer, attributes) for writer, attributes in found if writer is not None]

    def end(
        self,
        error: BaseException | Failure | None = None,
        links: Sequence[Link] = (),
        messages: Sequence[Any] = (),
        find_links: Callable[[], Sequence[Link]] | None = None,
    ) -> Span:
        """Makes the span, records the metrics.

        Args:
            error: What the operation failed with, if it did.
            links: The span's links.
            messages: What was received, for the user's hook.
            find_links: Finds links that take long to find; not called where the span is not recorded.

        Returns:
            The span, ended; an invalid one after a fault.
        """
        prototype, parent = self.prototype, self.parent
        telemetry = prototype.telemetry
        if not self.is_dropped() and find_links is not None and telemetry.sampling.records(span_context(parent)):
            # At once: each link that is added later takes 90 instructions more.
            links, find_links = _found(find_links), None
        try:
            self.span = span = self.dropped or telemetry.tracer.start_span(
                prototype.span_name, parent, prototype.kind, self.attributes, links, self.started_at
            )
        except FAULTS:
            _faults.report("starting a span")
            return INVALID_SPAN
        if find_links is not None:
            try:
                for link in find_links() if span.is_recording() else ():
                    span.add_link(link.context, link.attributes)
            except FAULTS:
                _faults.report("linking a span")
        shows = telemetry.options.consume_hook is not None
        if shows or telemetry.metrics.on:
            parent = with_span(parent, span)
        self.context = parent
        if shows:
            run_consume_hook(telemetry.options, span, parent, messages)
        self.finish(error)
        return span

    def nothing(self, failure: BaseException | Failure | None = None) -> None:
        """Records that nothing came: an error's span if there is a reason, else no span and no error, the time only.

        Args:
            failure: Why nothing came; None where waiting was in vain, or was given up.
        """
        prototype = self.prototype
        if prototype.excluded:
            return
        if failure is not None:
            self.end(failure)
            return
        metrics = prototype.telemetry.metrics
        if metrics.on or metrics.resolve():
            try:
                seconds = (perf_counter_ns() - self.started) / 1e9
                metrics.operation_duration.record(seconds, prototype.series.attributes, self.parent)
            except FAULTS:
                _faults.report("recording an operation")

    def __repr__(self) -> str:
        return f"<call of {self.prototype.span_name!r}>"


def _found(find_links: Callable[[], Sequence[Link]]) -> Sequence[Link]:
    try:
        return find_links()
    except FAULTS:
        _faults.report("linking a span")
        return ()


def writer_of(headers: Any) -> SpanContext | None:
    """Reads the context that a stored message was written in.

    Args:
        headers: The message's headers.
    """
    try:
        return span_context(extract(headers, _NO_CONTEXT))
    except FAULTS:
        _faults.report("reading the context of a stored message")
        return None


def note_writer(headers: Any) -> None:
    """Notes whose context is in the headers of a stored message, which the program gets to see and may pass on."""
    writer = writer_of(headers)
    if writer is not None:
        note_read(writer.span_id)
