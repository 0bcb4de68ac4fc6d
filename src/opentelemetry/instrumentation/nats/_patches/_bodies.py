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
from opentelemetry.instrumentation.nats._attributes import is_status
from opentelemetry.instrumentation.nats._calls import Call, current_call, own_mark
from opentelemetry.instrumentation.nats._delivering import Body, Delivery, Describe, delivery_of, start_process
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._patches._replacing import below
from opentelemetry.instrumentation.nats._propagation import extract
from opentelemetry.instrumentation.nats._providers import suppressed
from opentelemetry.instrumentation.nats._receiving import before_receive
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry

Handler = Callable[[Any], Awaitable[Any]]
"""A callback, or the handler of a service's endpoint."""

Explain = Callable[[Delivery, BaseException], "BaseException | Failure"]
"""Says what a handler has failed with, given the exception that it raised."""


def _itself(argument: Any) -> Any:
    return argument


def _raised(_: Delivery, error: BaseException) -> BaseException:
    return error


def trace_handler(
    telemetry: Telemetry,
    origin: Origin,
    handler: Handler,
    message_of: Callable[[Any], Any] = _itself,
    explain: Explain = _raised,
) -> Handler:
    """Makes the process span around a subscription's callback, or the handler of a service's endpoint.

    Args:
        telemetry: The telemetry.
        origin: The subscription, or the endpoint.
        handler: The user's coroutine function, which nats-py has accepted.
        message_of: Finds the message in what the handler is called with.
        explain: Says what an exception of the handler means.

    Returns:
        What nats-py is to call instead.
    """

    async def traced(argument: Any) -> Any:
        message = argument if message_of is _itself else message_of(argument)
        if message is None:
            return await handler(argument)
        if not telemetry.listening and telemetry.idle():
            if telemetry.enabled and message_of is _itself and message.headers:
                return await _carry(handler, message)
            return await handler(argument)
        previous = get_current()
        if (previous and suppressed(previous)) or (not message.data and is_status(message.headers, 0)):
            return await handler(argument)
        delivery = start_process(origin, message)
        if delivery is None:
            return await handler(argument)
        body = Body()
        body.enter(delivery, previous)
        try:
            result = await handler(argument)
        except BaseException as error:
            body.leave(explain(delivery, error))
            raise
        finally:
            # Not only if ours is still current: the task goes on to the next message, and nothing that a handler
            # forgot to put back may be current there.
            attach(previous)
        body.leave(delivery.failure)
        return result

    return traced


async def _carry(handler: Handler, message: Any) -> None:
    """Without an SDK there are no spans, but a trace that others record still passes through."""
    previous = get_current()
    try:
        attach(extract(message.headers, Context()))
    except FAULTS:
        _faults.report("reading the context of a message")
    try:
        await handler(message)
    finally:
        attach(previous)


def begin_body(
    body: Body, telemetry: Telemetry, origin: Origin, message: Any, describe: Describe | None, counts: bool
) -> None:
    """Begins the body of a loop.

    Args:
        body: The loop's body, which has ended or not begun yet.
        telemetry: The telemetry.
        origin: Where the message came from.
        message: The message, or KV entry, or object's info.
        describe: Makes the attributes of what is no `Msg`.
        counts: Whether this is what hands the message to the application, rather than a receive before.
    """
    current = get_current()
    if current and suppressed(current):
        return
    if current:
        current = before_receive(telemetry)
    delivery = start_process(origin, message, current, describe, counts)
    if delivery is not None:
        body.enter(delivery, current)


class MessageLoop:
    """The iterator of one `async for` over a subscription's messages or a watcher's updates.

    Args:
        telemetry: The telemetry.
        origin: The subscription or watcher.
        iterator: nats-py's own iterator.
        describe: Makes the attributes of what is no `Msg`.
    """

    __slots__ = ("_body", "_describe", "_origin", "_step", "_telemetry")

    def __init__(self, telemetry: Telemetry, origin: Origin, iterator: Any, describe: Describe | None = None) -> None:
        self._body = Body()
        self._telemetry = telemetry
        self._origin = origin
        self._step: Callable[[], Awaitable[Any]] = below(telemetry, iterator, "__anext__") or _silently(iterator)
        self._describe = describe

    def __aiter__(self) -> MessageLoop:
        return self

    async def __anext__(self) -> Any:
        body, telemetry, origin, describe = self._body, self._telemetry, self._origin, self._describe
        body.leave()
        message = await self._step()
        # A traceback that somebody keeps, of a hook's exception for one, keeps this frame. It must not keep the loop.
        del self
        # None is a watcher's marker for "that was all there is so far".
        if message is None or (not telemetry.listening and telemetry.idle()):
            return message
        if describe is not None or message.data or not is_status(message.headers, 0):
            begin_body(body, telemetry, origin, message, describe, True)
        return message

    def __del__(self) -> None:
        self._body.leave()


def _silently(iterator: Any) -> Callable[[], Awaitable[Any]]:
    """Steps through what somebody has put on top of ours, a mock for one; ours below it is not to tell the same."""

    async def step() -> Any:
        mark = own_mark()
        call, mark.call = mark.call, Call()
        try:
            return await iterator.__anext__()
        finally:
            mark.call = call

    return step


class FetchedMessages(list[Any]):
    """The list that `fetch` returns. A `for` over it makes the process spans, one for each message ever.

    Args:
        telemetry: The telemetry.
        origin: The subscription.
        messages: What nats-py returned.
    """

    __slots__ = ("_origin", "_telemetry")

    def __init__(self, telemetry: Telemetry, origin: Origin, messages: list[Any]) -> None:
        super().__init__(messages)
        self._telemetry = telemetry
        self._origin = origin

    def __iter__(self) -> Iterator[Any]:
        if self._telemetry.idle() or current_call() is not None:
            return super().__iter__()
        return self._bodies()

    def _bodies(self) -> Iterator[Any]:
        body = Body()
        try:
            for message in super().__iter__():
                body.leave()
                delivery = delivery_of(message)
                if delivery is None or not delivery.processed:
                    begin_body(body, self._telemetry, self._origin, message, None, False)
                yield message
        finally:
            body.leave()

    def __reduce__(self) -> Any:
        return list, (list(super().__iter__()),)
