# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a metric reader finds when it collects: the statistics, states and counts of clients, closed ones too."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from threading import RLock
from typing import Any, Protocol
from weakref import ref

from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats._attributes import CONNECTION_STATE, Attributes
from opentelemetry.instrumentation.nats._bounds import Bounds
from opentelemetry.instrumentation.nats._naming import Naming, add_name
from opentelemetry.instrumentation.nats._series import (
    DEAD_LETTERS,
    DELIVERY_LATENCY,
    RECEIVED_BYTES,
    RECONNECTS,
    REDELIVERIES,
    SENT_BYTES,
    JetStreamSeries,
    Reading,
    Series,
)
from opentelemetry.instrumentation.nats._splitting import Split
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

# Streams and consumers whose series a client remembers; past that it forgets all and begins again.
_FOUND_AT_MOST = 1024

_CONNECTION_STATES = ("connecting", "connected", "reconnecting", "draining", "disconnected")


class ClientView(Protocol):
    """What is read of a client when a reader collects, in the reader's thread; it does not keep the client alive."""

    def state(self) -> str | None:
        """Returns the state of the client's connection; None once it is closed, or the client is gone."""
        ...

    def pending(self) -> Sequence[tuple[int, int]]:
        """Returns messages and bytes that wait in each of the application's subscriptions."""
        ...


class Processed(Protocol):
    """What is read of a message that is being processed."""

    @property
    def series(self) -> Series:
        """The metrics of its processing."""
        ...


class ClientReadings:
    """All that one client counts.

    Args:
        view: What is read of the client itself.
        stats: The client's own statistics, a dictionary that it goes on changing.
        bounds: The bounds of series.
        counted: Whether an earlier `instrument()` call has counted what the client has done so far.

    Attributes:
        view: The view.
        server: The metric attributes of the server that it is connected to.
        jetstream: The delivery metrics.
        processing: The messages that are being processed now.
        processes: The metrics of all that may be processed.
        reference: Knows whether the client is still there.
    """

    __slots__ = (
        "_bounds",
        "_counts",
        "_found",
        "_series",
        "_split",
        "_stats",
        "jetstream",
        "processes",
        "processing",
        "reference",
        "server",
        "view",
    )

    def __init__(
        self,
        view: ClientView,
        stats: dict[str, int],
        bounds: Bounds,
        counted: bool = False,
    ) -> None:
        self.view = view
        self.server: Attributes = {}
        self.jetstream: dict[int, JetStreamSeries] = {}
        self.processing: set[Processed] = set()
        self.processes: set[Series] = set()
        self.reference: ref[Any] | None = None
        self._stats = stats
        self._bounds = bounds
        # The client's own counters never go back; this splits them over the servers that it was connected to. Replaced
        # as a whole, because a reader's thread may look at any time.
        self._split = Split({}, stats.copy() if counted else dict.fromkeys(stats, 0), ())
        self._series: dict[int, Series] = {}
        self._found: dict[tuple[str, str | None], JetStreamSeries] = {}
        self._counts: dict[tuple[str, int], Reading] = {}

    def follow(self, server: Attributes) -> None:
        """Counts for another server from now on."""
        self.server = server = self._bounds.server(server)
        if self._split.server != server:
            self._split = self._split.follow(server, self._stats.copy())

    # What bounds are asked for lives as long as they do: nothing else gets its number.

    def series(self, counter: str | None, attributes: Attributes) -> Series:
        """Returns the one series with these attributes, so that whoever asks again goes on counting."""
        shared = self._bounds.operation(counter, attributes)
        series = self._series.get(id(shared))
        if series is None:
            series = self._series[id(shared)] = Series(self._bounds, counter, shared)
        return series

    def jetstream_series(self, stream: str, consumer: str | None, naming: Naming) -> JetStreamSeries:
        """Returns the delivery metrics of a stream, by consumer where somebody chose its name."""
        series = self._found.get((stream, consumer))
        if series is None:
            attributes: Attributes = {messaging.MESSAGING_SYSTEM: names.SYSTEM}
            add_name(attributes, names.JETSTREAM_STREAM, naming.stream(stream))
            if consumer:
                add_name(attributes, names.JETSTREAM_CONSUMER, naming.consumer(consumer))
            attributes = self._bounds.fit(attributes, DELIVERY_LATENCY)
            series = self.jetstream.get(id(attributes))
            if series is None:
                one = attributes.get(names.JETSTREAM_CONSUMER) == consumer
                one = one and attributes.get(names.JETSTREAM_STREAM) == stream
                series = self.jetstream[id(attributes)] = JetStreamSeries(attributes, one)
            if len(self._found) >= _FOUND_AT_MOST:
                self._found.clear()
            self._found[stream, consumer] = series
        return series

    def count(self, instrument: str, attributes: Attributes) -> None:
        """Adds one to a counter that is no series: of what happens rarely."""
        attributes = self._bounds.fit(attributes, instrument)
        key = (instrument, id(attributes))
        before = self._counts.get(key)
        self._counts[key] = (instrument, attributes, (before[2] if before else 0) + 1)

    def readings(self) -> Iterator[Reading]:
        """Yields all that has been counted; runs in a reader's thread."""
        while True:
            split = self._split
            stats = self._stats.copy()
            if split is self._split:
                break
        for attributes, counts in split.counts(stats):
            yield SENT_BYTES, attributes, counts["out_bytes"]
            yield RECEIVED_BYTES, attributes, counts["in_bytes"]
            yield RECONNECTS, attributes, counts["reconnects"]
        for series in list(self._series.values()):
            yield from series.readings()
        for delivered in list(self.jetstream.values()):
            yield REDELIVERIES, delivered.attributes, delivered.redeliveries
            if delivered.dead_letters is not None:
                yield DEAD_LETTERS, delivered.attributes, delivered.dead_letters
        yield from list(self._counts.values())


