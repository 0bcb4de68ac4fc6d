# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The tests' own ground: it must fail when it should, and need no instrumentation to stand."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import textwrap
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest.mock import ANY

import nats
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind, StatusCode
from support import processes
from support.faults import Faults
from support.otlp import OtlpReceiver, ReceivedHistogram, Scope
from support.server import NatsServer, ServerError
from support.spans import assert_span, connection_attributes, tree
from support.telemetry import Telemetry, attribute_set
from support.waiting import eventually

pytest_plugins = ["pytester"]

Connect = Callable[..., Awaitable[Client]]
ServerFactory = Callable[..., NatsServer]
Unique = Callable[[str], str]


class TestServer:
    async def test_a_stream_survives_restart_and_kill_on_the_same_port(
        self, server_factory: ServerFactory, connect: Connect
    ):
        server = server_factory()
        port = server.port
        js = (await connect(server)).jetstream()
        await js.add_stream(name="kept", subjects=["kept"])
        await js.publish("kept", b"1")

        server.restart()
        assert server.port == port
        assert (await (await connect(server)).jetstream().stream_info("kept")).state.messages == 1

        server.kill()
        assert not server.running
        server.start()
        assert server.port == port
        assert (await (await connect(server)).jetstream().stream_info("kept")).state.messages == 1

    async def test_a_client_reconnects_after_a_restart(self, server_factory: ServerFactory, connect: Connect):
        server = server_factory()
        nc = await connect(server)
        server.restart()
        await eventually(lambda: nc.stats["reconnects"] == 1 and nc.is_connected)

    async def test_configuration_reaches_the_server(self, server_factory: ServerFactory, connect: Connect):
        server = server_factory(
            """
            no_header_support: true
            max_payload: 1024
            jetstream { domain: hub }
            accounts { A { jetstream: enabled, users: [ { user: ann, password: secret } ] } }
            """
        )
        with pytest.raises(nats.errors.Error):
            await connect(server, allow_reconnect=False)
        nc = await connect(server, user="ann", password="secret")
        assert nc.max_payload == 1024
        assert nc._server_info["headers"] is False
        assert (await nc.jetstream(domain="hub").account_info()).domain == "hub"

    async def test_monitoring_and_jetstream_are_options(self, server_factory: ServerFactory, connect: Connect):
        server = server_factory(jetstream=False, monitoring=True)
        nc = await connect(server)
        with urllib.request.urlopen(f"{server.monitoring_url}/connz") as answer:
            assert [connection["cid"] for connection in json.load(answer)["connections"]] == [nc.client_id]
        assert "jetstream" not in nc._server_info

    def test_a_bad_configuration_is_told_with_the_servers_words(self, server_factory: ServerFactory):
        with pytest.raises(ServerError, match="nats-server.conf:1"):
            server_factory("max_payload: lots")


class TestClients:
    async def test_streams_are_deleted_between_tests(
        self, nats_server: NatsServer, nc: Client, js: JetStreamContext, unique: Unique
    ):
        stream, bucket = unique("stream"), unique("bucket")
        assert stream != bucket
        await js.add_stream(name=stream, subjects=[stream])
        await js.create_key_value(bucket=bucket)
        nats_server.delete_streams()
        assert (await js.account_info()).streams == 0

    async def test_connection_attributes_are_those_of_the_socket(self, nats_server: NatsServer, nc: Client):
        on_every_span = {
            "messaging.system": "nats",
            "messaging.client.id": str(nc.client_id),
            "server.address": "127.0.0.1",
            "server.port": nats_server.port,
        }
        assert connection_attributes(nc, peer=False) == on_every_span
        assert connection_attributes(nc) == {
            **on_every_span,
            "network.peer.address": "127.0.0.1",
            "network.peer.port": nats_server.port,
        }


