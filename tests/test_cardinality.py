# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Names and series stay few whatever names a program generates: of subjects, streams, buckets, groups, consumers."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from collections.abc import Iterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StorageType
from prometheus_client import CollectorRegistry, generate_latest

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.nats._bounds import MOST_ERROR_TYPES, MOST_SERIES, MOST_SERVERS, Bounds
from opentelemetry.instrumentation.nats._learning import MOST_NAMES
from opentelemetry.instrumentation.nats._tokens import looks_generated
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.core import Connect, Unique
from support.docs import DOCS, blocks
from support.server import NatsServer
from support.telemetry import Telemetry, attribute_set
from support.waiting import eventually

LIMIT = 50
"""The default of `subject_names`."""


def word(number: int) -> str:
    """A word that no rule takes for an id."""
    return "".join(chr(ord("g") + int(digit)) for digit in f"{number:04}")


def points(telemetry: Telemetry) -> dict[str, int]:
    """How many series each instrument has."""
    return {name: len(metric.data.data_points) for name, metric in telemetry.metrics().items()}


def values(telemetry: Telemetry, attribute: str) -> set[Any]:
    """All values of a metric attribute."""
    return {
        point.attributes[attribute]
        for metric in telemetry.metrics().values()
        for point in metric.data.data_points
        if attribute in point.attributes
    }


def remembered(root: Any) -> int:
    """The size of the largest collection that the instrumentation keeps below an object."""
    largest, pending, seen = 0, [root], {id(root)}
    while pending:
        for below in gc.get_referents(pending.pop()):
            if id(below) in seen or (isinstance(below, dict) and "__name__" in below):
                continue
            seen.add(id(below))
            ours = type(below).__module__.startswith(("opentelemetry.instrumentation.nats", "nats."))
            if ours or isinstance(below, (dict, set, list, tuple)):
                pending.append(below)
            if isinstance(below, (dict, set, list)):
                largest = max(largest, len(below))
    return largest


class TestGeneratedGroups:
    @pytest.mark.parametrize("scheme", ["session-{:032x}", "g{:08}", "word"])
    async def test_of_queues_make_few_series(self, telemetry: Telemetry, nc: Client, scheme: str):
        for number in range(400):
            group = f"session-{word(number)}" if scheme == "word" else scheme.format(number * 7919 + (1 << 100))
            sub = await nc.subscribe("events", queue=group)
            await nc.publish("events", b"x")
            await sub.next_msg()
            await sub.unsubscribe()
        groups = values(telemetry, "messaging.consumer.group.name")
        if scheme == "word":
            assert groups == {"*", *(f"session-{word(number)}" for number in range(LIMIT))}
        else:
            assert groups == {"*"}
        assert sum(telemetry.metric("messaging.client.consumed.messages").values()) == 400
        assert max(points(telemetry).values()) <= LIMIT + 5
        # The spans have it whole.
        receives = telemetry.named("receive events")
        assert len({span.attributes["messaging.consumer.group.name"] for span in receives}) == 400  # type: ignore[index]

    @pytest.mark.parametrize("scheme", ["worker-{:032x}", "word"])
    async def test_of_durable_consumers_make_few_series(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique, scheme: str
    ):
        stream = unique("stream")
        await js.add_stream(name=stream, subjects=[f"{stream}.>"])
        for number in range(120):
            durable = f"worker-{word(number)}" if scheme == "word" else scheme.format(number + (1 << 100))
            await js.publish(f"{stream}.new", b"x")
            psub = await js.pull_subscribe(f"{stream}.>", durable)
            for msg in await psub.fetch(1):
                await msg.ack()
            await psub.unsubscribe()
            await js.delete_consumer(stream, durable)
        expected = {"*", *(f"worker-{word(number)}" for number in range(LIMIT))} if scheme == "word" else {"*"}
        for attribute in (
            "messaging.consumer.group.name",
            "messaging.destination.subscription.name",
            "messaging.nats.jetstream.consumer",
        ):
            assert values(telemetry, attribute) == expected
        latency = telemetry.metric("nats.jetstream.delivery.latency")
        assert sum(point.count for point in latency.values()) == 120
        assert max(points(telemetry).values()) <= 3 * (LIMIT + 1) + 10
        # What is pending is told of a consumer that has a name, and of no mixture of consumers.
        assert {
            dict(key)["messaging.nats.jetstream.consumer"]
            for key in telemetry.metric("nats.jetstream.consumer.pending")
        } == expected - {"*"}
        assert remembered(nc.__dict__["_opentelemetry_connection"].readings) <= 1024


