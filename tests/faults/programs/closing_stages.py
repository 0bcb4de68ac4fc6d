# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The things that a client can be in the midst of when it is closed: see `closing`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from nats.aio.client import Client

from faults.world import PATIENCE, World, until
from support.proxy import Proxy
from support.server import HOST
from support.waiting import flush

SOON = 3.0
"""Seconds that what is never answered waits: more than a busy machine takes to begin to close."""

LEFT = 8.0
"""Seconds until what still waits after the end is said to wait for ever."""


class Closing:
    """A client that is to be closed.

    Args:
        world: The program's.
        name: A name that nothing else has.
        nc: The client, connected.
        other: Another client, which stays.
    """

    def __init__(self, world: World, name: str, nc: Client, other: Client) -> None:
        self.world = world
        self.name = name
        self.nc = nc
        self.other = other
        self.js = nc.jetstream(timeout=PATIENCE)
        self.gate = asyncio.Event()
        """Is opened once the client is being closed."""
        self.entered = asyncio.Event()
        """Set when the thing that it is closed in the midst of has begun."""
        self.seen: list[Any] = []
        """What the program has seen, in order."""
        self.by_chance = False
        """Whether it is a matter of chance what becomes of what is under way."""
        self.cleanups: list[Callable[[], Awaitable[Any]]] = []

    async def handle(self, message: Any) -> None:
        """Handles a message: slowly."""
        self.entered.set()
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            self.seen.append(getattr(message, "data", None) or getattr(message, "key", None))
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise

    async def stream(self, count: int = 1) -> None:
        """Makes a stream with messages."""
        await self.js.add_stream(name=self.name, subjects=[f"{self.name}.>"], storage="memory")
        for number in range(count):
            await self.js.publish(f"{self.name}.{number}", b"%d" % number)


Stage = Callable[[Closing], Awaitable["Awaitable[Any] | None"]]
"""Prepares; returns what is then under way, to be awaited in a task; None where that is a callback."""

STAGES: dict[str, Stage] = {}


def stage(function: Stage) -> Stage:
    """Adds a stage."""
    STAGES[function.__name__.replace("_", " ")] = function
    return function


@stage
async def nothing(closing: Closing) -> None:
    closing.entered.set()


@stage
async def a_callback(closing: Closing) -> None:
    await closing.nc.subscribe(closing.name, cb=closing.handle)
    await closing.nc.publish(closing.name, b"one")


@stage
async def a_callback_with_more_to_come(closing: Closing) -> None:
    subscription = await closing.nc.subscribe(closing.name, cb=closing.handle)
    for number in range(5):
        await closing.nc.publish(closing.name, b"%d" % number)
    await until(lambda: subscription.pending_msgs >= 4)


@stage
async def a_loop_body(closing: Closing) -> Awaitable[Any]:
    subscription = await closing.nc.subscribe(closing.name)
    await closing.nc.publish(closing.name, b"one")
    await until(lambda: subscription.pending_msgs)

    async def loop() -> None:
        async for message in subscription.messages:
            await closing.handle(message)

    return loop()


@stage
async def a_loop_that_waits(closing: Closing) -> Awaitable[Any]:
    subscription = await closing.nc.subscribe(closing.name)

    async def loop() -> None:
        closing.entered.set()
        async for message in subscription.messages:
            closing.seen.append(message.data)

    return loop()


@stage
async def a_next_msg(closing: Closing) -> Awaitable[Any]:
    subscription = await closing.nc.subscribe(closing.name)
    closing.entered.set()
    return subscription.next_msg(SOON)


@stage
async def a_request_that_is_never_answered(closing: Closing) -> Awaitable[Any]:
    await closing.other.subscribe(closing.name)
    await flush(closing.other)
    closing.entered.set()
    return closing.nc.request(closing.name, b"ping", timeout=SOON)


@stage
async def a_request_that_is_answered_later(closing: Closing) -> Awaitable[Any]:
    async def answer(message: Any) -> None:
        closing.entered.set()
        await closing.gate.wait()
        await message.respond(b"pong")

    await closing.other.subscribe(closing.name, cb=answer)
    await flush(closing.other)
    closing.by_chance = True  # whether the answer comes before its subscription has gone
    return closing.nc.request(closing.name, b"ping", timeout=PATIENCE)


@stage
async def a_fetch_of_nothing(closing: Closing) -> Awaitable[Any]:
    await closing.stream(0)
    subscription = await closing.js.pull_subscribe(f"{closing.name}.>", durable="worker")
    closing.entered.set()
    return subscription.fetch(1, timeout=SOON)


