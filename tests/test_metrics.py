# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The instruments of the semantic conventions, and what holds for all: any reader, any view, any provider, any time."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any
from weakref import ref

import nats
import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig
from nats.js.errors import NoKeysError  # by which nats-py before 2.6 says that it looked too early

from opentelemetry import metrics as metrics_api
from opentelemetry.instrumentation.nats import process_message
from opentelemetry.instrumentation.nats._connection import Connection
from opentelemetry.instrumentation.nats._holding import delivery_of
from opentelemetry.instrumentation.nats.version import __version__
from opentelemetry.metrics import Histogram, NoOpHistogram, NoOpMeter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import DropAggregation, View
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.test.globals_test import reset_metrics_globals
from opentelemetry.trace import NoOpTracerProvider
from support.core import Connect, Unique, echo
from support.exercises import EXERCISES
from support.metrics import (
    ATTRIBUTES,
    BUCKETS,
    COUNTERS,
    DELTA,
    INSTRUMENTS,
    Collected,
    Meters,
    collect,
    jetstream,
    messages,
    server,
    states,
)
from support.server import NatsServer
from support.stores import watching
from support.telemetry import AttributeSet, Telemetry, attribute_set
from support.waiting import eventually, flush

DURATION = "messaging.client.operation.duration"
PROCESSING = "messaging.process.duration"
SENT = "messaging.client.sent.messages"
CONSUMED = "messaging.client.consumed.messages"

EARLY = 0.001
"""Seconds that a timer may be early: the clock of uvloop counts whole milliseconds."""


def collected(telemetry: Telemetry) -> Collected:
    return Collected(telemetry.metrics())


async def take(subscription: Any, count: int) -> list[Any]:
    return [await subscription.next_msg(timeout=5) for _ in range(count)]


