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

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._delivering import Describe
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._holding import make_delivery
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._loops import MessageLoop
from opentelemetry.instrumentation.nats._patches._replacing import Row, Rows
from opentelemetry.instrumentation.nats._patches._running import steps
from opentelemetry.instrumentation.nats._patches._waiting import receiving
from opentelemetry.instrumentation.nats._propagation import extract
from opentelemetry.instrumentation.nats._providers import span_context
from opentelemetry.instrumentation.nats._telemetry import Telemetry

_NO_CONTEXT = Context()

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


def _make_init(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    def __init__(self: object, *args: object, **kwargs: object) -> None:
        """Lets the watcher's queue know the messages behind its entries."""
        original(self, *args, **kwargs)
        try:
            queue = _nats.updates_of(self)
            if queue is not None:
                queue.put = _noting(telemetry, queue.put)
        except FAULTS:
            _faults.report("tracing a watcher")

    return __init__


def _noting(telemetry: Telemetry, put: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def noting_put(item: Any) -> Any:
        message = _fed.get()
        if message is not None and item is not None and telemetry.enabled:
            _note(item, message)
        return put(item)

    return noting_put


def _note(item: Any, message: Any) -> None:
    try:
        headers = message.headers
        delivery = make_delivery(item)
        delivery.headers = headers
        delivery.arrived = context = extract(headers, _NO_CONTEXT)
        delivery.creation = span_context(context)
    except FAULTS:
        _faults.report("reading the context of an update")


def watcher_rows(watcher: Any, origin_of: Callable[[Telemetry, Any], Origin], describe: Describe) -> Rows:
    """Makes the rows of the methods by which a watcher's updates reach the application.

    Args:
        watcher: The watcher's class; None where this nats-py has none.
        origin_of: Finds the origin of a watcher.
        describe: Makes the attributes of an update.
    """

    def make_aiter(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
        def __aiter__(self: object) -> Any:
            try:
                if steps(telemetry):
                    return MessageLoop(telemetry, origin_of(telemetry, self), self, describe)
            except FAULTS:
                _faults.report("tracing a loop")
            return original(self)

        return __aiter__

    receive = receiving(origin_of, describe)
    return [
        Row(watcher, "__init__", _make_init, coroutine=False),
        Row(watcher, "__aiter__", make_aiter, optional=True, coroutine=False),
        Row(watcher, "__anext__", receive, optional=True),
        Row(watcher, "updates", receive),
    ]
