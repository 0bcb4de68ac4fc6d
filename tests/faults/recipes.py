# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""One recipe for each method that the instrumentation replaces: what must be there before, and the call itself.

The names are those of the tables of rows (`_patches/*`, `ROWS`); `test_every_row_has_a_recipe` compares. A recipe that
this release of nats-py has no method for is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from nats.aio.client import Client
from nats.js import JetStreamContext, api

from faults.world import PATIENCE, World, until

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
        await self.nc.flush()
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


# -- core -------------------------------------------------------------------------------------------------------------


@recipe("Client.connect", "Client._process_connect_init")
async def connect(kitchen: Kitchen) -> Operation:
    async def operation() -> Any:
        client = Client()
        kitchen.others.append(client)
        await client.connect(kitchen.world.url, connect_timeout=PATIENCE)
        return client.is_connected

    return operation


@recipe("Client._close")
async def close(kitchen: Kitchen) -> Operation:
    client = await kitchen.world.connect()
    kitchen.others.append(client)
    await client.subscribe(kitchen.name, cb=_ignore)

    async def operation() -> Any:
        await client.close()
        return client.is_closed

    return operation


async def _ignore(message: Any) -> None:
    pass


@recipe("Client.publish")
async def publish(kitchen: Kitchen) -> Operation:
    return lambda: kitchen.nc.publish(kitchen.name, b"hello", headers={"Own": "1"})


@recipe("Client.request")
async def request(kitchen: Kitchen) -> Operation:
    async def answer(message: Any) -> None:
        await message.respond(message.data.upper())

    responder = await kitchen.world.connect()
    kitchen.others.append(responder)
    await responder.subscribe(kitchen.name, cb=answer)
    await responder.flush()
    return lambda: kitchen.nc.request(kitchen.name, b"ping", timeout=PATIENCE, headers={"Own": "1"})


@recipe("Msg.respond")
async def respond(kitchen: Kitchen) -> Operation:
    message = await kitchen.asked()
    return lambda: message.respond(b"answer")


def _settle(method: str, **arguments: Any) -> None:
    simple(f"Msg.{method}", Kitchen.fetched, lambda _, message: lambda: getattr(message, method)(**arguments))


_settle("ack")
_settle("ack_sync", timeout=PATIENCE)
_settle("nak")
_settle("term")
_settle("in_progress")


@recipe("Subscription._start")
async def subscribe(kitchen: Kitchen) -> Operation:
    async def operation() -> Any:
        got: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def callback(message: Any) -> None:
            await asyncio.sleep(0)
            if not got.done():
                got.set_result(message)

        await kitchen.nc.subscribe(kitchen.name, cb=callback)
        await kitchen.nc.publish(kitchen.name, b"hello", headers={"Own": "1"})
        return await got

    return operation


async def _subscribed(kitchen: Kitchen) -> Any:
    subscription = await kitchen.nc.subscribe(kitchen.name)
    for number in range(3):
        await kitchen.nc.publish(kitchen.name, b"%d" % number)
    await until(lambda: subscription.pending_msgs == 3)
    return subscription


simple("Subscription.next_msg", _subscribed, lambda _, subscription: lambda: subscription.next_msg(PATIENCE))


@recipe("_SubscriptionMessageIterator.__aiter__")
async def loop_over_messages(kitchen: Kitchen) -> Operation:
    subscription = await _subscribed(kitchen)

    async def operation() -> Any:
        seen: list[Any] = []
        async for message in subscription.messages:
            await asyncio.sleep(0)
            seen.append(message)
            if len(seen) == 3:
                break
        return seen

    return operation


@recipe("_SubscriptionMessageIterator.__anext__")
async def step_by_hand(kitchen: Kitchen) -> Operation:
    messages = (await _subscribed(kitchen)).messages
    return lambda: messages.__anext__()


# -- JetStream --------------------------------------------------------------------------------------------------------

