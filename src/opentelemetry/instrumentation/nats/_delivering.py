# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A message in the application's hands: where it came from, whose context it carries, and its processing."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._arrived import Note, is_noted, note, note_of
from opentelemetry.instrumentation.nats._attributes import Attributes, parse_ack_subject
from opentelemetry.instrumentation.nats._baggage import capture_baggage
from opentelemetry.instrumentation.nats._contexts import REPLY_KEY, Body, with_body, with_span
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._holding import delivery_of, known, make_delivery
from opentelemetry.instrumentation.nats._hooks import run_consume_hook
from opentelemetry.instrumentation.nats._messages import count_deliveries, message_attributes
from opentelemetry.instrumentation.nats._operations import PROCESS
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._processing import Delivery
from opentelemetry.instrumentation.nats._propagation import extract
from opentelemetry.instrumentation.nats._providers import span_context
from opentelemetry.trace import INVALID_SPAN, Link, NonRecordingSpan, Span

Describe = Callable[[Any], Attributes]
"""Makes the attributes of what is no `Msg`: a KV entry, an object's info."""

_NO_CONTEXT = Context()


def deliver(message: Any, origin: Origin, base: Context, notes: list[Note] | None = None) -> tuple[Delivery, Context]:
    """Reads the creation context of a message on its way to the application, and remembers it.

    Args:
        message: What the application gets: a `Msg`, a KV entry, an object's info.
        origin: Where it came from.
        base: What the creation context is added to; it holds no valid span.
        notes: Of a batch: what is to be noted of its messages, see `note_all`.

    Returns:
        The delivery, which is kept for as long as the message is alive, and the creation context with its baggage.
    """
    delivery = known(id(message))
    if delivery is not None and delivery() is not message:
        delivery = None
    if origin.bucket:
        # An object's info has headers of its own, which are not those of the message that it was made of.
        headers = None if delivery is None else delivery.headers
    else:
        headers = message.headers
    context = base
    if headers:
        if delivery is not None and delivery.arrived is not None and not base:
            context = delivery.arrived
        else:
            try:
                context = extract(headers, base)
            except FAULTS:
                _faults.report("reading the context of a message")
    if delivery is None:
        delivery = make_delivery(message)
        delivery.origin = origin
        made: Note = None
        if headers:
            creation = None if context is base else span_context(context)
            made = note_of(headers, creation)
            delivery.creation = creation
        if notes is None:
            note(made)
        else:
            notes.append(made)
        return delivery, context
    if delivery.origin is None:
        delivery.origin = origin
    if delivery.creation is not None and not is_noted(delivery.creation.span_id):
        # In another task than the one that received it: a worker's, with a queue.
        note(note_of(headers, delivery.creation))
    return delivery, context


