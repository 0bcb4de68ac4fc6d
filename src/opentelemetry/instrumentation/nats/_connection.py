# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What stays the same from message to message: the connection, and where its messages come from and go to.

A span's attributes are mostly those of the span before it. So they are built once per server, per subject and per
subscription, and a message only adds its own few. Every cache here is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from sys import intern
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._metrics import (
    ASYNC_ERRORS,
    DROPPED,
    RECEIVED_BYTES,
    RECONNECTS,
    REDELIVERIES,
    SENT_BYTES,
    JetStreamSeries,
    Reading,
    Series,
)
from opentelemetry.instrumentation.nats._subjects import (
    ACK_PREFIX,
    INBOX_PREFIX,
    has_wildcard,
    is_plumbing,
    reduce_subject,
)
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.network_attributes import NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.trace import SpanKind

if TYPE_CHECKING:
    from opentelemetry.instrumentation.nats._telemetry import Telemetry

_CACHED_SUBJECTS = 1024

_HEADERS_AT_MOST = 65536
"""Bytes that nobody's trace headers reach."""

_SEND = messaging.MessagingOperationTypeValues.SEND.value
_RECEIVE = messaging.MessagingOperationTypeValues.RECEIVE.value
_PROCESS = messaging.MessagingOperationTypeValues.PROCESS.value
_SETTLE = messaging.MessagingOperationTypeValues.SETTLE.value

# The numbers that nats-py's Client gives its states; closed is no state of a connection, there is none.
_STATES = {0: "disconnected", 1: "connected", 3: "reconnecting", 4: "connecting", 5: "draining", 6: "draining"}


class Operation:
    """A kind of operation, one for each row of the span table in docs/semconv.

    Attributes:
        name: `messaging.operation.name`, and the first word of the span's name.
        type: `messaging.operation.type`, or None where the conventions have none.
        kind: The span's kind.
        counter: The counter of the messages that it sends or consumes, or None.
        counts_at_end: Whether its message counts when it is over, with its error; what is received counts at once.
        attributes: What else its spans have.
    """

    __slots__ = ("attributes", "counter", "counts_at_end", "kind", "name", "type")

    def __init__(
        self,
        name: str,
        type_: str | None,
        kind: SpanKind,
        counter: str | None = None,
        counts_at_end: bool = False,
        attributes: Attributes | None = None,
    ) -> None:
        self.attributes = attributes or {}
        self.name = name
        self.type = type_
        self.kind = kind
        self.counter = counter
        self.counts_at_end = counts_at_end

    @staticmethod
    def send(name: str, kind: SpanKind = SpanKind.PRODUCER, attributes: Attributes | None = None) -> Operation:
        """An operation that sends a message of the application."""
        return Operation(name, _SEND, kind, messaging_metrics.MESSAGING_CLIENT_SENT_MESSAGES, True, attributes)

    @staticmethod
    def receive(name: str) -> Operation:
        """An operation by which the application asks for messages."""
        return Operation(name, _RECEIVE, SpanKind.CLIENT, messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES)

    @staticmethod
    def read(name: str) -> Operation:
        """An operation that reads stored messages, which is no delivery."""
        return Operation(name, _RECEIVE, SpanKind.CLIENT)

    @staticmethod
    def settle(name: str) -> Operation:
        """An operation that acknowledges a message."""
        return Operation(name, _SETTLE, SpanKind.CLIENT)

    @staticmethod
    def client(name: str) -> Operation:
        """An operation on the server that is about no message."""
        return Operation(name, None, SpanKind.CLIENT)


PUBLISH = Operation.send("publish")
REPLY = Operation.send("reply")
REQUEST = Operation.send("request", SpanKind.CLIENT)
RECEIVE = Operation.receive("receive")
PROCESS = Operation("process", _PROCESS, SpanKind.CONSUMER, messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES)


class Destination(NamedTuple):
    """What a span is about.

    Attributes:
        name: The exact subject, stream or bucket.
        template: Its low-cardinality form, if it has one.
        inbox: Whether it is an inbox, whose name never enters a span name or a metric.
        subject: Whether `name` is a subject, which the subject options apply to.
    """

    name: str
    template: str | None = None
    inbox: bool = False
    subject: bool = True


