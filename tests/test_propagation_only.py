# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`propagation_only`: no span and no metric of NATS, and every context goes on."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.nats import process_message
from opentelemetry.instrumentation.utils import suppress_instrumentation
from support.core import Connect, Unique
from support.exercises import EXERCISES, Exercise
from support.options import Give
from support.spans import assert_span, span_context
from support.telemetry import Telemetry

needs_micro = pytest.mark.skipif(importlib.util.find_spec("nats.micro") is None, reason="this nats-py has no micro")


def current_id() -> int:
    return trace.get_current_span().get_span_context().span_id


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.__name__)
async def test_nothing_is_recorded_of_any_call(
    telemetry: Telemetry, connect: Connect, unique: Unique, exercise: Exercise
):
    telemetry.instrument(propagation_only=True)
    nc = await connect()
    with telemetry.tracer.start_as_current_span("ambient"):
        await exercise(nc, unique())
    assert [span.name for span in telemetry.spans()] == ["ambient"]
    assert telemetry.metrics() == {}


async def test_the_context_goes_through_callbacks_and_answers(
    telemetry: Telemetry, give: Give, nc: Client, unique: Unique
):
    give(propagation_only=True)
    first, second = unique(), unique("second")
    seen: list[Any] = []
    last: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def forward(msg: Msg) -> None:
        seen.append((current_id(), baggage.get_baggage("tenant")))
        with telemetry.tracer.start_as_current_span("work"):
            await nc.publish(second)
        await msg.respond(b"pong")

    async def finish(msg: Msg) -> None:
        last.set_result(current_id())

    await nc.subscribe(second, cb=finish)
    await nc.subscribe(first, cb=forward)
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    with telemetry.tracer.start_as_current_span("ambient") as ambient:
        answer = await nc.request(first, headers={"Own": "1"}, timeout=5)
    context.detach(token)
    assert seen == [(span_context(ambient).span_id, "acme")]
    assert answer.headers is not None
    (work,) = await telemetry.wait_for("work")
    assert_span(work, parent=telemetry.span("ambient"))
    assert await asyncio.wait_for(last, 5) == span_context(work).span_id


async def test_the_surroundings_of_a_subscribe_are_not_current_in_its_callback(
    telemetry: Telemetry, nc: Client, unique: Unique
):
    telemetry.instrument(propagation_only=True)
    seen: asyncio.Queue[int] = asyncio.Queue()

    async def callback(msg: Msg) -> None:
        seen.put_nowait(current_id())

    subject = unique()
    with telemetry.tracer.start_as_current_span("start of the program"):
        await nc.subscribe(subject, cb=callback)
    await nc.publish(subject)
    assert await asyncio.wait_for(seen.get(), 5) == 0


async def test_it_goes_through_loops_and_what_they_publish(telemetry: Telemetry, nc: Client, unique: Unique):
    telemetry.instrument(propagation_only=True)
    subscription, inside = await nc.subscribe(unique()), await nc.subscribe(unique("inside"))
    with telemetry.tracer.start_as_current_span("ambient") as ambient:
        await nc.publish(subscription.subject)
    async for _ in subscription.messages:
        assert current_id() == span_context(ambient).span_id
        await nc.publish(inside.subject)
        break
    assert current_id() == 0
    msg = await inside.next_msg(5)
    assert msg.headers is not None and f"{span_context(ambient).span_id:016x}" in msg.headers["traceparent"]
    with process_message(msg):
        assert current_id() == span_context(ambient).span_id
    assert current_id() == 0


async def test_it_goes_through_streams_and_buckets(telemetry: Telemetry, js: JetStreamContext, unique: Unique):
    telemetry.instrument(propagation_only=True)
    stream, bucket = unique("stream"), unique("bucket")
    await js.add_stream(name=stream, subjects=[stream])
    kv = await js.create_key_value(bucket=bucket)
    with telemetry.tracer.start_as_current_span("ambient") as ambient:
        await js.publish(stream, b"1")
        await kv.put("key", b"1")
    for msg in await (await js.pull_subscribe(stream, durable="worker")).fetch(1):
        assert current_id() == span_context(ambient).span_id
        await msg.ack()
    stored = await js.get_msg(f"KV_{bucket}", 1)
    assert stored.headers is not None and f"{span_context(ambient).span_id:016x}" in stored.headers["traceparent"]


@needs_micro
async def test_it_goes_through_the_handlers_of_services(telemetry: Telemetry, nc: Client, unique: Unique):
    micro = importlib.import_module("nats.micro")
    telemetry.instrument(propagation_only=True)
    seen: list[int] = []

    async def handler(request: Any) -> None:
        seen.append(current_id())
        await request.respond(b"")

    word = unique()
    service = await micro.add_service(nc, name=word, version="1.0.0")
    await service.add_endpoint(name="find", subject=f"{word}.find", handler=handler)
    with telemetry.tracer.start_as_current_span("ambient") as ambient:
        await nc.request(f"{word}.find", timeout=5)
    await service.stop()
    assert seen == [span_context(ambient).span_id]


async def test_excluded_from_propagation_and_suppressed_nothing_is_added(
    telemetry: Telemetry, nc: Client, unique: Unique
):
    subject = unique()
    telemetry.instrument(propagation_only=True, propagation_excluded_subjects=[subject])
    subscription, other = await nc.subscribe(subject), await nc.subscribe(unique("other"))
    with telemetry.tracer.start_as_current_span("ambient"):
        await nc.publish(subject)
        with suppress_instrumentation():
            await nc.publish(other.subject)
    assert (await subscription.next_msg(5)).headers is None
    assert (await other.next_msg(5)).headers is None
