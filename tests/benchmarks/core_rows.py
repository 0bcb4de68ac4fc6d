# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The rows of core NATS, each with its floor: the same telemetry, written by hand around nats-py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter_ns, time_ns

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from row import PAYLOAD, RoundTrips, Row, metric_attributes, span_attributes
from sender import frames
from variants import BARE, METRICS, METRICS_FLOOR, NO_SDK_FLOOR, VARIANTS, Floor

from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Link, NoOpTracer, SpanKind, get_current_span, set_span_in_context
from support.waiting import eventually, flush

SUBJECT = "benchmark.orders.created"


class Publish(Row):
    """`nc.publish`; what it costs to write to the socket is left to nats-py's flusher, outside of the measurement."""

    name = "publish"
    operations = 400
    sends = True

    async def run(self, count: int, floor: Floor | None) -> None:
        nc = self.nc
        if floor is not None:
            return await self._floor(nc, count, floor)
        for _ in range(count):
            await nc.publish(SUBJECT, PAYLOAD)

    async def _floor(self, nc: Client, count: int, floor: Floor) -> None:
        tracer, duration = floor.tracer, floor.operation_duration
        attributes = span_attributes(nc, "publish", "send", SUBJECT)
        name = f"publish {SUBJECT}"
        labels = metric_attributes(attributes)
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
            await nc.publish(SUBJECT, PAYLOAD, headers=headers)
            if duration is not None:
                duration.record((perf_counter_ns() - started) / 1e9, labels, context)
            span.end()

    async def clean(self) -> None:
        await self.nc.flush()


class Request(RoundTrips):
    """`nc.request`, answered by another process."""

    name = "request"
    sends = True

    async def open(self) -> None:
        self.subject = await self.bench.responder()

    async def prepare(self, count: int, floor: Floor | None, sampled: int) -> None:
        self._attributes = span_attributes(self.nc, "request", "send", self.subject)
        self._labels = metric_attributes(self._attributes)
        # What nats-py makes inside, and does not tell: one as long.
        self._inbox = self.nc.new_inbox() + ".0123456789abcdefABCDEF"

    async def run_bare(self, count: int) -> None:
        nc, subject = self.nc, self.subject
        for _ in range(count):
            await nc.request(subject, PAYLOAD, timeout=10)

    async def run_floor(self, count: int, floor: Floor) -> None:
        nc, subject = self.nc, self.subject
        tracer, duration = floor.tracer, floor.operation_duration
        attributes, labels, inbox = self._attributes, self._labels, self._inbox
        name = f"request {subject}"
        for _ in range(count):
            started = perf_counter_ns()
            span = tracer.start_span(
                name,
                kind=SpanKind.CLIENT,
                attributes={**attributes, "messaging.message.body.size": len(PAYLOAD)},
            )
            context = set_span_in_context(span)
            headers: dict[str, str] = {}
            inject(headers, context)
            answer = await nc.request(subject, PAYLOAD, timeout=10, headers=headers)
            span.set_attribute("messaging.message.conversation_id", inbox)
            span.set_attribute("messaging.nats.response.body.size", len(answer.data))
            if duration is not None:
                duration.record((perf_counter_ns() - started) / 1e9, labels, context)
            span.end()


def process_floor(
    nc: Client, handler: Callable[[Msg], Awaitable[None]], floor: Floor
) -> Callable[[Msg], Awaitable[None]]:
    """Wraps a callback in what a process span takes at least: the parent is the publisher, the link too."""
    tracer, duration = floor.tracer, floor.process_duration
    attributes = span_attributes(nc, "process", "process", SUBJECT, peer=False)
    name = f"process {SUBJECT}"
    labels = metric_attributes(attributes, operation_type=False)

    async def carry(message: Msg) -> None:
        """Without an SDK: the trace of others goes on."""
        token = attach(extract(message.headers, Context()))
        try:
            await handler(message)
        finally:
            detach(token)

    if isinstance(tracer, NoOpTracer):
        return carry

    async def process(message: Msg) -> None:
        started = perf_counter_ns()
        context = Context()
        links = None
        if message.headers:
            context = extract(message.headers, context)
            links = (Link(get_current_span(context).get_span_context()),)
        span = tracer.start_span(
            name,
            context,
            SpanKind.CONSUMER,
            {
                **attributes,
                "messaging.destination.name": message.subject,
                "messaging.message.body.size": len(message.data),
            },
            links,
        )
        context = set_span_in_context(span, context)
        token = attach(context)
        try:
            await handler(message)
        finally:
            detach(token)
        if duration is not None:
            duration.record((perf_counter_ns() - started) / 1e9, labels, context)
        span.end()

    return process