class Channel:
    """One operation on one destination through one connection: all that its spans and metrics have in common.

    Attributes:
        connection: The connection.
        operation: The operation.
        kind: The kind of its spans.
        span_name: Name of its spans.
        attributes: The spans' attributes at creation; copy before adding what only one message has.
        series: Its metrics.
        excluded: Whether the user excluded the subject: no spans, no metrics.
        carries_context: Whether a message sent may be given trace headers.
        counts_at_end: Whether the message counts when an operation is over.
        shared: Whether it is that of all subjects with its template, so that each message brings its own.
    """

    __slots__ = (
        "attributes",
        "carries_context",
        "connection",
        "counts_at_end",
        "excluded",
        "kind",
        "operation",
        "series",
        "shared",
        "span_name",
    )

    def __init__(
        self, connection: Connection, operation: Operation, span_name: str, attributes: Attributes, series: Series
    ) -> None:
        self.connection = connection
        self.operation = operation
        self.kind = operation.kind
        self.span_name = span_name
        self.attributes = attributes
        self.series = series
        self.excluded = False
        self.carries_context = True
        self.counts_at_end = operation.counts_at_end
        self.shared = False


class Source:
    """Where delivered messages come from: a subscription, a watcher or a service's endpoint.

    Args:
        connection: The connection that it belongs to.
        subject: The subject that the user subscribed to, or the stream or bucket where there is none.
        group: Queue group, else durable consumer.
        consumer: Name of the JetStream consumer where somebody chose it; made-up names are no metric attribute.
        attributes: What the spans of its messages have besides: the bucket's, the service's.
        bucket: Whether `subject` is a bucket, which is the destination of all its messages.
        stream: Whether `subject` is a stream, because the subject is not known.
        internal: Whether nats-py made the subscription for itself.
        excluded: Whether the user excluded the bucket: no spans, no metrics.
    """

    __slots__ = (
        "_channels",
        "_pattern",
        "_shared",
        "attributes",
        "bucket",
        "connection",
        "consumer",
        "excluded",
        "generation",
        "group",
        "internal",
        "stream",
        "subject",
    )

    def __init__(
        self,
        connection: Connection,
        subject: str,
        *,
        group: str | None = None,
        consumer: str | None = None,
        attributes: Attributes | None = None,
        bucket: bool = False,
        stream: bool = False,
        internal: bool = False,
        excluded: bool = False,
    ) -> None:
        self.connection = connection
        self.subject = subject
        self.group = group or consumer
        self.consumer = consumer
        self.attributes = attributes
        self.bucket = bucket
        self.stream = stream
        self.internal = internal
        self.excluded = excluded
        self.generation = connection.generation
        self._pattern = subject if not (bucket or stream) and has_wildcard(subject) else None
        # All messages share a channel, unless their own subject decides: by an option, or by being an inbox.
        self._shared = bucket or (
            self._pattern is not None and subject[0] not in "*>" and not connection.telemetry.options.by_subject
        )
        self._channels: dict[tuple[Operation, str], Channel] = {}

    def channel(self, operation: Operation, subject: str) -> Channel:
        """Returns the channel of an operation on a message with this subject."""
        if self.generation != self.connection.generation:
            self._channels.clear()
            self.generation = self.connection.generation
        if self._shared:
            subject = self.subject
        key = (operation, subject)
        channel = self._channels.get(key)
        if channel is None:
            if len(self._channels) >= _CACHED_SUBJECTS:
                self._channels.clear()
            destination = (
                self.connection.resource(subject)
                if self.bucket or (self.stream and subject == self.subject)
                else self.connection.destination(subject, self._pattern)
            )
            channel = self._channels[key] = self.connection.make_channel(operation, destination, self)
        return channel


class _Split(NamedTuple):
    """A client's statistics, split over the servers that it was connected to.

    Attributes:
        server: The metric attributes of the server that it is connected to.
        since: What the statistics were when that began.
        before: What is due to the servers before.
    """

    server: Attributes
    since: dict[str, int]
    before: tuple[tuple[Attributes, dict[str, int]], ...]

    def counts(self, stats: dict[str, int]) -> tuple[tuple[Attributes, dict[str, int]], ...]:
        """Returns what is due to each server, where these are the client's statistics now."""
        since = self.since
        return *self.before, (self.server, {name: value - since.get(name, 0) for name, value in stats.items()})

    def follow(self, server: Attributes, stats: dict[str, int]) -> _Split:
        """Returns the split from here on, where another server comes now; one that comes again keeps one place."""
        if not self.server:
            return self._replace(server=server)
        merged: dict[frozenset[Any], tuple[Attributes, dict[str, int]]] = {}
        for attributes, counts in self.counts(stats):
            key = frozenset(attributes.items())
            earlier = merged[key][1] if key in merged else {}
            merged[key] = attributes, {name: value + earlier.get(name, 0) for name, value in counts.items()}
        return _Split(server, stats, tuple(merged.values()))


