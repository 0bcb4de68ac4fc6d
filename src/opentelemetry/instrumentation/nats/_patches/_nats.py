# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Every private name of nats-py that we read, each by a small function of its own.

A later nats-py may rename what is private. Then a reader here logs it once and returns what stands for "not known":
that costs the telemetry which its docstring names, and never raises into a program.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast
from weakref import ref

from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._calls import API_PREFIX
from opentelemetry.instrumentation.nats._connection import ClientState
from opentelemetry.instrumentation.nats._subjects import INBOX_PREFIX

_MISSING: Any = object()


def find_class(module: str, path: str, *, optional: bool = False) -> Any:
    """Returns a class of nats-py; None where this release has none, so that its rows are left out.

    Args:
        module: The module that defines it.
        path: Its name there, with those of the classes around it.
        optional: Whether older releases have none, so that nothing is to be said.
    """
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        found = None
    for name in path.split("."):
        found = getattr(found, name, None)
    if found is None and not optional:
        _faults.lost(f"{module}.{path}", "what goes through it is not traced")
    return found


def find_errors(module: str, *names: str) -> tuple[type[BaseException], ...]:
    """Returns those of nats-py's exceptions that this release has. Without one, its outcome counts as unexpected."""
    errors = importlib.import_module(module)
    return tuple(getattr(errors, name) for name in names if hasattr(errors, name))


