# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Several servers that know one another: clusters, superclusters, hubs and leaf nodes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.request import urlopen

from support.server import HOST, NatsServer
from support.waiting import eventually

FORM_TIMEOUT = 20.0

StartServer = Callable[..., NatsServer]

LISTENERS = {"cluster": "cluster", "gateway": "gateway", "leaf": "leafnodes"}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on: servers have to know one another's before they start."""
    with ExitStack() as sockets:
        return [
            sockets.enter_context(socket.create_server((HOST, 0))).getsockname()[1]  # type: ignore[attr-defined]
            for _ in range(count)
        ]


def cluster(
    start: StartServer, size: int, common: str, *, name: str = "C", more: str = "", jetstream: bool = False
) -> dict[str, NatsServer]:
    """Starts a cluster.

    Args:
        start: What starts a server, the fixture `server_factory`.
        size: How many servers.
        common: Configuration of all of them, accounts above all.
        name: Its name; the servers' names are made of its lower-case form.
        more: More configuration, the gateway for one; `{index}` in it is the server's number from 0.
        jetstream: Whether to turn JetStream on.

    Returns:
        The servers by name.
    """
    ports = free_ports(size)
    routes = ", ".join(f'"nats://{HOST}:{port}"' for port in ports)
    return {
        server_name: start(
            f"server_name: {server_name}\n{common}\n{more.replace('{index}', str(index))}\n"
            f'cluster {{ name: {name}, listen: "{HOST}:{port}", routes: [{routes}] }}',
            jetstream=jetstream,
            monitoring=True,
        )
        for index, port in enumerate(ports)
        for server_name in [f"{name.lower()}{index + 1}"]
    }


async def formed(servers: dict[str, NatsServer], count: Callable[[NatsServer], int], expected: int) -> None:
    """Waits until every server counts as many neighbours as expected."""
    for name, server in servers.items():
        await eventually(lambda server=server: count(server) >= expected, FORM_TIMEOUT, f"neighbours of {name}")


def routes(server: NatsServer) -> int:
    """How many other servers of its cluster it has a route to."""
    return len({route["remote_name"] for route in _monitor(server, "routez").get("routes") or ()})


def gateways(server: NatsServer) -> int:
    """How many gateways it has, in both directions."""
    found = _monitor(server, "gatewayz")
    return min(len(found.get("outbound_gateways") or ()), len(found.get("inbound_gateways") or ()))


def leafs(server: NatsServer) -> int:
    """How many leaf node connections it has."""
    return int(_monitor(server, "leafz")["leafnodes"])


def _monitor(server: NatsServer, page: str) -> Any:
    with urlopen(f"{server.monitoring_url}/{page}", timeout=5) as response:
        return json.load(response)
