# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What stands in nats-py's classes: whoever looks a method up, and however, finds the one that it should."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from opentelemetry.instrumentation.nats import OutgoingMessage
from opentelemetry.trace import Span
from support.core import Connect, Unique
from support.faults import FAULTS_MODULE
from support.server import NatsServer
from support.spans import assert_span
from support.telemetry import Telemetry
from support.waiting import flush

Call = Callable[..., Any]


class TestAMockThatCallsOurs:
    """A test of the user's that spies on a method: what it calls was looked up outside of any call, and runs inside."""

    @staticmethod
    def spy(owner: Any, name: str) -> AsyncMock:
        spy = AsyncMock(side_effect=getattr(owner, name))
        setattr(owner, name, spy)
        return spy

    @pytest.mark.parametrize("name", ["publish", "request"])
    async def test_in_a_jetstream_publish(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique, name: str
    ):
        stream = unique("orders")
        await js.add_stream(name=stream, subjects=[stream])
        telemetry.clear()
        spy = self.spy(nc, name)
        await js.publish(stream, b"order")
        assert spy.await_count == 1
        [span] = telemetry.spans()
        assert span.name == f"publish {stream}"
        stored = await js.get_msg(stream, 1)
        assert stored.headers is not None and span.context is not None
        assert stored.headers["traceparent"].split("-")[2] == f"{span.context.span_id:016x}"

    async def test_in_a_request(self, telemetry: Telemetry, connect: Connect, nc: Client, unique: Unique):
        subject = unique("orders")
        replies: list[str] = []

        async def answer(msg: Msg) -> None:
            replies.append(msg.reply)
            await msg.respond(b"")

        other = await connect()
        await other.subscribe(subject, cb=answer)
        await flush(other)
        telemetry.clear()
        spy = self.spy(nc, "publish")
        await nc.request(subject, b"order")
        assert spy.await_count == 1
        request = telemetry.span(f"request {subject}")
        assert request.attributes is not None
        assert request.attributes["messaging.message.conversation_id"] == replies[0]
        assert telemetry.named(f"publish {subject}") == []

    async def test_in_a_put(self, telemetry: Telemetry, js: JetStreamContext, unique: Unique):
        bucket = unique("greetings")
        kv = await js.create_key_value(bucket=bucket)
        telemetry.clear()
        spy = self.spy(js, "publish")
        await kv.put("greeting", b"hello")
        assert spy.await_count == 1
        assert [span.name for span in telemetry.spans()] == [f"kv.put {bucket}"]

    async def test_in_a_get(self, telemetry: Telemetry, js: JetStreamContext, unique: Unique):
        bucket = unique("greetings")
        kv = await js.create_key_value(bucket=bucket)
        await kv.put("greeting", b"hello")
        spy = self.spy(js, "get_msg")
        await kv.get("greeting")
        assert spy.await_count == 1
        assert_span(telemetry.span(f"kv.get {bucket}"), links=[telemetry.span(f"kv.put {bucket}")])
        assert telemetry.named(f"get_msg KV_{bucket}") == []

    async def test_in_a_fetch(self, telemetry: Telemetry, js: JetStreamContext, unique: Unique):
        stream = unique("orders")
        await js.add_stream(name=stream, subjects=[stream])
        subscription = await js.pull_subscribe(stream, "worker")
        assert subscription._sub is not None
        spy = self.spy(subscription._sub, "next_msg")
        for _ in range(3):
            await js.publish(stream, b"order")
        telemetry.clear()
        assert len(await subscription.fetch(3)) == 3
        assert spy.await_count == 3
        assert subscription._sub.__dict__["next_msg"] is spy
        assert [span.name for span in telemetry.spans()] == [f"receive {stream}"]


class TestCalledOnTheClass:
    @pytest.mark.parametrize(
        "method",
        [lambda: Client.publish, lambda: Client.__dict__["publish"]],
        ids=["by attribute", "by dictionary"],
    )
    async def test_it_is_traced(self, telemetry: Telemetry, nc: Client, unique: Unique, method: Callable[[], Call]):
        subject = unique("orders")
        await method()(nc, subject, b"order")
        assert [span.name for span in telemetry.spans()] == [f"publish {subject}"]

    async def test_it_is_silent_inside_of_a_call(self, telemetry: Telemetry, nats_server: NatsServer, unique: Unique):
        subject = unique("orders")

        class Unbound(Client):
            async def publish(self, *args: Any, **kwargs: Any) -> None:
                await Client.publish(self, *args, **kwargs)

        nc = Unbound()
        await nc.connect(nats_server.url)
        telemetry.clear()
        with pytest.raises(Exception, match="no responders"):
            await nc.request(subject, b"order")
        await nc.close()
        assert [span.name for span in telemetry.spans()] == [f"request {subject}"]


