# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Attribute names that the semantic conventions do not have yet, and values read from a message.

The names follow the pattern of the conventions for other systems: `messaging.{system}.{...}` for what a message or an
operation has, `nats.{...}` for what only a NATS client has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from opentelemetry.instrumentation.nats import _texts
from opentelemetry.instrumentation.nats._options import HeaderSelection
from opentelemetry.instrumentation.nats._subjects import ACK_PREFIX
from opentelemetry.util.types import AttributeValue

SYSTEM = "nats"

RESPONSE_BODY_SIZE = "messaging.nats.response.body.size"

JETSTREAM_STREAM = "messaging.nats.jetstream.stream"
JETSTREAM_CONSUMER = "messaging.nats.jetstream.consumer"
JETSTREAM_SEQUENCE = "messaging.nats.jetstream.sequence"
JETSTREAM_CONSUMER_SEQUENCE = "messaging.nats.jetstream.consumer_sequence"
JETSTREAM_SETTLEMENT = "messaging.nats.jetstream.settlement"
JETSTREAM_DELIVERY_COUNT = "messaging.nats.jetstream.delivery_count"
JETSTREAM_PENDING = "messaging.nats.jetstream.pending"
JETSTREAM_MAX_DELIVERIES_REACHED = "messaging.nats.jetstream.max_deliveries_reached"
JETSTREAM_NAK_DELAY = "messaging.nats.jetstream.nak_delay"
JETSTREAM_DUPLICATE = "messaging.nats.jetstream.duplicate"
JETSTREAM_DOMAIN = "messaging.nats.jetstream.domain"

KV_KEY = "messaging.nats.kv.key"
KV_REVISION = "messaging.nats.kv.revision"
KV_OPERATION = "messaging.nats.kv.operation"

OBJECT_NAME = "messaging.nats.object.name"
OBJECT_CHUNKS = "messaging.nats.object.chunks"
OBJECT_DIGEST = "messaging.nats.object.digest"

SERVICE_NAME = "messaging.nats.service.name"
SERVICE_VERSION = "messaging.nats.service.version"
SERVICE_ID = "messaging.nats.service.id"
SERVICE_ENDPOINT = "messaging.nats.service.endpoint"
SERVICE_ERROR = "messaging.nats.service.error"
SERVICE_ERROR_CODE = "messaging.nats.service.error_code"

CONNECTION_STATE = "nats.client.connection.state"

MESSAGE_ID_HEADER = "Nats-Msg-Id"
SERVICE_ERROR_HEADER = "Nats-Service-Error"
SERVICE_ERROR_CODE_HEADER = "Nats-Service-Error-Code"
STATUS_HEADER = "Status"

Attributes = dict[str, AttributeValue]

_HEADER_PREFIX = "messaging.header."

# An SDK keeps 128 attributes of a span. Whoever may send a message chooses how many headers it has.
_MOST_HEADERS = 32
_MOST_VALUES = 32
_LONGEST_NAME = 128

# The statuses that NATS servers write into the header line: 100 heartbeats and flow control, 204 the end of a batch,
# 4xx the end of a pull request and refused reads, 503 no responders.
_STATUSES = frozenset({"100", "204", "400", "404", "408", "409", "412", "413", "423", "503"})
_DESCRIPTION = "Description"
_NATS_PREFIX = "Nats-"

# A true acknowledgement subject is shorter by far, and what does not fit into an exporter's 64 bits loses it the batch.
_LONGEST_ACK_SUBJECT = 1024
_BITS = 63


class AckSubject(NamedTuple):
    """What the reply subject of a JetStream message says of its delivery.

    Attributes:
        stream: Name of the stream.
        consumer: Name of the consumer.
        delivery_count: How often the message has been delivered, this time included.
        sequence: Its sequence in the stream.
        consumer_sequence: The sequence of this delivery.
        timestamp: When the stream stored it, in nanoseconds since the epoch.
        pending: Messages that match the consumer and are not delivered yet.
        domain: The JetStream domain, or an empty string.
    """

    stream: str
    consumer: str
    delivery_count: int
    sequence: int
    consumer_sequence: int
    timestamp: int
    pending: int
    domain: str


