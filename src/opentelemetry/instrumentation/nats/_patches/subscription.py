# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.aio.subscription`: callbacks, `next_msg`, `async for msg in sub.messages`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from nats.aio.subscription import Subscription, _SubscriptionMessageIterator  # pyright: ignore[reportPrivateUsage]

from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import STATUS_HEADER, header, is_status
from opentelemetry.instrumentation.nats._calls import current_call
from opentelemetry.instrumentation.nats._connection import SOURCE, Source
from opentelemetry.instrumentation.nats._patches._handing_over import MessageLoop, trace_callback
from opentelemetry.instrumentation.nats._patches._patching import Rows
from opentelemetry.instrumentation.nats._patches._receiving import receiving
from opentelemetry.instrumentation.nats._patches._running import own_method, traced
from opentelemetry.instrumentation.nats._patches._watching import Feeder
from opentelemetry.instrumentation.nats._telemetry import Telemetry

# nats-py's own callbacks: the replies to requests and to asynchronous publishes, the watchers' feeders, the verbs of
# micro services, and the endpoints of those (whose handlers are traced instead, see service.py).
_INTERNAL_CALLBACKS = frozenset(
    {
        ("nats.aio.client", "_request_sub_callback"),
        ("nats.js.client", "_handle_async_reply"),
        ("nats.js.kv", "watch_updates"),
        ("nats.js.object_store", "watch_updates"),
        ("nats.micro.service", "_handle_ping_request"),
        ("nats.micro.service", "_handle_info_request"),
        ("nats.micro.service", "_handle_stats_request"),
        ("nats.micro.service", "_handle_request"),
    }
)
# The status by which the server ends a pull request for good: the consumer is deleted, or the server shuts down.
_CONFLICT = "409"
_DESCRIPTION_HEADER = "Description"

_WATCHER_MODULES = ("nats.js.kv", "nats.js.object_store")


def _identity(callback: Any) -> tuple[Any, Any]:
    return getattr(callback, "__module__", None), getattr(callback, "__name__", None)


def _start(
    telemetry: Telemetry, wrapped: Callable[..., Any], subscription: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    # nats-py looks at the user's own callback and refuses what is no coroutine function. Only then is it ours; the
    # task that it has made for it has not run yet.
    result = wrapped(*args, **kwargs)
    if not telemetry.enabled:
        return result
    try:
        identity = _identity(subscription._cb)
        call = current_call()
        if call is not None and call.source is not None:
            subscription.__dict__[SOURCE] = call.source
        source = telemetry.connection(subscription._conn).source(subscription)
        if identity in _INTERNAL_CALLBACKS:
            # A watcher is the application's subscription, and so is a service's endpoint; the rest is plumbing.
            source.internal = identity[1] not in ("watch_updates", "_handle_request")
            if identity[0] in _WATCHER_MODULES:
                subscription._cb = Feeder(subscription._cb)
        elif subscription._cb is not None:
            subscription._cb = trace_callback(telemetry, source, subscription._cb)
    except Exception:
        _faults.report("tracing a subscription")
    return result


def make_inner_next_msg(_: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def next_msg(subscription: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Notes why a fetch gets nothing, where the server says so."""
        message = await original(subscription, *args, **kwargs)
        if not is_status(message.headers, len(message.data)):
            own: dict[str, Any] = subscription.__dict__
            if getattr(own.get("next_msg"), "__func__", None) is next_msg:
                # The fetch has got something, so there is nothing to hear any more; that takes 1 us for each message.
                own["next_msg"] = MethodType(original, subscription)
        elif header(message.headers, STATUS_HEADER) == _CONFLICT:
            call = current_call()  # two fetches at a time use the method that one of them has found
            if call is not None:
                call.refusal = header(message.headers, _DESCRIPTION_HEADER) or _CONFLICT
        return message

    return next_msg


@contextmanager
def without_wrapper(subscription: Any) -> Generator[None]:
    """Lets what is called inside find `next_msg` of a core subscription as it is found now.

    A fetch takes message by message with it, and for each one to find out costs as much as all that is recorded of it.
    Of two fetches at a time on one subscription the server's word reaches either; so which of them hears it is chance.
    """
    own: dict[str, Any] = subscription.__dict__
    if "next_msg" in own:  # another fetch is doing the same, or somebody's mock
        yield
        return
    own["next_msg"] = subscription.next_msg
    try:
        yield
    finally:
        own.pop("next_msg", None)


def _aiter(
    telemetry: Telemetry, wrapped: Callable[..., Any], iterator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if not traced(telemetry):
        return wrapped(*args, **kwargs)
    return MessageLoop(telemetry, telemetry.source(iterator._sub), own_method(iterator, "__anext__"))


def _source_of_iterator(telemetry: Telemetry, iterator: Any) -> Source:
    return telemetry.source(iterator._sub)


ROWS: Rows = [
    (Subscription, "_start", _start),
    (Subscription, "next_msg", receiving(Telemetry.source, make_inner=make_inner_next_msg)),
    (_SubscriptionMessageIterator, "__aiter__", _aiter),
    (_SubscriptionMessageIterator, "__anext__", receiving(_source_of_iterator)),  # a step by hand; loops step past it
]