class Connection:
    """A client's connection, as spans and metrics describe it.

    Args:
        telemetry: What it belongs to.
        client: The nats-py client; held weakly.
        counted: Whether an earlier `instrument()` call has counted what the client has done so far.

    Attributes:
        channels: The channels of operations that `channel()` was asked for.
        supports_headers: Whether the server takes headers.
        max_payload: Bytes of payload and headers that it takes.
        ample: The largest payload, in bytes, beside which our headers find room unmeasured; -1 where they find none.
    """

    __slots__ = (
        "__weakref__",
        "_errors",
        "_inbox",
        "_publishing",
        "_reply_channel",
        "_series",
        "_split",
        "_stats",
        "_templates",
        "ample",
        "attributes",
        "channels",
        "client",
        "generation",
        "jetstream",
        "max_payload",
        "peer_attributes",
        "server_attributes",
        "supports_headers",
        "telemetry",
    )

    def __init__(self, telemetry: Telemetry, client: Any, counted: bool = False) -> None:
        self.telemetry = telemetry
        self.client: ref[Any] = ref(client)
        self.generation = 0
        self.supports_headers = False
        self.max_payload = 0
        self.ample = -1
        self.attributes: Attributes = {}
        self.peer_attributes: Attributes = {}
        self.server_attributes: Attributes = {}
        self.jetstream: dict[tuple[str, str | None], JetStreamSeries] = {}
        self._inbox = INBOX_PREFIX
        self._publishing: dict[str, Channel] = {}
        self._templates: dict[str, Channel] = {}
        self.channels: dict[tuple[Operation, str | None], Channel] = {}
        self._reply_channel: Channel | None = None
        self._series: dict[int, Series] = {}
        self._errors: dict[frozenset[Any], tuple[str, Attributes, int]] = {}
        self._stats: dict[str, int] = client.stats
        if type(self._stats) is not dict:
            raise TypeError("a mock of a client")  # which would answer everything, with mocks
        # The client's own counters never go back; this splits them over the servers that it was connected to. Replaced
        # as a whole, because a reader's thread may look at any time.
        self._split = _Split({}, self._stats.copy() if counted else dict.fromkeys(self._stats, 0), ())
        self.refresh(client)
        telemetry.metrics.register(self, client)

    def refresh(self, client: Any) -> None:
        """Reads from the client which server it is connected to; called whenever it has (re)connected."""
        # While reconnecting, `connected_url` is None though publish still buffers; the current server stays.
        server = client._current_server or next(iter(client._server_pool), None)
        attributes: Attributes = {messaging.MESSAGING_SYSTEM: names.SYSTEM}
        if server is not None:
            attributes.update(address_attributes(server.uri))
        if self._split.server != attributes:
            self._split = self._split.follow(attributes, self._stats.copy())
        self.server_attributes = attributes
        self.attributes = dict(attributes)
        client_id = client.client_id
        if client_id is not None:
            self.attributes[messaging.MESSAGING_CLIENT_ID] = str(client_id)
        self.peer_attributes = {**self.attributes, **_peer(client)}
        self.supports_headers = bool(client._server_info.get("headers"))
        self.max_payload = client.max_payload
        self.ample = self.max_payload - _HEADERS_AT_MOST if self.supports_headers else -1
        self._inbox = bytes(client._inbox_prefix).decode() + "."
        self._publishing.clear()
        self._templates.clear()
        self.channels.clear()
        self._reply_channel = None
        self.generation += 1

    def is_inbox(self, subject: str) -> bool:
        """Tells whether a subject is an inbox of this client, another client's by default, or an acknowledgement."""
        return subject.startswith((self._inbox, INBOX_PREFIX, ACK_PREFIX))

    def destination(self, subject: str, pattern: str | None = None) -> Destination:
        """Describes a subject.

        Args:
            subject: The exact subject.
            pattern: The wildcard subject of the subscription that the message came through, if any.
        """
        if self.is_inbox(subject):
            return Destination(subject, inbox=True)
        return Destination(subject, self.telemetry.template(subject, pattern))

    def resource(self, name: str) -> Destination:
        """Describes a stream or a bucket."""
        return Destination(name, reduce_subject(name), subject=False)

    def channel(self, operation: Operation, name: str | None, *, resource: bool = False) -> Channel:
        """Returns the channel of an operation.

        Args:
            operation: The operation.
            name: The subject that it is about, or the stream or bucket; None for the server or the account.
            resource: Whether `name` is that of a stream or bucket.
        """
        key = (operation, name)
        channel = self.channels.get(key)
        if channel is None:
            destination = None
            if name is not None:
                destination = self.resource(name) if resource else self.destination(name)
            channel = self.make_channel(operation, destination)
            if destination is None or not destination.inbox:
                if len(self.channels) >= _CACHED_SUBJECTS:
                    self.channels.clear()
                self.channels[key] = channel
        return channel

    def publish_channel(self, subject: str) -> Channel:
        """Returns the channel of a publish; to an inbox, that is a reply.

        What a library publishes on its own account, pull requests and the like, counts as excluded.
        """
        channel = self._publishing.get(subject)
        if channel is None:
            if self.is_inbox(subject):
                return self.reply_channel(subject)
            channel = self._make_publish_channel(subject)
            if len(self._publishing) >= _CACHED_SUBJECTS:
                self._publishing.clear()
            self._publishing[subject] = channel
        return channel

    def _make_publish_channel(self, subject: str) -> Channel:
        destination = self.destination(subject)
        options = self.telemetry.options
        if (
            options.by_subject
            or options.propagation_excluded_subjects
            or subject.startswith("$")
            or (destination.template is None and self.telemetry.label(destination) is not None)
        ):
            channel = self.make_channel(PUBLISH, destination)
            channel.excluded = channel.excluded or is_plumbing(subject)
            return channel
        # One for all subjects of the template, and one for all that have no name of their own any more: a channel for
        # each of them is garbage that the collector has to walk.
        template = destination.template or ""
        channel = self._templates.get(template)
        if channel is None:
            channel = self.make_channel(PUBLISH, destination)
            channel.shared = True
            if len(self._templates) >= _CACHED_SUBJECTS:
                self._templates.clear()
            self._templates[template] = channel
        return channel

    def reply_channel(self, subject: str) -> Channel:
        """Returns the channel of a reply; its attributes have this inbox."""
        made = self._reply_channel
        if made is None:
            made = self._reply_channel = self.make_channel(REPLY, Destination("", inbox=True))
        channel = Channel(self, REPLY, made.span_name, made.attributes.copy(), made.series)
        channel.attributes[messaging.MESSAGING_DESTINATION_NAME] = subject
        channel.attributes[messaging.MESSAGING_MESSAGE_CONVERSATION_ID] = subject
        channel.excluded = self.telemetry.is_excluded(subject)
        channel.carries_context = self.telemetry.carries_context(subject)
        return channel

    def make_channel(
        self, operation: Operation, destination: Destination | None, source: Source | None = None
    ) -> Channel:
        """Builds a channel; callers on a hot path keep it.

        Args:
            operation: The operation.
            destination: What it is about; None for what is about the server or the account.
            source: Where the messages come from that it receives.
        """
        label = None
        contacts_server = operation.kind is not SpanKind.CONSUMER
        attributes = {**(self.peer_attributes if contacts_server else self.attributes), **operation.attributes}
        metric = dict(self.server_attributes)
        attributes[messaging.MESSAGING_OPERATION_NAME] = metric[messaging.MESSAGING_OPERATION_NAME] = operation.name
        if operation.type is not None:
            attributes[messaging.MESSAGING_OPERATION_TYPE] = operation.type
            if operation is not PROCESS:
                metric[messaging.MESSAGING_OPERATION_TYPE] = operation.type
        if destination is not None:
            attributes[messaging.MESSAGING_DESTINATION_NAME] = destination.name
            if destination.inbox:
                attributes[messaging.MESSAGING_DESTINATION_TEMPORARY] = True
                attributes[messaging.MESSAGING_DESTINATION_ANONYMOUS] = True
            else:
                label = self.telemetry.label(destination)
            if destination.template is not None:
                attributes[messaging.MESSAGING_DESTINATION_TEMPLATE] = destination.template
            if label is not None:
                metric[
                    messaging.MESSAGING_DESTINATION_NAME
                    if destination.template is None
                    else messaging.MESSAGING_DESTINATION_TEMPLATE
                ] = label
        if source is not None:
            if source.group:
                attributes[messaging.MESSAGING_CONSUMER_GROUP_NAME] = source.group
                metric[messaging.MESSAGING_CONSUMER_GROUP_NAME] = source.group
            if source.consumer:
                metric[messaging.MESSAGING_DESTINATION_SUBSCRIPTION_NAME] = source.consumer
            if source.attributes:
                attributes.update(source.attributes)
        channel = Channel(
            self,
            operation,
            operation.name if label is None else intern(f"{operation.name} {label}"),  # each client has one like it
            attributes,
            self.series(operation, metric),
        )
        if destination is not None and destination.subject:
            channel.excluded = self.telemetry.is_excluded(destination.name)
            channel.carries_context = self.telemetry.carries_context(destination.name)
        elif source is not None:
            channel.excluded = source.excluded
        return channel

    def series(self, operation: Operation, attributes: Attributes) -> Series:
        """Returns the one series with these attributes, so that a channel made again goes on counting."""
        shared = self.telemetry.metrics.shared(attributes)
        series = self._series.get(id(shared))  # it lives as long as the telemetry: nothing else gets its number
        if series is None:
            series = self._series[id(shared)] = Series(operation.counter, shared)
        return series

    def jetstream_series(self, stream: str, consumer: str | None) -> JetStreamSeries:
        """Returns the delivery metrics of a stream, by consumer where somebody chose its name."""
        series = self.jetstream.get((stream, consumer))
        if series is None:
            attributes: Attributes = {messaging.MESSAGING_SYSTEM: names.SYSTEM, names.JETSTREAM_STREAM: stream}
            if consumer:
                attributes[names.JETSTREAM_CONSUMER] = consumer
            series = self.jetstream[stream, consumer] = JetStreamSeries(attributes)
        return series

    def count_error(self, error_type: str, dropped_from: Any = None) -> None:
        """Counts what reaches the error callback.

        Args:
            error_type: The error's type.
            dropped_from: The subscription whose queue was full, when that is what the error says.
        """
        self._count(ASYNC_ERRORS, {**self.server_attributes, ERROR_TYPE: error_type})
        if dropped_from is not None:
            source = self.source(dropped_from)
            channel = source.channel(PROCESS, source.subject)
            if not channel.excluded:
                attributes = channel.series.attributes.copy()
                del attributes[messaging.MESSAGING_OPERATION_NAME]
                self._count(DROPPED, attributes)

    def _count(self, instrument: str, attributes: Attributes) -> None:
        key = frozenset({**attributes, "": instrument}.items())
        before = self._errors.get(key)
        self._errors[key] = (instrument, attributes, (before[2] if before else 0) + 1)

    def readings(self) -> Iterator[Reading]:
        """Yields all that this connection has counted; runs in a reader's thread."""
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
        yield from list(self._errors.values())

    def state(self) -> str | None:
        """Returns the state of the connection; None once it is closed."""
        client = self.client()
        return None if client is None else _STATES.get(client._status)

    def subscriptions(self) -> list[Any]:
        """Returns the application's subscriptions."""
        client = self.client()
        if client is None:
            return []
        return [sub for sub in list(client._subs.values()) if not self.source(sub).internal]

    def source(self, subscription: Any) -> Source:
        """Returns where a subscription's messages come from."""
        # JetStream's subscriptions wrap a core one; what we know is kept on that.
        core = getattr(subscription, "_sub", subscription)
        source = core.__dict__.get(SOURCE)
        if source is None or source.connection is not self:
            internal = core._future is not None if source is None else source.internal
            source = core.__dict__[SOURCE] = Source(self, core._subject, group=core._queue, internal=internal)
        return source


