# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What we keep on nats-py's own objects: a client's connection, and where a subscription's messages come from."""

from __future__ import annotations

from typing import Any

from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._connection import Connection
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._naming import Resource
from opentelemetry.instrumentation.nats._operations import Operation, Prototype
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._readings import ClientReadings
from opentelemetry.instrumentation.nats._telemetry import Telemetry

_Client = _nats.find_class("nats.aio.client", "Client")

_CONNECTION = "_opentelemetry_connection"
_STORE = "_opentelemetry_store"
_ORIGIN = "_opentelemetry_origin"


def connection_of(telemetry: Telemetry, client: Any) -> Connection:
    """Returns what we know of a client's connection; of a fake, in a program's own tests, that is nothing."""
    try:
        connection: Connection | None = client.__dict__.get(_CONNECTION)
        if connection is None or connection.telemetry is not telemetry:
            connection = _make_connection(telemetry, client, counted=connection is not None)
            client.__dict__[_CONNECTION] = connection
        return connection
    except FAULTS:
        if _Client is not None and issubclass(type(client), _Client):  # its own type: a fake says that it is one
            _faults.report("reading the state of a connection")
    nowhere = telemetry.nowhere
    if not isinstance(nowhere, Connection):
        nowhere = telemetry.nowhere = _make_connection(telemetry, _NO_CLIENT)
    return nowhere


_NO_CLIENT = _nats.NoClient()


def _make_connection(telemetry: Telemetry, client: Any, counted: bool = False) -> Connection:
    stats: Any = client.stats
    if type(stats) is not dict:
        raise TypeError("a mock of a client")  # which would answer everything, with mocks

    def is_application(subscription: Any) -> bool:
        return not origin_of(telemetry, subscription).internal

    readings = ClientReadings(_nats.ClientView(client, is_application), stats, telemetry.metrics.bounds, counted)  # pyright: ignore[reportUnknownArgumentType]
    connection = Connection(telemetry, readings, _nats.client_state(client))
    telemetry.metrics.register(readings, client)
    return connection


def prototype_of(
    telemetry: Telemetry, client: Any, operation: Operation, name: str | None, *, resource: Resource | None = None
) -> Prototype:
    """Returns the prototype of an operation through a client's connection, see `Connection.prototype`."""
    try:
        connection: Connection = client.__dict__[_CONNECTION]
        if connection.telemetry is telemetry:
            prototype = connection.prototypes[operation, name]
            return prototype if prototype.asked is None else prototype.answered()
    except (AttributeError, KeyError):
        pass
    return connection_of(telemetry, client).prototype(operation, name, resource=resource)


def prototype_of_store(telemetry: Telemetry, store: Any, operation: Operation) -> Prototype:
    """Returns the prototype of an operation on a bucket of either store."""
    try:
        # Kept on the bucket: to read context, client and name of nats-py's at each call is 35 instructions.
        connection, bucket = store.__dict__[_STORE]
        if connection.telemetry is telemetry:
            return connection.prototypes[operation, bucket]
    except (AttributeError, KeyError):
        pass
    connection, bucket = connection_of(telemetry, _nats.client_of_store(store)), _nats.bucket_of(store)
    if hasattr(store, "__dict__"):  # not a fake with slots
        store.__dict__[_STORE] = connection, bucket
    return connection.prototype(operation, bucket, resource="bucket")


def origin_of(telemetry: Telemetry, core: Any) -> Origin:
    """Returns where the messages of a core subscription come from; None stands for one that nats-py does not tell."""
    if core is None:
        return Origin(connection_of(telemetry, None), "")
    origin: Origin | None = core.__dict__.get(_ORIGIN)
    if origin is not None and origin.connection.telemetry is telemetry:
        return origin
    below = _nats.core_below(core)
    if below is not core:
        origin = origin_of(telemetry, below)
        keep_origin(core, origin)
        return origin
    connection = connection_of(telemetry, _nats.client_of_subscription(core))
    internal = _nats.waits_for_answer(core) if origin is None else origin.internal
    origin = Origin(
        connection,
        _nats.subject_of(core),
        group=_nats.queue_of(core),
        internal=internal,
        acknowledges=_nats.acknowledges_of(core),
        max_deliver=_nats.max_deliver_of(core),
    )
    keep_origin(core, origin)
    return origin


def keep_origin(owner: Any, origin: Origin) -> None:
    """Remembers on a core subscription, or on a watcher, where its messages come from."""
    owner.__dict__[_ORIGIN] = origin


def kept_origin(owner: Any) -> Origin | None:
    """Returns the origin that is kept on a subscription, the core one below one of JetStream's, or on a watcher."""
    origin: Origin | None = owner.__dict__.get(_ORIGIN)
    if origin is None:
        below = _nats.core_below(owner)
        origin = None if below is None else below.__dict__.get(_ORIGIN)
    return origin


def origin_of_watcher(telemetry: Telemetry, watcher: Any, client: Any, bucket: str, subject: str) -> Origin:
    """Returns the origin of a watcher's updates, which is kept on the watcher.

    Args:
        telemetry: The telemetry.
        watcher: The watcher.
        client: The client that it watches through.
        bucket: Name of the bucket.
        subject: The subject of all that is in it.
    """
    connection = connection_of(telemetry, client)
    origin: Origin | None = watcher.__dict__.get(_ORIGIN)
    if origin is None or origin.connection is not connection:
        naming = telemetry.naming
        asked = subject if naming.asks else None
        origin = Origin(connection, bucket, bucket=True, excluded=naming.excluded(subject), asked=asked)
        keep_origin(watcher, origin)
    return origin


def origin_of_message(telemetry: Telemetry, message: Any) -> Origin:
    """Makes an origin for a `Msg` that came through a subscription from before our time."""
    return Origin(connection_of(telemetry, _nats.client_of_message(message)), message.subject)