@stage
async def a_fetched_message(closing: Closing) -> Awaitable[Any]:
    await closing.stream()
    subscription = await closing.js.pull_subscribe(f"{closing.name}.>", durable="worker")

    async def work() -> None:
        for message in await subscription.fetch(1, timeout=PATIENCE):
            await closing.handle(message)
            await message.ack()

    return work()


@stage
async def a_jetstream_callback(closing: Closing) -> None:
    await closing.stream()
    await closing.js.subscribe(f"{closing.name}.>", durable="push", cb=closing.handle)


@stage
async def an_asynchronous_publish(closing: Closing) -> Awaitable[Any]:
    await closing.other.subscribe(closing.name)  # which does not acknowledge
    await flush(closing.other)

    async def publish() -> Any:
        if not hasattr(closing.js, "publish_async"):
            return None
        future = await closing.js.publish_async(closing.name, b"one")
        return await future

    closing.entered.set()
    return publish()


@stage
async def a_publish_that_is_not_acknowledged(closing: Closing) -> Awaitable[Any]:
    await closing.other.subscribe(closing.name)
    await flush(closing.other)
    closing.entered.set()
    return closing.js.publish(closing.name, b"one", timeout=SOON)


@stage
async def a_watcher_that_waits(closing: Closing) -> Awaitable[Any]:
    bucket = await closing.js.create_key_value(bucket=closing.name, storage="memory")
    watcher = await bucket.watchall()
    await until(watcher._updates.qsize)

    async def watch() -> None:
        closing.entered.set()
        async for entry in watcher:
            closing.seen.append(entry and entry.key)

    return watch()


@stage
async def a_watchers_body(closing: Closing) -> Awaitable[Any]:
    bucket = await closing.js.create_key_value(bucket=closing.name, storage="memory")
    watcher = await bucket.watchall()
    await bucket.put("key", b"value")
    await until(lambda: watcher._updates.qsize() > 1)

    async def watch() -> None:
        async for entry in watcher:
            if entry is not None:
                await closing.handle(entry)

    return watch()


@stage
async def a_service_handler(closing: Closing) -> None:
    if find_spec("nats.micro") is None:
        closing.entered.set()
        return
    service = await import_module("nats.micro").add_service(closing.nc, name=closing.name, version="1.0.0")
    await service.add_endpoint(name="endpoint", subject=closing.name, handler=closing.handle)
    await flush(closing.nc)
    await closing.other.publish(closing.name, b"one", reply="nowhere")


@stage
async def an_object_being_stored(closing: Closing) -> Awaitable[Any]:
    if not hasattr(closing.js, "create_object_store"):
        closing.entered.set()
        return asyncio.sleep(0)
    store = await closing.js.create_object_store(closing.name, storage="memory")

    async def chunks() -> None:
        closing.entered.set()
        try:
            await store.put("object", b"x" * 3_000_000)
        except Exception:
            pass

    closing.by_chance = True  # how much of it the server has confirmed by then
    return chunks()


@stage
async def a_reconnect(closing: Closing) -> None:
    async with _losing_server(closing):
        closing.entered.set()


@stage
async def a_callback_while_reconnecting(closing: Closing) -> None:
    async with _losing_server(closing):
        await closing.nc.subscribe(closing.name, cb=closing.handle)
        await closing.nc.publish(closing.name, b"one")
        await closing.entered.wait()


@asynccontextmanager
async def _losing_server(closing: Closing) -> AsyncIterator[None]:
    """Connects to a server that is gone at the end of the block."""
    await closing.nc.close()
    closing.nc = Client()  # another one: a client remembers the servers that it has had
    async with Proxy(closing.world.parameters["admin"]) as proxy:
        await closing.nc.connect(proxy.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=_ignore)
        yield
    await until(lambda: closing.nc.is_reconnecting)


@stage
async def a_connect(closing: Closing) -> Awaitable[Any]:
    await closing.nc.close()
    closing.nc = Client()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closing.entered.set()
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, HOST, 0)

    async def stop() -> None:
        silent.close()

    closing.cleanups.append(stop)
    port = silent.sockets[0].getsockname()[1]
    return closing.nc.connect(f"nats://{HOST}:{port}", connect_timeout=SOON, allow_reconnect=False, error_cb=_ignore)


async def _ignore(_: Exception) -> None:
    pass
