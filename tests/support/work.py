# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What tests of concurrent work share: a work queue, and what is open or current."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from support.jetstream import unseen
from support.spans import span_context
from support.telemetry import Telemetry

DURATION = "messaging.process.duration"
PROCESSING = "nats.client.processing.messages"
SETTLEMENT = "messaging.nats.jetstream.settlement"


@dataclass
class WorkQueue:
    """A stream of one subject, and a pull subscription that takes messages from it.

    Attributes:
        subject: The subject, which is also the stream's name.
        subscription: The subscription.
    """

    js: JetStreamContext
    telemetry: Telemetry
    subject: str
    subscription: Any

    async def fetch(self, count: int) -> list[Msg]:
        """Publishes messages, each in a trace of its own, and fetches them; the spans of the fetches are forgotten."""
        for number in range(count):
            await self.js.publish(self.subject, b"%d" % number)
        fetched = await self.subscription.fetch(count, timeout=5)
        assert len(fetched) == count
        return fetched

    @property
    def published(self) -> list[ReadableSpan]:
        return self.telemetry.named(f"publish {self.subject}")

    @property
    def ended(self) -> list[ReadableSpan]:
        """The process spans that have ended."""
        return self.telemetry.named(f"process {self.subject}")

    @property
    def open(self) -> list[ReadableSpan]:
        """The process spans that have not."""
        return [span for span in self.telemetry.counter.open if span.name == f"process {self.subject}"]

    def settlements(self) -> list[Any]:
        """How each process span that has ended was settled, in the order of their start."""
        return [(span.attributes or {}).get(SETTLEMENT) for span in self.ended]


async def work_queue(
    js: JetStreamContext, telemetry: Telemetry, subject: str, config: ConsumerConfig | None = None
) -> WorkQueue:
    """Makes the stream, and the consumer with that configuration."""
    with unseen():
        await js.add_stream(name=subject, subjects=[subject])
    subscription = await js.pull_subscribe(subject, durable="worker", config=config)
    telemetry.clear()
    return WorkQueue(js, telemetry, subject, subscription)


def current() -> Any:
    """The span that is current, or None."""
    span = trace.get_current_span()
    return span if span.get_span_context().is_valid else None


def traces(spans: list[ReadableSpan]) -> int:
    """How many traces the spans are in."""
    return len({span_context(span).trace_id for span in spans})


async def let_go() -> None:
    """Collects the garbage, and lets the event loop see what has become of it."""
    gc.collect()
    for _ in range(3):
        await asyncio.sleep(0)


async def in_task(work: Callable[[], Awaitable[Any]]) -> Any:
    """Does something in a task of its own."""

    async def run() -> Any:
        return await work()

    return await asyncio.ensure_future(run())
