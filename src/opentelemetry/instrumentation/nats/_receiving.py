# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A receive: the program has asked for a message, or several, and is told of it once they are in hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import time_ns
from typing import Any, NamedTuple

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._arrived import Note, note_all
from opentelemetry.instrumentation.nats._attributes import AckSubject, Attributes, parse_ack_subject
from opentelemetry.instrumentation.nats._baggage import capture_baggage
from opentelemetry.instrumentation.nats._contexts import ACTIVATION_KEY, ordinary, unended, with_span
from opentelemetry.instrumentation.nats._delivering import Describe, deliver
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._messages import count_deliveries, message_attributes
from opentelemetry.instrumentation.nats._observing import Observed
from opentelemetry.instrumentation.nats._operations import RECEIVE
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._processing import Delivery
from opentelemetry.instrumentation.nats._providers import attach, get_current, span_context
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Link, NonRecordingSpan, Span, SpanContext

_NO_CONTEXT = Context()


class _Activated(NonRecordingSpan):
    """The span of a receive, left current: it is over, and only says whose child the work on the message is.

    After `uninstrument()` it says nothing any more: nobody can reach into other tasks to take it away there.
    """

    def __init__(self, span: Span, telemetry: Telemetry) -> None:
        super().__init__(span.get_span_context())
        self._span = span
        self._telemetry = telemetry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._span, name)  # what only spans of the SDK have

    def get_span_context(self) -> SpanContext:
        """Returns the context of the receive's span."""
        return super().get_span_context() if self._telemetry.enabled else INVALID_SPAN_CONTEXT


class _Activation(NamedTuple):
    """A context that `next_msg()` has left current.

    Attributes:
        before: The context from before.
        span: The span that was made current.
    """

    before: Context
    span: Span


def give_back() -> None:
    """Puts back what `activate_next_msg` replaced in the running task, if that still is current."""
    context = get_current()
    activation = context.get(ACTIVATION_KEY)
    if isinstance(activation, _Activation) and trace.get_current_span(context) is activation.span:
        attach(activation.before)


def before_receive() -> Context:
    """Returns the context that a receive is called in, after putting back what `activate_next_msg` replaced."""
    context = get_current()
    if ordinary(context):
        return context
    context = unended(context)
    # Whatever the options are now: another `instrument()` may have had it on.
    activation = context.get(ACTIVATION_KEY)
    # A span that the user has opened since is ambient: it stays, and the receive is its child.
    if isinstance(activation, _Activation) and trace.get_current_span(context) is activation.span:
        attach(activation.before)
        return activation.before
    return context


