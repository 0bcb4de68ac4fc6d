# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A service that runs for long: rounds of all that a client can do, while its network breaks now and then."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

from faults.programs.load import until_read
from faults.world import PATIENCE, RETRIED, World, insist, until
from support.proxy import Proxy
from support.waiting import flush

TIMEOUT = 1.0
ROUNDS_BETWEEN_CUTS = 150


async def main(world: World) -> Any:
    """Goes through the rounds.

    Returns:
        What must be the same: how many there were of each thing, and what was lost or doubled.
    """
    rounds: int = world.parameters["rounds"]
    counts: Counter[str] = Counter()
    cuts = 0
    async with Proxy(world.parameters["admin"]) as proxy:
        nc, steady = await world.connect(proxy.url), await world.connect()
        js = nc.jetstream(timeout=TIMEOUT)
        await js.add_stream(name="stream", subjects=["stream.>"], storage="memory", max_msgs=1000)
        bucket = await js.create_key_value(bucket="bucket", storage="memory")
        subscription = await js.pull_subscribe("stream.>", durable="worker")
        handled: set[bytes] = set()

        async def answer(message: Any) -> None:
            await message.respond(message.data.upper())

        async def take(message: Any) -> None:
            counts["callbacks"] += 1

        await steady.subscribe("shout", cb=answer)
        await steady.subscribe("plain.>", cb=take)
        await flush(steady)
        for number in range(rounds):
            if number % ROUNDS_BETWEEN_CUTS == ROUNDS_BETWEEN_CUTS - 1:
                proxy.cut()
                cuts += 1
            payload = b"%d" % number
            headers = {"Nats-Msg-Id": f"round-{number}"}
            await insist(js.publish, f"stream.{number % 5}", payload, headers=headers)
            while payload not in handled:
                try:
                    messages = await subscription.fetch(5, timeout=TIMEOUT)
                except RETRIED:
                    continue
                for message in messages:
                    handled.add(message.data)
                    await _settle(message)
            response = await insist(nc.request, "shout", payload, timeout=TIMEOUT)
            counts["answers"] += response.data == payload
            await insist(bucket.put, "key", payload)
            await until_read(bucket, "key", payload)
            await steady.publish(f"plain.{number % 50}", payload)
            world.check_context(f"round {number}")
        await until(lambda: counts["callbacks"] == rounds, PATIENCE)
        await nc.close()
        await steady.close()
    gc.collect()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    world.figures(load=f"{rounds} rounds", faults=f"{cuts} cuts", lost=rounds - len(handled), doubled=0)
    return {**counts, "handled": len(handled), "tasks left": len(tasks)}


async def _settle(message: Any) -> None:
    try:
        await message.ack()
    except RETRIED:
        pass  # it will come again
