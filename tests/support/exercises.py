# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Every kind of call that a program makes to nats-py, each with what it gets from it.

For what must hold whatever is called: that a fault of telemetry changes no result, that suppression silences all.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import BadRequestError, KeyNotFoundError

from support.planted import PAYLOAD
from support.stores import listed, watching

Exercise = Callable[[Client, str], Awaitable[Any]]
"""Is given a client and a name that no other test uses; returns what the program got, in a form to compare."""


async def publish_to_a_callback(nc: Client, name: str) -> Any:
    got: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def callback(msg: Any) -> None:
        got.set_result((msg.data, msg.headers["Own"]))

    await nc.subscribe(name, cb=callback)
    answer = await nc.publish(name, PAYLOAD, headers={"Own": "1"})
    return answer, await asyncio.wait_for(got, 5)


async def publish_without_headers(nc: Client, name: str) -> Any:
    subscription = await nc.subscribe(name)
    await nc.publish(name, PAYLOAD)
    return (await subscription.next_msg(5)).data


async def loop_over_messages(nc: Client, name: str) -> Any:
    subscription = await nc.subscribe(f"{name}.*")
    for number in range(3):
        await nc.publish(f"{name}.{number}", b"%d" % number)
    seen: list[bytes] = []
    async for msg in subscription.messages:
        seen.append(msg.data)
        if len(seen) == 3:
            break
    return seen


async def request_and_respond(nc: Client, name: str) -> Any:
    async def callback(msg: Any) -> None:
        await msg.respond(msg.data.upper())

    await nc.subscribe(name, cb=callback)
    return (await nc.request(name, PAYLOAD, timeout=5)).data


async def request_that_nobody_answers(nc: Client, name: str) -> Any:
    with pytest.raises(NoRespondersError) as caught:
        await nc.request(name, PAYLOAD, timeout=5)
    return str(caught.value)


async def a_poll_in_vain(nc: Client, name: str) -> Any:
    subscription = await nc.subscribe(name)
    with pytest.raises(asyncio.TimeoutError) as caught:
        await subscription.next_msg(timeout=0.01)
    return type(caught.value)


async def a_payload_that_is_no_payload(nc: Client, name: str) -> Any:
    with pytest.raises(Exception) as caught:  # noqa: B017 (nats-py's, whatever it is)
        await nc.publish(name, 42)  # type: ignore[arg-type]
    return type(caught.value), str(caught.value)


async def _stream(nc: Client, name: str) -> JetStreamContext:
    js = nc.jetstream()
    await js.add_stream(name=name, subjects=[f"{name}.>"])
    return js


async def jetstream_publish(nc: Client, name: str) -> Any:
    js = await _stream(nc, name)
    ack = await js.publish(f"{name}.one", PAYLOAD, headers={"Own": "1"})
    return ack.stream == name, ack.seq


async def jetstream_publish_that_is_refused(nc: Client, name: str) -> Any:
    js = await _stream(nc, name)
    with pytest.raises(BadRequestError) as caught:
        await js.publish(f"{name}.one", PAYLOAD, headers={"Nats-Expected-Last-Sequence": "9"})
    return caught.value.err_code


async def jetstream_publish_async(nc: Client, name: str) -> Any:
    if not hasattr(JetStreamContext, "publish_async"):
        return None
    js = await _stream(nc, name)
    return (await asyncio.wait_for(await js.publish_async(f"{name}.one", PAYLOAD), 5)).seq


async def jetstream_subscribe(nc: Client, name: str) -> Any:
    js = await _stream(nc, name)
    got: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def callback(msg: Any) -> None:
        got.set_result(msg.data)

    await js.subscribe(f"{name}.one", cb=callback)
    await js.publish(f"{name}.one", PAYLOAD)
    return await asyncio.wait_for(got, 5)


async def jetstream_fetch_and_ack(nc: Client, name: str) -> Any:
    js = await _stream(nc, name)
    await js.publish(f"{name}.one", b"1")
    await js.publish(f"{name}.two", b"2")
    subscription = await js.pull_subscribe(f"{name}.>", durable="worker")
    seen: list[bytes] = []
    for msg in await subscription.fetch(2, timeout=5):
        await msg.ack()
        seen.append(msg.data)
    with pytest.raises(asyncio.TimeoutError):
        await subscription.fetch(1, timeout=0.01)
    return seen


async def stored_messages(nc: Client, name: str) -> Any:
    js = await _stream(nc, name)
    await js.publish(f"{name}.one", PAYLOAD)
    return (await js.get_msg(name, 1)).data, (await js.get_last_msg(name, f"{name}.one")).data


async def key_value(nc: Client, name: str) -> Any:
    kv = await nc.jetstream().create_key_value(bucket=name)
    await kv.put("key", b"1")
    revision = await kv.update("key", b"2", last=1)
    entry = await kv.get("key")
    with pytest.raises(KeyNotFoundError):
        await kv.get("none")
    keys, history = await listed(kv.keys), await listed(lambda: kv.history("key"))
    return revision, entry.value, keys, [entry.value for entry in history]


async def key_value_watch(nc: Client, name: str) -> Any:
    kv = await nc.jetstream().create_key_value(bucket=name)
    await kv.put("one", b"1")
    await kv.put("two", b"2")
    watcher = await watching(kv)
    first = await watcher.updates()
    seen = [first.value]
    async for entry in watcher:
        if entry is None:
            break
        seen.append(entry.value)
    await watcher.stop()
    return seen


async def object_store(nc: Client, name: str) -> Any:
    js = nc.jetstream()
    if not hasattr(js, "create_object_store"):
        return None
    store = await js.create_object_store(name)
    info = await store.put("image", b"x" * 200_000)
    result = await store.get("image")
    await store.delete("image")
    return info.size, info.chunks, len(result.data or b"")


async def micro_service(nc: Client, name: str) -> Any:
    if importlib.util.find_spec("nats.micro") is None:
        return None
    micro = importlib.import_module("nats.micro")

    async def handler(request: Any) -> None:
        await request.respond(request.data.upper())

    service = await micro.add_service(nc, name=name, version="1.0.0")
    await service.add_endpoint(name="shout", subject=f"{name}.shout", handler=handler)
    answer = await nc.request(f"{name}.shout", PAYLOAD, timeout=5)
    await service.stop()
    return answer.data


EXERCISES: list[Exercise] = [
    publish_to_a_callback,
    publish_without_headers,
    loop_over_messages,
    request_and_respond,
    request_that_nobody_answers,
    a_poll_in_vain,
    a_payload_that_is_no_payload,
    jetstream_publish,
    jetstream_publish_that_is_refused,
    jetstream_publish_async,
    jetstream_subscribe,
    jetstream_fetch_and_ack,
    stored_messages,
    key_value,
    key_value_watch,
    object_store,
    micro_service,
]
