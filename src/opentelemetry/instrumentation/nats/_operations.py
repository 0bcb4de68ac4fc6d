# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The kinds of operations, what all spans of one kind on one destination share, and how an operation ends.

A span's attributes are mostly those of the span before it. So they are built once, as a `Prototype`, and a message only
adds its own few.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._series import Series
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry
from opentelemetry.instrumentation.nats._texts import LONGEST, cut, exception_attributes, type_of
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_TYPE
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.status import Status, StatusCode

_SEND = messaging.MessagingOperationTypeValues.SEND.value
_RECEIVE = messaging.MessagingOperationTypeValues.RECEIVE.value
_PROCESS = messaging.MessagingOperationTypeValues.PROCESS.value
_SETTLE = messaging.MessagingOperationTypeValues.SETTLE.value

# A cancelled operation did not fail. Neither did a coroutine that its owner closed.
CANCELLED = (CancelledError, GeneratorExit)


class Operation:
    """A kind of operation, one for each row of the span table in docs/semconv.

    Attributes:
        name: `messaging.operation.name`, and the first word of the span's name.
        type: `messaging.operation.type`, or None where the conventions have none.
        kind: The span's kind.
        counter: The counter of the messages that it sends or consumes, or None.
        counts_at_end: Whether its message counts when it is over, with its error; what is received counts at once.
        attributes: What else its spans have.
    """

    __slots__ = ("attributes", "counter", "counts_at_end", "kind", "name", "type")

    def __init__(
        self,
        name: str,
        type_: str | None,
        kind: SpanKind,
        counter: str | None = None,
        counts_at_end: bool = False,
        attributes: Attributes | None = None,
    ) -> None:
        self.attributes = attributes or {}
        self.name = name
        self.type = type_
        self.kind = kind
        self.counter = counter
        self.counts_at_end = counts_at_end

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    @staticmethod
    def send(name: str, kind: SpanKind = SpanKind.PRODUCER, attributes: Attributes | None = None) -> Operation:
        """An operation that sends a message of the application."""
        return Operation(name, _SEND, kind, messaging_metrics.MESSAGING_CLIENT_SENT_MESSAGES, True, attributes)

    @staticmethod
    def receive(name: str) -> Operation:
        """An operation by which the application asks for messages."""
        return Operation(name, _RECEIVE, SpanKind.CLIENT, messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES)

    @staticmethod
    def read(name: str) -> Operation:
        """An operation that reads stored messages, which is no delivery."""
        return Operation(name, _RECEIVE, SpanKind.CLIENT)

    @staticmethod
    def settle(name: str) -> Operation:
        """An operation that acknowledges a message."""
        return Operation(name, _SETTLE, SpanKind.CLIENT)

    @staticmethod
    def client(name: str) -> Operation:
        """An operation on the server that is about no message."""
        return Operation(name, None, SpanKind.CLIENT)


PUBLISH = Operation.send("publish")
REPLY = Operation.send("reply")
REQUEST = Operation.send("request", SpanKind.CLIENT)
RECEIVE = Operation.receive("receive")
PROCESS = Operation("process", _PROCESS, SpanKind.CONSUMER, messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES)


class HeaderRoom:
    """What headers a connection's server takes; one object for each connection, which changes with the server.

    Attributes:
        supported: Whether the server takes headers.
        max_payload: Bytes of payload and headers that it takes.
        ample: The largest payload, in bytes, beside which our headers find room unmeasured; -1 where they find none.
        crowded: Tells whether what waits for a reconnect leaves no room for headers.
    """

    __slots__ = ("ample", "crowded", "max_payload", "supported")

    AT_MOST = 65536
    """Bytes that nobody's trace headers reach."""

    def __init__(self) -> None:
        self.refresh(False, 0)

    def refresh(self, supported: bool, max_payload: int) -> None:
        """Follows the client to another server."""
        self.supported = supported
        self.max_payload = max_payload
        self.ample = max_payload - self.AT_MOST if supported else -1
        self.crowded: Callable[[], bool] = _never

    def wait(self, crowded: Callable[[], bool]) -> None:
        """Looks at the client's buffer from now on: it waits for a reconnect."""
        self.ample = -1
        self.crowded = crowded


def _never() -> bool:
    return False


