# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""From events to spans of the SDK: resources, limits, and that nothing which comes in does harm."""

from __future__ import annotations

import asyncio
import copy
import gc
import gzip
import json
import logging
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats.server_trace import _intake, _names, _servers
from opentelemetry.instrumentation.nats.server_trace._exporting import AcknowledgedExport, BatchedExport, ExportError
from opentelemetry.instrumentation.nats.server_trace._health import Health
from opentelemetry.instrumentation.nats.server_trace._intake import REMEMBERED, Intake
from opentelemetry.instrumentation.nats.server_trace._names import Names
from opentelemetry.instrumentation.nats.server_trace._servers import Servers
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import TraceFlags, TraceState
from support.server_trace import ServerSpans, encode, events, sample, scenarios

TRACE_ID = "7a7d81afafb61eee10547113cb657b6a"


@pytest.fixture
def event() -> dict[str, Any]:
    return copy.deepcopy(sample("compressed")["event"])


def numbered(event: dict[str, Any], count: int) -> Iterator[bytes]:
    """As many events of one server, each of another message."""
    for number in range(1, count + 1):
        event["server"]["seq"] = number
        event["request"]["header"]["traceparent"] = [f"00-{TRACE_ID}-{number:016x}-01"]
        yield encode(event)


class Recorder(SpanExporter):
    """Keeps what it is given; says what it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[ReadableSpan]] = []
        self.result: Any = SpanExportResult.SUCCESS

    @property
    def spans(self) -> list[ReadableSpan]:
        return [span for batch in self.batches for span in batch]

    def export(self, spans: Any) -> SpanExportResult:
        if isinstance(self.result, Exception):
            raise self.result
        self.batches.append(list(spans))
        return self.result

    def shutdown(self) -> None:
        pass


class TestResources:
    async def test_each_server_has_its_own(self) -> None:
        spans = await ServerSpans().take(events("2.15", "leaf-request"))
        resources = {span.resource.attributes["nats.server.name"]: dict(span.resource.attributes) for span in spans}
        assert resources == {
            "edge-1": {
                "service.name": "nats-server",
                "service.instance.id": "NNEVTWTBYAVZBURHSEBRQGXWISBPRDM7HREYIN35MQZYTG4YYPIO6UR5",
                "service.version": "2.15.1",
                "nats.server.name": "edge-1",
                "nats.server.cluster": "edge",
                "nats.server.domain": "edge",
            },
            "hub-1": {
                "service.name": "nats-server",
                "service.instance.id": "NI5DHGJBNBXUCASYZH3SVY2F26TRJT4YQL7KMUP6LQYQTAEHPYGY5WIY",
                "service.version": "2.15.1",
                "nats.server.name": "hub-1",
                "nats.server.domain": "hub",
            },
        }

    async def test_tags_are_a_list(self) -> None:
        span = (await ServerSpans().take(events("2.15", "permission-denied")))[0]
        assert span.resource.attributes["nats.server.tags"] == ("az:1", "ssd")

    async def test_the_users_attributes_are_merged_but_not_what_this_process_is(self, event: dict[str, Any]) -> None:
        resource = Resource(
            {
                "service.name": "mine",
                "service.instance.id": "mine",
                "service.namespace": "shop",
                "deployment.environment.name": "prod",
                "host.name": "exporter-host",
                "process.pid": 7,
                "k8s.pod.name": "exporter-0",
                "k8s.cluster.name": "blue",
                "telemetry.sdk.name": "opentelemetry",
            }
        )
        span = (await ServerSpans(resource=resource).take([event]))[0]
        assert dict(span.resource.attributes) == {
            "service.name": "nats-server",
            "service.instance.id": event["server"]["id"],
            "service.version": "2.15.1",
            "service.namespace": "shop",
            "nats.server.name": "nats-1",
            "deployment.environment.name": "prod",
            "k8s.cluster.name": "blue",
            "telemetry.sdk.name": "opentelemetry",
        }

    async def test_a_server_that_says_something_else_of_itself_is_another_resource(self, event: dict[str, Any]) -> None:
        forged = copy.deepcopy(event)
        forged["server"] |= {"name": "evil", "seq": 45}
        names = {span.resource.attributes["nats.server.name"] for span in await ServerSpans().take([forged, event])}
        assert names == {"evil", "nats-1"}

    async def test_the_scope_is_the_packages(self, event: dict[str, Any]) -> None:
        scope = (await ServerSpans().take([event]))[0].instrumentation_scope
        assert scope is not None
        assert scope.name == "opentelemetry.instrumentation.nats.server_trace"
        assert scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
        assert scope.version


class TestManyServers:
    async def test_more_than_there_can_be_are_skipped(
        self, event: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_servers, "MOST_SERVERS", 100)
        exporter = ServerSpans()
        for number in range(110):
            event["server"]["id"] = f"N{number}"
            await exporter.take([event])
        assert exporter.health.skipped == {"too_many_servers": 10}
        assert len(exporter.spans) == 300
        event["server"] |= {"id": "N0", "seq": 999}
        await exporter.take([event])
        assert len(exporter.spans) == 303, "a known one still counts"

    async def test_new_ones_are_taken_on_in_time(self, event: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        now = 0.0
        monkeypatch.setattr(_servers, "MOST_SERVERS", 2)
        monkeypatch.setattr(_servers.time, "monotonic", lambda: now)
        exporter = ServerSpans()

        async def take(number: int) -> int:
            event["server"] |= {"id": f"N{number}", "seq": number}
            before = len(exporter.spans)
            await exporter.take([event])
            return len(exporter.spans) - before

        assert [await take(number) for number in range(4)] == [3, 3, 0, 0]
        now = 6.0
        assert [await take(number) for number in range(4, 6)] == [3, 0]
        now = 1e6
        assert [await take(number) for number in range(6, 9)] == [3, 3, 0]


class TestSampling:
    async def test_follows_the_publisher(self, event: dict[str, Any]) -> None:
        assert len(await ServerSpans(sampler=DEFAULT_ON).take([event])) == 3

    async def test_the_users_sampler_is_asked(self, event: dict[str, Any]) -> None:
        exporter = ServerSpans(sampler=ALWAYS_OFF)
        assert await exporter.take([event]) == []
        assert (exporter.health.events, exporter.health.spans) == (1, 0)

    async def test_the_flag_for_random_trace_ids_is_kept(self, event: dict[str, Any]) -> None:
        event["request"]["header"]["traceparent"] = [f"00-{TRACE_ID}-f893916c2885c690-03"]
        for span in await ServerSpans().take([event]):
            assert span.context.trace_flags == TraceFlags.SAMPLED | getattr(TraceFlags, "RANDOM_TRACE_ID", 0)


class Watch(SpanProcessor):
    """One that a distribution may add: it watches starts."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started.append(span.name)