class Callback(Row):
    """A subscription's callback; the messages wait in its queue when the measurement begins."""

    name = "callback"
    operations = 400
    headers = True
    variants = (*VARIANTS, NO_SDK_FLOOR)

    async def prepare(self, count: int, floor: Floor | None, sampled: int) -> None:
        self._gate: asyncio.Future[None] = asyncio.Future()
        self._reached: asyncio.Future[None] = asyncio.Future()
        self._left = 1
        callback = self._handle if floor is None else process_floor(self.nc, self._handle, floor)
        self._subscription = await self.nc.subscribe(SUBJECT, cb=callback)
        await flush(self.nc)
        # The first message closes the gate behind it, and the others queue up.
        self.bench.sender.send(frames(SUBJECT, PAYLOAD, 1 + count, headers=self.headers, sampled=sampled))
        await self._reached
        await self._arrived(count)

    async def _arrived(self, count: int) -> None:
        await eventually(lambda: self._subscription.pending_msgs == count, what="the arrival of all messages")

    async def _handle(self, message: Msg) -> None:
        self._left -= 1
        if not self._left:
            self._reached.set_result(None)
            await self._gate

    async def run(self, count: int, floor: Floor | None) -> None:
        gate = self._gate
        self._gate = asyncio.Future()
        self._reached = asyncio.Future()
        self._left = count
        gate.set_result(None)
        await self._reached

    async def clean(self) -> None:
        self._gate.set_result(None)
        await self._subscription.drain()


class CallbackWithoutHeaders(Callback):
    """The same with messages of a publisher that nobody traces."""

    name = "callback-plain"
    headers = False
    variants = VARIANTS


class Burst(Callback):
    """A burst of messages through a callback, read from the socket while it runs."""

    name = "burst"
    operations = 10_000
    warm_up = 400
    rarely = 5
    variants = (BARE, METRICS, METRICS_FLOOR)

    async def _arrived(self, count: int) -> None:
        """The messages are in the server's and the socket's buffers, and stay there until the measurement begins."""


class _Queued(Row):
    """A subscription without a callback; the messages wait in its queue when the measurement begins."""

    operations = 300
    subscription: Subscription

    async def prepare(self, count: int, floor: Floor | None, sampled: int) -> None:
        self.subscription = await self.nc.subscribe(SUBJECT)
        await flush(self.nc)
        self.bench.sender.send(frames(SUBJECT, PAYLOAD, count, sampled=sampled))
        await eventually(lambda: self.subscription.pending_msgs == count, what="the arrival of all messages")

    async def clean(self) -> None:
        await self.subscription.unsubscribe()


class Iteration(_Queued):
    """`async for message in subscription.messages`."""

    name = "iteration"

    async def run(self, count: int, floor: Floor | None) -> None:
        if floor is not None:
            return await self._floor(count, floor)
        async for _ in self.subscription.messages:
            count -= 1
            if not count:
                break

    async def _floor(self, count: int, floor: Floor) -> None:
        tracer, duration = floor.tracer, floor.process_duration
        attributes = span_attributes(self.nc, "process", "process", SUBJECT, peer=False)
        name = f"process {SUBJECT}"
        labels = metric_attributes(attributes, operation_type=False)
        async for message in self.subscription.messages:
            started = perf_counter_ns()
            context = extract(message.headers, Context())
            span = tracer.start_span(
                name,
                context,
                SpanKind.CONSUMER,
                {
                    **attributes,
                    "messaging.destination.name": message.subject,
                    "messaging.message.body.size": len(message.data),
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


class NextMsg(_Queued):
    """`subscription.next_msg()`."""

    name = "next_msg"

    async def run(self, count: int, floor: Floor | None) -> None:
        subscription = self.subscription
        if floor is not None:
            return await self._floor(subscription, count, floor)
        for _ in range(count):
            await subscription.next_msg()

    async def _floor(self, subscription: Subscription, count: int, floor: Floor) -> None:
        tracer, duration = floor.tracer, floor.operation_duration
        attributes = span_attributes(self.nc, "receive", "receive", SUBJECT)
        name = f"receive {SUBJECT}"
        labels = metric_attributes(attributes)
        for _ in range(count):
            started, started_at = perf_counter_ns(), time_ns()
            message = await subscription.next_msg()
            context = extract(message.headers, Context())
            span = tracer.start_span(
                name,
                context,
                SpanKind.CLIENT,
                {
                    **attributes,
                    "messaging.destination.name": message.subject,
                    "messaging.message.body.size": len(message.data),
                },
                (Link(get_current_span(context).get_span_context()),),
                started_at,
            )
            if duration is not None:
                duration.record((perf_counter_ns() - started) / 1e9, labels, set_span_in_context(span, context))
            span.end()
