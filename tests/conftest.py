# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Fixtures: a real server, clients of it, and recorded telemetry that must be complete and must not leak."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import itertools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from opentelemetry import context, propagate, trace
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator

pytest.register_assert_rewrite("support")

from support.faults import Faults, raise_faults  # noqa: E402
from support.options import VARIABLES, Give, as_text  # noqa: E402
from support.otlp import OtlpReceiver  # noqa: E402
from support.planted import PASSWORD, PlantedInLogs, nothing_found  # noqa: E402
from support.server import NatsServer  # noqa: E402
from support.telemetry import Telemetry  # noqa: E402
from support.wire import Wire  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "instrument(**options): options that `telemetry` passes to instrument()")
    config.addinivalue_line("markers", "sampler(sampler): the sampler of `telemetry`'s tracer provider")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    # The context that a test leaves is seen by nobody but the test itself: a fixture runs in another one.
    if isinstance(item, pytest.Function) and "telemetry" in item.fixturenames:
        item.obj = _leaves_context_alone(item.obj)


@pytest.fixture(scope="session", autouse=True)
def _telemetry_faults() -> Iterator[Faults]:
    with raise_faults() as faults:
        yield faults


@pytest.fixture(autouse=True)
def _no_telemetry_faults(_telemetry_faults: Faults) -> Iterator[None]:
    """Fails the test after a fault of the instrumentation; one that wants faults sets `_faults.raise_faults` False."""
    with _telemetry_faults.none():
        yield


@pytest.fixture(scope="session", autouse=True)
def _looks_for_planted_texts() -> Iterator[None]:
    handler = PlantedInLogs()
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)


@pytest.fixture(autouse=True)
def _nothing_planted_got_out(_looks_for_planted_texts: None) -> Iterator[None]:
    """Fails the test after which a planted secret or payload is found in telemetry or in a log line of ours."""
    with nothing_found():
        yield


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """The server of all tests, JetStream on; a test that stops its server takes one from `server_factory`."""
    server = NatsServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def server_factory() -> Iterator[Callable[..., NatsServer]]:
    """Starts servers of the test's own: `server_factory("max_payload: 1024")`, see `NatsServer`."""
    servers: list[NatsServer] = []

    def factory(config: str = "", **options: Any) -> NatsServer:
        server = NatsServer(config, **options)
        servers.append(server)
        server.start()
        return server

    yield factory
    for server in servers:
        server.close()


@pytest.fixture
async def telemetry(request: pytest.FixtureRequest) -> AsyncIterator[Telemetry]:
    """Instruments nats-py for the test; fails it if a span that was started in it never ended.

    `@pytest.mark.instrument(use_span_links=True)` gives options, `@pytest.mark.sampler(ALWAYS_OFF)` a sampler.
    """
    sampler = request.node.get_closest_marker("sampler")
    options = request.node.get_closest_marker("instrument")
    recorded = Telemetry(*sampler.args if sampler else ())
    try:
        recorded.instrument(**options.kwargs if options else {})
        yield recorded
        await recorded.check_ended()
    finally:
        recorded.uninstrument()
        recorded.shutdown()


@pytest.fixture
def _telemetry_if_used(request: pytest.FixtureRequest) -> Telemetry | None:
    """Puts `telemetry` before clients whatever the order of a test's arguments: they connect and close within it."""
    return request.getfixturevalue("telemetry") if "telemetry" in request.fixturenames else None


@pytest.fixture
async def connect(
    nats_server: NatsServer, server_factory: Callable[..., NatsServer], _telemetry_if_used: Telemetry | None
) -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """Connects clients: `await connect()`, `await connect(server)`, `await connect(url, name="other")`.

    Those of the common server have a password, which that does not ask for and no telemetry may show. They are closed
    after the test, the last one first, and all streams of the common server are deleted.
    """
    clients: list[Client] = []

    async def factory(server: NatsServer | str | list[str] = nats_server, **options: Any) -> Client:
        servers = server.url if isinstance(server, NatsServer) else server
        client = Client()
        clients.append(client)
        # Only the common server is known to have no users, who would be refused.
        has_users = server is not nats_server or _CREDENTIALS & options.keys()
        secret = {} if has_users else {"user": "tests", "password": PASSWORD}
        await client.connect(servers, **{"reconnect_time_wait": 0.05, **secret, **options})
        return client

    yield factory
    for client in reversed(clients):
        await _close(client)
    nats_server.delete_streams()