class Receive(Observed):
    """A receive of one message or several, and the mark for what nats-py calls inside.

    Args:
        origin: Where the messages come from.
        ambient: The context that the receive was called in.
    """

    follows = ""
    origin: Origin

    def __init__(self, origin: Origin, ambient: Context) -> None:
        super().__init__(ambient)
        self.origin = origin  # pyright: ignore[reportIncompatibleVariableOverride] (it always has one)

    def got(self, message: Any, describe: Describe | None = None) -> None:
        """Ends it with one message.

        Args:
            message: The message, or KV entry, or object's info.
            describe: Makes the attributes of what is no `Msg`.
        """
        origin, ambient = self.origin, self.parent
        telemetry = origin.connection.telemetry
        try:
            nested = span_context(ambient) is not None if ambient else False
            delivery, context = deliver(message, origin, _NO_CONTEXT if nested else ambient)
            self.be(origin.prototype(RECEIVE, message.subject if describe is None else origin.subject))
            prototype = self.prototype
            if prototype.excluded:
                return
            prototype.series.count += 1
            if not nested:
                self.parent = context
                # Its parent is younger than the wait. An hour of idleness is no part of the message's trace.
                self.started_at = time_ns()
            ack = None
            if self.is_dropped():
                if describe is None and telemetry.metrics.on:
                    ack = parse_ack_subject(message.reply)
            elif describe is None:
                ack = message_attributes(origin, self.attributes, message)
            else:
                self.attributes.update(describe(message))
            if self.dropped is None and telemetry.captures_baggage:
                capture_baggage(telemetry.options.baggage_keys, self.attributes, context)
            creation = delivery.creation
            links = () if creation is None or self.dropped is not None else (Link(creation),)
            span = self.end(None, links, (message,))
            delivery.span_context = span.get_span_context()
            if telemetry.metrics.on:
                self._count(span, () if describe is not None else (message,), () if ack is None else (ack,))
            if telemetry.options.activate_next_msg and not nested:
                activated = _Activated(span, telemetry)
                context = trace.set_span_in_context(activated, context)
                attach(context_api.set_value(ACTIVATION_KEY, _Activation(ambient, activated), context))
        except FAULTS:
            _faults.report("recording a receive")

    def got_batch(self, messages: Sequence[Any]) -> None:
        """Ends it with several messages."""
        origin = self.origin
        telemetry = origin.connection.telemetry
        try:
            self.be(origin.prototype(RECEIVE, origin.subject))
            prototype = self.prototype
            if prototype.excluded:
                return
            deliveries: list[tuple[Delivery, Any]] = []
            untraced: list[Delivery] = []
            notes: list[Note] = []
            naming = telemetry.naming
            excludes = naming.excludes
            for message in messages:
                delivery, delivery.arrived = deliver(message, origin, _NO_CONTEXT, notes)
                if excludes and naming.leaves_out(RECEIVE.name, message.subject):
                    continue
                deliveries.append((delivery, message))
                if delivery.creation is None:
                    untraced.append(delivery)
            note_all(notes)
            if not deliveries:
                return
            prototype.series.count += len(deliveries)
            self.attributes[messaging.MESSAGING_BATCH_MESSAGE_COUNT] = len(deliveries)
            told = [message for _, message in deliveries] if excludes else messages
            span = self.end(None, (), told, partial(_links_to_publishers, origin, deliveries))
            if telemetry.metrics.on:
                acks = [ack for each in deliveries if (ack := each[0].ack or parse_ack_subject(each[1].reply))]
                self._count(span, told, acks)
            # The batch's span is in no message's trace; only a message without one has nothing better.
            for delivery in untraced:
                delivery.span_context = span.get_span_context()
        except FAULTS:
            _faults.report("recording a receive")

    def _count(self, span: Span, messages: Sequence[Any], acks: Sequence[AckSubject]) -> None:
        """Records what metrics tell of received messages: sizes of bodies, deliveries of JetStream.

        Args:
            span: The span of the receive.
            messages: Those that have a body.
            acks: What the acknowledgement subjects say.
        """
        context = with_span(self.parent, span)
        metrics = self.prototype.telemetry.metrics
        if metrics.sizes:
            for message in messages:
                metrics.record_size(len(message.data), self.prototype.series, context)
        if acks:
            count_deliveries(self.origin, acks, context)

    def got_nothing(self, failure: BaseException | Failure | None) -> None:
        """Ends it without a message, see `Observed.nothing`."""
        try:
            self.be(self.origin.prototype(RECEIVE, self.origin.subject))
            self.nothing(failure)
        except FAULTS:
            _faults.report("recording a receive")


def _links_to_publishers(origin: Origin, deliveries: Sequence[tuple[Delivery, Any]]) -> Sequence[Link]:
    telemetry = origin.connection.telemetry
    links: list[Link] = []
    for delivery, message in deliveries:
        attributes: Attributes = {}
        delivery.attributes = attributes
        delivery.ack = message_attributes(origin, attributes, message)
        if telemetry.captures_baggage and delivery.arrived is not None:
            capture_baggage(telemetry.options.baggage_keys, attributes, delivery.arrived)
        creation = delivery.creation
        if creation is not None:
            links.append(Link(creation, attributes))
    return links


class Fetch(Receive):
    """A receive of several messages, which hears of what `next_msg` finds inside."""

    follows = "next_msg"
