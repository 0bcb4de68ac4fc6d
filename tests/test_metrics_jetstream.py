# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a delivery through JetStream tells: how long it took, whether it is the first, how many are left."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from opentelemetry.instrumentation.nats import process_message
from support.core import Connect, Unique
from support.metrics import BUCKETS, Collected, jetstream
from support.telemetry import Telemetry
from support.waiting import eventually

LATENCY = "nats.jetstream.delivery.latency"
REDELIVERIES = "nats.jetstream.redeliveries"
PENDING = "nats.jetstream.consumer.pending"


def collected(telemetry: Telemetry) -> Collected:
    return Collected(telemetry.metrics())


async def filled(nc: Client, name: str, count: int) -> JetStreamContext:
    """A stream with messages."""
    js = nc.jetstream()
    await js.add_stream(name=name, subjects=[f"{name}.>"])
    for _ in range(count):
        await js.publish(f"{name}.one", b"x")
    return js


# -- the ways to retry: each refuses the first delivery of two messages, takes the second ------------------------------

Way = Callable[[JetStreamContext, str], Awaitable[None]]


async def a_callback(js: JetStreamContext, subject: str) -> None:
    seen: list[Any] = []

    async def callback(msg: Any) -> None:
        seen.append(msg)
        await (msg.ack() if msg.metadata.num_delivered > 1 else msg.nak())

    await js.subscribe(subject, durable="worker", cb=callback, manual_ack=True)
    await eventually(lambda: len(seen) == 4)


async def a_loop(js: JetStreamContext, subject: str) -> None:
    subscription = await js.subscribe(subject, durable="worker", manual_ack=True)
    done = 0
    async for msg in subscription.messages:
        if msg.metadata.num_delivered == 1:
            await msg.nak()
            continue
        await msg.ack()
        done += 1
        if done == 2:
            break


async def fetch(js: JetStreamContext, subject: str) -> None:
    subscription = await js.pull_subscribe(subject, durable="worker")
    for _ in range(2):
        (msg,) = await subscription.fetch(1, timeout=5)
        await msg.nak()
    done = 0
    while done < 2:
        for msg in await subscription.fetch(2, timeout=5):
            await msg.ack()
            done += 1


async def next_msg(js: JetStreamContext, subject: str) -> None:
    if "next_msg" not in JetStreamContext.PushSubscription.__dict__:
        pytest.skip("nats-py before 2.6: JetStream's next_msg is that of a copy of the subscription")
    subscription = await js.subscribe(subject, durable="worker", manual_ack=True)
    done = 0
    while done < 2:
        msg = await subscription.next_msg(timeout=5)
        with process_message(msg):
            again = msg.metadata.num_delivered > 1
            await (msg.ack() if again else msg.nak())
            done += again


WAYS = pytest.mark.parametrize("way", [a_callback, a_loop, fetch, next_msg], ids=lambda way: way.__name__)


