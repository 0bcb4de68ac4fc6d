# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The rows of JetStream, each with its floor."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns, time_ns
from typing import Any

from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, StorageType
from nats.js.errors import NotFoundError
from row import PAYLOAD, RoundTrips, Row, metric_attributes, span_attributes
from sender import frames
from variants import MIXED, NOT_PROPAGATION, RECORDING, SAMPLED_OUT, VARIANTS, Floor

from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Link, Span, SpanKind, get_current_span, set_span_in_context
from support.waiting import flush

BATCH = 100
BATCHES = 4
CONSUMER = "worker"


class JetStreamPublish(RoundTrips):
    """`js.publish`, with the server's answer."""

    name = "js.publish"
    title = "js.publish"
    sends = True

    _SUBJECT = "benchmark.stored.created"

    async def open(self) -> None:
        self._js = self.nc.jetstream()
        await self._js.add_stream(
            name="BENCHMARK-STORED", subjects=[self._SUBJECT], storage=StorageType.MEMORY, max_msgs=1000
        )

    async def prepare(self, count: int, floor: Floor | None, sampled: int) -> None:
        self._attributes = span_attributes(self.nc, "publish", "send", self._SUBJECT)
        self._labels = metric_attributes(self._attributes)

    async def run_bare(self, count: int) -> None:
        js = self._js
        for _ in range(count):
            await js.publish(self._SUBJECT, PAYLOAD)

    async def run_floor(self, count: int, floor: Floor) -> None:
        js, tracer, duration = self._js, floor.tracer, floor.operation_duration
        attributes, labels = self._attributes, self._labels
        name = f"publish {self._SUBJECT}"
        if floor.carries:
            for _ in range(count):
                headers = {}
                inject(headers)
                await js.publish(self._SUBJECT, PAYLOAD, headers=headers)
            return
        for _ in range(count):
            started = perf_counter_ns()
            span = tracer.start_span(
                name,
                kind=SpanKind.PRODUCER,
                attributes={**attributes, "messaging.message.body.size": len(PAYLOAD)},
            )
            context = set_span_in_context(span)
            headers: dict[str, str] = {}
            inject(headers, context)
            ack = await js.publish(self._SUBJECT, PAYLOAD, headers=headers)
            span.set_attributes(
                {
                    "messaging.message.id": f"{ack.stream}:{ack.seq}",
                    "messaging.nats.jetstream.stream": ack.stream,
                    "messaging.nats.jetstream.sequence": ack.seq,
                }
            )
            if duration is not None:
                duration.record((perf_counter_ns() - started) / 1e9, labels, context)
            span.end()


class Fetch(Row):
    """`subscription.fetch(100)` from a durable consumer, of messages that their publishers traced."""

    name = "fetch(100)"
    title = "psub.fetch(100)"
    messages = BATCH
    operations = BATCHES
    variants = NOT_PROPAGATION

    _ACK_POLICY = AckPolicy.NONE

    async def open(self) -> None:
        self._js = self.nc.jetstream()
        for sampled in (RECORDING.sampled, SAMPLED_OUT.sampled, MIXED.sampled):
            stored = BATCH * 2 * BATCHES
            stream, subject = _stored(sampled)
            try:
                await self._js.stream_info(stream)
            except NotFoundError:
                await self._js.add_stream(name=stream, subjects=[subject], storage=StorageType.MEMORY)
                self.bench.sender.send(frames(subject, PAYLOAD, stored, sampled=sampled))
            while (await self._js.stream_info(stream)).state.messages < stored:
                pass

    async def prepare(self, count: int, floor: Floor | None, sampled: int) -> None:
        self.stream, self.subject = _stored(sampled)
        self.subscription = await self._js.pull_subscribe(
            self.subject,
            durable=CONSUMER,
            stream=self.stream,
            config=ConsumerConfig(ack_policy=self._ACK_POLICY, mem_storage=True),
        )
        await flush(self.nc)

    async def run(self, count: int, floor: Floor | None) -> None:
        if floor is not None:
            return await self._floor(count, floor)
        subscription = self.subscription
        for _ in range(count):
            await subscription.fetch(BATCH)

    async def _floor(self, count: int, floor: Floor) -> None:
        fetch = _FetchFloor(self, floor)
        for _ in range(count):
            await fetch()

    async def clean(self) -> None:
        await self.subscription.unsubscribe()
        await self._js.delete_consumer(self.stream, CONSUMER)


