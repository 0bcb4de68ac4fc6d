# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A message in hand, and its process span: what the span's end waits for.

Processing is over with its last body. But where messages are acknowledged explicitly, a body may only hand its message
on, to a task or a queue; what says that the work is done is the settlement. So the span ends with that, if it is later.
The program may also let go of a message without a word, see `_holding`.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from threading import RLock
from time import perf_counter_ns, time_ns
from typing import Any
from weakref import ref

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import JETSTREAM_SETTLEMENT, AckSubject, Attributes
from opentelemetry.instrumentation.nats._contexts import Body
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._operations import CANCELLED, Prototype, Recorded
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._providers import running_loop
from opentelemetry.instrumentation.nats._series import Series
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry
from opentelemetry.trace import Span, SpanContext

_NO_CONTEXT = Context()

# One for all: what is done with it takes a microsecond, and one for each message more than that. Reentrant, because
# the garbage collector may run in the middle, and with it the end of somebody's loop.
_lock = RLock()


class Delivery(Recorded, ref[Any]):
    """What we know of a message that was handed to the application; and its processing. A weak reference to it.

    Attributes:
        key: The number of the message; 0 of one that can't be referred to.
        ack: What its acknowledgement subject says, once that was read.
        arrived: What was read from its headers; None where that was not kept.
        attributes: What spans tell of it; None where that was not kept.
        origin: Where it came from; None where that is not known yet.
        headers: Its headers, where the message itself does not have them.
        creation: Its creation context, if it came with one.
        span_context: The context of its process span, else of its receive span.
        span: The process span while it is open.
        context: The context with that span.
        failure: What its handler answered to say that it failed, without raising.
        processed: Whether it has had its process span.
        delimited: Whether it was the program that said where its processing ends, by `process_message`.
        settled: Whether its handler has settled it, so that the automatic ack that follows will come to nothing.
        settlement: How it was settled: `ack`, `nak`, `term`; None if it was not, or not yet.
        awaits: Whether the end of its processing waits for a settlement.
        loop: The event loop that it began to wait in.
    """

    # On the class, and no slots, because few messages have them all, and each one set costs every message.
    key: int = 0
    ack: AckSubject | None = None
    arrived: Context | None = None
    attributes: Attributes | None = None
    origin: Origin | None = None
    headers: Any = None
    creation: SpanContext | None = None
    span_context: SpanContext | None = None
    span: Any = None  # a `Span` while it is open
    context = _NO_CONTEXT
    failure: Failure | None = None
    processed: bool = False
    delimited: bool = False
    settled: bool = False
    settlement: str | None = None
    awaits: bool = False
    _bodies: list[Body | None]
    _error_type: str | None = None
    _over_at: int = 0
    loop: AbstractEventLoop | None = None

    # Two messages may be equal, and a message can't be hashed.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # -- begin --------------------------------------------------------------------------------------------------------

    def begin(self, prototype: Prototype, span: Span, context: Context, awaits: bool, body: Body | None) -> None:
        """Begins the processing.

        Args:
            prototype: The operation and what it is about.
            span: The process span, started.
            context: The context with it.
            awaits: Whether its end waits for a settlement.
            body: The body that it begins with; None for a handler.
        """
        self.prototype = prototype
        self.span_context = span.get_span_context()
        self.context = context
        self.processed = True
        if awaits:
            self.awaits = self.key != 0 and self.settlement is None
        self._bodies = [body]
        self.started = perf_counter_ns()
        if not prototype.excluded:
            prototype.processing.add(self)
        self.span = span  # the last: from now on another thread may join

    def begin_again(self) -> None:
        """Forgets how a processing ended that a handler or a loop had begun; another one follows."""
        self._error_type = self.failure = None

    def join(self, body: Body) -> Context | None:
        """Begins another body of the same processing.

        Returns:
            The context with its span; None where the processing is over, or has not begun.
        """
        with _lock:
            if self.span is None:
                return None
            self._bodies.append(body)
            return self.context

    # -- end ----------------------------------------------------------------------------------------------------------

    def fail(self, error: BaseException | Failure) -> None:
        """Marks the process span as failed, the first time.

        Args:
            error: What a body of it has failed with; being cancelled is no failure.
        """
        if self.span is None or self._error_type is not None or self.prototype.excluded or isinstance(error, CANCELLED):
            return
        try:
            self._error_type = self.mark_failed(error)
        except FAULTS:
            _faults.report("recording an operation")

    def leave(self, body: Body | None, error: BaseException | Failure | None = None, done: bool = False) -> None:
        """Ends a body, and the processing if nothing more is to come.

        Args:
            body: The body; None for a handler.
            error: What it has failed with, if it did; being cancelled is no failure.
            done: Whether nobody can settle the message any more.
        """
        if error is not None:
            self.fail(error)
        with _lock:
            span, bodies = self.span, self._bodies
            if span is None or body not in bodies:
                return  # ended meanwhile, with the client for one
            bodies.remove(body)
            if bodies:
                return
            waits = self.awaits and not done
            if not waits:
                self.span = None
        if waits:
            self._wait()
        else:
            self._end(span)

    def _wait(self) -> None:
        """Waits for the settlement, unless the message was let go of, or acknowledged while that was suppressed."""
        self._over_at = perf_counter_ns()
        self.loop = running_loop() or self.loop
        message = self()
        if message is None or getattr(message, "is_acked", False):
            self.release()

    def settle(self, settlement: str) -> None:
        """Notes how the message was settled, and ends the processing if no body goes on.

        Args:
            settlement: `ack`, `nak` or `term`.
        """
        origin = self.origin
        if origin is not None and origin.acknowledges is None:
            origin.acknowledges = True
        with _lock:
            self.settlement = settlement
            self.awaits = False
            span = self.span
            if span is None or self._bodies:
                return
            self.span = None
        self._end(span)

    def release(self, at: int = 0) -> None:
        """Waits for a settlement no longer: ends the processing if no body goes on.

        Args:
            at: When it was over, on the clock of `perf_counter_ns`; 0 for now.
        """
        with _lock:
            awaited, self.awaits = self.awaits, False
            span = self.span
            if span is None or self._bodies:
                return
            self.span = None
        origin = self.origin
        if awaited and (origin is None or origin.acknowledges is None):
            at = self._over_at  # it may never have been a settlement's to tell
        self._end(span, at)

    def loops(self) -> list[Body]:
        """Returns the bodies of loops that have not ended."""
        with _lock:
            bodies = self._bodies if self.span is not None else ()
            return [body for body in bodies if body is not None and body.place is not None]

    def is_of(self, telemetry: Telemetry) -> bool:
        """Tells whether its process span is open, and belongs to that telemetry."""
        return self.span is not None and self.prototype.telemetry is telemetry

    @property
    def series(self) -> Series:
        """The metrics of its processing."""
        return self.prototype.series

    def _end(self, span: Span, at: int = 0) -> None:
        prototype, context = self.prototype, self.context
        # The message may be kept for long; the span need not.
        self.context = _NO_CONTEXT
        if prototype.excluded:
            return
        prototype.processing.discard(self)
        settlement = self.settlement
        metrics = prototype.telemetry.metrics
        try:
            try:
                series = prototype.series
                if settlement is not None:
                    span.set_attribute(JETSTREAM_SETTLEMENT, settlement)
                    series = series.settled(settlement)
                if self._error_type is not None:
                    series = series.failed(self._error_type)
                if metrics.on or (metrics.waiting and metrics.resolve()):
                    seconds = ((at or perf_counter_ns()) - self.started) / 1e9
                    metrics.process_duration.record(seconds, series.attributes, context)
            finally:
                if at:
                    span.end(time_ns() - (perf_counter_ns() - at))
                else:
                    span.end()
        except FAULTS:
            _faults.report("recording an operation")

    def set(self, attributes: Attributes) -> None:
        """Adds attributes to the process span."""
        if self.span is not None and self.span.is_recording():
            self.span.set_attributes(attributes)

    def __repr__(self) -> str:
        return f"<delivery from {self.origin!r}{', being processed' if self.span is not None else ''}>"
