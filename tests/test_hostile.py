# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a stranger can do who may publish: from a raw socket, by headers, subjects and reply subjects alone."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client

from opentelemetry.instrumentation.nats._attributes import parse_ack_subject
from support.server import NatsServer
from support.spans import REMOTE, assert_span
from support.telemetry import Telemetry
from support.waiting import eventually, flush
from support.wire import Wire

Connect = Callable[..., Awaitable[Client]]
ServerFactory = Callable[..., NatsServer]
Unique = Callable[[str], str]

TRACEPARENT = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def block(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "surrogateescape")


class TestAnAnswerAtTheServersLimit:
    """The server counts headers, and closes the connection of whoever goes past `max_payload`."""

    @pytest.mark.parametrize("size", [4096, 4090, 4015, 4014, 4013, 3000])
    @pytest.mark.parametrize(
        "lines",
        [
            [TRACEPARENT],
            [TRACEPARENT, "tracestate: vendor=x", "baggage: tenant=acme"],
            [TRACEPARENT.replace("traceparent", "Traceparent")],
            [TRACEPARENT.replace("traceparent", "Xraceparent"), "Nats-Trace-Dest: trace disabled"],
            [TRACEPARENT, "Nats-Trace-Dest: _R_.abc.def", "Nats-Trace-Hop: 1", "Nats-Trace-Origin-Account: A"],
            ["baggage: tenant=acme"],
            ["traceparent: garbage"],
        ],
        ids=lambda lines: ",".join(line.partition(":")[0] for line in lines),
    )
    async def test_gets_through_whatever_the_requester_sent(
        self,
        telemetry: Telemetry,
        server_factory: ServerFactory,
        connect: Connect,
        unique: Unique,
        lines: list[str],
        size: int,
    ):
        server = server_factory("max_payload: 4096")
        nc = await connect(server, allow_reconnect=False)
        prices = unique("prices")

        async def handler(msg: Any) -> None:
            await msg.respond(b"x" * size)

        await nc.subscribe(prices, cb=handler)
        await flush(nc)
        async with Wire(server.url) as wire:
            await wire.subscribe("answers")
            await wire.publish(prices, headers=block(*lines), reply="answers")
            frame = await wire.frame()
        assert frame.payload == b"x" * size
        assert nc.is_connected
        (reply,) = await telemetry.wait_for("reply")
        sent = [line.partition(":")[0] for line in frame.header_lines]
        if size > 4014:
            assert sent == []
        elif size <= 4014 - (len("tracestate: vendor=x\r\n") if len(lines) > 1 and "tracestate" in lines[1] else 0):
            assert sent[0] == "traceparent"
            assert f"{reply.context.span_id:016x}" in frame.header_lines[0]
        assert not any(name.startswith("Nats-Trace") for name in sent)

    async def test_of_a_service_gets_through(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect, unique: Unique
    ):
        if importlib.util.find_spec("nats.micro") is None:
            pytest.skip("this nats-py has no services")
        micro = importlib.import_module("nats.micro")
        server = server_factory("max_payload: 4096")
        nc = await connect(server, allow_reconnect=False)
        prices = unique("prices")

        async def handler(request: Any) -> None:
            await request.respond(b"x" * 4090, headers=request.headers)

        service = await micro.add_service(nc, name=prices, version="1.0.0")
        await service.add_endpoint(name="price", subject=prices, handler=handler)
        await flush(nc)
        async with Wire(server.url) as wire:
            await wire.subscribe("answers")
            await wire.publish(prices, headers=block(TRACEPARENT), reply="answers")
            assert (await wire.frame()).payload == b"x" * 4090
        assert nc.is_connected
        await service.stop()

    async def test_keeps_what_the_program_would_have_echoed_anyway(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect, unique: Unique
    ):
        server = server_factory("max_payload: 4096")
        nc = await connect(server, allow_reconnect=False)
        prices = unique("prices")

        async def handler(msg: Any) -> None:
            await msg.respond(b"x" * 4050)

        await nc.subscribe(prices, cb=handler)
        await flush(nc)
        async with Wire(server.url) as wire:
            await wire.subscribe("answers")
            await wire.publish(prices, headers=block(TRACEPARENT, "X-Tenant: a"), reply="answers")
            assert (await wire.frame()).header_lines == ["X-Tenant: a"]

    async def test_loses_its_baggage_before_its_context(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect, unique: Unique
    ):
        server = server_factory("max_payload: 4096")
        nc = await connect(server, allow_reconnect=False)
        prices = unique("prices")

        async def handler(msg: Any) -> None:
            await msg.respond(b"x" * 3900)

        await nc.subscribe(prices, cb=handler)
        await flush(nc)
        async with Wire(server.url) as wire:
            await wire.subscribe("answers")
            baggage = f"baggage: tenant={'a' * 150}"
            await wire.publish(prices, headers=block(TRACEPARENT, baggage), reply="answers")
            lines = (await wire.frame()).header_lines
        assert [line.partition(":")[0] for line in lines] == ["traceparent"]


