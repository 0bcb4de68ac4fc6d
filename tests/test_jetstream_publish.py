# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""JetStream publish, awaited and asynchronous."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError, BadRequestError, NoStreamResponseError

from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from support.core import Connect, ServerFactory, Unique
from support.jetstream import (
    NATS_PY,
    WRONG_LAST_SEQUENCE,
    publish_attributes,
    unacked_attributes,
    unseen,
)
from support.spans import AnySpan, assert_span, span_context
from support.telemetry import Telemetry
from support.waiting import eventually, flush

needs_publish_async = pytest.mark.skipif(
    not hasattr(JetStreamContext, "publish_async"), reason="publish_async came with nats-py 2.8"
)

REFUSED_FUTURE_STAYS_UNDONE = NATS_PY <= (2, 16)


def traceparent(span: AnySpan) -> str:
    context = span_context(span)
    return f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-"


async def make_stream(js: JetStreamContext, name: str, **config: Any) -> str:
    with unseen():
        await js.add_stream(name=name, subjects=[f"{name}.>"], **config)
    return name


class TestPublish:
    async def test_the_span_has_what_the_ack_says(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"))
        await js.publish(f"{stream}.new", b"first")
        await js.publish(f"{stream}.new", b"")
        first, second = telemetry.spans()
        assert_span(
            first,
            name=f"publish {stream}.new",
            kind=SpanKind.PRODUCER,
            attributes=publish_attributes(nc, stream, f"{stream}.new", 1, 5),
            parent=None,
            links=[],
        )
        assert_span(second, attributes=publish_attributes(nc, stream, f"{stream}.new", 2, 0), parent=None)

    async def test_it_is_a_child_of_the_ambient_span_and_the_stored_message_carries_it(
        self, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"))
        headers = {"color": "red"}
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await js.publish(f"{stream}.new", b"", 2, None, headers)
            await js.publish(subject=f"{stream}.new", payload=b"")
        published, another = telemetry.named(f"publish {stream}.new")
        assert_span(published, parent=ambient)
        assert_span(another, parent=ambient)
        assert headers == {"color": "red"}
        with unseen():
            stored = [await js.get_msg(stream, sequence) for sequence in (1, 2)]
        assert stored[0].headers == {"color": "red", "traceparent": stored[0].headers["traceparent"]}
        assert stored[0].headers["traceparent"].startswith(traceparent(published))
        assert stored[1].headers["traceparent"].startswith(traceparent(another))

    async def test_the_expected_stream_is_sent_beside_our_header(
        self, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"))
        headers: dict[str, str] = {}
        await js.publish(f"{stream}.new", b"", stream=stream, headers=headers)
        with unseen():
            stored = await js.get_msg(stream, 1)
        assert set(stored.headers) == {"Nats-Expected-Stream", "traceparent"}
        assert "traceparent" not in headers

    async def test_a_subject_with_an_id_is_named_by_its_template(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"))
        subject = f"{stream}.8812.created"
        await js.publish(subject, b"")
        assert_span(
            telemetry.span(f"publish {stream}.*.created"),
            attributes=publish_attributes(nc, stream, subject, 1, 0, template=f"{stream}.*.created"),
        )

    async def test_a_message_id_is_the_messages_and_the_second_with_it_a_duplicate(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"))
        for _ in range(2):
            await js.publish(f"{stream}.new", b"x", headers={"Nats-Msg-Id": "order-1"})
        first, second = telemetry.spans()
        attributes = publish_attributes(nc, stream, f"{stream}.new", 1, 1, id="order-1")
        assert_span(first, attributes=attributes)
        assert_span(second, attributes={**attributes, "messaging.nats.jetstream.duplicate": True})

    async def test_the_domain_is_that_of_the_ack(
        self, server_factory: ServerFactory, connect: Connect, telemetry: Telemetry
    ):
        nc = await connect(server_factory("jetstream { domain: hub }"))
        js = nc.jetstream(domain="hub")
        await make_stream(js, "orders")
        telemetry.clear()
        await js.publish("orders.new", b"x")
        assert_span(
            telemetry.span("publish orders.new"),
            attributes=publish_attributes(nc, "orders", "orders.new", 1, 1, domain="hub"),
        )
        with unseen():
            assert "traceparent" in (await js.get_msg("orders", 1)).headers


class TestPublishThatFails:
    async def test_an_unknown_stream_is_an_error(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        subject = unique("nowhere")
        with pytest.raises(NoStreamResponseError) as raised:
            await js.publish(subject, b"x")
        assert_span(
            telemetry.span(f"publish {subject}"),
            kind=SpanKind.PRODUCER,
            attributes=unacked_attributes(nc, subject, 1, error="nats.js.errors.NoStreamResponseError"),
            status=(StatusCode.ERROR, str(raised.value)),
        )

    async def test_a_wrong_last_sequence_is_an_error_with_the_servers_code(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"))
        with pytest.raises(BadRequestError) as raised:
            await js.publish(f"{stream}.new", b"x", headers=WRONG_LAST_SEQUENCE)
        assert raised.value.err_code == 10071
        assert_span(
            telemetry.span(f"publish {stream}.new"),
            attributes=unacked_attributes(nc, f"{stream}.new", 1, error="10071"),
            status=(StatusCode.ERROR, str(raised.value)),
        )

    async def test_another_refusal_is_recorded_with_its_stack_trace(
        self, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"), max_msg_size=100)
        with pytest.raises(APIError) as raised:
            await js.publish(f"{stream}.new", bytes(200))
        span = telemetry.span(f"publish {stream}.new")
        assert_span(span, status=(StatusCode.ERROR, str(raised.value)), events=["exception"])
        assert span.attributes["error.type"] == str(raised.value.err_code)

    async def test_without_jetstream_there_is_no_stream_either(
        self, server_factory: ServerFactory, connect: Connect, telemetry: Telemetry
    ):
        nc = await connect(server_factory(jetstream=False))
        with pytest.raises(NoStreamResponseError):
            await nc.jetstream().publish("orders", b"x")
        assert_span(
            telemetry.span("publish orders"),
            attributes=unacked_attributes(nc, "orders", 1, error="nats.js.errors.NoStreamResponseError"),
            status=StatusCode.ERROR,
        )

    async def test_a_timeout_is_an_error(self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique):
        stream = await make_stream(js, unique("orders"), no_ack=True)
        with pytest.raises(nats.errors.TimeoutError) as raised:
            await js.publish(f"{stream}.new", b"x", timeout=0.05)
        assert_span(
            telemetry.span(f"publish {stream}.new"),
            attributes=unacked_attributes(nc, f"{stream}.new", 1, error="nats.errors.TimeoutError"),
            status=(StatusCode.ERROR, str(raised.value)),
        )

    async def test_cancellation_ends_the_span_without_an_error(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"), no_ack=True)
        task = asyncio.ensure_future(js.publish(f"{stream}.new", b"x", timeout=60))
        await eventually(lambda: telemetry.counter.open and nc.stats["out_msgs"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_span(
            telemetry.span(f"publish {stream}.new"),
            attributes=unacked_attributes(nc, f"{stream}.new", 1),
            status=StatusCode.UNSET,
        )

    @pytest.mark.parametrize(
        "arguments, options",
        [((), {}), ((None, b""), {}), (("orders", b""), {"unknown": 1})],
        ids=["no arguments", "no subject", "an unknown keyword"],
    )
    async def test_wrong_arguments_get_what_nats_py_raises(
        self,
        arguments: Any,
        options: Any,
        connect: Connect,
        telemetry: Telemetry,
    ):
        nc = await connect()
        telemetry.clear()

        async def outcome() -> str:
            with pytest.raises(Exception) as raised:
                await nc.jetstream().publish(*arguments, **options)
            return repr(raised.value)

        instrumented = await outcome()
        telemetry.uninstrument()
        assert instrumented == await outcome()


@needs_publish_async
class TestPublishAsync:
    async def test_the_span_ends_with_the_ack(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"))
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            future = await js.publish_async(f"{stream}.new", b"first")
        assert telemetry.named(f"publish {stream}.new") == []
        ack = await future
        assert (ack.stream, ack.seq) == (stream, 1)
        span = (await telemetry.wait_for(f"publish {stream}.new"))[0]
        assert_span(
            span,
            kind=SpanKind.PRODUCER,
            attributes=publish_attributes(nc, stream, f"{stream}.new", 1, 5),
            parent=ambient,
            links=[],
        )
        with unseen():
            assert (await js.get_msg(stream, 1)).headers["traceparent"].startswith(traceparent(span))
        assert [span.name for span in telemetry.spans()] == ["ambient", f"publish {stream}.new"]

    async def test_a_duplicate_with_a_message_id_says_so(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"))
        for _ in range(2):
            await (await js.publish_async(f"{stream}.new", b"x", headers={"Nats-Msg-Id": "order-1"}))
        first, second = await telemetry.wait_for(2)
        attributes = publish_attributes(nc, stream, f"{stream}.new", 1, 1, id="order-1")
        assert_span(first, attributes=attributes)
        assert_span(second, attributes={**attributes, "messaging.nats.jetstream.duplicate": True})

    async def test_an_unknown_stream_fails_the_future_and_the_span(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        subject = unique("nowhere")
        future = await js.publish_async(subject, b"x")
        await telemetry.wait_for(f"publish {subject}")
        assert future._log_traceback, "we took the exception, and asyncio will not tell that the program never did"
        with pytest.raises(NoStreamResponseError) as raised:
            await future
        assert_span(
            telemetry.span(f"publish {subject}"),
            attributes=unacked_attributes(nc, subject, 1, error="nats.js.errors.NoStreamResponseError"),
            status=(StatusCode.ERROR, str(raised.value)),
        )

    async def test_a_refusal_ends_the_span_and_still_reaches_the_error_callback(
        self, connect: Connect, telemetry: Telemetry, unique: Unique
    ):
        errors: list[Exception] = []

        async def error_cb(error: Exception) -> None:
            errors.append(error)

        nc = await connect(error_cb=error_cb)
        js = nc.jetstream()
        stream = await make_stream(js, unique("orders"))
        telemetry.clear()
        future = await js.publish_async(f"{stream}.new", b"x", headers=WRONG_LAST_SEQUENCE)
        span = (await telemetry.wait_for(f"publish {stream}.new"))[0]
        assert_span(
            span,
            attributes=unacked_attributes(nc, f"{stream}.new", 1, error="10071"),
            status=StatusCode.ERROR,
        )
        if REFUSED_FUTURE_STAYS_UNDONE:
            await eventually(lambda: errors)
            assert [type(error) for error in errors] == [BadRequestError]
            assert span.status.description == str(errors[0])
            assert not future.done()
        else:
            with pytest.raises(BadRequestError):
                await future

    async def test_a_refused_future_that_is_cancelled_later_changes_nothing(
        self, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"))
        future = await js.publish_async(f"{stream}.new", b"x", headers=WRONG_LAST_SEQUENCE)
        await telemetry.wait_for(1)
        future.cancel()
        await asyncio.gather(future, return_exceptions=True)
        assert_span(telemetry.span(f"publish {stream}.new"), status=StatusCode.ERROR)

    async def test_cancelling_the_future_ends_the_span_without_an_error(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        stream = await make_stream(js, unique("orders"), no_ack=True)
        future = await js.publish_async(f"{stream}.new", b"x")
        assert telemetry.spans() == []
        future.cancel()
        await telemetry.wait_for(1)
        assert_span(
            telemetry.span(f"publish {stream}.new"),
            attributes=unacked_attributes(nc, f"{stream}.new", 1),
            status=StatusCode.UNSET,
        )

    async def test_a_client_that_closes_before_the_ack_ends_the_span(
        self, server_factory: ServerFactory, connect: Connect, telemetry: Telemetry
    ):
        disconnected: list[bool] = []

        async def disconnected_cb() -> None:
            disconnected.append(True)

        server = server_factory()
        nc = await connect(server, disconnected_cb=disconnected_cb)
        js = nc.jetstream()
        await make_stream(js, "orders", no_ack=True)
        telemetry.clear()
        attributes = unacked_attributes(nc, "orders.new", 1, error="nats.errors.ConnectionClosedError")
        future = await js.publish_async("orders.new", b"x")
        server.kill()
        await eventually(lambda: disconnected)
        assert telemetry.spans() == [], "the client may still reconnect"
        await nc.close()
        assert_span(
            telemetry.span("publish orders.new"),
            attributes=attributes,
            status=(StatusCode.ERROR, "nats: connection closed"),
        )
        assert not future.done()

    async def test_a_client_that_gives_up_the_server_ends_the_span(
        self, server_factory: ServerFactory, connect: Connect, telemetry: Telemetry
    ):
        server = server_factory()
        nc = await connect(server, allow_reconnect=False)
        js = nc.jetstream()
        await make_stream(js, "orders", no_ack=True)
        telemetry.clear()
        await js.publish_async("orders.new", b"x")
        server.kill()
        await telemetry.wait_for("publish orders.new")
        assert_span(
            telemetry.span("publish orders.new"),
            status=(StatusCode.ERROR, "nats: connection closed"),
        )
        assert nc.is_closed

    async def test_an_ack_after_a_reconnect_of_the_server_is_not_lost(
        self, server_factory: ServerFactory, connect: Connect, telemetry: Telemetry
    ):
        server = server_factory()
        nc = await connect(server)
        js = nc.jetstream()
        await make_stream(js, "orders")
        await (await js.publish_async("orders.new", b""))
        server.stop()
        await eventually(lambda: not nc.is_connected)
        telemetry.clear()
        future = await js.publish_async("orders.new", b"")  # nats-py keeps it until it is connected again
        server.start()
        assert (await asyncio.wait_for(future, 5)).seq == 2
        assert_span((await telemetry.wait_for("publish orders.new"))[0], status=StatusCode.UNSET)

    async def test_a_publish_that_stalls_is_an_error(self, nc: Client, telemetry: Telemetry, unique: Unique):
        js = nc.jetstream(publish_async_max_pending=1)
        stream = await make_stream(js, unique("orders"), no_ack=True)
        outstanding = await js.publish_async(f"{stream}.new", b"x")
        with pytest.raises(nats.js.errors.TooManyStalledMsgsError) as raised:
            await js.publish_async(f"{stream}.new", b"xx", wait_stall=0.01)
        assert_span(
            telemetry.span(f"publish {stream}.new"),
            attributes=unacked_attributes(nc, f"{stream}.new", 2, error="nats.js.errors.TooManyStalledMsgsError"),
            status=(StatusCode.ERROR, str(raised.value)),
            events=["exception"],
        )
        outstanding.cancel()

    async def test_a_closed_client_is_an_error(self, connect: Connect, telemetry: Telemetry, unique: Unique):
        nc = await connect()
        js = nc.jetstream()
        stream = await make_stream(js, unique("orders"))
        await (await js.publish_async(f"{stream}.new", b"x"))
        await telemetry.wait_for(f"publish {stream}.new")
        telemetry.clear()
        await nc.close()
        with pytest.raises(nats.errors.ConnectionClosedError):
            await js.publish_async(f"{stream}.new", b"x")
        span = telemetry.span(f"publish {stream}.new")
        assert_span(span, status=(StatusCode.ERROR, "nats: connection closed"), events=["exception"])
        assert span.attributes["error.type"] == "nats.errors.ConnectionClosedError"

    async def test_ten_thousand_outstanding_futures_leak_nothing(
        self, connect: Connect, telemetry: Telemetry, unique: Unique
    ):
        """A quarter each is acked, refused, cancelled by the user, and never answered until the client closes."""
        errors: list[Exception] = []

        async def error_cb(error: Exception) -> None:
            errors.append(error)

        quarter = 2500
        nc = await connect(error_cb=error_cb)
        js = nc.jetstream(publish_async_max_pending=4 * quarter)
        subject = unique("orders")
        # No stream but a subscriber, that answers when the test wants it.
        answering = await connect()
        replies: list[str] = []

        async def take(msg: Msg) -> None:
            replies.append(msg.reply)

        with unseen():
            await answering.subscribe(subject, cb=take)
        await flush(answering)
        telemetry.clear()

        before = telemetry.counter.ended

        futures = [await js.publish_async(subject, b"") for _ in range(4 * quarter)]
        await eventually(lambda: len(replies) == 4 * quarter, 20)
        assert js.publish_async_pending() == 4 * quarter
        assert len(telemetry.counter.open) == 4 * quarter
        assert telemetry.spans() == []

        acked = json.dumps({"stream": "orders", "seq": 1}).encode()
        refused = json.dumps({"error": {"code": 400, "err_code": 10071, "description": "wrong"}}).encode()
        with unseen():
            for number, reply in enumerate(replies[: 2 * quarter]):
                await answering.publish(reply, acked if number < quarter else refused)
        # Not `wait_for`, which sorts them all each time.
        await eventually(lambda: telemetry.counter.ended == before + 2 * quarter, 20)
        for future in futures[2 * quarter : 3 * quarter]:
            future.cancel()
        await eventually(lambda: telemetry.counter.ended == before + 3 * quarter, 20)
        assert len(telemetry.counter.open) == quarter

        kept = [weakref.ref(future) for future in futures]
        del futures, future
        gc.collect()
        alive = [number // quarter for number, reference in enumerate(kept) if reference() is not None]
        # nats-py itself keeps those that are not done, and the error callback's errors those that are refused.
        assert (alive.count(0), alive.count(2)) == (0, 0)

        await nc.close()
        spans = telemetry.spans()
        statuses = [span.status.status_code for span in spans]
        failures = [span.attributes["error.type"] for span in spans if "error.type" in span.attributes]
        assert (statuses.count(StatusCode.UNSET), statuses.count(StatusCode.ERROR)) == (2 * quarter, 2 * quarter)
        assert (failures.count("10071"), failures.count("nats.errors.ConnectionClosedError")) == (quarter, quarter)
        assert telemetry.counter.open == []
        if REFUSED_FUTURE_STAYS_UNDONE:
            assert len(errors) == quarter
        js._publish_async_futures.clear()
        errors.clear()
        gc.collect()
        assert [reference for reference in kept if reference() is not None] == []