class TestTelemetry:
    async def test_spans_come_in_start_order_and_are_waited_for(self):
        telemetry = Telemetry()

        async def work():
            with telemetry.tracer.start_as_current_span("outer"):
                await asyncio.sleep(0)
                with telemetry.tracer.start_as_current_span("inner"):
                    pass

        task = asyncio.ensure_future(work())
        assert [span.name for span in await telemetry.wait_for(2)] == ["outer", "inner"]
        assert await telemetry.wait_for("inner") == telemetry.named("inner") == [telemetry.span("inner")]
        assert len(await telemetry.wait_for(lambda spans: spans[0].end_time)) == 2
        assert (telemetry.counter.started, telemetry.counter.ended) == (2, 2)
        await task
        telemetry.clear()
        assert telemetry.spans() == []
        with pytest.raises(AssertionError, match="no spans"):
            await telemetry.wait_for("inner", timeout=0.01)
        with pytest.raises(AssertionError, match="0 finished spans are named 'inner'"):
            telemetry.span("inner")

    async def test_metrics_are_found_by_their_attributes(self):
        telemetry = Telemetry()
        meter = telemetry.meter_provider.get_meter("tests")
        assert telemetry.metric("sent") == {}
        meter.create_counter("sent", unit="{message}").add(2, {"to": "a"})
        meter.create_histogram("took").record(0.5, {"to": "b"})
        assert telemetry.metric("sent") == {attribute_set({"to": "a"}): 2}
        assert telemetry.metric("took")[attribute_set({"to": "b"})].sum == 0.5
        assert telemetry.metrics()["sent"].unit == "{message}"

    def test_open_spans_and_left_contexts_fail_a_test(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
        tests = Path(__file__).parent
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")]))
        pytester.makeconftest(
            (tests / "conftest.py").read_text()
            + "\nimport support.telemetry\n"
            + "support.telemetry.END_TIMEOUT = 0.05\n"
            + "Telemetry.instrument = Telemetry.uninstrument = lambda self, **options: None\n"
        )
        pytester.makepyfile(
            """
            from opentelemetry import trace, context

            async def test_unended(telemetry):
                telemetry.tracer.start_span("forgotten")

            async def test_left(telemetry):
                context.attach(trace.set_span_in_context(telemetry.tracer.start_span("left")))
                trace.get_current_span().end()

            def test_left_outside_of_tasks(telemetry):
                context.attach(context.set_value("key", "left"))

            class TestMethods:
                async def test_clean(self, telemetry):
                    assert not context.get_current()
                    with telemetry.tracer.start_as_current_span("ended"):
                        pass
            """
        )
        result = pytester.runpytest_subprocess(
            "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"
        )
        result.assert_outcomes(passed=2, failed=2, errors=1)
        result.stdout.fnmatch_lines_random(
            [
                "*ERROR at teardown of test_unended*",
                "*spans that never ended: 'forgotten'*",
                "*the test left a context behind, with *left*",
                "FAILED *::test_left -*",
                "FAILED *::test_left_outside_of_tasks*",
            ]
        )

    def test_a_fault_that_somebody_swallowed_is_remembered(self):
        faults = Faults()
        with faults.none():
            pass
        with pytest.raises(AssertionError) as failed, faults.none():
            try:
                raise ValueError("ours")
            except ValueError:
                assert faults
        assert repr(failed.value.__cause__) == "ValueError('ours')"
        with faults.none():
            pass


class TestSpans:
    def test_assert_span_tells_every_difference(self):
        telemetry = Telemetry()
        with telemetry.tracer.start_as_current_span("parent") as parent:
            with telemetry.tracer.start_as_current_span("other") as other:
                pass
            with telemetry.tracer.start_as_current_span(
                "child",
                kind=SpanKind.CLIENT,
                attributes={"same": [1, 2], "number": 1, "extra": "x", "any": 5},
                links=[Link(other.get_span_context(), {"key": "value"})],
            ) as child:
                child.set_status(StatusCode.ERROR, "broken")
        span = telemetry.span("child")

        assert_span(
            span,
            name="child",
            kind=SpanKind.CLIENT,
            attributes={"same": [1, 2], "number": 1, "extra": "x", "any": ANY},
            parent=parent,
            links=[(other, {"key": "value"})],
            status=(StatusCode.ERROR, "broken"),
        )
        assert_span(span, parent=parent.get_span_context(), links=[other.get_span_context()], status=StatusCode.ERROR)
        assert_span(telemetry.span("parent"), parent=None, links=[])

        with pytest.raises(AssertionError) as raised:
            assert_span(
                span,
                name="kid",
                kind=SpanKind.SERVER,
                attributes={"same": [1, 2], "number": True, "missing": 3, "any": 5},
                parent=other,
                links=[(other, {"key": "other"})],
                events=["exception"],
            )
        assert [line.split(":")[0].strip() for line in str(raised.value).splitlines()[1:]] == [
            "name",
            "kind",
            "attribute extra",
            "attribute missing",
            "attribute number",
            "parent",
            "link 0 attribute key",
            "status",
            "events",
        ]
        with pytest.raises(AssertionError, match="expected a root"):
            assert_span(span, parent=None, status=StatusCode.ERROR)
        with pytest.raises(AssertionError, match="links: to "):
            assert_span(span, links=[], status=StatusCode.ERROR)

    def test_a_tree_shows_parents_links_and_errors(self):
        telemetry = Telemetry()
        with telemetry.tracer.start_as_current_span("root") as root:
            with telemetry.tracer.start_as_current_span("child", kind=SpanKind.PRODUCER) as child:
                child.set_status(StatusCode.ERROR, "broken")
        with telemetry.tracer.start_as_current_span("second", links=[Link(root.get_span_context())]):
            pass
        assert tree(telemetry.spans()).splitlines() == [
            "trace 1",
            "  root [INTERNAL]",
            "    child [PRODUCER] ERROR (broken)",
            "trace 2",
            "  second [INTERNAL] linked to 'root'",
        ]


class TestOtlpReceiver:
    @pytest.mark.parametrize("compression", Compression)
    def test_traces_and_metrics_are_decoded(self, otlp: OtlpReceiver, compression: Compression):
        resource = Resource({"service.name": "orders"})
        tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracer_provider.add_span_processor(
            SimpleSpanProcessor(OTLPSpanExporter(f"{otlp.endpoint}/v1/traces", compression=compression))
        )
        tracer = tracer_provider.get_tracer("tests", "1.2", schema_url="https://schema")
        with tracer.start_as_current_span("parent") as parent:
            attributes = {"text": "x", "number": 1, "float": 0.5, "flag": True, "list": ["a", "b"]}
            link = Link(parent.get_span_context(), {"key": "value"})
            with tracer.start_as_current_span("child", None, SpanKind.CONSUMER, attributes, [link]) as span:
                span.add_event("happened", {"how": "well"})
                span.set_status(StatusCode.ERROR, "broken")

        otlp.wait_for(lambda receiver: len(receiver.spans) == 2)
        child, root = otlp.spans
        assert otlp.named("child") == [child]
        assert (child.trace_id, child.parent_span_id) == (root.trace_id, root.span_id)
        assert root.parent_span_id == ""
        assert len(child.trace_id) == 32
        assert (root.kind, child.kind) == (SpanKind.INTERNAL, SpanKind.CONSUMER)
        assert child.attributes == attributes
        assert [(link.span_id, link.attributes) for link in child.links] == [(root.span_id, {"key": "value"})]
        assert [(event.name, event.attributes) for event in child.events] == [("happened", {"how": "well"})]
        assert (child.status, child.description) == (StatusCode.ERROR, "broken")
        assert child.scope == Scope("tests", "1.2", "https://schema")
        assert child.service == "orders"
        assert root.start <= child.start <= child.end <= root.end

        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(f"{otlp.endpoint}/v1/metrics", compression=compression), float("inf")
        )
        meter_provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        meter = meter_provider.get_meter("tests")
        meter.create_counter("sent", "{message}").add(2, {"to": "a"})
        meter.create_histogram("took", "s", explicit_bucket_boundaries_advisory=[1.0]).record(0.5)
        meter_provider.force_flush()
        otlp.wait_for(lambda receiver: len(receiver.metrics) == 2)
        sent, took = otlp.metrics
        assert (sent.name, sent.unit, sent.kind, sent.points) == ("sent", "{message}", "sum", [({"to": "a"}, 2)])
        assert (took.kind, took.points) == ("histogram", [({}, ReceivedHistogram(1, 0.5, [1.0], [1, 0]))])
        tracer_provider.shutdown()
        meter_provider.shutdown()
        assert otlp.faults == []

    def test_what_is_no_protobuf_is_refused_and_told(self, otlp: OtlpReceiver):
        request = urllib.request.Request(f"{otlp.endpoint}/v1/traces", gzip.compress(b"?"))
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            urllib.request.urlopen(request)
        refused.value.close()
        with pytest.raises(AssertionError, match="/v1/traces"):
            otlp.wait_for(lambda receiver: receiver.spans, timeout=0.01)