class TestRedeliveries:
    @WAYS
    async def test_are_the_deliveries_after_the_first(self, telemetry: Telemetry, nc: Client, unique: Unique, way: Way):
        name = unique()
        await way(await filled(nc, name, 2), f"{name}.one")
        result = collected(telemetry)
        assert result.of(REDELIVERIES) == {jetstream(name, "worker"): 2}
        assert result.of(LATENCY) == {jetstream(name, "worker"): 4}
        assert sum(result.of("messaging.client.consumed.messages").values()) == 4

    async def test_of_a_consumer_with_a_made_up_name_are_those_of_the_stream(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        name = unique()
        js = await filled(nc, name, 1)
        seen: list[Any] = []

        async def callback(msg: Any) -> None:
            seen.append(msg)
            await (msg.nak() if len(seen) < 3 else msg.ack())

        await js.subscribe(f"{name}.one", cb=callback, manual_ack=True)
        await eventually(lambda: len(seen) == 3)
        result = collected(telemetry)
        assert result.of(REDELIVERIES) == {jetstream(name): 2}
        assert result.of(LATENCY) == {jetstream(name): 3}
        assert result.of(PENDING) == {}

    async def test_are_zero_before_the_first(self, telemetry: Telemetry, nc: Client, unique: Unique):
        name = unique()
        js = await filled(nc, name, 1)
        await (await js.pull_subscribe(f"{name}.one", durable="worker")).fetch(1, timeout=5)
        assert collected(telemetry).of(REDELIVERIES) == {jetstream(name, "worker"): 0}


class TestDeliveryLatency:
    async def test_is_the_time_from_the_stream_to_the_application(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        name = unique()
        js = await filled(nc, name, 1)
        subscription = await js.pull_subscribe(f"{name}.one", durable="worker")
        before = time.time()
        [msg] = await subscription.fetch(1, timeout=5)
        after = time.time()

        stored = msg.metadata.timestamp.timestamp()
        [(attributes, point)] = collected(telemetry).points(LATENCY).items()
        assert attributes == jetstream(name, "worker")
        assert point.count == 1
        # nats-py's metadata has the time in microseconds.
        assert max(0, before - stored) - 1e-5 <= point.sum <= after - stored + 1e-5
        assert point.explicit_bounds == BUCKETS

    async def test_of_what_waited_long_has_the_wait_in_it(self, telemetry: Telemetry, nc: Client, unique: Unique):
        name = unique()
        js = await filled(nc, name, 3)
        stored = time.time()
        subscription = await js.pull_subscribe(f"{name}.one", durable="worker")
        await eventually(lambda: time.time() > stored + 0.12)
        await subscription.fetch(3, timeout=5)
        [point] = collected(telemetry).points(LATENCY).values()
        assert point.count == 3
        assert point.min >= 0.12
        # All in (0.1, 0.25], or beyond it on a slow machine, and none below.
        assert sum(point.bucket_counts[:6]) == 0

    async def test_is_none_for_messages_that_come_through_no_stream(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique()
        subscription = await nc.subscribe(subject)
        await nc.publish(subject, b"", reply=unique("answer"))
        await subscription.next_msg(timeout=5)
        result = collected(telemetry)
        assert result.of(LATENCY) == result.of(REDELIVERIES) == result.of(PENDING) == {}


class TestConsumerPending:
    async def test_is_what_the_last_delivery_said(self, telemetry: Telemetry, nc: Client, unique: Unique):
        name = unique()
        js = await filled(nc, name, 5)
        subscription = await js.pull_subscribe(f"{name}.one", durable="worker")
        assert collected(telemetry).of(PENDING) == {}
        for taken, left in ((2, 3), (1, 2), (2, 0)):
            assert len(await subscription.fetch(taken, timeout=5)) == taken
            assert collected(telemetry).of(PENDING) == {jetstream(name, "worker"): left}
        await js.publish(f"{name}.one", b"x")
        await js.publish(f"{name}.one", b"x")
        assert collected(telemetry).of(PENDING) == {jetstream(name, "worker"): 0}
        await subscription.fetch(1, timeout=5)
        assert collected(telemetry).of(PENDING) == {jetstream(name, "worker"): 1}

    async def test_is_apart_for_each_consumer(self, telemetry: Telemetry, nc: Client, unique: Unique):
        name = unique()
        js = await filled(nc, name, 4)
        for consumer, count in (("slow", 1), ("quick", 4)):
            await (await js.pull_subscribe(f"{name}.one", durable=consumer)).fetch(count, timeout=5)
        assert collected(telemetry).of(PENDING) == {jetstream(name, "slow"): 3, jetstream(name, "quick"): 0}

    async def test_of_a_consumer_that_clients_share_is_the_latest_and_a_closed_one_has_none(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        name = unique()
        clients = [await connect(), await connect()]
        await filled(clients[0], name, 5)
        subscriptions = [await nc.jetstream().pull_subscribe(f"{name}.one", durable="worker") for nc in clients]
        for left in (4, 3, 2, 1):
            await subscriptions[left % 2].fetch(1, timeout=5)
            assert collected(telemetry).of(PENDING) == {jetstream(name, "worker"): left}
        await clients[1].close()
        assert collected(telemetry).of(PENDING) == {jetstream(name, "worker"): 2}
        await clients[0].close()
        assert collected(telemetry).of(PENDING) == {}
