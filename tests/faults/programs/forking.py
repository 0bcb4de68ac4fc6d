# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A program that has clients, forks, and goes on in both processes: by `os.fork`, and by a pool of processes."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
from typing import Any

from faults.world import PATIENCE, World


async def _use(world: World, name: str) -> Any:
    nc = await world.connect()
    js = nc.jetstream(timeout=PATIENCE)

    async def answer(message: Any) -> None:
        await message.respond(message.data.upper())

    await nc.subscribe(f"{name}.shout", cb=answer)
    subscription = await nc.subscribe(f"{name}.plain")
    await js.add_stream(name=name, subjects=[f"{name}.stored"], storage="memory")
    seen: list[Any] = []
    for number in range(world.parameters["messages"]):
        await nc.publish(f"{name}.plain", b"%d" % number)
        seen.append(int((await subscription.next_msg(PATIENCE)).data))
        seen.append((await nc.request(f"{name}.shout", b"ping", timeout=PATIENCE)).data.decode())
        seen.append((await js.publish(f"{name}.stored", b"hello")).seq)
    await nc.close()
    world.check_context(name)
    return seen


def _in_pool(arguments: tuple[dict[str, Any], int]) -> Any:
    parameters, number = arguments
    return asyncio.run(_use(World(parameters), f"pool-{number}"))


def _forked(world: World, number: int) -> Any:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        # Not by sys.exit: what this process was in the midst of is the parent's.
        status = 1
        try:
            os.write(writing, json.dumps(asyncio.run(_use(world, f"fork-{number}"))).encode())
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = json.loads(pipe.read() or b"null")
    _, status = os.waitpid(child, 0)
    return [os.waitstatus_to_exitcode(status), result]


def main(world: World) -> Any:
    """Uses clients before, in and after forks."""
    results: dict[str, Any] = {"before": asyncio.run(_use(world, "before"))}
    forks = world.parameters["forks"]
    for number in range(forks):
        results[f"fork {number}"] = _forked(world, number)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results["pool"] = pool.map(_in_pool, [(world.parameters, number) for number in range(4)])
    results["after"] = asyncio.run(_use(world, "after"))
    world.figures(load=f"{(forks + 6) * 3 * world.parameters['messages']} operations", faults=f"{forks + 2} forks")
    return results
