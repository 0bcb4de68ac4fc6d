# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A send: its span starts before the call, because the span's context travels in the message."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults, _headers
from opentelemetry.instrumentation.nats._attributes import MESSAGE_ID_HEADER, Attributes, header
from opentelemetry.instrumentation.nats._baggage import capture_baggage
from opentelemetry.instrumentation.nats._calls import Call
from opentelemetry.instrumentation.nats._contexts import with_span
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._hooks import run_hook
from opentelemetry.instrumentation.nats._messages import add_captured
from opentelemetry.instrumentation.nats._operations import REQUEST, HeaderRoom, Prototype, Recorded
from opentelemetry.instrumentation.nats._options import OutgoingMessage
from opentelemetry.instrumentation.nats._propagation import write_context
from opentelemetry.instrumentation.nats._providers import span_context
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, SpanKind

_SHORT_SUBJECTS = 1000
"""Characters of a subject and reply subject beside which the control line has room for headers unmeasured."""

_BODY_SIZE = messaging.MESSAGING_MESSAGE_BODY_SIZE


class Send(Call, Recorded):
    """A send whose span is open, and the mark for what nats-py calls inside.

    Args:
        prototype: What is sent where.
        span: Its span.
        context: The context with it.

    Attributes:
        shown: Whether the hook has seen the message: one call may publish twice (a KV create over a tombstone).
    """

    recorded = True
    prototype: Prototype
    context: Context
    follows = "publish"
    shown: bool = False

    def __init__(self, prototype: Prototype, span: Span, context: Context) -> None:
        self.context = context  # pyright: ignore[reportIncompatibleVariableOverride] (it always has one)
        self.prototype = prototype  # pyright: ignore[reportIncompatibleVariableOverride]
        self.span = span
        self.started = perf_counter_ns()

    @staticmethod
    def start(
        prototype: Prototype, attributes: Attributes, parent: Context, headers: Any = None, payload: Any = None
    ) -> Send:
        """Starts a send.

        Args:
            prototype: What is sent where.
            attributes: The span's, to be added to.
            parent: The context that holds the parent.
            headers: The headers that the caller gave, of any type.
            payload: The payload; None where it is not known.

        Returns:
            The send; its `context` is what the message carries.
        """
        telemetry = prototype.telemetry
        if payload is not None:
            try:
                attributes[_BODY_SIZE] = len(payload)
            except TypeError:
                pass  # nats-py is about to refuse it
        kind, links = prototype.kind, None
        if headers:
            try:
                chosen = _read_headers(telemetry, headers, parent, attributes)
            except FAULTS:
                _faults.report("reading the headers of an outgoing message")
            else:
                if chosen is not None:
                    kind, links = SpanKind.CLIENT, (Link(chosen),)
        try:
            span = telemetry.sampling.dropped(span_context(parent) if parent else None)
            if span is None:
                if telemetry.captures_baggage:
                    capture_baggage(telemetry.options.baggage_keys, attributes, parent)
                span = telemetry.tracer.start_span(prototype.span_name, parent, kind, attributes, links)
        except FAULTS:  # of a sampler, an id generator, a span processor
            _faults.report("starting a span")
            span = INVALID_SPAN
        send = Send(prototype, span, with_span(parent, span))
        if telemetry.metrics.sizes and payload is not None and _BODY_SIZE in attributes:
            telemetry.metrics.record_size(len(payload), prototype.series, send.context)
        if links is not None or not prototype.carries_context:
            send.injects = False
        return send

    def show(self, subject: str, reply: str, headers: Any, size: int | None) -> None:
        """Shows the message on its way out to the user's hook.

        Args:
            subject: Its subject.
            reply: Its reply subject.
            headers: Its headers as they are sent.
            size: Size of its payload in bytes.
        """
        hook = self.prototype.telemetry.options.publish_hook
        if hook is not None and self.span.is_recording():
            message = OutgoingMessage(subject, reply, headers, size)
            run_hook("the publish hook", hook, self.span, self.context, message)

    def fail(self, error: BaseException) -> None:
        """Ends the send with an exception; being cancelled is no failure."""
        try:
            # Also where no answer came: it finds the other half of a request that timed out.
            if self.reply and self.prototype.operation is REQUEST:
                self.span.set_attribute(messaging.MESSAGING_MESSAGE_CONVERSATION_ID, self.reply)
        finally:
            self.finish(error)

    def succeed(self, failure: Failure | None, instance: Any = None, result: Any = None) -> None:
        """Ends the send, with the failure that its answer told, if any."""
        self.finish(failure)

    def __repr__(self) -> str:
        return f"<send of {self.prototype.span_name!r}>"


def _read_headers(telemetry: Telemetry, headers: Any, parent: Context, attributes: Attributes) -> SpanContext | None:
    if telemetry.captures_headers:
        try:
            add_captured(telemetry, attributes, headers)
        except AttributeError:
            return None  # no headers at all: nats-py is about to say so
    message_id = header(headers, MESSAGE_ID_HEADER) if hasattr(headers, "get") else None
    if message_id is not None:
        attributes[messaging.MESSAGING_MESSAGE_ID] = message_id
    return _headers.chosen(headers, parent)


def inject(room: HeaderRoom, context: Context, size: int, headers: Any, subject: str, reply: str) -> Any:
    """Builds the headers of a message that carries a context.

    Args:
        room: What headers the server takes.
        context: The context.
        size: Size of the payload in bytes.
        headers: The headers that the caller gave, of any type; never changed.
        subject: The message's subject.
        reply: Its reply subject, or an empty string.

    Returns:
        What to give to nats-py as headers.
    """
    try:
        if headers is None and size <= room.ample and len(subject) + len(reply) <= _SHORT_SUBJECTS:
            return write_context(context) or None
        if not room.supported:
            return headers
        # The server counts headers, nats-py does not: past the limit the server closes the connection.
        subjects = len(f"{subject}{reply}".encode("utf-8", "surrogatepass"))
        return _headers.inject(headers, context, -1 if room.crowded() else room.max_payload - size, subjects)
    except FAULTS:
        _faults.report("writing the context of a message")
        return headers


def unrecorded(prototype: Prototype, context: Context, headers: Any = None) -> Call:
    """Returns the mark of a send that the user excluded: its message carries the context on, where its subject may.

    Args:
        prototype: What is sent where.
        context: The context.
        headers: The headers that the caller gave, of any type; a context that he chose is respected.
    """
    call = Call(context if prototype.carries_context else None)
    call.injects = not headers or _headers.chosen(headers, context) is None
    return call
