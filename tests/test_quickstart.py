# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The quick start, typed literally in an empty directory; and what happens where something is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from opentelemetry.trace import SpanKind
from support.docs import marked
from support.otlp import OtlpReceiver, ReceivedSpan
from support.shell import PAGE, Typed, free_port, type_quick_start

TREE = [
    "connect localhost:* CLIENT",
    "publish orders.*.created PRODUCER",
    "  process orders.*.created CONSUMER",
    "    request prices.* CLIENT",
    "      process prices.* CONSUMER",
    "        reply PRODUCER",
]
LINE = "INFO:root:orders.8812.created costs 9.90\n"


def tree(spans: list[ReceivedSpan]) -> list[str]:
    """The spans, each under its parent, indented."""
    lines: list[str] = []

    def add(span: ReceivedSpan, depth: int) -> None:
        name = re.sub(r"(?<=localhost:)\d+", "*", span.name)
        lines.append(f"{'  ' * depth}{name} {SpanKind(span.kind).name}")
        for child in sorted(spans, key=lambda child: child.start):
            if child.parent_span_id == span.span_id:
                add(child, depth + 1)

    for span in sorted(spans, key=lambda span: span.start):
        if not span.parent_span_id:
            add(span, 0)
    return lines


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def typed(collector: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Typed]:
    folder = tmp_path_factory.mktemp("quickstart")
    return type_quick_start(folder, collector.endpoint)


class TestTyped:
    def test_shows_the_spans_on_the_console(self, typed: dict[str, Typed]) -> None:
        names = "".join(f"{name}\n" for name in re.findall(r'"name": .*', typed["console"].stdout))
        assert re.sub(r"localhost:\d+", "localhost:4222", names) == marked(PAGE, "output: console")
        assert typed["console"].stderr == LINE

    def test_sends_them_to_a_collector(self, typed: dict[str, Typed], collector: OtlpReceiver) -> None:
        assert (typed["collector"].stdout, typed["collector"].stderr) == ("", LINE)
        spans = [span for span in collector.spans if "telemetry.auto.version" in span.resource]
        assert tree(spans) == TREE
        assert {span.service for span in spans} == {"orders"}
        assert collector.faults == []

    def test_sends_all_three_signals_from_a_program_that_sets_them_up(
        self, typed: dict[str, Typed], collector: OtlpReceiver
    ) -> None:
        assert (typed["in code"].stdout, typed["in code"].stderr) == ("", LINE)
        spans = [span for span in collector.spans if "telemetry.auto.version" not in span.resource]
        assert tree(spans) == TREE
        measured = {metric.name for metric in collector.metrics if "telemetry.auto.version" not in metric.resource}
        assert {"messaging.client.operation.duration", "messaging.process.duration"} <= measured
        assert {span.service for span in spans} == {"orders"}
        if not find_spec("opentelemetry.instrumentation.logging.handler"):
            return  # older releases leave the handler to the program
        [process] = [span for span in spans if span.name == "process orders.*.created"]
        told = [log for log in collector.logs if log.span_id == process.span_id]
        assert [log.body for log in told] == ["orders.8812.created costs 9.90"]

    def test_draws_the_tree_that_it_makes(self) -> None:
        drawn = re.search(r"```text\n(connect localhost:4222 .*?)```", PAGE.read_text(encoding="utf-8"), re.S)
        words = [re.sub(r"[│├└─ ]+", " ", line).split() for line in drawn[1].splitlines() if line]
        assert [f"{line[0]} {line[1]} {line[2]}" for line in words if line[0] != "reply"] == [
            line.strip().lower().replace("localhost:*", "localhost:4222") for line in TREE[:-1]
        ]


class TestSomethingIsMissing:
    """The rows of the page's table of troubles."""

    @pytest.mark.skipif(bool(find_spec("opentelemetry.exporter.otlp.proto.grpc")), reason="here it is not missing")
    def test_the_default_exporter(self, tmp_path: Path) -> None:
        def default(text: str) -> str:
            return text.replace(" --metrics_exporter none --logs_exporter none", "")

        told = type_quick_start(tmp_path, "", only={"server", "console"}, edit=default)["console"]
        assert "Requested component 'otlp_proto_grpc' not found" in told.stderr
        assert told.stderr.endswith(LINE)
        assert told.stdout == ""

    def test_the_collector(self, tmp_path: Path) -> None:
        told = type_quick_start(
            tmp_path,
            f"http://localhost:{free_port()}",
            only={"server", "collector"},
            OTEL_EXPORTER_OTLP_TIMEOUT="1",
        )["collector"]
        assert told.stderr.startswith(LINE)
        assert re.search("Failed to export|Exception while exporting", told.stderr)

    def test_the_server(self, tmp_path: Path) -> None:
        def impatient(text: str) -> str:
            return text.replace(
                "nats.connect(", "nats.connect(max_reconnect_attempts=1, reconnect_time_wait=0.01, servers="
            ).replace(" orders.py\n", " orders.py || true\n")

        told = type_quick_start(tmp_path, "", only={"console"}, edit=impatient)["console"]
        assert "nats: encountered error" in told.stderr
        assert "Connect call failed" in told.stderr
        assert re.findall(r'"(?:name|status_code)": "([^"]*?):?\d*"', told.stdout) == ["connect localhost", "ERROR"]