simple(
    "JetStreamContext.publish",
    Kitchen.stream,
    lambda kitchen, _: lambda: kitchen.js.publish(f"{kitchen.name}.one", b"hello", headers={"Own": "1"}),
)


@recipe("JetStreamContext.publish_async")
async def publish_async(kitchen: Kitchen) -> Operation:
    await kitchen.stream()

    async def operation() -> Any:
        return await (await kitchen.js.publish_async(f"{kitchen.name}.one", b"hello", headers={"Own": "1"}))

    return operation


@recipe("JetStreamContext._handle_async_reply")
async def publish_async_that_is_refused(kitchen: Kitchen) -> Operation:
    await kitchen.stream()

    async def operation() -> Any:
        headers = {"Nats-Expected-Last-Sequence": "9"}
        refused = await kitchen.js.publish_async(f"{kitchen.name}.one", b"hello", headers=headers)
        # The refused one's future is never done in some releases; an accepted one after it tells that it was refused.
        await (await kitchen.js.publish_async(f"{kitchen.name}.one", b"hello"))
        refused.cancel()
        return len(kitchen.world.errors) > 0

    return operation


@recipe("JetStreamContext.subscribe", "JetStreamContext._auto_ack_callback", "JetStreamContext._JSI.recreate_consumer")
async def jetstream_subscribe(kitchen: Kitchen) -> Operation:
    await kitchen.stream(2)

    async def operation() -> Any:
        got: asyncio.Queue[Any] = asyncio.Queue()
        await kitchen.js.subscribe(f"{kitchen.name}.>", durable="push", cb=got.put)
        messages = [await got.get() for _ in range(2)]
        return [message.data for message in messages]

    return operation


async def _push_consumer(kitchen: Kitchen) -> Any:
    await kitchen.stream(1)
    config = api.ConsumerConfig(durable_name="push", deliver_subject=f"{kitchen.name}-deliver", ack_policy="explicit")
    await kitchen.js.add_consumer(kitchen.name, config)
    return config


@recipe("JetStreamContext.subscribe_bind")
async def subscribe_bind(kitchen: Kitchen) -> Operation:
    config = await _push_consumer(kitchen)

    async def operation() -> Any:
        got: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def callback(message: Any) -> None:
            got.set_result(message.data)

        await kitchen.js.subscribe_bind(stream=kitchen.name, config=config, consumer="push", cb=callback)
        return await got

    return operation


simple(
    "JetStreamContext.pull_subscribe",
    Kitchen.stream,
    lambda kitchen, _: lambda: kitchen.js.pull_subscribe(f"{kitchen.name}.>", durable="worker"),
)
simple(
    "JetStreamContext.pull_subscribe_bind",
    Kitchen.pulled,
    lambda kitchen, _: lambda: kitchen.js.pull_subscribe_bind("worker", kitchen.name),
)


async def _pushed(kitchen: Kitchen) -> Any:
    await kitchen.stream(2)
    subscription = await kitchen.js.subscribe(f"{kitchen.name}.>", durable="push")
    await until(lambda: subscription.pending_msgs == 2)
    return subscription


simple(
    "JetStreamContext.PushSubscription.next_msg",
    _pushed,
    lambda _, subscription: lambda: subscription.next_msg(PATIENCE),
)


@recipe("JetStreamContext.PullSubscription.fetch")
async def fetch(kitchen: Kitchen) -> Operation:
    subscription = await kitchen.pulled(3)

    async def operation() -> Any:
        seen: list[Any] = []
        for message in await subscription.fetch(3, timeout=PATIENCE):
            await asyncio.sleep(0)
            seen.append(message.data)
            await message.ack()
        return seen

    return operation


async def _stream_with_two(kitchen: Kitchen) -> None:
    await kitchen.stream(2)


async def _stream_and_consumer(kitchen: Kitchen) -> None:
    await kitchen.pulled(2)