Observe = Callable[[CallbackOptions], Iterable[Observation]]
"""The callback of an observable instrument."""


class Readings:
    """What the observable instruments of one meter provider are read from: all clients that there are, or were.

    Attributes:
        bounds: The bounds of series. They stay when nats-py is instrumented anew: the provider's series do, too.
    """

    def __init__(self) -> None:
        self.bounds = Bounds()
        self._lock = RLock()
        self._live: dict[int, ClientReadings] = {}
        self._dead: deque[ClientReadings] = deque()
        self._retired: dict[tuple[str, frozenset[Any]], Reading] = {}
        self._servers: dict[frozenset[Any], Attributes] = {}
        self._processed: dict[frozenset[Any], Attributes] = {}
        self.states: Observe = _observe(self._states)
        self.subscriptions: Observe = _observe(partial(self._by_server, _subscriptions))
        self.pending_messages: Observe = _observe(partial(self._by_server, _pending_messages))
        self.processing: Observe = _observe(self._processing)
        self.pending_bytes: Observe = _observe(partial(self._by_server, _pending_bytes))
        self.consumer_pending: Observe = _observe(self._consumer_pending)

    def register(self, readings: ClientReadings, client: Any) -> None:
        """Reads a client at every collection from now on, and keeps its counts when it is gone."""
        with self._lock:
            self._retire()
            self._live[id(readings)] = readings
        # A weak reference's callback may run in the middle of anything: it only leaves a note.
        readings.reference = ref(client, lambda _: self._dead.append(readings))

    def retire_all(self) -> None:
        """Keeps what has been counted, and reads no client any more."""
        with self._lock:
            self._dead.extend(self._live.values())
            self._retire()

    def _retire(self) -> None:
        while self._dead:
            client = self._dead.popleft()
            if self._live.pop(id(client), None) is None:
                continue
            for name, attributes, value in client.readings():
                key = (name, frozenset(attributes.items()))
                before = self._retired.get(key)
                self._retired[key] = (name, attributes, value + (before[2] if before else 0))

    def _clients(self) -> list[ClientReadings]:
        with self._lock:
            self._retire()
            return list(self._live.values())

    def counter(self, name: str) -> Observe:
        """Makes the callback of a counter."""

        def read() -> Iterator[tuple[Attributes, int]]:
            # One lock for both, or a client retired in between would be counted twice, or not at all.
            with self._lock:
                clients = self._clients()
                retired = list(self._retired.values())
            for client in clients:
                for reading in client.readings():
                    if reading[0] == name:
                        yield reading[1], reading[2]
            for reading in retired:
                if reading[0] == name:
                    yield reading[1], reading[2]

        return _observe(read)

    def _by_server(self, read: Callable[[ClientView], int]) -> Iterator[tuple[Attributes, int]]:
        for client in self._clients():
            server = client.server
            self._servers[frozenset(server.items())] = server
            yield server, read(client.view)
        # What nobody has any more must be seen to be zero, or the last value stays in a backend for a while, and an
        # alert on it does not resolve.
        for server in list(self._servers.values()):
            yield server, 0

    def _processing(self) -> Iterator[tuple[Attributes, int]]:
        for client in self._clients():
            # Copies made in one go: other threads begin and end messages meanwhile.
            counts = Counter(message.series for message in list(client.processing))
            for series in list(client.processes):
                attributes = series.destination()
                self._processed[frozenset(attributes.items())] = attributes
                yield attributes, counts[series]
        for attributes in list(self._processed.values()):
            yield attributes, 0  # as above

    def _states(self) -> Iterator[tuple[Attributes, int]]:
        for state in _CONNECTION_STATES:
            for server, count in self._by_server(partial(_in_state, state)):
                yield {**server, CONNECTION_STATE: state}, count

    def _consumer_pending(self) -> Iterator[tuple[Attributes, int]]:
        latest: dict[frozenset[Any], JetStreamSeries] = {}
        for client in self._clients():
            if client.view.state() is None:
                continue  # closed: nobody corrects its number any more
            for series in list(client.jetstream.values()):
                key = frozenset(series.attributes.items())
                if series.seen_at and (key not in latest or latest[key].seen_at < series.seen_at):
                    latest[key] = series
        for series in latest.values():
            yield series.attributes, series.pending


def _in_state(state: str, view: ClientView) -> int:
    return view.state() == state


def _subscriptions(view: ClientView) -> int:
    return len(view.pending())


def _pending_messages(view: ClientView) -> int:
    return sum(messages for messages, _ in view.pending())


def _pending_bytes(view: ClientView) -> int:
    return sum(size for _, size in view.pending())


def _observe(read: Callable[[], Iterator[tuple[Attributes, int]]]) -> Observe:
    """Makes an observable's callback that adds up what has the same attributes: an SDK may keep only one of them."""

    def observe(_: CallbackOptions) -> list[Observation]:
        sums: dict[frozenset[Any], tuple[Attributes, int]] = {}
        for attributes, value in read():
            key = frozenset(attributes.items())
            sums[key] = (attributes, value + (sums[key][1] if key in sums else 0))
        return [Observation(value, attributes) for attributes, value in sums.values()]

    return observe
