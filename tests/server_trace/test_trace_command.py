# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The command, as a process of its own between a real server and a real OTLP receiver."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from nats.aio.client import Client

from opentelemetry.instrumentation.nats.server_trace._arguments import parse
from support.otlp import OtlpReceiver
from support.processes import Program
from support.server import NatsServer
from support.topology import free_ports
from support.waiting import eventually, flush

COMMAND = "import sys\nfrom opentelemetry.instrumentation.nats.server_trace.__main__ import main\nsys.exit(main())\n"
SCRIPT = Path(sys.executable).parent / "opentelemetry-nats-server-trace"
MODULE = "opentelemetry.instrumentation.nats.server_trace"

TRACED = """
server_name: n1
accounts { A {
    users: [
        {user: a, password: a}
        {user: deaf, password: d, permissions: {subscribe: {deny: ">"}}}
    ]
    msg_trace: {dest: "trace.a", sampling: 100}
    jetstream: enabled
} }
no_auth_user: a
"""

Servers = Callable[..., NatsServer]
Connect = Callable[..., Any]


def context(number: int) -> dict[str, str]:
    """Headers of a sampled message."""
    return {"traceparent": f"00-{'7' * 32}-{number:016x}-01"}


async def publish(nc: Client, count: int, first: int = 1) -> None:
    """Publishes traced messages that nobody listens to: one event and one span each."""
    for number in range(first, first + count):
        await nc.publish("orders.created", b"", headers=context(number))
    await flush(nc)


async def started(program: Program) -> None:
    """Waits until the command reads events."""
    await eventually(lambda: "INFO" in program.stderr and "started: reads" in program.stderr, 30, "the command's start")


def published(otlp: OtlpReceiver) -> set[int]:
    """The numbers of the messages whose span has arrived."""
    return {int(span.parent_span_id, 16) for span in otlp.spans}


