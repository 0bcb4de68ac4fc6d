# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Watchers of buckets and object stores: how an update keeps the context of its writer, and how it is handed over.

nats-py makes an entry of each message and drops the message's headers. So its feeding callback leaves a note of the
message that it handles, and the queue that it fills writes what the note says onto the entry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._connection import SOURCE, Source
from opentelemetry.instrumentation.nats._patches._handing_over import Describe, MessageLoop
from opentelemetry.instrumentation.nats._patches._patching import Replaced, Wrapper
from opentelemetry.instrumentation.nats._patches._receiving import receiving
from opentelemetry.instrumentation.nats._patches._running import own_method, traced
from opentelemetry.instrumentation.nats._telemetry import DELIVERY, Delivery, Telemetry

_fed: ContextVar[Any] = ContextVar("opentelemetry_nats_fed", default=None)


class Feeder:
    """A watcher's callback that notes which message it handles.

    Args:
        callback: nats-py's callback.
    """

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[Any], Awaitable[Any]]) -> None:
        self._callback = callback

    async def __call__(self, message: Any) -> None:
        _fed.set(message)
        try:
            await self._callback(message)
        finally:
            _fed.set(None)


def watcher_init(
    telemetry: Telemetry, wrapped: Callable[..., Any], watcher: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Wraps a watcher's `__init__`: from then on its queue knows the messages behind its entries."""
    wrapped(*args, **kwargs)
    queue = watcher._updates
    put = queue.put

    def noting_put(item: Any) -> Any:
        message = _fed.get()
        if message is not None and item is not None and telemetry.enabled:
            _note(telemetry, item, message.headers)
        return put(item)

    queue.put = noting_put


def _note(telemetry: Telemetry, item: Any, headers: Any) -> None:
    try:
        links = telemetry.stored_links([(headers, None)])
        item.__dict__[DELIVERY] = Delivery(None, links[0].context if links else None, headers)
    except Exception:
        _faults.report("reading the context of an update")


def watcher_source(telemetry: Telemetry, watcher: Any, client: Any, bucket: str, subject: str) -> Source:
    """Returns the source of a watcher's updates, which is kept on the watcher.

    Args:
        telemetry: The telemetry.
        watcher: The watcher.
        client: The client that it watches through.
        bucket: Name of the bucket.
        subject: The subject of all that is in it.
    """
    connection = telemetry.connection(client)
    source = watcher.__dict__.get(SOURCE)
    if source is None or source.connection is not connection:
        source = watcher.__dict__[SOURCE] = Source(
            connection, bucket, bucket=True, excluded=telemetry.is_excluded(subject)
        )
    return source


def watcher_wrappers(
    source_of: Callable[[Telemetry, Any], Source], describe: Describe
) -> dict[str, Wrapper | Replaced]:
    """Makes the wrappers of the methods by which a watcher's updates reach the application.

    Args:
        source_of: Finds the source of a watcher.
        describe: Makes the attributes of an update.

    Returns:
        The wrappers by the method's name.
    """

    def aiter_(
        telemetry: Telemetry, wrapped: Callable[..., Any], watcher: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not traced(telemetry):
            return wrapped(*args, **kwargs)
        return MessageLoop(telemetry, source_of(telemetry, watcher), own_method(watcher, "__anext__"), describe)

    receive = receiving(source_of, describe)
    return {"__init__": watcher_init, "__aiter__": aiter_, "__anext__": receive, "updates": receive}