class TestGeneratedResources:
    async def test_of_streams_and_buckets_make_few_names(self, telemetry: Telemetry, js: JetStreamContext):
        memory = StorageType.MEMORY  # a busy disk makes no store for the 140th in time
        for number in range(70):
            await js.add_stream(name=f"stream-{word(number)}", subjects=[f"s.{word(number)}"], storage=memory)
            await js.delete_stream(f"stream-{word(number)}")
            await js.create_key_value(bucket=f"bucket-{word(number)}", history=1, storage=memory)
            await js.delete_key_value(f"bucket-{word(number)}")
        names = [*(word(number) for number in range(LIMIT)), *[None] * 20]
        for operation, what in (
            ("add_stream", "stream"),
            ("delete_stream", "stream"),
            ("create_key_value", "bucket"),
            ("delete_key_value", "bucket"),
        ):
            spans = [span for span in telemetry.spans() if span.name.split()[0] == operation]
            assert [span.name for span in spans] == [
                f"{operation} *" if name is None else f"{operation} {what}-{name}" for name in names
            ]
            assert [span.attributes["messaging.destination.name"] for span in spans] == [  # type: ignore[index]
                f"{what}-{word(number)}" for number in range(70)
            ]
        assert max(points(telemetry).values()) <= 4 * (LIMIT + 1) + 5

    async def test_of_keys_in_subjects_make_few_names(self, telemetry: Telemetry, js: JetStreamContext, nc: Client):
        await js.create_key_value(bucket="users")
        telemetry.clear()
        for number in range(100):
            await nc.publish(f"$KV.users.user_{word(number)}.name", b"x")
        names = {span.name for span in telemetry.spans()}
        assert names == {f"publish $KV.users.user_{word(number)}.name" for number in range(LIMIT)} | {
            "publish $KV.users.*.name"
        }

    async def test_of_subscriptions_with_wildcards_make_few_names(self, telemetry: Telemetry, nc: Client):
        got = asyncio.Event()

        async def handler(msg: Any) -> None:
            got.set()

        for number in range(80):
            for tenant in (f"tenant-{number + 100}", word(number)):
                subscription = await nc.subscribe(f"tenants.{tenant}.>", cb=handler)
                got.clear()
                await nc.publish(f"tenants.{tenant}.ready")
                await got.wait()
                await subscription.unsubscribe()
        names = {span.name for span in telemetry.spans() if span.name.startswith("process")}
        assert names == {"process tenants.*.>", *(f"process tenants.{word(number)}.>" for number in range(LIMIT))}