class TestProcesses:
    async def test_a_program_runs_under_opentelemetry_instrument_and_exports(self, otlp: OtlpReceiver):
        program = """
            import sys
            from opentelemetry import trace
            with trace.get_tracer("program").start_as_current_span("work"):
                print(sys.argv[1:])
            print("trouble", file=sys.stderr)
            sys.exit(3)
            """
        finished = await processes.run(textwrap.dedent(program), "a", "b", env=otlp.environment("worker"))
        assert (finished.stdout, finished.returncode) == ("['a', 'b']\n", 3)
        assert "trouble" in finished.stderr
        await asyncio.to_thread(otlp.wait_for, lambda receiver: receiver.named("work"))
        assert otlp.named("work")[0].service == "worker"

    async def test_a_program_is_waited_for_and_terminated(self):
        program = "import time\nprint('ready')\ntime.sleep(60)"
        async with processes.Program(program, instrumented=False) as running:
            await running.wait_for_output("ready")
            with pytest.raises(AssertionError, match="'never' in the program's output"):
                await running.wait_for_output("never", timeout=0.01)
            running.terminate()
            assert (await running.wait()).returncode == -15

    async def test_a_program_that_hangs_is_killed(self):
        program = "import time\nprint('ready')\ntime.sleep(60)"
        async with processes.Program(program, instrumented=False) as running:
            await running.wait_for_output("ready")
            with pytest.raises(AssertionError, match="ready"):
                await running.wait(timeout=0.01)

    async def test_a_program_that_ends_early_is_told_with_its_output(self):
        async with processes.Program("raise SystemExit('no')", instrumented=False) as running:
            with pytest.raises(AssertionError, match="without writing(.|\n)*no"):
                await running.wait_for_output("ready")
