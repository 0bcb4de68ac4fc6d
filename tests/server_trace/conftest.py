# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Real servers that trace, programs on them, and an exporter of server spans in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.errors import Error as JetStreamError

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span
from support.server import NatsServer, release
from support.server_trace import ServerSpans, server_tree
from support.telemetry import Telemetry
from support.waiting import eventually, flush

SERVERS = os.environ.get("NATS_SERVERS")
"""A folder with a folder for each version of the server, as `tox -e server-trace` makes it."""

INSTALLED = "installed"
TRACING = (2, 11)
USER = {"user": "a", "password": "a"}
"""Who connects where a test does not say who."""

TREE_TIMEOUT = 10.0
PROBE_INTERVAL = 0.1
PROBES = 100

Connect = Callable[..., Awaitable[Client]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server_version" in metafunc.fixturenames:
        versions = sorted(os.listdir(SERVERS)) if SERVERS else [INSTALLED]
        metafunc.parametrize("server_version", versions, indirect=True, scope="module")


@pytest.fixture(scope="module")
def server_version(request: pytest.FixtureRequest) -> str:
    """The version of the servers that the test starts, `2.12.8`; `installed` for the one on PATH."""
    if not SERVERS and release() < TRACING:
        pytest.skip("no release before 2.11 traces")
    return request.param


@pytest.fixture
def start(
    server_version: str, server_factory: Callable[..., NatsServer], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., NatsServer]:
    """Starts servers of that version."""
    if SERVERS:
        folder = Path(SERVERS, server_version, "bin")
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return server_factory


class Scene:
    """A program on traced servers, and what it leaves in its trace.

    Args:
        connect: Connects clients.
        telemetry: The program's telemetry.
    """

    def __init__(self, connect: Connect, telemetry: Telemetry) -> None:
        self._connect = connect
        self._telemetry = telemetry
        self.exporter = ServerSpans()
        self.received: list[Msg] = []

    async def watch(self, server: NatsServer, subject: str = "trace.>", **options: Any) -> None:
        """Lets the exporter read the events of a destination, as the command does it."""

        async def take(msg: Msg) -> None:
            await self.exporter.intake.take(msg.data, (msg.headers or {}).get("Content-Encoding"))

        with suppress_instrumentation():
            client = await self._connect(server, name="exporter", **{**USER, **options})
            await client.subscribe(subject, cb=take)
            await flush(client)

    async def client(self, server: NatsServer, name: str, **options: Any) -> Client:
        """Connects a client of the program."""
        with suppress_instrumentation():
            return await self._connect(server, name=name, **{**USER, **options})

    async def subscribe(self, client: Client, subject: str, queue: str = "") -> Callable[[], bool]:
        """Subscribes for the program; returns what tells whether a message has come by it."""
        here: list[Msg] = []

        async def receive(msg: Msg) -> None:
            here.append(msg)
            self.received.append(msg)

        await client.subscribe(subject, queue, cb=receive)
        await flush(client)
        return lambda: bool(here)

    async def add_stream(self, client: Client, **config: Any) -> Any:
        """Adds a stream, untraced, once the servers have a leader to do so; returns what is known of it."""
        js = client.jetstream()
        for _ in range(PROBES):
            with suppress_instrumentation(), contextlib.suppress(JetStreamError, asyncio.TimeoutError):
                await js.add_stream(**config)
                info = await js.stream_info(config["name"])
                if info.cluster is None or info.cluster.leader:
                    return info
            await asyncio.sleep(PROBE_INTERVAL)
        raise AssertionError(f"no stream: {config}")

    async def answer(self, client: Client, subject: str, *, copies_headers: bool = True) -> None:
        """Answers requests for the program; `Msg.respond` of nats-py copies the request's headers into the answer."""

        async def respond(msg: Msg) -> None:
            await (msg.respond(b"answer") if copies_headers else client.publish(msg.reply, b"answer"))

        await client.subscribe(subject, cb=respond)
        await flush(client)

    async def probe_request(self, client: Client, subject: str) -> None:
        """Requests, untraced, until somebody answers."""
        for _ in range(PROBES):
            with suppress_instrumentation(), contextlib.suppress(NoRespondersError, asyncio.TimeoutError):
                await client.request(subject, b"probe", timeout=PROBE_INTERVAL)
                return
            await asyncio.sleep(PROBE_INTERVAL / 10)
        raise AssertionError(f"nobody answers at {subject}")

    async def probe(self, client: Client, subject: str, *reached: Callable[[], bool]) -> None:
        """Publishes, untraced, until every subscriber has got it: interest has to get from server to server first."""
        for _ in range(PROBES):
            with suppress_instrumentation():
                await client.publish(subject, b"probe")
                await flush(client)
            try:
                return await eventually(lambda: all(check() for check in reached), PROBE_INTERVAL)
            except AssertionError:
                continue
        raise AssertionError(f"not every subscriber of {subject} can be reached")

    async def spans(self, root: Span, count: int) -> list[ReadableSpan]:
        """Waits for the spans of a trace, beside its root; returns them."""
        trace = root.get_span_context().trace_id

        def found() -> list[ReadableSpan]:
            every = [*self._telemetry.spans(), *self.exporter.spans]
            return [span for span in every if span.context.trace_id == trace and span.name != "root"]

        try:
            await eventually(lambda: len(found()) >= count, TREE_TIMEOUT)
            await asyncio.sleep(0)
        except AssertionError:
            raise AssertionError(f"{count} spans are expected:\n{server_tree(found())}") from None
        return found()

    async def assert_tree(self, root: Span, *expected: str) -> list[ReadableSpan]:
        """Checks the whole trace below a root, one line a span.

        The number of a hop is left out: which of two servers is the first to be sent a message is chance.
        """
        spans = await self.spans(root, len(expected))
        assert re.sub(r", hop [0-9.]+", "", server_tree(spans)).splitlines() == list(expected)
        assert len({span.context.span_id for span in spans}) == len(spans)
        ids = {span.context.span_id for span in spans} | {root.get_span_context().span_id}
        assert all(span.parent and span.parent.span_id in ids for span in spans)
        return spans


@pytest.fixture
async def scene(telemetry: Telemetry, connect: Connect) -> AsyncIterator[Scene]:
    """A program on traced servers."""
    scene = Scene(connect, telemetry)
    yield scene
    assert scene.exporter.health.skipped == {}