class FetchLoop(Fetch):
    """`for message in await subscription.fetch(100)`: the fetch, then 100 loop bodies."""

    name = "fetch(100)+for"
    title = "for over psub.fetch(100)"
    operations = BATCHES // 2
    variants = VARIANTS

    async def run(self, count: int, floor: Floor | None) -> None:
        if floor is not None:
            return await self._floor(count, floor)
        subscription = self.subscription
        for _ in range(count):
            for _ in await subscription.fetch(BATCH):
                pass

    async def _floor(self, count: int, floor: Floor) -> None:
        if floor.carries:
            for _ in range(count):
                for message in await self.subscription.fetch(BATCH):
                    detach(attach(extract(message.headers, Context())))
            return
        tracer, duration = floor.tracer, floor.process_duration
        fetch = _FetchFloor(self, floor)
        name = f"process {self.subject}"
        attributes = _process_attributes(self)
        labels = metric_attributes(attributes, operation_type=False)
        for _ in range(count):
            for message in await fetch():
                started = perf_counter_ns()
                context = extract(message.headers, Context())
                span = tracer.start_span(
                    name,
                    context,
                    SpanKind.CONSUMER,
                    {**attributes, **_message_attributes(message)[0]},
                    (Link(get_current_span(context).get_span_context()),),
                )
                context = set_span_in_context(span, context)
                token = attach(context)
                detach(token)
                if duration is not None:
                    duration.record((perf_counter_ns() - started) / 1e9, labels, context)
                span.end()


class Worker(Fetch):
    """`fetch(100)`, then a task for each message, which acknowledges it; its process span ends with that."""

    name = "worker(100)"
    title = "psub.fetch(100), a task each, msg.ack"
    operations = BATCHES // 2
    variants = VARIANTS

    _ACK_POLICY = AckPolicy.EXPLICIT

    async def run(self, count: int, floor: Floor | None) -> None:
        if floor is not None:
            return await (self._carry(count) if floor.carries else self._floor(count, floor))
        for _ in range(count):
            tasks = [asyncio.create_task(self._handle(message)) for message in await self.subscription.fetch(BATCH)]
            await asyncio.gather(*tasks)

    async def _handle(self, message: Msg) -> None:
        await message.ack()

    async def _carry(self, count: int) -> None:
        for _ in range(count):
            tasks: list[asyncio.Task[None]] = []
            for message in await self.subscription.fetch(BATCH):
                token = attach(extract(message.headers, Context()))
                tasks.append(asyncio.create_task(self._handle(message)))
                detach(token)
            await asyncio.gather(*tasks)

    async def _floor(self, count: int, floor: Floor) -> None:
        tracer = floor.tracer
        fetch, acknowledge = _FetchFloor(self, floor), _AckFloor(self, floor)
        name = f"process {self.subject}"
        attributes = _process_attributes(self)
        for _ in range(count):
            tasks: list[asyncio.Task[None]] = []
            for message in await fetch():
                started = perf_counter_ns()
                context = extract(message.headers, Context())
                own = _message_attributes(message)[0]
                span = tracer.start_span(
                    name,
                    context,
                    SpanKind.CONSUMER,
                    {**attributes, **own},
                    (Link(get_current_span(context).get_span_context()),),
                )
                context = set_span_in_context(span, context)
                token = attach(context)
                tasks.append(asyncio.create_task(acknowledge(message, own, span, context, started)))
                detach(token)
            await asyncio.gather(*tasks)


