# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The rows of JetStream and key-value stores, each with its floor."""

from __future__ import annotations

from time import perf_counter_ns, time_ns
from typing import Any

from nats.js.api import AckPolicy, ConsumerConfig, StorageType
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue
from row import PAYLOAD, RoundTrips, Row, metric_attributes, span_attributes
from sender import frames, traceparent
from variants import MIXED, RECORDING, SAMPLED_OUT, Floor

from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Link, SpanKind, get_current_span, set_span_in_context
from support.waiting import flush

BATCH = 100
BATCHES = 4
CONSUMER = "worker"


class JetStreamPublish(RoundTrips):
    """`js.publish`, with the server's answer."""

    name = "js.publish"
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
    operations = BATCHES

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
            config=ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True),
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
    operations = BATCHES // 2

    async def run(self, count: int, floor: Floor | None) -> None:
        if floor is not None:
            return await self._floor(count, floor)
        subscription = self.subscription
        for _ in range(count):
            for _ in await subscription.fetch(BATCH):
                pass

    async def _floor(self, count: int, floor: Floor) -> None:
        tracer, duration = floor.tracer, floor.process_duration
        fetch = _FetchFloor(self, floor)
        name = f"process {self.subject}"
        attributes = {
            **span_attributes(self.nc, "process", "process", self.subject, peer=False),
            "messaging.consumer.group.name": CONSUMER,
            "messaging.destination.subscription.name": CONSUMER,
        }
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


class _KeyValueRow(RoundTrips):
    _BUCKET = "benchmark"
    _KEY = "orders.created"
    _TYPE: str

    async def open(self) -> None:
        self._js = self.nc.jetstream()
        self._kv = await self._js.create_key_value(bucket=self._BUCKET, storage=StorageType.MEMORY)

    async def prepare(self, count: int, floor: Floor | None, sampled: int) -> None:
        attributes = span_attributes(self.nc, self.name, self._TYPE, self._BUCKET)
        self._labels = metric_attributes(attributes)
        self._attributes = {**attributes, "messaging.nats.kv.operation": "put"}


class KeyValuePut(_KeyValueRow):
    """`kv.put`."""

    name = "kv.put"
    sends = True

    _TYPE = "send"

    async def run_bare(self, count: int) -> None:
        kv = self._kv
        for _ in range(count):
            await kv.put(self._KEY, PAYLOAD)

    async def run_floor(self, count: int, floor: Floor) -> None:
        tracer, duration = floor.tracer, floor.operation_duration
        attributes, labels = self._attributes, self._labels
        name = f"kv.put {self._BUCKET}"
        publishing: Any = _WithHeaders(self._js)
        kv = KeyValue(self._kv._name, self._kv._stream, self._kv._pre, publishing, self._kv._direct)
        for _ in range(count):
            started = perf_counter_ns()
            span = tracer.start_span(
                name,
                kind=SpanKind.PRODUCER,
                attributes={**attributes, "messaging.nats.kv.key": self._KEY},
            )
            context = set_span_in_context(span)
            headers: dict[str, str] = {}
            inject(headers, context)
            publishing.headers = headers
            revision = await kv.put(self._KEY, PAYLOAD)
            span.set_attribute("messaging.nats.kv.revision", revision)
            if duration is not None:
                duration.record((perf_counter_ns() - started) / 1e9, labels, context)
            span.end()


class _WithHeaders:
    """The way to give headers to `kv.put`, which takes none: the JetStream context that it publishes through."""

    def __init__(self, js: Any) -> None:
        self._publish = js.publish
        self.headers: dict[str, str] = {}

    def publish(self, subject: str, payload: bytes) -> Any:
        return self._publish(subject, payload, headers=self.headers)


class KeyValueGet(_KeyValueRow):
    """`kv.get` of a value whose writer was traced."""

    name = "kv.get"
    sends = True

    _KEY = "orders.shipped"  # not the one that `kv.put` writes
    _TYPE = "receive"

    async def open(self) -> None:
        await super().open()
        headers = {"traceparent": traceparent(0)}
        await self._js.publish(f"{self._kv._pre}{self._KEY}", PAYLOAD, headers=headers)

    async def run_bare(self, count: int) -> None:
        kv = self._kv
        for _ in range(count):
            await kv.get(self._KEY)

    async def run_floor(self, count: int, floor: Floor) -> None:
        tracer, duration = floor.tracer, floor.operation_duration
        attributes, labels = self._attributes, self._labels
        name = f"kv.get {self._BUCKET}"
        reading: Any = _NotingHeaders(self._js)
        kv = KeyValue(self._kv._name, self._kv._stream, self._kv._pre, reading, self._kv._direct)
        for _ in range(count):
            started, started_at = perf_counter_ns(), time_ns()
            entry = await kv.get(self._KEY)
            span = tracer.start_span(
                name,
                None,
                SpanKind.CLIENT,
                {**attributes, "messaging.nats.kv.key": self._KEY, "messaging.nats.kv.revision": entry.revision},
                (Link(get_current_span(extract(reading.headers, Context())).get_span_context()),),
                started_at,
            )
            if duration is not None:
                duration.record((perf_counter_ns() - started) / 1e9, labels, set_span_in_context(span))
            span.end()


class _NotingHeaders:
    """The way to learn the headers of what `kv.get` reads, which it does not tell: what it reads through."""

    def __init__(self, js: Any) -> None:
        self._get_msg = js.get_msg
        self.headers: dict[str, str] = {}

    async def get_msg(self, stream: str, *, subject: str, seq: int | None, direct: bool) -> Any:
        message = await self._get_msg(stream, subject=subject, seq=seq, direct=direct)
        self.headers = message.headers
        return message
