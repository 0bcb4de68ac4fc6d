# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A client that is closed, drained, or whose tasks are cancelled, in the midst of each thing that it can do."""

from __future__ import annotations

import asyncio
from typing import Any

from faults.normal import plain
from faults.programs.closing_stages import LEFT, STAGES, Closing
from faults.world import PATIENCE, World


async def _close(closing: Closing, task: asyncio.Task[Any] | None) -> None:
    await closing.nc.close()


async def _drain(closing: Closing, task: asyncio.Task[Any] | None) -> None:
    await closing.nc.drain()


async def _cancel(closing: Closing, task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task], timeout=LEFT)
    await closing.nc.close()


WAYS = {"closed": _close, "drained": _drain, "cancelled": _cancel}


async def run(world: World, number: int, name: str, way: str) -> Any:
    """Closes a client in one way in the midst of one thing.

    Returns:
        What closing raised, what became of the thing, what the program saw.
    """
    closing = Closing(world, f"closing-{number}", await world.connect(drain_timeout=PATIENCE), await world.connect())
    under_way = await STAGES[name](closing)
    task = None if under_way is None else asyncio.ensure_future(under_way)
    await asyncio.wait_for(closing.entered.wait(), PATIENCE)
    await asyncio.sleep(0)
    ending = asyncio.ensure_future(WAYS[way](closing, task))
    await asyncio.sleep(0)
    closing.gate.set()
    await asyncio.wait([ending] if task is None else [ending, task], timeout=LEFT)
    became = None if task is None or closing.by_chance else _outcome(task)
    outcome = [_outcome(ending), became, closing.seen, closing.nc.is_closed]
    for each in (ending, task):
        if each is not None and not each.done():
            each.cancel()
            await asyncio.wait([each], timeout=LEFT)
    for clean_up in closing.cleanups:
        await clean_up()
    for client in (closing.nc, closing.other):
        # In the midst of connecting, nats-py waits for ever.
        await asyncio.wait([asyncio.ensure_future(client.close())], timeout=LEFT)
    world.check_context(f"{name} {way}")
    return plain(outcome)


def _outcome(task: asyncio.Task[Any]) -> Any:
    if not task.done():
        return "waits"
    if task.cancelled():
        return "cancelled"
    return plain(task.exception() or task.result())


async def main(world: World) -> Any:
    """Goes through all stages, side by side."""
    pairs = [(name, way) for name in STAGES for way in WAYS]

    async def run_named(number: int, name: str, way: str) -> Any:
        try:
            return await run(world, number, name, way)
        except Exception as error:
            raise AssertionError(f"{name}, {way}") from error

    outcomes = await asyncio.gather(*(run_named(number, *pair) for number, pair in enumerate(pairs)))
    world.figures(load=f"{len(pairs)} stages", faults=f"{len(pairs)} endings")
    return {f"{name}, {way}": outcome for (name, way), outcome in zip(pairs, outcomes, strict=True)}
