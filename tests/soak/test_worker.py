# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A JetStream worker that does everything at once, for long: one process span a message, and none left open."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, StorageType

from opentelemetry.instrumentation.nats import NatsInstrumentor, process_message
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind
from support.waiting import eventually

MESSAGES = 50_000
BATCH = 100

GROWTH = 100_000
"""Bytes: two for each message."""

SETTLEMENT = "messaging.nats.jetstream.settlement"


class Processed(SpanProcessor):
    """Counts process spans: begun, ended, and how they were settled."""

    def __init__(self) -> None:
        self.started = self.ended = 0
        self.settlements: Counter[str | None] = Counter()

    def on_start(self, span: Span, parent_context: object = None) -> None:
        self.started += span.kind is SpanKind.CONSUMER

    def on_end(self, span: ReadableSpan) -> None:
        if span.kind is SpanKind.CONSUMER:
            self.ended += 1
            settlement = (span.attributes or {}).get(SETTLEMENT)
            self.settlements[None if settlement is None else str(settlement)] += 1


@pytest.fixture
def processed() -> Iterator[Processed]:
    counts = Processed()
    tracer_provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    tracer_provider.add_span_processor(counts)
    meter_provider = MeterProvider([InMemoryMetricReader()], Resource.get_empty(), shutdown_on_exit=False)
    NatsInstrumentor().instrument(
        tracer_provider=tracer_provider, meter_provider=meter_provider, raise_exception_on_conflict=True
    )
    yield counts
    NatsInstrumentor().uninstrument()
    tracer_provider.shutdown()
    meter_provider.shutdown()


async def gathered(msg: Msg) -> None:
    """Settles a message in one of the ways that there are, or lets go of it."""
    number = int(msg.data) % 10
    await asyncio.sleep(0)
    if number == 0:
        await msg.term()
    elif number == 1:
        await msg.in_progress()
        await msg.ack()
    elif number == 2:
        with process_message(msg):
            await msg.ack()
    elif number == 3:
        loop = asyncio.get_running_loop()

        def work() -> None:
            with process_message(msg):
                asyncio.run_coroutine_threadsafe(msg.ack(), loop).result(10)

        await loop.run_in_executor(None, work)
    elif number != 4:  # which is never settled
        await msg.ack()


class TestAConcurrentWorker:
    async def test_makes_one_span_for_each_message_and_leaves_nothing_behind(
        self, processed: Processed, connect: Callable[..., Awaitable[Client]]
    ) -> None:
        nc = await connect()
        js = nc.jetstream()
        await js.add_stream(name="soak", subjects=["soak.>"], storage=StorageType.MEMORY)
        config = ConsumerConfig(max_deliver=1, max_ack_pending=10 * MESSAGES)
        subscription = await js.pull_subscribe("soak.>", durable="worker", config=config)

        async def round_of(count: int) -> None:
            for first in range(0, count, BATCH):
                for number in range(first, first + BATCH):
                    await nc.publish("soak.job", b"%d" % number)
                await nc.flush()
                taken = 0
                while taken < BATCH:
                    messages = await subscription.fetch(BATCH - taken, timeout=5)
                    taken += len(messages)
                    if first % (2 * BATCH):
                        await asyncio.gather(*(gathered(msg) for msg in messages))
                    else:
                        await asyncio.gather(*[asyncio.create_task(gathered(msg)) for msg in messages])
                    del messages

        await round_of(MESSAGES // 5)
        gc.collect()
        tracemalloc.start()
        try:
            await round_of(MESSAGES // 5)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            await round_of(MESSAGES * 3 // 5)
            gc.collect()
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        await eventually(lambda: processed.ended >= MESSAGES)
        assert processed.started == processed.ended == MESSAGES
        assert processed.settlements == {
            "ack": MESSAGES * 8 // 10,
            "term": MESSAGES // 10,
            None: MESSAGES // 10,
        }
        assert after - before < GROWTH
