# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.aio.client`, `nats.aio.msg`, `nats.aio.subscription`."""

from __future__ import annotations

import asyncio
from typing import Any

from nats.aio.client import Client

from faults.recipes._kitchen import Kitchen, Operation, recipe, simple
from faults.world import PATIENCE, until
from support.waiting import flush


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


@recipe("Client._process_op_err", "Client._attempt_reconnect")
async def reconnect(kitchen: Kitchen) -> Operation:
    reconnected = asyncio.Event()

    async def tell() -> None:
        reconnected.set()

    client = await kitchen.world.connect(reconnected_cb=tell)
    kitchen.others.append(client)
    subscription = await client.subscribe(kitchen.name)
    await flush(client)

    async def operation() -> Any:
        client._transport._io_writer.transport.abort()
        await reconnected.wait()
        await client.publish(kitchen.name, b"hello")
        return (await subscription.next_msg(PATIENCE)).data

    return operation


@recipe("Subscription._stop_processing")
async def unsubscribe(kitchen: Kitchen) -> Operation:
    subscription = await kitchen.nc.subscribe(kitchen.name, cb=_ignore)
    await kitchen.nc.publish(kitchen.name, b"hello")
    await flush(kitchen.nc)
    return subscription.unsubscribe


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
    await flush(responder)
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
