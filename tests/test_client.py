# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.aio.client.Client` and `Msg.respond`: one call, one span; what nats-py does and raises stays as it is."""

from __future__ import annotations

import asyncio
import inspect
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import nats
import pytest
import trustme
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import Header

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode
from support.core import (
    ANONYMOUS,
    Connect,
    Inbox,
    ServerFactory,
    Unique,
    echo,
    process_attributes,
    reply_attributes,
    send_attributes,
)
from support.patched import PATCHED
from support.server import NatsServer
from support.spans import assert_span, connection_attributes
from support.telemetry import Telemetry
from support.waiting import eventually, flush

CLOSED_PORT = "127.0.0.1:1"
# One quick attempt, and one more.
IMPATIENT = {"reconnect_time_wait": 0.01, "max_reconnect_attempts": 1, "connect_timeout": 1}

Style = pytest.mark.parametrize("old_style", [False, True], ids=["new-style", "old-style"])


def record(span: ReadableSpan) -> str:
    """All that a backend gets of a span."""
    return json.dumps(json.loads(span.to_json()) | {"status_description": span.status.description})


@contextmanager
def uninstrumented(telemetry: Telemetry) -> Iterator[None]:
    telemetry.uninstrument()
    yield
    telemetry.instrument()


class TestConnect:
    @pytest.mark.parametrize("connect", [nats.connect, None], ids=["nats.connect", "Client.connect"])
    async def test_is_a_client_span_named_after_the_server(
        self, telemetry: Telemetry, nats_server: NatsServer, connect: Callable[..., Awaitable[Client]] | None
    ):
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            if connect is not None:
                nc = await connect(nats_server.url)
            else:
                nc = Client()
                await nc.connect(servers=[nats_server.url])
        attributes = connection_attributes(nc)
        await nc.close()

        assert_span(
            telemetry.span(f"connect 127.0.0.1:{nats_server.port}"),
            kind=SpanKind.CLIENT,
            attributes={**attributes, "messaging.operation.name": "connect"},
            parent=ambient,
            links=(),
        )
        assert len(telemetry.spans()) == 2

    async def test_tells_the_server_as_the_program_named_it(self, telemetry: Telemetry, nats_server: NatsServer):
        nc = await nats.connect(f"nats://localhost:{nats_server.port}")
        await nc.close()
        span = telemetry.span(f"connect localhost:{nats_server.port}")
        assert span.attributes["server.address"] == "localhost"
        assert span.attributes["network.peer.address"] == "127.0.0.1"

    async def test_by_tls_that_is_aborted_is_read_without_a_fault(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect, tmp_path: Path
    ):
        authority, key = trustme.CA(), tmp_path / "server.pem"
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(key)
        server = server_factory(f'tls {{ cert_file: "{key}", key_file: "{key}" }}')
        context = ssl.create_default_context()
        authority.configure_trust(context)
        nc = await connect(f"tls://localhost:{server.port}", tls=context)
        nc._transport._io_writer.transport.abort()
        await eventually(lambda: not nc.is_connected)
        telemetry.instrument()  # so that the state of the connection is read anew
        await nc.publish("orders", b"")
        await eventually(lambda: nc.stats["reconnects"] == 1 and nc.is_connected)
        await nc.publish("orders", b"")
        assert telemetry.named("publish orders")[1].attributes["network.peer.address"] == "127.0.0.1"

    async def test_that_reaches_nobody_is_an_error(self, telemetry: Telemetry):
        with pytest.raises(nats.errors.NoServersError):
            await nats.connect(f"nats://{CLOSED_PORT}", **IMPATIENT)
        [span] = telemetry.spans()
        assert_span(
            span,
            name=f"connect {CLOSED_PORT}",
            kind=SpanKind.CLIENT,
            attributes={
                "messaging.system": "nats",
                "messaging.operation.name": "connect",
                "server.address": "127.0.0.1",
                "server.port": 1,
                "error.type": "nats.errors.NoServersError",
            },
            parent=None,
            status=(StatusCode.ERROR, "nats: no servers available for connection"),
        )

    async def test_names_the_server_that_it_reached_of_several(self, telemetry: Telemetry, nats_server: NatsServer):
        nc = await nats.connect([f"nats://{CLOSED_PORT}", nats_server.url], dont_randomize=True, **IMPATIENT)
        attributes = connection_attributes(nc)
        await nc.close()
        [span] = telemetry.spans()
        assert_span(
            span,
            name=f"connect 127.0.0.1:{nats_server.port}",
            attributes={**attributes, "messaging.operation.name": "connect"},
        )

    async def test_names_one_of_several_servers_when_it_reached_none(self, telemetry: Telemetry):
        with pytest.raises(nats.errors.NoServersError):
            await nats.connect([f"nats://{CLOSED_PORT}", "nats://127.0.0.1:2"], **IMPATIENT)
        [span] = telemetry.spans()
        assert span.name in (f"connect {CLOSED_PORT}", "connect 127.0.0.1:2")
        assert span.status.status_code is StatusCode.ERROR

    @pytest.mark.parametrize("servers", ["nats://", "nats://ann:sec/ret@127.0.0.1:4222", 5])
    async def test_to_what_is_no_server_raises_what_nats_py_raises(self, telemetry: Telemetry, servers: Any):
        with uninstrumented(telemetry), pytest.raises(Exception) as plain:  # noqa: B017
            await nats.connect(servers, **IMPATIENT)
        with pytest.raises(type(plain.value)) as traced:
            await nats.connect(servers, **IMPATIENT)
        assert str(traced.value) == str(plain.value)
        [span] = telemetry.spans()
        assert span.status.status_code is StatusCode.ERROR
        assert "ret" not in record(span).replace("parent", "")

    async def test_with_a_callback_that_is_no_coroutine_raises_what_nats_py_raises(
        self, telemetry: Telemetry, nats_server: NatsServer
    ):
        with pytest.raises(nats.errors.InvalidCallbackTypeError):
            await nats.connect(nats_server.url, error_cb=print)
        assert_span(
            telemetry.span("connect"),
            attributes={
                "messaging.system": "nats",
                "messaging.operation.name": "connect",
                "error.type": "nats.errors.InvalidCallbackTypeError",
            },
            status=(StatusCode.ERROR, "nats: callbacks must be coroutine functions"),
        )

    async def test_that_is_cancelled_ends_its_span_without_a_status(self, telemetry: Telemetry):
        tried = asyncio.Event()

        async def error_cb(_: Exception) -> None:
            tried.set()

        task = asyncio.create_task(nats.connect(f"nats://{CLOSED_PORT}", error_cb=error_cb, reconnect_time_wait=60))
        await tried.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        [span] = telemetry.spans()
        assert_span(span, name=f"connect {CLOSED_PORT}", status=StatusCode.UNSET)

    async def test_as_a_context_manager_makes_one_span(self, telemetry: Telemetry, nats_server: NatsServer):
        async with await nats.connect(nats_server.url) as nc:
            await flush(nc)
            await nc.rtt() if hasattr(nc, "rtt") else None
        assert [span.name for span in telemetry.spans()] == [f"connect 127.0.0.1:{nats_server.port}"]

    async def test_again_in_the_background_makes_no_span_but_renews_the_attributes(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect, unique: Unique
    ):
        server = server_factory(jetstream=False)
        other = await connect(server)  # so that the ids of the client differ
        nc = await connect(server)
        subject, before = unique("orders"), nc.client_id
        await other.close()
        telemetry.clear()
        server.restart()
        await eventually(lambda: nc.stats["reconnects"] == 1 and nc.is_connected)

        await nc.publish(subject, b"")
        assert nc.client_id != before
        [span] = telemetry.spans()
        assert_span(span, attributes=send_attributes(nc, "publish", subject, 0))


