# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What server spans cost: the exporter per event and in memory, and the server per message.

Run it alone, from the root of the repository::

    python tests/benchmarks/server_trace.py [--events 1000000] [--messages 300000] [--smoke]

Without events or messages (`--events 0`) that part is left out.

The exporter is the command in a process of its own, between a real server and an OTLP receiver in this process; what
it costs is its CPU time by the kernel's account, so that other programs on the machine do not count. The events are
those of a three-node cluster, a stream and a request. The server's cost is its CPU time for messages with a sampled
`traceparent`, sent as fast as it takes them, with tracing off, at 1 % and at 100 %.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nats  # noqa: E402

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: E402
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from support.server import NatsServer  # noqa: E402
from support.server_trace import encode, events  # noqa: E402

SCENARIOS = ("cluster-route", "cluster-js-r3-remote-leader", "cluster-request", "js-store", "single-core")
WINDOW = 20_000
"""Events on their way at a time: fewer than the exporter lets wait, so that none is dropped."""

PROBES = 10
TARGET = 5000
"""Events that the exporter has to take in a second of CPU time."""

GROWTH = 8 * 1024 * 1024
"""Bytes that the second half of the events may add: a hundredth of what an entry a span would take."""

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

TRACED = "accounts {{ A {{ users: [{{user: a, password: a}}]{trace} }} }}\nno_auth_user: a\n"


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


class Receiver:
    """Counts spans; an OTLP backend that costs next to nothing."""

    def __init__(self) -> None:
        self.spans = 0
        receiver = self
        answer = ExportTraceServiceResponse().SerializeToString()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                receiver.spans += sum(
                    len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans
                )
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def load(count: int) -> Iterator[tuple[bytes, int]]:
    """Events, each of another message, and how many spans each makes."""
    templates: list[tuple[list[bytes], int]] = []
    for scenario in SCENARIOS:
        for event in events("2.15", scenario):
            event["server"]["seq"] = 7777777
            trace, parent = event["request"]["header"]["traceparent"][0].split("-")[1:3]
            text = encode(event).replace(trace.encode(), b"%T%").replace(parent.encode(), b"%P%")
            parts = text.replace(b"7777777", b"%S%").split(b"%")
            templates.append((parts, len(event["events"])))
    for number in range(1, count + 1):
        parts, spans = templates[number % len(templates)]
        values = {b"T": b"%032x" % number, b"P": b"%016x" % number, b"S": b"%d" % number}
        yield b"".join(values.get(part, part) for part in parts), spans


class ExporterCost(NamedTuple):
    """What the exporter cost.

    Attributes:
        events: Events that were taken.
        spans: Spans that arrived.
        cpu: CPU seconds.
        wall: Seconds.
        memory: Resident bytes after each tenth of the events.
    """

    events: int
    spans: int
    cpu: float
    wall: float
    memory: list[int]


