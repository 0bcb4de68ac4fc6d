# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the client itself knows: its connection, its subscriptions, its errors; each made to happen on a real server."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import Error, SlowConsumerError
from nats.js.errors import NoKeysError

from support.core import Connect, ServerFactory, Unique, echo
from support.metrics import Collected, dropped, messages, server, states
from support.server import NatsServer
from support.telemetry import AttributeSet, Telemetry, attribute_set
from support.waiting import eventually, flush

SENT = "messaging.client.sent.messages"
SENT_BYTES = "nats.client.sent.bytes"
RECEIVED_BYTES = "nats.client.received.bytes"
RECONNECTS = "nats.client.reconnects"
DROPPED = "nats.client.messages.dropped"
CONNECTIONS = "nats.client.connections"
SUBSCRIPTIONS = "nats.client.active_subscriptions"
PENDING_MESSAGES = "nats.client.pending.messages"
PENDING_BYTES = "nats.client.pending.bytes"
ASYNC_ERRORS = "nats.client.async_errors"


def collected(telemetry: Telemetry) -> Collected:
    return Collected(telemetry.metrics())


def of_server(nc_or_server: Client | NatsServer, **more: Any) -> AttributeSet:
    if isinstance(nc_or_server, Client):
        return attribute_set({**server(nc_or_server), **more})
    address = {"server.address": "127.0.0.1", "server.port": nc_or_server.port}
    return attribute_set({"messaging.system": "nats", **address, **more})


def error_of(nc: Client, error_type: str) -> AttributeSet:
    return attribute_set({**server(nc), "error.type": error_type})


async def quiet(_: Exception) -> None:
    """An error callback; nats-py's own logs each refused attempt to reconnect with its stack."""


