# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A client that is closed, drained, or whose tasks are cancelled, in the midst of each thing that it can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from nats.aio.client import Client

from faults.normal import plain
from faults.world import PATIENCE, World, until
from support.proxy import Proxy
from support.server import HOST

SOON = 0.5
"""Seconds that what is never answered waits."""

LEFT = 6.0
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
    await closing.other.flush()
    closing.entered.set()
    return closing.nc.request(closing.name, b"ping", timeout=SOON)


@stage
async def a_request_that_is_answered_later(closing: Closing) -> Awaitable[Any]:
    async def answer(message: Any) -> None:
        closing.entered.set()
        await closing.gate.wait()
        await message.respond(b"pong")

    await closing.other.subscribe(closing.name, cb=answer)
    await closing.other.flush()
    return closing.nc.request(closing.name, b"ping", timeout=SOON)


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
    await closing.other.flush()

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
    await closing.other.flush()
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
    await closing.nc.flush()
    await closing.other.publish(closing.name, b"one", reply="nowhere")


@stage
async def an_object_being_stored(closing: Closing) -> Awaitable[Any]:
    if not hasattr(closing.js, "create_object_store"):
        closing.entered.set()
        return asyncio.sleep(0)
    store = await closing.js.create_object_store(closing.name, storage="memory")

    async def chunks() -> Any:
        closing.entered.set()
        return await store.put("object", b"x" * 3_000_000)

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
    outcome = [_outcome(ending), None if task is None else _outcome(task), closing.seen, closing.nc.is_closed]
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