SOURCE = "_opentelemetry_source"
"""The attribute of a core subscription that keeps its `Source`."""


class _NoClient:
    """What a fake of a client is taken for: connected to nothing."""

    client_id = None
    max_payload = 0
    _current_server = None
    _inbox_prefix = b"_INBOX"
    _server_info: dict[str, Any] = {}
    _server_pool = ()
    _status = None
    _subs: dict[int, Any] = {}
    _transport = None
    stats = {"in_bytes": 0, "out_bytes": 0, "reconnects": 0}


NO_CLIENT = _NoClient()


def is_client(client: object) -> bool:
    """Tells whether something is nats-py's client, or a subclass of it, rather than a fake."""
    return hasattr(type(client), "_process_connect_init")


def address_attributes(uri: Any) -> Attributes:
    """Reads `server.address` and `server.port` from a parsed URL; never its credentials."""
    attributes: Attributes = {}
    if uri.hostname:
        attributes[SERVER_ADDRESS] = uri.hostname
    if uri.port is not None:
        attributes[SERVER_PORT] = uri.port
    return attributes


def _peer(client: Any) -> Attributes:
    transport = client._transport
    # TCP and TLS keep a stream writer, WebSocket an aiohttp response; both can tell the socket's peer.
    connected = getattr(transport, "_io_writer", None) or getattr(transport, "_ws", None)
    peer = connected.get_extra_info("peername") if connected is not None else None
    if not isinstance(peer, tuple) or len(peer) < 2:  # pyright: ignore[reportUnknownArgumentType]
        return {}
    address: Any = peer[0]  # pyright: ignore[reportUnknownVariableType]
    port: Any = peer[1]  # pyright: ignore[reportUnknownVariableType]
    return {NETWORK_PEER_ADDRESS: address, NETWORK_PEER_PORT: port}
