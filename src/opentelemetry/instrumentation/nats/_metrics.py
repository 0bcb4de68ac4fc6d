# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The instruments, and what they are read from.

Only durations are recorded per message. Everything that can be counted is counted as a plain integer on a series that
belongs to one connection, or is read from nats-py's own state, when a reader collects: an SDK counter costs 7 us per
message, an integer 50 ns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from opentelemetry import metrics as metrics_api
from opentelemetry.instrumentation.nats._attributes import CONNECTION_STATE, Attributes
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, NoOpMeter, NoOpMeterProvider, Observation
from opentelemetry.metrics import _internal as _metrics_internal
from opentelemetry.semconv._incubating.attributes.messaging_attributes import MESSAGING_OPERATION_TYPE
from opentelemetry.semconv._incubating.metrics.messaging_metrics import (
    MESSAGING_CLIENT_CONSUMED_MESSAGES,
    MESSAGING_CLIENT_OPERATION_DURATION,
    MESSAGING_CLIENT_SENT_MESSAGES,
    MESSAGING_PROCESS_DURATION,
)
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

if TYPE_CHECKING:
    from opentelemetry.instrumentation.nats._connection import Connection

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

SENT_BYTES = "nats.client.sent.bytes"
RECEIVED_BYTES = "nats.client.received.bytes"
RECONNECTS = "nats.client.reconnects"
DROPPED = "nats.client.messages.dropped"
ASYNC_ERRORS = "nats.client.async_errors"
CONNECTIONS = "nats.client.connections"
SUBSCRIPTIONS = "nats.client.active_subscriptions"
PENDING_MESSAGES = "nats.client.pending.messages"
PENDING_BYTES = "nats.client.pending.bytes"
DELIVERY_LATENCY = "nats.jetstream.delivery.latency"
REDELIVERIES = "nats.jetstream.redeliveries"
CONSUMER_PENDING = "nats.jetstream.consumer.pending"

_CONNECTION_STATES = ("connecting", "connected", "reconnecting", "draining", "disconnected")

# An error type from a service's error code is the service author's text: past this many, they share one series.
_MOST_ERROR_TYPES = 100
OTHER_ERROR = "_OTHER"

Reading = tuple[str, Attributes, int]
"""An instrument's name, the attributes, the value."""


class SeriesAttributes(NamedTuple):
    """The attributes of a series; one object for all connections that have such a series.

    Attributes:
        attributes: Those of its durations.
        counted: Those of its messages.
    """

    attributes: Attributes
    counted: Attributes


class Series:
    """The metrics of one operation on one destination through one connection.

    Args:
        instrument: The counter that `count` is for; None where messages are not counted.
        shared: The metric attributes.

    Attributes:
        instrument: The counter.
        attributes: The attributes of its durations.
        count: Messages so far, sent or consumed.
    """

    __slots__ = ("_counted", "_failed", "attributes", "count", "instrument")

    def __init__(self, instrument: str | None, shared: SeriesAttributes) -> None:
        self.instrument = instrument
        self.attributes = shared.attributes
        self.count = 0
        self._counted = shared.counted
        self._failed: dict[str, Series] | None = None

    def failed(self, error_type: str) -> Series:
        """Returns the series of the same operation where it failed in this way."""
        failed = self._failed
        if failed is None:
            failed = self._failed = {}
        series = failed.get(error_type)
        if series is None:
            if len(failed) >= _MOST_ERROR_TYPES and error_type != OTHER_ERROR:
                return self.failed(OTHER_ERROR)
            shared = _series_attributes({**self.attributes, ERROR_TYPE: error_type})
            series = failed[error_type] = Series(self.instrument, shared)
        return series

    def readings(self) -> Iterator[Reading]:
        """Yields the counts, of failures too."""
        if self.instrument is not None and self.count:
            yield self.instrument, self._counted, self.count
        for series in list((self._failed or {}).values()):
            yield from series.readings()


def _series_attributes(attributes: Attributes) -> SeriesAttributes:
    counted = {name: value for name, value in attributes.items() if name != MESSAGING_OPERATION_TYPE}
    return SeriesAttributes(attributes, counted)


class JetStreamSeries:
    """The delivery metrics of one stream, and of one consumer where its name is not made up by the server.

    Attributes:
        attributes: The metric attributes.
        redeliveries: Deliveries so far with a delivery count above one.
        pending: The last number of pending messages seen.
        seen_at: When that was, in nanoseconds since the epoch; 0 before.
    """

    __slots__ = ("attributes", "pending", "redeliveries", "seen_at")

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes
        self.redeliveries = 0
        self.pending = 0
        self.seen_at = 0


