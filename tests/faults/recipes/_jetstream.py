# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.js.client`: publish, subscribe, fetch."""

from __future__ import annotations

import asyncio
from typing import Any

from nats.js import api

from faults.recipes._kitchen import Kitchen, Operation, recipe, simple
from faults.world import PATIENCE, until

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


@recipe("JetStreamContext._JSI.recreate_consumer")
async def ordered_consumer_that_is_made_again(kitchen: Kitchen) -> Operation:
    await kitchen.stream(2)
    got: asyncio.Queue[Any] = asyncio.Queue()
    subscription = await kitchen.js.subscribe(f"{kitchen.name}.>", ordered_consumer=True, cb=got.put)
    for _ in range(2):
        await got.get()

    async def operation() -> Any:
        # What nats-py does after a gap.
        await subscription._sub._jsi.reset_ordered_consumer(1)
        return [(await got.get()).data for _ in range(2)]

    return operation


@recipe("JetStreamContext.subscribe", "JetStreamContext._auto_ack_callback")
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