BLANKS = " " * 8180
COSTLY: dict[str, list[str]] = {
    "blanks in baggage": [TRACEPARENT, f"baggage: a=1{BLANKS}b"],
    "blanks between entries": [TRACEPARENT, f"baggage: a=1{BLANKS[:4000]},{BLANKS[:4000]}b=2"],
    "tabs in baggage": [TRACEPARENT, f"baggage: a=1{BLANKS.replace(' ', chr(9))}b"],
    "commas": [TRACEPARENT, f"baggage: {',' * 8190}"],
    "many bad entries": [TRACEPARENT, f"baggage: {'a,' * 4095}"],
    "many good entries": [TRACEPARENT, "baggage: " + ",".join(f"k{number}=1" for number in range(1000))],
    "entries that are no ASCII": [TRACEPARENT, f"baggage: {'é=1,' * 1600}"],
    "too much": [TRACEPARENT, f"baggage: a={'b' * 100_000}"],
    "properties": [TRACEPARENT, f"baggage: a=1{';b' * 4000}"],
    "blanks in tracestate": [TRACEPARENT, f"tracestate: a=1{BLANKS}b"],
    "blanks between members": [TRACEPARENT, f"tracestate: a=1{BLANKS[:4000]},{BLANKS[:4000]}b=2"],
    "bad members": [TRACEPARENT, f"tracestate: {'A=1,' * 2000}"],
    "many members": [TRACEPARENT, "tracestate: " + ",".join(f"k{number}=1" for number in range(1000))],
    "members twice": [TRACEPARENT, "tracestate: " + "k=1," * 31],
    "a long tracestate": [TRACEPARENT, f"tracestate: a={'b' * 100_000}"],
    "blanks behind the flags": [f"{TRACEPARENT.replace(' 00-', ' cc-')}-{BLANKS}x"],
    "a line break behind blanks": [f"{TRACEPARENT.replace(' 00-', ' cc-')}-{BLANKS}\nx"],
    "a long traceparent": [f"traceparent: {'0' * 100_000}"],
    "a status": [f"Status: {'4' * 100_000}"],
    "a long id": [TRACEPARENT, f"Nats-Msg-Id: {'x' * 100_000}"],
    "an error": [f"Nats-Service-Error: {'passwd: ' * 10_000}", "Nats-Service-Error-Code: 1"],
}


