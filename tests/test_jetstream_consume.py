# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""JetStream consumers: push and pull, in all their variants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RePublish, StreamSource
from nats.js.errors import NotFoundError, ServiceUnavailableError

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from support.core import Connect, Inbox, ServerFactory, Unique
from support.jetstream import (
    ANY,
    NATS_PY,
    assert_nowhere,
    delivery_attributes,
    fetch_attributes,
    names_and_metrics,
    process_attributes,
    receive_attributes,
    settle_attributes,
    subscribe_attributes,
    unseen,
)
from support.proxy import rewriting_proxy
from support.server import NatsServer, ServerError
from support.spans import assert_span, span_context
from support.telemetry import Telemetry
from support.waiting import eventually, flush

PushSubscription = JetStreamContext.PushSubscription
PullSubscription = JetStreamContext.PullSubscription


def since(version: tuple[int, int], what: str) -> Any:
    return pytest.mark.skipif(NATS_PY < version, reason=f"{what} came with nats-py {'.'.join(map(str, version))}")


@pytest.fixture
async def stream(js: JetStreamContext, unique: Unique) -> str:
    """A stream that takes all subjects under its name."""
    name = unique("orders")
    with unseen():
        await js.add_stream(name=name, subjects=[f"{name}.>"])
    return name


class Handler:
    """A handler that notes its messages and the span that is current in it."""

    def __init__(self, then: Callable[[Msg], Any] | None = None) -> None:
        self.messages: list[Msg] = []
        self.spans: list[Any] = []
        self._then = then

    async def handle(self, msg: Msg) -> None:
        self.messages.append(msg)
        self.spans.append(get_current_span())
        if self._then is not None:
            await self._then(msg)


def names(telemetry: Telemetry) -> list[str]:
    return [span.name for span in telemetry.spans()]


async def publish(js: JetStreamContext, telemetry: Telemetry, subject: str, count: int = 1) -> list[ReadableSpan]:
    """Publishes messages of two bytes; returns the spans, one after the other."""
    before = len(telemetry.named(f"publish {subject}"))
    for _ in range(count):
        await js.publish(subject, b"hi")
    return telemetry.named(f"publish {subject}")[before:]


