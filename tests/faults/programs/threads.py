# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Threads that each have a loop and a client: they publish to one another, request, fetch, and put values."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from faults.child import run_in_loop
from faults.world import PATIENCE, World, until
from support.waiting import flush


class Workers:
    """The threads.

    Args:
        world: The program's.
        count: How many.
        messages: How many messages each sends to every other.
    """

    def __init__(self, world: World, count: int, messages: int) -> None:
        self.world = world
        self.count = count
        self.messages = messages
        self.ready = threading.Barrier(count, timeout=PATIENCE * 4)

    async def work(self, number: int) -> Any:
        """What one of them does.

        Returns:
            How many messages came from each, and whether all else was right.
        """
        nc = await self.world.connect()
        js = nc.jetstream(timeout=PATIENCE)
        got: Counter[str] = Counter()

        async def take(message: Any) -> None:
            got[message.headers["From"]] += 1

        async def answer(message: Any) -> None:
            await message.respond(message.data.upper())

        await nc.subscribe(f"thread.{number}", cb=take)
        await nc.subscribe(f"shout.{number}", cb=answer)
        await js.add_stream(name=f"stream{number}", subjects=[f"stream{number}.>"], storage="memory")
        bucket = await js.create_key_value(bucket=f"bucket{number}", storage="memory")
        subscription = await js.pull_subscribe(f"stream{number}.>", durable="worker")
        await flush(nc)
        await asyncio.to_thread(self.ready.wait)
        fine = 0
        for each in range(self.messages):
            for other in range(self.count):
                await nc.publish(f"thread.{other}", b"hello", headers={"From": str(number)})
            response = await nc.request(f"shout.{(number + 1) % self.count}", b"ping", timeout=PATIENCE)
            await js.publish(f"stream{number}.one", b"%d" % each)
            [message] = await subscription.fetch(1, timeout=PATIENCE)
            await message.ack()
            await bucket.put("key", b"%d" % each)
            value = (await bucket.get("key")).value
            fine += (response.data, message.data, value) == (b"PING", b"%d" % each, b"%d" % each)
        await until(lambda: got.total() == self.messages * self.count, PATIENCE * 4)
        self.world.check_context(f"in thread {number}")
        await asyncio.to_thread(self.ready.wait)
        await nc.close()
        return [fine, dict(sorted(got.items()))]


def main(world: World) -> Any:
    """Runs the threads."""
    workers = Workers(world, world.parameters["threads"], world.parameters["messages"])

    def thread(number: int) -> Any:
        return run_in_loop(workers.work(number), world)

    with ThreadPoolExecutor(workers.count) as executor:
        results = list(executor.map(thread, range(workers.count)))
    sent = workers.messages * workers.count * workers.count
    world.figures(
        load=f"{workers.count} threads, {sent} messages",
        faults="-",
        lost=sent - sum(sum(counts.values()) for _, counts in results),
        doubled=0,
    )
    return {str(number): result for number, result in enumerate(results)}
