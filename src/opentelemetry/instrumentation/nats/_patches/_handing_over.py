# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Handing messages to the application: callbacks and loop bodies.

What is hard here is the end. A callback ends with its coroutine. A loop body ends with the loop's next step, or when
the loop is left, and Python tells nobody that a loop is left; but `async for` and `for` hold the only reference to
their iterator. So each loop gets an iterator of its own, and its end is the end of the last body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from opentelemetry.context import Context, attach, get_current
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import Attributes, is_status
from opentelemetry.instrumentation.nats._calls import current_call
from opentelemetry.instrumentation.nats._connection import Source
from opentelemetry.instrumentation.nats._propagation import extract
from opentelemetry.instrumentation.nats._telemetry import Delivery, Telemetry, delivery_of, restore, suppressed

Describe = Callable[[Any], Attributes]
"""Makes the attributes of what is no `Msg`: a KV entry, an object's info."""


def trace_callback(
    telemetry: Telemetry, source: Source, callback: Callable[[Any], Awaitable[Any]]
) -> Callable[[Any], Awaitable[Any]]:
    """Makes the process span around a subscription's callback.

    Args:
        telemetry: The telemetry.
        source: The subscription.
        callback: The user's coroutine function, which nats-py has accepted.

    Returns:
        What nats-py is to call instead.
    """

    async def traced(message: Any) -> None:
        if not telemetry.listening and telemetry.idle():
            if telemetry.enabled and message.headers:
                return await _carry(callback, message)
            return await callback(message)
        previous = get_current()
        if (previous and suppressed(previous)) or (not message.data and is_status(message.headers, 0)):
            return await callback(message)
        delivery = telemetry.start_process(source, message)
        if delivery is None:
            return await callback(message)
        attach(delivery.context)
        try:
            await callback(message)
        except BaseException as error:
            delivery.end(error)
            raise
        finally:
            # Not only if ours is still current: the task goes on to the next message, and nothing that a handler
            # forgot to put back may be current there.
            attach(previous)
        delivery.end()

    return traced


async def _carry(callback: Callable[[Any], Awaitable[Any]], message: Any) -> None:
    """Without an SDK there are no spans, but a trace that others record still passes through."""
    previous = get_current()
    try:
        attach(extract(message.headers, Context()))
    except Exception:
        _faults.report("reading the context of a message")
    try:
        await callback(message)
    finally:
        attach(previous)


class _Body:
    """The loop body that is running: its message, and the context to put back after it."""

    __slots__ = ("_delivery", "_previous")

    def __init__(self) -> None:
        self._delivery: Delivery | None = None
        self._previous = Context()

    def begin(
        self, telemetry: Telemetry, source: Source, message: Any, attributes: Attributes | None, counts: bool
    ) -> None:
        current = get_current()
        if current and suppressed(current):
            return
        if telemetry.options.activate_next_msg:
            current = telemetry.before_receive()
        delivery = telemetry.start_process(source, message, current, attributes, counts)
        if delivery is not None:
            self._delivery, self._previous = delivery, current
            attach(delivery.context)

    def end(self) -> None:
        delivery = self._delivery
        if delivery is not None:
            self._delivery = None
            restore(delivery.context, self._previous)
            delivery.end()


class MessageLoop:
    """The iterator of one `async for` over a subscription's messages or a watcher's updates.

    Args:
        telemetry: The telemetry.
        source: The subscription or watcher.
        step: nats-py's own `__anext__`, bound.
        describe: Makes the attributes of what is no `Msg`.
    """

    __slots__ = ("_body", "_describe", "_source", "_step", "_telemetry")

    def __init__(
        self,
        telemetry: Telemetry,
        source: Source,
        step: Callable[[], Awaitable[Any]],
        describe: Describe | None = None,
    ) -> None:
        self._body = _Body()
        self._telemetry = telemetry
        self._source = source
        self._step = step
        self._describe = describe

    def __aiter__(self) -> MessageLoop:
        return self

    async def __anext__(self) -> Any:
        body, telemetry, source, describe = self._body, self._telemetry, self._source, self._describe
        body.end()
        message = await self._step()
        # A traceback that somebody keeps, of a hook's exception for one, keeps this frame. It must not keep the loop.
        del self
        # None is a watcher's marker for "that was all there is so far".
        if message is None or (not telemetry.listening and telemetry.idle()):
            return message
        if describe is None:
            if message.data or not is_status(message.headers, 0):
                body.begin(telemetry, source, message, None, True)
        else:
            body.begin(telemetry, source, message, describe(message), True)
        return message

    def __del__(self) -> None:
        self._body.end()


class FetchedMessages(list[Any]):
    """The list that `fetch` returns. A `for` over it makes the process spans, one for each message ever.

    Args:
        telemetry: The telemetry.
        source: The subscription.
        messages: What nats-py returned.
    """

    __slots__ = ("_source", "_telemetry")

    def __init__(self, telemetry: Telemetry, source: Source, messages: list[Any]) -> None:
        super().__init__(messages)
        self._telemetry = telemetry
        self._source = source

    def __iter__(self) -> Iterator[Any]:
        if self._telemetry.idle() or current_call() is not None:
            return super().__iter__()
        return self._bodies()

    def _bodies(self) -> Iterator[Any]:
        body = _Body()
        try:
            for message in super().__iter__():
                body.end()
                delivery = delivery_of(message)
                if delivery is None or not delivery.processed:
                    body.begin(self._telemetry, self._source, message, None, False)
                yield message
        finally:
            body.end()

    def __reduce__(self) -> Any:
        return list, (list(super().__iter__()),)