class TestSubscribe:
    @pytest.mark.parametrize("durable", ["worker", None], ids=["durable", "ephemeral"])
    async def test_it_is_one_span_with_the_stream_and_the_consumer(
        self, durable: str | None, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            subscription = await js.subscribe(f"{stream}.>", durable=durable)
        assert names(telemetry) == ["ambient", f"subscribe {stream}.>"]
        consumer = durable or subscription._consumer
        assert_span(
            telemetry.spans()[1],
            kind=SpanKind.CLIENT,
            attributes=subscribe_attributes(nc, f"{stream}.>", stream, consumer),
            parent=ambient,
            links=[],
        )

    async def test_pull_subscribe_is_one_too(self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str):
        await js.pull_subscribe(f"{stream}.new", "worker")
        assert_span(
            telemetry.span(f"subscribe {stream}.new"),
            kind=SpanKind.CLIENT,
            attributes=subscribe_attributes(nc, f"{stream}.new", stream, "worker"),
            parent=None,
        )
        assert names(telemetry) == [f"subscribe {stream}.new"]

    @pytest.mark.parametrize("method", ["subscribe", "pull_subscribe"])
    async def test_an_unknown_stream_is_an_error(
        self, method: str, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        subject = unique("nowhere")
        with pytest.raises(NotFoundError) as raised:
            await getattr(js, method)(subject, durable="worker", stream="missing")
        assert_span(
            telemetry.span(f"subscribe {subject}"),
            attributes=subscribe_attributes(nc, subject, "missing", "worker", error="10059"),
            status=(StatusCode.ERROR, str(raised.value)),
        )

    @pytest.mark.parametrize("method", ["subscribe", "pull_subscribe"])
    async def test_without_jetstream_it_is_an_error(
        self, method: str, server_factory: ServerFactory, connect: Connect, telemetry: Telemetry
    ):
        nc = await connect(server_factory(jetstream=False))
        with pytest.raises(ServiceUnavailableError) as raised:
            await getattr(nc.jetstream(), method)("orders", durable="worker")
        span = telemetry.span("subscribe orders")
        assert_span(span, status=(StatusCode.ERROR, str(raised.value)))
        assert span.attributes["error.type"] == "nats.js.errors.ServiceUnavailableError"


class TestPushCallback:
    async def test_the_automatic_ack_is_a_child_of_the_process_span(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        handler = Handler()
        with telemetry.tracer.start_as_current_span("at subscribe"):
            await js.subscribe(f"{stream}.>", durable="worker", cb=handler.handle)
        (published,) = await publish(js, telemetry, f"{stream}.new")
        await telemetry.wait_for(f"process {stream}.>")
        process, ack = telemetry.span(f"process {stream}.>"), telemetry.span(f"ack {stream}.>")
        assert_span(
            process,
            kind=SpanKind.CONSUMER,
            attributes=process_attributes(
                nc,
                f"{stream}.new",
                2,
                delivery_attributes(stream, "worker", 1),
                template=f"{stream}.>",
                group="worker",
                settlement="ack",
            ),
            parent=published,
            links=[(published, {})],
        )
        assert_span(
            ack,
            kind=SpanKind.CLIENT,
            attributes=settle_attributes(
                nc, "ack", f"{stream}.new", stream, "worker", 1, template=f"{stream}.>", group="worker"
            ),
            parent=process,
            links=[],
        )
        assert [span_context(span) for span in handler.spans] == [span_context(process)]
        assert len(telemetry.spans()) == 5

    async def test_a_manual_ack_is_one_too_and_there_is_no_second(
        self, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        handler = Handler(lambda msg: msg.ack())
        await js.subscribe(f"{stream}.new", durable="worker", cb=handler.handle, manual_ack=True)
        telemetry.clear()
        await publish(js, telemetry, f"{stream}.new")
        await telemetry.wait_for(f"process {stream}.new")
        assert names(telemetry) == [f"publish {stream}.new", f"process {stream}.new", f"ack {stream}.new"]
        assert_span(telemetry.span(f"ack {stream}.new"), parent=telemetry.span(f"process {stream}.new"))

    @pytest.mark.parametrize("settle", ["ack", "nak", "term", "ack_sync"])
    async def test_a_handler_that_settles_though_nats_py_acks_as_well_has_no_failed_ack(
        self, settle: str, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        handler = Handler(lambda msg: getattr(msg, settle)())
        config = ConsumerConfig(max_deliver=1)
        await js.subscribe(f"{stream}.new", durable="worker", cb=handler.handle, config=config)
        telemetry.clear()
        await publish(js, telemetry, f"{stream}.new")
        await telemetry.wait_for(f"process {stream}.new")
        settled = f"{settle.removesuffix('_sync')} {stream}.new"
        assert names(telemetry) == [f"publish {stream}.new", f"process {stream}.new", settled]
        assert_span(telemetry.span(settled), status=StatusCode.UNSET)
        # The handler's own second ack is its own mistake, then and later.
        with pytest.raises(nats.errors.MsgAlreadyAckdError):
            await handler.messages[0].ack()
        assert_span(telemetry.named(f"ack {stream}.new")[-1], status=StatusCode.ERROR)

    async def test_a_handler_that_raises_marks_its_span_and_does_not_ack(
        self, connect: Connect, telemetry: Telemetry, unique: Unique
    ):
        errors: list[Exception] = []

        async def error_cb(error: Exception) -> None:
            errors.append(error)

        async def fail(msg: Msg) -> None:
            raise RuntimeError("no stock")

        nc = await connect(error_cb=error_cb)
        js = nc.jetstream()
        stream = unique("orders")
        with unseen():
            await js.add_stream(name=stream, subjects=[stream])
        await js.subscribe(stream, durable="worker", cb=fail)
        telemetry.clear()
        await publish(js, telemetry, stream)
        await telemetry.wait_for(f"process {stream}")
        assert names(telemetry) == [f"publish {stream}", f"process {stream}"]
        assert_span(telemetry.span(f"process {stream}"), status=(StatusCode.ERROR, "no stock"), events=["exception"])
        await eventually(lambda: errors)
        assert [str(error) for error in errors] == ["no stock"]

    async def test_a_deliver_group_shares_the_messages_under_its_name(
        self, connect: Connect, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        others = await connect()
        handlers = Handler(), Handler()
        await js.subscribe(f"{stream}.new", queue="workers", cb=handlers[0].handle)
        await others.jetstream().subscribe(f"{stream}.new", queue="workers", cb=handlers[1].handle)
        telemetry.clear()
        published = await publish(js, telemetry, f"{stream}.new", 20)
        processed = await telemetry.wait_for(
            lambda spans: len([span for span in spans if span.name == f"process {stream}.new"]) == 20
        )
        processed = sorted(
            telemetry.named(f"process {stream}.new"),
            key=lambda span: span.attributes["messaging.nats.jetstream.sequence"],
        )
        by_client = {str(client.client_id): client for client in (nc, others)}
        for sequence, (publication, process) in enumerate(zip(published, processed, strict=True), 1):
            client = by_client[process.attributes["messaging.client.id"]]
            delivery = delivery_attributes(stream, "workers", sequence)
            assert_span(
                process,
                attributes={
                    **process_attributes(client, f"{stream}.new", 2, delivery, group="workers", settlement="ack"),
                    "messaging.nats.jetstream.pending": ANY,
                },
                parent=publication,
                links=[publication],
            )
        assert len(handlers[0].messages) + len(handlers[1].messages) == 20

    async def test_a_group_and_a_durable_of_the_configuration_have_their_own_attributes(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        config = ConsumerConfig(durable_name="billing", deliver_group="workers")
        handler = Handler()
        await js.subscribe(f"{stream}.new", config=config, cb=handler.handle)
        telemetry.clear()
        await publish(js, telemetry, f"{stream}.new")
        (process,) = await telemetry.wait_for(f"process {stream}.new")
        delivery = delivery_attributes(stream, "billing", 1)
        assert_span(
            process, attributes=process_attributes(nc, f"{stream}.new", 2, delivery, group="workers", settlement="ack")
        )
        (attributes,) = telemetry.metric("messaging.process.duration")
        assert dict(attributes)["messaging.destination.subscription.name"] == "billing"
        assert dict(attributes)["messaging.consumer.group.name"] == "workers"

    async def test_an_ephemeral_consumer_has_no_group_and_its_name_is_only_an_attribute(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        handler = Handler()
        subscription = await js.subscribe(f"{stream}.new", cb=handler.handle)
        await publish(js, telemetry, f"{stream}.new")
        (process,) = await telemetry.wait_for(f"process {stream}.new")
        consumer = subscription._consumer
        assert_span(
            process,
            attributes=process_attributes(
                nc, f"{stream}.new", 2, delivery_attributes(stream, consumer, 1), settlement="ack"
            ),
        )
        assert_nowhere([consumer], names_and_metrics(telemetry))

    async def test_a_durable_that_exists_already_is_bound_to(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        config = ConsumerConfig(durable_name="worker", deliver_subject=nc.new_inbox(), ack_policy=AckPolicy.EXPLICIT)
        with unseen():
            await js.add_consumer(stream, config)
        handler = Handler()
        await js.subscribe(f"{stream}.new", durable="worker", cb=handler.handle)
        (published,) = await publish(js, telemetry, f"{stream}.new")
        (process,) = await telemetry.wait_for(f"process {stream}.new")
        assert_span(
            process,
            attributes=process_attributes(
                nc, f"{stream}.new", 2, delivery_attributes(stream, "worker", 1), group="worker", settlement="ack"
            ),
            parent=published,
        )

    async def test_binding_to_a_consumer_makes_no_span_and_its_messages_the_same(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        config = ConsumerConfig(
            durable_name="worker",
            deliver_subject=nc.new_inbox(),
            ack_policy=AckPolicy.EXPLICIT,
            filter_subject=f"{stream}.*",
        )
        with unseen():
            await js.add_consumer(stream, config)
        handler = Handler()
        await js.subscribe_bind(stream, config, "worker", cb=handler.handle)
        assert telemetry.spans() == []
        (published,) = await publish(js, telemetry, f"{stream}.new")
        (process,) = await telemetry.wait_for(f"process {stream}.*")
        assert_span(
            process,
            attributes=process_attributes(
                nc,
                f"{stream}.new",
                2,
                delivery_attributes(stream, "worker", 1),
                template=f"{stream}.*",
                group="worker",
                settlement="ack",
            ),
            parent=published,
        )

    async def test_a_message_without_a_context_makes_a_root(
        self, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        handler = Handler()
        await js.subscribe(f"{stream}.new", cb=handler.handle)
        with unseen():
            await js.publish(f"{stream}.new", b"")
        (process,) = await telemetry.wait_for(f"process {stream}.new")
        assert_span(process, parent=None, links=[])


class TestOrderedConsumer:
    async def test_its_messages_are_processed_without_acks(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        handler = Handler()
        subscription = await js.subscribe(f"{stream}.new", cb=handler.handle, ordered_consumer=True)
        consumer = subscription._consumer
        telemetry.clear()
        published = await publish(js, telemetry, f"{stream}.new", 3)
        await telemetry.wait_for(6)
        processed = telemetry.named(f"process {stream}.new")
        assert len(telemetry.spans()) == 6
        for sequence, (publication, process) in enumerate(zip(published, processed, strict=True), 1):
            assert_span(
                process,
                attributes=process_attributes(
                    nc, f"{stream}.new", 2, delivery_attributes(stream, consumer, sequence, pending=ANY)
                ),
                parent=publication,
                links=[publication],
            )
        assert_nowhere([consumer], names_and_metrics(telemetry))

    @since((2, 6), "noticing missed heartbeats")
    async def test_a_reset_makes_no_span_and_the_messages_go_on(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        handler = Handler()
        subscription = await js.subscribe(f"{stream}.new", cb=handler.handle, ordered_consumer=True, idle_heartbeat=0.1)
        first = subscription._consumer
        await publish(js, telemetry, f"{stream}.new")
        await eventually(lambda: handler.messages)
        await telemetry.wait_for(f"process {stream}.new")
        telemetry.clear()
        with unseen():
            await js.delete_consumer(stream, first)
        await eventually(lambda: subscription._consumer != first)
        (published,) = await publish(js, telemetry, f"{stream}.new")
        (process,) = await telemetry.wait_for(f"process {stream}.new")
        assert names(telemetry) == [f"publish {stream}.new", f"process {stream}.new"]
        assert_span(
            process,
            attributes=process_attributes(
                nc,
                f"{stream}.new",
                2,
                delivery_attributes(stream, subscription._consumer, len(handler.messages), consumer_sequence=ANY),
            ),
            parent=published,
            links=[published],
        )
        assert_nowhere([first, subscription._consumer], names_and_metrics(telemetry))


class TestHeartbeatsAndFlowControl:
    async def test_heartbeats_make_no_spans(self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str):
        handler = Handler()
        await js.subscribe(f"{stream}.new", durable="worker", cb=handler.handle, idle_heartbeat=0.1)
        telemetry.clear()
        before = nc.stats["in_msgs"]
        await eventually(lambda: nc.stats["in_msgs"] >= before + 3)
        assert telemetry.spans() == []
        assert handler.messages == []
        await publish(js, telemetry, f"{stream}.new")
        await telemetry.wait_for(f"process {stream}.new")
        assert len(telemetry.named(f"process {stream}.new")) == len(handler.messages) == 1

    async def test_flow_control_makes_no_spans(
        self, connect: Connect, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        watching = await connect()
        flow = await watching.subscribe("$JS.FC.>")
        await flush(watching)
        with unseen():
            for _ in range(60):
                await js.publish(f"{stream}.new", bytes(64000))
        handler = Handler()
        telemetry.clear()
        await js.subscribe(f"{stream}.new", cb=handler.handle, flow_control=True, idle_heartbeat=1)
        await eventually(lambda: len(handler.messages) == 60 and flow.pending_msgs)
        await telemetry.wait_for(
            lambda spans: len([span for span in spans if span.name == f"process {stream}.new"]) == 60
        )
        found = names(telemetry)
        assert {name: found.count(name) for name in found} == {
            f"subscribe {stream}.new": 1,
            f"process {stream}.new": 60,
            f"ack {stream}.new": 60,
        }

    @since((2, 6), "flow control of subscriptions without a callback")
    async def test_flow_control_between_receives_makes_no_spans(
        self, connect: Connect, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        watching = await connect()
        flow = await watching.subscribe("$JS.FC.>")
        await flush(watching)
        with unseen():
            for _ in range(60):
                await js.publish(f"{stream}.new", bytes(64000))
        subscription = await js.subscribe(f"{stream}.new", flow_control=True, idle_heartbeat=1)
        telemetry.clear()
        for _ in range(60):
            await subscription.next_msg(5)
        await eventually(lambda: flow.pending_msgs)
        assert names(telemetry) == [f"receive {stream}.new"] * 60


class TestPushIteration:
    async def test_each_body_is_processed_and_the_context_before_comes_back(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.subscribe(f"{stream}.new", durable="worker")
        telemetry.clear()
        published = await publish(js, telemetry, f"{stream}.new", 3)
        count = 0
        async for msg in subscription.messages:
            await msg.ack()
            count += 1
            if count == 2:
                break
        assert not get_current_span().get_span_context().is_valid
        processed = telemetry.named(f"process {stream}.new")
        acks = telemetry.named(f"ack {stream}.new")
        assert len(telemetry.spans()) == 3 + 2 + 2
        for sequence, (publication, process, ack) in enumerate(zip(published[:2], processed, acks, strict=True), 1):
            assert_span(
                process,
                kind=SpanKind.CONSUMER,
                attributes=process_attributes(
                    nc,
                    f"{stream}.new",
                    2,
                    delivery_attributes(stream, "worker", sequence, pending=ANY),
                    group="worker",
                    settlement="ack",
                ),
                parent=publication,
                links=[publication],
            )
            assert_span(
                ack,
                attributes=settle_attributes(nc, "ack", f"{stream}.new", stream, "worker", sequence, group="worker"),
                parent=process,
            )

    async def test_with_an_ambient_span_the_bodies_are_its_children(
        self, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.subscribe(f"{stream}.new", durable="worker")
        (published,) = await publish(js, telemetry, f"{stream}.new")
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            async for msg in subscription.messages:
                await msg.ack()
                break
            assert get_current_span() is ambient
        assert_span(telemetry.span(f"process {stream}.new"), parent=ambient, links=[published])


class TestPushNextMsg:
    async def test_the_message_is_received_in_its_trace_and_settled_there(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.subscribe(f"{stream}.*", durable="worker")
        telemetry.clear()
        (published,) = await publish(js, telemetry, f"{stream}.new")
        msg = await subscription.next_msg()
        await msg.ack()
        receive = telemetry.span(f"receive {stream}.*")
        assert_span(
            receive,
            kind=SpanKind.CLIENT,
            attributes=receive_attributes(
                nc,
                f"{stream}.new",
                2,
                delivery_attributes(stream, "worker", 1),
                template=f"{stream}.*",
                group="worker",
            ),
            parent=published,
            links=[published],
        )
        assert_span(telemetry.span(f"ack {stream}.*"), parent=receive)
        assert len(telemetry.spans()) == 3

    async def test_waiting_in_vain_makes_no_span(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.subscribe(f"{stream}.new", durable="worker", idle_heartbeat=0.1)
        telemetry.clear()
        before = nc.stats["in_msgs"]
        with pytest.raises(nats.errors.TimeoutError):
            await subscription.next_msg(timeout=0.25)
        assert nc.stats["in_msgs"] > before, "there was no heartbeat"
        assert telemetry.spans() == []


class TestPullFetch:
    async def test_one_message_is_a_batch_that_links_to_its_writer(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.*", "worker")
        telemetry.clear()
        (published,) = await publish(js, telemetry, f"{stream}.new")
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            messages = await subscription.fetch()
        assert messages[0].data == b"hi"
        assert names(telemetry) == [f"publish {stream}.new", "ambient", f"receive {stream}.*"]
        assert_span(
            telemetry.span(f"receive {stream}.*"),
            kind=SpanKind.CLIENT,
            attributes=fetch_attributes(nc, f"{stream}.*", stream, "worker", count=1, template=f"{stream}.*"),
            parent=ambient,
            links=[(published, link_attributes(stream, "worker", 1, f"{stream}.new"))],
        )

    async def test_several_messages_are_one_batch(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        telemetry.clear()
        published = await publish(js, telemetry, f"{stream}.new", 3)
        with unseen():
            await js.publish(f"{stream}.new", b"hi")
        messages = await subscription.fetch(10, timeout=1)
        assert len(messages) == 4
        assert_span(
            telemetry.span(f"receive {stream}.new"),
            attributes=fetch_attributes(nc, f"{stream}.new", stream, "worker", count=4),
            parent=None,
            links=[
                (publication, link_attributes(stream, "worker", sequence, f"{stream}.new", pending=4 - sequence))
                for sequence, publication in enumerate(published, 1)
            ],
        )
        assert len(telemetry.spans()) == 4

    @pytest.mark.skipif(NATS_PY < (2, 6), reason="this nats-py drops what was more than asked for")
    async def test_more_than_asked_for_are_all_counted(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        published = await publish(js, telemetry, f"{stream}.new", 5)
        with unseen():
            # A pull request of an earlier fetch that was cancelled, say.
            await nc.publish(subscription._nms, json.dumps({"batch": 5}).encode(), subscription._deliver)
        await eventually(lambda: subscription.pending_msgs == 5)
        telemetry.clear()
        messages = await subscription.fetch(2, timeout=0.5)
        assert len(messages) == 5
        assert_span(
            telemetry.span(f"receive {stream}.new"),
            attributes=fetch_attributes(nc, f"{stream}.new", stream, "worker", count=5),
            links=published,
        )

    @pytest.mark.parametrize("batch", [1, 3])
    async def test_an_empty_poll_makes_no_span_and_a_duration(
        self, batch: int, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        telemetry.clear()
        with pytest.raises(asyncio.TimeoutError):  # nats-py's own or the plain one
            await subscription.fetch(batch, timeout=0.1)
        assert telemetry.spans() == []
        (duration,) = (
            point.count
            for attributes, point in telemetry.metric("messaging.client.operation.duration").items()
            if ("messaging.operation.name", "receive") in attributes
        )
        assert duration == 1

    @since((2, 8), "the heartbeat of a fetch")
    @pytest.mark.parametrize("batch", [1, 3])
    async def test_heartbeats_before_a_message_are_no_messages(
        self, batch: int, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        telemetry.clear()
        before = nc.stats["in_msgs"]
        fetching = asyncio.ensure_future(subscription.fetch(batch, timeout=1, heartbeat=0.1))
        await eventually(lambda: nc.stats["in_msgs"] >= before + 2)
        (published,) = await publish(js, telemetry, f"{stream}.new")
        assert len(await fetching) == 1
        assert names(telemetry).count(f"receive {stream}.new") == 1
        assert_span(
            telemetry.span(f"receive {stream}.new"),
            attributes=fetch_attributes(nc, f"{stream}.new", stream, "worker", count=1),
            links=[published],
        )

    @since((2, 8), "the heartbeat of a fetch")
    async def test_heartbeats_and_nothing_else_are_an_empty_poll(
        self, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        telemetry.clear()
        with pytest.raises(nats.js.errors.FetchTimeoutError):
            await subscription.fetch(1, timeout=0.3, heartbeat=0.1)
        assert telemetry.spans() == []

    async def test_two_at_a_time_are_two_batches(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        fetches = asyncio.gather(subscription.fetch(1, timeout=5), subscription.fetch(1, timeout=5))
        await asyncio.sleep(0)
        telemetry.clear()
        await publish(js, telemetry, f"{stream}.new", 2)
        batches = await fetches
        assert [len(batch) for batch in batches] == [1, 1]
        received = telemetry.named(f"receive {stream}.new")
        assert sorted(names(telemetry)) == [f"publish {stream}.new"] * 2 + [f"receive {stream}.new"] * 2
        for span in received:
            assert span.attributes["messaging.batch.message_count"] == 1

    async def test_what_stands_in_for_the_subscriptions_next_msg_is_called_and_stays(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        await publish(js, telemetry, f"{stream}.new", 2)
        assert len(await subscription.fetch(1)) == 1
        assert "next_msg" not in vars(subscription._sub)
        subscription._sub.next_msg = mock = AsyncMock(side_effect=subscription._sub.next_msg)
        assert len(await subscription.fetch(1)) == 1
        assert mock.await_count
        assert subscription._sub.next_msg is mock
        assert len(telemetry.named(f"receive {stream}.new")) == 2

    async def test_a_cancelled_fetch_makes_no_span(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        telemetry.clear()
        before = nc.stats["out_msgs"]
        fetching = asyncio.ensure_future(subscription.fetch(timeout=60))
        await eventually(lambda: nc.stats["out_msgs"] > before)
        fetching.cancel()
        with pytest.raises((asyncio.CancelledError, asyncio.TimeoutError)):  # the latter from old releases of nats-py
            await fetching
        assert telemetry.spans() == []

    @pytest.mark.parametrize("arguments", [(0,), (1, -1)])
    async def test_wrong_arguments_are_an_error(
        self, arguments: Any, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        telemetry.clear()
        with pytest.raises(ValueError) as raised:
            await subscription.fetch(*arguments)
        assert_span(
            telemetry.span(f"receive {stream}.new"),
            attributes=fetch_attributes(nc, f"{stream}.new", stream, "worker", error="ValueError"),
            status=(StatusCode.ERROR, str(raised.value)),
            events=["exception"],
        )

    @since((2, 4), "a pull consumer without a durable name")
    async def test_the_made_up_name_of_a_consumer_is_only_an_attribute(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new")
        await publish(js, telemetry, f"{stream}.new")
        for msg in await subscription.fetch():
            await msg.ack()
        consumer = subscription._consumer
        attributes = fetch_attributes(nc, f"{stream}.new", stream, consumer, count=1)
        del attributes["messaging.consumer.group.name"]
        assert_span(telemetry.span(f"receive {stream}.new"), attributes=attributes)
        assert_nowhere([consumer], names_and_metrics(telemetry))

    async def test_a_subscription_from_before_the_instrumentation_is_about_its_stream(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        telemetry.uninstrument()
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        telemetry.instrument()
        (published,) = await publish(js, telemetry, f"{stream}.new")
        for msg in await subscription.fetch():
            await msg.ack()
        attributes = fetch_attributes(nc, stream, stream, "worker", count=1)
        del attributes["messaging.consumer.group.name"]  # nobody told us that the name was chosen
        assert_span(telemetry.span(f"receive {stream}"), attributes=attributes, links=[published])
        assert_span(telemetry.span(f"ack {stream}.new"), parent=telemetry.span(f"process {stream}.new"))


def link_attributes(
    stream: str, consumer: str, sequence: int, subject: str, size: int = 2, **more: Any
) -> dict[str, Any]:
    return {
        "messaging.destination.name": subject,
        "messaging.message.body.size": size,
        **delivery_attributes(stream, consumer, sequence, **more),
    }


class TestPullFetchThatFails:
    @pytest.mark.parametrize("batch", [1, 3])
    async def test_a_consumer_deleted_before_is_an_error(
        self, batch: int, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        with unseen():
            await js.delete_consumer(stream, "worker")
        telemetry.clear()
        with pytest.raises(ServiceUnavailableError) as raised:
            await subscription.fetch(batch, timeout=0.5)
        assert_span(
            telemetry.span(f"receive {stream}.new"),
            kind=SpanKind.CLIENT,
            attributes=fetch_attributes(
                nc, f"{stream}.new", stream, "worker", error="nats.js.errors.ServiceUnavailableError"
            ),
            status=(StatusCode.ERROR, str(raised.value)),
            links=[],
        )

    @pytest.mark.parametrize("batch", [1, 3])
    async def test_a_consumer_deleted_under_it_is_an_error(
        self, batch: int, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        """nats-py goes on waiting, then says no more than that the time is up, or that there is nothing."""
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        telemetry.clear()
        fetching = asyncio.ensure_future(subscription.fetch(batch, timeout=0.5))
        with unseen():
            await eventually_waiting(js, stream)
            await js.delete_consumer(stream, "worker")
        (outcome,) = await asyncio.gather(fetching, return_exceptions=True)
        span = telemetry.span(f"receive {stream}.new")
        if isinstance(outcome, asyncio.TimeoutError):
            error, description = "nats.errors.TimeoutError", f"{outcome}: Consumer Deleted"
        else:
            assert outcome == []
            error, description = "409", "Consumer Deleted"
        assert_span(
            span,
            attributes=fetch_attributes(nc, f"{stream}.new", stream, "worker", error=error),
            status=(StatusCode.ERROR, description),
        )

    async def test_a_refusal_is_heard_after_a_fetch_that_got_something(
        self, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        await publish(js, telemetry, f"{stream}.new", 2)
        for msg in await subscription.fetch(2):
            await msg.ack_sync()
        telemetry.clear()
        fetching = asyncio.ensure_future(subscription.fetch(timeout=0.5))
        with unseen():
            await eventually_waiting(js, stream)
            await js.delete_consumer(stream, "worker")
        with pytest.raises(nats.errors.TimeoutError) as raised:
            await fetching
        assert_span(
            telemetry.span(f"receive {stream}.new"),
            status=(StatusCode.ERROR, f"{raised.value}: Consumer Deleted"),
        )

    @pytest.mark.parametrize("end", ["restart", "kill"])
    async def test_a_server_that_goes_under_it_is_an_error(
        self, end: str, server_factory: ServerFactory, connect: Connect, telemetry: Telemetry
    ):
        server = server_factory()
        nc = await connect(server)
        js = nc.jetstream()
        with unseen():
            await js.add_stream(name="orders", subjects=["orders"])
        subscription = await js.pull_subscribe("orders", "worker")
        telemetry.clear()
        fetching = asyncio.ensure_future(subscription.fetch(timeout=0.7))
        with unseen():
            await eventually_waiting(js, "orders")
        getattr(server, end)()
        with pytest.raises(nats.errors.TimeoutError) as raised:
            await fetching
        span = telemetry.span("receive orders")
        assert_span(span, status=(StatusCode.ERROR, f"{raised.value}: connection lost"))
        assert span.attributes["error.type"] == "nats.errors.TimeoutError"

    async def test_a_fetch_after_a_restart_goes_on(
        self, server_factory: ServerFactory, connect: Connect, telemetry: Telemetry
    ):
        server = server_factory()
        nc = await connect(server)
        js = nc.jetstream()
        with unseen():
            await js.add_stream(name="orders", subjects=["orders"])
        subscription = await js.pull_subscribe("orders", "worker")
        (published,) = await publish(js, telemetry, "orders")
        server.restart()
        await eventually(lambda: nc.stats["reconnects"] and nc.is_connected)
        telemetry.clear()
        assert len(await subscription.fetch()) == 1
        assert_span(
            telemetry.span("receive orders"),
            attributes=fetch_attributes(nc, "orders", "orders", "worker", count=1),
            links=[published],
        )

    async def test_a_client_closed_under_it_is_an_error(
        self, connect: Connect, telemetry: Telemetry, js: JetStreamContext, stream: str
    ):
        nc = await connect()
        subscription = await nc.jetstream().pull_subscribe(f"{stream}.new", "worker")
        telemetry.clear()
        fetching = asyncio.ensure_future(subscription.fetch(timeout=0.5))
        with unseen():
            await eventually_waiting(js, stream)
        await nc.close()
        # Old releases of nats-py go on waiting.
        with pytest.raises((nats.errors.ConnectionClosedError, nats.errors.TimeoutError)) as raised:
            await fetching
        closed = isinstance(raised.value, nats.errors.ConnectionClosedError)
        assert_span(
            telemetry.span(f"receive {stream}.new"),
            status=(StatusCode.ERROR, str(raised.value) if closed else f"{raised.value}: connection lost"),
            events=["exception"] if closed else [],
        )


async def eventually_waiting(js: JetStreamContext, stream: str, consumer: str = "worker") -> None:
    """Waits until the server knows of a pull request."""
    for _ in range(500):
        if (await js.consumer_info(stream, consumer)).num_waiting:
            return
    raise AssertionError("no pull request arrived")


class TestPullSubscribeBind:
    @pytest.mark.parametrize(
        "how",
        [
            pytest.param(lambda js, stream: js.pull_subscribe_bind("worker", stream), id="by position"),
            pytest.param(lambda js, stream: js.pull_subscribe_bind(durable="worker", stream=stream), id="durable"),
            pytest.param(
                lambda js, stream: js.pull_subscribe_bind(consumer="worker", stream=stream),
                id="consumer",
                marks=since((2, 7), "the argument"),
            ),
            pytest.param(
                lambda js, stream: js.pull_subscribe_bind(name="worker", stream=stream),
                id="name",
                marks=since((2, 7), "the argument"),
            ),
            pytest.param(
                lambda js, stream: js.pull_subscribe_bind("other", name="another", durable="worker", stream=stream),
                id="durable before name before consumer",
                marks=since((2, 7), "the argument"),
            ),
        ],
    )
    async def test_it_makes_no_span_and_the_fetch_is_about_the_stream(
        self, how: Callable[..., Any], nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        with unseen():
            await js.add_consumer(stream, durable_name="worker", ack_policy=AckPolicy.EXPLICIT)
        subscription = await how(js, stream)
        assert telemetry.spans() == []
        (published,) = await publish(js, telemetry, f"{stream}.new")
        for msg in await subscription.fetch():
            await msg.ack()
        assert_span(
            telemetry.span(f"receive {stream}"),
            attributes=fetch_attributes(nc, stream, stream, "worker", count=1),
            links=[published],
        )
        process = telemetry.span(f"process {stream}.new")
        assert_span(
            process,
            attributes=process_attributes(
                nc, f"{stream}.new", 2, delivery_attributes(stream, "worker", 1), group="worker", settlement="ack"
            ),
            parent=published,
        )
        assert_span(
            telemetry.span(f"ack {stream}.new"),
            attributes=settle_attributes(nc, "ack", f"{stream}.new", stream, "worker", 1, group="worker"),
            parent=process,
        )

    async def test_without_a_stream_it_fails_as_nats_py_does(self, js: JetStreamContext, telemetry: Telemetry):
        with pytest.raises((ValueError, TypeError)) as raised:
            await js.pull_subscribe_bind("worker")
        telemetry.uninstrument()
        with pytest.raises(type(raised.value)) as plain:
            await js.pull_subscribe_bind("worker")
        assert str(raised.value) == str(plain.value)


class TestFetchedList:
    @pytest.fixture
    async def fetched(
        self, js: JetStreamContext, telemetry: Telemetry, stream: str
    ) -> tuple[list[ReadableSpan], list[Msg]]:
        """The publish spans of three messages, and the list that a fetch made of them; other spans are forgotten."""
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        published = await publish(js, telemetry, f"{stream}.new", 3)
        messages = await subscription.fetch(3)
        telemetry.clear()
        return published, messages

    async def test_each_body_is_processed_in_its_messages_trace(
        self, fetched: tuple[list[ReadableSpan], list[Msg]], nc: Client, telemetry: Telemetry, stream: str
    ):
        published, messages = fetched
        for msg in messages:
            await msg.ack()
        assert not get_current_span().get_span_context().is_valid
        processed, acks = telemetry.named(f"process {stream}.new"), telemetry.named(f"ack {stream}.new")
        assert len(telemetry.spans()) == 6
        for sequence, (publication, process, ack) in enumerate(zip(published, processed, acks, strict=True), 1):
            assert_span(
                process,
                kind=SpanKind.CONSUMER,
                attributes=process_attributes(
                    nc,
                    f"{stream}.new",
                    2,
                    delivery_attributes(stream, "worker", sequence, pending=3 - sequence),
                    group="worker",
                    settlement="ack",
                ),
                parent=publication,
                links=[(publication, {})],
            )
            assert_span(
                ack,
                attributes=settle_attributes(nc, "ack", f"{stream}.new", stream, "worker", sequence, group="worker"),
                parent=process,
            )

    async def test_with_an_ambient_span_the_bodies_are_its_children(
        self, fetched: tuple[list[ReadableSpan], list[Msg]], telemetry: Telemetry, stream: str
    ):
        published, messages = fetched
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            for msg in messages:
                assert get_current_span() is not ambient
                await msg.ack()
            assert get_current_span() is ambient
        for publication, process in zip(published, telemetry.named(f"process {stream}.new"), strict=True):
            assert_span(process, parent=ambient, links=[publication])

    async def test_a_message_is_processed_once_however_often_the_list_is_walked(
        self, fetched: tuple[list[ReadableSpan], list[Msg]], telemetry: Telemetry, stream: str
    ):
        _, messages = fetched
        for msg in messages:
            if msg is messages[1]:
                break
        assert len(telemetry.counter.open) == 2
        assert [msg for msg in messages] == messages[:]  # noqa: C416 (it is the walk that is tested)
        assert len(telemetry.counter.open) == 3
        assert [number for number, _ in enumerate(messages)] == [0, 1, 2]
        assert len(telemetry.counter.open) == 3
        for msg in messages:
            await msg.ack()
        assert [number for number, _ in enumerate(messages)] == [0, 1, 2]
        assert len(telemetry.named(f"process {stream}.new")) == 3
        assert len(telemetry.spans()) == 6

    async def test_a_body_that_raises_leaves_the_context_as_it_was(
        self, fetched: tuple[list[ReadableSpan], list[Msg]], telemetry: Telemetry, stream: str
    ):
        _, messages = fetched
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            try:
                for msg in messages:
                    await msg.ack()
                    raise RuntimeError
            except RuntimeError as error:
                # The exception holds the frame, and the frame the loop's iterator.
                error.__traceback__ = None
            assert get_current_span() is ambient
        assert len(telemetry.named(f"process {stream}.new")) == 1

    async def test_to_its_user_it_is_a_list(self, fetched: tuple[list[ReadableSpan], list[Msg]], telemetry: Telemetry):
        _, messages = fetched
        assert isinstance(messages, list)
        assert (len(messages), messages[0].data, messages[-1] in messages) == (3, b"hi", True)
        assert type(messages[1:]) is list and type(messages + []) is list
        messages.pop()
        messages.clear()
        assert messages == [] and not messages
        assert telemetry.spans() == []


class TestRedelivery:
    async def test_a_message_that_was_refused_is_processed_again_in_the_same_trace(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        async def refuse_once(msg: Msg) -> None:
            await (msg.nak() if msg.metadata.num_delivered == 1 else msg.ack())

        await js.subscribe(f"{stream}.new", durable="worker", cb=refuse_once, manual_ack=True)
        telemetry.clear()
        (published,) = await publish(js, telemetry, f"{stream}.new")
        await telemetry.wait_for(5)
        first, second = telemetry.named(f"process {stream}.new")
        for count, process, settlement in ((1, first, "nak"), (2, second, "ack")):
            assert_span(
                process,
                attributes=process_attributes(
                    nc,
                    f"{stream}.new",
                    2,
                    delivery_attributes(stream, "worker", 1, consumer_sequence=count, delivery_count=count),
                    group="worker",
                    settlement=settlement,
                ),
                parent=published,
                links=[published],
            )
        assert_span(telemetry.span(f"nak {stream}.new"), parent=first)
        assert_span(telemetry.span(f"ack {stream}.new"), parent=second)
        assert list(telemetry.metric("nats.jetstream.redeliveries").values()) == [1]

    async def test_a_fetched_message_is_too(self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str):
        subscription = await js.pull_subscribe(f"{stream}.new", "worker")
        telemetry.clear()
        (published,) = await publish(js, telemetry, f"{stream}.new")
        for _ in range(2):
            for msg in await subscription.fetch():
                await msg.nak()
        first, second = telemetry.named(f"receive {stream}.new")
        assert_span(first, links=[(published, link_attributes(stream, "worker", 1, f"{stream}.new"))])
        redelivery = link_attributes(stream, "worker", 1, f"{stream}.new", consumer_sequence=2, delivery_count=2)
        assert_span(second, links=[(published, redelivery)])
        assert [span.parent.span_id for span in telemetry.named(f"process {stream}.new")] == [
            span_context(published).span_id
        ] * 2

    async def test_the_last_delivery_is_seen_by_its_count(
        self, connect: Connect, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        watching = await connect()
        advisories = Inbox()
        await watching.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>", cb=advisories.take)
        await flush(watching)
        config = ConsumerConfig(max_deliver=2)
        await js.subscribe(f"{stream}.new", durable="worker", cb=refuse, manual_ack=True, config=config)
        telemetry.clear()
        (published,) = await publish(js, telemetry, f"{stream}.new")
        advisory = await advisories.next()
        processed = telemetry.named(f"process {stream}.new")
        assert [span.attributes["messaging.nats.jetstream.delivery_count"] for span in processed] == [1, 2]
        assert json.loads(advisory.data)["deliveries"] == 2
        # The server's own message about it is processed as any other, but belongs to no trace.
        (process,) = await telemetry.wait_for("process $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>")
        assert_span(process, parent=None, links=[])


async def refuse(msg: Msg) -> None:
    await msg.nak()


class TestStreamsOfStreams:
    @pytest.mark.parametrize("how", ["mirror", "source"])
    async def test_a_message_of_a_copy_links_to_its_writer(
        self, how: str, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str, unique: Unique
    ):
        copy = unique("copy")
        # Old releases of nats-py can't write a list of them.
        origin: Any = StreamSource(name=stream) if how == "mirror" or NATS_PY > (2, 6) else {"name": stream}
        with unseen():
            if how == "mirror":
                await js.add_stream(name=copy, mirror=origin)
            else:
                await js.add_stream(name=copy, sources=[origin])
        (published,) = await publish(js, telemetry, f"{stream}.new")
        subscription = await js.pull_subscribe(f"{stream}.new", "worker", stream=copy)
        await subscription.fetch()
        assert_span(
            telemetry.span(f"receive {stream}.new"),
            attributes=fetch_attributes(nc, f"{stream}.new", copy, "worker", count=1),
            links=[(published, link_attributes(copy, "worker", 1, f"{stream}.new"))],
        )
        telemetry.clear()
        await js.get_msg(copy, 1)
        assert_span(telemetry.span(f"get_msg {copy}"), parent=None, links=[published])

    async def test_a_republished_message_is_processed_in_its_writers_trace(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        name = unique("orders")
        with unseen():
            await js.add_stream(
                name=name, subjects=[f"{name}.>"], republish=RePublish(src=f"{name}.>", dest=f"copy.{name}.>")
            )
        handler = Handler()
        await nc.subscribe(f"copy.{name}.*", cb=handler.handle)
        (published,) = await publish(js, telemetry, f"{name}.new")
        (process,) = await telemetry.wait_for(f"process copy.{name}.*")
        assert_span(process, kind=SpanKind.CONSUMER, parent=published, links=[published])
        assert process.attributes["messaging.destination.name"] == f"copy.{name}.new"


class TestDomainsAndPrefixes:
    @pytest.fixture
    async def hub(self, server_factory: ServerFactory, connect: Connect) -> Client:
        config = """
            jetstream { domain: hub }
            mappings = { "own.prefix.>": "$JS.API.>" }
        """
        nc = await connect(server_factory(config))
        with unseen():
            await nc.jetstream().add_stream(name="orders", subjects=["orders.>"])
        return nc

    @pytest.mark.parametrize(
        "options", [{}, {"domain": "hub"}, {"prefix": "own.prefix"}], ids=["default", "domain", "prefix"]
    )
    async def test_every_way_to_the_api_makes_the_same_spans(
        self, options: dict[str, str], hub: Client, telemetry: Telemetry
    ):
        js = hub.jetstream(**options)
        telemetry.clear()
        (published,) = await publish(js, telemetry, "orders.new")
        assert published.attributes["messaging.nats.jetstream.domain"] == "hub"
        await js.stream_info("orders")
        subscription = await js.pull_subscribe("orders.new", "worker")
        await (await subscription.fetch())[0].ack()
        handler = Handler()
        await js.subscribe("orders.new", "push", cb=handler.handle)
        await telemetry.wait_for("process orders.new")
        assert names(telemetry) == [
            "publish orders.new",
            "stream_info orders",
            "subscribe orders.new",
            "receive orders.new",
            "ack orders.new",
            *names(telemetry)[5:],
        ]
        assert sorted(names(telemetry)[5:]) == ["ack orders.new", "process orders.new", "subscribe orders.new"]
        assert_span(
            telemetry.span("receive orders.new"),
            attributes=fetch_attributes(hub, "orders.new", "orders", "worker", count=1),
            links=[published],
        )

    async def test_nothing_is_added_to_what_goes_to_the_api(self, hub: Client, connect: Connect, telemetry: Telemetry):
        with unseen():
            spy = await hub.subscribe("$JS.API.>")
        js = hub.jetstream(prefix="own.prefix")
        with telemetry.tracer.start_as_current_span("ambient"):
            await js.stream_info("orders")
            await (await js.pull_subscribe("orders.new", "worker")).consumer_info()
        await eventually(lambda: spy.pending_msgs >= 3)
        with unseen():
            for _ in range(spy.pending_msgs):
                assert (await spy.next_msg()).headers is None

    @pytest.mark.instrument(excluded_subjects=["$KV.>"])
    async def test_nor_where_a_bucket_is_excluded(self, hub: Client, telemetry: Telemetry):
        with unseen():
            spy = await hub.subscribe("$JS.API.>")
        js = hub.jetstream(prefix="own.prefix")
        bucket = await js.create_key_value(bucket="excluded")
        await bucket.put("key", b"")
        await bucket.delete("key")
        with telemetry.tracer.start_as_current_span("ambient"):
            await bucket.create("key", b"")  # looks for the tombstone first
        await eventually(lambda: spy.pending_msgs >= 2)
        with unseen():
            for _ in range(spy.pending_msgs):
                assert (await spy.next_msg()).headers is None


SHORT_ACK = "$JS.ACK.orders.worker.2.7.9.1700000000000000000.3"
LONG_ACK = "$JS.ACK.hub.account.orders.worker.2.7.9.1700000000000000000.3"


class TestAckSubjects:
    async def test_the_long_form_of_a_server_that_writes_it_is_read(
        self, server_factory: ServerFactory, connect: Connect, telemetry: Telemetry
    ):
        try:
            server = server_factory("feature_flags { js_ack_fc_v2: true }")
        except ServerError:
            pytest.skip("this server writes the short form only")
        nc = await connect(server)
        js = nc.jetstream()
        with unseen():
            await js.add_stream(name="orders", subjects=["orders"])
        subscription = await js.subscribe("orders", durable="worker")
        telemetry.clear()
        (published,) = await publish(js, telemetry, "orders")
        msg = await subscription.next_msg()
        assert len(msg.reply.split(".")) >= 11
        await msg.ack_sync()
        receive = telemetry.span("receive orders")
        delivery = delivery_attributes("orders", "worker", 1)
        assert_span(receive, attributes=receive_attributes(nc, "orders", 2, delivery, group="worker"), parent=published)
        assert_span(
            telemetry.span("ack orders"),
            attributes=settle_attributes(nc, "ack", "orders", "orders", "worker", 1, group="worker"),
            parent=receive,
        )

    @pytest.mark.parametrize(
        "reply",
        [SHORT_ACK, LONG_ACK, f"{LONG_ACK}.random", LONG_ACK.replace("hub", "_")],
        ids=["short", "long", "long with a random token", "long without a domain"],
    )
    async def test_every_form_is_read(
        self, reply: str, nats_server: NatsServer, connect: Connect, telemetry: Telemetry, unique: Unique
    ):
        async with received_with(reply, nats_server, connect, unique) as (nc, msg):
            (process,) = await telemetry.wait_for(f"process {msg.subject}")
            delivery = delivery_attributes("orders", "worker", 7, consumer_sequence=9, delivery_count=2, pending=3)
            assert_span(process, attributes=process_attributes(nc, msg.subject, 2, delivery))
            assert msg.metadata.sequence.stream == 7
            await msg.ack()
            assert_span(
                telemetry.span(f"ack {msg.subject}"),
                attributes=settle_attributes(nc, "ack", msg.subject, "orders", "worker", 7),
                parent=process,
            )

    @pytest.mark.parametrize(
        "reply",
        [
            "$JS.ACK",
            "$JS.ACK.",
            "$JS.ACK.orders",
            SHORT_ACK.replace(".2.", ".two."),
            SHORT_ACK.removesuffix(".3"),
            f"{SHORT_ACK}.4",
            LONG_ACK.replace("1700000000000000000", "now"),
            SHORT_ACK.replace("ACK", "ACKNOWLEDGE"),
        ],
    )
    async def test_what_only_looks_like_one_gives_no_attributes(
        self, reply: str, nats_server: NatsServer, connect: Connect, telemetry: Telemetry, unique: Unique
    ):
        async with received_with(reply, nats_server, connect, unique) as (nc, msg):
            assert msg.reply == reply
            (process,) = await telemetry.wait_for(f"process {msg.subject}")
            expected = process_attributes(nc, msg.subject, 2, {"messaging.message.conversation_id": reply})
            assert_span(process, attributes=expected, status=StatusCode.UNSET)
            await msg.ack()
            ack = telemetry.span(f"ack {msg.subject}")
            assert_span(ack, parent=process)
            assert not [name for name in ack.attributes if "jetstream" in name or "message.id" in name]
            assert_nowhere([reply], names_and_metrics(telemetry))


@asynccontextmanager
async def received_with(
    reply: str, server: NatsServer, connect: Connect, unique: Unique
) -> AsyncIterator[tuple[Client, Msg]]:
    """A message of two bytes that came to a client with this reply subject, which no server lets a client write."""
    subject = unique("orders")
    publisher = await connect()
    async with rewriting_proxy(server.url, "instead.of.it", reply) as url:
        nc = await connect(url)
        inbox = Inbox()
        await nc.subscribe(subject, cb=inbox.take)
        await flush(nc)
        with unseen():
            await publisher.publish(subject, b"hi", reply="instead.of.it")
        yield nc, await inbox.next()
        await nc.close()
