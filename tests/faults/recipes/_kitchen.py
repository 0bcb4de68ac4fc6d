# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What recipes are made with: what must be there before a call, and the list of all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from nats.aio.client import Client
from nats.js import JetStreamContext

from faults.world import PATIENCE, World, until
from support.waiting import flush

Operation = Callable[[], Awaitable[Any]]
"""The call that is looked at."""


class Kitchen:
    """What a recipe is made with: a client of its own, connected, and a name that no other has.

    Args:
        world: The program's.
        nc: The client.
        name: The name.
    """

    def __init__(self, world: World, nc: Client, name: str) -> None:
        self.world = world
        self.nc = nc
        self.name = name
        self.js: JetStreamContext = nc.jetstream(timeout=PATIENCE)
        self.others: list[Client] = []
        """Clients to be closed at the end."""

    async def stream(self, count: int = 0, **options: Any) -> None:
        """Makes a stream, with messages in it."""
        await self.js.add_stream(name=self.name, subjects=[f"{self.name}.>"], storage="memory", **options)
        for number in range(count):
            await self.js.publish(f"{self.name}.{number}", b"%d" % number, headers={"Own": str(number)})

    async def pulled(self, count: int = 1) -> Any:
        """Makes a stream with messages, and a pull subscription of it."""
        await self.stream(count)
        return await self.js.pull_subscribe(f"{self.name}.>", durable="worker")

    async def fetched(self) -> Any:
        """Makes a stream with a message, and fetches that."""
        [message] = await (await self.pulled()).fetch(1, timeout=PATIENCE)
        return message

    async def asked(self) -> Any:
        """Has a message in hand that waits for an answer."""
        subscription = await self.nc.subscribe(self.name)
        await self.nc.publish(self.name, b"question", reply=f"{self.name}.answers", headers={"Own": "1"})
        return await subscription.next_msg(PATIENCE)

    async def bucket(self, count: int = 0) -> Any:
        """Makes a bucket, with values in it."""
        bucket = await self.js.create_key_value(bucket=self.name, history=5, storage="memory")
        for number in range(count):
            await bucket.put(f"key{number}", b"%d" % number)
        return bucket

    async def objects(self, count: int = 0) -> Any:
        """Makes an object store, with objects in it."""
        store = await self.js.create_object_store(self.name, storage="memory")
        for number in range(count):
            await store.put(f"object{number}", b"%d" % number * 3)
        return store

    async def watching(self, store: Any, watch: Callable[[], Awaitable[Any]]) -> Any:
        """Watches until the first update is there: nats-py may take what is there for nothing, see `support.stores`."""
        while True:
            watcher = await watch()
            await until(watcher._updates.qsize)
            if watcher._updates._queue[0] is not None:
                return watcher
            await watcher.stop()

    async def service(self, handler: Callable[[Any], Awaitable[None]]) -> Any:
        """Makes a service with one endpoint."""
        service = await import_module("nats.micro").add_service(self.nc, name=self.name, version="1.0.0")
        await service.add_endpoint(name="endpoint", subject=self.name, handler=handler)
        await flush(self.nc)
        return service

    async def request_in_hand(self) -> Any:
        """Has a request to a service in hand; its handler waits until the client is closed."""
        in_hand: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def handler(request: Any) -> None:
            in_hand.set_result(request)

        await self.service(handler)
        await self.nc.publish(self.name, b"question", reply=f"{self.name}.answers")
        return await asyncio.wait_for(in_hand, PATIENCE)


Recipe = Callable[[Kitchen], Awaitable[Operation]]

RECIPES: dict[str, Recipe] = {}
"""The recipes by the method that they are for."""


def recipe(*methods: str) -> Callable[[Recipe], Recipe]:
    """Adds a recipe, for one method or for several that are in it."""

    def add(function: Recipe) -> Recipe:
        for method in methods:
            RECIPES[method] = function
        return function

    return add


def simple(method: str, needs: Callable[[Kitchen], Awaitable[Any]], call: Callable[[Kitchen, Any], Operation]) -> None:
    """Adds a recipe that calls a method of what it needs, or of a context."""

    async def prepare(kitchen: Kitchen) -> Operation:
        return call(kitchen, await needs(kitchen))

    RECIPES[method] = prepare


async def nothing(kitchen: Kitchen) -> None:
    """Nothing is needed."""
