# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What is secret stays out of telemetry and log lines, whatever slip a program makes.

That nothing planted gets out is looked for after every test, see `support.planted`; what is asserted here is that what
happened is told all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import MsgAlreadyAckdError
from nats.js import JetStreamContext

from opentelemetry.instrumentation.nats import _faults
from support.planted import PASSWORD, PAYLOAD, PLANTED, PlantedInLogs, nothing_found
from support.server import NatsServer
from support.spans import assert_span
from support.telemetry import Telemetry
from support.waiting import eventually, flush
from support.wire import Wire

Connect = Callable[..., Awaitable[Client]]
Unique = Callable[[str], str]

SEED = "SUAIBDPBAUTWCWBKIO6XHQNK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"
PUBLIC_KEY = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"  # of nobody
CREDENTIALS = (
    f"-----BEGIN NATS USER JWT-----\neyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.{PLANTED}.{PLANTED}\n"
    f"------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
)


def texts(telemetry: Telemetry) -> str:
    """All that the spans would export."""
    return " ".join(
        str(
            (
                span.name,
                span.status.description,
                dict(span.attributes),
                [dict(event.attributes) for event in span.events],
            )
        )
        for span in telemetry.spans()
    )


QUICK = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0.01}


async def in_vain(url: str, **options: Any) -> BaseException:
    """Connects, and returns what it fails with."""
    client = Client()
    with pytest.raises(BaseException) as caught:  # noqa: B017, PT011 (nats-py's or nkeys', whatever it is)
        await asyncio.wait_for(client.connect(url, **{**QUICK, **options}), 5)
    with contextlib.suppress(Exception):
        await client.close()
    if client._transport:
        client._transport.close()
        with contextlib.suppress(OSError):
            await client._transport.wait_closed()
    return caught.value


class TestConnecting:
    @pytest.mark.parametrize(
        "options",
        [
            {"nkeys_seed": SEED},
            {"nkeys_seed": f"/{PLANTED}/{SEED}"},
            {"nkeys_seed_str": f"{SEED}{PLANTED}"},
            {"nkeys_seed_str": PLANTED},
            {"user_credentials": CREDENTIALS},
            {"user_credentials": (CREDENTIALS, PLANTED)},
            {"user_credentials": f"/tmp/{PLANTED}.creds"},
        ],
        ids=lambda options: repr(options)[:40],
    )
    async def test_with_a_secret_where_a_path_is_wanted_exports_none(
        self,
        telemetry: Telemetry,
        server_factory: Callable[..., NatsServer],
        options: dict[str, Any],
        caplog: pytest.LogCaptureFixture,
    ):
        # A server that asks for a signature: without that question nats-py does not look at what it should sign with.
        server = server_factory(f"authorization {{ users: [ {{ nkey: {PUBLIC_KEY} }} ] }}", jetstream=False)
        await in_vain(server.url, **options)
        (span,) = telemetry.spans()
        assert span.attributes["error.type"]
        assert SEED not in texts(telemetry)
        assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]

    @pytest.mark.parametrize(
        "url",
        [
            f"nats://user:{PLANTED}/more@127.0.0.1:1",
            f"nats://user:{PLANTED}#more@127.0.0.1:1",
            f"nats://user:{PLANTED}?more@127.0.0.1:1",
            f"nats://user:{PLANTED} more@127.0.0.1:1",
            f"nats://user:{PLANTED}[more@127.0.0.1:1",
            f"nats://user:{PLANTED}\u2100@127.0.0.1:1",
            f"nats://{PLANTED}@127.0.0.1:99999",
            f"nats://user:{PLANTED}@[127.0.0.1]:1",
            f"user:{PLANTED}@127.0.0.1:1",
            f"nats://user:{PLANTED}@127.0.0.1:1",
        ],
    )
    async def test_to_a_url_with_a_stray_character_exports_no_part_of_the_password(
        self, telemetry: Telemetry, url: str, caplog: pytest.LogCaptureFixture
    ):
        await in_vain(url, connect_timeout=1)
        (span,) = telemetry.spans()
        assert span.attributes["error.type"]
        assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]

    async def test_refused_for_its_password_says_so(
        self, telemetry: Telemetry, server_factory: Callable[..., NatsServer]
    ):
        server = server_factory(f"authorization {{ user: a, password: {PASSWORD} }}", jetstream=False)
        await in_vain(server.url, user="a", password=f"{PASSWORD}x")
        (span,) = telemetry.spans()
        assert span.status.description == "nats: 'Authorization Violation'"