async def measure_exporter(count: int, durable: bool) -> ExporterCost:
    """Sends events through the command to a receiver."""
    receiver, server = Receiver(), NatsServer()
    server.start()
    env = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_") or key.startswith("OTEL_BSP")}
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRICS_EXPORTER": "none", "no_proxy": "127.0.0.1"}
    env["OTEL_BSP_SCHEDULE_DELAY"] = "500"  # the wait for the last spans of a probe
    nc = await nats.connect(server.url)
    source = ["--subject", "trace"]
    if durable:
        await nc.jetstream().add_stream(name="TRACES", subjects=["trace"], max_msgs=2 * WINDOW)
        source = ["--durable", "TRACES", "exporter"]
    command = [sys.executable, "-m", "opentelemetry.instrumentation.nats.server_trace", "-s", server.url, *source]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        while "started: reads" not in (line := process.stderr.readline()):
            assert line, "the command did not start"
        memory: list[int] = []
        expected = sent = 0
        cpu, begin = cpu_seconds(process.pid), time.perf_counter()
        on_the_way: list[int] = []
        for data, spans in load(count):
            await nc.publish("trace", data)
            sent += 1
            expected += spans
            on_the_way.append(expected)
            if sent % 1000 == 0:
                await nc.flush()
                await _wait_for(receiver, on_the_way[max(sent - WINDOW, 0)])
            if sent % (count // PROBES) == 0:
                await _wait_for(receiver, expected)
                memory.append(resident_bytes(process.pid))
        await _wait_for(receiver, expected)
        cost = ExporterCost(sent, receiver.spans, cpu_seconds(process.pid) - cpu, time.perf_counter() - begin, memory)
        process.terminate()
        print(process.stderr.read().strip().splitlines()[-1].partition(": stopped ")[2])
        process.wait(30)
        return cost
    finally:
        process.kill()
        process.wait()
        await nc.close()
        server.close()
        receiver.close()


async def _wait_for(receiver: Receiver, spans: int) -> None:
    deadline = time.monotonic() + 120
    while receiver.spans < spans:
        assert time.monotonic() < deadline, f"{spans - receiver.spans} spans are missing"
        await asyncio.sleep(0.01)


class ServerCost(NamedTuple):
    """What one message cost the server.

    Attributes:
        microseconds: CPU time of a message.
        rate: Messages a second.
    """

    microseconds: float
    rate: float


def measure_server(sampling: int, messages: int) -> ServerCost:
    """Sends messages of 128 bytes to one subscriber as fast as the server takes them."""
    trace = f', msg_trace: {{dest: "trace", sampling: {sampling}}}' if sampling else ""
    server = NatsServer(TRACED.format(trace=trace), jetstream=False)
    server.start()
    head = b"NATS/1.0\r\ntraceparent: 00-%b-%b-01\r\n\r\n" % (b"7" * 32, b"8" * 16)
    body = head + b"x" * 128
    message = b"HPUB orders.created %d %d\r\n%b\r\n" % (len(head), len(body), body)
    chunk = message * 500
    try:
        assert server._process
        pid = server._process.pid
        with _client(server, b"SUB orders.* 1\r\n") as reader, _client(server, b"SUB trace 1\r\n") as exporter:
            drain(exporter)
            counted = count_messages(reader, messages)
            with _client(server) as publisher:
                cpu, begin = cpu_seconds(pid), time.perf_counter()
                for _ in range(messages // 500):
                    publisher.sendall(chunk)
                counted.join()
                wall = time.perf_counter() - begin
                time.sleep(0.05)  # the server's own tail: events still to be sent
                return ServerCost((cpu_seconds(pid) - cpu) / messages * 1e6, messages / wall)
    finally:
        server.close()


def _client(server: NatsServer, commands: bytes = b"") -> socket.socket:
    url = urlsplit(server.url)
    connection = socket.create_connection((url.hostname, url.port))
    connection.recv(65536)
    connection.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n' + commands + b"PING\r\n")
    while b"PONG\r\n" not in connection.recv(65536):
        pass
    return connection


def drain(connection: socket.socket) -> None:
    """Reads and forgets, until the connection ends."""

    def read() -> None:
        try:
            while connection.recv(1 << 20):
                pass
        except OSError:
            pass

    threading.Thread(target=read, daemon=True).start()


def count_messages(connection: socket.socket, messages: int) -> threading.Thread:
    """Reads until that many messages have come."""

    def read() -> None:
        seen, rest = 0, b""
        while seen < messages:
            data = rest + connection.recv(1 << 20)
            seen += data.count(b"\r\nHMSG ") + data.startswith(b"HMSG ")
            rest = data[-6:] if not data.endswith(b"\r\nHMSG ") else b""

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--messages", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="short, and only gross misses fail")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.events, arguments.messages, arguments.rounds = 20_000, 20_000, 1
    failed = False

    for durable in (False, True) if arguments.events else ():
        count = arguments.events // (10 if durable else 1)
        cost = asyncio.run(measure_exporter(count, durable))
        rate = cost.events / cost.cpu
        megabytes = ", ".join(f"{size / 1e6:.1f}" for size in cost.memory)
        growth = cost.memory[-1] - cost.memory[PROBES // 2 - 1]
        print(f"exporter{' --durable' if durable else ''}: {cost.events} events, {cost.spans} spans")
        print(f"  {rate:.0f} events/s a core ({cost.cpu / cost.events * 1e6:.0f} us an event)")
        print(f"  {cost.events / cost.wall:.0f} events/s by the clock; resident MB: {megabytes}")
        # An acknowledgement is a message too, and the target is for the batch span processor.
        failed |= (not durable and rate < TARGET / (4 if arguments.smoke else 1)) or growth > GROWTH

    if not arguments.messages:
        return int(failed)
    costs: dict[int, list[ServerCost]] = {0: [], 1: [], 100: []}
    for _ in range(arguments.rounds):
        for sampling, measured in costs.items():
            measured.append(measure_server(sampling, arguments.messages))
    off = max(cost.rate for cost in costs[0])
    print("server: CPU per message, highest rate against tracing off")
    for sampling, measured in costs.items():
        cpu, rate = min(cost.microseconds for cost in measured), max(cost.rate for cost in measured)
        print(f"  {f'{sampling} %' if sampling else 'off':>6}: {cpu:5.1f} us, {rate:9.0f}/s, {rate / off:.2f}x")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