class TestBytes:
    async def test_are_those_of_the_payloads(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique()
        subscription = await nc.subscribe(subject)
        await nc.publish(subject, b"12345", headers={"Own": "not counted"})
        await nc.publish(subject, b"123")
        await nc.publish(unique("nobody"), b"12")
        for _ in range(2):
            await subscription.next_msg(timeout=5)
        result = collected(telemetry)
        assert result.of(SENT_BYTES) == {of_server(nc): 10}
        assert result.of(RECEIVED_BYTES) == {of_server(nc): 8}

    async def test_of_several_clients_of_a_server_are_added(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        for size in (1, 10, 100):
            nc = await connect()
            await nc.publish(unique(), b"x" * size)
        assert collected(telemetry).of(SENT_BYTES) == {of_server(nc): 111}


class TestConnections:
    async def test_are_counted_by_state_through_a_crash_of_the_server(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect
    ):
        killed = server_factory()
        nc = await connect(killed, error_cb=quiet, max_reconnect_attempts=-1)
        other = await connect()
        result = collected(telemetry)
        assert result.of(CONNECTIONS) == {**states(nc, connected=1), **states(other, connected=1)}
        assert result.of(RECONNECTS) == {of_server(nc): 0, of_server(other): 0}

        killed.kill()
        await eventually(lambda: nc.is_reconnecting)
        result = collected(telemetry)
        assert result.of(CONNECTIONS) == {**states(nc, reconnecting=1), **states(other, connected=1)}
        assert result.of(RECONNECTS) == {of_server(nc): 0, of_server(other): 0}

        killed.start()
        await eventually(lambda: nc.is_connected and nc.stats["reconnects"])
        result = collected(telemetry)
        assert result.of(CONNECTIONS) == {**states(nc, connected=1), **states(other, connected=1)}
        assert result.of(RECONNECTS) == {of_server(nc): 1, of_server(other): 0}

        killed.restart()
        await eventually(lambda: nc.is_connected and nc.stats["reconnects"] == 2)
        assert collected(telemetry).of(RECONNECTS) == {of_server(nc): 2, of_server(other): 0}

    async def test_are_draining_while_handlers_finish_and_then_gone(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        started, release = asyncio.Event(), asyncio.Event()

        async def slow(_: Any) -> None:
            started.set()
            await release.wait()

        subject = unique()
        await nc.subscribe(subject, cb=slow)
        await nc.publish(subject, b"")
        await started.wait()
        draining = asyncio.ensure_future(nc.drain())
        await eventually(lambda: nc.is_draining)
        assert collected(telemetry).of(CONNECTIONS) == states(nc, draining=1)
        gone = states(nc)
        release.set()
        await draining
        assert collected(telemetry).of(CONNECTIONS) == gone

    async def test_of_several_clients_of_a_server_are_added(self, telemetry: Telemetry, connect: Connect):
        first, second, _ = [await connect() for _ in range(3)]
        assert collected(telemetry).of(CONNECTIONS) == states(first, connected=3)
        await second.close()
        assert collected(telemetry).of(CONNECTIONS) == states(first, connected=2)

    async def test_that_a_client_makes_again_are_one(self, telemetry: Telemetry, nats_server: NatsServer, nc: Client):
        await nc.close()
        await nc.connect(nats_server.url, reconnect_time_wait=0.01)
        assert collected(telemetry).of(CONNECTIONS) == states(nc, connected=1)


class TestAnotherServer:
    async def test_gets_what_happened_while_connected_to_it(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect, unique: Unique
    ):
        first, second = server_factory(), server_factory()
        nc = await connect([first.url, second.url], dont_randomize=True, error_cb=quiet, max_reconnect_attempts=-1)
        assert nc.connected_url.port == first.port
        subject = unique()
        subscription = await nc.subscribe(subject)

        async def exchange(times: int) -> None:
            for _ in range(times):
                await nc.publish(subject, b"12345")
                await subscription.next_msg(timeout=5)

        async def move(down: NatsServer, up: NatsServer) -> None:
            before = nc.stats["reconnects"]
            down.kill()
            await eventually(
                lambda: nc.is_connected and nc.stats["reconnects"] > before and nc.connected_url.port == up.port, 10
            )
            await flush(nc)

        def publishes(server: NatsServer) -> AttributeSet:
            return of_server(server, **{"messaging.operation.name": "publish", "messaging.destination.name": subject})

        await exchange(2)
        await move(first, second)
        await exchange(1)
        result = collected(telemetry)
        assert result.of(SENT_BYTES) == result.of(RECEIVED_BYTES) == {of_server(first): 10, of_server(second): 5}
        assert result.of(SENT) == {publishes(first): 2, publishes(second): 1}
        assert result.of(RECONNECTS) == {of_server(first): 0, of_server(second): 1}
        assert result.of(SUBSCRIPTIONS) == {of_server(second): 1}
        assert result.of(CONNECTIONS) == states(nc, connected=1)

        first.start()
        await move(second, first)
        await exchange(4)
        result = collected(telemetry)
        assert result.of(SENT_BYTES) == result.of(RECEIVED_BYTES) == {of_server(first): 30, of_server(second): 5}
        assert result.of(SENT) == {publishes(first): 6, publishes(second): 1}
        assert result.of(RECONNECTS) == {of_server(first): 1, of_server(second): 1}
        # Seen there once, so what is there no more is zero, and not what it was.
        assert result.of(SUBSCRIPTIONS) == {of_server(first): 1, of_server(second): 0}
        assert result.of(CONNECTIONS) == {**states(dict(of_server(second))), **states(nc, connected=1)}

        second.start()
        await move(first, second)
        await exchange(1)
        result = collected(telemetry)
        assert result.of(SENT_BYTES) == result.of(RECEIVED_BYTES) == {of_server(first): 30, of_server(second): 10}
        assert result.of(SENT) == {publishes(first): 6, publishes(second): 2}
        assert result.of(RECONNECTS) == {of_server(first): 1, of_server(second): 2}

    async def test_is_not_held_to_account_for_what_the_one_before_did_when_it_is_read_at_that_moment(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect
    ):
        """Every collection during a move adds up to what the client has sent, whoever it is due to."""
        servers = [server_factory(), server_factory()]
        nc = await connect([each.url for each in servers], error_cb=quiet, max_reconnect_attempts=-1)
        servers.sort(key=lambda each: each.port != nc.connected_url.port)
        await nc.publish("subject", b"12345")
        servers[0].kill()
        while not (nc.is_connected and nc.stats["reconnects"]):
            assert sum(collected(telemetry).of(SENT_BYTES).values()) == 5
            assert sum(collected(telemetry).of(RECONNECTS).values()) == nc.stats["reconnects"]
            await asyncio.sleep(0)
        await nc.publish("subject", b"12345")
        assert collected(telemetry).of(SENT_BYTES) == {of_server(servers[0]): 5, of_server(servers[1]): 5}


class TestSlowConsumers:
    async def test_drops_are_counted_where_they_happen(self, telemetry: Telemetry, connect: Connect, unique: Unique):
        nc, publisher = await connect(error_cb=quiet), await connect()
        started, release = asyncio.Event(), asyncio.Event()
        handled: list[Any] = []

        async def slow(msg: Any) -> None:
            started.set()
            await release.wait()
            handled.append(msg)

        name = unique()
        subscription = await nc.subscribe(f"{name}.*", "workers", cb=slow, pending_msgs_limit=2)
        idle = await nc.subscribe(f"{name}-idle", pending_msgs_limit=3)
        await flush(nc)
        await publisher.publish(f"{name}.one", b"12345")
        await started.wait()
        for _ in range(9):
            await publisher.publish(f"{name}.one", b"12345")
        for _ in range(5):
            await publisher.publish(f"{name}-idle", b"1")
        await eventually(lambda: (subscription._received, idle._received) == (10, 5))

        result = collected(telemetry)
        assert result.of(DROPPED) == {
            dropped(nc, template=f"{name}.*", group="workers"): 7,
            dropped(nc, f"{name}-idle"): 2,
        }
        assert result.of(ASYNC_ERRORS) == {error_of(nc, "nats.errors.SlowConsumerError"): 9}
        assert result.of(PENDING_MESSAGES) == {of_server(nc): 5}
        assert result.of(PENDING_BYTES) == {of_server(nc): 13}

        release.set()
        await eventually(lambda: len(handled) == 3)
        result = collected(telemetry)
        consumed = messages(nc, "process", template=f"{name}.*", group="workers")
        assert result.of("messaging.client.consumed.messages") == {consumed: 3}
        assert result.of(PENDING_MESSAGES) == result.of(PENDING_BYTES) == {of_server(nc): 3}

    async def test_drops_by_the_limit_of_bytes_are_drops(self, telemetry: Telemetry, connect: Connect, unique: Unique):
        nc, subject = await connect(error_cb=quiet), unique()
        subscription = await nc.subscribe(subject, pending_bytes_limit=10)
        for _ in range(3):
            await nc.publish(subject, b"123456")
        await eventually(lambda: subscription._received == 3)
        result = collected(telemetry)
        assert result.of(DROPPED) == {dropped(nc, subject): 2}
        assert result.of(PENDING_MESSAGES) == {of_server(nc): 1}
        assert result.of(PENDING_BYTES) == {of_server(nc): 6}

    async def test_drops_of_an_inbox_have_no_destination(self, telemetry: Telemetry, connect: Connect):
        nc = await connect(error_cb=quiet)
        inbox = nc.new_inbox()
        subscription = await nc.subscribe(inbox, pending_msgs_limit=1)
        for _ in range(3):
            await nc.publish(inbox, b"")
        await eventually(lambda: subscription._received == 3)
        assert collected(telemetry).of(DROPPED) == {dropped(nc): 2}


class TestSubscriptions:
    async def test_are_those_of_the_application(self, telemetry: Telemetry, nc: Client, unique: Unique):
        def count() -> int:
            [(attributes, value)] = collected(telemetry).of(SUBSCRIPTIONS).items()
            assert attributes == of_server(nc)
            return value

        name = unique()
        js = nc.jetstream()
        await js.add_stream(name=name, subjects=[name])
        assert count() == 0, "the inbox of requests is none"

        await nc.subscribe(f"{name}-answer", cb=echo)
        await nc.request(f"{name}-answer", b"", timeout=5)
        await nc.request(f"{name}-answer", b"", timeout=5, old_style=True)
        assert count() == 1
        plain = await nc.subscribe(f"{name}-plain")
        pushed = await js.subscribe(name)
        await js.pull_subscribe(name, durable="worker")
        assert count() == 4
        bucket = await js.create_key_value(bucket=f"{name}-kv")
        await bucket.put("key", b"")
        with suppress(NoKeysError):  # by which nats-py before 2.6 says that it looked too early
            await bucket.history("key")
        watcher = await bucket.watchall()
        assert count() == 5
        await watcher.stop()
        await plain.unsubscribe()
        await pushed.unsubscribe()
        assert count() == 2
        await nc.close()
        assert count() == 0

    async def test_of_a_service_are_its_endpoints(self, telemetry: Telemetry, nc: Client, unique: Unique):
        micro = pytest.importorskip("nats.micro", reason="nats-py before 2.9 has no micro services")

        async def handler(request: Any) -> None:
            await request.respond(b"")

        name = unique()
        service = await micro.add_service(nc, name=name, version="1.0.0")
        assert collected(telemetry).of(SUBSCRIPTIONS) == {of_server(nc): 0}
        await service.add_endpoint(name="one", subject=f"{name}.one", handler=handler)
        await service.add_endpoint(name="two", subject=f"{name}.two", handler=handler)
        assert collected(telemetry).of(SUBSCRIPTIONS) == {of_server(nc): 2}
        await service.stop()

    async def test_made_before_instrumenting_are_seen_too(self, telemetry: Telemetry, connect: Connect, unique: Unique):
        telemetry.uninstrument()
        nc = await connect()
        subject = unique()
        subscription = await nc.subscribe(subject)
        telemetry.instrument()
        await nc.publish(subject, b"12")
        await eventually(lambda: subscription.pending_msgs)
        result = collected(telemetry)
        assert result.of(SUBSCRIPTIONS) == result.of(PENDING_MESSAGES) == {of_server(nc): 1}
        assert result.of(PENDING_BYTES) == {of_server(nc): 2}


class TestAsynchronousErrors:
    async def test_are_counted_by_type_and_reach_the_callback(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        class Unusual(Exception):
            pass

        reported: list[Exception] = []

        async def report(error: Exception) -> None:
            reported.append(error)

        async def failing(msg: Any) -> None:
            raise ValueError if msg.data else Unusual

        nc, subject = await connect(error_cb=report), unique()
        await nc.subscribe(subject, cb=failing)
        for payload in (b"1", b"", b"1"):
            await nc.publish(subject, payload)
        await eventually(lambda: len(reported) == 3)
        assert [type(error) for error in reported] == [ValueError, Unusual, ValueError]
        assert collected(telemetry).of(ASYNC_ERRORS) == {
            error_of(nc, "ValueError"): 2,
            error_of(nc, f"{__name__}.{Unusual.__qualname__}"): 1,
        }

    async def test_of_reconnecting_are_counted_as_the_callback_gets_them(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect
    ):
        reported: Counter[str] = Counter()

        async def report(error: Exception) -> None:
            name = type(error).__qualname__
            reported[name if type(error).__module__ == "builtins" else f"{type(error).__module__}.{name}"] += 1

        killed = server_factory()
        nc = await connect(killed, error_cb=report, max_reconnect_attempts=-1)
        killed.kill()
        await eventually(lambda: reported["ConnectionRefusedError"] >= 2)
        assert collected(telemetry).of(ASYNC_ERRORS) == {error_of(nc, name): count for name, count in reported.items()}

    async def test_that_the_server_reports_are_counted(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect
    ):
        reported: list[Exception] = []

        async def report(error: Exception) -> None:
            reported.append(error)

        guarded = server_factory(
            'authorization { users: [ { user: a, password: b, permissions: { publish: "ok" } } ] }'
        )
        nc = await connect(guarded, user="a", password="b", error_cb=report)
        await nc.publish("denied", b"")
        await eventually(lambda: reported)
        assert isinstance(reported[0], Error)
        assert not isinstance(reported[0], SlowConsumerError)
        assert collected(telemetry).of(ASYNC_ERRORS) == {error_of(nc, "nats.errors.Error"): 1}
