# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Programs test themselves, and nats-py itself, with fakes of a client below nats-py's own classes: no server here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY, AsyncMock, MagicMock, Mock, create_autospec, patch

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from opentelemetry.trace import SpanKind, StatusCode
from support.spans import assert_span
from support.telemetry import Telemetry

FAKES: dict[str, Callable[[], Any]] = {
    "mock": lambda: Mock(is_closed=False),
    "magic mock": lambda: MagicMock(is_closed=False),
    "autospec": lambda: create_autospec(Client, instance=True, is_closed=False),
    "namespace": lambda: SimpleNamespace(is_closed=False),
}

PUBLISHED = {
    "messaging.system": "nats",
    "messaging.operation.name": "publish",
    "messaging.operation.type": "send",
    "messaging.destination.name": "orders",
    "messaging.message.body.size": 1,
    "messaging.message.id": "ORDERS:4",
    "messaging.nats.jetstream.stream": "ORDERS",
    "messaging.nats.jetstream.sequence": 4,
}


@pytest.fixture(params=FAKES.values(), ids=FAKES.keys())
def client(request: pytest.FixtureRequest) -> Any:
    fake = request.param()
    fake.publish = AsyncMock()
    fake.request = AsyncMock()
    return fake


def _deliver(subscription: Subscription, data: bytes) -> None:
    subscription._pending_queue.put_nowait(Msg(subscription._conn, subject="orders", data=data))
    subscription._pending_size += len(data)


class TestAFakeOfAClient:
    async def test_publishes_to_a_stream(self, telemetry: Telemetry, client: Any):
        client.request.return_value = Msg(client, data=json.dumps({"stream": "ORDERS", "seq": 4}).encode())
        ack = await JetStreamContext(client).publish("orders", b"1")
        assert ack.seq == 4
        assert_span(telemetry.span("publish orders"), kind=SpanKind.PRODUCER, attributes=PUBLISHED, parent=None)

    async def test_is_given_what_it_would_be_given(self, telemetry: Telemetry, client: Any):
        await Msg(client, subject="orders", reply="$JS.ACK.ORDERS.c.1.1.1.1700000000000000000.0").ack()
        client.publish.assert_awaited_once_with("$JS.ACK.ORDERS.c.1.1.1.1700000000000000000.0")
        assert telemetry.span("ack orders")

    async def test_has_callbacks(self, telemetry: Telemetry, client: Any):
        handled = asyncio.Event()

        async def handle(_: Msg) -> None:
            handled.set()

        subscription = Subscription(client, id=1, subject="orders", cb=handle)
        _deliver(subscription, b"1")
        subscription._start(AsyncMock())
        await asyncio.wait_for(handled.wait(), 5)
        await telemetry.wait_for("process orders")
        subscription._stop_processing()

    async def test_has_messages_to_wait_for(self, telemetry: Telemetry, client: Any):
        subscription = Subscription(client, id=1, subject="orders")
        _deliver(subscription, b"1")
        assert (await subscription.next_msg(timeout=5)).data == b"1"
        assert telemetry.span("receive orders")

    async def test_has_nothing_to_fetch(self, telemetry: Telemetry, client: Any):
        core = Subscription(client, subject="_INBOX.1")
        js = SimpleNamespace(_nc=client, _prefix="$JS.API")
        subscription = JetStreamContext.PullSubscription(js, core, "ORDERS", "c", b"_INBOX.1")
        with pytest.raises(nats.errors.TimeoutError):
            await subscription.fetch(timeout=0.05)
        assert telemetry.spans() == []

    async def test_is_in_no_metric_but_those_of_its_calls(self, telemetry: Telemetry, client: Any):
        client.request.return_value = Msg(client, data=json.dumps({"stream": "ORDERS", "seq": 4}).encode())
        await JetStreamContext(client).publish("orders", b"1")
        assert list(telemetry.metric("messaging.client.sent.messages").values()) == [1]
        assert not any(telemetry.metric("nats.client.connections").values())


class TestAFakeOfJetStream:
    @pytest.fixture
    def kv(self) -> KeyValue:
        # Without the client that a real one has.
        js = SimpleNamespace(publish=AsyncMock(return_value=SimpleNamespace(seq=7)), _timeout=1)
        return KeyValue(name="config", stream="KV_config", pre="$KV.config.", js=js, direct=False)  # type: ignore[arg-type]

    async def test_takes_what_is_put(self, telemetry: Telemetry, kv: KeyValue):
        assert await kv.put("key", b"1") == 7
        assert_span(
            telemetry.span("kv.put config"),
            kind=SpanKind.PRODUCER,
            attributes={
                "messaging.system": "nats",
                "messaging.operation.name": "kv.put",
                "messaging.operation.type": "send",
                "messaging.destination.name": "config",
                "messaging.nats.kv.key": "key",
                "messaging.nats.kv.operation": "put",
                "messaging.nats.kv.revision": 7,
            },
        )

    async def test_fails_as_it_would(self, telemetry: Telemetry, kv: KeyValue):
        with pytest.raises(AttributeError):
            await kv.status()
        assert_span(telemetry.span("kv.status config"), status=(StatusCode.ERROR, ANY), events=["exception"])

    async def test_feeds_a_watcher(self, telemetry: Telemetry, kv: KeyValue):
        watcher = KeyValue.KeyWatcher(kv)
        entry = KeyValue.Entry("config", "key", b"1", 7, 0, None, None)
        await watcher._updates.put(entry)
        assert await watcher.updates() is entry
        assert telemetry.span("receive config")


class TestAMock:
    async def test_takes_the_place_of_a_loop_s_step(self, telemetry: Telemetry):
        subscription = Subscription(Mock(is_closed=False), id=1, subject="orders")
        subscription._start(AsyncMock())
        error = RuntimeError("broken step")
        with patch.object(type(subscription.messages), "__anext__", side_effect=error):
            with pytest.raises(RuntimeError) as raised:
                async for _ in subscription.messages:
                    pass
        assert raised.value is error
