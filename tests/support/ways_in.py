# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Every way in which a program gets a message, each in the same form, so that one suite can hold them all to the rules.

A new way in is a class here and a line in `WAYS`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Awaitable, Callable
from typing import Any

from nats.aio.client import Client
from nats.js import JetStreamContext

from support.waiting import flush

Work = Callable[[Any], Awaitable[None]]
"""What the program does with a message; in its context, where the way has one."""


class Way:
    """One way to get a message.

    Args:
        nc: The client.
        name: A name that no other test uses.

    Attributes:
        subject: Where a message for it is to be sent.
        body: What the message's data is to be.
        operation: The operation of its span.
        in_task: Whether the program's own task takes the message, so that a span of its own may be around it.
    """

    operation = "process"
    in_task = True
    body = b"hello"

    def __init__(self, nc: Client, name: str) -> None:
        self.nc = nc
        self.name = name
        self.subject = name

    async def open(self) -> None:
        """Gets ready."""
        await self.prepare()
        await flush(self.nc)

    async def prepare(self) -> None:
        """Subscribes."""
        raise NotImplementedError

    async def take(self, work: Work) -> None:
        """Takes one message and works on it; returns, or raises what the work raised, when that is over."""
        raise NotImplementedError


class _Called(Way):
    """Ways in which nats-py calls the program."""

    in_task = False

    async def prepare(self) -> None:
        self._work: asyncio.Queue[tuple[Work, asyncio.Future[None]]] = asyncio.Queue()
        await self.subscribe()

    async def subscribe(self) -> None:
        raise NotImplementedError

    async def handle(self, message: Any) -> None:
        work, done = await self._work.get()
        try:
            await work(message)
        except BaseException as error:
            done.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            raise
        else:
            done.set_result(None)

    async def take(self, work: Work) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._work.put_nowait((work, done))
        await asyncio.wait_for(done, 5)


class Callback(_Called):
    """A callback of core NATS."""

    async def subscribe(self) -> None:
        await self.nc.subscribe(self.subject, cb=self.handle)


class _Streamed(Way):
    async def stream(self) -> JetStreamContext:
        js = self.nc.jetstream()
        await js.add_stream(name=self.name, subjects=[self.subject])
        return js


class PushCallback(_Called, _Streamed):
    """A callback of a JetStream push consumer."""

    async def subscribe(self) -> None:
        await (await self.stream()).subscribe(self.subject, cb=self.handle, manual_ack=True)


class MicroHandler(_Called):
    """The handler of a micro service's endpoint."""

    async def subscribe(self) -> None:
        micro: Any = importlib.import_module("nats.micro")
        service = await micro.add_service(self.nc, name="service", version="1.0.0")
        await service.add_endpoint(name="endpoint", subject=self.subject, handler=self.handle)


class _Loop(Way):
    iterator: Any

    async def take(self, work: Work) -> None:
        async for message in self.iterator:
            await work(message)
            break


class CoreLoop(_Loop):
    """`async for` over a core subscription's messages."""

    async def prepare(self) -> None:
        self.iterator = (await self.nc.subscribe(self.subject)).messages


class PushLoop(_Loop, _Streamed):
    """`async for` over a push consumer's messages."""

    async def prepare(self) -> None:
        self.iterator = (await (await self.stream()).subscribe(self.subject)).messages


class NextMsg(Way):
    """`next_msg` of core NATS."""

    operation = "receive"

    async def prepare(self) -> None:
        self.subscription: Any = await self.nc.subscribe(self.subject)

    async def take(self, work: Work) -> None:
        await work(await self.subscription.next_msg(5))


class PushNextMsg(NextMsg, _Streamed):
    """`next_msg` of a push consumer."""

    async def prepare(self) -> None:
        self.subscription = await (await self.stream()).subscribe(self.subject)


class Step(Way):
    """A step of an iterator, taken by hand."""

    operation = "receive"

    async def prepare(self) -> None:
        self.iterator: Any = (await self.nc.subscribe(self.subject)).messages

    async def take(self, work: Work) -> None:
        await work(await self.iterator.__anext__())


class FetchLoop(_Streamed):
    """A loop over what `fetch` returns; the fetch itself has another span, see `support.ways_in.Fetch`."""

    async def prepare(self) -> None:
        self.subscription = await (await self.stream()).pull_subscribe(self.subject, "worker")

    async def take(self, work: Work) -> None:
        for message in await self.subscription.fetch(1, timeout=5):
            await work(message)


class _Watched(Way):
    async def prepare(self) -> None:
        bucket = await self.nc.jetstream().create_key_value(bucket=self.name)
        self.subject = f"$KV.{self.name}.key"
        self.watcher: Any = await bucket.watchall()
        assert await self.watcher.updates(timeout=5) is None


class WatcherLoop(_Watched):
    """`async for` over a KV watcher."""

    async def take(self, work: Work) -> None:
        async for entry in self.watcher:
            await work(entry)
            break


class WatcherUpdates(_Watched):
    """`updates` of a KV watcher."""

    operation = "receive"

    async def take(self, work: Work) -> None:
        await work(await self.watcher.updates(timeout=5))


class _ObjectsWatched(Way):
    async def prepare(self) -> None:
        store = await self.nc.jetstream().create_object_store(self.name)
        self.subject = f"$O.{self.name}.M.aW1hZ2U="
        self.body = json.dumps({"name": "image", "bucket": self.name, "nuid": "n", "size": 0, "chunks": 0}).encode()
        self.watcher: Any = await store.watch()
        assert await self.watcher.updates(timeout=5) is None


class ObjectWatcherLoop(_ObjectsWatched):
    """`async for` over an object store's watcher."""

    async def take(self, work: Work) -> None:
        async for info in self.watcher:
            await work(info)
            break


class ObjectWatcherUpdates(_ObjectsWatched):
    """`updates` of an object store's watcher."""

    operation = "receive"

    async def take(self, work: Work) -> None:
        await work(await self.watcher.updates(timeout=5))


WAYS: list[type[Way]] = [
    Callback,
    PushCallback,
    CoreLoop,
    PushLoop,
    FetchLoop,
    NextMsg,
    PushNextMsg,
    Step,
    WatcherLoop,
    WatcherUpdates,
]
if importlib.util.find_spec("nats.micro") is not None:
    WAYS.append(MicroHandler)
if hasattr(JetStreamContext, "create_object_store"):
    WAYS += [ObjectWatcherLoop, ObjectWatcherUpdates]