class TestOperationDuration:
    async def test_is_recorded_once_for_each_operation(self, telemetry: Telemetry, nc: Client, unique: Unique):
        asked, told = unique("asked"), unique("told")
        await nc.subscribe(asked, cb=echo)
        subscription = await nc.subscribe(told)
        for _ in range(3):
            await nc.publish(told, b"")
        await take(subscription, 2)
        await nc.request(asked, b"", timeout=5)
        with pytest.raises(nats.errors.NoRespondersError):
            await nc.request(told + "-nobody", b"", timeout=5)

        assert collected(telemetry).of(DURATION) == {
            messages(nc, "connect"): 1,
            messages(nc, "publish", told, type="send"): 3,
            messages(nc, "receive", told, type="receive"): 2,
            messages(nc, "request", asked, type="send"): 1,
            messages(nc, "reply", type="send"): 1,
            messages(nc, "request", told + "-nobody", type="send", error="nats.errors.NoRespondersError"): 1,
        }

    async def test_of_a_poll_in_vain_is_recorded_though_there_is_no_span(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique()
        subscription = await nc.subscribe(subject)
        with pytest.raises(nats.errors.TimeoutError):
            await subscription.next_msg(timeout=0.02)

        [point] = [
            point
            for attributes, point in collected(telemetry).points(DURATION).items()
            if attributes == messages(nc, "receive", subject, type="receive")
        ]
        assert point.count == 1
        assert 0.02 - EARLY <= point.sum < 1
        assert telemetry.spans() == []

    async def test_is_the_time_that_the_call_took(self, telemetry: Telemetry, nc: Client, unique: Unique):
        async def slow(msg: Any) -> None:
            await asyncio.sleep(0.03)
            await msg.respond(b"")

        subject = unique()
        await nc.subscribe(subject, cb=slow)
        differences = []
        recorded = 0.0
        for number in range(1, 6):
            before = time.perf_counter()
            await nc.request(subject, b"", timeout=5)
            elapsed = time.perf_counter() - before
            points = collected(telemetry).points(DURATION)
            total = points[messages(nc, "request", subject, type="send")].sum
            took, recorded = total - recorded, total
            assert 0.03 - EARLY <= took <= elapsed
            assert points[messages(nc, "reply", type="send")].sum < 0.03 * number
            span = telemetry.named(f"request {subject}")[-1]
            differences.append(abs((span.end_time - span.start_time) / 1e9 - took))
        # Two clocks, and a busy machine may stop the program between them; not every time.
        assert min(differences) < 0.005


class TestProcessDuration:
    async def test_is_recorded_for_each_handler_call_with_its_error(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        done: list[bytes] = []

        async def handler(msg: Any) -> None:
            done.append(msg.data)
            await asyncio.sleep(0.01)
            if msg.data == b"bad":
                raise ValueError(msg.data)

        subject = unique()
        await nc.subscribe(f"{subject}.*", "workers", cb=handler)
        for payload in (b"good", b"bad", b"good"):
            await nc.publish(f"{subject}.one", payload)
        await eventually(lambda: len(telemetry.named(f"process {subject}.*")) == 3)

        points = collected(telemetry).points(PROCESSING)
        expected = {"template": f"{subject}.*", "group": "workers"}
        assert {key: point.count for key, point in points.items()} == {
            messages(nc, "process", **expected): 2,
            messages(nc, "process", **expected, error="ValueError"): 1,
        }
        assert 0.02 - 2 * EARLY <= points[messages(nc, "process", **expected)].sum < 1

    async def test_of_a_message_taken_by_hand_is_recorded_where_it_is_processed(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique()
        subscription = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        [msg] = await take(subscription, 1)
        with process_message(msg):
            pass
        result = collected(telemetry)
        assert result.of(PROCESSING) == {messages(nc, "process", subject): 1}
        assert result.of(CONSUMED) == {messages(nc, "receive", subject): 1}


class TestSentMessages:
    async def test_counts_every_send_by_destination_and_error(self, telemetry: Telemetry, nc: Client, unique: Unique):
        name = unique("orders")
        js = nc.jetstream()
        await js.add_stream(name=name, subjects=[f"{name}.>"])
        kv = await js.create_key_value(bucket=f"{name}-kv")
        await nc.subscribe("answer." + name, cb=echo)

        for number in range(5):
            await nc.publish(f"plain.{name}.{number}", b"")
        await nc.request("answer." + name, b"", timeout=5)
        await js.publish(f"{name}.stored", b"")
        with pytest.raises(nats.js.errors.APIError):
            await js.publish(f"{name}.stored", b"", headers={"Nats-Expected-Last-Sequence": "9"})
        await kv.put("key", b"")
        await kv.put("key", b"")
        await kv.delete("key")

        assert collected(telemetry).of(SENT) == {
            messages(nc, "publish", template=f"plain.{name}.*"): 5,
            messages(nc, "request", "answer." + name): 1,
            messages(nc, "reply"): 1,
            messages(nc, "publish", f"{name}.stored"): 1,
            messages(nc, "publish", f"{name}.stored", error="10071"): 1,
            messages(nc, "kv.put", f"{name}-kv"): 2,
            messages(nc, "kv.delete", f"{name}-kv"): 1,
        }

    async def test_counts_what_failed_before_it_left(self, telemetry: Telemetry, connect: Connect, unique: Unique):
        nc = await connect()
        attributes = messages(nc, "publish", unique(), error="nats.errors.MaxPayloadError")
        with pytest.raises(nats.errors.MaxPayloadError):
            await nc.publish(dict(attributes)["messaging.destination.name"], b"x" * (nc.max_payload + 1))
        assert collected(telemetry).of(SENT) == {attributes: 1}

    @pytest.mark.instrument(excluded_subjects=["noise.>"])
    async def test_leaves_out_excluded_subjects(self, telemetry: Telemetry, nc: Client, unique: Unique):
        noise: list[Any] = []

        async def handler(msg: Any) -> None:
            noise.append(msg)

        seen = unique()
        await nc.subscribe("noise.>", cb=handler, pending_msgs_limit=1)
        quiet = await nc.subscribe(seen)
        for _ in range(5):
            await nc.publish("noise.one", b"")
        await nc.publish(seen, b"")
        await take(quiet, 1)
        await eventually(lambda: noise)
        result = collected(telemetry)
        assert result.of(SENT) == {messages(nc, "publish", seen): 1}
        assert result.of(CONSUMED) == {messages(nc, "receive", seen): 1}
        assert result.of(PROCESSING) == {}
        assert result.of("nats.client.async_errors") != {}
        assert result.of("nats.client.messages.dropped") == {}


# -- doors -------------------------------------------------------------------------------------------------------------

Door = Callable[[Client, str], Awaitable[dict[AttributeSet, int]]]


async def _stream(nc: Client, name: str, count: int) -> JetStreamContext:
    js = nc.jetstream()
    await js.add_stream(name=name, subjects=[f"{name}.one"])
    for _ in range(count):
        await js.publish(f"{name}.one", b"x")
    return js


async def _callback(nc: Client, name: str, subscribe: Callable[..., Awaitable[Any]], subject: str, **more: Any) -> None:
    seen: list[Any] = []

    async def callback(msg: Any) -> None:
        seen.append(msg)

    await subscribe(subject, cb=callback, **more)
    if subscribe == nc.subscribe:
        for _ in range(3):
            await nc.publish(subject, b"x")
    await eventually(lambda: len(seen) == 3)


async def _loop(iterable: Any, count: int) -> None:
    seen = 0
    async for item in iterable:
        seen += item is not None
        if seen == count:
            break


async def a_callback(nc: Client, name: str) -> dict[AttributeSet, int]:
    await _callback(nc, name, nc.subscribe, name, queue="workers")
    return {messages(nc, "process", name, group="workers"): 3}


async def a_loop(nc: Client, name: str) -> dict[AttributeSet, int]:
    subscription = await nc.subscribe(f"{name}.*")
    for number in range(3):
        await nc.publish(f"{name}.{number}", b"x")
    await _loop(subscription.messages, 3)
    return {messages(nc, "process", template=f"{name}.*"): 3}


async def next_msg(nc: Client, name: str) -> dict[AttributeSet, int]:
    subscription = await nc.subscribe(name)
    for _ in range(3):
        await nc.publish(name, b"x")
    for msg in await take(subscription, 3):
        with process_message(msg):
            pass
    return {messages(nc, "receive", name): 3}


async def a_step_by_hand(nc: Client, name: str) -> dict[AttributeSet, int]:
    subscription = await nc.subscribe(name)
    await nc.publish(name, b"x")
    await subscription.messages.__anext__()
    return {messages(nc, "receive", name): 1}


async def a_jetstream_callback(nc: Client, name: str) -> dict[AttributeSet, int]:
    js = await _stream(nc, name, 3)
    await _callback(nc, name, js.subscribe, f"{name}.one", durable="worker")
    return {messages(nc, "process", f"{name}.one", group="worker", consumer="worker"): 3}


async def a_jetstream_loop(nc: Client, name: str) -> dict[AttributeSet, int]:
    js = await _stream(nc, name, 3)
    subscription = await js.subscribe(f"{name}.one")
    await _loop(subscription.messages, 3)
    return {messages(nc, "process", f"{name}.one"): 3}


async def a_jetstream_next_msg(nc: Client, name: str) -> dict[AttributeSet, int]:
    js = await _stream(nc, name, 3)
    subscription = await js.subscribe(f"{name}.one", ordered_consumer=True)
    await take(subscription, 3)
    return {messages(nc, "receive", f"{name}.one"): 3}


async def fetch(nc: Client, name: str) -> dict[AttributeSet, int]:
    js = await _stream(nc, name, 5)
    subscription = await js.pull_subscribe(f"{name}.one", durable="worker")
    batch = await subscription.fetch(4, timeout=5)
    for msg in batch:
        await msg.ack()
    for msg in batch:
        with process_message(msg):
            pass
    await subscription.fetch(1, timeout=5)
    return {messages(nc, "receive", f"{name}.one", group="worker", consumer="worker"): 5}


async def fetch_of_less_than_asked(nc: Client, name: str) -> dict[AttributeSet, int]:
    js = await _stream(nc, name, 2)
    subscription = await js.pull_subscribe(f"{name}.one", "w")
    assert len(await subscription.fetch(5, timeout=0.2)) == 2
    with pytest.raises(asyncio.TimeoutError):
        await subscription.fetch(5, timeout=0.05)
    return {messages(nc, "receive", f"{name}.one", group="w", consumer="w"): 2}


async def a_watcher(nc: Client, name: str) -> dict[AttributeSet, int]:
    bucket = await nc.jetstream().create_key_value(bucket=name)
    await bucket.put("a", b"x")
    await bucket.put("b", b"x")
    await _loop(await watching(bucket), 2)
    return {messages(nc, "process", name): 2}


async def updates(nc: Client, name: str) -> dict[AttributeSet, int]:
    bucket = await nc.jetstream().create_key_value(bucket=name)
    await bucket.put("a", b"x")
    watcher = await watching(bucket)
    assert await watcher.updates(timeout=5) is not None
    assert await watcher.updates(timeout=5) is None
    return {messages(nc, "receive", name): 1}


async def a_service(nc: Client, name: str) -> dict[AttributeSet, int]:
    micro = pytest.importorskip("nats.micro", reason="nats-py before 2.9 has no micro services")

    async def handler(request: Any) -> None:
        await request.respond(b"")

    service = await micro.add_service(nc, name=name, version="1.0.0")
    await service.add_endpoint(name="endpoint", subject=name, handler=handler)
    await nc.request(name, b"", timeout=5)
    await service.stop()
    return {messages(nc, "process", name, group="q"): 1}


async def a_request(nc: Client, name: str) -> dict[AttributeSet, int]:
    await nc.subscribe(name, cb=echo)
    await nc.request(name, b"", timeout=5)
    await nc.request(name, b"", timeout=5, old_style=True)
    return {messages(nc, "process", name): 2}


async def reads_of_what_is_stored(nc: Client, name: str) -> dict[AttributeSet, int]:
    js = await _stream(nc, name, 1)
    await js.get_msg(name, 1)
    await js.get_last_msg(name, f"{name}.one")
    bucket = await js.create_key_value(bucket=f"{name}-kv")
    await bucket.put("a", b"x")
    await bucket.get("a")
    with suppress(NoKeysError):
        await bucket.keys()
        await bucket.history("a")
    return {}


DOORS = [
    a_callback,
    a_loop,
    next_msg,
    a_step_by_hand,
    a_jetstream_callback,
    a_jetstream_loop,
    a_jetstream_next_msg,
    fetch,
    fetch_of_less_than_asked,
    a_watcher,
    updates,
    a_service,
    a_request,
    reads_of_what_is_stored,
]


class TestConsumedMessages:
    @pytest.mark.parametrize("door", DOORS, ids=[door.__name__ for door in DOORS])
    async def test_counts_each_delivery_once(self, telemetry: Telemetry, nc: Client, unique: Unique, door: Door):
        if door is a_jetstream_next_msg and "next_msg" not in JetStreamContext.PushSubscription.__dict__:
            pytest.skip("nats-py before 2.6: JetStream's next_msg is that of a copy of the subscription")
        expected = await door(nc, unique())
        assert collected(telemetry).of(CONSUMED) == expected

    @pytest.mark.parametrize("door", ["callback", "loop", "next_msg"])
    async def test_never_counts_a_status_message(self, telemetry: Telemetry, nc: Client, unique: Unique, door: str):
        seen: list[Any] = []

        async def callback(msg: Any) -> None:
            seen.append(msg)

        inbox = nc.new_inbox()
        subscription = await nc.subscribe(inbox, **{"cb": callback} if door == "callback" else {})
        await nc.publish(unique("nobody"), b"", reply=inbox)  # the server answers with 503
        if door == "callback":
            await eventually(lambda: seen)
        elif door == "loop":
            async for msg in subscription.messages:
                seen.append(msg)
                break
        else:
            seen += await take(subscription, 1)
        assert seen[0].headers["Status"] == "503"
        result = collected(telemetry)
        assert result.of(CONSUMED) == result.of(PROCESSING) == {}

    async def test_never_counts_a_heartbeat(self, telemetry: Telemetry, nc: Client, unique: Unique):
        name, deliver = unique(), nc.new_inbox()
        js = await _stream(nc, name, 1)
        subscription = await nc.subscribe(deliver)
        await js.add_consumer(name, ConsumerConfig(deliver_subject=deliver, idle_heartbeat=0.1))
        message, heartbeat = await take(subscription, 2)
        assert heartbeat.headers["Status"] == "100"
        assert collected(telemetry).of(CONSUMED) == {messages(nc, "receive", message.subject): 1}


# -- what holds for all ------------------------------------------------------------------------------------------------


async def use_everything(nc: Client, name: str) -> None:
    """Makes every instrument have a data point."""

    async def failing(_: Any) -> None:
        raise ValueError

    seen: list[Any] = []

    async def retrying(msg: Any) -> None:
        seen.append(msg)
        await (msg.ack() if len(seen) > 1 else msg.nak())

    await nc.subscribe(f"{name}-bad", cb=failing)
    await nc.publish(f"{name}-bad", b"x")
    js = await _stream(nc, name, 1)
    config = ConsumerConfig(max_deliver=2)
    await js.subscribe(f"{name}.one", durable="worker", cb=retrying, manual_ack=True, config=config)
    await eventually(lambda: len(seen) == 2)
    subscription = await nc.subscribe(f"{name}-slow", pending_msgs_limit=1)
    for _ in range(3):
        await nc.publish(f"{name}-slow", b"x")
    await eventually(lambda: subscription._received == 3)
    await take(subscription, 1)


class TestInstruments:
    async def test_have_their_kinds_and_units(self, telemetry: Telemetry, nc: Client, unique: Unique):
        await use_everything(nc, unique())
        found = {
            name: (type(metric.data).__name__, getattr(metric.data, "is_monotonic", None), metric.unit)
            for name, metric in telemetry.metrics().items()
        }
        assert found == INSTRUMENTS
        assert all(metric.description for metric in telemetry.metrics().values())

    async def test_have_the_scope_of_the_package(self, telemetry: Telemetry, connect: Connect):
        meters = Meters()
        telemetry.instrument(meter_provider=meters.provider)
        await connect()
        [resource] = meters.reader.get_metrics_data().resource_metrics
        [scope] = resource.scope_metrics
        assert (scope.scope.name, scope.scope.version, scope.scope.schema_url) == (
            "opentelemetry.instrumentation.nats",
            __version__,
            "https://opentelemetry.io/schemas/1.44.0",
        )

    async def test_of_durations_have_the_buckets_of_the_conventions(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        await use_everything(nc, unique())
        for name in (DURATION, PROCESSING, "nats.jetstream.delivery.latency"):
            for point in collected(telemetry).points(name).values():
                assert point.explicit_bounds == BUCKETS, name
                assert sum(point.bucket_counts) == point.count

    async def test_have_their_attributes_and_no_inbox_or_id_in_one(self, telemetry: Telemetry, connect: Connect):
        nc = await connect(inbox_prefix="_MINE")
        for number, exercise in enumerate(EXERCISES):
            with suppress(NoKeysError):
                await exercise(nc, f"exercise-{'abcdefghijklmnopqrst'[number]}")
        await nc.publish("orders.8812.created", b"")
        await nc.publish("users.0190c2d7-4b5e-7a61-8d3c-2f6b1e9a4c55", b"")
        await use_everything(nc, "all")
        inbox = await nc.subscribe(nc.new_inbox(), pending_msgs_limit=1)
        for _ in range(2):
            await nc.publish(inbox.subject, b"")
        await drop_of_a_consumer(nc, "drops")
        with pytest.raises(nats.errors.MaxPayloadError):
            await nc.publish("big", b"x" * (nc.max_payload + 1))

        found: dict[str, set[str]] = {}
        for name, metric in telemetry.metrics().items():
            for point in metric.data.data_points:
                assert point.attributes["messaging.system"] == "nats", name
                found.setdefault(name, set()).update(point.attributes)
                for key in set(point.attributes) - {"server.address", "server.port", "error.type"}:
                    # No name of the test's own has a digit or a `$`.
                    assert re.fullmatch(r"[A-Za-z_.*>-]+", point.attributes[key]), (name, key, point.attributes[key])
                    assert not point.attributes[key].startswith("_"), (name, key, point.attributes[key])
        assert {name: keys - {"messaging.system"} for name, keys in found.items()} == ATTRIBUTES


async def drop_of_a_consumer(nc: Client, name: str) -> None:
    """Overflows a subscription through a consumer, by a wildcard."""
    js = nc.jetstream()
    await js.add_stream(name=name, subjects=[f"{name}.*"])
    subscription = await js.subscribe(f"{name}.*", durable="worker", pending_msgs_limit=1)
    for _ in range(3):
        await js.publish(f"{name}.one", b"")
    await eventually(lambda: subscription._sub._received == 3)


ASKED_BY_AN_IDLE_CALL = {
    "publish",
    "_wants_publish",
    "idle",
    "no_tracer_provider",
    "no_meter_provider",
    "resolve",
    "global_meter_provider",
}
"""What runs of ours in a publish to which nobody listens: it asks whether somebody does, and makes nothing."""


@contextmanager
def called_of_ours() -> Iterator[set[str]]:
    """Notes the functions of the package that are called within the block."""
    names: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and f"instrumentation{os.sep}nats" in frame.f_code.co_filename:
            names.add(frame.f_code.co_name)

    gc.collect()
    gc.disable()  # what other tests have left behind would tell that it is let go
    sys.setprofile(note)
    try:
        yield names
    finally:
        sys.setprofile(None)
        gc.enable()


class TestProviders:
    @pytest.mark.parametrize("tracer_provider", [None, NoOpTracerProvider()], ids=["none", "no-op"])
    async def test_metrics_need_no_tracer_provider(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, tracer_provider: Any
    ):
        telemetry.instrument(tracer_provider=tracer_provider)
        nc = await connect()
        await use_everything(nc, unique())
        assert set(telemetry.metrics()) == set(INSTRUMENTS)
        assert telemetry.spans() == []

    @pytest.mark.sampler(ALWAYS_OFF)
    async def test_metrics_do_not_depend_on_sampling(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique()
        subscription = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        await nc.publish(subject, b"")
        await take(subscription, 2)
        result = collected(telemetry)
        assert result.of(SENT) == {messages(nc, "publish", subject): 2}
        assert result.of(CONSUMED) == {messages(nc, "receive", subject): 2}
        assert result.of(DURATION)[messages(nc, "publish", subject, type="send")] == 2
        assert telemetry.spans() == []

    @pytest.mark.parametrize("tracer_provider", [None, NoOpTracerProvider()], ids=["none", "no-op"])
    @pytest.mark.parametrize("meter_provider", [None, NoOpMeterProvider()], ids=["none", "no-op"])
    async def test_with_none_and_no_traces_a_call_is_nats_pys_own(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, tracer_provider: Any, meter_provider: Any
    ):
        telemetry.instrument(meter_provider=meter_provider, tracer_provider=tracer_provider)
        nc, subject = await connect(), unique()
        called: list[Any] = []

        async def callback(msg: Any) -> None:
            called.append(msg)

        await nc.subscribe(subject, cb=callback)
        with called_of_ours() as ours:
            await nc.publish(subject, b"")
        assert ours <= ASKED_BY_AN_IDLE_CALL
        await eventually(lambda: called)
        assert delivery_of(called[0]) is None

    async def test_a_no_op_meter_is_never_recorded_to(self, telemetry: Telemetry, connect: Connect, unique: Unique):
        class Never(NoOpHistogram):
            def record(self, *_: Any, **__: Any) -> None:
                raise AssertionError("recorded")

        class Meter(NoOpMeter):
            def create_histogram(self, name: str, *_: Any, **__: Any) -> Histogram:
                return Never(name)

        class Provider(NoOpMeterProvider):
            def get_meter(self, name: str, *_: Any, **__: Any) -> NoOpMeter:
                return Meter(name)

        telemetry.instrument(meter_provider=Provider())
        nc = await connect()
        await use_everything(nc, unique())
        assert telemetry.spans() != []


@pytest.fixture
def no_global_meter_provider() -> Iterator[None]:
    reset_metrics_globals()
    yield
    reset_metrics_globals()


@pytest.mark.usefixtures("no_global_meter_provider")
class TestGlobalProvider:
    @pytest.mark.parametrize("traces", [True, False], ids=["with-traces", "without-traces"])
    async def test_set_after_instrumenting_and_connecting_is_found(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, traces: bool
    ):
        telemetry.instrument(
            meter_provider=None, tracer_provider=telemetry.tracer_provider if traces else NoOpTracerProvider()
        )
        nc = await connect()
        subject, bad = unique(), unique("bad")

        async def failing(_: Any) -> None:
            raise ValueError

        subscription = await nc.subscribe(subject)
        await nc.subscribe(bad, cb=failing)
        await nc.publish(subject, b"x")
        meters = Meters()
        metrics_api.set_meter_provider(meters.provider)
        for _ in range(3):
            await nc.publish(subject, b"x")
        await nc.publish(bad, b"x")
        await take(subscription, 2)
        await eventually(lambda: meters.collect().of("nats.client.async_errors"))

        result = meters.collect()
        of_server = attribute_set(server(nc))
        assert result.of(DURATION)[messages(nc, "publish", subject, type="send")] == 3
        assert result.of(PROCESSING) == {messages(nc, "process", bad, error="ValueError"): 1}
        assert result.of(CONSUMED) == {messages(nc, "receive", subject): 2, messages(nc, "process", bad): 1}
        assert list(result.of("nats.client.async_errors").values()) == [1]
        # What nats-py counts it has counted from the start; our own count begins when somebody listens.
        assert result.of("nats.client.sent.bytes") == {of_server: 5}
        assert result.of(SENT)[messages(nc, "publish", subject)] == (4 if traces else 3)
        assert result.of("nats.client.active_subscriptions") == {of_server: 2}
        assert result.of("nats.client.pending.messages") == {of_server: 2}

    async def test_that_does_nothing_costs_as_little_as_none(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        telemetry.instrument(meter_provider=None, tracer_provider=NoOpTracerProvider())
        nc = await connect()
        metrics_api.set_meter_provider(NoOpMeterProvider())
        with called_of_ours() as ours:
            await nc.publish(unique(), b"")
        assert ours <= ASKED_BY_AN_IDLE_CALL

    async def test_is_the_same_to_an_instrument_call_before_and_one_after_it_is_set(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        telemetry.instrument(meter_provider=None)
        meters = Meters()
        metrics_api.set_meter_provider(meters.provider)
        telemetry.instrument(meter_provider=None)
        nc, subject = await connect(), unique()
        await nc.publish(subject, b"x")
        assert meters.collect().of(SENT) == {messages(nc, "publish", subject): 1}


class TestInstrumentingAgain:
    async def test_with_the_same_provider_goes_on_counting(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        subject = unique()
        nc = await connect()
        subscription = await nc.subscribe(subject)
        await nc.publish(subject, b"12345")
        telemetry.uninstrument()
        await nc.publish(subject, b"12345")
        of_server, sent = attribute_set(server(nc)), messages(nc, "publish", subject)
        between = collected(telemetry)
        assert between.of(SENT) == {sent: 1}
        assert between.of("nats.client.sent.bytes") == {of_server: 5}
        assert set(between.of("nats.client.connections").values()) <= {0}

        telemetry.instrument()
        await nc.publish(subject, b"12345")
        await take(subscription, 1)
        after = collected(telemetry)
        assert after.of(SENT) == {sent: 2}
        assert after.of("nats.client.sent.bytes") == {of_server: 10}
        assert after.of("nats.client.connections") == states(nc, connected=1)
        assert after.of("nats.client.active_subscriptions") == {of_server: 1}
        assert after.of("nats.client.pending.messages") == {of_server: 2}

    async def test_with_another_one_counts_there_what_a_subscription_from_before_receives(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        subject = unique()
        nc = await connect()
        subscription = await nc.subscribe(subject)
        for _ in range(2):
            await nc.publish(subject, b"x")
        await subscription.next_msg(timeout=5)
        meters = Meters()
        telemetry.instrument(meter_provider=meters.provider)
        await subscription.next_msg(timeout=5)
        received = messages(nc, "receive", subject)
        assert collected(telemetry).of(CONSUMED) == {received: 1}
        assert meters.collect().of(CONSUMED) == {received: 1}


class TestExemplars:
    async def test_are_of_the_span_that_was_measured(self, telemetry: Telemetry, nc: Client, unique: Unique):
        name = unique()
        js = await _stream(nc, name, 1)
        subscription = await nc.subscribe(f"{name}-plain")
        pull = await js.pull_subscribe(f"{name}.one", durable="worker")
        telemetry.clear()
        await nc.publish(f"{name}-plain", b"")
        await take(subscription, 1)
        with process_message(msg := (await pull.fetch(1, timeout=5))[0]):
            await msg.ack()

        result = collected(telemetry)
        worker = {"group": "worker", "consumer": "worker"}
        expected = {
            (DURATION, messages(nc, "publish", f"{name}-plain", type="send")): f"publish {name}-plain",
            (DURATION, messages(nc, "receive", f"{name}-plain", type="receive")): f"receive {name}-plain",
            (DURATION, messages(nc, "receive", f"{name}.one", type="receive", **worker)): f"receive {name}.one",
            (PROCESSING, messages(nc, "process", f"{name}.one", settlement="ack", **worker)): f"process {name}.one",
            ("nats.jetstream.delivery.latency", jetstream(name, "worker")): f"receive {name}.one",
        }
        for (metric, attributes), span_name in expected.items():
            [exemplar] = result.points(metric)[attributes].exemplars
            span = telemetry.span(span_name)
            assert (exemplar.trace_id, exemplar.span_id) == (span.context.trace_id, span.context.span_id), span_name
            assert not exemplar.filtered_attributes

    async def test_of_what_has_no_span_are_of_the_ambient_one(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique()
        subscription = await nc.subscribe(subject)
        with telemetry.tracer.start_as_current_span("ambient") as ambient, pytest.raises(nats.errors.TimeoutError):
            await subscription.next_msg(timeout=0.01)
        points = collected(telemetry).points(DURATION)
        [exemplar] = points[messages(nc, "receive", subject, type="receive")].exemplars
        assert exemplar.span_id == ambient.get_span_context().span_id

    @pytest.mark.sampler(ALWAYS_OFF)
    async def test_are_never_of_a_span_that_nobody_recorded(self, telemetry: Telemetry, nc: Client, unique: Unique):
        await nc.publish(unique(), b"")
        points = collected(telemetry).points(DURATION)
        assert points
        assert all(not point.exemplars for point in points.values())


class TestViews:
    async def test_that_drop_attributes_leave_right_sums(self, telemetry: Telemetry, connect: Connect, unique: Unique):
        meters = Meters(views=[View(instrument_name="*", attribute_keys={"messaging.system"})])
        telemetry.instrument(meter_provider=meters.provider)
        nc, other = await connect(), await connect()
        first, second = unique("first"), unique("second")
        for client in (nc, other):
            await client.subscribe(first)
            subscription = await client.subscribe(second)
            await flush(client)
        for client in (nc, other):
            await client.publish(first, b"12")
            await client.publish(second, b"123")
        await eventually(lambda: nc.stats["in_msgs"] == other.stats["in_msgs"] == 4)
        await take(subscription, 2)

        result = meters.collect()
        found = {name: values for name in result if (values := result.of(name))}
        nothing = attribute_set({"messaging.system": "nats"})
        assert found == {
            DURATION: {nothing: 2 + 4 + 2},
            SENT: {nothing: 4},
            CONSUMED: {nothing: 2},
            "nats.client.sent.bytes": {nothing: 10},
            "nats.client.received.bytes": {nothing: 20},
            "nats.client.reconnects": {nothing: 0},
            "nats.client.connections": {nothing: 2},
            "nats.client.active_subscriptions": {nothing: 4},
            "nats.client.pending.messages": {nothing: 6},
            "nats.client.pending.bytes": {nothing: 14},
        }

    async def test_that_drop_instruments_drop_only_those(self, telemetry: Telemetry, connect: Connect, unique: Unique):
        meters = Meters(views=[View(instrument_name="nats.*", aggregation=DropAggregation())])
        telemetry.instrument(meter_provider=meters.provider)
        nc = await connect()
        await use_everything(nc, unique())
        assert set(meters.collect()) == {name for name in INSTRUMENTS if name.startswith("messaging.")}


class TestTemporality:
    async def test_delta_gives_what_has_changed(self, telemetry: Telemetry, connect: Connect, unique: Unique):
        meters = Meters(DELTA)
        telemetry.instrument(meter_provider=meters.provider)
        nc = await connect()
        subject = unique()
        of_server, sent = attribute_set(server(nc)), messages(nc, "publish", subject)
        subscription = await nc.subscribe(subject)
        for count in (2, 3):
            for _ in range(count):
                await nc.publish(subject, b"x")
            await take(subscription, count)
            result = meters.collect()
            assert result.of("nats.client.sent.bytes") == result.of("nats.client.received.bytes") == {of_server: count}
            assert result.of(SENT) == {sent: count}
            assert result.of("nats.client.pending.messages") == {of_server: 0}
            assert result.of(DURATION)[messages(nc, "publish", subject, type="send")] == count

        result = meters.collect()
        assert result.of(SENT) == {sent: 0}
        assert result.of(DURATION) == {}
        await subscription.unsubscribe()
        assert meters.collect().of("nats.client.active_subscriptions") == {of_server: -1}
        await nc.close()
        assert meters.collect().of("nats.client.connections") == states(dict(of_server), connected=-1)

    async def test_two_readers_get_each_their_own(self, telemetry: Telemetry, connect: Connect, unique: Unique):
        cumulative, delta = InMemoryMetricReader(), InMemoryMetricReader(DELTA)
        telemetry.instrument(meter_provider=MeterProvider([cumulative, delta], shutdown_on_exit=False))
        nc = await connect()
        sent = messages(nc, "publish", subject := unique())
        for total in (1, 2, 3):
            await nc.publish(subject, b"x")
            assert collect(cumulative).of(SENT) == {sent: total}
            assert collect(delta).of(SENT) == {sent: 1}


# -- readers in other threads -----------------------------------------------------------------------------------------


class Collecting:
    """Collects in a thread of its own for as long as it lasts, and looks whether a counter ever falls."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.fallen: list[Any] = []
        self.times = 0

    def __enter__(self) -> Collecting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        seen: dict[Any, float] = {}
        while not self._stop.is_set():
            result = self._meters.collect()
            values = {(name, key): value for name in COUNTERS for key, value in result.of(name).items()}
            self.fallen += [
                (key, before, values.get(key)) for key, before in seen.items() if values.get(key, -1) < before
            ]
            seen = values
            self.times += 1


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def failed_callbacks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails the test if the SDK logs that an observable's callback raised."""
    yield
    records = [record for phase in ("setup", "call") for record in caplog.get_records(phase)]
    assert [record.getMessage() for record in records if record.name.startswith("opentelemetry")] == []


@pytest.mark.usefixtures("failed_callbacks")
class TestReaderInAnotherThread:
    @pytest.mark.usefixtures("hasty_threads")
    async def test_gets_right_numbers_while_the_loop_is_busy(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        meters = Meters()
        telemetry.instrument(meter_provider=meters.provider, tracer_provider=NoOpTracerProvider(), subject_names=200)
        nc = await connect()
        name = unique()
        subscriptions = [await nc.subscribe(f"{name}-more") for _ in range(100)]
        with Collecting(meters) as collecting:
            for number in range(150):
                subject = f"{name}.{''.join(chr(ord('g') + int(digit)) for digit in str(number))}"
                subscription = await nc.subscribe(subject)
                await nc.publish(subject, b"x")
                await nc.publish(subject, b"x")
                await take(subscription, 2)
                subscriptions.append(subscription)
                await subscriptions.pop(0).unsubscribe()
            await eventually(lambda: collecting.times > 5)
        assert collecting.fallen == []
        result = meters.collect()
        of_server = attribute_set(server(nc))
        assert len(result.of(SENT)) == 150
        assert sum(result.of(SENT).values()) == sum(result.of(CONSUMED).values()) == 300
        assert result.of("nats.client.sent.bytes") == {of_server: 300}
        assert result.of("nats.client.active_subscriptions") == {of_server: 100}

    @pytest.mark.usefixtures("hasty_threads")
    async def test_never_sees_a_counter_fall_while_clients_come_and_go(
        self, telemetry: Telemetry, nats_server: NatsServer, unique: Unique
    ):
        meters = Meters()
        telemetry.instrument(meter_provider=meters.provider, tracer_provider=NoOpTracerProvider())
        subject = unique()
        with Collecting(meters) as collecting:
            for _ in range(40):
                nc = await nats.connect(nats_server.url)
                sent, of_server = messages(nc, "publish", subject), attribute_set(server(nc))
                await nc.publish(subject, b"xx")
                await nc.close()
                del nc
            gc.collect()
        assert collecting.fallen == []
        result = meters.collect()
        assert result.of(SENT) == {sent: 40}
        assert result.of("nats.client.sent.bytes") == {of_server: 80}
        assert result.of("nats.client.connections") == states(dict(of_server))

    @pytest.mark.parametrize("forgotten", [False, True], ids=["closed", "closed-and-collected"])
    async def test_is_not_disturbed_by_a_client_that_closes_in_the_middle(
        self,
        telemetry: Telemetry,
        nats_server: NatsServer,
        unique: Unique,
        monkeypatch: pytest.MonkeyPatch,
        forgotten: bool,
    ):
        meters = Meters()
        telemetry.instrument(meter_provider=meters.provider)
        loop = asyncio.get_running_loop()
        clients = [await nats.connect(nats_server.url)]
        subject = unique()
        sent, of_server = messages(clients[0], "publish", subject), attribute_set(server(clients[0]))
        for _ in range(2):
            await clients[0].subscribe(subject)
        await clients[0].publish(subject, b"xx")
        # `flush` would not do: its PING can overtake what nats-py has buffered.
        await eventually(lambda: clients[0].stats["in_msgs"] == 2)

        async def close() -> bool:
            await clients[0].close()
            if forgotten:
                clients.clear()
                gc.collect()
            return True

        pending = Subscription.pending_msgs
        closed: list[bool] = []

        def closing_pending(subscription: Subscription) -> int:
            # The reader's thread is in the middle of the client's subscriptions.
            if not closed:
                closed.append(asyncio.run_coroutine_threadsafe(close(), loop).result(10))
            return pending.fget(subscription)

        monkeypatch.setattr(Subscription, "pending_msgs", property(closing_pending))
        during = await asyncio.to_thread(meters.collect)
        after = await asyncio.to_thread(meters.collect)
        assert closed
        for result in (during, after):
            assert result.of(SENT) == {sent: 1}
            assert result.of("nats.client.sent.bytes") == {of_server: 2}
            assert result.of("nats.client.received.bytes") == {of_server: 4}
        assert during.of("nats.client.active_subscriptions") == {of_server: 2}
        assert after.of("nats.client.active_subscriptions") == {of_server: 0}
        assert after.of("nats.client.pending.messages") == after.of("nats.client.pending.bytes") == {of_server: 0}
        assert after.of("nats.client.connections") == states(dict(of_server))


async def ignore(_: Exception) -> None:
    """An error callback; nats-py's own logs the errors, and the log keeps them, and they their clients."""


class TestClosedClients:
    async def test_leave_the_counters_as_they_are_and_are_not_kept_alive(
        self, telemetry: Telemetry, nats_server: NatsServer, unique: Unique
    ):
        name = unique()
        counts: list[dict[str, dict[AttributeSet, float]]] = []
        others = {id(each) for each in gc.get_objects() if type(each) is Connection}
        received = 0
        for _ in range(2):
            nc = await nats.connect(nats_server.url, error_cb=ignore)
            alive, of_server = ref(nc), server(nc)
            await use_everything(nc, name)
            await nc.jetstream().delete_stream(name)
            await nc.close()
            received += nc.stats["in_bytes"]
            closed = collected(telemetry)
            del nc
            await eventually(lambda alive=alive: gc.collect() >= 0 and alive() is None)
            gone = collected(telemetry)
            counts.append({counter: gone.of(counter) for counter in COUNTERS})
            assert counts[-1] == {counter: closed.of(counter) for counter in COUNTERS}
        # What the server says of a stream has its time in it, and a time has more digits or fewer.
        assert counts[1].pop("nats.client.received.bytes") == {attribute_set(of_server): received}
        for counter in counts[1]:
            values = counts[0][counter]
            assert values, counter
            assert counts[1][counter] == {key: 2 * value for key, value in values.items()}, counter
        assert gone.of("nats.client.connections") == states(of_server)
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is Connection and id(each) not in others]

    async def test_that_never_connected_are_let_go_too(self, telemetry: Telemetry):
        nc = Client()
        with pytest.raises(nats.errors.NoServersError):
            await nc.connect("127.0.0.1:1", max_reconnect_attempts=1, reconnect_time_wait=0.01, error_cb=ignore)
        of_server = {"messaging.system": "nats", "server.address": "127.0.0.1", "server.port": 1}
        assert collected(telemetry).of("nats.client.connections") == states(of_server, disconnected=1)
        alive = ref(nc)
        del nc
        await eventually(lambda: gc.collect() >= 0 and alive() is None)
        assert collected(telemetry).of("nats.client.connections") == states(of_server)