class TestExceptionsOfHandlers:
    @pytest.mark.parametrize(
        "text",
        [
            f"cannot reach nats://user:{PLANTED}@host",
            f"cannot log in with password={PLANTED}",
            f"cannot decode {PAYLOAD!r}",
            f"Authorization: Bearer {PLANTED}",
            CREDENTIALS,
        ],
        ids=lambda text: text[:25],
    )
    async def test_are_told_without_what_they_quote(
        self, telemetry: Telemetry, connect: Connect, wire: Wire, unique: Unique, text: str
    ):
        failed = asyncio.Event()

        async def error_cb(_: Exception) -> None:
            failed.set()

        async def handler(msg: Any) -> None:
            try:
                raise KeyError(msg)
            except KeyError:
                raise ValueError(text) from None if "log in" in text else ValueError(text)

        nc = await connect(error_cb=error_cb)
        subject = unique("orders")
        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        await wire.publish(subject, PAYLOAD, headers=f"X-Tenant: {PLANTED}\r\n".encode())
        await asyncio.wait_for(failed.wait(), 5)
        (span,) = await telemetry.wait_for(f"process {subject}")
        (event,) = span.events
        assert event.name == "exception"
        assert set(event.attributes) == {"exception.type", "exception.message", "exception.stacktrace"}
        assert event.attributes["exception.type"] == "ValueError"
        assert event.attributes["exception.message"] == span.status.description
        assert "raise ValueError(text) from None" in event.attributes["exception.stacktrace"]

    async def test_chained_to_a_message_show_no_payload(
        self, telemetry: Telemetry, connect: Connect, wire: Wire, unique: Unique
    ):
        failed = asyncio.Event()

        async def error_cb(_: Exception) -> None:
            failed.set()

        async def handler(msg: Any) -> None:
            try:
                raise MsgAlreadyAckdError(msg)
            except MsgAlreadyAckdError as error:
                raise LookupError(f"{msg}") from error

        nc = await connect(error_cb=error_cb)
        subject = unique("orders")
        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        await wire.publish(subject, PAYLOAD)
        await asyncio.wait_for(failed.wait(), 5)
        (span,) = await telemetry.wait_for(f"process {subject}")
        assert "nats: message was already acknowledged" in span.events[0].attributes["exception.stacktrace"]

    async def test_settling_twice_show_no_payload(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique
    ):
        subject = unique("orders")
        await js.add_stream(name=subject, subjects=[subject])
        await js.publish(subject, PAYLOAD, headers={"Authorization": f"Bearer {PLANTED}"})
        (msg,) = await (await js.pull_subscribe(subject, "worker")).fetch(1, timeout=5)
        await msg.ack()
        with pytest.raises(MsgAlreadyAckdError):
            await msg.ack()
        (span,) = [span for span in telemetry.named(f"ack {subject}") if span.status.description]
        assert span.status.description == "nats: message was already acknowledged"

    async def test_of_a_service_show_nothing_either(self, telemetry: Telemetry, nc: Client, unique: Unique, wire: Wire):
        micro = pytest.importorskip("nats.micro")
        from nats.micro.request import ServiceError  # noqa: PLC0415 (older releases of nats-py have none)

        name = unique("prices")

        async def handler(request: Any) -> None:
            if request.data == b"1":
                raise ServiceError("400", f"bad token={PLANTED}")
            if request.data == b"2":
                await request.respond_error("400", f"cannot parse {PAYLOAD!r}")
                return
            raise ValueError(f"nats://user:{PLANTED}@host")

        service = await micro.add_service(nc, name=name, version="1.0.0")
        await service.add_endpoint(name="price", subject=name, handler=handler)
        for payload in (b"1", b"2", b"3"):
            await nc.request(name, payload, timeout=5)
        await telemetry.wait_for(lambda _: len(telemetry.named(f"process {name}")) == 3)
        told = [span.attributes["messaging.nats.service.error"] for span in telemetry.named(f"process {name}")]
        assert told == ["bad token=[REDACTED]", "cannot parse b'...'", "ValueError('nats://host')"]
        await service.stop()


