# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Traffic of every kind, during which the instrumentation is taken away and put back many times."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from faults.world import PATIENCE, World, until


class Traffic:
    """What goes on meanwhile.

    Args:
        world: The program's.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.stopping = False
        self.sent: Counter[str] = Counter()
        self.got: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self) -> None:
        """Sends and receives until `stopping` is set, and then until all that was sent has come."""
        self.nc = await self.world.connect()
        self.js = self.nc.jetstream(timeout=PATIENCE)
        await self.js.add_stream(name="stream", subjects=["stream.>"], storage="memory")
        self.bucket = await self.js.create_key_value(bucket="bucket", storage="memory")
        self.subscription = await self.js.pull_subscribe("stream.>", durable="worker")
        self.looped = await self.nc.subscribe("plain.>")
        await self.nc.subscribe("plain.>", cb=self.take)
        await self.nc.subscribe("shout", cb=self.answer)
        watcher = await self.bucket.watchall()
        background = [asyncio.ensure_future(each) for each in (self.loop(), self.watch(watcher))]
        await asyncio.gather(self.publish(), self.request(), self.store(), self.work(), self.put())
        await until(lambda: all(self.got[kind] >= self.sent[kind] for kind in self.sent), PATIENCE * 4)
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        self.world.check_context("after the traffic")
        await self.nc.close()

    async def take(self, message: Any) -> None:
        self.got["callback"] += 1
        await asyncio.sleep(0)

    async def answer(self, message: Any) -> None:
        await message.respond(message.data.upper())

    async def loop(self) -> None:
        async for _ in self.looped.messages:
            self.got["loop"] += 1
            await asyncio.sleep(0)

    async def watch(self, watcher: Any) -> None:
        async for entry in watcher:
            if entry is not None:
                self.got["watch"] += 1

    async def publish(self) -> None:
        while not self.stopping:
            await self.nc.publish("plain.one", b"hello", headers={"Own": "1"})
            self.sent["callback"] += 1
            self.sent["loop"] += 1
            await asyncio.sleep(0)

    async def request(self) -> None:
        while not self.stopping:
            response = await self.nc.request("shout", b"ping", timeout=PATIENCE)
            if response.data != b"PING":
                self.wrong.append(f"answer {response.data!r}")

    async def store(self) -> None:
        while not self.stopping:
            await self.js.publish("stream.one", b"hello")
            self.sent["fetch"] += 1

    async def work(self) -> None:
        while not self.stopping or self.got["fetch"] < self.sent["fetch"]:
            try:
                messages = await self.subscription.fetch(10, timeout=0.5)
            except asyncio.TimeoutError:
                continue
            for message in messages:
                self.got["fetch"] += 1
                await message.ack()

    async def put(self) -> None:
        while not self.stopping:
            value = b"%d" % self.sent["watch"]
            await self.bucket.put("key", value)
            self.sent["watch"] += 1
            if (await self.bucket.get("key")).value != value:
                self.wrong.append(f"value of {value!r}")


async def main(world: World) -> Any:
    """Switches under traffic; bare there is nothing to switch, but it takes as many turns."""
    traffic = Traffic(world)
    running = asyncio.ensure_future(traffic.run())
    times = world.parameters["times"]
    await until(lambda: traffic.got["fetch"] and traffic.got["watch"] and traffic.got["callback"])
    for _ in range(times):
        if running.done():
            break
        world.switch()
        for _ in range(world.random.randrange(1, 20)):
            await asyncio.sleep(0)
    traffic.stopping = True
    await running
    lost = {kind: count - traffic.got[kind] for kind, count in traffic.sent.items()}
    world.figures(
        load=f"{traffic.sent.total()} messages",
        faults=f"{times} switches",
        lost=sum(each for each in lost.values() if each > 0),
        doubled=-sum(each for each in lost.values() if each < 0),
    )
    return {"lost or doubled": lost, "wrong": traffic.wrong}
