# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The rows of key-value stores, each with its floor."""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter_ns, time_ns
from typing import Any

from nats.js.api import StorageType
from nats.js.kv import KeyValue
from row import PAYLOAD, RoundTrips, Row, metric_attributes, span_attributes
from sender import frames, traceparent
from variants import NOT_PROPAGATION, Floor

from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Link, SpanKind, get_current_span, set_span_in_context
from support.waiting import eventually


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
    title = "kv.put"
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
        if floor.carries:
            for _ in range(count):
                headers = {}
                inject(headers)
                publishing.headers = headers
                await kv.put(self._KEY, PAYLOAD)
            return
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
    title = "kv.get"
    variants = NOT_PROPAGATION
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


class Watch(Row):
    """`async for entry in watcher`, of values whose writers were traced; what nats-py does to make entries is in it."""

    name = "kv.watch"
    title = "async for over kv.watch"
    operations = 200  # the queue of a watcher holds 256

    _BUCKET = "benchmark-watched"

    async def open(self) -> None:
        self._js = self.nc.jetstream()
        self._kv = await self._js.create_key_value(bucket=self._BUCKET, storage=StorageType.MEMORY)

    async def prepare(self, count: int, floor: Floor | None, sampled: int) -> None:
        await self._js.purge_stream(self._kv._stream)
        self._watcher = await self._kv.watchall()
        assert await self._watcher.updates() is None  # the marker: that was all so far
        subscription: Any = self._watcher._sub._sub
        feed = subscription._cb
        self._gate = gate = asyncio.Semaphore(0)
        # Of a floor, which is not told by entries what their headers were.
        self._headers: deque[Any] = deque()
        note = None if floor is None else self._headers.append

        async def feed_through_gate(message: Any) -> None:
            await gate.acquire()
            if note is not None:
                note(message.headers)
            await feed(message)

        subscription._cb = feed_through_gate
        self.bench.sender.send(frames(f"{self._kv._pre}orders.{{number}}", PAYLOAD, count, sampled=sampled))
        # The first waits at the gate.
        await eventually(lambda: subscription.pending_msgs == count - 1, what="the arrival of all values")

    async def run(self, count: int, floor: Floor | None) -> None:
        for _ in range(count):
            self._gate.release()
        if floor is not None:
            return await (self._carry(count) if floor.carries else self._floor(count, floor))
        async for _ in self._watcher:
            count -= 1
            if not count:
                break

    async def _carry(self, count: int) -> None:
        headers = self._headers
        async for _ in self._watcher:
            token = attach(extract(headers.popleft(), Context()))
            count -= 1
            detach(token)
            if not count:
                break

    async def _floor(self, count: int, floor: Floor) -> None:
        tracer, duration = floor.tracer, floor.process_duration
        attributes = span_attributes(self.nc, "process", "process", self._BUCKET, peer=False)
        name = f"process {self._BUCKET}"
        labels = metric_attributes(attributes, operation_type=False)
        headers = self._headers
        async for entry in self._watcher:
            started = perf_counter_ns()
            context = extract(headers.popleft(), Context())
            span = tracer.start_span(
                name,
                context,
                SpanKind.CONSUMER,
                {
                    **attributes,
                    "messaging.message.body.size": len(entry.value),
                    "messaging.nats.kv.key": entry.key,
                    "messaging.nats.kv.operation": entry.operation or "put",
                    "messaging.nats.kv.revision": entry.revision,
                },
                (Link(get_current_span(context).get_span_context()),),
            )
            context = set_span_in_context(span, context)
            token = attach(context)
            count -= 1
            detach(token)
            if duration is not None:
                duration.record((perf_counter_ns() - started) / 1e9, labels, context)
            span.end()
            if not count:
                break

    async def clean(self) -> None:
        await self._watcher.stop()
