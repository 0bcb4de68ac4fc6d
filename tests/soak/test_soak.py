# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A program that runs for long: the millionth message costs what the first one did, in time and in memory."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import thread_time

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from support.soaking import Cost, Providers, relative, yardstick
from support.waiting import eventually, flush

MESSAGES = 1_000_000
SUBJECTS = 100_000
SUBSCRIPTIONS = 1_000
CLIENTS = 100

CHUNK = 1_000
"""Messages that are under way at a time, all from one client."""

BUSY_CLIENTS = 9
"""Clients that send nine chunks out of ten: on more subjects than anybody should keep in memory."""

PASSES = MESSAGES // SUBJECTS

PROBES = 50
"""Chunks whose mean is compared: some have a full garbage collection in them, and how many of few is chance."""

SLOWDOWN = 1.10
GROWTH = 10 * SUBJECTS
"""Bytes: ten for each message of a pass. The smallest object that a message or a subject could leave behind has 28."""


class Traffic:
    """Messages from clients to subscriptions of other clients.

    Args:
        clients: The clients.
        groups: The second tokens of the subjects; there is a subscription for each, with a wildcard behind it.
    """

    def __init__(self, clients: Sequence[Client], groups: Iterable[str]) -> None:
        self.senders = self._clients = clients
        self._groups = list(groups)
        self._chunks = 0
        self._received = 0

    async def subscribe(self) -> None:
        for group, client in zip(self._groups, itertools.cycle(self._clients), strict=False):
            await client.subscribe(f"soak.{group}.>", cb=self._receive)
        for client in self._clients:
            await flush(client)

    async def _receive(self, message: Msg) -> None:
        self._received += 1

    async def run(self, count: int, name: str = "order") -> Cost:
        """Sends `count` messages, each on a subject of its own, and waits until all are handled.

        Args:
            count: How many; whole chunks.
            name: The third token of the subjects.
        """
        spent = unit = 0.0
        for first in range(0, count, CHUNK):
            chunk = [self._subject(number, name) for number in range(first, first + CHUNK)]
            started = thread_time()
            await self._send(chunk)
            spent += thread_time() - started
            unit += yardstick()
        return Cost(spent / count, spent / unit)

    def _subject(self, number: int, name: str) -> str:
        # Letters, which no rule takes for an id: the name is one of its own, until there are too many.
        letters = "".join("bcdfghjklm"[int(digit)] for digit in str(number // len(self._groups)))
        return f"soak.{self._groups[number % len(self._groups)]}.{name}.{letters}"

    async def _send(self, subjects: list[str]) -> None:
        number = self._chunks
        self._chunks += 1
        sender = number // 10 if number % 10 == 0 else number % BUSY_CLIENTS
        client = self.senders[sender % len(self.senders)]
        expected = self._received + len(subjects)
        for subject in subjects:
            await client.publish(subject, b"x" * 64)
        await client.flush()
        await eventually(lambda: self._received >= expected, 60, "the arrival of a chunk")


@pytest.fixture
async def clients(providers: Providers, connect: Callable[..., Awaitable[Client]]) -> list[Client]:
    return [await connect() for _ in range(CLIENTS)]


async def settled(action: Awaitable[Cost], providers: Providers) -> int:
    """Traced bytes after an action, when the telemetry has been handed over and the garbage is gone."""
    await action
    providers.flush()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


class TestAMillionMessages:
    async def test_take_no_longer_at_the_end_than_at_the_start_and_leave_no_memory_behind(
        self, clients: list[Client], providers: Providers
    ) -> None:
        traffic = Traffic(clients, (f"group{number}" for number in range(SUBSCRIPTIONS)))
        probe = Traffic(clients[:2], ["probe"])
        await traffic.subscribe()
        await probe.subscribe()
        await probe.run(5 * CHUNK)  # warms up

        at_start = [await probe.run(CHUNK) for _ in range(PROBES)]
        passes = [await traffic.run(SUBJECTS) for _ in range(PASSES)]
        at_end = [await probe.run(CHUNK) for _ in range(PROBES)]

        print("\nus per message, and in units of the yardstick:")
        for name, costs in (("start", at_start), ("passes", passes), ("end", at_end)):
            print(f"{name}:", ", ".join(f"{cost.seconds * 1e6:.1f} {cost.relative:.1f}" for cost in costs))
        slower = relative(at_end) / relative(at_start)
        # The first pass fills caches.
        slower_passes = relative(passes[-3:]) / relative(passes[1:4])
        print(f"at the end / at the start: {slower:.3f}, of passes {slower_passes:.3f}")
        assert slower < SLOWDOWN
        assert slower_passes < SLOWDOWN

        # One client, so that what its cache happens to hold at the end of a pass makes little difference.
        traffic.senders = clients[:1]
        tracemalloc.start()
        try:
            # What was there before is not traced: after a pass on other subjects, all that the caches hold is.
            first = await settled(traffic.run(SUBJECTS, "invoice"), providers)
            other_subjects = await settled(traffic.run(SUBJECTS, "parcel"), providers)
            same_subjects = await settled(traffic.run(SUBJECTS, "parcel"), providers)
        finally:
            tracemalloc.stop()
        print(f"bytes: {first}, then {other_subjects} with other subjects, then {same_subjects} with the same")
        assert other_subjects - first < GROWTH
        assert same_subjects - other_subjects < GROWTH
