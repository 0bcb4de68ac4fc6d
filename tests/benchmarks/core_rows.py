# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The rows of core NATS, each with its floor: the same telemetry, written by hand around nats-py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter_ns, time_ns
from typing import Any

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from row import PAYLOAD, RoundTrips, Row, metric_attributes, span_attributes
from sender import frames
from variants import BARE, METRICS, METRICS_FLOOR, NO_SDK_FLOOR, NOT_PROPAGATION, VARIANTS, Floor

from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Link, SpanKind, get_current_span, set_span_in_context
from support.waiting import eventually, flush

SUBJECT = "benchmark.orders.created"


class Publish(Row):
    """`nc.publish`; what it costs to write to the socket is left to nats-py's flusher, outside of the measurement."""

    name = "publish"
    title = "nc.publish"
    operations = 400
    sends = True

    async def run(self, count: int, floor: Floor | None) -> None:
        nc = self.nc
        if floor is not None:
            return await (self._carry(nc, count) if floor.carries else self._floor(nc, count, floor))
        for _ in range(count):
            await nc.publish(SUBJECT, PAYLOAD)

    async def _carry(self, nc: Client, count: int) -> None:
        for _ in range(count):
            headers: dict[str, str] = {}
            inject(headers)
            await nc.publish(SUBJECT, PAYLOAD, headers=headers)

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
    title = "nc.request"
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
        if floor.carries:
            for _ in range(count):
                headers = {}
                inject(headers)
                await nc.request(subject, PAYLOAD, timeout=10, headers=headers)
            return
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


Handler = Callable[[Any], Awaitable[None]]
"""Of messages, or of a service's requests, which have the same subject, headers and data."""


def process_floor(nc: Client, handler: Handler, floor: Floor, subject: str, more: Mapping[str, Any]) -> Handler:
    """Wraps a callback in what a process span takes at least: the parent is the publisher, the link too.

    Args:
        nc: The client.
        handler: The callback.
        floor: What it needs.
        subject: The subscription's.
        more: The attributes besides those that every subscription has.
    """
    tracer, duration = floor.tracer, floor.process_duration
    attributes = {**span_attributes(nc, "process", "process", subject, peer=False), **more}
    name = f"process {subject}"
    labels = metric_attributes(attributes, operation_type=False)

    async def carry(message: Any) -> None:
        headers = message.headers
        token = attach(extract(headers, Context()) if headers else Context())
        try:
            await handler(message)
        finally:
            detach(token)

    if floor.carries:
        return carry

    async def process(message: Any) -> None:
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
    title = "callback of nc.subscribe"
    operations = 400
    headers = True
    variants = (*VARIANTS, NO_SDK_FLOOR)

    _SUBJECT = SUBJECT
    _REPLY = ""

    async def prepare(self, count: int, floor: Floor | None, sampled: int) -> None:
        self._gate: asyncio.Future[None] = asyncio.Future()
        self._reached: asyncio.Future[None] = asyncio.Future()
        self._left = 1
        self._subscription = await self._subscribe(floor)
        await flush(self.nc)
        # The first message closes the gate behind it, and the others queue up.
        messages = frames(self._SUBJECT, PAYLOAD, 1 + count, reply=self._REPLY, headers=self.headers, sampled=sampled)
        self.bench.sender.send(messages)
        await self._reached
        await self._arrived(count)

    async def _subscribe(self, floor: Floor | None) -> Subscription:
        callback = self._handle if floor is None else process_floor(self.nc, self._handle, floor, SUBJECT, {})
        return await self.nc.subscribe(SUBJECT, cb=callback)

    async def _arrived(self, count: int) -> None:
        await eventually(lambda: self._subscription.pending_msgs == count, what="the arrival of all messages")

    async def _handle(self, message: Any) -> None:
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
    title = "the same, of a message without headers"
    headers = False
    variants = VARIANTS


class Burst(Callback):
    """A burst of messages through a callback, read from the socket while it runs."""

    name = "burst"
    title = "a burst of 10,000 messages"
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
    title = "async for over sub.messages"

    async def run(self, count: int, floor: Floor | None) -> None:
        if floor is not None:
            return await (self._carry(count) if floor.carries else self._floor(count, floor))
        async for _ in self.subscription.messages:
            count -= 1
            if not count:
                break

    async def _carry(self, count: int) -> None:
        async for message in self.subscription.messages:
            token = attach(extract(message.headers, Context()))
            count -= 1
            detach(token)
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
    title = "sub.next_msg"
    variants = NOT_PROPAGATION

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