class TestAfterACall:
    async def test_that_failed_nothing_is_silent(self, telemetry: Telemetry, js: JetStreamContext, unique: Unique):
        """JetStream's `next_msg` asks the core one, and is marked for as long as it waits."""
        stream = unique("orders")
        await js.add_stream(name=stream, subjects=[stream])
        subscription = await js.subscribe(stream)
        telemetry.clear()
        with pytest.raises(nats.errors.TimeoutError):
            await subscription.next_msg(timeout=0.01)
        await js.publish(stream, b"order")
        assert [span.name for span in telemetry.spans()] == [f"publish {stream}"]

    async def test_another_instrument_call_counts(self, telemetry: Telemetry, js: JetStreamContext, unique: Unique):
        stream = unique("orders")
        await js.add_stream(name=stream, subjects=[stream])
        await js.publish(stream, b"order")
        telemetry.uninstrument()
        telemetry.instrument(excluded_subjects=[stream])
        telemetry.clear()
        await js.publish(stream, b"order")
        assert telemetry.spans() == []


class TestTheProgramsCode:
    """What it calls is its own, though nats-py is in the middle of a call."""

    async def test_in_a_hook_is_outside_of_the_call(
        self, telemetry: Telemetry, js: JetStreamContext, nc: Client, unique: Unique
    ):
        stream = unique("orders")
        await js.add_stream(name=stream, subjects=[stream])
        audits: list[asyncio.Task[None]] = []

        def audit(span: Span, message: OutgoingMessage) -> None:
            if message.subject == stream:
                audits.append(asyncio.ensure_future(nc.publish(f"audit.{stream}", b"")))

        telemetry.uninstrument()
        telemetry.instrument(publish_hook=audit)
        telemetry.clear()
        await js.publish(stream, b"order")
        await asyncio.gather(*audits)
        assert sorted(span.name for span in telemetry.spans()) == [f"publish audit.{stream}", f"publish {stream}"]

    async def test_in_an_error_callback_is_outside(self, telemetry: Telemetry, nats_server: NatsServer, unique: Unique):
        stream = unique("orders")

        class Complaining(Client):
            async def request(self, *args: Any, **kwargs: Any) -> Msg:
                await self._error_cb(RuntimeError("slow"))
                return await super().request(*args, **kwargs)

        async def audit(_: Exception) -> None:
            await nc.publish(f"audit.{stream}", b"")

        nc = Complaining()
        await nc.connect(nats_server.url, error_cb=audit)
        js = nc.jetstream()
        await js.add_stream(name=stream, subjects=[stream])
        telemetry.clear()
        await js.publish(stream, b"order")
        names = [span.name for span in telemetry.spans()]
        await js.delete_stream(stream)
        await nc.close()
        assert sorted(names) == [f"publish audit.{stream}", f"publish {stream}"]


class TestWhatWasThereBeforeUs:
    async def test_parameters_that_we_do_not_know_are_passed_on(
        self, telemetry: Telemetry, nc: Client, unique: Unique, monkeypatch: pytest.MonkeyPatch
    ):
        """As from a later nats-py, whose methods give each other more."""
        telemetry.uninstrument()
        subject = unique("orders")
        urgent: list[Any] = []
        publish, request = Client.publish, Client.request

        async def later_publish(self: Client, *args: Any, urgency: int = 0, **kwargs: Any) -> None:
            urgent.append(urgency)
            await publish(self, *args, **kwargs)

        async def later_request(self: Client, subject: str, payload: bytes = b"", **kwargs: Any) -> Msg:
            await self.publish(subject, payload, "", None, urgency=5)
            return await request(self, subject, payload, **kwargs)

        monkeypatch.setattr(Client, "publish", later_publish)
        monkeypatch.setattr(Client, "request", later_request)
        telemetry.instrument()
        with pytest.raises(Exception, match="no responders"):
            await nc.request(subject, b"order", timeout=5)
        telemetry.uninstrument()
        assert urgent == [5, 0]
        assert [span.name for span in telemetry.spans()] == [f"request {subject}"]


class TestAKeptMethod:
    async def test_is_traced_as_long_as_nats_py_is_instrumented(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        publish = nc.publish
        await publish(subject, b"")
        assert [span.name for span in telemetry.spans()] == [f"publish {subject}"]
        telemetry.uninstrument()
        await publish(subject, b"")
        assert len(telemetry.spans()) == 1


class TestAFaultAtTheStart:
    @pytest.mark.parametrize("error", [TypeError("ours"), ValueError("ours")], ids=["type error", "other"])
    async def test_is_reported_and_the_call_is_made(
        self,
        telemetry: Telemetry,
        nc: Client,
        js: JetStreamContext,
        unique: Unique,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
    ):
        """Also a `TypeError`, which at the start could be the user's: nats-py would take these arguments."""
        stream = unique("orders")
        await js.add_stream(name=stream, subjects=[stream])
        telemetry.clear()

        def fail(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(f"{FAULTS_MODULE}.raise_faults", False)
        monkeypatch.setattr(f"{FAULTS_MODULE}._reported", set())
        monkeypatch.setattr("opentelemetry.instrumentation.nats._patches.jetstream.prototype_of", fail)
        ack = await js.publish(stream, b"order")
        assert ack.seq == 1
        assert telemetry.spans() == []
        assert len([record for record in caplog.records if record.name == FAULTS_MODULE]) == 1
