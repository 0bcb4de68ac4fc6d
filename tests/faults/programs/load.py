# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A service under load that must not lose or double anything, while its server or its network breaks.

Publishers, a pull worker, a push subscription, requests, a bucket and an object store. At each mark it tells the
harness, which breaks something; it goes on, and waits at the next mark until that is over.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from typing import Any

from nats.aio.client import Client
from nats.js import api

from faults.world import RETRIED, World, insist, until
from support.waiting import flush

STREAM = "load"
PUBLISHERS = 8
TIMEOUT = 2.0
"""Seconds that one try may take: what is under way when the server goes is never answered."""

PATIENCE = 300.0
"""Seconds until a message counts as lost."""

OBJECT = bytes(range(256)) * 2048


class Service:
    """What the program does, and what it has seen.

    Args:
        world: The program's.
        nc: Its client.
    """

    def __init__(self, world: World, nc: Client) -> None:
        self.world = world
        self.nc = nc
        self.js = nc.jetstream(timeout=TIMEOUT)
        self.messages: int = world.parameters["messages"]
        self.pulled: Counter[bytes] = Counter()
        self.pushed: Counter[bytes] = Counter()
        self.answers = 0
        self.values = 0
        self.answered = 0
        self._numbers = iter(range(self.messages))
        self._marks = [self.messages * number // (world.parameters["marks"] + 1) for number in range(1, 99)]
        self._marks = self._marks[: world.parameters["marks"]]
        self._over = asyncio.Event()
        self._over.set()
        self._hearing: list[asyncio.Task[None]] = []

    async def prepare(self) -> None:
        """Makes what the service needs."""
        replicas = self.world.parameters.get("replicas", 1)
        stream = api.StreamConfig(name=STREAM, subjects=[f"{STREAM}.>"], num_replicas=replicas)
        await insist(self.js.add_stream, stream)
        bucket = api.KeyValueConfig(bucket="values", history=1, replicas=replicas)
        self.bucket = await insist(self.js.create_key_value, bucket)
        self.store = None
        if hasattr(self.js, "create_object_store"):
            store = api.ObjectStoreConfig(bucket="objects", replicas=replicas)
            self.store = await insist(self.js.create_object_store, "objects", store)
        self.subscription = await insist(self.js.pull_subscribe, f"{STREAM}.>", durable="pull")
        push = api.ConsumerConfig(durable_name="push", ack_wait=5, num_replicas=replicas)
        await insist(self.js.subscribe, f"{STREAM}.>", cb=self.take, config=push, manual_ack=True)
        self.responder = await self.world.connect()
        await self.responder.subscribe("shout", cb=self.answer)
        await insist(flush, self.responder)

    async def publish(self) -> None:
        """Publishes until all is published, each message until it is acknowledged."""
        for number in self._numbers:
            if number in self._marks:
                await self._reach(number)
            headers = {"Nats-Msg-Id": f"message-{number}", "Own": str(number)}
            await insist(self.js.publish, f"{STREAM}.{number % 7}", b"%d" % number, headers=headers)

    async def _reach(self, number: int) -> None:
        await self._over.wait()
        self._over.clear()
        self.world.say("mark", number=number)
        self._hearing.append(asyncio.ensure_future(self._hear()))

    async def _hear(self) -> None:
        await self.world.hear("over")
        self._over.set()

    async def heard(self) -> None:
        """Waits until all that was to break has broken."""
        await asyncio.gather(*self._hearing)

    async def pull(self) -> None:
        """Fetches until all has come."""
        while len(self.pulled) < self.messages:
            try:
                messages = await self.subscription.fetch(20, timeout=TIMEOUT)
            except RETRIED:
                await asyncio.sleep(0)
                continue
            for message in messages:
                self.pulled[message.data] += 1
                await self._acknowledge(message)
        self.world.check_context("after a pull worker's loop")

    async def take(self, message: Any) -> None:
        """Handles what is pushed."""
        self.pushed[message.data] += 1
        await self._acknowledge(message)

    async def _acknowledge(self, message: Any) -> None:
        try:
            await message.ack()
        except RETRIED:
            pass  # it will come again

    async def answer(self, message: Any) -> None:
        """Answers a request."""
        self.answered += 1
        await message.respond(message.data.upper())

    async def request(self) -> None:
        """Requests, each until it is answered."""
        for number in range(self.messages // 5):
            text = f"request {number}"
            answer = await insist(self.nc.request, "shout", text.encode(), timeout=TIMEOUT)
            self.answers += answer.data == text.upper().encode()

    async def put(self) -> None:
        """Puts values, and gets each again."""
        for number in range(self.messages // 5):
            await insist(self.bucket.put, f"key{number % 9}", b"%d" % number)
            await insist(self.bucket.get, f"key{number % 9}")
            self.values += 1
        # What is read while a cluster changes its leader may be old; afterwards it is what was written last.
        for number in range(self.values - 9, self.values):
            await until_read(self.bucket, f"key{number % 9}", b"%d" % number)

    async def store_object(self) -> str | None:
        """Stores an object, and reads it again."""
        if self.store is None:
            return None
        await insist(self.store.put, "object", OBJECT)
        read = await insist(self.store.get, "object")
        return hashlib.sha256(read.data).hexdigest()


async def until_read(bucket: Any, key: str, value: bytes) -> None:
    """Reads until a key has a value."""
    for _ in range(1000):
        if (await insist(bucket.get, key)).value == value:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{key} is not {value!r}")


async def main(world: World) -> Any:
    """Runs the service until all is done.

    Returns:
        What it has seen.
    """
    nc = await insist(world.connect)
    service = Service(world, nc)
    await service.prepare()
    digest, *_ = await asyncio.gather(
        service.store_object(),
        service.pull(),
        service.request(),
        service.put(),
        *(service.publish() for _ in range(PUBLISHERS)),
    )
    await service.heard()
    await until(lambda: len(service.pushed) == service.messages, PATIENCE)
    stored = (await insist(service.js.stream_info, STREAM)).state.messages
    lost = 2 * service.messages - len(service.pulled) - len(service.pushed)
    world.figures(
        load=f"{service.messages} messages, {service.answers} requests, {service.values} values",
        lost=lost,
        doubled=stored - service.messages,
        deliveries=service.pulled.total() + service.pushed.total() + service.answered,
    )
    await service.responder.close()
    await nc.close()
    world.check_context("after the load")
    return {
        "stored": stored,
        "lost": lost,
        "pulled": sorted(map(int, service.pulled)) == list(range(service.messages)),
        "pushed": sorted(map(int, service.pushed)) == list(range(service.messages)),
        "answers": service.answers,
        "values": service.values,
        "object": digest,
    }
