# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Acknowledgements of JetStream messages, of all kinds and from everywhere."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode, use_span
from support.core import Inbox, Unique
from support.jetstream import settle_attributes, unseen
from support.spans import assert_span
from support.telemetry import Telemetry
from support.waiting import eventually, flush

Settle = Callable[[Msg], Awaitable[Any]]

# Not `Msg.ack` and so on: that would be the method from before it is instrumented.
DELAYED = "nak with a delay"
KINDS = [
    pytest.param("ack", lambda msg: msg.ack(), id="ack"),
    pytest.param("ack", lambda msg: msg.ack_sync(), id="ack_sync"),
    pytest.param("ack", lambda msg: msg.ack_sync(timeout=5), id="ack_sync with a timeout"),
    pytest.param("nak", lambda msg: msg.nak(), id="nak"),
    pytest.param("nak", lambda msg: msg.nak(delay=60), id=DELAYED),
    pytest.param("term", lambda msg: msg.term(), id="term"),
    pytest.param("in_progress", lambda msg: msg.in_progress(), id="in_progress"),
]


@pytest.fixture
async def stream(js: JetStreamContext, unique: Unique) -> str:
    """A stream that takes all subjects under its name."""
    name = unique("orders")
    with unseen():
        await js.add_stream(name=name, subjects=[f"{name}.>"])
    return name


@pytest.fixture
async def received(js: JetStreamContext, telemetry: Telemetry, stream: str) -> tuple[Msg, ReadableSpan, ReadableSpan]:
    """A message, its publish span and its receive span."""
    subscription = await js.subscribe(f"{stream}.*", durable="worker")
    await js.publish(f"{stream}.new", b"hi")
    msg = await subscription.next_msg()
    return msg, telemetry.span(f"publish {stream}.new"), telemetry.span(f"receive {stream}.*")


@pytest.fixture
async def fetched(js: JetStreamContext, telemetry: Telemetry, stream: str) -> tuple[Msg, ReadableSpan]:
    """A message of a batch, not walked over, and its publish span."""
    subscription = await js.pull_subscribe(f"{stream}.*", "worker")
    await js.publish(f"{stream}.new", b"hi")
    messages = await subscription.fetch()
    return messages[0], telemetry.span(f"publish {stream}.new")


async def in_another_task(telemetry: Telemetry, work: Callable[[], Awaitable[Any]]) -> None:
    """Does something in a task that no span is current in, whatever is current here."""

    async def task() -> None:
        with use_span(INVALID_SPAN):
            await work()

    await asyncio.ensure_future(task())


