# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Every operation, cancelled at every step: what becomes of it, and that the client still works afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

from faults.cooking import cook
from faults.recipes import RECIPES
from faults.stepping import cancelled_at_step, cancelled_at_turn
from faults.world import PATIENCE, World

MOST_STEPS = 60
"""Steps that are tried at most."""


async def main(world: World) -> Any:
    """Cancels the operations that the parameters name.

    Returns:
        For each operation what became of it, each thing once.
    """
    outcomes: dict[str, Any] = {}
    cancellations = 0
    for number, method in enumerate(world.parameters["methods"]):
        seen: set[str] = set()
        for step in range(MOST_STEPS):
            async with cook(world, RECIPES[method], f"op-{number}-{step}") as operation:
                task, steps = await cancelled_at_step(operation, step)
                seen.add(_outcome(task))
                world.check_context(f"{method} at step {step}")
            del task, operation  # and with them the loop, if one was left in them
            if steps <= step:
                break
            cancellations += 1
        for turn in range(world.parameters["turns"]):
            async with cook(world, RECIPES[method], f"op-{number}-{turn}-turn") as operation:
                task = await cancelled_at_turn(operation, turn)
                seen.add(_outcome(task))
                world.check_context(f"{method} at turn {turn}")
            cancellations += task.cancelled()
            del task, operation
        outcomes[method] = sorted(seen)
        await _still_works(world)
    world.figures(load=f"{len(outcomes)} operations", faults=f"{cancellations} cancellations")
    return outcomes


def _outcome(task: asyncio.Task[Any]) -> str:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    # Values are compared where nothing is cancelled; here an operation may return less than it would.
    return f"returned {type(task.result()).__name__}" if error is None else f"raised {type(error).__qualname__}"


async def _still_works(world: World) -> None:
    client = await world.connect()
    subscription = await client.subscribe("still")
    await client.publish("still", b"works")
    assert (await subscription.next_msg(PATIENCE)).data == b"works"
    await client.close()