def _read(owner: object, name: str, default: Any, costs: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        # A fake of a client, in a program's own tests, lacks whatever it likes.
        if any(cls.__module__.startswith("nats.") for cls in type(owner).__mro__):
            _faults.lost(f"{type(owner).__qualname__}.{name}", costs)
        return default


class Client(Protocol):
    """What we use of a `nats.aio.client.Client` that is public."""

    stats: dict[str, int]

    @property
    def client_id(self) -> int | None:
        """The id that the server's monitoring shows."""
        ...

    @property
    def is_closed(self) -> bool:
        """Whether it is closed, for good."""
        ...

    @property
    def max_payload(self) -> int:
        """Bytes that the server takes in a message."""
        ...


# -- the client -------------------------------------------------------------------------------------------------------

# The numbers that nats-py's Client gives its states; closed is no state of a connection, there is none.
_STATES = {0: "disconnected", 1: "connected", 3: "reconnecting", 4: "connecting", 5: "draining", 6: "draining"}


def client_state(client: Client) -> ClientState:
    """Reads what a client says of its connection.

    Without `_current_server` and `_server_pool` spans lack `server.address`; without `_server_info` messages carry no
    context; without `_inbox_prefix` inboxes with a prefix of the client's own count as subjects; without `_transport`
    spans lack `network.peer.address`.
    """
    # While reconnecting, `connected_url` is None though publish still buffers; the current server stays.
    server = _read(client, "_current_server", None, "spans lack server.address")
    if server is None:
        server = next(iter(_read(client, "_server_pool", (), "spans of a failed connect lack server.address")), None)
    uri = getattr(server, "uri", None)
    client_id = client.client_id
    info = _read(client, "_server_info", {}, "messages carry no context")
    prefix = _read(client, "_inbox_prefix", None, "inboxes with a prefix of their own count as subjects")
    address, port = _address(uri)
    return ClientState(
        address=address,
        port=port,
        client_id=None if client_id is None else str(client_id),
        peer=_peer(client),
        headers=bool(info.get("headers")),
        max_payload=client.max_payload,
        inbox=INBOX_PREFIX if prefix is None else bytes(prefix).decode() + ".",
    )


def _address(uri: object) -> tuple[str | None, int | None]:
    # Never the whole URL: it may hold a password.
    try:
        return getattr(uri, "hostname", None) or None, getattr(uri, "port", None)
    except ValueError:
        # With a stray character in the password, part of that passes for the host or the port.
        return None, None


def _peer(client: object) -> tuple[str, int] | None:
    transport = _read(client, "_transport", None, "spans lack network.peer.address")
    # TCP and TLS keep a stream writer, WebSocket an aiohttp response; both can tell the socket's peer.
    connected = getattr(transport, "_io_writer", None) or getattr(transport, "_ws", None)
    try:
        peer: Any = cast("Any", connected).get_extra_info("peername")
    except AttributeError:  # there is no connection, or it is of TLS and asyncio has aborted it
        return None
    return cast("tuple[str, int]", peer[:2]) if isinstance(peer, tuple) and peer[1:] else None


def buffer_is_crowded(client: object) -> bool:
    """Tells whether more than half of a client's buffer is full (`_pending_data_size`, `_max_pending_size`).

    Without one of them: messages that wait for a reconnect carry their context, and fewer of them fit.
    """
    costs = "fewer messages fit into the buffer of a client that reconnects"
    return 2 * _read(client, "_pending_data_size", 0, costs) > _read(client, "_max_pending_size", 0, costs) > 0


class ClientView:
    """What a metric reader reads of a client; see `_readings.ClientView`.

    Args:
        client: The client; held weakly.
        is_application: Tells of a core subscription whether it is the application's.
    """

    __slots__ = ("_client", "_is_application")

    def __init__(self, client: Any, is_application: Callable[[Any], bool]) -> None:
        self._client: ref[Any] = ref(client)
        self._is_application = is_application

    def state(self) -> str | None:
        """Returns the state of the connection. Without `_status`: none, and `nats.client.connections` is zero."""
        client = self._client()
        if client is None:
            return None
        return _STATES.get(_read(client, "_status", None, "nats.client.connections is zero"))

    def pending(self) -> Sequence[tuple[int, int]]:
        """Returns messages and bytes that wait. Without `_subs`: none, and the metrics of subscriptions are zero."""
        client = self._client()
        if client is None:
            return ()
        subscriptions = _read(client, "_subs", {}, "the metrics of subscriptions are zero")
        return [
            (subscription.pending_msgs, subscription.pending_bytes)
            for subscription in list(subscriptions.values())
            if self._is_application(subscription)
        ]


class NoClient:
    """What a fake of a client is taken for: connected to nothing."""

    client_id = None
    max_payload = 0
    stats = {"in_bytes": 0, "out_bytes": 0, "reconnects": 0}
    _current_server = None
    _inbox_prefix = b"_INBOX"
    _server_info: dict[str, Any] = {}
    _server_pool = ()
    _status = None
    _subs: dict[int, Any] = {}
    _transport = None


# -- subscriptions and messages ---------------------------------------------------------------------------------------


def client_of_subscription(subscription: object) -> Any:
    """Returns the client of a core subscription (`_conn`). Without it: its spans lack the server."""
    return _read(subscription, "_conn", None, "spans of received messages lack the server")


def subject_of(subscription: object) -> str:
    """Returns the subject of a core subscription (`_subject`). Without it: spans have no template, metrics no name."""
    return _read(subscription, "_subject", "", "spans of received messages lack the subscription's pattern")


def queue_of(subscription: object) -> str | None:
    """Returns the queue group of a core subscription (`_queue`). Without it: spans lack the group."""
    return _read(subscription, "_queue", None, "spans of received messages lack the queue group")


def waits_for_answer(subscription: object) -> bool:
    """Tells whether a core subscription is that of an old-style request (`_future`). Without it: it counts as one."""
    return _read(subscription, "_future", None, "subscriptions of old-style requests are counted") is not None


def callback_of(subscription: object) -> Any:
    """Returns the callback of a core subscription (`_cb`). Without it: callbacks are not traced."""
    return _read(subscription, "_cb", None, "callbacks are not traced")


def set_callback(subscription: Any, callback: Any) -> None:
    """Replaces the callback of a core subscription; only called where `callback_of` has found one."""
    subscription._cb = callback


def is_own(callback: object) -> bool:
    """Tells whether a callback is nats-py's own, and no wrapper of nats-py's around one of the user's.

    By its module, not by its name, which a later nats-py may change.
    """
    if not _is_of_nats(callback):
        return False
    cells: Any = getattr(callback, "__closure__", None) or ()
    return all(_is_of_nats(cell.cell_contents) for cell in cells if callable(cell.cell_contents))


def _is_of_nats(function: object) -> bool:
    module = getattr(function, "__module__", None)
    return isinstance(module, str) and module.startswith("nats.")


def acknowledges(config: object) -> bool:
    """Tells whether each message of a consumer is to be acknowledged.

    Args:
        config: The consumer's configuration; None for the default.
    """
    policy = getattr(config, "ack_policy", None)
    return policy is None or getattr(policy, "value", policy) == "explicit"


def max_deliver(config: object) -> int:
    """Returns how often a consumer of this configuration delivers a message at most; 0 for without end."""
    most = getattr(config, "max_deliver", None)
    return most if isinstance(most, int) and most > 0 else 0


def max_deliver_of(subscription: object) -> int:
    """Tells the same of a core subscription (`_jsi`), as far as nats-py keeps the configuration."""
    stream = _read(subscription, "_jsi", None, "spans of messages of push consumers end with the handler")
    return 0 if stream is None else max_deliver(getattr(stream, "_ccreq", None))


def acknowledges_of(subscription: object) -> bool:
    """Tells the same of a core subscription (`_jsi`): only those of a stream's messages are. Without it: none is."""
    stream = _read(subscription, "_jsi", None, "spans of messages of push consumers end with the handler")
    return stream is not None and acknowledges(getattr(stream, "_ccreq", None))


def core_of_iterator(iterator: object) -> Any:
    """Returns the core subscription that an iterator steps through (`_sub`). Without it: loops are not traced."""
    return _read(iterator, "_sub", None, "loops over messages are not traced")


def core_of(subscription: object) -> Any:
    """Returns the core subscription below one of JetStream's (`_sub`). Without it: receives are not traced."""
    return _read(subscription, "_sub", None, "receives of JetStream subscriptions are not traced")


def core_below(subscription: object) -> Any:
    """Returns the core subscription below one of JetStream's, or a core one itself (`_sub`).

    Before nats-py 2.6 JetStream's subscriptions have the core one's `next_msg`. Without it: they lack the stream.
    """
    return getattr(subscription, "_sub", subscription)


def client_of_pull(subscription: object) -> Any:
    """Returns the client of a pull subscription (`_nc`). Without it: its spans lack the server."""
    return _read(subscription, "_nc", None, "spans of fetches lack the server")


def stream_of(subscription: object) -> str | None:
    """Returns the stream of a JetStream subscription (`_stream`). Without it: spans of its making lack the stream."""
    return _read(subscription, "_stream", None, "spans of subscribe and fetch lack the stream")


def consumer_of(subscription: object) -> str | None:
    """Returns the consumer of a JetStream subscription (`_consumer`). Without it: spans of its making lack it."""
    return _read(subscription, "_consumer", None, "spans of subscribe and fetch lack the consumer")


def client_of_message(message: object) -> Any:
    """Returns the client that received a message (`_client`). Without it: spans about it lack the server."""
    return _read(message, "_client", None, "spans of answers and acknowledgements lack the server")


def is_settled(message: object) -> bool:
    """Tells whether a message was acknowledged (`_ackd`). Without it: see what is logged then."""
    return bool(_read(message, "_ackd", False, "an acknowledgement may be told twice, or its processing end late"))


# -- JetStream and the stores -----------------------------------------------------------------------------------------


def client_of_context(js: Any) -> Any:
    """Returns the client of a JetStream context or manager (`_nc`). Without it: its spans lack the server."""
    try:
        return js._nc
    except AttributeError:
        return _read(js, "_nc", None, "spans of JetStream lack the server")


def api_prefix(js: object) -> str:
    """Returns what the subjects of a context's requests to JetStream begin with (`_prefix`).

    Without it: the default, and requests of a context with a prefix of its own carry headers that nobody reads.
    """
    prefix = _read(js, "_prefix", "$JS.API", "requests through a prefix of the context's own carry a context")
    return API_PREFIX if prefix == "$JS.API" else f"{prefix}."


def context_of(store: Any) -> Any:
    """Returns the JetStream context of a bucket (`_js`). Without it: spans of the bucket lack the server."""
    try:
        return store._js
    except AttributeError:
        return _read(store, "_js", None, "spans of buckets lack the server")


def client_of_store(store: object) -> Any:
    """Returns the client of a bucket; None where its JetStream context is a fake that has none."""
    js = context_of(store)
    return None if js is None else client_of_context(js)


def bucket_of(store: Any) -> str | None:
    """Returns the name of a bucket (`_name`). Without it: spans of the bucket do not tell which."""
    try:
        return store._name
    except AttributeError:
        return _read(store, "_name", None, "spans of buckets do not tell which bucket")


def key_prefix(kv: object) -> str:
    """Returns what the subjects of a bucket's keys begin with (`_pre`). Without it: that of its name."""
    return _read(kv, "_pre", f"$KV.{bucket_of(kv)}.", "buckets of another domain are excluded by their plain name")


def store_of_watcher(watcher: object) -> Any:
    """Returns the bucket that a watcher watches (`_js`). Without it: its spans lack bucket and server."""
    return _read(watcher, "_js", None, "spans of watchers lack the bucket")


def updates_of(watcher: object) -> Any:
    """Returns the queue of a watcher (`_updates`). Without it: its spans have no links to the writers."""
    return _read(watcher, "_updates", None, "spans of watchers lack the link to the writer")


# -- micro services ---------------------------------------------------------------------------------------------------


def handler_of(endpoint: object) -> Any:
    """Returns the handler of an endpoint (`_handler`). Without it: its requests are not traced."""
    return _read(endpoint, "_handler", None, "requests to micro services are not traced")


def set_handler(endpoint: Any, handler: Any) -> None:
    """Replaces the handler of an endpoint; only called where `handler_of` has found one."""
    endpoint._handler = handler


def subject_of_endpoint(endpoint: object) -> str:
    """Returns the subject of an endpoint (`_subject`). Without it: its spans have no template."""
    return _read(endpoint, "_subject", "", "spans of micro services lack the endpoint's pattern")


def queue_of_endpoint(endpoint: object) -> str | None:
    """Returns the queue group of an endpoint (`_queue_group`). Without it: its spans lack the group."""
    return _read(endpoint, "_queue_group", None, "spans of micro services lack the queue group")


def endpoint_name(endpoint: object) -> str | None:
    """Returns the name of an endpoint (`_name`). Without it: its spans do not tell which."""
    return _read(endpoint, "_name", None, "spans of micro services lack the endpoint")


def service_of(endpoint: object) -> Any:
    """Returns the service of an endpoint (`_service`). Without it: its spans lack service and server."""
    return _read(endpoint, "_service", None, "spans of micro services lack the service")


def client_of_service(service: object) -> Any:
    """Returns the client of a service (`_client`). Without it: its spans lack the server."""
    return None if service is None else _read(service, "_client", None, "spans of micro services lack the server")


def service_identity(service: object) -> tuple[str | None, str | None, str | None]:
    """Returns name, version and id of a service (`_name`, `_version`, `_id`). Without one: its spans lack that."""
    if service is None:
        return None, None, None
    name, version, number = (
        _read(service, attribute, None, f"spans of micro services lack the service's {attribute[1:]}")
        for attribute in ("_name", "_version", "_id")
    )
    return name, version, number


def message_of(request: object) -> Any:
    """Returns the message of a micro request (`_msg`). Without it: requests are not traced."""
    return _read(request, "_msg", None, "requests to micro services are not traced")