class _AckFloor:
    """The task that acknowledges a message, and ends its process span."""

    def __init__(self, row: Worker, floor: Floor) -> None:
        self._floor = floor
        self._name = f"ack {row.subject}"
        self._attributes = {
            **span_attributes(row.nc, "ack", "settle", row.subject),
            "messaging.consumer.group.name": CONSUMER,
            "messaging.destination.subscription.name": CONSUMER,
            "messaging.nats.jetstream.stream": row.stream,
            "messaging.nats.jetstream.consumer": CONSUMER,
        }
        self._labels = metric_attributes(self._attributes)
        labels = metric_attributes(_process_attributes(row), operation_type=False)
        self._settled_labels = {**labels, "messaging.nats.jetstream.settlement": "ack"}

    async def __call__(self, message: Msg, own: dict[str, Any], process: Span, context: Context, started: int) -> None:
        duration, process_duration = self._floor.operation_duration, self._floor.process_duration
        ack_started = perf_counter_ns()
        span = self._floor.tracer.start_span(
            self._name,
            context,
            SpanKind.CLIENT,
            {
                **self._attributes,
                "messaging.message.id": own["messaging.message.id"],
                "messaging.nats.jetstream.sequence": own["messaging.nats.jetstream.sequence"],
            },
        )
        await message.ack()
        if duration is not None and process_duration is not None:
            now = perf_counter_ns()
            duration.record((now - ack_started) / 1e9, self._labels, set_span_in_context(span, context))
            process_duration.record((now - started) / 1e9, self._settled_labels, context)
        span.end()
        process.set_attribute("messaging.nats.jetstream.settlement", "ack")
        process.end()


class _FetchFloor:
    """One fetch: a span with a link for each message, the time of the operation, and that of each delivery."""

    def __init__(self, row: Fetch, floor: Floor) -> None:
        self._subscription = row.subscription
        self._floor = floor
        self._name = f"receive {row.subject}"
        self._attributes = {
            **span_attributes(row.nc, "receive", "receive", row.subject),
            "messaging.consumer.group.name": CONSUMER,
            "messaging.destination.subscription.name": CONSUMER,
            "messaging.nats.jetstream.stream": row.stream,
            "messaging.nats.jetstream.consumer": CONSUMER,
        }
        self._labels = metric_attributes(self._attributes)
        self._delivery_labels = {
            "messaging.system": "nats",
            "messaging.nats.jetstream.stream": row.stream,
            "messaging.nats.jetstream.consumer": CONSUMER,
        }

    async def __call__(self) -> list[Any]:
        duration, latency = self._floor.operation_duration, self._floor.delivery_latency
        started, started_at = perf_counter_ns(), time_ns()
        messages = await self._subscription.fetch(BATCH)
        links: list[Link] = []
        stored_at: list[int] = []
        for message in messages:
            attributes, timestamp = _message_attributes(message)
            publisher = get_current_span(extract(message.headers, Context())).get_span_context()
            links.append(Link(publisher, attributes))
            stored_at.append(timestamp)
        span = self._floor.tracer.start_span(
            self._name,
            None,
            SpanKind.CLIENT,
            {**self._attributes, "messaging.batch.message_count": len(messages)},
            links,
            started_at,
        )
        if duration is not None and latency is not None:
            context = set_span_in_context(span)
            duration.record((perf_counter_ns() - started) / 1e9, self._labels, context)
            now = time_ns()
            for timestamp in stored_at:
                latency.record((now - timestamp) / 1e9, self._delivery_labels, context)
        span.end()
        return messages


def _stored(sampled: int) -> tuple[str, str]:
    """Stream and subject of the messages to fetch, of whose publishers one in so many was sampled."""
    return f"BENCHMARK-{sampled}", f"benchmark.jobs.new-{sampled}"


def _process_attributes(row: Fetch) -> dict[str, Any]:
    """What the process spans of all messages of the consumer have in common."""
    return {
        **span_attributes(row.nc, "process", "process", row.subject, peer=False),
        "messaging.consumer.group.name": CONSUMER,
        "messaging.destination.subscription.name": CONSUMER,
    }


def _message_attributes(message: Any) -> tuple[dict[str, Any], int]:
    """The attributes of one JetStream message, and when it was stored, in nanoseconds since the epoch."""
    # $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<timestamp>.<pending>
    _, _, stream, consumer, delivered, sequence, consumer_sequence, timestamp, pending = message.reply.split(".")
    return {
        "messaging.destination.name": message.subject,
        "messaging.message.body.size": len(message.data),
        "messaging.message.id": f"{stream}:{sequence}",
        "messaging.destination.subscription.name": consumer,
        "messaging.nats.jetstream.stream": stream,
        "messaging.nats.jetstream.consumer": consumer,
        "messaging.nats.jetstream.sequence": int(sequence),
        "messaging.nats.jetstream.consumer_sequence": int(consumer_sequence),
        "messaging.nats.jetstream.delivery_count": int(delivered),
        "messaging.nats.jetstream.pending": int(pending),
    }, int(timestamp)