class TestCredentials:
    CONFIG = """
        accounts { A { users: [ { user: ann, password: verysecret } ] } }
    """

    def assert_untold(self, telemetry: Telemetry) -> None:
        told = "".join(map(record, telemetry.spans()))
        told += "".join(str(metric.data.to_json()) for metric in telemetry.metrics().values())
        assert told
        assert "secret" not in told
        assert "ann" not in told.replace("channel", "")

    async def test_in_the_url_are_in_no_span_and_no_metric(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect
    ):
        server = server_factory(self.CONFIG, jetstream=False)
        nc = await connect(f"nats://ann:verysecret@127.0.0.1:{server.port}")
        await nc.subscribe("ping", cb=echo)
        await nc.publish("pub", b"")
        await nc.request("ping", b"", timeout=5)
        await telemetry.wait_for(5)
        assert telemetry.span(f"connect 127.0.0.1:{server.port}").attributes["server.address"] == "127.0.0.1"
        self.assert_untold(telemetry)

    @pytest.mark.parametrize("allow_reconnect", [False, True])
    async def test_that_are_wrong_are_an_error_that_does_not_tell_them(
        self, telemetry: Telemetry, server_factory: ServerFactory, allow_reconnect: bool
    ):
        server = server_factory(self.CONFIG, jetstream=False)
        nc = Client()
        with pytest.raises(nats.errors.Error) as raised:
            await nc.connect(
                f"nats://ann:not-the-verysecret@127.0.0.1:{server.port}", allow_reconnect=allow_reconnect, **IMPATIENT
            )
        await self.close(nc)
        [span] = telemetry.spans()
        assert span.name == f"connect 127.0.0.1:{server.port}"
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, str(raised.value))
        assert not span.events
        self.assert_untold(telemetry)

    async def test_in_the_url_of_an_unreachable_server_are_not_told(self, telemetry: Telemetry):
        with pytest.raises(nats.errors.NoServersError):
            await nats.connect(f"nats://ann:very@secret@{CLOSED_PORT}", **IMPATIENT)
        assert telemetry.span(f"connect {CLOSED_PORT}").status.status_code is StatusCode.ERROR
        self.assert_untold(telemetry)

    @pytest.mark.parametrize(
        "url", ["nats://ann:verysecret@host:1", "nats://ann:very@secret@host:1", "tls://verysecret@host"]
    )
    async def test_in_the_text_of_an_error_are_cut_out(
        self, telemetry: Telemetry, nc: Client, unique: Unique, url: str
    ):
        class Picky(Client):
            async def _select_next_server(self) -> None:
                raise RuntimeError(f"can't reach {url}, sorry")

        with pytest.raises(RuntimeError, match="secret"):
            await Picky().connect(url)
        [span] = telemetry.spans()
        host = url.rpartition("@")[2]
        assert span.status.description == f"can't reach {url.partition('//')[0]}//{host}, sorry"
        assert not span.events
        self.assert_untold(telemetry)

    @staticmethod
    async def close(nc: Client) -> None:
        await nc.close()
        if nc._transport:
            nc._transport.close()
            try:
                await nc._transport.wait_closed()
            except OSError:
                pass