def start_process(
    origin: Origin,
    message: Any,
    around: Context = _NO_CONTEXT,
    describe: Describe | None = None,
    counts: bool = True,
    body: Body | None = None,
) -> Delivery | None:
    """Starts the span of a handler or another body.

    Args:
        origin: Where the message came from.
        message: The message, or KV entry, or object's info.
        around: The context that is current around the loop; empty for a callback, whose surroundings are those of
            its `subscribe()` and have nothing to do with the message.
        describe: Makes the attributes of what is no `Msg`.
        counts: Whether this is what hands the message to the application, rather than a receive before.
        body: The body that begins; None for a handler.

    Returns:
        The delivery, whose `context` is to be current while the message is processed; None after a fault.
    """
    span = None
    try:
        telemetry = origin.connection.telemetry
        ambient = span_context(around) if around else None
        delivery, came = deliver(message, origin, around if ambient is None else _NO_CONTEXT)
        creation = delivery.creation
        context = came if ambient is None else around
        prototype = origin.prototype(PROCESS, origin.subject if describe is not None else message.subject)
        if prototype.excluded:
            if body is not None:
                body.context = context
            delivery.begin(prototype, INVALID_SPAN, context, False, body)
            return delivery
        alone = telemetry.options.use_span_links
        span = telemetry.sampling.dropped(None if alone else ambient or creation)
        if span is None:
            if describe is not None:
                attributes = {**prototype.attributes, **describe(message)}
            elif delivery.attributes is not None:
                attributes = {**prototype.attributes, **delivery.attributes}
            else:
                attributes = prototype.attributes.copy()
                delivery.ack = message_attributes(origin, attributes, message)
            if telemetry.captures_baggage:
                capture_baggage(telemetry.options.baggage_keys, attributes, came)
            span = telemetry.tracer.start_span(
                prototype.span_name,
                _NO_CONTEXT if alone else context,
                prototype.kind,
                attributes,
                None if creation is None else (Link(creation),),
            )
        elif describe is None and delivery.ack is None and message.reply:
            delivery.ack = parse_ack_subject(message.reply)
        ack = delivery.ack
        context = with_span(context, span, body)
        if counts:
            prototype.series.count += 1
            if ack is not None:
                count_deliveries(origin, (ack,), context)
            if telemetry.metrics.sizes and describe is None:
                telemetry.metrics.record_size(len(message.data), prototype.series, context)
        if ack is None and describe is None and message.reply and not origin.connection.is_inbox(message.reply):
            # The requester's inbox prefix is not ours: only this tells that a publish to it is the reply.
            context = context_api.set_value(REPLY_KEY, message.reply, context)
        if body is not None:
            body.context = context
        delivery.begin(prototype, span, context, ack is not None and origin.acknowledges is not False, body)
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


def show(delivery: Delivery, message: Any) -> None:
    """Shows a message whose processing has begun to the user's hook."""
    span = delivery.span
    try:
        if span is not None:
            run_consume_hook(delivery.prototype.telemetry.options, span, delivery.context, (message,))
    except FAULTS:
        _faults.report("showing a message")


# Held while processing begins by a walk over a list, or by `process_message`: two threads may do so at the same time.
_beginning = RLock()


def begin_or_join(origin: Origin, message: Any, around: Context, body: Body) -> Delivery | None:
    """Begins a body of a message that has been handed over before: of the processing that goes on, or the first one.

    Args:
        origin: Where the message came from.
        message: The message.
        around: The context that is current around the body.
        body: The body; gets its context.

    Returns:
        The delivery; None after a fault, or where the processing is over.
    """
    with _beginning:
        delivery = delivery_of(message)
        if delivery is not None and delivery.processed:
            context = delivery.join(body)
            if context is not None:
                body.context = with_body(context, body)
                if delivery.creation is not None and not is_noted(delivery.creation.span_id):
                    note(note_of(delivery.headers or message.headers, delivery.creation))
                return delivery
            if body.place is not None:
                return None  # a walk over messages that are done with
            if delivery.delimited:
                _make_current_again(delivery, origin, message, around, body)
                return None
            # A handler or a loop has begun and ended it, and its work may have gone on without it.
            delivery.begin_again()
        delivery = start_process(origin, message, around, None, False, body)
        if body.place is None and delivery is not None:
            delivery.delimited = True
    if delivery is not None and delivery.prototype.telemetry.options.consume_hook is not None:
        show(delivery, message)
    return delivery


def _make_current_again(delivery: Delivery, origin: Origin, message: Any, around: Context, body: Body) -> None:
    """Makes the context of a body of what `process_message` has ended: what is done there still belongs to it."""
    if span_context(around) is None:
        _, around = deliver(message, origin, around)
    if delivery.span_context is not None:
        body.context = with_span(around, NonRecordingSpan(delivery.span_context), body)


def bound_parent(message: Any, current: Context) -> Context:
    """Returns the context for what is done about a message: the current one, else the message's own.

    Args:
        message: The message.
        current: The current context.
    """
    if current and span_context(current) is not None:
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