@pytest.fixture
async def nc(connect: Callable[..., Awaitable[Client]], _telemetry_if_used: Telemetry | None) -> Client:
    """A connected client; the span of its connecting is forgotten."""
    client = await connect()
    if _telemetry_if_used:
        _telemetry_if_used.clear()
    return client


@pytest.fixture
def js(nc: Client) -> JetStreamContext:
    """The JetStream context of `nc`."""
    return nc.jetstream()


@pytest.fixture
async def wire(nats_server: NatsServer) -> AsyncIterator[Wire]:
    """A connection to the common server that speaks the protocol itself."""
    async with Wire(nats_server.url) as connection:
        yield connection


@pytest.fixture
def propagators() -> Iterator[Callable[..., None]]:
    """Sets the propagators of the test: `propagators(W3CBaggagePropagator(), ...)`; none at all without arguments."""
    before = propagate.get_global_textmap()

    def use(*some: TextMapPropagator) -> None:
        propagate.set_global_textmap(CompositePropagator(list(some)))

    yield use
    propagate.set_global_textmap(before)


if os.environ.get("TESTS_OF") == "releases":
    # What says the same with any release is left out: pages, examples, names made of texts, hostile messages, faults.
    collect_ignore_glob = [
        "server_trace",
        "test_cardinality.py",
        "test_demo.py",
        "test_deploy.py",
        "test_docs.py",
        "test_examples.py",
        "test_fence.py",
        "test_hostile.py",
        "test_import_time.py",
        "test_learning.py",
        "test_prometheus.py",
        "test_properties.py",
        "test_quickstart.py",
        "test_release*.py",
        "test_subjects.py",
        "test_support.py",
        "test_texts.py",
        "test_to_contrib.py",
        "test_tokens.py",
        "test_upstream*.py",
    ]

_CREDENTIALS = {"user", "password", "token", "user_credentials", "nkeys_seed", "nkeys_seed_str", "user_jwt_cb"}

if os.environ.get("TESTS_LOOP") == "uvloop":

    def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
        """All tests in uvloop's loops: `tox -e uvloop`."""
        return {"uvloop": importlib.import_module("uvloop").new_event_loop}


_numbers = itertools.count()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes names that no other test uses: `unique("orders")`; for subjects, streams, consumers, buckets, services."""

    def name(word: str = "test") -> str:
        # No digits, and short: a name that looks generated would turn into `*` in templates.
        return f"{word}-{''.join(chr(ord('g') + int(digit)) for digit in f'{next(_numbers):04}')}"

    return name


@pytest.fixture
def otlp() -> Iterator[OtlpReceiver]:
    """A receiver for what other processes export."""
    with OtlpReceiver() as receiver:
        yield receiver


def _leaves_context_alone(test: Callable[..., Any]) -> Callable[..., Any]:
    def check(before: context.Context) -> None:
        after = context.get_current()
        assert after == before, f"the test left a context behind, with {trace.get_current_span()} current"

    @functools.wraps(test)
    async def asynchronous(*args: Any, **kwargs: Any) -> None:
        before = context.get_current()
        await test(*args, **kwargs)
        check(before)

    @functools.wraps(test)
    def synchronous(*args: Any, **kwargs: Any) -> None:
        before = context.get_current()
        try:
            test(*args, **kwargs)
            check(before)
        finally:
            context.attach(before)

    return asynchronous if inspect.iscoroutinefunction(test) else synchronous


async def _close(client: Client) -> None:
    await client.close()
    # Where the server refused it, nats-py leaves the socket to the garbage collector, whose warning fails another test.
    if client._transport:
        client._transport.close()
        with contextlib.suppress(OSError):
            await client._transport.wait_closed()


@pytest.fixture(params=["keyword", "variable"])
def give(request: pytest.FixtureRequest, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> Give:
    """Instruments with options, given by keyword or by environment variable."""

    def give(**options: Any) -> None:
        if request.param == "keyword":
            telemetry.instrument(**options)
            return
        for name, value in options.items():
            monkeypatch.setenv(VARIABLES[name], as_text(value))
        telemetry.instrument()

    return give
