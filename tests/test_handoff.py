# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`process_message` and `message_context`: work that is done in another task, thread or executor than the delivery."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation.nats import message_context, process_message
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode
from support.core import Unique, carrying, process_attributes
from support.faults import FAULTS_MODULE
from support.spans import AnySpan, assert_span, span_context
from support.stores import watching
from support.telemetry import Telemetry


async def received(nc: Client, subscription: Subscription, data: bytes = b"hello") -> Msg:
    """A message that has been published with baggage and received; no loop, no callback knows of it."""
    with carrying({"tenant": "acme"}):
        await nc.publish(subscription.subject, data)
    return await subscription.next_msg()


def current_span() -> trace.SpanContext:
    return trace.get_current_span().get_span_context()


class TestProcessMessage:
    @pytest.fixture
    async def subscription(self, nc: Client, unique: Unique) -> Subscription:
        return await nc.subscribe(unique())

    def check(
        self,
        telemetry: Telemetry,
        nc: Client,
        *,
        parent: Callable[[ReadableSpan], AnySpan | None] = lambda publish: publish,
        **expected: Any,
    ) -> ReadableSpan:
        """Checks the one process span, given its parent as a function of the span of the publish."""
        (process,) = (span for span in telemetry.spans() if span.kind is SpanKind.CONSUMER)
        subject = process.name.split()[1]
        publish = telemetry.span(f"publish {subject}")
        expected = {
            "attributes": process_attributes(nc, subject, 5),
            "parent": parent(publish),
            "links": [publish],
            **expected,
        }
        assert_span(process, name=f"process {subject}", kind=SpanKind.CONSUMER, **expected)
        return process

    async def test_its_span_is_current_with_the_messages_baggage(
        self, telemetry: Telemetry, nc: Client, subscription: Subscription, unique: Unique
    ):
        msg = await received(nc, subscription)
        inside = unique("inside")
        with process_message(msg) as span:
            assert trace.get_current_span() is span
            assert baggage.get_baggage("tenant") == "acme"
            await nc.publish(inside)
        assert not context.get_current()

        process = self.check(telemetry, nc)
        assert_span(telemetry.span(f"publish {inside}"), parent=process, links=[])

    async def test_an_ambient_span_is_its_parent(self, telemetry: Telemetry, nc: Client, subscription: Subscription):
        msg = await received(nc, subscription)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            with process_message(msg):
                pass
            assert trace.get_current_span() is ambient
        self.check(telemetry, nc, parent=lambda _: ambient)

    @pytest.mark.instrument(use_span_links=True)
    async def test_with_use_span_links_it_starts_a_trace(
        self, telemetry: Telemetry, nc: Client, subscription: Subscription
    ):
        msg = await received(nc, subscription)
        with process_message(msg):
            assert baggage.get_baggage("tenant") == "acme"
        self.check(telemetry, nc, parent=lambda _: None)

    async def test_it_works_through_a_queue_in_another_task(
        self, telemetry: Telemetry, nc: Client, subscription: Subscription
    ):
        queue: asyncio.Queue[Msg | None] = asyncio.Queue()
        currents: list[trace.SpanContext] = []

        async def worker() -> None:
            while (msg := await queue.get()) is not None:
                with process_message(msg):
                    currents.append(current_span())
                assert not context.get_current()

        task = asyncio.ensure_future(worker())
        queue.put_nowait(await received(nc, subscription))
        queue.put_nowait(None)
        await task
        process = self.check(telemetry, nc)
        assert currents == [process.get_span_context()]

    @pytest.mark.parametrize("kind", ["thread", "to_thread", "executor"])
    async def test_it_works_in_a_thread(
        self, telemetry: Telemetry, nc: Client, subscription: Subscription, unique: Unique, kind: str
    ):
        loop = asyncio.get_running_loop()
        msg = await received(nc, subscription)
        inside = unique("inside")

        def work() -> None:
            with process_message(msg):
                assert baggage.get_baggage("tenant") == "acme"
                asyncio.run_coroutine_threadsafe(nc.publish(inside), loop).result(5)
            assert not context.get_current()

        if kind == "thread":
            thread = threading.Thread(target=work)
            thread.start()
            await loop.run_in_executor(None, thread.join)
        elif kind == "to_thread":
            await asyncio.to_thread(work)
        else:
            with ThreadPoolExecutor(1) as executor:
                await loop.run_in_executor(executor, work)

        process = self.check(telemetry, nc)
        assert_span(telemetry.span(f"publish {inside}"), parent=process, links=[])

    async def test_work_that_outlives_its_callback_gets_a_span_of_its_own(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique()
        queue: asyncio.Queue[Msg] = asyncio.Queue()

        async def callback(msg: Msg) -> None:
            queue.put_nowait(msg)

        await nc.subscribe(subject, cb=callback)
        await nc.publish(subject, b"hello")
        await telemetry.wait_for(f"process {subject}")
        with process_message(await queue.get()):
            pass

        publish = telemetry.span(f"publish {subject}")
        for process in await telemetry.wait_for(f"process {subject}"):
            assert_span(process, parent=publish, links=[publish])
        assert len(telemetry.named(f"process {subject}")) == 2

    @pytest.mark.parametrize("where", ["task", "executor"])
    async def test_where_the_callback_waits_for_it_its_span_becomes_current_and_there_is_no_second(
        self, telemetry: Telemetry, nc: Client, unique: Unique, where: str
    ):
        subject, inside = unique(), unique("inside")
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[Msg, asyncio.Future[None]]] = asyncio.Queue()
        spans: list[trace.Span] = []

        async def worker() -> None:
            msg, done = await queue.get()
            with process_message(msg) as span:
                spans.append(span)
                await nc.publish(inside)
            assert not context.get_current()
            done.set_result(None)

        def blocking(msg: Msg) -> None:
            assert not context.get_current()
            with process_message(msg) as span:
                spans.append(span)
                asyncio.run_coroutine_threadsafe(nc.publish(inside), loop).result(5)
            assert not context.get_current()

        async def callback(msg: Msg) -> None:
            spans.append(trace.get_current_span())
            if where == "task":
                done: asyncio.Future[None] = loop.create_future()
                queue.put_nowait((msg, done))
                await done
            else:
                await loop.run_in_executor(None, blocking, msg)
            spans.append(trace.get_current_span())

        task = asyncio.ensure_future(worker())
        await nc.subscribe(subject, cb=callback)
        await nc.publish(subject, b"hello")
        await telemetry.wait_for(f"process {subject}")
        task.cancel()

        process = self.check(telemetry, nc)
        assert_span(telemetry.span(f"publish {inside}"), parent=process)
        assert [span.get_span_context() for span in spans] == [process.get_span_context()] * 3

    async def test_in_a_loop_body_it_is_the_bodys_span(
        self, telemetry: Telemetry, nc: Client, subscription: Subscription
    ):
        await nc.publish(subscription.subject, b"hello")
        async for msg in subscription.messages:
            body = trace.get_current_span()
            with process_message(msg) as span:
                assert span is body
            assert trace.get_current_span() is body
            break
        self.check(telemetry, nc)

    async def test_nested_it_makes_one_span(self, telemetry: Telemetry, nc: Client, subscription: Subscription):
        msg = await received(nc, subscription)
        with process_message(msg) as outer:
            with process_message(msg) as inner:
                assert inner is outer
            assert trace.get_current_span() is outer
        self.check(telemetry, nc)

    async def test_a_fetched_message_that_it_has_processed_gets_no_second_span_from_a_loop(
        self, telemetry: Telemetry, js: JetStreamContext, unique: Unique
    ):
        stream = unique("stream")
        await js.add_stream(name=stream, subjects=[stream])
        await js.publish(stream, b"hello")
        messages = await (await js.pull_subscribe(stream, durable="worker")).fetch(1)
        with process_message(messages[0]) as span:
            await messages[0].ack()
        for _ in messages:
            assert not context.get_current()
        (process,) = telemetry.named(f"process {stream}")
        assert process.get_span_context() == span.get_span_context()
        assert_span(telemetry.span(f"ack {stream}"), parent=process)

    async def test_an_exception_marks_its_span_and_passes_on(
        self, telemetry: Telemetry, nc: Client, subscription: Subscription
    ):
        msg = await received(nc, subscription)
        error = ValueError("no stock")
        with pytest.raises(ValueError) as caught:
            with process_message(msg):
                raise error
        assert caught.value is error
        assert not context.get_current()
        self.check(
            telemetry,
            nc,
            attributes={**process_attributes(nc, subscription.subject, 5), "error.type": "ValueError"},
            status=(StatusCode.ERROR, "no stock"),
            events=["exception"],
        )

    async def test_cancellation_ends_it_without_an_error(
        self, telemetry: Telemetry, nc: Client, subscription: Subscription
    ):
        msg = await received(nc, subscription)
        started = asyncio.Event()

        async def work() -> None:
            with process_message(msg):
                started.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(work())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        self.check(telemetry, nc)

    async def test_an_answer_is_its_child_and_an_answer_after_it_still_belongs_to_it(
        self, telemetry: Telemetry, nc: Client, subscription: Subscription
    ):
        request = asyncio.ensure_future(nc.request(subscription.subject, b"hello", timeout=5))
        msg = await subscription.next_msg()
        with process_message(msg):
            pass
        await msg.respond(b"done")
        await request
        process = telemetry.span(f"process {subscription.subject}")
        assert_span(telemetry.span("reply"), parent=process)

    async def test_a_message_without_a_context_starts_a_trace(
        self, telemetry: Telemetry, nc: Client, subscription: Subscription
    ):
        with suppress_instrumentation():
            await nc.publish(subscription.subject, b"hello")
        msg = await subscription.next_msg()
        with process_message(msg):
            pass
        assert_span(telemetry.span(f"process {subscription.subject}"), parent=None, links=[])

    async def test_a_message_from_before_instrumentation_is_processed_all_the_same(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        telemetry.uninstrument()
        subscription = await nc.subscribe(unique())
        with telemetry.tracer.start_as_current_span("writer") as writer:
            headers: dict[str, str] = {}
            propagate.inject(headers)
        await nc.publish(subscription.subject, b"hello", headers=headers)
        msg = await subscription.next_msg()
        telemetry.instrument()
        with process_message(msg):
            pass
        assert_span(
            telemetry.span(f"process {subscription.subject}"),
            kind=SpanKind.CONSUMER,
            attributes=process_attributes(nc, subscription.subject, 5),
            parent=writer,
            links=[writer],
        )

    async def test_it_is_measured_and_counts_no_second_delivery(
        self, telemetry: Telemetry, nc: Client, subscription: Subscription
    ):
        msg = await received(nc, subscription)
        with process_message(msg):
            pass
        (duration,) = telemetry.metric("messaging.process.duration").values()
        assert duration.count == 1  # type: ignore[union-attr]
        assert list(telemetry.metric("messaging.client.consumed.messages").values()) == [1]

    async def test_without_instrumentation_it_does_nothing(self, nc: Client, unique: Unique):
        subscription = await nc.subscribe(unique())
        await nc.publish(subscription.subject)
        msg = await subscription.next_msg()
        with process_message(msg) as span:
            assert span is INVALID_SPAN
            assert not context.get_current()
        error = ValueError()
        with pytest.raises(ValueError) as caught:
            with process_message(msg):
                raise error
        assert caught.value is error

    async def test_suppressed_it_does_nothing(self, telemetry: Telemetry, nc: Client, subscription: Subscription):
        msg = await received(nc, subscription)
        telemetry.clear()
        with suppress_instrumentation():
            before = context.get_current()
            with process_message(msg) as span:
                assert not span.is_recording()
                assert context.get_current() == before
        assert telemetry.spans() == []

    async def test_of_an_excluded_message_it_only_activates_the_context(
        self, telemetry: Telemetry, nc: Client, subscription: Subscription
    ):
        telemetry.instrument(excluded_subjects=[subscription.subject])
        with telemetry.tracer.start_as_current_span("ambient"):
            msg = await received(nc, subscription)
        with process_message(msg) as span:
            assert not span.is_recording()
            assert current_span().span_id == span_context(telemetry.span("ambient")).span_id
            assert baggage.get_baggage("tenant") == "acme"
        assert not context.get_current()
        assert [span.name for span in telemetry.spans()] == ["ambient"]

    async def test_of_what_is_no_message_it_is_a_warning(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ):
        monkeypatch.setattr(f"{FAULTS_MODULE}.raise_faults", False)
        monkeypatch.setattr(f"{FAULTS_MODULE}._reported", set())
        for thing in (None, b"hello", object()):
            with process_message(thing) as span:
                assert span is INVALID_SPAN
        assert len(caplog.records) == 1
        assert "process_message failed" in caplog.text
        assert telemetry.spans() == []


class TestMessageContext:
    async def test_it_is_the_publishers_context_and_baggage(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subscription = await nc.subscribe(unique())
        msg = await received(nc, subscription)
        found = message_context(msg)
        publish = telemetry.span(f"publish {subscription.subject}")
        assert trace.get_current_span(found).get_span_context().span_id == span_context(publish).span_id
        assert dict(baggage.get_all(found)) == {"tenant": "acme"}
        with telemetry.tracer.start_as_current_span("later", found):
            pass
        assert_span(telemetry.span("later"), parent=publish)

    async def test_it_does_not_depend_on_what_is_current(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subscription = await nc.subscribe(unique())
        with suppress_instrumentation():
            await nc.publish(subscription.subject)
        msg = await subscription.next_msg()
        with telemetry.tracer.start_as_current_span("ambient"), carrying({"tenant": "other"}):
            assert message_context(msg) == context.Context()

    async def test_it_needs_no_instrumentation(self, nc: Client, unique: Unique):
        subscription = await nc.subscribe(unique())
        await nc.publish(
            subscription.subject, headers={"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        )
        found = message_context(await subscription.next_msg())
        assert trace.get_current_span(found).get_span_context().span_id == 0xB7AD6B7169203331

    async def test_it_is_the_writers_for_an_update_of_a_watcher(
        self, telemetry: Telemetry, js: JetStreamContext, unique: Unique
    ):
        bucket = unique("bucket")
        kv = await js.create_key_value(bucket=bucket)
        with carrying({"tenant": "acme"}):
            await kv.put("key", b"1")
        watcher = await watching(kv)
        update = await watcher.updates()
        async for entry in watcher:
            assert entry is None  # the marker for "that was all so far" has no context
            break
        await watcher.stop()
        found = message_context(update)
        put = telemetry.span(f"kv.put {bucket}")
        assert trace.get_current_span(found).get_span_context().span_id == span_context(put).span_id
        assert baggage.get_baggage("tenant", found) == "acme"
        assert message_context(None) == context.Context()

    async def test_a_raising_propagator_leaves_it_empty(
        self, telemetry: Telemetry, nc: Client, unique: Unique, monkeypatch: pytest.MonkeyPatch
    ):
        class Raising(TextMapPropagator):
            def extract(self, *args: Any, **kwargs: Any) -> Any:
                raise ValueError

            def inject(self, *args: Any, **kwargs: Any) -> None:
                raise ValueError

            @property
            def fields(self) -> set[str]:
                return set()

        subscription = await nc.subscribe(unique())
        msg = await received(nc, subscription)
        monkeypatch.setattr(f"{FAULTS_MODULE}.raise_faults", False)
        before = propagate.get_global_textmap()
        propagate.set_global_textmap(Raising())
        try:
            assert message_context(msg) == context.Context()
        finally:
            propagate.set_global_textmap(before)
