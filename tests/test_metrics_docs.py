# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What docs/metrics.md has to copy: other buckets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from support.core import Connect
from support.metrics import BUCKETS, collect
from support.otlp import OtlpReceiver, ReceivedMetric
from support.processes import run
from support.server import NatsServer
from support.telemetry import Telemetry

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
[SECTION] = re.findall(r"^## Other buckets$(.*?)^## ", PAGE, re.M | re.S)
DURATION = "messaging.client.operation.duration"
FINE = [0.00001, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]

PROGRAM = """
import asyncio
import sys

import nats


async def main():
    nc = await nats.connect(sys.argv[1])
    await nc.publish("orders")
    subscription = await nc.subscribe("orders")
    await nc.publish("orders")
    async for msg in subscription.messages:
        break
    await nc.close()


asyncio.run(main())
"""


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.M | re.S)
    return found


def received(otlp: OtlpReceiver, name: str) -> ReceivedMetric:
    return [metric for metric in otlp.metrics if metric.name == name][-1]


async def test_by_a_view_in_code(telemetry: Telemetry, connect: Connect):
    reader = InMemoryMetricReader()
    names = {"reader": reader}
    exec(block("python"), names)
    telemetry.instrument(meter_provider=names["provider"])
    nc = await connect()
    await nc.publish("orders")
    for point in collect(reader).points(DURATION).values():
        assert list(point.explicit_bounds) == FINE
    names["provider"].shutdown()


async def test_by_a_view_in_a_file(nats_server: NatsServer, otlp: OtlpReceiver, tmp_path: Path):
    pytest.importorskip("opentelemetry.configuration")
    file = tmp_path / "otel.yaml"
    text = block("yaml").replace("http://localhost:4318", otlp.endpoint)
    file.write_text(f'file_format: "1.0"\n{text}', encoding="utf-8")
    program = await run(PROGRAM, nats_server.url, env={"OTEL_CONFIG_FILE": str(file)})
    assert program.returncode == 0, program.stderr
    for _, value in received(otlp, DURATION).points:
        assert value.bounds == FINE
    for _, value in received(otlp, "messaging.process.duration").points:
        assert value.bounds == list(BUCKETS)


async def test_by_a_variable(nats_server: NatsServer, otlp: OtlpReceiver):
    [variable] = re.findall(r"^`(OTEL_\w+)=(\w+)`", SECTION, re.M)
    program = await run(PROGRAM, nats_server.url, env={**otlp.environment("shop"), variable[0]: variable[1]})
    assert program.returncode == 0, program.stderr
    assert received(otlp, DURATION).kind == "exponential_histogram"