class TestBothWaysOfMakingSpans:
    """At once, and by a tracer where a processor may watch."""

    async def both(self, *made: Any, **options: Any) -> list[str]:
        """What an exporter sees, one way; after it has been checked to be the same the other way."""
        at_once, by_tracer = ServerSpans(**options), ServerSpans(Watch(), **options)
        assert (at_once.export.takes_ended_spans, by_tracer.export.takes_ended_spans) == (True, False)
        shown = [[span.to_json() for span in await exporter.take(made)] for exporter in (at_once, by_tracer)]
        assert shown[0] == shown[1]
        encoded = [encode_spans(exporter.spans) for exporter in (at_once, by_tracer)]
        assert encoded[0] == encoded[1]
        assert at_once.health.spans == by_tracer.health.spans
        return shown[0]

    async def test_of_every_sample(self) -> None:
        assert len(await self.both(*(event for v, s in scenarios() for event in events(v, s)))) == 498

    async def test_with_a_random_trace_id(self, event: dict[str, Any]) -> None:
        event["request"]["header"]["traceparent"] = [f"00-{TRACE_ID}-f893916c2885c690-03"]
        assert len(await self.both(event)) == 3

    @pytest.mark.parametrize("sampler", [ALWAYS_OFF, DEFAULT_ON, TraceIdRatioBased(0.5), ParentBased(ALWAYS_OFF)])
    async def test_with_any_sampler(self, event: dict[str, Any], sampler: Any) -> None:
        await self.both(*(data for data in numbered(event, 5)), sampler=sampler)

    async def test_with_one_that_adds_attributes_or_does_not_sample(self, event: dict[str, Any]) -> None:
        class Adding(Sampler):
            def should_sample(self, *arguments: Any, **_: Any) -> SamplingResult:
                decision = Decision.RECORD_ONLY if "deliver" in arguments[2] else Decision.RECORD_AND_SAMPLE
                return SamplingResult(decision, {**arguments[4], "sampled.by": "us"}, TraceState([("k", "v")]))

            def get_description(self) -> str:
                return "adds"

        (only,) = await self.both(event, sampler=Adding())
        assert '"sampled.by": "us"' in only

    async def test_a_limit_of_the_users_is_kept(self, event: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4")
        exporter = ServerSpans()
        assert not exporter.export.takes_ended_spans
        (ingress, *_) = await exporter.take([event])
        assert ingress.attributes["messaging.destination.name"] == "orde"


class TestHarm:
    async def test_bad_events_between_good_ones_are_counted_and_logged_once_per_kind(
        self, event: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        exporter = ServerSpans()
        bad = [each["data"].encode() for each in sample("bad")]
        for data in numbered(event, 20):
            await exporter.take([*bad, data])
        assert exporter.health.skipped == {
            "not_json": 3 * 20,
            "malformed": 4 * 20,
            "unknown_step": 1,
            "no_ingress": 20,
            "no_trace_context": 4 * 20,
            "not_sampled": 20,
            "bad_time": 20,
            "duplicate": 19,
        }
        assert len(exporter.spans) == 3 * 20 + 2
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 8
        assert caplog.messages[0] == (
            "skipped: not json (logged once; the metric nats.server_trace.skipped counts them)"
        )
        assert exporter.health.summary() == (
            "320 events, 62 spans, skipped: 20 bad time, 19 duplicate, 80 malformed, 20 no ingress, "
            "80 no trace context, 60 not json, 20 not sampled, 1 unknown step"
        )

    async def test_an_encoding_is_undone(self, event: dict[str, Any]) -> None:
        exporter = ServerSpans()
        await exporter.intake.take(gzip.compress(encode(event)), "gzip")
        assert len(exporter.spans) == 3

    async def test_steps_that_are_left_out_are_counted(self, event: dict[str, Any]) -> None:
        event["events"] += [event["events"][1]] * 10_000 + [{}] * 7
        exporter = ServerSpans()
        await exporter.take([event])
        assert exporter.health.skipped == {"too_many_steps": 10_002 - 128, "unknown_step": 7}
        assert len(exporter.spans) == 129

    async def test_all_that_can_get_through_can_be_exported(self, event: dict[str, Any]) -> None:
        event["server"] |= {"id": "\ud800", "name": "\x00", "ver": "\ud83d", "tags": ["\udc00", "a"], "seq": 2**63 - 1}
        event["request"]["msgsize"] = 2**63 - 1
        event["events"][0] |= {"subj": "\ud800.1", "name": "\udfff", "acc": "\ud800", "error": "\ud800" * 9999}
        event["events"][1] |= {"cid": 2**63 - 1, "sub": "\ud800.*", "queue": "\ud800", "kind": 77, "hop": "999999999"}
        event["events"] += [
            {"type": "js", "ts": "2262-04-11T23:47:16Z", "stream": "\ud800", "error": "?"},
            {"type": "sm", "ts": "1970-01-01T00:00:00.1Z"},
        ]
        exporter = ServerSpans()
        encode_spans(await exporter.take([event])).SerializeToString()
        assert len(exporter.spans) == 5
        encode_spans(await exporter.take(e for v, s in scenarios() for e in events(v, s))).SerializeToString()

    async def test_a_processor_that_raises_costs_its_span(
        self, event: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(SpanProcessor):
            def on_start(self, span: Any, parent_context: Any = None) -> None:
                raise ValueError("broken")

        monkeypatch.setattr(_faults, "raise_faults", False)
        monkeypatch.setattr(_faults, "_reported", set())
        exporter = ServerSpans(Broken())
        await exporter.take(numbered(event, 3))
        assert exporter.health.skipped == {"fault": 3}
        assert sum("server spans failed" in message for message in caplog.messages) == 1

    async def test_a_fault_of_ours_costs_its_event(
        self, event: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object) -> None:
            raise ValueError("ours")

        monkeypatch.setattr(_faults, "raise_faults", False)
        monkeypatch.setattr(_faults, "_reported", set())
        exporter = ServerSpans()
        monkeypatch.setattr(exporter.servers, "maker", fail)
        await exporter.take(numbered(event, 3))
        assert exporter.health.skipped == {"fault": 3}

    async def test_what_is_remembered_is_bounded(self, event: dict[str, Any]) -> None:
        exporter = ServerSpans(sampler=ALWAYS_OFF)
        first, *_ = data = list(numbered(event, REMEMBERED + 1))
        await exporter.take(data)
        await exporter.take([data[-1], first])
        assert exporter.health.skipped == {"duplicate": 1}

    async def test_memory_is_bounded_whatever_is_forged(
        self, event: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_intake, "REMEMBERED", 100)
        monkeypatch.setattr(_servers, "MOST_SERVERS", 50)
        monkeypatch.setattr(_names, "_CACHE_SIZE", 50)
        exporter = ServerSpans(sampler=ALWAYS_OFF, names=Names(limit=5))

        async def forge(numbers: range) -> int:
            for number in numbers:
                forged = copy.deepcopy(event)
                forged["server"] |= {"seq": number, "id": f"N{number}"} if number % 2 else {"seq": number}
                forged["events"][0] |= {"subj": f"a{number}.b{number}.{number:x}", "error": f"error {number}"}
                forged["events"][1] |= {"sub": f"*.b{number}.>", "type": f"{number}" if number % 3 else "eg"}
                forged["events"][2] |= {"hop": f"{number}", "name": f"client {number}"}
                await exporter.intake.take(encode(forged))
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await forge(range(1, 500))
            after = await forge(range(500, 1300))
        finally:
            tracemalloc.stop()
        assert after - before < 30 * 800, "30 bytes an event are less than anything that could be kept of one"


class TestBatchedExport:
    async def test_a_slow_exporter_holds_the_reader_up_instead_of_losing_spans(
        self, event: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        recorder = Recorder()
        provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(recorder, max_queue_size=16, max_export_batch_size=4))
        export = BatchedExport(provider)
        assert export.room == 16
        intake = Intake(export, Servers(export, {}), Names(), Health())
        data = list(numbered(event, 90))
        await asyncio.gather(*(take_all(intake, data[start::3]) for start in range(3)))
        await export.close()
        assert len({span.context.span_id for span in recorder.spans}) == len(recorder.spans) == 270
        assert not [record for record in caplog.records if "full" in record.message]

    async def test_an_event_larger_than_the_queue_is_held_up_as_well(self, event: dict[str, Any]) -> None:
        recorder = Recorder()
        provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(recorder, max_queue_size=16, max_export_batch_size=4))
        export = BatchedExport(provider)
        event["events"] += [event["events"][1]] * 100
        await Intake(export, Servers(export, {}), Names(), Health()).take(encode(event))
        await export.close()
        assert len(recorder.spans) == 103

    def test_no_exporter_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        BatchedExport(TracerProvider(shutdown_on_exit=False))
        assert caplog.messages == ["no span exporter is configured: spans go nowhere"]


async def take_all(intake: Intake, data: list[bytes]) -> None:
    for each in data:
        await intake.take(each)


class TestAcknowledgedExport:
    def export(self, *exporters: SpanExporter) -> tuple[AcknowledgedExport, Intake]:
        provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
        for number, exporter in enumerate(exporters):
            provider.add_span_processor((SimpleSpanProcessor if number else BatchSpanProcessor)(exporter))
        export = AcknowledgedExport(provider)
        return export, Intake(export, Servers(export, {}), Names(), Health())

    async def test_exports_when_asked_to_every_exporter(self, event: dict[str, Any]) -> None:
        recorders = Recorder(), Recorder()
        export, intake = self.export(*recorders)
        await take_all(intake, list(numbered(event, 400)))
        assert [len(recorder.spans) for recorder in recorders] == [0, 0]
        await export.flush()
        assert [len(recorder.spans) for recorder in recorders] == [1200, 1200]
        assert [len(batch) for batch in recorders[0].batches] == [512, 512, 176]
        assert not export.failed
        await export.flush()
        assert len(recorders[0].batches) == 3

    @pytest.mark.parametrize("result", [SpanExportResult.FAILURE, ValueError("down"), None])
    async def test_knows_that_one_of_them_failed(self, event: dict[str, Any], result: Any) -> None:
        good, bad = Recorder(), Recorder()
        export, intake = self.export(good, bad)
        bad.result = result
        data = list(numbered(event, 3))
        await take_all(intake, data)
        await export.flush()
        assert export.failed
        bad.result, export.failed = SpanExportResult.SUCCESS, False
        bad.batches.clear()
        intake.forget()
        await take_all(intake, data)
        await export.flush()
        assert not export.failed
        assert len(bad.spans) == 9

    async def test_other_processors_stay(self, event: dict[str, Any]) -> None:
        watch = Watch()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(watch)
        provider.add_span_processor(SimpleSpanProcessor(Recorder()))
        export = AcknowledgedExport(provider)
        await Intake(export, Servers(export, {}), Names(), Health()).take(encode(event))
        assert watch.started == ["ingress orders.created", "deliver orders.*", "deliver orders.created"]

    def test_needs_an_exporter(self) -> None:
        with pytest.raises(ExportError, match="no span exporter"):
            AcknowledgedExport(TracerProvider(shutdown_on_exit=False))


class TestHealth:
    async def test_is_measured(self, event: dict[str, Any]) -> None:
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        exporter = ServerSpans()
        exporter.health.measure(provider)
        assert points(reader) == {
            ("nats.server_trace.events", "{event}"): {(): 0},
            ("nats.server_trace.spans", "{span}"): {(): 0},
        }
        await exporter.take([*numbered(event, 2), b"", b"{}", b""])
        exporter.health.pending = 5
        measured = points(reader)
        lag = measured.pop(("nats.server_trace.lag", "s"))[()]
        assert lag > 0
        assert measured == {
            ("nats.server_trace.events", "{event}"): {(): 5},
            ("nats.server_trace.spans", "{span}"): {(): 6},
            ("nats.server_trace.skipped", "{item}"): {
                (("reason", "malformed"),): 1,
                (("reason", "not_json"),): 2,
            },
            ("nats.server_trace.pending", "{event}"): {(): 5},
        }
        provider.shutdown()

    async def test_a_clock_that_is_ahead_is_no_negative_lag(self, event: dict[str, Any]) -> None:
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        exporter = ServerSpans()
        exporter.health.measure(provider)
        event["server"]["time"] = "2200-01-01T00:00:00Z"
        await exporter.take([event])
        assert points(reader)[("nats.server_trace.lag", "s")] == {(): 0}
        provider.shutdown()

    async def test_the_time_until_it_was_stored_is_an_attribute(self, event: dict[str, Any]) -> None:
        exporter = ServerSpans()
        await exporter.intake.take(encode(event), stored=1768469400000092688 + 250_000_000)
        ingress, *steps = exporter.spans
        assert ingress.attributes["messaging.nats.trace.stored_after"] == 0.25
        assert not [step for step in steps if "messaging.nats.trace.stored_after" in step.attributes]

    def test_names_no_kind_twice(self, caplog: pytest.LogCaptureFixture) -> None:
        health = Health()
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                health.skip("undecodable", detail="broken gzip")
        assert len(caplog.messages) == 1
        assert "undecodable, broken gzip" in caplog.messages[0]


def points(reader: InMemoryMetricReader) -> dict[tuple[str, str], dict[tuple[tuple[str, Any], ...], float]]:
    """The data points by name and unit of their metric."""
    data = json.loads(reader.get_metrics_data().to_json())  # type: ignore[union-attr]
    return {
        (metric["name"], metric["unit"]): {
            tuple(point["attributes"].items()): point["value"] for point in metric["data"]["data_points"]
        }
        for resource in data["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
        if metric["data"]["data_points"]
    }
