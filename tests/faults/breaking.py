# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What breaks while a program is under load: servers that are killed, a cluster that loses leaders, bad networks."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from faults.harness import Outcome, serving, started
from support.proxy import Proxy
from support.server import HOST, NatsServer, ServerError, ask
from support.waiting import eventually

Break = Callable[[], Awaitable[None]]
"""Breaks something, and mends it."""

CLUSTER = 3
QUORUM_TIMEOUT = 60.0


async def run_broken(
    program: str, mode: str, parameters: Mapping[str, Any], urls: str | list[str], breaks: list[Break]
) -> Outcome:
    """Runs a program that tells of marks; at each one something breaks.

    Args:
        program: Its module.
        mode: One of `MODES`.
        parameters: What it is given besides the servers and the number of marks.
        urls: Its servers.
        breaks: What happens at the marks.
    """
    parameters = {"url": urls, "marks": len(breaks), **parameters}
    async with started(program, mode, parameters) as child:
        for break_something in breaks:
            await child.said("mark")
            await break_something()
            child.tell("over")
        outcome = await child.ended(mode)
    outcome.figures.setdefault("faults", len(breaks))
    return outcome


async def run_with_kills(program: str, mode: str, parameters: Mapping[str, Any], kills: int) -> Outcome:
    """Runs a program whose server is killed, and started again."""
    async with serving() as server:

        async def kill() -> None:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

        outcome = await run_broken(program, mode, parameters, server.url, [kill] * kills)
    outcome.figures["faults"] = f"{kills} kills"
    return outcome


async def run_on_cluster(program: str, mode: str, parameters: Mapping[str, Any], stream: str, losses: int) -> Outcome:
    """Runs a program on a cluster that loses the server that leads a stream, several times."""
    async with _cluster() as servers:

        async def lose_leader() -> None:
            leader = await _settled(servers.values(), stream)
            await asyncio.to_thread(servers[leader].kill)
            await asyncio.to_thread(servers[leader].start)
            await _settled(servers.values(), stream)

        urls = [server.url for server in servers.values()]
        outcome = await run_broken(program, mode, parameters, urls, [lose_leader] * losses)
    outcome.figures["faults"] = f"{losses} leaders lost"
    return outcome


async def run_on_bad_network(program: str, mode: str, parameters: Mapping[str, Any], seed: int, rounds: int) -> Outcome:
    """Runs a program over a proxy that cuts, stalls and throttles, in an order of chance."""
    dice = random.Random(seed)
    async with serving() as server, Proxy(server.url) as proxy:

        async def cut() -> None:
            proxy.cut()
            # Not before the program has come again: a cut that finds nothing is none.
            await eventually(lambda: proxy.connections, QUORUM_TIMEOUT)

        async def stall() -> None:
            proxy.stall()
            await asyncio.sleep(dice.uniform(0.1, 3))
            proxy.flow()

        async def throttle() -> None:
            proxy.throttle = dice.randint(1, 40)
            await asyncio.sleep(dice.uniform(0.1, 1))
            proxy.throttle = 0

        breaks = [cut, stall, throttle] * rounds
        dice.shuffle(breaks)
        outcome = await run_broken(program, mode, parameters, proxy.url, breaks)
    outcome.figures["faults"] = f"{rounds} each of cut, stall, throttle"
    return outcome


@asynccontextmanager
async def _cluster() -> AsyncIterator[dict[str, NatsServer]]:
    servers = await _start_cluster()
    try:
        yield servers
    finally:
        await asyncio.gather(*(asyncio.to_thread(server.close) for server in servers.values()))


async def _start_cluster() -> dict[str, NatsServer]:
    for attempt in range(5):
        ports = free_ports(CLUSTER)
        routes = ", ".join(f'"nats://{HOST}:{port}"' for port in ports)
        servers = {
            f"n{number}": NatsServer(
                f'server_name: n{number}\ncluster {{ name: faults, listen: "{HOST}:{port}", routes: [{routes}] }}'
            )
            for number, port in enumerate(ports)
        }
        try:
            await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers.values()))
            return servers
        except ServerError:  # somebody else has taken a port meanwhile
            for server in servers.values():
                server.close()
            if attempt == 4:
                raise
    raise AssertionError("unreachable")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind((HOST, 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


async def _settled(servers: Any, stream: str) -> str:
    """Waits until a stream has a leader and its other replicas are current; returns the leader's name."""

    def leader() -> str | None:
        for server in servers:
            try:
                cluster = ask(server.url, f"$JS.API.STREAM.INFO.{stream}").get("cluster") or {}
            except (OSError, ServerError):
                continue
            others = cluster.get("replicas") or []
            if len(others) == CLUSTER - 1 and all(each.get("current") for each in others):
                return cluster.get("leader")
        return None

    deadline = asyncio.get_running_loop().time() + QUORUM_TIMEOUT
    while not (name := await asyncio.to_thread(leader)):
        assert asyncio.get_running_loop().time() < deadline, "the cluster did not settle"
        await asyncio.sleep(0.05)
    return name
