# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A message in the application's hands: where it came from, whose context it carries, and its processing."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context, attach, get_current
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._arrived import Note, is_noted, note, note_of
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._hooks import run_consume_hook
from opentelemetry.instrumentation.nats._messages import count_deliveries, message_attributes
from opentelemetry.instrumentation.nats._operations import PROCESS, Prototype, Recorded
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._propagation import extract
from opentelemetry.instrumentation.nats._providers import span_context
from opentelemetry.instrumentation.nats._telemetry import Failure
from opentelemetry.trace import INVALID_SPAN, Link, NonRecordingSpan, Span, SpanContext

Describe = Callable[[Any], Attributes]
"""Makes the attributes of what is no `Msg`: a KV entry, an object's info."""

DELIVERY = "_opentelemetry_delivery"
"""The attribute of a message (or KV entry, or object's info) that keeps its `Delivery`."""

# Where the reply subject of the message being handled is kept, when nothing about it says that it is an inbox.
_HANDLED_REPLY = context_api.create_key("nats-handled-reply")

_NO_CONTEXT = Context()


def handled_reply(context: Context) -> str | None:
    """Returns the reply subject of the message being handled, where nothing about it says that it is an inbox."""
    reply = context.get(_HANDLED_REPLY)
    return reply if isinstance(reply, str) else None


def delivery_of(message: Any) -> Delivery | None:
    """Returns what we know of a message that was handed to the application."""
    return getattr(message, DELIVERY, None)


class Delivery(Recorded):
    """What we know of a message that was handed to the application, kept on the message; and its processing.

    Args:
        origin: Where it came from; None where that is not known yet.
        creation: Its creation context, if it came with one.
        headers: Its headers, where the message itself does not have them.

    Attributes:
        origin: Where it came from.
        headers: Its headers, where the message itself does not have them.
        creation: Its creation context, if it came with one.
        span_context: The context of its process span, else of its receive span.
        span: The process span while it is open.
        context: The context with that span.
        failure: What its handler answered to say that it failed, without raising.
        processed: Whether it has had its process span.
        settled: Whether its handler has settled it, so that the automatic ack that follows will come to nothing.
    """

    __slots__ = (
        "context",
        "creation",
        "failure",
        "headers",
        "origin",
        "processed",
        "prototype",
        "settled",
        "span",
        "span_context",
        "started",
    )

    def __init__(self, origin: Origin | None, creation: SpanContext | None, headers: Any = None) -> None:
        self.origin = origin
        self.creation = creation
        self.headers = headers
        self.span: Span | None = None
        self.span_context: SpanContext | None = None
        self.processed = self.settled = False

    def begin(self, prototype: Prototype, span: Span, context: Context) -> None:
        """Begins the processing.

        Args:
            prototype: The operation and what it is about.
            span: The process span, started.
            context: The context with it.
        """
        self.prototype = prototype
        self.span = span
        self.span_context = span.get_span_context()
        self.context = context
        self.failure: Failure | None = None
        self.processed = True
        self.started = perf_counter_ns()

    def set(self, attributes: Attributes) -> None:
        """Adds attributes to the process span."""
        if self.span is not None and self.span.is_recording():
            self.span.set_attributes(attributes)

    def end(self, error: BaseException | Failure | None = None) -> None:
        """Ends the processing; a second time does nothing.

        Args:
            error: What it failed with, if it did; being cancelled is no failure.
        """
        if self.span is None:
            return
        try:
            if not self.prototype.excluded:
                self.finish(error)
        finally:
            # The message may be kept for long; the span need not.
            self.span = None  # pyright: ignore[reportIncompatibleVariableOverride] (Recorded is one while it has a span)
            self.context = _NO_CONTEXT

    def __repr__(self) -> str:
        return f"<delivery from {self.origin!r}{', being processed' if self.span is not None else ''}>"


def deliver(message: Any, origin: Origin, base: Context, notes: list[Note] | None = None) -> tuple[Delivery, Context]:
    """Reads the creation context of a message on its way to the application, and remembers it.

    Args:
        message: What the application gets: a `Msg`, a KV entry, an object's info.
        origin: Where it came from.
        base: What the creation context is added to; it holds no valid span.
        notes: Of a batch: what is to be noted of its messages, see `note_all`.

    Returns:
        The delivery, which is now also kept on the message, and the creation context with its baggage.
    """
    delivery: Delivery | None = getattr(message, DELIVERY, None)
    if origin.bucket:
        # An object's info has headers of its own, which are not those of the message that it was made of.
        headers = None if delivery is None else delivery.headers
    else:
        headers = message.headers
    try:
        context = extract(headers, base)
    except FAULTS:
        _faults.report("reading the context of a message")
        context = base
    if delivery is None:
        creation = None if context is base else span_context(context)
        made: Note = None
        if headers:
            # As `note_of` says, without the time that calling it takes: most messages have one header.
            made = creation.span_id if creation is not None and len(headers) == 1 else note_of(headers, creation)
        if notes is None:
            note(made)
        else:
            notes.append(made)
        delivery = Delivery(origin, creation)
        try:
            setattr(message, DELIVERY, delivery)
        except AttributeError:
            pass  # a message class of the user's with slots: acknowledging it falls back to its headers
    elif delivery.creation is not None and not is_noted(delivery.creation.span_id):
        # In another task than the one that received it: a worker's, with a queue.
        note(note_of(headers, delivery.creation))
    return delivery, context