# Past the `__new__` that `NamedTuple` writes in Python, which takes 14 instructions for each message.
_make_ack: Callable[[tuple[Any, ...]], AckSubject] = partial(tuple.__new__, AckSubject)  # pyright: ignore[reportUnknownMemberType] (of tuple)


def parse_ack_subject(reply: str | None) -> AckSubject | None:
    """Reads the reply subject of a JetStream message, in both of the server's forms (9 tokens; 11 or more).

    nats-py's `Msg.metadata` reads the same, at more than twice the price, and raises.

    Args:
        reply: The reply subject of a message.

    Returns:
        What it says; None if it is not an acknowledgement subject or only looks like one.
    """
    if not reply or not reply.startswith(ACK_PREFIX) or len(reply) > _LONGEST_ACK_SUBJECT:
        return None
    tokens = reply.split(".")
    domain = ""
    if len(tokens) != 9:
        if len(tokens) < 11:
            return None
        domain = "" if tokens[2] == "_" else tokens[2]
        del tokens[2:4]
    try:
        count, sequence, consumer_sequence, timestamp, pending = map(int, tokens[4:9])
    except ValueError:
        return None
    # All at once: whether one of them is negative or too large. Anybody may send a message with such a reply subject.
    if (count | sequence | consumer_sequence | timestamp | pending) >> _BITS:
        return None
    return _make_ack((tokens[2], tokens[3], count, sequence, consumer_sequence, timestamp, pending, domain))


def header(headers: Mapping[str, Any] | None, name: str) -> str | None:
    """Reads one header in the spelling that the server writes.

    Args:
        headers: A message's headers; their values are lists with nats-py's `fast_mail_parser` extra.
        name: The header's name.

    Returns:
        The value, the first one of a list, cut: whoever sent the message chose it. None without one.
    """
    if not headers:
        return None
    value = headers.get(name)
    if isinstance(value, list) and value:
        value = value[0]  # pyright: ignore[reportUnknownVariableType] (of a user's mapping)
    return _texts.cut(value) if isinstance(value, str) else None


def is_status(headers: Mapping[str, Any] | None, size: int, reply: str | None = None) -> bool:
    """Tells whether a message is the server's word (100, 404, 408, 409, 503) rather than somebody's message.

    The server writes a status into the header line, where nats-py finds it and makes a header `Status` of it. A header
    of that name that somebody wrote is a header: it has another value, or stands beside headers that are not NATS' own.

    Args:
        headers: The message's headers.
        size: Size of its payload in bytes.
        reply: Its reply subject: what is to be acknowledged came from a stream, where no status is stored.
    """
    if size or not headers or (reply and reply.startswith(ACK_PREFIX)):
        return False
    try:
        return header(headers, STATUS_HEADER) in _STATUSES and all(
            name in (STATUS_HEADER, _DESCRIPTION) or name.startswith(_NATS_PREFIX) for name in headers
        )
    except (AttributeError, TypeError):
        return False  # a message that a program has made for its tests


def captured_headers(
    selection: HeaderSelection, propagated: Iterable[str], headers: Mapping[Any, Any] | None
) -> Attributes:
    """Builds the attributes of the headers that the user selected.

    Args:
        selection: The user's choice.
        propagated: Lower-case names of propagation headers; they are never recorded.
        headers: The message's headers.

    Returns:
        `messaging.header.<lower-case name>` to a list of values; those of secret-sounding headers redacted. Of the
        first headers only, if there are many.
    """
    attributes: Attributes = {}
    if not headers:
        return attributes
    for name, value in headers.items():
        if len(attributes) >= _MOST_HEADERS:
            break
        if not isinstance(name, str) or len(name) > _LONGEST_NAME:
            continue  # no name at all (nats-py is about to refuse it, in its own words), or none to be shown
        lower = name.lower()
        if lower in propagated or not selection.selects(lower):
            continue
        values: list[Any] = value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]
        redact = any(word in lower for word in _texts.SECRET_WORDS)
        attributes[_HEADER_PREFIX + _texts.cut(lower)] = [
            _texts.HIDDEN if redact else _texts.clean(str(item)) for item in values[:_MOST_VALUES]
        ]
    return attributes
