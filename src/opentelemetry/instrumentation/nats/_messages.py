# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a received message says of itself: its attributes, and what its acknowledgement subject tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import time_ns
from typing import Any, Protocol

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import (
    MESSAGE_ID_HEADER,
    AckSubject,
    Attributes,
    captured_headers,
    header,
    parse_ack_subject,
)
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._propagation import configured
from opentelemetry.instrumentation.nats._telemetry import Telemetry
from opentelemetry.instrumentation.nats._texts import LONGEST, cut
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

_DESTINATION = messaging.MESSAGING_DESTINATION_NAME
_BODY_SIZE = messaging.MESSAGING_MESSAGE_BODY_SIZE
_MESSAGE_ID = messaging.MESSAGING_MESSAGE_ID
_SUBSCRIPTION = messaging.MESSAGING_DESTINATION_SUBSCRIPTION_NAME
_STREAM = names.JETSTREAM_STREAM
_CONSUMER = names.JETSTREAM_CONSUMER
_SEQUENCE = names.JETSTREAM_SEQUENCE
_CONSUMER_SEQUENCE = names.JETSTREAM_CONSUMER_SEQUENCE
_DELIVERY_COUNT = names.JETSTREAM_DELIVERY_COUNT
_PENDING = names.JETSTREAM_PENDING
_MAX_DELIVERIES_REACHED = names.JETSTREAM_MAX_DELIVERIES_REACHED


class Message(Protocol):
    """What we use of a `nats.aio.msg.Msg`."""

    subject: str
    reply: str
    data: bytes

    @property
    def headers(self) -> Mapping[str, Any] | None:
        """The headers; their values are lists with nats-py's `fast_mail_parser` extra."""
        ...


def message_attributes(origin: Origin, attributes: Attributes, message: Message) -> AckSubject | None:
    """Adds what only this message has to the attributes of its process, receive or settle span, or of a link to it.

    Returns:
        What its acknowledgement subject says, if it is a JetStream message.
    """
    subject = message.subject
    if len(subject) > LONGEST:
        subject = cut(subject)
    attributes[_DESTINATION] = subject
    attributes[_BODY_SIZE] = len(message.data)
    headers = message.headers
    message_id = header(headers, MESSAGE_ID_HEADER) if headers and MESSAGE_ID_HEADER in headers else None
    reply = message.reply
    ack = None
    if reply:
        ack = parse_ack_subject(reply)
        if ack is None:
            attributes[messaging.MESSAGING_MESSAGE_CONVERSATION_ID] = reply if len(reply) <= LONGEST else cut(reply)
        else:
            stream, consumer, count, sequence, consumer_sequence, _, pending, _ = ack
            message_id = message_id or f"{stream}:{sequence}"
            attributes[_SUBSCRIPTION] = consumer
            attributes[_STREAM] = stream
            attributes[_CONSUMER] = consumer
            attributes[_SEQUENCE] = sequence
            attributes[_CONSUMER_SEQUENCE] = consumer_sequence
            attributes[_DELIVERY_COUNT] = count
            attributes[_PENDING] = pending
            if origin.max_deliver and count >= origin.max_deliver:
                attributes[_MAX_DELIVERIES_REACHED] = True
    if message_id is not None:
        attributes[_MESSAGE_ID] = message_id
    telemetry = origin.connection.telemetry
    if telemetry.captures_headers and headers:
        add_captured(telemetry, attributes, headers)
    return ack


def settlement_attributes(
    telemetry: Telemetry, attributes: Attributes, message: Message, ack: AckSubject | None
) -> None:
    """Adds what its acknowledgement tells of a message: which one it is, and nothing of its delivery.

    Args:
        telemetry: The telemetry.
        attributes: The span's attributes.
        message: The message.
        ack: What its acknowledgement subject says, where somebody has read it before.
    """
    subject = message.subject
    attributes[_DESTINATION] = subject if len(subject) <= LONGEST else cut(subject)
    headers = message.headers
    message_id = header(headers, MESSAGE_ID_HEADER) if headers and MESSAGE_ID_HEADER in headers else None
    ack = ack or (parse_ack_subject(message.reply) if message.reply else None)
    if ack is not None:
        stream, consumer, _, sequence, *_ = ack
        message_id = message_id or f"{stream}:{sequence}"
        attributes[_SUBSCRIPTION] = consumer
        attributes[_STREAM] = stream
        attributes[_CONSUMER] = consumer
        attributes[_SEQUENCE] = sequence
    if message_id is not None:
        attributes[_MESSAGE_ID] = message_id
    if telemetry.captures_headers and headers:
        add_captured(telemetry, attributes, headers)


def add_captured(telemetry: Telemetry, attributes: Attributes, headers: Mapping[Any, Any]) -> None:
    """Adds the headers that the user wants recorded.

    Raises:
        AttributeError: They are no headers at all; nats-py is about to say so.
    """
    captured = captured_headers(telemetry.options.headers, configured().fields, headers)
    # Before our own: where a span has room for few, the SDK drops the oldest.
    own = attributes.copy()
    attributes.clear()
    attributes.update(captured)
    attributes.update(own)


def count_deliveries(origin: Origin, acks: Sequence[AckSubject], context: Context) -> None:
    """Records the delivery of JetStream messages to the application.

    Args:
        origin: Where they came from.
        acks: What their acknowledgement subjects say.
        context: The context with the span that they are delivered in.
    """
    telemetry = origin.connection.telemetry
    metrics = telemetry.metrics
    if not (metrics.on or metrics.resolve()):
        return
    record = metrics.delivery_latency.record
    now = time_ns()
    for stream, _, count, _, _, timestamp, pending, _ in acks:
        series = origin.connection.readings.jetstream_series(stream, origin.consumer, telemetry.naming)
        try:
            record(max(0, now - timestamp) / 1e9, series.attributes, context)
        except FAULTS:
            _faults.report("recording a delivery")
        if count > 1:
            series.redeliveries += 1
        if origin.max_deliver:
            series.dead_letters = (series.dead_letters or 0) + (count >= origin.max_deliver)
        if origin.consumer and series.one:
            series.pending = pending
            series.seen_at = now