class Prototype:
    """One operation on one destination through one connection: all that its spans and metrics have in common.

    Attributes:
        telemetry: What it belongs to.
        operation: The operation.
        kind: The kind of its spans.
        span_name: Name of its spans.
        attributes: The spans' attributes at creation; copy before adding what only one message has.
        series: Its metrics.
        room: What headers its server takes.
        processing: The messages of its client that are being processed now.
        excluded: Whether the user excluded the subject: no spans, no metrics.
        asked: What the user's predicate is to be asked about at each call, see `answered`; None for nothing.
        carries_context: Whether a message sent may be given trace headers.
        counts_at_end: Whether the message counts when an operation is over.
        shared: Whether it is that of all subjects with its template, or of all inboxes, so that each message brings its
            own, see `add_subject`.
    """

    __slots__ = (
        "_refused",
        "asked",
        "attributes",
        "carries_context",
        "counts_at_end",
        "excluded",
        "kind",
        "operation",
        "processing",
        "room",
        "series",
        "shared",
        "span_name",
        "telemetry",
    )

    def __init__(
        self,
        telemetry: Telemetry,
        operation: Operation,
        span_name: str,
        attributes: Attributes,
        series: Series,
        room: HeaderRoom,
        processing: set[Any],
    ) -> None:
        self.telemetry = telemetry
        self.operation = operation
        self.kind = operation.kind
        self.span_name = span_name
        self.attributes = attributes
        self.series = series
        self.room = room
        self.processing = processing
        self.excluded = False
        self.asked: str | None = None
        self._refused: Prototype | None = None
        self.carries_context = True
        self.counts_at_end = operation.counts_at_end
        self.shared = False

    def add_subject(self, attributes: Attributes, subject: str) -> None:
        """Adds the subject of one message to a copy of the attributes, where the prototype is shared.

        Args:
            attributes: The copy.
            subject: The subject; of a reply it is the inbox, which names the conversation too.
        """
        shown = subject if len(subject) <= LONGEST else cut(subject)
        attributes[messaging.MESSAGING_DESTINATION_NAME] = shown
        if self.operation is REPLY:
            attributes[messaging.MESSAGING_MESSAGE_CONVERSATION_ID] = shown

    def answered(self) -> Prototype:
        """Asks the user's predicate about one call.

        Returns:
            Itself; where the answer is no, its like that is excluded.
        """
        if self.asked is None or not self.telemetry.naming.refuses(self.operation.name, self.asked):
            return self
        refused = self._refused
        if refused is None:
            refused = Prototype(
                self.telemetry,
                self.operation,
                self.span_name,
                self.attributes,
                self.series,
                self.room,
                self.processing,
            )
            refused.carries_context = self.carries_context
            refused.excluded = True
            self._refused = refused
        return refused

    def __repr__(self) -> str:
        return f"<{self.kind.name.lower()} spans named {self.span_name!r}{', excluded' if self.excluded else ''}>"


class Recorded:
    """An operation that has a span, and ends itself.

    Attributes:
        prototype: The operation and what it is about.
        span: Its span.
        context: The context with it.
        started: When it began, on the clock of `perf_counter_ns`.
    """

    __slots__ = ()

    prototype: Prototype
    span: Span
    context: Context
    started: int

    def mark_failed(self, error: BaseException | Failure) -> str:
        """Writes into the span what the operation failed with.

        Args:
            error: What it failed with.

        Returns:
            `error.type`.
        """
        telemetry = self.prototype.telemetry
        failure = error if isinstance(error, Failure) else telemetry.classify(error)
        span = self.span
        if span.is_recording():
            span.set_attribute(ERROR_TYPE, failure.error_type)
            if failure.accepted or telemetry.options.expected_errors.have(failure.error_type):
                return failure.error_type
            texts = telemetry.records_texts
            span.set_status(Status(StatusCode.ERROR, failure.description if texts else None))
            if not failure.expected and isinstance(error, BaseException):
                # Not by `record_exception`, which writes whatever the exception quotes.
                described = exception_attributes(error) if texts else {EXCEPTION_TYPE: type_of(error)}
                logs = telemetry.exceptions
                if not logs.emit(self.prototype.operation.type, described, span) or logs.duplicates:
                    span.add_event("exception", described)
        return failure.error_type

    def finish(self, error: BaseException | Failure | None) -> None:
        """Writes the outcome into the metrics and the span, and ends it. Raises nothing.

        Args:
            error: What the operation failed with, if it did; being cancelled is no failure.
        """
        prototype, span = self.prototype, self.span
        telemetry = prototype.telemetry
        series = prototype.series
        metrics = telemetry.metrics
        try:
            try:
                if error is not None and not isinstance(error, CANCELLED):
                    series = series.failed(self.mark_failed(error))
                if prototype.counts_at_end:
                    series.count += 1
                if metrics.on or (metrics.waiting and metrics.resolve()):
                    seconds = (perf_counter_ns() - self.started) / 1e9
                    metrics.operation_duration.record(seconds, series.attributes, self.context)
            finally:
                span.end()
        except FAULTS:
            _faults.report("recording an operation")
