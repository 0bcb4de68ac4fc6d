# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What docs/troubleshooting.md says that one sees, seen in real processes."""

from __future__ import annotations

import re
import subprocess
import textwrap
import time
from pathlib import Path

import pytest

from support.otlp import OtlpReceiver
from support.processes import run
from support.prometheus import find_tool
from support.rotel import Rotel
from support.server import NatsServer, find_server

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
NOWHERE = "http://127.0.0.1:1"

PROGRAM = textwrap.dedent(
    """
    import asyncio
    import sys

    import nats


    async def main():
        nc = await nats.connect(sys.argv[1])
        await nc.publish("orders.8812.created", b"{}")
        await nc.close()
        print("done")


    asyncio.run(main())
    """
)

LATE = textwrap.dedent(
    """
    import asyncio
    import sys

    import nats
    from opentelemetry.instrumentation.nats import NatsInstrumentor


    async def main():
        nc = await nats.connect(sys.argv[1])
        called = asyncio.Event()

        async def handle(msg):
            called.set()

        await nc.subscribe("orders", cb=handle)
        bodies = await nc.subscribe("bodies")
        kept = nc.publish
        NatsInstrumentor().instrument()
        await nc.publish("orders")
        await kept("bodies")
        async for msg in bodies.messages:
            break
        await called.wait()
        again = asyncio.Event()

        async def handle_again(msg):
            again.set()

        await nc.subscribe("again", cb=handle_again)
        await nc.publish("again")
        await again.wait()
        await nc.close()


    asyncio.run(main())
    """
)

FORKS = textwrap.dedent(
    """
    import asyncio
    import os
    import sys

    import nats


    async def main(worker):
        nc = await nats.connect(sys.argv[1])
        await nc.publish(f"worker.{worker}")
        await nc.close()


    for worker in ("a", "b"):
        if os.fork() == 0:
            asyncio.run(main(worker))
            sys.exit()
    for _ in range(2):
        assert os.wait()[1] == 0
    """
)


async def test_without_a_protocol_the_distro_wants_grpc(nats_server: NatsServer, otlp: OtlpReceiver):
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.endpoint}
    program = await run(PROGRAM, nats_server.url, env=env)
    assert "Failed to auto initialize OpenTelemetry" in program.stderr
    [message] = re.findall(r"\| `(RuntimeError: [^`]*)`", PAGE)
    assert message in program.stderr
    # It is not the program's trouble.
    assert (program.returncode, program.stdout) == (0, "done\n")


async def test_the_console_shows_spans(nats_server: NatsServer):
    [variables] = re.findall(r"^((?:OTEL_\w+=\w+ )+)opentelemetry-instrument", PAGE, re.M)
    program = await run(PROGRAM, nats_server.url, env=dict(each.split("=") for each in variables.split()))
    assert '"name": "publish orders.*.created"' in program.stdout


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_SAMPLER": "always_off"},
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "nats"},
    ],
)
async def test_switches_that_silence(nats_server: NatsServer, otlp: OtlpReceiver, variables: dict[str, str]):
    assert set(variables) <= set(re.findall(r"`(OTEL_\w+)[=`]", PAGE))
    program = await run(PROGRAM, nats_server.url, env={**otlp.environment("shop"), **variables})
    assert (program.returncode, otlp.spans) == (0, [])


async def test_a_nats_py_that_is_too_old_is_named(nats_server: NatsServer, otlp: OtlpReceiver, tmp_path: Path):
    old = tmp_path / "nats_py-2.1.0.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: nats-py\nVersion: 2.1.0\n", encoding="utf-8")
    env = {**otlp.environment("shop"), "PYTHONPATH": str(tmp_path)}
    program = await run(PROGRAM, nats_server.url, env={**env, "OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION": "false"})
    [message] = re.findall(r"\| `(nats only instruments [^`]*)`", PAGE)
    for part in message.split(" ..."):
        assert part.strip('"') in program.stderr
    assert (program.stdout, otlp.spans) == ("done\n", [])


async def test_instrumented_too_late(nats_server: NatsServer, otlp: OtlpReceiver):
    env = {**otlp.environment("shop"), "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "nats"}
    program = await run(LATE, nats_server.url, env=env)
    assert program.returncode == 0, program.stderr
    assert sorted(span.name for span in otlp.spans) == [
        "process again",
        "process bodies",
        "publish again",
        "publish orders",
    ]


async def test_http_to_the_grpc_port(nats_server: NatsServer, otlp: OtlpReceiver):
    with Rotel(otlp.endpoint) as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        env |= {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION": "false"}
        program = await run(PROGRAM, nats_server.url, env=env)
    assert re.search(r"Connection aborted.*BadStatusLine|Failed to export .* due to timeout", program.stderr)
    assert otlp.spans == []


async def test_no_collector_delays_the_end_only(nats_server: NatsServer):
    env = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE}
    env["OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION"] = "false"

    async def seconds(**variables: str) -> tuple[float, str]:
        start = time.monotonic()
        program = await run(PROGRAM, nats_server.url, env={**env, **variables}, timeout=60)
        assert program.stdout == "done\n"
        return time.monotonic() - start, program.stderr

    took, errors = await seconds()
    assert took > 6
    assert "Connection refused" in errors and "Transient error" in errors
    quick, _ = await seconds(OTEL_EXPORTER_OTLP_TIMEOUT="1")
    assert quick < took - 3
    none, errors = await seconds(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none")
    assert none < quick + 1 and "Transient" not in errors


async def test_a_provider_from_before_a_fork_exports_after_it(nats_server: NatsServer, otlp: OtlpReceiver):
    program = await run(FORKS, nats_server.url, env=otlp.environment("shop"))
    assert program.returncode == 0, program.stderr
    spans = [span for span in otlp.spans if span.name.startswith("publish")]
    assert sorted(span.attributes["messaging.destination.name"] for span in spans) == ["worker.a", "worker.b"]
    assert len({span.resource["service.instance.id"] for span in spans}) == 2
    sent = [metric for metric in otlp.metrics if metric.name == "messaging.client.sent.messages"]
    assert len({metric.resource["service.instance.id"] for metric in sent}) == 2


def test_the_servers_configuration_is_one(tmp_path: Path):
    [block] = re.findall(r"^```text\n(accounts .*?)^```$", PAGE, re.M | re.S)
    file = tmp_path / "nats-server.conf"
    file.write_text(block, encoding="utf-8")
    done = subprocess.run(
        [find_server(), "-t", "-c", str(file)], env={"SHOP": "secret"}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_the_query_is_one(tmp_path: Path):
    [query] = re.findall(r"^(topk\(.*)$", PAGE, re.M)
    rules = tmp_path / "rules.yml"
    rules.write_text(f"groups: [{{name: a, rules: [{{record: b, expr: '{query}'}}]}}]", encoding="utf-8")
    subprocess.run([find_tool("promtool"), "check", "rules", str(rules)], check=True, capture_output=True)
