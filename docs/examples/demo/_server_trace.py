# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A cluster that tells the way of each message, and the program that makes spans of it: for `--server-trace`."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from _interrupts import held_back
from _processes import Child, DemoError, nats_url

SERVERS = ("n1", "n2", "n3")
EXPORTER = "server-trace"
DESTINATION = "trace.demo"

# What a user adds to the configuration of an account is `msg_trace`.
CONFIGURATION = """
server_name: {name}
listen: "127.0.0.1:-1"
ports_file_dir: "{folder}"
jetstream {{ store_dir: "{folder}/{name}" }}
cluster {{ name: demo, listen: "127.0.0.1:{port}", routes: [{routes}] }}
accounts {{
    DEMO {{ users: [{{ user: demo, password: demo }}], jetstream: enabled, msg_trace: {{ dest: "{destination}" }} }}
    SYS {{ users: [{{ user: sys, password: sys }}] }}
}}
no_auth_user: demo
system_account: SYS
"""


def start_traced_cluster(children: dict[str, Child], binary: str, folder: Path, collector: str) -> list[str]:
    """Starts three servers, and the exporter of their trace events.

    Args:
        children: where to remember them.
        binary: path of nats-server.
        folder: for their files.
        collector: URL of the OTLP receiver.

    Returns:
        The servers' URLs.

    Raises:
        DemoError: a package is missing.
    """
    if not find_spec("opentelemetry.distro"):
        raise DemoError("--server-trace needs more packages: pip install '.[demo,server-trace]'")
    ports = _free_ports(len(SERVERS))
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    for name, port in zip(SERVERS, ports, strict=True):
        file = folder / f"{name}.conf"
        file.write_text(
            CONFIGURATION.format(name=name, folder=folder, port=port, routes=routes, destination=DESTINATION)
        )
        with held_back():
            children[name] = Child(name, [binary, "--config", str(file)], folder)
    urls = [children[name].wait_until(nats_url) for name in SERVERS]
    for name in SERVERS:
        children[name].wait_until(_has_leader)
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_METRICS_EXPORTER": "none", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-m", "opentelemetry.instrumentation.nats.server_trace"]
    command += ["--server", urls[0], "--subject", DESTINATION]
    with held_back():
        children[EXPORTER] = Child(EXPORTER, command, folder, env)
    children[EXPORTER].wait_until(_reads)
    return urls


def _free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        return [sockets.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def _has_leader(server: Child) -> bool | None:
    return "metadata leader" in server.output() or None


def _reads(exporter: Child) -> bool | None:
    return "started: reads" in exporter.output() or None
