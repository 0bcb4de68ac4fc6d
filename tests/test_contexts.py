# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Parents and links: the eight rules of docs/semconv, and that no context outlives its message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from threading import Thread
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig

from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.nats import message_context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanContext, TraceFlags
from support.core import Connect, Inbox, Unique, echo
from support.server import NatsServer
from support.spans import REMOTE, assert_span
from support.telemetry import Telemetry
from support.waiting import eventually, flush

UNSAMPLED = SpanContext(REMOTE.trace_id, REMOTE.span_id, True, TraceFlags(0))
REMOTE_HEADERS = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage": "tenant=acme"}
UNSAMPLED_HEADERS = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}

Handler = Callable[[Msg], Awaitable[None]]


def current() -> SpanContext:
    return trace.get_current_span().get_span_context()


async def publish_foreign(server: NatsServer, subject: str, headers: dict[str, str] | None = REMOTE_HEADERS) -> None:
    """Publishes as a program in another language would, past the instrumentation."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    block = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items()) + "\r\n"
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
    if headers is None:
        writer.write(f"PUB {subject} 0\r\n\r\n".encode())
    else:
        writer.write(f"HPUB {subject} {len(block)} {len(block)}\r\n{block}\r\n".encode())
    writer.write(b"PING\r\n")
    while b"PONG" not in await reader.readline():
        pass
    writer.close()
    await writer.wait_closed()


class TestSendingIsAChildOfTheAmbientSpan:
    async def test_whatever_the_call(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("questions")
        await nc.subscribe(subject, cb=echo)
        sub = await nc.subscribe(f"{subject}.read")
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await nc.publish(f"{subject}.read", b"", reply="answers")
            await nc.request(subject, b"", timeout=5)
            msg = await sub.next_msg()
            await msg.respond(b"")
        await telemetry.wait_for(7)
        for name in (f"publish {subject}.read", f"request {subject}", f"receive {subject}.read"):
            assert_span(telemetry.span(name), parent=ambient)
        assert len([span for span in telemetry.named("reply") if span.parent.span_id == ambient.context.span_id]) == 1

    async def test_and_a_root_without_one(self, telemetry: Telemetry, nc: Client, unique: Unique):
        await nc.publish(unique("orders"), b"")
        assert_span(telemetry.spans()[0], parent=None, links=())

    @pytest.mark.parametrize("how", ["after next_msg", "after the handler", "in another task", "in an earlier task"])
    async def test_but_with_none_a_response_belongs_to_its_message(
        self, telemetry: Telemetry, nc: Client, unique: Unique, how: str
    ):
        subject = unique("questions")
        messages: asyncio.Queue[Msg] = asyncio.Queue()

        async def answer() -> None:
            msg = await messages.get()
            assert not current().is_valid
            await msg.respond(b"")

        if how == "after next_msg":
            sub = await nc.subscribe(subject)
            await nc.publish(subject, b"", reply="answers")
            await (await sub.next_msg()).respond(b"")
            own = telemetry.span(f"receive {subject}")
        else:
            early = asyncio.create_task(answer()) if how == "in an earlier task" else None

            async def handler(msg: Msg) -> None:
                messages.put_nowait(msg)

            await nc.subscribe(subject, cb=handler)
            await nc.publish(subject, b"", reply="answers")
            await telemetry.wait_for(f"process {subject}")
            if how == "after the handler":
                await answer()
            else:
                await (early or asyncio.create_task(answer()))
            own = telemetry.span(f"process {subject}")
        assert_span(telemetry.span("reply"), parent=own, links=())

    async def test_and_a_response_to_a_message_from_before_our_time_to_its_sender(
        self, telemetry: Telemetry, nats_server: NatsServer, nc: Client, unique: Unique
    ):
        subject = unique("questions")
        sub = await nc.subscribe(subject)
        await flush(nc)
        await publish_foreign(nats_server, subject)
        telemetry.uninstrument()
        msg = await sub.next_msg()
        telemetry.instrument()
        msg.reply = "answers"
        await msg.respond(b"")
        assert_span(telemetry.span("reply"), parent=REMOTE, links=())

    @pytest.mark.parametrize("method", ["ack", "ack_sync", "nak", "term", "in_progress"])
    async def test_and_so_does_its_settlement(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique, method: str
    ):
        name = unique("orders")
        await js.add_stream(name=name, subjects=[name])
        sub = await js.subscribe(name, manual_ack=True)
        await js.publish(name, b"")
        msg = await sub.next_msg()
        await getattr(msg, method)()
        operation = "ack" if method == "ack_sync" else method
        assert_span(telemetry.span(f"{operation} {name}"), parent=telemetry.span(f"receive {name}"), links=())

    async def test_or_the_ambient_span_where_there_is_one(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("questions")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"", reply="answers")
        msg = await sub.next_msg()
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await msg.respond(b"")
        assert_span(telemetry.span("reply"), parent=ambient)

    async def test_in_a_handler_of_another_message_it_is_that_ones_work(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        questions, ticks = unique("questions"), unique("ticks")
        sub = await nc.subscribe(questions)
        await nc.publish(questions, b"", reply="answers")
        msg = await sub.next_msg()

        async def tick(_: Msg) -> None:
            await msg.respond(b"")

        await nc.subscribe(ticks, cb=tick)
        await nc.publish(ticks, b"")
        await telemetry.wait_for(f"process {ticks}")
        assert_span(telemetry.span("reply"), parent=telemetry.span(f"process {ticks}"))


class TestACallbackIsAChildOfTheCreationContext:
    async def test_with_its_baggage_and_a_link(
        self, telemetry: Telemetry, nats_server: NatsServer, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        seen: list[Any] = []
        onwards = await nc.subscribe(f"{subject}.onwards")

        async def handler(_: Msg) -> None:
            seen.append((current(), baggage.get_all()))
            await nc.publish(f"{subject}.onwards", b"")

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        await publish_foreign(nats_server, subject)
        await telemetry.wait_for(f"process {subject}")
        process = telemetry.span(f"process {subject}")
        assert_span(process, parent=REMOTE, links=[(REMOTE, {})])
        assert process.links[0].context.is_remote
        assert seen == [(process.context, {"tenant": "acme"})]
        headers = (await onwards.next_msg()).headers
        assert headers["baggage"] == "tenant=acme"
        assert headers["traceparent"].split("-")[1] == f"{REMOTE.trace_id:032x}"

    @pytest.mark.parametrize("when", ["connect", "subscribe", "first request"])
    async def test_never_of_the_span_that_was_current_before(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, when: str
    ):
        subject = unique("questions")
        seen: list[Any] = []

        async def handler(msg: Msg) -> None:
            seen.append((context.get_value("mine"), baggage.get_all()))
            await msg.respond(b"")

        def ambient() -> Any:
            return telemetry.tracer.start_as_current_span("ambient")

        async def within(step: str, call: Callable[[], Awaitable[Any]]) -> Any:
            if when != step:
                return await call()
            with ambient():
                token = context.attach(baggage.set_baggage("left", "over", context.set_value("mine", 1)))
                try:
                    return await call()
                finally:
                    context.detach(token)

        nc = await within("connect", connect)
        await within("subscribe", lambda: nc.subscribe(subject, cb=handler))
        await within("first request", lambda: nc.request(subject, b"", timeout=5))
        await telemetry.wait_for(f"process {subject}")
        telemetry.clear()
        seen.clear()
        await nc.request(subject, b"", timeout=5)
        await telemetry.wait_for(3)
        request, process, reply = telemetry.spans()
        assert_span(request, name=f"request {subject}", parent=None)
        assert_span(process, name=f"process {subject}", parent=request, links=[request])
        assert_span(reply, name="reply", parent=process)
        assert seen == [(None, {})]

    @pytest.mark.parametrize("kind", ["subscribe", "js.subscribe", "durable"])
    async def test_and_its_work_is_traced_though_subscribing_was_a_call_of_its_own(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique, kind: str
    ):
        name = unique("orders")
        await js.add_stream(name=name, subjects=[name])

        async def handler(_: Msg) -> None:
            await nc.publish(f"audit.{name}", b"")

        with telemetry.tracer.start_as_current_span("ambient"):
            if kind == "subscribe":
                await nc.subscribe(name, cb=handler)
            else:
                await js.subscribe(name, cb=handler, durable="worker" if kind == "durable" else None)
        await flush(nc)
        await js.publish(name, b"")
        await telemetry.wait_for(f"process {name}")
        process = telemetry.span(f"process {name}")
        assert_span(process, parent=telemetry.span(f"publish {name}"))
        assert_span(telemetry.span(f"publish audit.{name}"), parent=process)

    async def test_even_when_it_was_subscribed_in_the_handler_of_another(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        first, second = unique("first"), unique("second")
        ready = asyncio.Event()
        got = Inbox()

        async def handler(_: Msg) -> None:
            await nc.subscribe(second, cb=got.take)
            ready.set()

        await nc.subscribe(first, cb=handler)
        await nc.publish(first, b"")
        await ready.wait()
        await nc.publish(second, b"")
        await got.next()
        await telemetry.wait_for(f"process {second}")
        assert_span(telemetry.span(f"process {second}"), parent=telemetry.span(f"publish {second}"))


class TestALoopBodyOrAReceive:
    async def run(self, nc: Client, how: str, subject: str, body: Callable[[], Awaitable[None]]) -> str:
        """Receives one message and returns the first word of its span's name."""
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        if how == "next_msg":
            await sub.next_msg()
            return "receive"
        async for _ in sub.messages:
            await body()
            break
        return "process"

    @pytest.mark.parametrize("how", ["loop", "next_msg"])
    async def test_is_a_child_of_the_ambient_span_and_links_to_the_creation_context(
        self, telemetry: Telemetry, nc: Client, unique: Unique, how: str
    ):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            if how == "next_msg":
                await sub.next_msg()
            else:
                async for _ in sub.messages:
                    break
            assert trace.get_current_span() is ambient
        publish = telemetry.span(f"publish {subject}")
        receive = telemetry.span(f"{'receive' if how == 'next_msg' else 'process'} {subject}")
        assert_span(receive, parent=ambient, links=[(publish, {})])

    @pytest.mark.parametrize("how", ["loop", "next_msg"])
    async def test_is_a_child_of_the_creation_context_without_one(
        self, telemetry: Telemetry, nc: Client, unique: Unique, how: str
    ):
        subject = unique("orders")

        async def body() -> None:
            await nc.publish(f"{subject}.inside", b"")

        word = await self.run(nc, how, subject, body)
        publish, receive = telemetry.span(f"publish {subject}"), telemetry.span(f"{word} {subject}")
        assert_span(receive, parent=publish, links=[(publish, {})])
        if how == "loop":
            assert_span(telemetry.span(f"publish {subject}.inside"), parent=receive)

    async def test_has_the_baggage_of_its_parent(
        self, telemetry: Telemetry, nats_server: NatsServer, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await flush(nc)
        for _ in range(2):
            await publish_foreign(nats_server, subject)
        async for _ in sub.messages:
            assert baggage.get_all() == {"tenant": "acme"}
            break
        assert baggage.get_all() == {}
        with telemetry.tracer.start_as_current_span("ambient"):
            token = context.attach(baggage.set_baggage("mine", "own"))
            async for _ in sub.messages:
                assert baggage.get_all() == {"mine": "own"}
                break
            context.detach(token)

    async def test_of_a_batch_links_to_every_message_and_has_none_as_its_parent(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique
    ):
        name = unique("orders")
        await js.add_stream(name=name, subjects=[name])
        sub = await js.pull_subscribe(name, "worker")
        for _ in range(3):
            await js.publish(name, b"")
        for msg in await sub.fetch(3):
            await msg.ack()
        publishes = telemetry.named(f"publish {name}")
        processes = telemetry.named(f"process {name}")
        assert_span(telemetry.span(f"receive {name}"), parent=None, links=publishes)
        for publish, process, ack in zip(publishes, processes, telemetry.named(f"ack {name}"), strict=True):
            assert_span(process, parent=publish, links=[publish])
            assert_span(ack, parent=process, links=())
        assert not current().is_valid


class TestAReadOrAReply:
    async def test_of_a_stored_value_links_to_its_writer(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique
    ):
        kv = await js.create_key_value(bucket=unique("bucket"))
        await kv.put("key", b"")
        await kv.get("key")
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await kv.get("key")
        put = telemetry.named(f"kv.put {kv._name}")[0]
        alone, within = telemetry.named(f"kv.get {kv._name}")
        assert_span(alone, parent=None, links=[put])
        assert_span(within, parent=ambient, links=[put])

    async def test_never_changes_the_context_of_the_requester(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("questions")
        await nc.subscribe(subject, cb=echo)
        before = context.get_current()
        msg = await nc.request(subject, b"", timeout=5)
        assert context.get_current() is before
        await telemetry.wait_for(3)
        # The answer carries the context of its sender, for those who want it.
        sender = trace.get_current_span(message_context(msg)).get_span_context()
        assert sender.span_id == telemetry.span("reply").context.span_id
        await nc.publish(f"{subject}.after", b"")
        assert_span(telemetry.span(f"publish {subject}.after"), parent=None)


@pytest.mark.instrument(use_span_links=True)
class TestWithSpanLinks:
    @pytest.mark.parametrize("ambient", [False, True], ids=["alone", "ambient"])
    @pytest.mark.parametrize("how", ["callback", "loop"])
    async def test_a_process_span_starts_its_own_trace_and_only_links(
        self, telemetry: Telemetry, nats_server: NatsServer, nc: Client, unique: Unique, how: str, ambient: bool
    ):
        subject = unique("orders")
        seen: list[Any] = []

        async def body() -> None:
            seen.append((current(), baggage.get_all()))
            await nc.publish(f"{subject}.inside", b"")

        async def handler(_: Msg) -> None:
            await body()

        async def receive() -> None:
            if how == "callback":
                await nc.subscribe(subject, cb=handler)
                await flush(nc)
                await publish_foreign(nats_server, subject)
                await telemetry.wait_for(f"process {subject}")
            else:
                sub = await nc.subscribe(subject)
                await flush(nc)
                await publish_foreign(nats_server, subject)
                async for _ in sub.messages:
                    await body()
                    break

        if ambient:
            with telemetry.tracer.start_as_current_span("ambient"):
                await receive()
        else:
            await receive()
        process = telemetry.span(f"process {subject}")
        assert_span(process, parent=None, links=[(REMOTE, {})])
        assert process.context.trace_id != REMOTE.trace_id
        assert_span(telemetry.span(f"publish {subject}.inside"), parent=process)
        in_loop_of_a_span = ambient and how == "loop"
        assert seen == [(process.context, {} if in_loop_of_a_span else {"tenant": "acme"})]

    async def test_a_receive_is_still_a_child(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        await sub.next_msg()
        publish = telemetry.span(f"publish {subject}")
        assert_span(telemetry.span(f"receive {subject}"), parent=publish, links=[publish])


class TestAContextIsRestored:
    @pytest.mark.parametrize("ambient", [False, True], ids=["alone", "ambient"])
    async def test_to_the_very_same_after_a_loop(self, telemetry: Telemetry, nc: Client, unique: Unique, ambient: bool):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        for _ in range(2):
            await nc.publish(subject, b"")
        token = context.attach(baggage.set_baggage("mine", "own"))
        span = telemetry.tracer.start_span("ambient")
        inner = context.attach(trace.set_span_in_context(span)) if ambient else None
        before = context.get_current()
        seen = 0
        async for _ in sub.messages:
            assert context.get_current() is not before
            seen += 1
            if seen == 2:
                break
        assert context.get_current() is before
        if inner is not None:
            context.detach(inner)
        context.detach(token)
        span.end()

    async def test_not_when_the_body_made_another_one_current(self, telemetry: Telemetry, nc: Client, unique: Unique):
        """What a body attaches and keeps is its own business; it is not thrown away under its hands."""
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        before = context.get_current()
        async for _ in sub.messages:
            kept = context.set_value("mine", 1)
            context.attach(kept)
            break
        assert context.get_current() is kept
        context.attach(before)

    async def test_by_every_call(self, telemetry: Telemetry, nats_server: NatsServer, unique: Unique):
        subject = unique("orders")
        nc = Client()
        before = context.get_current()

        async def check(awaitable: Awaitable[Any], expected: type[BaseException] | None = None) -> Any:
            result = None
            try:
                result = await awaitable
            except Exception as error:
                assert expected is not None, error
                assert isinstance(error, expected)
            else:
                assert expected is None
            assert context.get_current() is before
            return result

        await check(nc.connect(nats_server.url))
        sub = await check(nc.subscribe(subject))
        await check(nc.subscribe(f"{subject}.echo", cb=echo))
        await check(nc.publish(subject, b"", reply="answers"))
        await check(nc.publish(subject, b"", "", 5), Exception)
        await check((await check(sub.next_msg())).respond(b""))
        await check(sub.next_msg(timeout=0.01), Exception)
        await check(nc.request(f"{subject}.echo", b"", timeout=5))
        await check(nc.request(f"{subject}.echo", b"", timeout=5, old_style=True))
        await check(nc.request(f"{subject}.nobody", b"", timeout=5), Exception)
        await check(nc.flush())
        await check(sub.unsubscribe())
        await check(nc.drain())
        await check(nc.publish(subject), Exception)
        await check(nc.close())


class TestNoCreationContext:
    @pytest.mark.parametrize(
        "headers",
        [
            None,
            {"other": "header"},
            {"traceparent": "00-nonsense-01"},
            {"traceparent": "00-00000000000000000000000000000000-b7ad6b7169203331-01"},
        ],
        ids=["no headers", "other headers", "malformed", "invalid"],
    )
    async def test_is_a_root_without_a_link_and_no_error(
        self,
        telemetry: Telemetry,
        nats_server: NatsServer,
        nc: Client,
        unique: Unique,
        headers: dict[str, str] | None,
    ):
        subject = unique("orders")
        inbox = Inbox()
        await nc.subscribe(subject, cb=inbox.take)
        loop, single = await nc.subscribe(subject), await nc.subscribe(subject)
        await flush(nc)
        for _ in range(2):
            await publish_foreign(nats_server, subject, headers)
        await inbox.next(), await inbox.next()
        await single.next_msg()
        async for _ in loop.messages:
            break
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await single.next_msg()
            async for _ in loop.messages:
                break
        await telemetry.wait_for(7)
        *alone, _, receive, process = telemetry.spans()
        assert len(alone) == 4
        for span in alone:
            assert_span(span, parent=None, links=())
        for span in (receive, process):
            assert_span(span, parent=ambient, links=())


class TestSampledOut:
    @pytest.mark.sampler(ALWAYS_OFF)
    async def test_makes_no_span_and_the_unsampled_context_travels(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        seen: list[SpanContext] = []
        done = asyncio.Event()
        onwards = await nc.subscribe(f"{subject}.onwards")

        async def handler(_: Msg) -> None:
            seen.append(current())
            await nc.publish(f"{subject}.onwards", b"")
            done.set()

        await nc.subscribe(subject, cb=handler)
        loop = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        await done.wait()
        async for msg in loop.messages:
            seen.append(current())
            first = msg.headers["traceparent"].split("-")
            break
        second = (await onwards.next_msg()).headers["traceparent"].split("-")
        assert not any(int(flags, 16) & TraceFlags.SAMPLED for flags in (first[3], second[3]))
        assert first[1] == second[1]
        assert {f"{span.trace_id:032x}" for span in seen} == {first[1]}
        assert not any(span.trace_flags.sampled for span in seen)
        assert not telemetry.spans()
        assert telemetry.counter.started == 0

    @pytest.mark.sampler(ParentBased(ALWAYS_OFF))
    async def test_by_its_sender_stays_out_to_the_end(
        self, telemetry: Telemetry, nats_server: NatsServer, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        onwards = await nc.subscribe(f"{subject}.onwards")

        async def handler(_: Msg) -> None:
            await nc.publish(f"{subject}.onwards", b"")

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        await publish_foreign(nats_server, subject, UNSAMPLED_HEADERS)
        _, trace_id, span_id, flags = (await onwards.next_msg()).headers["traceparent"].split("-")
        assert trace_id == f"{UNSAMPLED.trace_id:032x}"
        assert not int(flags, 16) & TraceFlags.SAMPLED
        assert span_id != f"{UNSAMPLED.span_id:016x}"
        assert telemetry.counter.started == 0

    @pytest.mark.sampler(ParentBased(ALWAYS_OFF))
    async def test_at_the_root_keeps_what_another_program_sampled(
        self, telemetry: Telemetry, nats_server: NatsServer, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        inbox = Inbox()
        await nc.subscribe(subject, cb=inbox.take)
        await flush(nc)
        await publish_foreign(nats_server, subject)
        await inbox.next()
        await telemetry.wait_for(f"process {subject}")
        assert_span(telemetry.span(f"process {subject}"), parent=REMOTE, links=[REMOTE])


class TestNothingLeaks:
    async def test_from_one_message_to_the_next(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        seen: list[Any] = []

        async def careless(_: Msg) -> None:
            seen.append((context.get_value("mine"), current()))
            context.attach(context.set_value("mine", "left over"))
            context.attach(trace.set_span_in_context(trace.NonRecordingSpan(REMOTE)))
            suppress_instrumentation().__enter__()

        await nc.subscribe(subject, cb=careless)
        for _ in range(2):
            await nc.publish(subject, b"")
        await telemetry.wait_for(4)
        processes = telemetry.named(f"process {subject}")
        assert seen == [(None, process.context) for process in processes]
        for publish, process in zip(telemetry.named(f"publish {subject}"), processes, strict=True):
            assert_span(process, parent=publish, links=[publish])

    async def test_from_a_handler_into_the_callback_for_its_error_comes_its_messages_context(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        subject = unique("orders")
        seen: asyncio.Future[SpanContext] = asyncio.Future()

        async def error_cb(_: Exception) -> None:
            seen.set_result(current())

        async def refuse(_: Msg) -> None:
            raise LookupError

        nc = await connect(error_cb=error_cb)
        await nc.subscribe(subject, cb=refuse)
        await nc.publish(subject, b"")
        assert await asyncio.wait_for(seen, 5) == telemetry.span(f"process {subject}").context

    async def test_into_a_task_from_before(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        go, done = asyncio.Event(), asyncio.Event()

        async def background() -> None:
            await go.wait()
            await nc.publish(f"{subject}.background", b"")
            done.set()

        task = asyncio.create_task(background())

        async def handler(_: Msg) -> None:
            go.set()
            await done.wait()

        await nc.subscribe(subject, cb=handler)
        await nc.publish(subject, b"")
        await task
        assert_span(telemetry.span(f"publish {subject}.background"), parent=None)
        await telemetry.wait_for(f"process {subject}")

    @pytest.mark.parametrize("how", ["callback", "loop"])
    async def test_but_a_task_that_the_body_starts_is_part_of_its_work(
        self, telemetry: Telemetry, nc: Client, unique: Unique, how: str
    ):
        subject = unique("orders")
        go = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []

        async def background() -> None:
            await go.wait()
            await nc.publish(f"{subject}.background", b"")

        async def handler(_: Msg) -> None:
            tasks.append(asyncio.create_task(background()))

        sub = await nc.subscribe(subject, **({"cb": handler} if how == "callback" else {}))
        await nc.publish(subject, b"")
        if how == "loop":
            async for msg in sub.messages:
                await handler(msg)
                break
        await telemetry.wait_for(f"process {subject}")
        # The body is over; its span has ended and is the parent all the same.
        go.set()
        await asyncio.gather(*tasks)
        assert_span(
            telemetry.span(f"publish {subject}.background"), parent=telemetry.span(f"process {subject}"), links=()
        )
        assert not current().is_valid

    async def test_from_a_loop_into_a_task_that_is_started_after_it(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        async for _ in sub.messages:
            break
        await asyncio.create_task(nc.publish(f"{subject}.after", b""))
        assert_span(telemetry.span(f"publish {subject}.after"), parent=None)

    async def test_between_handlers_at_work_at_the_same_time(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        together = 0
        everyone = asyncio.Event()

        def handler(name: str) -> Handler:
            async def handle(_: Msg) -> None:
                nonlocal together
                mine = current()
                together += 1
                if together == 5:
                    everyone.set()
                await everyone.wait()
                assert current() == mine
                await nc.publish(f"{subject}.{name}", b"")

            return handle

        for name in "ghijk":
            await nc.subscribe(f"{subject}.in.{name}", cb=handler(name))
        for name in "ghijk":
            await nc.publish(f"{subject}.in.{name}", b"")
        await telemetry.wait_for(15)
        for name in "ghijk":
            process = telemetry.span(f"process {subject}.in.{name}")
            assert_span(process, parent=telemetry.span(f"publish {subject}.in.{name}"))
            assert_span(telemetry.span(f"publish {subject}.{name}"), parent=process)

    async def test_of_a_call_into_a_task_that_is_started_inside_of_it(
        self, telemetry: Telemetry, nats_server: NatsServer, unique: Unique
    ):
        """What nats-py calls in the course of a call makes no spans; what the program does meanwhile does."""
        name = unique("orders")

        class Auditing(Client):
            async def audit(self) -> None:
                await self.publish(f"audit.{name}", b"")

            async def request(self, *args: Any, **kwargs: Any) -> Msg:
                await asyncio.create_task(self.audit())
                return await super().request(*args, **kwargs)

        nc = Auditing()
        await nc.connect(nats_server.url)
        js = nc.jetstream()
        await js.add_stream(name=name, subjects=[name])
        telemetry.clear()
        await js.publish(name, b"")
        await nc.close()
        nats_server.delete_streams()
        assert sorted(span.name for span in telemetry.spans()) == [f"publish audit.{name}", f"publish {name}"]

    async def test_of_a_call_into_a_thread_that_is_waited_for_inside_of_it(
        self, telemetry: Telemetry, nats_server: NatsServer, unique: Unique
    ):
        name = unique("orders")

        async def audit() -> None:
            nc = Client()
            await nc.connect(nats_server.url)
            await nc.publish(f"audit.{name}", b"")
            with pytest.raises(NoRespondersError):
                await nc.request(f"audit.{name}", b"")
            await nc.close()

        class Auditing(Client):
            async def request(self, *args: Any, **kwargs: Any) -> Msg:
                # The thread has a copy of the call's context variables, and the call's task is still the running one.
                thread = Thread(target=copy_context().run, args=(asyncio.run, audit()))
                thread.start()
                thread.join()
                return await super().request(*args, **kwargs)

        nc = Auditing()
        await nc.connect(nats_server.url)
        js = nc.jetstream()
        await js.add_stream(name=name, subjects=[name])
        telemetry.clear()
        await js.publish(name, b"")
        await nc.close()
        nats_server.delete_streams()
        names = [span.name for span in telemetry.spans()]
        assert f"publish audit.{name}" in names
        assert f"request audit.{name}" in names

    async def test_out_of_a_cancelled_call(self, telemetry: Telemetry, nc: Client, unique: Unique):
        """One await after the other is cancelled; whatever it was in, no span stays open and no context current."""
        subject = unique("questions")
        hold = asyncio.Event()

        async def slow(msg: Msg) -> None:
            await hold.wait()
            await msg.respond(b"")

        await nc.subscribe(subject, cb=slow)
        sub = await nc.subscribe(f"{subject}.loop")

        async def work(steps: int) -> None:
            before = context.get_current()
            task = asyncio.current_task()
            assert task is not None
            loop = asyncio.get_running_loop()

            def cancel_after(turns: int) -> None:
                if turns == 0:
                    task.cancel()
                else:
                    loop.call_soon(cancel_after, turns - 1)

            loop.call_soon(cancel_after, steps)
            try:
                async for msg in sub.messages:
                    await nc.publish(f"{subject}.inside", msg.data)
                    break
                await nc.request(subject, b"", timeout=60)
            except asyncio.CancelledError:
                assert context.get_current() is before
                raise

        for steps in range(25):
            # In hand before, or the number of turns until the request would depend on the network.
            if not sub.pending_msgs:
                await nc.publish(f"{subject}.loop", b"")
                await eventually(lambda: sub.pending_msgs)
            task = asyncio.create_task(work(steps))
            await asyncio.wait([task])
            assert task.cancelled()
        hold.set()
        await eventually(lambda: not telemetry.counter.open)
        assert {span.status.status_code.name for span in telemetry.spans()} == {"UNSET"}
        assert telemetry.named(f"request {subject}"), "no request was ever reached"


class TestConsumersOfJetStream:
    async def test_bound_to_a_consumer_in_a_span_are_not_under_it(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique
    ):
        if not hasattr(js, "subscribe_bind"):
            pytest.skip("this nats-py has no subscribe_bind")
        name = unique("orders")
        await js.add_stream(name=name, subjects=[name])
        config = ConsumerConfig(durable_name="worker", deliver_subject=f"deliver.{name}")
        await js.add_consumer(name, config)
        inbox = Inbox()
        with telemetry.tracer.start_as_current_span("ambient"):
            await js.subscribe_bind(stream=name, consumer="worker", config=config, cb=inbox.take)
        await js.publish(name, b"")
        await inbox.next()
        await telemetry.wait_for(lambda spans: [span for span in spans if span.name.startswith("process")])
        publish = telemetry.span(f"publish {name}")
        [process] = [span for span in telemetry.spans() if span.name.startswith("process")]
        assert_span(process, parent=publish, links=[publish])