class TestLogLines:
    async def test_of_a_fault_show_nothing_that_the_fault_quotes(
        self,
        telemetry: Telemetry,
        nc: Client,
        unique: Unique,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ):
        monkeypatch.setattr(_faults, "raise_faults", False)
        monkeypatch.setattr(_faults, "_reported", set())

        def hook(_: Any, message: Any) -> None:
            raise ValueError(f"cannot look at {message} of nats://user:{PLANTED}@host and {PAYLOAD!r}")

        telemetry.instrument(publish_hook=hook)
        await nc.publish(unique("orders"), PAYLOAD)
        (record,) = [record for record in caplog.records if record.name == _faults.__name__]
        assert record.exc_info
        assert "in hook" in caplog.text
        assert "nats://host" in caplog.text


class TestTheScan:
    """A check that can't fail is none."""

    async def test_finds_what_is_planted_in_spans(self, telemetry: Telemetry, nc: Client, unique: Unique):
        def hook(span: Any, _: Any) -> None:
            span.set_attribute("payload", PAYLOAD.decode())

        telemetry.instrument(publish_hook=hook)
        with (
            pytest.raises(AssertionError, match="the span 'publish .*': pl4nted payload"),
            nothing_found(),
        ):
            await nc.publish(unique("orders"), PAYLOAD)

    async def test_finds_what_no_exporter_can_write(self, telemetry: Telemetry):
        with pytest.raises(AssertionError, match="no UTF-8"), nothing_found():
            with telemetry.tracer.start_as_current_span("test") as span:
                span.set_attribute("text", "\ud800")

    @pytest.mark.parametrize("how", ["message", "argument", "exception"])
    def test_finds_what_is_planted_in_log_lines(self, how: str):
        logger = logging.getLogger("opentelemetry.test")
        with pytest.raises(AssertionError, match="a line of the logger 'opentelemetry.test'"), nothing_found():
            try:
                raise ValueError(PLANTED if how == "exception" else "nothing")
            except ValueError:
                args = [PLANTED] if how == "argument" else []
                logger.warning("%s" if args else PLANTED if how == "message" else "", *args, exc_info=True)

    def test_looks_at_all_loggers(self):
        assert any(isinstance(handler, PlantedInLogs) for handler in logging.getLogger().handlers)

    async def test_finds_what_is_planted_in_metrics(self, telemetry: Telemetry):
        counter = telemetry.meter_provider.get_meter("test").create_counter("test")
        counter.add(1, {"subject": PLANTED})
        with pytest.raises(AssertionError, match="the metric 'test'"), nothing_found():
            telemetry.look_at_metrics()
        telemetry.looks_at_metrics = False


async def test_a_whole_program_shows_nothing(telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
    subject, onward = unique("orders"), unique("onward")
    got: list[bytes] = []

    async def handler(msg: Any) -> None:
        got.append(msg.data)
        await nc.publish(onward, msg.data, headers={"Authorization": PLANTED})

    await nc.subscribe(subject, cb=handler)
    await flush(nc)
    await wire.publish(subject, PAYLOAD, headers=f"X-Password: {PLANTED}\r\n".encode())
    await eventually(lambda: got == [PAYLOAD])
    (span,) = await telemetry.wait_for(f"process {subject}")
    assert_span(span, parent=None, links=[])