_FAR = "2099-01-01T00:00:00Z"
_MANAGEMENT: dict[str, tuple[Callable[[Kitchen], Awaitable[Any]], Callable[[Kitchen], dict[str, Any]]]] = {
    "account_info": (nothing, lambda k: {}),
    "find_stream_name_by_subject": (_stream_with_two, lambda k: {"subject": f"{k.name}.one"}),
    "stream_info": (_stream_with_two, lambda k: {"name": k.name}),
    "add_stream": (nothing, lambda k: {"name": k.name, "subjects": [f"{k.name}.>"], "storage": "memory"}),
    "update_stream": (
        _stream_with_two,
        lambda k: {"name": k.name, "subjects": [f"{k.name}.>", f"{k.name}-more"], "storage": "memory"},
    ),
    "delete_stream": (_stream_with_two, lambda k: {"name": k.name}),
    "purge_stream": (_stream_with_two, lambda k: {"name": k.name}),
    "consumer_info": (_stream_and_consumer, lambda k: {"stream": k.name, "consumer": "worker"}),
    "streams_info": (_stream_with_two, lambda k: {}),
    "streams_info_iterator": (_stream_with_two, lambda k: {}),
    "add_consumer": (_stream_with_two, lambda k: {"stream": k.name, "durable_name": "made", "ack_policy": "explicit"}),
    "delete_consumer": (_stream_and_consumer, lambda k: {"stream": k.name, "consumer": "worker"}),
    "pause_consumer": (
        _stream_and_consumer,
        lambda k: {"stream": k.name, "consumer": "worker", "pause_until": _FAR},
    ),
    "resume_consumer": (_stream_and_consumer, lambda k: {"stream": k.name, "consumer": "worker"}),
    "reset_consumer": (_stream_and_consumer, lambda k: {"stream": k.name, "consumer": "worker"}),
    "consumers_info": (_stream_and_consumer, lambda k: {"stream": k.name}),
    "delete_msg": (_stream_with_two, lambda k: {"stream_name": k.name, "seq": 1}),
    "get_msg": (_stream_with_two, lambda k: {"stream_name": k.name, "seq": 1}),
    "get_last_msg": (_stream_with_two, lambda k: {"stream_name": k.name, "subject": f"{k.name}.1"}),
}


def _manage(method: str) -> None:
    needs, arguments = _MANAGEMENT[method]
    simple(f"JetStreamManager.{method}", needs, lambda k, _: lambda: getattr(k.js, method)(**arguments(k)))


for _method in _MANAGEMENT:
    _manage(_method)


# -- key-value --------------------------------------------------------------------------------------------------------


async def _two_values(kitchen: Kitchen) -> Any:
    return await kitchen.bucket(2)


def _on_bucket(method: str, *arguments: Any, **more: Any) -> None:
    simple(f"KeyValue.{method}", _two_values, lambda _, bucket: lambda: getattr(bucket, method)(*arguments, **more))


_on_bucket("put", "key0", b"new")
_on_bucket("create", "key9", b"new")
_on_bucket("update", "key0", b"new", last=1)
_on_bucket("delete", "key0")
_on_bucket("purge", "key0")
_on_bucket("get", "key1")
_on_bucket("keys")
_on_bucket("history", "key0")
_on_bucket("status")
_on_bucket("watch", "key0")
_on_bucket("watchall")


@recipe("KeyValue.purge_deletes")
async def purge_deletes(kitchen: Kitchen) -> Operation:
    bucket = await kitchen.bucket(1)
    await bucket.delete("key0")
    return lambda: bucket.purge_deletes(olderthan=-1)


async def _bucket_there(kitchen: Kitchen) -> None:
    await kitchen.bucket(1)


simple("JetStreamContext.key_value", _bucket_there, lambda k, _: lambda: k.js.key_value(k.name))
simple(
    "JetStreamContext.create_key_value",
    nothing,
    lambda k, _: lambda: k.js.create_key_value(bucket=k.name, storage="memory"),
)
simple("JetStreamContext.delete_key_value", _bucket_there, lambda k, _: lambda: k.js.delete_key_value(k.name))