class TestPublish:
    async def test_is_one_producer_span_with_these_attributes(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await nc.publish(subject, b"12345")
        assert_span(
            telemetry.span(f"publish {subject}"),
            kind=SpanKind.PRODUCER,
            attributes=send_attributes(nc, "publish", subject, 5),
            parent=ambient,
            links=(),
        )
        assert len(telemetry.spans()) == 2

    async def test_is_named_after_the_template_of_a_subject_with_an_id(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        word = unique("orders")
        await nc.publish(f"{word}.8812.created", b"")
        [span] = telemetry.spans()
        assert_span(
            span,
            name=f"publish {word}.*.created",
            attributes=send_attributes(nc, "publish", f"{word}.8812.created", 0, template=f"{word}.*.created"),
            parent=None,
        )

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            (("{s}", b"data", "answers.here", {"a": "b"}), {}),
            (("{s}", b"data", "answers.here"), {"headers": {"a": "b"}}),
            (("{s}", b"data"), {"reply": "answers.here", "headers": {"a": "b"}}),
            (("{s}",), {"payload": b"data", "reply": "answers.here", "headers": {"a": "b"}}),
            ((), {"headers": {"a": "b"}, "reply": "answers.here", "payload": b"data", "subject": "{s}"}),
        ],
        ids=lambda value: f"{len(value)}-positional" if isinstance(value, tuple) else "",
    )
    async def test_takes_every_argument_by_position_and_by_keyword(
        self, telemetry: Telemetry, nc: Client, unique: Unique, args: tuple[Any, ...], kwargs: dict[str, Any]
    ):
        subject = unique("orders")
        inbox = Inbox()
        await nc.subscribe(subject, cb=inbox.take)
        await nc.publish(
            *[subject if value == "{s}" else value for value in args],
            **{name: subject if value == "{s}" else value for name, value in kwargs.items()},
        )
        msg = await inbox.next()
        assert (msg.subject, msg.data, msg.reply) == (subject, b"data", "answers.here")
        assert msg.headers["a"] == "b"
        assert_span(
            telemetry.span(f"publish {subject}"),
            attributes=send_attributes(nc, "publish", subject, 4, conversation="answers.here"),
        )

    async def test_without_payload_is_a_message_of_no_bytes(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        await nc.publish(subject)
        assert_span(telemetry.span(f"publish {subject}"), attributes=send_attributes(nc, "publish", subject, 0))

    @pytest.mark.parametrize("payload", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
    async def test_takes_any_bytes(self, telemetry: Telemetry, nc: Client, unique: Unique, payload: Any):
        subject = unique("orders")
        inbox = Inbox()
        await nc.subscribe(subject, cb=inbox.take)
        await nc.publish(subject, payload)
        assert (await inbox.next()).data == b"abc"
        assert telemetry.span(f"publish {subject}").attributes["messaging.message.body.size"] == 3

    @pytest.mark.parametrize("name", ["Nats-Msg-Id", Header.MSG_ID])
    async def test_has_the_message_id_of_its_header(self, telemetry: Telemetry, nc: Client, unique: Unique, name: str):
        subject = unique("orders")
        await nc.publish(subject, b"", headers={name: "id-1"})
        assert_span(
            telemetry.span(f"publish {subject}"), attributes=send_attributes(nc, "publish", subject, 0, id="id-1")
        )

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            ((), {}),
            ((5,), {}),
            ((None,), {}),
            (("",), {}),
            (("a b",), {}),
            (("ok", None), {}),
            (("ok", "text"), {}),
            (("ok", 5), {}),
            (("ok", b"", None), {}),
            (("ok", b"", "", ["a"]), {}),
            (("ok", b"", "", 5), {}),
            (("ok", b""), {"headers": {"a": 5}}),
            (("ok", b""), {"headers": {5: "a"}}),
            (("ok", b""), {"headers": {"a": ["b"]}}),
            (("ok", b""), {"headers": {"a:b": "c"}}),
            (("ok", b"", "", None, "too many"), {}),
            (("ok",), {"unknown": 1}),
            (("ok",), {"subject": "twice"}),
        ],
        ids=repr,
    )
    async def test_does_with_bad_arguments_what_nats_py_does(
        self, telemetry: Telemetry, nc: Client, args: tuple[Any, ...], kwargs: dict[str, Any]
    ):
        async def outcome() -> str:
            sent = dict(nc.stats)
            try:
                await nc.publish(*args, **kwargs)
            except Exception as error:
                return repr(error)
            await flush(nc)
            return (
                f"sent {nc.stats['out_msgs'] - sent['out_msgs']} of {nc.stats['out_bytes'] - sent['out_bytes']} bytes"
            )

        with uninstrumented(telemetry):
            expected = await outcome()
        assert await outcome() == expected
        assert nc.is_connected

    async def test_on_a_closed_connection_is_an_error(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        attributes = send_attributes(nc, "publish", subject, 0, error="nats.errors.ConnectionClosedError")
        await nc.close()
        with pytest.raises(nats.errors.ConnectionClosedError):
            await nc.publish(subject)
        [span] = telemetry.spans()
        assert_span(
            span,
            name=f"publish {subject}",
            kind=SpanKind.PRODUCER,
            attributes=attributes,
            status=(StatusCode.ERROR, "nats: connection closed"),
            events=["exception"],
        )

    async def test_over_the_maximum_is_an_error_and_keeps_the_connection(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect
    ):
        nc = await connect(server_factory("max_payload: 1024", jetstream=False))
        inbox = Inbox()
        await nc.subscribe("orders", cb=inbox.take)
        with pytest.raises(nats.errors.MaxPayloadError):
            await nc.publish("orders", b"x" * 1025)
        assert_span(
            telemetry.span("publish orders"),
            attributes=send_attributes(nc, "publish", "orders", 1025, error="nats.errors.MaxPayloadError"),
            status=(StatusCode.ERROR, "nats: maximum payload exceeded"),
            events=["exception"],
        )
        # At the limit it still works, which it would not with headers.
        await nc.publish("orders", b"x" * 1024)
        assert len((await inbox.next()).data) == 1024
        assert nc.is_connected

    async def test_while_reconnecting_is_buffered_and_traced(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect
    ):
        server = server_factory(jetstream=False)
        nc = await connect(server)
        inbox = Inbox()
        await nc.subscribe("orders", cb=inbox.take)
        await flush(nc)
        attributes = send_attributes(nc, "publish", "orders", 4)
        server.stop()
        await eventually(lambda: nc.is_reconnecting)
        await nc.publish("orders", b"late")
        publish = telemetry.span("publish orders")
        assert_span(publish, kind=SpanKind.PRODUCER, attributes=attributes)

        server.start()
        assert (await inbox.next()).data == b"late"
        await telemetry.wait_for("process orders")
        assert_span(telemetry.span("process orders"), parent=publish, links=[publish])

    async def test_while_reconnecting_without_a_buffer_is_an_error(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect
    ):
        server = server_factory(jetstream=False)
        nc = await connect(server, pending_size=0)
        server.stop()
        await eventually(lambda: nc.is_reconnecting)
        with pytest.raises(nats.errors.OutboundBufferLimitError):
            await nc.publish("orders", b"late")
        assert_span(
            telemetry.span("publish orders"),
            status=(StatusCode.ERROR, "nats: outbound buffer limit exceeded"),
            events=["exception"],
        )

    @pytest.mark.parametrize(
        "subject",
        [
            "$SRV.PING",
            "$SRV.INFO.svc",
            "$JS.API.CONSUMER.MSG.NEXT.S.C",
            "$JS.hub.API.CONSUMER.MSG.NEXT.S.C",
            "$JS.FC.S.C.x",
        ],
    )
    async def test_to_plumbing_makes_no_span_and_no_headers(self, telemetry: Telemetry, nc: Client, subject: str):
        received = Inbox()
        telemetry.uninstrument()
        await nc.subscribe(subject, cb=received.take)
        telemetry.instrument()
        await nc.publish(subject, b"{}")
        assert (await received.next()).headers is None
        assert not telemetry.spans()

    async def test_to_an_acknowledgement_subject_is_an_anonymous_reply_without_headers(
        self, telemetry: Telemetry, nc: Client
    ):
        subject = "$JS.ACK.S.C.1.2.3.1700000000000000000.0"
        received = Inbox()
        await nc.subscribe("$JS.ACK.S.C.>", cb=received.take)
        await nc.publish(subject, b"+ACK")
        assert (await received.next()).headers is None
        assert_span(
            telemetry.span("reply"),
            kind=SpanKind.PRODUCER,
            attributes=reply_attributes(nc, subject, 4),
            parent=None,
        )


class TestReply:
    async def test_by_respond_is_a_producer_span_without_a_name(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("questions")

        async def answer(msg: Msg) -> None:
            await msg.respond(b"pong!")

        await nc.subscribe(subject, cb=answer)
        msg = await nc.request(subject, b"ping", timeout=5)
        await telemetry.wait_for(3)
        assert_span(
            telemetry.span("reply"),
            kind=SpanKind.PRODUCER,
            attributes=reply_attributes(nc, msg.subject, 5),
            parent=telemetry.span(f"process {subject}"),
            links=(),
        )
        assert len(telemetry.spans()) == 3

    async def test_by_respond_takes_its_argument_by_keyword(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("questions")

        async def answer(msg: Msg) -> None:
            await msg.respond(data=b"pong!")

        await nc.subscribe(subject, cb=answer)
        assert (await nc.request(subject, b"", timeout=5)).data == b"pong!"
        assert telemetry.span("reply").attributes["messaging.message.body.size"] == 5

    async def test_without_a_reply_subject_raises_what_nats_py_raises(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique("events")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        msg = await sub.next_msg()
        with pytest.raises(nats.errors.Error, match="no reply subject available"):
            await msg.respond(b"")
        assert not telemetry.named("reply")

    async def test_on_a_closed_connection_is_an_error(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("questions")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"", reply="answers")
        msg = await sub.next_msg()
        await nc.close()
        with pytest.raises(nats.errors.ConnectionClosedError):
            await msg.respond(b"late")
        assert_span(
            telemetry.span("reply"),
            kind=SpanKind.PRODUCER,
            parent=telemetry.span(f"receive {subject}"),
            status=(StatusCode.ERROR, "nats: connection closed"),
            events=["exception"],
        )

    async def test_by_publish_to_an_inbox_is_the_same(self, telemetry: Telemetry, nc: Client, connect: Connect):
        other = await connect()
        inbox, foreign = nc.new_inbox(), other.new_inbox()
        telemetry.clear()
        await nc.publish(inbox, b"12")
        await nc.publish(foreign, b"123")
        mine, theirs = telemetry.spans()
        for span, subject, size in ((mine, inbox, 2), (theirs, foreign, 3)):
            assert_span(
                span, name="reply", kind=SpanKind.PRODUCER, attributes=reply_attributes(nc, subject, size), parent=None
            )

    @pytest.mark.parametrize("how", ["callback", "loop", "respond"])
    async def test_to_a_requester_with_an_inbox_prefix_of_its_own_is_anonymous_too(
        self, telemetry: Telemetry, nc: Client, connect: Connect, unique: Unique, how: str
    ):
        requester = await connect(inbox_prefix="mine.alone")
        subject = unique("questions")
        telemetry.clear()

        async def answer(msg: Msg) -> None:
            await (msg.respond(b"!") if how == "respond" else nc.publish(msg.reply, b"!"))

        async def loop() -> None:
            async for msg in sub.messages:
                await answer(msg)
                break

        sub = await nc.subscribe(subject, **({} if how == "loop" else {"cb": answer}))
        task = asyncio.create_task(loop()) if how == "loop" else None
        await flush(nc)
        msg = await requester.request(subject, b"", timeout=5)
        if task is not None:
            await task
        await telemetry.wait_for(3)
        assert msg.subject.startswith("mine.alone.")
        process = telemetry.span(f"process {subject}")
        assert_span(
            process,
            kind=SpanKind.CONSUMER,
            attributes=process_attributes(nc, subject, 0, conversation=msg.subject),
            parent=telemetry.span(f"request {subject}"),
        )
        assert_span(
            telemetry.span("reply"),
            kind=SpanKind.PRODUCER,
            attributes=reply_attributes(nc, msg.subject, 1),
            parent=process,
        )
        assert len(telemetry.spans()) == 3

    async def test_never_enters_a_metric(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("questions")
        await nc.subscribe(subject, cb=echo)
        for _ in range(5):
            await nc.request(subject, b"", timeout=5)
        await telemetry.wait_for(15)
        replies = [
            dict(attributes)
            for attributes in telemetry.metric("messaging.client.operation.duration")
            if dict(attributes)["messaging.operation.name"] == "reply"
        ]
        assert len(replies) == 1
        assert not [name for name in replies[0] if name.startswith("messaging.destination")]


class TestRequest:
    @Style
    async def test_is_one_client_span_and_the_answer_stays_in_its_trace(
        self, telemetry: Telemetry, nc: Client, unique: Unique, old_style: bool
    ):
        subject = unique("questions")
        await nc.subscribe(subject, cb=echo)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            msg = await nc.request(subject, b"ping", timeout=5, old_style=old_style)
        await telemetry.wait_for(4)
        request, process, reply = telemetry.spans()[1:]
        assert msg.data == b"ping"
        assert_span(
            request,
            name=f"request {subject}",
            kind=SpanKind.CLIENT,
            attributes=send_attributes(nc, "request", subject, 4, conversation=msg.subject, answer=4),
            parent=ambient,
            links=(),
        )
        assert_span(
            process,
            name=f"process {subject}",
            kind=SpanKind.CONSUMER,
            attributes=process_attributes(nc, subject, 4, conversation=msg.subject),
            parent=request,
            links=[request],
        )
        assert_span(reply, name="reply", attributes=reply_attributes(nc, msg.subject, 4), parent=process, links=())
        assert len(telemetry.spans()) == 4

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            (("{s}", b"data", 5, False, {"a": "b"}), {}),
            (("{s}", b"data", 5), {"headers": {"a": "b"}}),
            (("{s}", b"data"), {"old_style": False, "timeout": 5, "headers": {"a": "b"}}),
            (("{s}",), {"payload": b"data", "timeout": 5, "headers": {"a": "b"}}),
            ((), {"headers": {"a": "b"}, "timeout": 5, "payload": b"data", "subject": "{s}"}),
        ],
        ids=lambda value: f"{len(value)}-positional" if isinstance(value, tuple) else "",
    )
    async def test_takes_every_argument_by_position_and_by_keyword(
        self, telemetry: Telemetry, nc: Client, unique: Unique, args: tuple[Any, ...], kwargs: dict[str, Any]
    ):
        subject = unique("questions")
        asked: list[Msg] = []

        async def answer(msg: Msg) -> None:
            asked.append(msg)
            await msg.respond(b"answer")

        await nc.subscribe(subject, cb=answer)
        msg = await nc.request(
            *[subject if value == "{s}" else value for value in args],
            **{name: subject if value == "{s}" else value for name, value in kwargs.items()},
        )
        assert (asked[0].subject, asked[0].data, asked[0].headers["a"]) == (subject, b"data", "b")
        assert_span(
            telemetry.span(f"request {subject}"),
            attributes=send_attributes(nc, "request", subject, 4, conversation=msg.subject, answer=6),
        )

    async def test_in_the_old_style_still_drops_its_headers(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("questions")
        asked: list[Msg] = []

        async def answer(msg: Msg) -> None:
            asked.append(msg)
            await msg.respond(b"")

        await nc.subscribe(subject, cb=answer)
        msg = await nc.request(subject, b"", 5, True, {"a": "b", "Nats-Msg-Id": "id"})
        assert list(asked[0].headers) == ["traceparent"]
        assert_span(
            telemetry.span(f"request {subject}"),
            attributes=send_attributes(nc, "request", subject, 0, conversation=msg.subject, answer=0),
        )

    @Style
    async def test_that_nobody_answers_is_an_error_without_a_stack_trace(
        self, telemetry: Telemetry, nc: Client, unique: Unique, old_style: bool
    ):
        subject = unique("questions")
        sub = await nc.subscribe(subject)
        with pytest.raises(nats.errors.TimeoutError):
            await nc.request(subject, b"", timeout=0.01, old_style=old_style)
        [request] = telemetry.spans()
        asked = await sub.next_msg()
        assert_span(
            request,
            name=f"request {subject}",
            kind=SpanKind.CLIENT,
            attributes=send_attributes(
                nc, "request", subject, 0, conversation=asked.reply, error="nats.errors.TimeoutError"
            ),
            status=(StatusCode.ERROR, "nats: timeout"),
        )

    @Style
    async def test_that_nobody_can_answer_is_an_error_without_a_stack_trace(
        self, telemetry: Telemetry, nc: Client, unique: Unique, old_style: bool
    ):
        subject = unique("questions")
        with pytest.raises(nats.errors.NoRespondersError):
            await nc.request(subject, b"", timeout=5, old_style=old_style)
        [request] = telemetry.spans()
        assert_span(
            request,
            name=f"request {subject}",
            kind=SpanKind.CLIENT,
            attributes=send_attributes(
                nc, "request", subject, 0, conversation=ANY, error="nats.errors.NoRespondersError"
            ),
            status=(StatusCode.ERROR, "nats: no responders available for request"),
        )

    @Style
    async def test_on_a_closed_connection_is_an_error(
        self, telemetry: Telemetry, nc: Client, unique: Unique, old_style: bool
    ):
        await nc.close()
        with pytest.raises(nats.errors.ConnectionClosedError):
            await nc.request(unique("questions"), b"", old_style=old_style)
        [request] = telemetry.spans()
        assert_span(request, status=(StatusCode.ERROR, "nats: connection closed"), events=["exception"])

    async def test_over_the_maximum_is_an_error(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect
    ):
        nc = await connect(server_factory("max_payload: 1024", jetstream=False))
        with pytest.raises(nats.errors.MaxPayloadError):
            await nc.request("questions", b"x" * 1025)
        assert_span(
            telemetry.span("request questions"),
            kind=SpanKind.CLIENT,
            status=(StatusCode.ERROR, "nats: maximum payload exceeded"),
            events=["exception"],
        )

    @Style
    async def test_that_is_cancelled_ends_its_span_without_a_status(
        self, telemetry: Telemetry, nc: Client, unique: Unique, old_style: bool
    ):
        subject = unique("questions")
        asked = Inbox()
        await nc.subscribe(subject, cb=asked.take)
        task = asyncio.create_task(nc.request(subject, b"", timeout=60, old_style=old_style))
        msg = await asked.next()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_span(
            telemetry.span(f"request {subject}"),
            attributes=send_attributes(nc, "request", subject, 0, conversation=msg.reply),
            status=StatusCode.UNSET,
        )

    async def test_to_an_inbox_has_no_name(self, telemetry: Telemetry, nc: Client):
        inbox = nc.new_inbox()
        await nc.subscribe(inbox, cb=echo)
        msg = await nc.request(inbox, b"", timeout=5)
        assert_span(
            telemetry.span("request"),
            attributes=send_attributes(nc, "request", inbox, 0, conversation=msg.subject, answer=0) | ANONYMOUS,
        )
        await telemetry.wait_for("process")
        assert_span(telemetry.span("process"), parent=telemetry.span("request"))

    async def test_of_the_services_directory_makes_no_spans(self, telemetry: Telemetry, nc: Client):
        with pytest.raises(nats.errors.NoRespondersError):
            await nc.request("$SRV.PING.nobody", b"", timeout=5)
        assert not telemetry.spans()

    async def test_of_the_jetstream_api_by_hand_is_a_request_without_headers(self, telemetry: Telemetry, nc: Client):
        msg = await nc.request("$JS.API.INFO", b"", timeout=5)
        assert "error" not in json.loads(msg.data)
        [request] = telemetry.spans()
        assert_span(
            request,
            name="request $JS.API.INFO",
            attributes=send_attributes(
                nc, "request", "$JS.API.INFO", 0, conversation=msg.subject, answer=len(msg.data)
            ),
        )

    async def test_answered_with_a_service_error_is_an_error(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("questions")

        async def refuse(msg: Msg) -> None:
            await nc.publish(
                msg.reply, b"", headers={"Nats-Service-Error": "no such order", "Nats-Service-Error-Code": "404"}
            )

        await nc.subscribe(subject, cb=refuse)
        msg = await nc.request(subject, b"", timeout=5)
        assert_span(
            telemetry.span(f"request {subject}"),
            attributes=send_attributes(nc, "request", subject, 0, conversation=msg.subject, answer=0, error="404")
            | {"messaging.nats.service.error": "no such order", "messaging.nats.service.error_code": "404"},
            status=(StatusCode.ERROR, "no such order"),
        )

    async def test_many_at_once_keep_their_traces_apart(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("questions")

        async def answer(msg: Msg) -> None:
            await msg.respond(msg.data)

        await nc.subscribe(subject, cb=answer)
        answers = await asyncio.gather(*(nc.request(subject, b"%d" % n, timeout=5) for n in range(20)))
        assert [msg.data for msg in answers] == [b"%d" % n for n in range(20)]
        await telemetry.wait_for(60)
        requests = {span.context.span_id: span for span in telemetry.named(f"request {subject}")}
        processes = {span.context.span_id: span for span in telemetry.named(f"process {subject}")}
        replies = telemetry.named("reply")
        assert len({span.context.trace_id for span in requests.values()}) == 20
        conversation = "messaging.message.conversation_id"
        for reply in replies:
            process = processes.pop(reply.parent.span_id)
            request = requests.pop(process.parent.span_id)
            assert (
                request.attributes[conversation] == process.attributes[conversation] == reply.attributes[conversation]
            )
        assert not requests and not processes


def _word(number: int) -> str:
    return "".join(chr(ord("g") + int(digit)) for digit in f"{number:04}")


class TestManySubjects:
    async def test_with_ids_share_one_span_name_and_one_series(self, telemetry: Telemetry, nc: Client, unique: Unique):
        word = unique("orders")
        for number in range(500):
            await nc.publish(f"{word}.{number}.created", b"")
        spans = telemetry.spans()
        assert {span.name for span in spans} == {f"publish {word}.*.created"}
        assert len({span.attributes["messaging.destination.name"] for span in spans}) == 500
        [series] = telemetry.metric("messaging.client.sent.messages").items()
        assert series[1] == 500

    async def test_that_no_rule_knows_share_a_name_after_fifty(self, telemetry: Telemetry, nc: Client):
        subjects = [f"words.{_word(number)}.sent" for number in range(1500)]
        for subject in subjects:
            await nc.publish(subject, b"")
        spans = telemetry.spans()
        assert [span.attributes["messaging.destination.name"] for span in spans] == subjects
        names = [*subjects[:50], *["words.*.sent"] * 1450]
        assert [span.name for span in spans] == [f"publish {name}" for name in names]
        templates = [span.attributes.get("messaging.destination.template") for span in spans]
        assert templates == [*[None] * 50, *["words.*.sent"] * 1450]
        sent = telemetry.metric("messaging.client.sent.messages")
        assert len(sent) == 51
        assert sum(sent.values()) == 1500
        # One that has its name keeps it, and so do others.
        for subject in (subjects[7], "shop.health.ok", "other.words.sent"):
            await nc.publish(subject, b"")
        assert [span.name for span in telemetry.spans()[-3:]] == [
            f"publish {subjects[7]}",
            "publish shop.health.ok",
            "publish other.words.sent",
        ]

    @pytest.mark.instrument(subject_names=0)
    async def test_that_no_rule_knows_make_a_thousand_names_and_no_more(self, telemetry: Telemetry, nc: Client):
        for number in range(1500):
            await nc.publish(f"words.{_word(number)}", b"")
        spans = telemetry.spans()
        names = [span.name for span in spans]
        assert len(set(names)) == 1001
        assert names[:1000] == [f"publish words.{_word(number)}" for number in range(1000)]
        assert set(names[1000:]) == {"publish"}
        assert {span.attributes["messaging.destination.name"] for span in spans} == {
            f"words.{_word(number)}" for number in range(1500)
        }
        sent = telemetry.metric("messaging.client.sent.messages")
        assert len(sent) == 1001
        assert sum(sent.values()) == 1500
        # One that has its name keeps it.
        await nc.publish(f"words.{_word(7)}", b"")
        assert telemetry.spans()[-1].name == f"publish words.{_word(7)}"

    async def test_do_not_grow_a_cache_without_bound(self, telemetry: Telemetry, nc: Client):
        for number in range(1200):
            await nc.publish(f"orders.{number}.created", b"")
            await nc.publish(nc.new_inbox(), b"")
        connection = client_connection(nc)
        assert 0 < len(connection._publishing) <= 1024
        assert len(connection.prototypes) <= 1024
        assert len(connection.readings._series) <= 10


def client_connection(nc: Client) -> Any:
    return nc.__dict__["_opentelemetry_connection"]


class TestSubclasses:
    async def test_with_methods_of_their_own_make_one_span_a_call(
        self, telemetry: Telemetry, nats_server: NatsServer, unique: Unique
    ):
        calls: list[str] = []

        class Tagged(Client):
            async def connect(self, *args: Any, **kwargs: Any) -> None:
                calls.append("connect")
                await super().connect(*args, **kwargs)

            async def publish(self, subject: str, payload: bytes = b"", **kwargs: Any) -> None:
                calls.append("publish")
                await super().publish(subject, payload, **kwargs)

            async def request(self, *args: Any, **kwargs: Any) -> Msg:
                calls.append("request")
                return await super().request(*args, **kwargs)

            async def subscribe(self, *args: Any, **kwargs: Any) -> Any:
                calls.append("subscribe")
                return await super().subscribe(*args, **kwargs)

        subject = unique("questions")
        nc = Tagged()
        await nc.connect(nats_server.url)
        try:
            await nc.subscribe(subject, cb=echo)
            await nc.publish(subject, b"1", reply=nc.new_inbox())
            await nc.request(subject, b"22", timeout=5)
            await telemetry.wait_for(7)
        finally:
            await nc.close()
        assert calls.count("connect") == 1
        assert [span.name for span in telemetry.spans()] == [
            f"connect 127.0.0.1:{nats_server.port}",
            f"publish {subject}",
            *[span.name for span in telemetry.spans()[2:]],
        ]
        assert sorted(span.name for span in telemetry.spans()[2:]) == [
            f"process {subject}",
            f"process {subject}",
            "reply",
            "reply",
            f"request {subject}",
        ]

    async def test_that_publish_more_than_once_make_a_span_each(
        self, telemetry: Telemetry, nats_server: NatsServer, unique: Unique
    ):
        class Mirroring(Client):
            async def publish(self, subject: str, *args: Any, **kwargs: Any) -> None:
                await super().publish(subject, *args, **kwargs)
                await super().publish(f"mirror.{subject}", *args, **kwargs)

        subject = unique("orders")
        nc = Mirroring()
        await nc.connect(nats_server.url)
        await nc.publish(subject, b"")
        await nc.close()
        assert [span.name for span in telemetry.spans()][1:] == [f"publish {subject}", f"publish mirror.{subject}"]

    async def test_with_a_message_class_of_their_own_keep_it(
        self, telemetry: Telemetry, nats_server: NatsServer, unique: Unique
    ):
        class Order(Msg):
            @property
            def text(self) -> str:
                return self.data.decode()

        class Orders(Client):
            msg_class = Order

        subject = unique("orders")
        got = Inbox()
        nc = Orders()
        await nc.connect(nats_server.url)
        await nc.subscribe(subject, cb=got.take)
        await nc.publish(subject, b"tea")
        msg = await got.next()
        await nc.close()
        assert type(msg) is Order
        assert msg.text == "tea"
        assert_span(telemetry.span(f"process {subject}"), parent=telemetry.span(f"publish {subject}"))


class TestPatchedMethods:
    async def test_look_as_they_did(self, telemetry: Telemetry):
        patched = [(owner, name, getattr(owner, name)) for owner, name in PATCHED]
        telemetry.uninstrument()
        differences: list[str] = []
        for owner, name, replacement in patched:
            original = getattr(owner, name)
            assert replacement is not original
            for look in (
                inspect.iscoroutinefunction,
                inspect.isasyncgenfunction,
                inspect.isfunction,
                inspect.signature,
                *map(attrgetter, ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__")),
            ):
                if look(replacement) != look(original):
                    differences.append(f"{original.__qualname__}: {look}")
        assert not differences

    async def test_are_bound_as_they_were(self, telemetry: Telemetry, nc: Client):
        for method in (nc.publish, nc.request, nc.connect):
            assert inspect.iscoroutinefunction(method)
            assert inspect.ismethod(method)
            assert method.__self__ is nc
        awaitable = nc.publish("orders", b"")
        assert inspect.iscoroutine(awaitable)
        await awaitable
        assert "headers" in inspect.signature(nc.publish).parameters
        assert "self" not in inspect.signature(nc.publish).parameters

    async def test_called_and_never_awaited_do_nothing(self, telemetry: Telemetry, nc: Client):
        awaitable = nc.publish("orders", b"")
        sent = nc.stats["out_msgs"]
        awaitable.close()
        awaitable = nc.request("orders", b"")
        awaitable.close()
        assert nc.stats["out_msgs"] == sent
        assert not telemetry.spans()


class _Recording(Sampler):
    def __init__(self) -> None:
        self.seen: dict[str, dict[str, Any]] = {}

    def should_sample(
        self, parent_context, trace_id, name, kind=None, attributes=None, links=None, trace_state=None
    ) -> SamplingResult:
        self.seen[name] = dict(attributes or {})
        return ALWAYS_ON.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        return "records what samplers are given"


RECORDING = _Recording()


class TestSamplers:
    @pytest.mark.sampler(RECORDING)
    async def test_see_all_but_what_only_the_answer_tells(self, telemetry: Telemetry, nc: Client, unique: Unique):
        RECORDING.seen.clear()
        subject = unique("questions")
        await nc.subscribe(subject, cb=echo)
        sub = await nc.subscribe(f"{subject}.read")
        await nc.publish(f"{subject}.read", b"1")
        await sub.next_msg()
        await nc.request(subject, b"22", timeout=5)
        await telemetry.wait_for(5)
        late = {"messaging.message.conversation_id", "messaging.nats.response.body.size"}
        for span in telemetry.spans():
            told_late = late if span.name.startswith("request") else set()
            expected = {name: value for name, value in span.attributes.items() if name not in told_late}
            assert RECORDING.seen[span.name] == expected
        assert len(telemetry.spans()) == 5
