# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Loops over messages: a body that ends with the loop's next step, or when the loop is left.

Python tells nobody that a loop is left; but `async for` and `for` hold the only reference to their iterator. So each
loop gets an iterator of its own, and its end is the end of the last body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any
from weakref import ref

from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import is_status
from opentelemetry.instrumentation.nats._calls import Call, current_call, get_mark, own_mark
from opentelemetry.instrumentation.nats._contexts import Body, Place, around, ordinary, unended, with_body
from opentelemetry.instrumentation.nats._delivering import Describe, begin_or_join, show, start_process
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._holding import delivery_of
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._patches._replacing import below
from opentelemetry.instrumentation.nats._processing import Delivery
from opentelemetry.instrumentation.nats._propagation import BODY_KEY, extract
from opentelemetry.instrumentation.nats._providers import (
    attach,
    generator_of,
    get_current,
    get_frame,
    span_context,
    suppressed,
)
from opentelemetry.instrumentation.nats._receiving import before_receive
from opentelemetry.instrumentation.nats._telemetry import Telemetry


class Loop:
    """What a loop over messages keeps from one step to the next: the body that goes on.

    Args:
        telemetry: The telemetry.
        origin: Where the messages come from.
        frame: That of the function which it is in.
        describe: Makes the attributes of what is no `Msg`.
    """

    __slots__ = (
        "__weakref__",
        "_body",
        "_delivery",
        "_describe",
        "_generator",
        "_mark",
        "_origin",
        "_place",
        "_telemetry",
    )

    def __init__(
        self, telemetry: Telemetry, origin: Origin, frame: FrameType, describe: Describe | None = None
    ) -> None:
        self._body: Body | None = None
        self._delivery: Delivery | None = None
        self._telemetry = telemetry
        self._origin = origin
        self._describe = describe
        self._mark = own_mark()
        self.begin(frame)

    def begin(self, frame: FrameType) -> None:
        """Begins the loop, or begins it anew.

        Args:
            frame: That of the function which it is in.
        """
        self._place = Place(frame)
        generator = generator_of(frame)
        # Python closes an async generator that nobody holds any more in a task of its own, and soon. But that nobody
        # holds it any more we hear at once, in the task that has left it.
        self._generator = None if generator is None else ref(generator, partial(_leave_context, ref(self)))

    def leave_context(self) -> None:
        """Gives back the context of the body that goes on, because its generator was let go of; it ends later."""
        if self._body is not None:
            self._body.leave()

    def step(self, message: Any, fresh: bool) -> None:
        """Begins the body of a message.

        Args:
            message: The message, or KV entry, or object's info.
            fresh: Whether the loop has got it now, and nobody knows of it yet.
        """
        try:
            if self._telemetry.listening or not self._telemetry.idle():
                self._begin(message, fresh)
            elif self._telemetry.enabled:
                self._carry(message)
        except FAULTS:
            _faults.report("starting a process span")

    def _carry(self, message: Any) -> None:
        """Without an SDK there are no spans, but a trace that others record still passes through."""
        delivery = None if self._describe is None else delivery_of(message)
        headers = message.headers if self._describe is None else delivery and delivery.headers
        if not headers:
            return
        current = get_current()
        if not ordinary(current):
            if suppressed(current):
                return
            current = unended(current)
        if current and span_context(current) is not None:
            return
        self._body = body = Body(own_mark(), current, self._place)
        arrived = None if delivery is None or current else delivery.arrived
        body.context = with_body(extract(headers, current) if arrived is None else arrived, body)
        attach(body.context)

    def _begin(self, message: Any, fresh: bool) -> None:
        current = outside = get_current()
        mark = self._mark
        if mark is not get_mark():  # another task steps
            self._mark = mark = own_mark()
        if not ordinary(current):
            if suppressed(current):
                return
            current = outside = before_receive()
            if BODY_KEY in current:
                outside = around(current, mark, self._place.home)
        body = Body(mark, current, self._place)
        if fresh:
            delivery = start_process(self._origin, message, outside, self._describe, True, body)
            if delivery is not None and self._telemetry.options.consume_hook is not None:
                show(delivery, message)
        else:
            delivery = begin_or_join(self._origin, message, outside, body)
        if delivery is not None:
            self._body = body
            self._delivery = delivery
            attach(body.context)

    def leave(self) -> None:
        """Ends the body that goes on, if one does."""
        body, delivery = self._body, self._delivery
        if body is not None:
            self._body = self._delivery = None
            try:
                body.leave()
                if delivery is not None:
                    delivery.leave(body)
            except FAULTS:
                _faults.report("ending a process span")


def _leave_context(loop: Callable[[], Loop | None], _: object) -> None:
    left = loop()
    if left is not None:
        left.leave_context()


class MessageLoop:
    """The iterator of one `async for` over a subscription's messages or a watcher's updates.

    Args:
        telemetry: The telemetry.
        origin: The subscription or watcher.
        iterator: nats-py's own iterator.
        describe: Makes the attributes of what is no `Msg`.
    """

    __slots__ = ("_describe", "_loop", "_step", "_telemetry")

    def __init__(self, telemetry: Telemetry, origin: Origin, iterator: Any, describe: Describe | None = None) -> None:
        self._loop = Loop(telemetry, origin, get_frame(2), describe)  # of who has called our caller
        self._telemetry = telemetry
        self._step: Callable[[], Awaitable[Any]] = below(telemetry, iterator, "__anext__") or _silently(iterator)
        self._describe = describe

    def __aiter__(self) -> MessageLoop:
        self._loop.begin(get_frame(1))
        return self

    async def __anext__(self) -> Any:
        loop, telemetry, describe = self._loop, self._telemetry, self._describe
        loop.leave()
        message = await self._step()
        # A traceback that somebody keeps, of a hook's exception for one, keeps this frame. It must not keep the loop.
        del self
        # None is a watcher's marker for "that was all there is so far".
        if message is None or not telemetry.enabled:
            return message
        if describe is not None or message.data or not is_status(message.headers, 0):
            loop.step(message, True)
        return message

    def __del__(self) -> None:
        self._loop.leave()


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
        if not self._telemetry.enabled or current_call() is not None:
            return super().__iter__()
        return self._bodies(Loop(self._telemetry, self._origin, get_frame(1)))

    def _bodies(self, loop: Loop) -> Iterator[Any]:
        try:
            for message in super().__iter__():
                loop.leave()
                loop.step(message, False)
                yield message
        finally:
            loop.leave()

    def __reduce__(self) -> Any:
        return list, (list(super().__iter__()),)