class TestCommandLine:
    @pytest.mark.parametrize("command", [[str(SCRIPT)], [sys.executable, "-m", MODULE]], ids=["script", "module"])
    def test_help_says_all(self, command: list[str]) -> None:
        text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
        options = ["server", "subject", "queue", "durable", "js-domain", "creds", "nkey", "user", "password", "token"]
        options += ["tls-ca", "tls-cert", "tls-key", "tls-hostname", "tls-first", "name", "inbox-prefix", "log-level"]
        assert [option for option in options if f"--{option} " not in text] == []
        for word in ("NATS_CREDS", "OTEL_CONFIG_FILE", "SIGTERM", "msg_trace", "nats.server_trace.skipped"):
            assert word in text

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            ([], "either --subject or --durable"),
            (["--subject", "a", "--durable", "S", "C"], "either --subject or --durable"),
            (["--durable", "S", "C", "--queue", "q"], "--queue goes with --subject"),
            (["--subject", "a..b"], "not a NATS subject pattern: 'a..b'"),
            (["--subject", "a", "--creds", "/nowhere"], "--creds: there is no file /nowhere"),
            (["--subject", "a", "--tls-key", __file__], "--tls-key goes with --tls-cert"),
            (["--subject", "a", "--sub", "b"], "unrecognized arguments"),
        ],
        ids=str,
    )
    def test_wrong_usage_is_said(self, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            parse(arguments)
        assert ended.value.code == 2
        assert why in capsys.readouterr().err

    def test_secrets_and_the_server_may_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = {"NATS_URL": "nats://a:1, nats://b:2", "NATS_USER": "u", "NATS_PASSWORD": "p", "NATS_TOKEN": "t"}
        for name, value in {**values, "OTEL_PYTHON_NATS_SUBJECT_TEMPLATES": "a.*,b.>"}.items():
            monkeypatch.setenv(name, value)
        parsed = parse(["--subject", "x,y", "--subject", "z"])
        assert (parsed.server, parsed.subject, parsed.templates) == (
            ["nats://a:1", "nats://b:2"],
            ["x", "y", "z"],
            ["a.*", "b.>"],
        )
        assert (parsed.user, parsed.password, parsed.token) == ("u", "p", "t")
        assert parse(["--subject", "x", "--user", "other"]).user == "other"
        assert parse(["--subject", "x"]).names == 50
        monkeypatch.setenv("OTEL_PYTHON_NATS_SUBJECT_NAMES", "7")
        assert parse(["--subject", "x"]).names == 7
        monkeypatch.setenv("OTEL_PYTHON_NATS_SUBJECT_NAMES", "-1")
        with pytest.raises(SystemExit):
            parse(["--subject", "x"])

    def test_without_what_it_needs_it_says_how_to_get_it(self) -> None:
        hidden = "import sys\nsys.modules['opentelemetry.sdk'] = None\n" + COMMAND
        process = subprocess.run(
            [sys.executable, "-c", hidden, "--subject", "trace.a"], capture_output=True, text=True, timeout=30
        )
        assert process.returncode == 1
        assert process.stderr.endswith(": pip install 'opentelemetry-instrumentation-nats[server-trace]'\n")
        assert process.stderr.count("\n") == 1

    def test_who_does_not_use_it_does_not_import_it(self) -> None:
        program = "import sys\nfrom opentelemetry.instrumentation.nats import NatsInstrumentor\n"
        program += "NatsInstrumentor().instrument()\nprint([name for name in sys.modules if 'server_trace' in name])"
        process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
        assert (process.stdout, process.returncode) == ("[]\n", 0)


class TestSubjects:
    @pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_signal_ends_it_after_all_is_exported(
        self, server_factory: Servers, connect: Connect, otlp: OtlpReceiver, number: signal.Signals
    ) -> None:
        server = server_factory(TRACED, jetstream=True)
        nc = await connect(server, user="a", password="a")
        env = otlp.environment("exporter") | {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        url = f"nats://a:a@127.0.0.1:{server.port}"
        async with Program(COMMAND, "-s", url, "--subject", "trace.>", env=env, instrumented=False) as program:
            await started(program)
            await publish(nc, 400)
            await nc.publish("trace.a", b"junk")
            await flush(nc)
            os.kill(program.pid, number)
            ended = await program.wait()
        assert ended.returncode == 0
        assert published(otlp) == set(range(1, 401))
        assert otlp.faults == []
        assert {span.service for span in otlp.spans} == {"nats-server"}
        assert {span.name for span in otlp.spans} == {"ingress orders.created"}
        lines = [line.split(" ", 2)[2] for line in ended.stderr.splitlines()]
        assert lines == [
            f"INFO {MODULE}: started: reads trace.> at 127.0.0.1:{server.port}",
            f"WARNING {MODULE}: skipped: not json (logged once; the metric nats.server_trace.skipped counts them)",
            f"INFO {MODULE}: stopped by {number.name}: 401 events, 400 spans, skipped: 1 not json",
        ]
        last = {metric.name: metric for metric in otlp.metrics}
        assert last["nats.server_trace.events"].points == [({}, 401)]
        assert last["nats.server_trace.skipped"].points == [({"reason": "not_json"}, 1)]
        assert last["nats.server_trace.events"].resource["service.name"] == "exporter"

    async def test_it_comes_back_with_its_server(
        self, server_factory: Servers, connect: Connect, otlp: OtlpReceiver
    ) -> None:
        server = server_factory(TRACED)
        port = server.port
        server.stop()
        env = otlp.environment("exporter") | {"OTEL_METRICS_EXPORTER": "none", "NATS_URL": f"nats://127.0.0.1:{port}"}
        async with Program(COMMAND, "--subject", "trace.>", env=env, instrumented=False) as program:
            await eventually(lambda: "connection: " in program.stderr, 30)
            server.start()
            await started(program)
            await publish(await connect(server, user="a", password="a"), 5)
            await asyncio.to_thread(otlp.wait_for, lambda _: published(otlp) == set(range(1, 6)))
            server.restart()
            await eventually(lambda: "reconnected to " in program.stderr, 30)
            await publish(await connect(server, user="a", password="a"), 5, first=6)
            await asyncio.to_thread(otlp.wait_for, lambda _: published(otlp) == set(range(1, 11)))
            program.terminate()
            ended = await program.wait()
        assert ended.returncode == 0
        assert ended.stderr.count("started") == ended.stderr.count("reconnected") == ended.stderr.count("stopped") == 1

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
    async def test_a_signal_ends_it_while_there_is_no_server(self, otlp: OtlpReceiver) -> None:
        (port,) = free_ports(1)
        env = otlp.environment("exporter")
        arguments = ["-s", f"nats://127.0.0.1:{port}", "--subject", "trace.>"]
        async with Program(COMMAND, *arguments, env=env, instrumented=False) as program:
            await eventually(lambda: "connection: " in program.stderr, 30)
            program.terminate()
            ended = await program.wait()
        assert ended.returncode == 0
        assert ended.stderr.endswith("stopped by SIGTERM: 0 events, 0 spans, skipped: none\n")

    async def test_a_destination_that_it_may_not_subscribe_to_ends_it(
        self, server_factory: Servers, otlp: OtlpReceiver
    ) -> None:
        # With `no_auth_user`, old releases of nats-py do not say who they are.
        url = server_factory(TRACED.replace("no_auth_user: a", "")).url
        env = otlp.environment("exporter") | {"NATS_USER": "deaf", "NATS_PASSWORD": "d"}
        async with Program(COMMAND, "-s", url, "--subject", "trace.>", env=env, instrumented=False) as program:
            ended = await program.wait()
        assert ended.returncode == 1
        assert "ermissions violation for subscription to" in ended.stderr.lower().splitlines()[-1]

    async def test_a_configuration_file_says_where_spans_go(
        self, server_factory: Servers, connect: Connect, otlp: OtlpReceiver, tmp_path: Path
    ) -> None:
        pytest.importorskip("opentelemetry.configuration")
        server = server_factory(TRACED)
        nc = await connect(server, user="a", password="a")
        (port,) = free_ports(1)
        file = tmp_path / "otel.yaml"
        file.write_text(
            f"""
            file_format: "1.0"
            resource: {{attributes: [{{name: deployment.environment.name, value: prod}}]}}
            tracer_provider:
              processors:
                - batch: {{schedule_delay: 100, exporter: {{otlp_http: {{endpoint: {otlp.endpoint}/v1/traces}}}}}}
            meter_provider:
              readers:
                - pull: {{exporter: {{prometheus/development: {{host: 127.0.0.1, port: {port}}}}}}}
            """
        )
        env = {"OTEL_CONFIG_FILE": str(file)}
        async with Program(COMMAND, "-s", server.url, "--subject", "trace.>", env=env, instrumented=False) as program:
            await started(program)
            await publish(nc, 3)
            await asyncio.to_thread(otlp.wait_for, lambda _: len(otlp.spans) == 3)
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
                metrics = response.read().decode()
            program.terminate()
            assert (await program.wait()).returncode == 0
        assert {span.resource["deployment.environment.name"] for span in otlp.spans} == {"prod"}
        assert "\nnats_server_trace_events_total{" in metrics


class TestDurable:
    async def test_under_opentelemetry_instrument_nothing_of_its_own_is_traced(
        self, server_factory: Servers, connect: Connect, otlp: OtlpReceiver
    ) -> None:
        server = server_factory(TRACED)
        nc = await connect(server, user="a", password="a")
        js = nc.jetstream()
        await js.add_stream(name="TRACES", subjects=["trace.>"])
        await publish(nc, 10)
        env = otlp.environment("exporter")
        arguments = ["-s", server.url, "--durable", "TRACES", "exporter"]
        async with Program(COMMAND, *arguments, env=env) as program:
            await started(program)
            await publish(nc, 10, first=11)
            await asyncio.to_thread(otlp.wait_for, lambda _: published(otlp) == set(range(1, 21)))
            program.terminate()
            ended = await program.wait()
        assert ended.returncode == 0
        assert {(span.service, span.scope.name) for span in otlp.spans} == {("nats-server", MODULE)}
        assert len(otlp.spans) == 20
        info = await js.consumer_info("TRACES", "exporter")
        assert (info.num_pending, info.num_ack_pending, info.num_redelivered) == (0, 0, 0)
        assert "created consumer exporter of stream TRACES" in ended.stderr
        assert "started: reads consumer exporter of stream TRACES at 127.0.0.1:" in ended.stderr