class Metrics:
    """The instruments of one `instrument()` call.

    Args:
        meter_provider: The provider; None for the global one, which may be set later.
        version: Version of this package.
        schema_url: Schema URL of the conventions.

    Attributes:
        on: Whether there is a provider that does something with what is recorded.
        waiting: Whether there may still be one: the global one is not set yet.
    """

    def __init__(self, meter_provider: MeterProvider | None, version: str, schema_url: str) -> None:
        meter = metrics_api.get_meter(
            "opentelemetry.instrumentation.nats", version, meter_provider=meter_provider, schema_url=schema_url
        )
        self.on = meter_provider is not None and not isinstance(meter_provider, NoOpMeterProvider)
        self.waiting = meter_provider is None
        if isinstance(meter, NoOpMeter):
            self.on = self.waiting = False
        self.operation_duration = meter.create_histogram(
            MESSAGING_CLIENT_OPERATION_DURATION,
            unit="s",
            description="Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self.process_duration = meter.create_histogram(
            MESSAGING_PROCESS_DURATION,
            unit="s",
            description="Duration of processing operation.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self.delivery_latency = meter.create_histogram(
            DELIVERY_LATENCY,
            unit="s",
            description="Time from storage in the stream to delivery to the application.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._connections = _observed_connections(meter_provider, meter)
        self._shared: dict[tuple[Any, ...], SeriesAttributes] = {}
        self.resolve()

    def resolve(self) -> bool:
        """Looks whether there is a meter provider by now; cheap enough for every call until there is."""
        if self.waiting:
            # The public getter reads the process environment for as long as there is none: 1 us on every publish.
            provider = getattr(_metrics_internal, "_METER_PROVIDER", True)
            if provider is not None:
                self.waiting = False
                self.on = not isinstance(provider, NoOpMeterProvider)
        return self.on

    def shared(self, attributes: Attributes) -> SeriesAttributes:
        """Returns the attributes of a series: for the same ones the same object, which lives as long as this.

        Clients of one server have the same, and the garbage collector need not walk a copy for each of them. Of what is
        counted they have one each, because each client may run in a thread of its own.
        """
        key = (*attributes, *attributes.values())
        return self._shared.get(key) or self._shared.setdefault(key, _series_attributes(attributes))

    def register(self, connection: Connection, client: Any) -> None:
        """Reads a connection at every collection from now on, and keeps its counts when its client is gone."""
        self._connections.register(connection, client)

    def stop(self) -> None:
        """Keeps what has been counted, and reads no client any more."""
        self._connections.retire_all()


_observed: WeakKeyDictionary[MeterProvider, _Connections] = WeakKeyDictionary()


def _observed_connections(meter_provider: MeterProvider | None, meter: Meter) -> _Connections:
    """Returns the connections that a provider's observable instruments are read from, the same at every call.

    An SDK that is asked for an instrument again returns the one that it has, and forgets the new callbacks: after
    `uninstrument()` and another `instrument()` it still reads what the first call gave it.
    """
    provider = metrics_api.get_meter_provider() if meter_provider is None else meter_provider
    connections = _observed.get(provider)
    if connections is None and provider is getattr(_metrics_internal, "_METER_PROVIDER", None):
        # Its instruments may have been made before it was, by the proxy that stood for it.
        connections = _observed.get(getattr(_metrics_internal, "_PROXY_METER_PROVIDER", provider))
    if connections is None:
        connections = _Connections()
        connections.observe(meter)
    _observed[provider] = connections
    return connections


class _Connections:
    """What the observable instruments are read from."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._live: dict[int, Connection] = {}
        self._dead: deque[Connection] = deque()
        self._retired: dict[tuple[str, frozenset[Any]], Reading] = {}
        self._servers: dict[frozenset[Any], Attributes] = {}

    def observe(self, meter: Meter) -> None:
        """Creates the instruments."""
        for name, unit, description in (
            (MESSAGING_CLIENT_SENT_MESSAGES, "{message}", "Number of messages producer attempted to send."),
            (MESSAGING_CLIENT_CONSUMED_MESSAGES, "{message}", "Number of messages delivered to the application."),
            (SENT_BYTES, "By", "Payload bytes sent, by the client's own statistics."),
            (RECEIVED_BYTES, "By", "Payload bytes received, by the client's own statistics."),
            (RECONNECTS, "{reconnect}", "Successful reconnects."),
            (DROPPED, "{message}", "Messages dropped because a subscription's queue was full (slow consumer)."),
            (ASYNC_ERRORS, "{error}", "Errors that reached the client's error callback."),
            (REDELIVERIES, "{message}", "Deliveries of messages that had been delivered before."),
        ):
            meter.create_observable_counter(name, [self._counter_callback(name)], unit, description)
        for name, unit, description, read in (
            (CONNECTIONS, "{connection}", "Connections by state.", self._states),
            (SUBSCRIPTIONS, "{subscription}", "The application's subscriptions.", self._subscriptions),
            (PENDING_MESSAGES, "{message}", "Messages waiting in subscriptions' queues.", self._pending_messages),
            (PENDING_BYTES, "By", "Bytes waiting in subscriptions' queues.", self._pending_bytes),
        ):
            meter.create_observable_up_down_counter(name, [_callback(read)], unit, description)
        meter.create_observable_gauge(
            CONSUMER_PENDING,
            [_callback(self._consumer_pending)],
            "{message}",
            "Messages that the consumer has not been sent yet, as of its last delivery.",
        )

    def register(self, connection: Connection, client: Any) -> None:
        with self._lock:
            self._retire()
            self._live[id(connection)] = connection
        # A weak reference's callback may run in the middle of anything: it only leaves a note.
        connection.client = ref(client, lambda _: self._dead.append(connection))

    def retire_all(self) -> None:
        with self._lock:
            self._dead.extend(self._live.values())
            self._retire()

    def _retire(self) -> None:
        while self._dead:
            connection = self._dead.popleft()
            if self._live.pop(id(connection), None) is None:
                continue
            for name, attributes, value in connection.readings():
                key = (name, frozenset(attributes.items()))
                before = self._retired.get(key)
                self._retired[key] = (name, attributes, value + (before[2] if before else 0))

    def _connections(self) -> list[Connection]:
        with self._lock:
            self._retire()
            return list(self._live.values())

    def _counter_callback(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read() -> Iterator[tuple[Attributes, int]]:
            # One lock for both, or a connection retired in between would be counted twice, or not at all.
            with self._lock:
                connections = self._connections()
                retired = list(self._retired.values())
            for connection in connections:
                for reading in connection.readings():
                    if reading[0] == name:
                        yield reading[1], reading[2]
            for reading in retired:
                if reading[0] == name:
                    yield reading[1], reading[2]

        return _callback(read)

    def _by_server(self, read: Callable[[Connection], int]) -> Iterator[tuple[Attributes, int]]:
        for connection in self._connections():
            server = connection.server_attributes
            self._servers[frozenset(server.items())] = server
            yield server, read(connection)
        # What nobody has any more must be seen to be zero, or the last value stays in a backend for a while, and an
        # alert on it does not resolve.
        for server in list(self._servers.values()):
            yield server, 0

    def _states(self) -> Iterator[tuple[Attributes, int]]:
        for state in _CONNECTION_STATES:
            for server, count in self._by_server(partial(_in_state, state)):
                yield {**server, CONNECTION_STATE: state}, count

    def _subscriptions(self) -> Iterator[tuple[Attributes, int]]:
        return self._by_server(lambda connection: len(connection.subscriptions()))

    def _pending_messages(self) -> Iterator[tuple[Attributes, int]]:
        return self._by_server(lambda connection: sum(sub.pending_msgs for sub in connection.subscriptions()))

    def _pending_bytes(self) -> Iterator[tuple[Attributes, int]]:
        return self._by_server(lambda connection: sum(sub.pending_bytes for sub in connection.subscriptions()))

    def _consumer_pending(self) -> Iterator[tuple[Attributes, int]]:
        latest: dict[frozenset[Any], JetStreamSeries] = {}
        for connection in self._connections():
            if connection.state() is None:
                continue  # closed: nobody corrects its number any more
            for series in list(connection.jetstream.values()):
                key = frozenset(series.attributes.items())
                if series.seen_at and (key not in latest or latest[key].seen_at < series.seen_at):
                    latest[key] = series
        for series in latest.values():
            yield series.attributes, series.pending


def _in_state(state: str, connection: Connection) -> int:
    return connection.state() == state


def _callback(
    read: Callable[[], Iterator[tuple[Attributes, int]]],
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """Makes an observable's callback that adds up what has the same attributes: an SDK may keep only one of them."""

    def observe(_: CallbackOptions) -> list[Observation]:
        sums: dict[frozenset[Any], tuple[Attributes, int]] = {}
        for attributes, value in read():
            key = frozenset(attributes.items())
            sums[key] = (attributes, value + (sums[key][1] if key in sums else 0))
        return [Observation(value, attributes) for attributes, value in sums.values()]

    return observe
