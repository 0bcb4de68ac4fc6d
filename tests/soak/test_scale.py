# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Many of everything: connections, subscriptions, connects and closes, messages. The last costs what the first did.

`SCALE` in the environment is a factor on all numbers; 0.1 takes a minute.
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Awaitable, Callable
from itertools import pairwise
from statistics import fmean
from time import thread_time

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from support.server import NatsServer
from support.soaking import Cost, Providers, relative, yardstick
from support.waiting import eventually, flush

SCALE = float(os.environ.get("SCALE", "1"))


def scaled(number: int) -> int:
    """Ten equal parts of at least 50."""
    return max(500, int(number * SCALE) // 10 * 10)


CONNECTIONS = scaled(1_000)
SUBSCRIPTIONS = scaled(20_000)
CONNECTS = scaled(5_000)
MESSAGES = scaled(10_000_000)

SLOWDOWN = 1.15
LEFT = 16
"""Bytes that one of many may leave behind: less than any object has."""

PAGES = 32 * 1024 * 1024
"""Bytes of memory that the process may have more at the end of all messages, whatever their number."""


async def cost(count: int, action: Callable[[int], Awaitable[None]]) -> Cost:
    """Does something `count` times; what one of them costs."""
    spent = 0.0
    units: list[float] = []
    for number in range(count):
        started = thread_time()
        await action(number)
        spent += thread_time() - started
        if number % 100 == 0:
            units.append(yardstick())
    return Cost(spent / count, spent / count / fmean(units))


async def check_flat(count: int, action: Callable[[int], Awaitable[None]], providers: Providers) -> None:
    """Does something `count` times and in the last tenths looks at what that leaves behind."""
    await cost(count // 10, action)  # warms up, and fills caches
    parts = [await cost(count // 10, action) for _ in range(6)]
    slower = relative(parts[-2:]) / relative(parts[:2])
    tracemalloc.start()
    try:
        left = []
        for _ in range(4):
            await cost(count // 10, action)
            providers.flush()
            gc.collect()
            left.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # What happens to be there still, of the last connection for one, differs; what is left behind is there each time.
    each = min(after - before for before, after in pairwise(left[1:])) / (count // 10)
    told = ", ".join(f"{part.seconds * 1e6:.0f}" for part in parts)
    print(f"\nus each: {told}; at the end / at the start: {slower:.3f}; bytes left by each: {each:.1f}")
    assert slower < SLOWDOWN
    assert each < LEFT


async def test_connections_at_once(providers: Providers, connect: Callable[..., Awaitable[Client]]) -> None:
    received = 0

    async def receive(_: Msg) -> None:
        nonlocal received
        received += 1

    clients = [await connect() for _ in range(CONNECTIONS)]
    for number, client in enumerate(clients):
        await client.subscribe(f"scale.{number}.>", cb=receive)
    for client in clients:
        await flush(client)

    async def send(number: int) -> None:
        await clients[number % CONNECTIONS].publish(f"scale.{(number + 1) % CONNECTIONS}.x", b"x")

    few = [await cost(CONNECTIONS // 10, send) for _ in range(20)]
    many = [await cost(CONNECTIONS, send) for _ in range(5)]
    for client in clients:
        await client.flush()
    await eventually(lambda: received == 7 * CONNECTIONS, 60, "the arrival of all messages")
    spread = relative(many) / relative(few)
    print(
        f"\n{CONNECTIONS} connections: us a message {many[-1].seconds * 1e6:.0f}; over those of a tenth: {spread:.3f}"
    )
    metrics = providers.reader.get_metrics_data()
    assert metrics is not None
    assert spread < 1.5  # the caches of the processor are as full as they get


async def test_subscriptions_made_and_dropped(providers: Providers, connect: Callable[..., Awaitable[Client]]) -> None:
    nc = await connect()

    async def subscribe(number: int) -> None:
        subscription = await nc.subscribe(f"scale.{number % 50}.>")
        await subscription.unsubscribe()
        if number % 100 == 0:
            await nc.flush()

    await check_flat(SUBSCRIPTIONS, subscribe, providers)


async def test_connects_and_closes(providers: Providers, nats_server: NatsServer) -> None:
    async def open_and_close(_: int) -> None:
        nc = await nats.connect(nats_server.url)
        await nc.publish("scale", b"x")
        await nc.close()

    await check_flat(CONNECTS, open_and_close, providers)


async def test_messages(providers: Providers, connect: Callable[..., Awaitable[Client]]) -> None:
    sender, receiver = await connect(), await connect()
    received = 0

    async def receive(_: Msg) -> None:
        nonlocal received
        received += 1

    await receiver.subscribe("scale.*.created", cb=receive)
    await flush(receiver)
    sent = 0

    async def send(number: int) -> None:
        nonlocal sent
        await sender.publish(f"scale.{sent % 7919}.created", b"x" * 64)
        sent += 1
        if sent % 1000 == 0:
            await sender.flush()
            await eventually(lambda: received >= sent, 60, "the arrival of a chunk")

    parts: list[Cost] = []
    pages: list[int] = []
    for _ in range(10):
        parts.append(await cost(MESSAGES // 10, send))
        providers.flush()
        gc.collect()
        pages.append(resident())
    slower = relative(parts[-3:]) / relative(parts[1:4])
    told = ", ".join(f"{part.seconds * 1e6:.1f}" for part in parts)
    more = ", ".join(f"{(each - pages[1]) / 1e6:.1f}" for each in pages)
    print(f"\n{MESSAGES} messages, us each: {told}; at the end / at the start: {slower:.3f}; MB more: {more}")
    assert slower < SLOWDOWN
    assert pages[-1] - pages[1] < PAGES


def resident() -> int:
    """Bytes of memory that the process has now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
