# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Cancelling a call at a chosen step: not after a time, but when it suspends, or the loop turns, for the n-th time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any


class Stepped:
    """An awaitable that runs another one, counts its steps, and has its task cancelled at one of them.

    Args:
        awaitable: What runs.
        step: The step at which it is cancelled, 0 for its first suspension; None for never.
    """

    def __init__(self, awaitable: Awaitable[Any], step: int | None) -> None:
        self._awaitable = awaitable
        self._step = step
        self.steps = 0
        """How often it has suspended so far."""

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._awaitable.__await__()
        try:
            waited_for = inner.send(None)
            while True:
                if self.steps == self._step:
                    task = asyncio.current_task()
                    assert task is not None
                    # Not at once: the task must wait for what this step waits for, as when somebody else cancels it.
                    asyncio.get_running_loop().call_soon(task.cancel)
                self.steps += 1
                try:
                    sent = yield waited_for
                except BaseException as error:
                    waited_for = inner.throw(error)
                else:
                    waited_for = inner.send(sent)
        except StopIteration as stop:
            return stop.value


async def cancelled_at_step(operation: Callable[[], Awaitable[Any]], step: int | None) -> tuple[asyncio.Task[Any], int]:
    """Runs an operation in a task of its own, cancelled when it suspends.

    Args:
        operation: What runs.
        step: Which time, 0 for the first; None for never.

    Returns:
        The task, done, and how many steps it made.
    """
    stepped: list[Stepped] = []

    async def body() -> Any:
        stepped.append(Stepped(operation(), step))
        return await stepped[0]

    task = asyncio.ensure_future(body())
    await asyncio.wait([task])
    return task, stepped[0].steps


async def cancelled_at_turn(operation: Callable[[], Awaitable[Any]], turn: int) -> asyncio.Task[Any]:
    """Runs an operation in a task of its own, cancelled at a turn of the loop, wherever it is then.

    So it is also cancelled when what it waits for is there already, and it has not been told yet.
    """
    loop = asyncio.get_running_loop()

    async def body() -> Any:
        return await operation()

    def count(turns: int) -> None:
        if turns:
            loop.call_soon(count, turns - 1)
        else:
            task.cancel()

    task = asyncio.ensure_future(body())
    count(turn)
    await asyncio.wait([task])
    return task