async def _kv_watcher(kitchen: Kitchen) -> Any:
    bucket = await kitchen.bucket(2)
    await bucket.delete("key0")
    return await kitchen.watching(bucket, bucket.watchall)


def _walk(watcher: Any) -> Operation:
    async def operation() -> Any:
        seen: list[Any] = []
        async for entry in watcher:
            await asyncio.sleep(0)
            if entry is None:
                break
            seen.append(getattr(entry, "key", None) or entry.name)
            if len(seen) == 2:
                break
        return seen

    return operation


simple("KeyValue.KeyWatcher.__init__", _kv_watcher, lambda _, watcher: lambda: watcher.stop())
simple("KeyValue.KeyWatcher.__aiter__", _kv_watcher, lambda _, watcher: _walk(watcher))
simple("KeyValue.KeyWatcher.__anext__", _kv_watcher, lambda _, watcher: lambda: watcher.__anext__())
simple("KeyValue.KeyWatcher.updates", _kv_watcher, lambda _, watcher: lambda: watcher.updates(PATIENCE))


# -- object store -----------------------------------------------------------------------------------------------------

_LARGE = b"x" * 300_000


async def _two_objects(kitchen: Kitchen) -> Any:
    return await kitchen.objects(2)


def _on_objects(method: str, *arguments: Any) -> None:
    simple(f"ObjectStore.{method}", _two_objects, lambda _, store: lambda: getattr(store, method)(*arguments))


_on_objects("put", "large", _LARGE)
_on_objects("delete", "object0")
_on_objects("get", "object0")
_on_objects("get_info", "object0")
_on_objects("list")
_on_objects("status")
_on_objects("seal")
_on_objects("watch")
simple(
    "ObjectStore.update_meta",
    _two_objects,
    lambda _, store: lambda: store.update_meta("object0", api.ObjectMeta(name="object0", description="new")),
)


async def _objects_there(kitchen: Kitchen) -> None:
    await kitchen.objects(1)


simple("JetStreamContext.object_store", _objects_there, lambda k, _: lambda: k.js.object_store(k.name))
simple(
    "JetStreamContext.create_object_store",
    nothing,
    lambda k, _: lambda: k.js.create_object_store(k.name, storage="memory"),
)
simple("JetStreamContext.delete_object_store", _objects_there, lambda k, _: lambda: k.js.delete_object_store(k.name))


async def _object_watcher(kitchen: Kitchen) -> Any:
    store = await kitchen.objects(2)
    return await kitchen.watching(store, store.watch)


simple("ObjectStore.ObjectWatcher.__init__", _object_watcher, lambda _, watcher: lambda: watcher.stop())
simple("ObjectStore.ObjectWatcher.__aiter__", _object_watcher, lambda _, watcher: _walk(watcher))
simple("ObjectStore.ObjectWatcher.__anext__", _object_watcher, lambda _, watcher: lambda: watcher.__anext__())
simple("ObjectStore.ObjectWatcher.updates", _object_watcher, lambda _, watcher: lambda: watcher.updates(PATIENCE))


# -- services ---------------------------------------------------------------------------------------------------------


@recipe("Endpoint._start")
async def endpoint(kitchen: Kitchen) -> Operation:
    async def answer(request: Any) -> None:
        await asyncio.sleep(0)
        await request.respond(request.data.upper(), headers={"Own": "1"})

    async def operation() -> Any:
        service = await kitchen.service(answer)
        response = await kitchen.nc.request(kitchen.name, b"ping", timeout=PATIENCE)
        await service.stop()
        return response

    return operation


simple("Request.respond", Kitchen.request_in_hand, lambda _, request: lambda: request.respond(b"answer"))
simple(
    "Request.respond_error",
    Kitchen.request_in_hand,
    lambda _, request: lambda: request.respond_error("500", "refused", b"why"),
)