@pytest.mark.parametrize("operation, settle", KINDS)
class TestEveryKind:
    async def test_it_is_one_span_under_what_received_the_message(
        self,
        operation: str,
        settle: Settle,
        received: tuple[Msg, ReadableSpan, ReadableSpan],
        nc: Client,
        telemetry: Telemetry,
        stream: str,
        request: pytest.FixtureRequest,
    ):
        msg, _, receive = received
        telemetry.clear()
        await settle(msg)
        (span,) = telemetry.spans()
        delay = {"messaging.nats.jetstream.nak_delay": 60.0} if DELAYED in request.node.name else {}
        assert_span(
            span,
            name=f"{operation} {stream}.*",
            kind=SpanKind.CLIENT,
            attributes=settle_attributes(
                nc, operation, f"{stream}.new", stream, "worker", 1, template=f"{stream}.*", group="worker", **delay
            ),
            parent=receive,
            links=[],
        )

    async def test_the_ambient_span_comes_first(
        self,
        operation: str,
        settle: Settle,
        received: tuple[Msg, ReadableSpan, ReadableSpan],
        telemetry: Telemetry,
        stream: str,
    ):
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await settle(received[0])
        assert_span(telemetry.span(f"{operation} {stream}.*"), parent=ambient)

    async def test_in_another_task_it_is_in_the_messages_trace(
        self, operation: str, settle: Settle, fetched: tuple[Msg, ReadableSpan], telemetry: Telemetry, stream: str
    ):
        msg, published = fetched
        with telemetry.tracer.start_as_current_span("ambient"):
            await in_another_task(telemetry, lambda: settle(msg))
        assert_span(telemetry.span(f"{operation} {stream}.*"), parent=published)

    async def test_after_the_handler_it_is_under_the_handlers_span(
        self, operation: str, settle: Settle, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        inbox = Inbox()
        await js.subscribe(f"{stream}.*", durable="worker", cb=inbox.take, manual_ack=True)
        await js.publish(f"{stream}.new", b"hi")
        msg = await inbox.next()
        (opened,) = telemetry.counter.open
        await settle(msg)
        if operation == "in_progress":
            assert telemetry.counter.open == [opened]
            await msg.ack()
        process = telemetry.span(f"process {stream}.*")
        assert process.context == opened.get_span_context()
        assert_span(telemetry.span(f"{operation} {stream}.*"), parent=process)

    async def test_nothing_is_added_to_what_is_sent(
        self,
        operation: str,
        settle: Settle,
        received: tuple[Msg, ReadableSpan, ReadableSpan],
        nc: Client,
        telemetry: Telemetry,
    ):
        spy = await nc.subscribe("$JS.ACK.>")
        await flush(nc)
        await settle(received[0])
        await eventually(lambda: spy.pending_msgs)
        with unseen():
            assert (await spy.next_msg()).headers is None


class TestSettlingTwice:
    @pytest.mark.parametrize("first", ["ack", "ack_sync", "nak", "term"])
    @pytest.mark.parametrize("second", ["ack", "ack_sync", "nak", "term"])
    async def test_the_second_is_nats_pys_error_on_its_span(
        self,
        first: str,
        second: str,
        received: tuple[Msg, ReadableSpan, ReadableSpan],
        nc: Client,
        telemetry: Telemetry,
        stream: str,
    ):
        msg, _, receive = received
        await getattr(msg, first)()
        telemetry.clear()
        with pytest.raises(nats.errors.MsgAlreadyAckdError):
            await getattr(msg, second)()
        operation = second.removesuffix("_sync")
        (span,) = telemetry.spans()
        assert_span(
            span,
            name=f"{operation} {stream}.*",
            attributes=settle_attributes(
                nc,
                operation,
                f"{stream}.new",
                stream,
                "worker",
                1,
                template=f"{stream}.*",
                group="worker",
                error="nats.errors.MsgAlreadyAckdError",
            ),
            parent=receive,
            # nats-py's own words quote the message with its payload.
            status=(StatusCode.ERROR, "nats: message was already acknowledged"),
        )

    async def test_progress_can_be_told_any_number_of_times(
        self, received: tuple[Msg, ReadableSpan, ReadableSpan], telemetry: Telemetry, stream: str
    ):
        for _ in range(3):
            await received[0].in_progress()
        for span in telemetry.named(f"in_progress {stream}.*"):
            assert_span(span, status=StatusCode.UNSET)
        assert len(telemetry.named(f"in_progress {stream}.*")) == 3


class TestSettlingThatFails:
    @pytest.mark.parametrize("settle", ["ack", "ack_sync", "nak", "term", "in_progress"])
    async def test_what_is_no_jetstream_message_is_an_error(
        self, settle: str, nc: Client, telemetry: Telemetry, unique: Unique
    ):
        subject = unique("plain")
        subscription = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        msg = await subscription.next_msg()
        with pytest.raises(nats.errors.NotJSMessageError) as raised:
            await getattr(msg, settle)()
        span = telemetry.span(f"{settle.removesuffix('_sync')} {subject}")
        assert_span(
            span,
            status=(StatusCode.ERROR, str(raised.value)),
            parent=telemetry.span(f"receive {subject}"),
            events=["exception"],
        )
        assert span.attributes["error.type"] == "nats.errors.NotJSMessageError"

    async def test_an_ack_that_nobody_confirms_is_an_error(
        self, received: tuple[Msg, ReadableSpan, ReadableSpan], js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        with unseen():
            await js.delete_consumer(stream, "worker")
        with pytest.raises((nats.errors.NoRespondersError, nats.errors.TimeoutError)) as raised:
            await received[0].ack_sync(timeout=0.2)
        assert_span(telemetry.span(f"ack {stream}.*"), status=(StatusCode.ERROR, str(raised.value)))

    async def test_a_closed_client_is_an_error(
        self, received: tuple[Msg, ReadableSpan, ReadableSpan], nc: Client, telemetry: Telemetry, stream: str
    ):
        await nc.close()
        with pytest.raises(nats.errors.ConnectionClosedError) as raised:
            await received[0].ack()
        assert_span(
            telemetry.span(f"ack {stream}.*"),
            status=(StatusCode.ERROR, str(raised.value)),
            events=["exception"],
            parent=received[2],
        )

    async def test_cancellation_ends_the_span_without_an_error(
        self, received: tuple[Msg, ReadableSpan, ReadableSpan], js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        # A subscriber in the consumer's place, which never confirms.
        with unseen():
            await js.delete_consumer(stream, "worker")
        silent = await received[0]._client.subscribe(received[0].reply)
        await flush(received[0]._client)
        task = asyncio.ensure_future(received[0].ack_sync(timeout=60))
        await eventually(lambda: silent.pending_msgs)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_span(telemetry.span(f"ack {stream}.*"), status=StatusCode.UNSET)


class TestWithoutAReceiveSpan:
    async def test_a_copy_of_a_message_is_settled_in_its_writers_trace(
        self, received: tuple[Msg, ReadableSpan, ReadableSpan], nc: Client, telemetry: Telemetry, stream: str
    ):
        msg, published, _ = received
        copy = dataclasses.replace(msg)
        telemetry.clear()
        await copy.ack()
        assert_span(
            telemetry.span(f"ack {stream}.new"),
            attributes=settle_attributes(nc, "ack", f"{stream}.new", stream, "worker", 1),
            parent=published,
        )

    async def test_a_fetched_message_without_a_context_is_settled_under_its_fetch(
        self, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        with unseen():
            await js.publish(f"{stream}.new", b"")
        messages = await subscription.fetch()
        await messages[0].ack()
        assert_span(telemetry.span(f"ack {stream}.new"), parent=telemetry.span(f"receive {stream}.new"))


class TestWhatTheServerSees:
    """The instrumentation changes nothing of what an acknowledgement does."""

    @pytest.mark.parametrize("kind", ["ack", "ack_sync", "term"])
    async def test_a_settled_message_is_not_delivered_again(
        self, kind: str, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        config = ConsumerConfig(ack_wait=0.1)
        subscription = await js.subscribe(f"{stream}.new", durable="worker", config=config)
        await js.publish(f"{stream}.new", b"")
        result = await getattr(await subscription.next_msg(), kind)()
        assert (result is None) == (kind != "ack_sync")
        with pytest.raises(nats.errors.TimeoutError):
            await subscription.next_msg(0.3)
        with unseen():
            info = await js.consumer_info(stream, "worker")
        assert (info.num_ack_pending, info.num_redelivered) == (0, 0)

    async def test_a_delay_of_a_refusal_is_kept(
        self, received: tuple[Msg, ReadableSpan, ReadableSpan], js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        await received[0].nak(delay=60)
        with unseen():
            info = await js.consumer_info(stream, "worker")
        assert info.num_ack_pending == 1

    async def test_progress_keeps_a_message_from_being_delivered_again(
        self, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        config = ConsumerConfig(ack_wait=0.4)
        subscription = await js.subscribe(f"{stream}.new", durable="worker", config=config)
        await js.publish(f"{stream}.new", b"")
        msg = await subscription.next_msg()
        for _ in range(3):
            with pytest.raises(nats.errors.TimeoutError):
                await subscription.next_msg(0.2)
            await msg.in_progress()
        await msg.ack_sync()
        assert len(telemetry.named(f"receive {stream}.new")) == 1