class TestSeries:
    async def test_are_about_a_thousand_whatever_multiplies(self, telemetry: Telemetry, nc: Client):
        """Fifty subjects for fifty groups: each is few, and together they are many."""
        for subject in range(40):
            for group in range(40):
                sub = await nc.subscribe(f"events.{word(subject)}", queue=f"group-{word(group)}")
                await nc.publish(f"events.{word(subject)}", b"x")
                await sub.next_msg()
                await sub.unsubscribe()
        assert max(points(telemetry).values()) <= MOST_SERIES + 100
        assert sum(telemetry.metric("messaging.client.consumed.messages").values()) == 1600
        assert sum(telemetry.metric("messaging.client.sent.messages").values()) == 1600
        assert remembered(nc.__dict__["_opentelemetry_connection"].readings) <= MOST_SERIES + 100

    async def test_are_bounded_for_all_clients_together(
        self, telemetry: Telemetry, connect: Connect, nats_server: NatsServer
    ):
        for client in range(30):
            nc = await connect()
            for number in range(60):
                await nc.publish(f"{word(client)}.{word(number)}", b"x")
            await nc.close()
        sent = telemetry.metric("messaging.client.sent.messages")
        assert len(sent) <= MOST_NAMES
        assert sum(sent.values()) == 1800
        assert max(points(telemetry).values()) <= MOST_SERIES + 100

    async def test_are_bounded_for_all_error_types_together(self, telemetry: Telemetry, nc: Client):
        async def ignore(error: Exception) -> None:
            pass

        nc._error_cb = ignore
        done = asyncio.Event()

        async def handler(msg: Any) -> None:
            if msg.data == b"end":
                done.set()
                return
            raise type(msg.data.decode(), (Exception,), {})("no")

        await nc.subscribe("events.*", cb=handler)
        for number in range(MOST_ERROR_TYPES + 50):
            await nc.publish(f"events.{word(number % 5)}", f"Error{word(number)}".encode())
        await nc.publish("events.x", b"end")
        await done.wait()
        process = telemetry.metric("messaging.process.duration")
        types = {dict(key).get("error.type") for key in process} - {None}
        assert len(types) == MOST_ERROR_TYPES + 1 and "_OTHER" in types
        assert sum(point.count for point in process.values()) == MOST_ERROR_TYPES + 51
        errors = telemetry.metric("nats.client.async_errors")
        assert sum(errors.values()) == MOST_ERROR_TYPES + 50
        assert len(errors) == MOST_ERROR_TYPES + 1

    async def test_stay_bounded_when_instrumented_anew(self, telemetry: Telemetry, nc: Client):
        for again in range(3):
            telemetry.instrument()
            for number in range(900):
                await nc.publish(f"{word(again)}.{word(number // 30)}.{word(number % 30)}", b"x")
        sent = telemetry.metric("messaging.client.sent.messages")
        assert sum(sent.values()) == 2700
        assert len(sent) <= MOST_SERIES + 5

    async def test_of_two_loops_in_two_threads_are_few(self, telemetry: Telemetry, nats_server: NatsServer):
        async def publish(first: int) -> None:
            nc = await nats.connect(nats_server.url)
            for number in range(300):
                await nc.publish(f"shop.{word(first + number)}.created", b"x")
            await nc.close()

        threads = [threading.Thread(target=asyncio.run, args=(publish(first),)) for first in (0, 100, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        sent = telemetry.metric("messaging.client.sent.messages")
        assert sum(sent.values()) == 900
        names = {span.name for span in telemetry.spans() if span.name.startswith("publish")}
        assert len(names) == len(sent) == LIMIT + 1
        assert "publish shop.*.created" in names


class TestBounds:
    @staticmethod
    def attributes(number: int, port: int | None = 4222, **more: Any) -> dict[str, Any]:
        address = {} if port is None else {"server.address": "localhost", "server.port": port}
        operation = {"messaging.system": "nats", "messaging.operation.name": "publish"}
        return {**operation, **address, "messaging.destination.name": str(number), **more}

    def test_give_the_same_object_for_the_same_attributes(self):
        bounds = Bounds(10)
        first = bounds.operation("counter", self.attributes(1))
        assert bounds.operation("counter", self.attributes(1)) is first
        assert first.attributes == self.attributes(1)

    def test_let_servers_go_before_names(self):
        bounds = Bounds(10)
        for port in (1, 2):
            bounds.server({"messaging.system": "nats", "server.address": "localhost", "server.port": port})
        given = [bounds.operation(None, self.attributes(number)).attributes for number in range(14)]
        bare = {"messaging.system": "nats", "messaging.operation.name": "publish"}
        assert given == [
            *(self.attributes(number) for number in range(8)),
            *(self.attributes(number, None) for number in (8, 9)),
            *[bare] * 4,
        ]
        assert given[-1] is given[-2]
        failed = bounds.operation(None, self.attributes(99, **{"error.type": "ValueError"})).attributes
        assert failed == {**bare, "error.type": "_OTHER"}

    def test_let_one_server_stay(self):
        bounds = Bounds(10)
        assert [bounds.operation(None, self.attributes(number)).attributes for number in range(10)] == [
            self.attributes(number) for number in range(10)
        ]

    def test_warn_once(self, caplog: pytest.LogCaptureFixture):
        bounds = Bounds(10)
        for number in range(100):
            bounds.operation(None, self.attributes(number))
        assert [record.getMessage() for record in caplog.records] == [
            "nats instrumentation: messaging.client.operation.duration has 10 series, the most that it may have."
            " Further ones share one for each operation, without destination, group and server. Fewer names leave"
            " room, see subject_templates"
        ]

    def test_bound_servers(self):
        bounds = Bounds()
        servers = [{"messaging.system": "nats", "server.address": f"10.0.0.{number}"} for number in range(200)]
        known = [bounds.server(server) for server in servers]
        assert known == [*servers[:MOST_SERVERS], *[{"messaging.system": "nats"}] * (200 - MOST_SERVERS)]
        assert bounds.server(servers[3]) == servers[3]

    def test_bound_error_types(self):
        bounds = Bounds()
        types = [f"Error{number}" for number in range(200)]
        assert [bounds.error_type(name) for name in types] == [*types[:MOST_ERROR_TYPES], *["_OTHER"] * 100]
        assert bounds.error_type(types[3]) == types[3]


class TestDocs:
    """docs/cardinality.md against what really happens."""

    text = (DOCS / "cardinality.md").read_text(encoding="utf-8")
    code = [block.text for block in blocks(DOCS / "cardinality.md") if block.language == "python"]

    def test_the_examples_of_generated_tokens_are(self):
        table = self.text.split("| generated | examples |")[1].split("\n\n")[0]
        examples = [re.findall(r"`([^`]+)`", row.split("|")[2]) for row in table.splitlines()[2:]]
        assert len(examples) == 7 and all(examples)
        assert [token for row in examples for token in row if not looks_generated(token)] == []

    def test_the_examples_of_words_are_not(self):
        sentence = self.text.split("What people name things with stays:")[1].split("\n\n")[0]
        words = re.findall(r"`([^`]+)`", sentence)
        assert len(words) > 10
        assert [word for word in words if looks_generated(word)] == []

    async def test_a_name_is_that_many_lines_of_a_scrape(self, nats_server: NatsServer, telemetry: Telemetry):
        reader, registry = PrometheusMetricReader(), CollectorRegistry()
        registry.register(reader._collector)
        provider = MeterProvider([reader], shutdown_on_exit=False)
        telemetry.instrument(meter_provider=provider)
        nc = await nats.connect(nats_server.url)
        scrapes: list[list[bytes]] = []
        for count in (10, 20):
            for number in range(count):
                await nc.publish(f"shop.{word(number)}.created", b"x")
            scrapes.append([line for line in generate_latest(registry).splitlines() if not line.startswith(b"#")])
        await nc.close()
        more = scrapes[1][len(scrapes[0]) :]
        assert len(scrapes[1]) - len(scrapes[0]) == 10 * int(re.search(r"published to is (\d+) lines", self.text)[1])  # type: ignore[index]
        assert more
        size = (sum(map(len, scrapes[1])) - sum(map(len, scrapes[0]))) / 10
        assert 5000 < size < 8000
        provider.shutdown()

    async def test_the_view_leaves_what_it_says(self, nats_server: NatsServer, telemetry: Telemetry):
        reader = InMemoryMetricReader()
        names: dict[str, Any] = {"metric_readers": [reader]}
        exec(self.code[0], names)
        telemetry.instrument(meter_provider=names["provider"])
        nc = await nats.connect(nats_server.url)
        for group in "gh":
            sub = await nc.subscribe("events", queue=group)
            await nc.publish("events", b"x")
            await sub.next_msg()
        await nc.close()
        data = reader.get_metrics_data()
        assert data is not None
        metrics = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
        (consumed,) = metrics["messaging.client.consumed.messages"].data.data_points
        assert dict(consumed.attributes or {}) == {
            "messaging.system": "nats",
            "messaging.operation.name": "receive",
            "messaging.destination.name": "events",
        }
        assert consumed.value == 2  # type: ignore[union-attr]
        names["provider"].shutdown()

    async def test_the_processor_leaves_templates_only(self, nats_server: NatsServer, telemetry: Telemetry):
        names: dict[str, Any] = {}
        exec(self.code[1], names)
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(names["TemplatesOnly"]())
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        telemetry.instrument(tracer_provider=provider)
        nc = await nats.connect(nats_server.url)
        got: asyncio.Queue[Any] = asyncio.Queue()
        await nc.subscribe("users.*.left", cb=got.put)
        await nc.publish("users.ann%40example.left", b"x")
        await got.get()
        sub = await nc.subscribe("orders.8812")
        await nc.publish("orders.8812", b"x")
        await sub.next_msg()
        await nc.close()
        await eventually(lambda: len(exporter.get_finished_spans()) == 5)
        for span in exporter.get_finished_spans():
            assert "ann" not in span.to_json() and "8812" not in span.to_json()
        assert {span.name for span in exporter.get_finished_spans()} >= {"process users.*.left", "receive orders.*"}


@pytest.fixture(autouse=True)
def _collect(telemetry: Telemetry) -> Iterator[None]:
    """Reads the metrics once more at the end: a reader must get all that there is without a fault."""
    yield
    for metric in telemetry.metrics().values():
        keys = [attribute_set(point.attributes) for point in metric.data.data_points]
        assert len(keys) == len(set(keys)), metric.name
