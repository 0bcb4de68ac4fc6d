# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What tests of JetStream share: whole attribute sets, and which nats-py it is that they run with."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any
from unittest.mock import ANY

from nats.aio.client import Client

from opentelemetry.instrumentation.utils import suppress_instrumentation
from support.spans import connection_attributes
from support.telemetry import Telemetry

NATS_PY = tuple(int(part) for part in version("nats-py").split(".")[:2])

WRONG_LAST_SEQUENCE = {"Nats-Expected-Last-Sequence": "99"}
"""The headers of a publish that the server refuses."""

_SHORT = {
    "template": "messaging.destination.template",
    "size": "messaging.message.body.size",
    "id": "messaging.message.id",
    "group": "messaging.consumer.group.name",
    "count": "messaging.batch.message_count",
    "stream": "messaging.nats.jetstream.stream",
    "consumer": "messaging.nats.jetstream.consumer",
    "sequence": "messaging.nats.jetstream.sequence",
    "duplicate": "messaging.nats.jetstream.duplicate",
    "domain": "messaging.nats.jetstream.domain",
    "settlement": "messaging.nats.jetstream.settlement",
    "error": "error.type",
}


def unseen() -> AbstractContextManager[None]:
    """A block in which the test does what is not its subject, without spans and trace headers."""
    return suppress_instrumentation()


def publish_attributes(nc: Client, stream: str, subject: str, sequence: int, size: int, **more: Any) -> dict[str, Any]:
    """All attributes of a publish that was acknowledged, `more` of them by short or whole name."""
    acked = {"stream": stream, "sequence": sequence, "id": f"{stream}:{sequence}"}
    return _attributes(nc, "publish", "send", subject, {"size": size, **acked, **more})


def unacked_attributes(nc: Client, subject: str, size: int, **more: Any) -> dict[str, Any]:
    """All attributes of a publish that was not acknowledged."""
    return _attributes(nc, "publish", "send", subject, {"size": size, **more})


def delivery_attributes(
    stream: str,
    consumer: str,
    sequence: int,
    *,
    consumer_sequence: int | None = None,
    delivery_count: int = 1,
    pending: int = 0,
) -> dict[str, Any]:
    """What the acknowledgement subject of a message says; the consumer sequence is the stream's where not given."""
    return {
        "messaging.message.id": f"{stream}:{sequence}",
        "messaging.destination.subscription.name": consumer,
        "messaging.nats.jetstream.stream": stream,
        "messaging.nats.jetstream.consumer": consumer,
        "messaging.nats.jetstream.sequence": sequence,
        "messaging.nats.jetstream.consumer_sequence": consumer_sequence or sequence,
        "messaging.nats.jetstream.delivery_count": delivery_count,
        "messaging.nats.jetstream.pending": pending,
    }


def process_attributes(nc: Client, subject: str, size: int, delivery: dict[str, Any], **more: Any) -> dict[str, Any]:
    """All attributes of a handler call or loop body."""
    return _attributes(nc, "process", "process", subject, {"size": size, **delivery, **more}, peer=False)


def receive_attributes(nc: Client, subject: str, size: int, delivery: dict[str, Any], **more: Any) -> dict[str, Any]:
    """All attributes of a `next_msg`."""
    return _attributes(nc, "receive", "receive", subject, {"size": size, **delivery, **more})


def fetch_attributes(nc: Client, subject: str, stream: str, consumer: str, **more: Any) -> dict[str, Any]:
    """All attributes of a `fetch` by a consumer that its user named."""
    return _attributes(nc, "receive", "receive", subject, {**_consumer(stream, consumer), "group": consumer, **more})


def settle_attributes(
    nc: Client, operation: str, subject: str, stream: str, consumer: str, sequence: int, **more: Any
) -> dict[str, Any]:
    """All attributes of an acknowledgement of any kind."""
    about = {**_consumer(stream, consumer), "sequence": sequence, "id": f"{stream}:{sequence}"}
    return _attributes(nc, operation, "settle", subject, {**about, **more})


def subscribe_attributes(nc: Client, subject: str, stream: str, consumer: str, **more: Any) -> dict[str, Any]:
    """All attributes of a subscribe or pull_subscribe."""
    return _attributes(nc, "subscribe", None, subject, {**_consumer(stream, consumer), **more})


def manage_attributes(nc: Client, operation: str, stream: str | None, **more: Any) -> dict[str, Any]:
    """All attributes of a method of the JetStream manager, `stream` being its destination."""
    return _attributes(nc, operation, None, stream, {"stream": stream, **more} if stream else more)


def read_attributes(nc: Client, operation: str, stream: str, **more: Any) -> dict[str, Any]:
    """All attributes of a read of a stored message."""
    return _attributes(nc, operation, "receive", stream, {"stream": stream, **more})


def _consumer(stream: str, consumer: str) -> dict[str, Any]:
    return {"stream": stream, "consumer": consumer, "messaging.destination.subscription.name": consumer}


def _attributes(
    nc: Client, operation: str, type_: str | None, destination: str | None, more: dict[str, Any], *, peer: bool = True
) -> dict[str, Any]:
    attributes = {**connection_attributes(nc, peer=peer), "messaging.operation.name": operation}
    if type_:
        attributes["messaging.operation.type"] = type_
    if destination:
        attributes["messaging.destination.name"] = destination
    return attributes | {_SHORT.get(name, name): value for name, value in more.items()}


def names_and_metrics(telemetry: Telemetry) -> set[str]:
    """Every span name, and every attribute value of every metric: where a made-up name must not be."""
    values = {span.name for span in telemetry.spans()}
    for name in telemetry.metrics():
        for attributes in telemetry.metric(name):
            values.update(str(value) for _, value in attributes)
    return values


def assert_nowhere(names: Iterable[str], values: Iterable[str]) -> None:
    """Fails if one of the names is part of one of the values."""
    found = {value for value in values for name in names if name in value}
    assert not found, f"a made-up name is in {found}"


__all__ = [
    "ANY",
    "NATS_PY",
    "WRONG_LAST_SEQUENCE",
    "assert_nowhere",
    "delivery_attributes",
    "fetch_attributes",
    "manage_attributes",
    "names_and_metrics",
    "process_attributes",
    "publish_attributes",
    "read_attributes",
    "receive_attributes",
    "settle_attributes",
    "subscribe_attributes",
    "unacked_attributes",
    "unseen",
]