class TestNothingThatARemoteSends:
    @pytest.mark.parametrize("lines", COSTLY.values(), ids=COSTLY)
    async def test_costs_more_than_ten_ordinary_messages_or_writes_into_the_log(
        self,
        telemetry: Telemetry,
        nc: Client,
        wire: Wire,
        unique: Unique,
        caplog: pytest.LogCaptureFixture,
        lines: list[str],
    ):
        subject, onward = unique("orders"), unique("onward")
        times: list[float] = []

        async def handler(msg: Any) -> None:
            await nc.publish(onward)

        await nc.subscribe(subject, cb=handler)
        await flush(nc)

        async def cost(headers: bytes) -> float:
            times.clear()
            for _ in range(5):
                telemetry.clear()
                started = time.process_time()
                for _ in range(10):
                    await wire.publish(subject, headers=headers)
                await telemetry.wait_for(lambda spans: len(spans) == 20)
                times.append(time.process_time() - started)
            return min(times)

        ordinary = await cost(block(TRACEPARENT))
        assert await cost(block(*lines)) < 10 * ordinary
        assert [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")] == []

    async def test_stays_in_memory(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        subject = unique("orders")
        got = 0

        async def handler(msg: Any) -> None:
            nonlocal got
            got += 1

        await nc.subscribe(subject, cb=handler)
        await nc.subscribe(f"{subject}.>", cb=handler)
        await flush(nc)

        async def send(count: int) -> None:
            nonlocal got
            got = 0
            for number in range(count):
                long = f"{number:x}" + "n" * 200_000
                await wire.publish(subject, headers=block(TRACEPARENT, f"{long}: 1"))
                await wire.publish(subject, headers=block(TRACEPARENT, f"Nats-{long}: 1"))
                await wire.publish(subject, headers=block(TRACEPARENT, f"Nats-Msg-Id: {long}"))
                await wire.publish(subject, headers=block(f"baggage: {long[:8000]}=1"))
                await wire.publish(f"{subject}.{long[:2000]}", reply=f"answers.{long[:1000]}")
            await eventually(lambda: got == 5 * count, 30)
            telemetry.clear()
            gc.collect()

        await send(3)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await send(60)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 2_000_000

    async def test_makes_an_attribute_long(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await flush(nc)
        await wire.publish(subject, headers=block(TRACEPARENT, f"Nats-Msg-Id: {'x' * 300_000}"))
        await sub.next_msg(5)
        (span,) = await telemetry.wait_for(f"receive {subject}")
        assert len(span.attributes["messaging.message.id"]) == 1024
        assert span.attributes["messaging.message.id"].endswith("...[300000 characters]")


class TestAcknowledgementSubjects:
    @pytest.mark.parametrize(
        "reply",
        [
            "$JS.ACK.s.c.99999999999999999999.1.1.1.1",
            "$JS.ACK.s.c.1.9223372036854775808.1.1.1",
            "$JS.ACK.s.c.1.1.1.1.-1",
            "$JS.ACK.s.c.1.1.1.1.-9223372036854775809",
            f"$JS.ACK.s.c.{'9' * 900}.1.1.1.1",
            f"$JS.ACK.{'s' * 2000}.c.1.1.1.1.1",
            "$JS.ACK.s.c.1.x.1.1.1",
            "$JS.ACK.s",
            "$JS.ACK.",
            f"$JS.ACK{'.1' * 1000}",
        ],
    )
    def test_that_somebody_made_up_are_none(self, reply: str):
        """Servers let no client publish with such a reply subject; other servers, and bridges, may."""
        assert parse_ack_subject(reply) is None


class TestStatus:
    @pytest.mark.parametrize(
        "lines",
        [
            ["Status: shipped"],
            ["Status: 200"],
            ["Status: 404", "X-Order: 1"],
            ["Status: 404", TRACEPARENT],
            ["Status: 4040"],
            ["Status: ٤٠٤"],
            ["Status:"],
        ],
    )
    async def test_that_a_program_wrote_is_a_header(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, lines: list[str]
    ):
        subject = unique("orders")
        got: list[Any] = []

        async def handler(msg: Any) -> None:
            got.append(msg)

        await nc.subscribe(subject, cb=handler)
        taken = await nc.subscribe(subject)
        looped = await nc.subscribe(subject)
        await flush(nc)
        await wire.publish(subject, headers=block(*lines))
        await taken.next_msg(5)
        async for _ in looped.messages:
            break
        await telemetry.wait_for(3)
        assert sorted(span.name.partition(" ")[0] for span in telemetry.spans()) == ["process", "process", "receive"]

    @pytest.mark.parametrize("status", ["100 Idle Heartbeat", "404 No Messages", "408", "409 Consumer Deleted", "503"])
    async def test_of_the_server_is_no_message(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, status: str
    ):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        seen: list[Any] = []

        async def handler(msg: Any) -> None:
            seen.append(msg)

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        telemetry.clear()
        head = f"NATS/1.0 {status}\r\n\r\n".encode()
        await wire.send(f"HPUB {subject} {len(head)} {len(head)}\r\n".encode() + head + b"\r\n")
        await sub.next_msg(5)
        await eventually(lambda: seen)
        assert telemetry.spans() == []


HOSTILE_HEADERS = [f"x-{number}: {'v' * 5000}" for number in range(200)]
SECRET_NAMES = ["x-auth", "x-credential", "x-passwd", "x-pwd", "x-jwt", "x-session-id", "x-signature", "x-bearer"]


class TestCapturedHeaders:
    @pytest.mark.instrument(headers_included=["x-*"])
    async def test_leave_room_for_our_own_attributes(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await flush(nc)
        await wire.publish(subject, headers=block(*HOSTILE_HEADERS, "x-" + "n" * 5000 + ": 1"))
        await sub.next_msg(5)
        (span,) = await telemetry.wait_for(f"receive {subject}")
        captured = {name: value for name, value in span.attributes.items() if name.startswith("messaging.header.")}
        assert len(captured) == 32
        assert all(len(name) < 200 and len(value[0]) == 1024 for name, value in captured.items())
        assert span.attributes["messaging.system"] == "nats"
        assert span.attributes["messaging.destination.name"] == subject
        assert span.dropped_attributes == 0

    @pytest.mark.instrument(headers_included=["*"])
    async def test_with_secret_names_are_redacted(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await flush(nc)
        lines = [f"{name}: pl4nted" for name in SECRET_NAMES] + ["x-url: nats://u:pl4nted@host"]
        await wire.publish(subject, headers=block(*lines))
        await sub.next_msg(5)
        (span,) = await telemetry.wait_for(f"receive {subject}")
        assert span.attributes["messaging.header.x-url"] == ("nats://host",)
        for name in SECRET_NAMES:
            assert span.attributes[f"messaging.header.{name}"] == ("[REDACTED]",)


class TestARemoteContext:
    async def test_is_followed(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        subject = unique("orders")
        await nc.subscribe(subject, cb=_ignore)
        await flush(nc)
        await wire.publish(subject, headers=block(TRACEPARENT))
        (span,) = await telemetry.wait_for(f"process {subject}")
        assert_span(span, parent=REMOTE, links=[REMOTE])

    @pytest.mark.instrument(use_span_links=True)
    async def test_is_only_linked_to_where_that_is_wanted(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject = unique("orders")
        await nc.subscribe(subject, cb=_ignore)
        await flush(nc)
        await wire.publish(subject, headers=block(TRACEPARENT))
        (span,) = await telemetry.wait_for(f"process {subject}")
        assert_span(span, parent=None, links=[REMOTE])


async def _ignore(_: Any) -> None:
    await asyncio.sleep(0)