def start_process(
    origin: Origin,
    message: Any,
    ambient: Context | None = None,
    describe: Describe | None = None,
    counts: bool = True,
) -> Delivery | None:
    """Starts the span of a handler or loop body.

    Args:
        origin: Where the message came from.
        message: The message, or KV entry, or object's info.
        ambient: The context that is current around the loop; None for a callback, whose surroundings are those
            of its `subscribe()` and have nothing to do with the message.
        describe: Makes the attributes of what is no `Msg`.
        counts: Whether this is what hands the message to the application, rather than a receive before.

    Returns:
        The delivery, whose `context` is to be current while the message is processed; None after a fault.
    """
    span = None
    try:
        telemetry = origin.connection.telemetry
        nested = span_context(ambient) is not None if ambient else False
        delivery, context = deliver(message, origin, ambient if ambient and not nested else _NO_CONTEXT)
        if ambient and nested:
            context = ambient
        if delivery.origin is None:
            delivery.origin = origin
        if describe is None:
            prototype = origin.prototype(PROCESS, message.subject)
            all_attributes = prototype.attributes.copy()
            ack = message_attributes(telemetry, all_attributes, message)
        else:
            prototype = origin.prototype(PROCESS, origin.subject)
            all_attributes = {**prototype.attributes, **describe(message)}
            ack = None
        if prototype.excluded:
            delivery.begin(prototype, INVALID_SPAN, context)
            return delivery
        creation = delivery.creation
        span = telemetry.tracer.start_span(
            prototype.span_name,
            _NO_CONTEXT if telemetry.options.use_span_links else context,
            prototype.kind,
            all_attributes,
            None if creation is None else (Link(creation),),
        )
        context = trace.set_span_in_context(span, context)
        if counts:
            prototype.series.count += 1
            if ack is not None:
                count_deliveries(origin, (ack,), context)
        if ack is None and describe is None and message.reply and not origin.connection.is_inbox(message.reply):
            # The requester's inbox prefix is not ours: only this tells that a publish to it is the reply.
            context = context_api.set_value(_HANDLED_REPLY, message.reply, context)
        delivery.begin(prototype, span, context)
        if telemetry.options.consume_hook is not None:
            run_consume_hook(telemetry.options, span, context, (message,))
        return delivery
    except FAULTS:
        _faults.report("starting a process span")
        if span is not None:
            _give_up(span)
        return None


def _give_up(span: Span) -> None:
    try:
        span.end()
    except FAULTS:
        _faults.report("ending a span")


def bound_parent(message: Any) -> Context:
    """Returns the context for what is done about a message: the current one, else the message's own."""
    current = get_current()
    if span_context(current) is not None:
        return current
    delivery = delivery_of(message)
    try:
        context = extract(message.headers, current)
    except FAULTS:
        _faults.report("reading the context of a message")
        context = current
    if delivery is not None and delivery.span_context is not None:
        context = trace.set_span_in_context(NonRecordingSpan(delivery.span_context), context)
    return context


class Body:
    """A piece of the program's work on a message, whose context is current for as long as the piece lasts.

    A callback, the body of a loop, a service's handler and the block of `process_message` are all one of these.
    """

    __slots__ = ("_before", "_delivery")

    def __init__(self) -> None:
        self._delivery: Delivery | None = None
        self._before = _NO_CONTEXT

    def enter(self, delivery: Delivery, before: Context) -> None:
        """Begins: makes the message's context current.

        Args:
            delivery: The message.
            before: The context to make current again afterwards.
        """
        self._delivery, self._before = delivery, before
        attach(delivery.context)

    def leave(self, error: BaseException | Failure | None = None) -> None:
        """Ends, and the processing with it; without a beginning it does nothing.

        Args:
            error: What it failed with, if it did; being cancelled is no failure.
        """
        delivery = self._delivery
        if delivery is not None:
            self._delivery = None
            restore(delivery.context, self._before)
            delivery.end(error)


def restore(ours: Context, previous: Context) -> None:
    """Makes `previous` current again, if `ours` still is.

    Not by token: an iterator may be finalized in another context than the one where it was stepped.
    """
    if get_current() is ours:
        attach(previous)
