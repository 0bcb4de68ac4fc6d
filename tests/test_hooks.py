# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`publish_hook` and `consume_hook`: when they run, what they see, and that nothing they do reaches the program."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js import JetStreamContext

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation.nats import OutgoingMessage, process_message
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, DEFAULT_OFF, Sampler
from opentelemetry.trace import StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from support.core import Connect, Unique
from support.exercises import EXERCISES, Exercise, publish_to_a_callback
from support.faults import FAULTS_MODULE
from support.spans import assert_span, span_context, traceparent
from support.stores import listed, watching
from support.telemetry import Telemetry
from support.waiting import eventually

needs_publish_async = pytest.mark.skipif(
    not hasattr(JetStreamContext, "publish_async"), reason="this nats-py has no publish_async"
)
needs_object_store = pytest.mark.skipif(
    not hasattr(JetStreamContext, "create_object_store"), reason="this nats-py has no object store"
)


class Hook:
    """A hook that keeps what it sees, and marks the span that it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[trace.Span, Any]] = []

    def __call__(self, span: trace.Span, message: Any) -> None:
        assert span.is_recording()
        assert trace.get_current_span() is span
        span.set_attribute("app.hook", len(self.seen))
        self.seen.append((span, message))

    @property
    def messages(self) -> list[Any]:
        return [message for _, message in self.seen]

    @property
    def span_names(self) -> list[str]:
        return [span.name for span, _ in self.seen]  # type: ignore[attr-defined]

    def checked(self, telemetry: Telemetry) -> list[Any]:
        """The messages, after a check that the mark is on each finished span that the hook was given."""
        finished = {span_context(span).span_id: span for span in telemetry.spans()}
        for span, _ in self.seen:
            assert "app.hook" in (finished[span_context(span).span_id].attributes or {})
        return self.messages


@pytest.fixture
def publish_hook(telemetry: Telemetry) -> Hook:
    hook = Hook()
    telemetry.instrument(publish_hook=hook)
    return hook


@pytest.fixture
def consume_hook(telemetry: Telemetry) -> Hook:
    hook = Hook()
    telemetry.instrument(consume_hook=hook)
    return hook


@pytest.fixture
async def stream(js: JetStreamContext, unique: Unique) -> str:
    """A stream, of which every subject under its name belongs to it."""
    name = unique("stream")
    await js.add_stream(name=name, subjects=[f"{name}.>"])
    return name


class TestPublishHook:
    async def test_it_sees_a_publish_as_it_is_sent(
        self, publish_hook: Hook, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject, own = unique(), {"Own": "1"}
        await nc.publish(subject, b"hello", reply="answers", headers=own)

        (message,) = publish_hook.checked(telemetry)
        span = telemetry.span(f"publish {subject}")
        headers = {"Own": "1", "traceparent": traceparent(publish_hook.seen[0][0])}
        assert message == OutgoingMessage(subject, "answers", headers, 5)
        assert span.attributes is not None and span.attributes["app.hook"] == 0
        assert own == {"Own": "1"}

    async def test_what_it_sees_is_what_arrives(self, publish_hook: Hook, nc: Client, unique: Unique):
        subscription = await nc.subscribe(unique())
        await nc.publish(subscription.subject, b"hello", headers={"Own": "1"})
        assert (await subscription.next_msg()).headers == publish_hook.messages[0].headers

    async def test_it_sees_no_headers_where_none_are_sent(
        self, telemetry: Telemetry, publish_hook: Hook, nc: Client, unique: Unique
    ):
        subject = unique()
        telemetry.instrument(publish_hook=publish_hook, propagation_excluded_subjects=[subject])
        await nc.publish(subject)
        assert publish_hook.messages == [OutgoingMessage(subject, "", None, 0)]

    @pytest.mark.parametrize("old_style", [False, True])
    async def test_it_sees_a_request_with_its_inbox(
        self, publish_hook: Hook, telemetry: Telemetry, nc: Client, unique: Unique, old_style: bool
    ):
        async def answer(msg: Any) -> None:
            await msg.respond(b"pong!")

        subject = unique()
        await nc.subscribe(subject, cb=answer)
        await nc.request(subject, b"ping", old_style=old_style)
        await telemetry.wait_for("reply")

        request, reply = publish_hook.checked(telemetry)
        assert publish_hook.span_names == [f"request {subject}", "reply"]
        assert (request.subject, request.size) == (subject, 4)
        assert request.headers == {"traceparent": traceparent(publish_hook.seen[0][0])}
        assert reply.subject == request.reply and request.reply.startswith("_INBOX.")
        assert (reply.reply, reply.size) == ("", 5)
        assert reply.headers == {"traceparent": traceparent(publish_hook.seen[1][0])}

    async def test_it_sees_an_answer_that_is_published_to_the_inbox(
        self, publish_hook: Hook, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        async def answer(msg: Any) -> None:
            await nc.publish(msg.reply, b"pong!")

        subject = unique()
        await nc.subscribe(subject, cb=answer)
        await nc.request(subject, b"ping")
        await telemetry.wait_for("reply")
        assert [message.size for message in publish_hook.checked(telemetry)] == [4, 5]

    async def test_it_sees_a_jetstream_publish_and_not_the_requests_around_it(
        self, publish_hook: Hook, telemetry: Telemetry, js: JetStreamContext, stream: str
    ):
        await js.publish(f"{stream}.one", b"hello", headers={"Nats-Msg-Id": "1"})
        (message,) = publish_hook.checked(telemetry)
        assert publish_hook.span_names == [f"publish {stream}.one"]
        assert (message.subject, message.size) == (f"{stream}.one", 5)
        assert message.reply.startswith("_INBOX.")
        assert message.headers == {"Nats-Msg-Id": "1", "traceparent": traceparent(publish_hook.seen[0][0])}

    @needs_publish_async
    async def test_it_sees_an_asynchronous_publish_before_its_ack(
        self, publish_hook: Hook, telemetry: Telemetry, js: JetStreamContext, stream: str
    ):
        future = await js.publish_async(f"{stream}.one", b"hello")
        assert [message.size for message in publish_hook.messages] == [5]
        await future
        (message,) = publish_hook.checked(telemetry)
        assert message.headers == {"traceparent": traceparent(publish_hook.seen[0][0])}

    async def test_it_sees_one_message_for_each_write_to_a_bucket(
        self, publish_hook: Hook, telemetry: Telemetry, js: JetStreamContext, unique: Unique
    ):
        bucket = unique("bucket")
        kv = await js.create_key_value(bucket=bucket, history=5)
        await kv.put("key", b"hello")
        await kv.update("key", b"hello!", last=1)
        await kv.delete("key")
        await kv.create("key", b"again")
        await kv.purge("key")

        messages = publish_hook.checked(telemetry)
        assert publish_hook.span_names == [
            f"kv.{operation} {bucket}" for operation in ("put", "update", "delete", "create", "purge")
        ]
        assert {message.subject for message in messages} == {f"$KV.{bucket}.key"}
        assert [message.size for message in messages] == [5, 6, 0, 5, 0]
        for (span, message), headers in zip(
            publish_hook.seen,
            (
                {},
                {"Nats-Expected-Last-Subject-Sequence": "1"},
                {"KV-Operation": "DEL"},
                {"Nats-Expected-Last-Subject-Sequence": "0"},
                {"KV-Operation": "PURGE", "Nats-Rollup": "sub"},
            ),
            strict=True,
        ):
            assert message.headers == {**headers, "traceparent": traceparent(span)}

    @needs_object_store
    async def test_it_sees_the_message_that_describes_an_object_and_not_its_chunks(
        self, publish_hook: Hook, telemetry: Telemetry, js: JetStreamContext, unique: Unique
    ):
        bucket = unique("store")
        store = await js.create_object_store(bucket)
        await store.put("image", b"x" * 300_000)
        await store.delete("image")

        put, delete = publish_hook.checked(telemetry)
        assert publish_hook.span_names == [f"object.put {bucket}", f"object.delete {bucket}"]
        assert put.subject.startswith(f"$O.{bucket}.M.") and delete.subject == put.subject
        assert put.size < 1000
        assert put.headers["traceparent"] == traceparent(publish_hook.seen[0][0])

    async def test_it_sees_nothing_where_nothing_is_sent(
        self, publish_hook: Hook, js: JetStreamContext, stream: str, unique: Unique
    ):
        await js.publish(f"{stream}.one")
        publish_hook.seen.clear()
        subscription = await js.pull_subscribe(f"{stream}.>", durable="worker")
        for msg in await subscription.fetch(1):
            await msg.ack()
        kv = await js.create_key_value(bucket=unique("bucket"))
        await kv.status()
        assert publish_hook.seen == []

    async def test_it_does_not_run_for_an_excluded_subject(self, telemetry: Telemetry, nc: Client, unique: Unique):
        hook, subject = Hook(), unique()
        telemetry.instrument(publish_hook=hook, consume_hook=hook, excluded_subjects=[subject])
        subscription = await nc.subscribe(subject)
        await nc.publish(subject)
        await nc.publish(subject)
        await subscription.next_msg()
        async for _ in subscription.messages:
            break
        assert hook.seen == []

    @pytest.mark.sampler(ALWAYS_OFF)
    async def test_it_does_not_run_where_the_span_is_not_recorded(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        hook = Hook()
        telemetry.instrument(publish_hook=hook, consume_hook=hook)
        subscription = await nc.subscribe(unique())
        await nc.publish(subscription.subject)
        await nc.publish(subscription.subject)
        await subscription.next_msg()
        async for _ in subscription.messages:
            break
        assert hook.seen == []


class TestConsumeHook:
    async def test_it_sees_the_message_of_a_callback_with_its_baggage(
        self, consume_hook: Hook, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique()
        order: list[str] = []
        tenants: list[object] = []

        def hook(span: trace.Span, msg: Any) -> None:
            consume_hook(span, msg)
            order.append("hook")
            tenants.append(baggage.get_baggage("tenant"))

        async def callback(msg: Any) -> None:
            order.append("callback")
            assert msg is consume_hook.messages[0]

        telemetry.instrument(consume_hook=hook)
        await nc.subscribe(subject, cb=callback)
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        await nc.publish(subject, b"hello")
        context.detach(token)
        await telemetry.wait_for(f"process {subject}")

        assert [message.data for message in consume_hook.checked(telemetry)] == [b"hello"]
        assert consume_hook.span_names == [f"process {subject}"]
        assert (order, tenants) == (["hook", "callback"], ["acme"])

    async def test_it_sees_each_message_of_a_loop(
        self, consume_hook: Hook, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subscription = await nc.subscribe(unique())
        for data in (b"1", b"2"):
            await nc.publish(subscription.subject, data)
        seen: list[Any] = []
        async for msg in subscription.messages:
            seen.append(msg)
            assert consume_hook.messages == seen
            if len(seen) == 2:
                break
        assert consume_hook.checked(telemetry) == seen
        assert consume_hook.span_names == [f"process {subscription.subject}"] * 2

    async def test_it_sees_the_message_of_next_msg(
        self, consume_hook: Hook, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subscription = await nc.subscribe(unique())
        await nc.publish(subscription.subject)
        msg = await subscription.next_msg()
        assert consume_hook.checked(telemetry) == [msg]
        assert consume_hook.span_names == [f"receive {subscription.subject}"]

    async def test_it_sees_a_fetched_message_when_it_is_received_and_when_it_is_processed(
        self, consume_hook: Hook, telemetry: Telemetry, js: JetStreamContext, stream: str
    ):
        await js.publish(f"{stream}.one")
        await js.publish(f"{stream}.two")
        subscription = await js.pull_subscribe(f"{stream}.>", durable="worker")
        messages = await subscription.fetch(2)
        first, second = list.__iter__(messages)
        assert consume_hook.messages == [first, second]
        for msg in messages:
            await msg.ack()
        assert consume_hook.checked(telemetry) == [first, second, first, second]
        assert consume_hook.span_names == [f"receive {stream}.>"] * 2 + [f"process {stream}.>"] * 2

    async def test_it_sees_the_entries_of_a_bucket(
        self, consume_hook: Hook, telemetry: Telemetry, js: JetStreamContext, unique: Unique
    ):
        bucket = unique("bucket")
        kv = await js.create_key_value(bucket=bucket)
        await kv.put("one", b"1")
        await kv.put("two", b"2")
        got = await kv.get("one")
        (history,) = await listed(lambda: kv.history("two"))
        watcher = await watching(kv)
        update = await watcher.updates()
        async for entry in watcher:
            assert consume_hook.messages[-1] is entry
            break
        await watcher.stop()

        assert consume_hook.checked(telemetry) == [got, history, update, entry]
        assert consume_hook.span_names == [
            f"{operation} {bucket}" for operation in ("kv.get", "kv.history", "receive", "process")
        ]

    async def test_it_sees_a_stored_message(
        self, consume_hook: Hook, telemetry: Telemetry, js: JetStreamContext, stream: str
    ):
        await js.publish(f"{stream}.one")
        read = [await js.get_msg(stream, 1), await js.get_last_msg(stream, f"{stream}.one")]
        assert consume_hook.checked(telemetry) == read
        assert consume_hook.span_names == [f"get_msg {stream}", f"get_last_msg {stream}"]

    @needs_object_store
    async def test_it_sees_the_info_of_an_object(
        self, consume_hook: Hook, telemetry: Telemetry, js: JetStreamContext, unique: Unique
    ):
        bucket = unique("store")
        store = await js.create_object_store(bucket)
        await store.put("image", b"hello")
        got = await store.get("image")
        info = await store.get_info("image")
        (listed,) = await store.list()
        watcher = await store.watch()
        async for update in watcher:
            assert consume_hook.messages[-1] is update
            break
        await watcher.stop()

        assert consume_hook.checked(telemetry) == [got.info, info, listed, update]
        assert consume_hook.span_names == [
            f"{operation} {bucket}" for operation in ("object.get", "object.get_info", "object.list", "process")
        ]

    async def test_it_sees_the_message_of_process_message(
        self, consume_hook: Hook, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subscription = await nc.subscribe(unique())
        await nc.publish(subscription.subject)
        msg = await subscription.next_msg()
        with process_message(msg):
            assert consume_hook.messages == [msg, msg]
        consume_hook.checked(telemetry)

    async def test_it_does_not_see_an_empty_poll_or_an_answer(self, consume_hook: Hook, nc: Client, unique: Unique):
        async def answer(msg: Any) -> None:
            await msg.respond(b"pong")

        subject = unique()
        subscription = await nc.subscribe(unique())
        with pytest.raises(asyncio.TimeoutError):
            await subscription.next_msg(timeout=0.01)
        await nc.subscribe(subject, cb=answer)
        await nc.request(subject)
        assert consume_hook.span_names == [f"process {subject}"]


class TestResponseHook:
    @pytest.mark.parametrize("old_style", [False, True])
    async def test_it_sees_the_answer_with_the_requests_span(
        self, telemetry: Telemetry, nc: Client, unique: Unique, old_style: bool
    ):
        hook = Hook()
        telemetry.instrument(response_hook=hook)

        async def answer(msg: Any) -> None:
            await nc.publish(msg.reply, b"pong", headers={"X-Cache": "hit"})

        subject = unique()
        await nc.subscribe(subject, cb=answer)
        response = await nc.request(subject, b"ping", old_style=old_style, timeout=5)
        await telemetry.wait_for("reply")
        assert hook.checked(telemetry) == [response]
        assert hook.messages[0] is response and response.headers["X-Cache"] == "hit"
        assert hook.span_names == [f"request {subject}"]

    async def test_it_does_not_run_without_an_answer_a_span_or_a_request(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique
    ):
        hook, quiet, stream = Hook(), unique(), unique("stream")
        telemetry.instrument(response_hook=hook, excluded_subjects=[quiet])

        async def answer(msg: Any) -> None:
            await msg.respond(b"pong")

        await nc.subscribe(quiet, cb=answer)
        await nc.request(quiet, timeout=5)
        with pytest.raises(NoRespondersError):
            await nc.request(unique())
        await js.add_stream(name=stream, subjects=[stream])
        await js.publish(stream)
        assert hook.seen == []

    async def test_what_it_does_there_is_a_call_of_the_programs(self, telemetry: Telemetry, nc: Client, unique: Unique):
        tasks: list[asyncio.Task[None]] = []

        def hook(span: trace.Span, message: Any) -> None:
            tasks.append(asyncio.get_running_loop().create_task(nc.publish("answered")))

        async def answer(msg: Any) -> None:
            await msg.respond(b"pong")

        telemetry.instrument(response_hook=hook)
        subject = unique()
        await nc.subscribe(subject, cb=answer)
        await nc.request(subject, timeout=5)
        await tasks[0]
        assert_span(telemetry.span("publish answered"), parent=telemetry.span(f"request {subject}"))

    @pytest.mark.parametrize("error", [ValueError("hook"), asyncio.CancelledError()], ids=["exception", "cancelled"])
    async def test_one_that_raises_changes_nothing_and_is_logged_once(
        self,
        telemetry: Telemetry,
        nc: Client,
        unique: Unique,
        faults_are_logged: None,
        caplog: pytest.LogCaptureFixture,
        error: BaseException,
    ):
        def hook(span: trace.Span, message: Any) -> None:
            raise error

        async def answer(msg: Any) -> None:
            await nc.publish(msg.reply, headers={"Nats-Service-Error": "no", "Nats-Service-Error-Code": "7"})

        telemetry.instrument(response_hook=hook)
        subject = unique()
        await nc.subscribe(subject, cb=answer)
        for _ in range(2):
            assert (await nc.request(subject, timeout=5)).data == b""
        for request in telemetry.named(f"request {subject}"):
            assert request.status.status_code is StatusCode.ERROR
        assert fault_warnings(caplog) == [
            "nats instrumentation: the response hook failed; messages go on, telemetry may be missing (logged once)"
        ]


async def outcome(exercise: Exercise, connect: Connect, name: str) -> Any:
    errors: list[Exception] = []

    async def error_cb(error: Exception) -> None:
        errors.append(error)

    nc = await connect(error_cb=error_cb)
    result = await exercise(nc, name)
    return result, errors


@pytest.fixture
def faults_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a user's program: a fault is logged and swallowed, each place once."""
    monkeypatch.setattr(f"{FAULTS_MODULE}.raise_faults", False)
    monkeypatch.setattr(f"{FAULTS_MODULE}._reported", set())


Check = Callable[[Exercise, dict[str, Any]], Awaitable[None]]


@pytest.fixture
def changes_nothing(
    telemetry: Telemetry, connect: Connect, unique: Unique, faults_are_logged: None, caplog: pytest.LogCaptureFixture
) -> Check:
    """Compares what a program gets without instrumentation and with it, given these options."""

    async def check(exercise: Exercise, options: dict[str, Any]) -> None:
        telemetry.uninstrument()
        before = await outcome(exercise, connect, unique())
        telemetry.instrument(**options)
        assert await outcome(exercise, connect, unique()) == before

    return check


def fault_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == FAULTS_MODULE]


@pytest.fixture(params=EXERCISES, ids=lambda exercise: exercise.__name__)
def exercise(request: pytest.FixtureRequest) -> Exercise:
    return request.param


class TestHooksThatFail:
    @pytest.mark.parametrize("error", [ValueError("hook"), asyncio.CancelledError()], ids=["exception", "cancelled"])
    async def test_a_raising_hook_changes_no_result(
        self, exercise: Exercise, changes_nothing: Check, error: BaseException
    ):
        def hook(span: trace.Span, message: Any) -> None:
            raise error

        await changes_nothing(exercise, {"publish_hook": hook, "consume_hook": hook, "response_hook": hook})

    async def test_it_is_logged_once_with_its_name_and_stack_trace(
        self,
        telemetry: Telemetry,
        nc: Client,
        unique: Unique,
        faults_are_logged: None,
        caplog: pytest.LogCaptureFixture,
    ):
        def publish_hook(span: trace.Span, message: OutgoingMessage) -> None:
            raise ValueError("too early")

        def consume_hook(span: trace.Span, msg: Any) -> None:
            raise ValueError("too late")

        telemetry.instrument(publish_hook=publish_hook, consume_hook=consume_hook)
        subscription = await nc.subscribe(unique())
        for _ in range(3):
            await nc.publish(subscription.subject)
            await subscription.next_msg()

        assert fault_warnings(caplog) == [
            "nats instrumentation: the publish hook failed; messages go on, telemetry may be missing (logged once)",
            "nats instrumentation: the consume hook failed; messages go on, telemetry may be missing (logged once)",
        ]
        assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["too early", "too late"]
        # The spans are whole all the same.
        assert len(telemetry.spans()) == 6
        for span in telemetry.spans():
            assert_span(span, status=StatusCode.UNSET, events=[])

    async def test_a_hook_that_leaves_a_context_behind_leaves_none(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        def hook(span: trace.Span, message: Any) -> None:
            context.attach(trace.set_span_in_context(trace.INVALID_SPAN))

        telemetry.instrument(publish_hook=hook, consume_hook=hook)
        subscription = await nc.subscribe(unique())
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await nc.publish(subscription.subject)
            await subscription.next_msg()
            assert trace.get_current_span() is ambient

    @pytest.mark.parametrize("option", ["publish_hook", "consume_hook", "response_hook", "should_trace"])
    async def test_what_is_no_hook_is_warned_about_and_not_called(
        self, telemetry: Telemetry, nc: Client, unique: Unique, caplog: pytest.LogCaptureFixture, option: str
    ):
        async def coroutine_function(span: trace.Span, message: Any) -> None:
            raise AssertionError

        class CallableObject:
            async def __call__(self, span: trace.Span, message: Any) -> None:
                raise AssertionError

        for hook in (
            "app.hooks:publish",
            coroutine_function,
            functools.partial(coroutine_function),
            CallableObject(),
            CallableObject().__call__,
        ):
            caplog.clear()
            telemetry.instrument(**{option: hook})
            assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
                (
                    logging.WARNING,
                    f"nats instrumentation: {option} is {hook!r}, not a plain function; no hook is used",
                )
            ]
            subscription = await nc.subscribe(unique())
            await nc.publish(subscription.subject, b"hello")
            assert (await subscription.next_msg()).data == b"hello"

    @pytest.mark.parametrize("hook", [print, Hook(), Hook().__call__, lambda span, message: None])
    def test_whatever_else_can_be_called_is_a_hook(
        self, telemetry: Telemetry, caplog: pytest.LogCaptureFixture, hook: Any
    ):
        telemetry.instrument(publish_hook=hook, consume_hook=hook)
        assert caplog.records == []


class Broken(Exception):
    """What parts of OpenTelemetry that a user plugged in raise."""


class BrokenSampler(Sampler):
    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        raise Broken

    def get_description(self) -> str:
        return "broken"


class BrokenIds(RandomIdGenerator):
    def generate_span_id(self) -> int:
        raise Broken


class BrokenStart(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise Broken


class BrokenEnd(SpanProcessor):
    def on_end(self, span: Any) -> None:
        raise Broken


class BrokenPropagator(TraceContextTextMapPropagator):
    """One of whose three parts raises."""

    def __init__(self, broken: str) -> None:
        self._broken = broken
        self.raised = False

    def _use(self, what: str) -> None:
        if what == self._broken:
            self.raised = True
            raise Broken

    def inject(self, *args: Any, **kwargs: Any) -> None:
        self._use("inject")
        super().inject(*args, **kwargs)

    def extract(self, *args: Any, **kwargs: Any) -> context.Context:
        self._use("extract")
        return super().extract(*args, **kwargs)

    @property
    def fields(self) -> set[str]:
        self._use("fields")
        return super().fields


class BrokenMeterProvider(MeterProvider):
    """Whose histograms can't be recorded to."""

    def get_meter(self, *args: Any, **kwargs: Any) -> Any:
        meter = super().get_meter(*args, **kwargs)
        create = meter.create_histogram

        def create_histogram(*args: Any, **kwargs: Any) -> Any:
            histogram = create(*args, **kwargs)

            def record(*args: Any, **kwargs: Any) -> None:
                raise Broken

            histogram.record = record  # type: ignore[method-assign]
            return histogram

        meter.create_histogram = create_histogram  # type: ignore[method-assign]
        return meter


@pytest.fixture
def set_propagator() -> Iterator[Callable[[TextMapPropagator], None]]:
    before = propagate.get_global_textmap()
    yield propagate.set_global_textmap
    propagate.set_global_textmap(before)


def tracer_provider(
    sampler: Sampler = ALWAYS_ON, ids: IdGenerator | None = None, processors: Sequence[SpanProcessor] = ()
) -> dict[str, Any]:
    provider = TracerProvider(sampler=sampler, id_generator=ids, shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    return {"tracer_provider": provider}


class TestPartsOfOpenTelemetryThatFail:
    @pytest.mark.parametrize(
        "options",
        [
            tracer_provider(sampler=BrokenSampler()),
            tracer_provider(ids=BrokenIds()),
            tracer_provider(DEFAULT_OFF, BrokenIds()),
            tracer_provider(processors=[BrokenStart()]),
            tracer_provider(processors=[BrokenEnd()]),
            {"meter_provider": BrokenMeterProvider(shutdown_on_exit=False)},
        ],
        ids=[
            "sampler",
            "id generator",
            "id generator, sampled out",
            "processor on_start",
            "processor on_end",
            "histogram",
        ],
    )
    async def test_they_change_no_result(
        self,
        exercise: Exercise,
        changes_nothing: Check,
        caplog: pytest.LogCaptureFixture,
        options: dict[str, Any],
    ):
        await changes_nothing(exercise, options)
        assert fault_warnings(caplog)

    @pytest.mark.parametrize("broken", ["inject", "extract", "fields"])
    async def test_nor_does_a_propagator(
        self,
        exercise: Exercise,
        changes_nothing: Check,
        set_propagator: Callable[[TextMapPropagator], None],
        caplog: pytest.LogCaptureFixture,
        broken: str,
    ):
        propagator = BrokenPropagator(broken)
        set_propagator(propagator)
        await changes_nothing(exercise, {"headers_included": ["*"]})
        assert bool(fault_warnings(caplog)) == propagator.raised
        assert propagator.raised or exercise is not publish_to_a_callback

    async def test_a_broken_propagator_takes_no_span_away(
        self,
        telemetry: Telemetry,
        nc: Client,
        unique: Unique,
        set_propagator: Callable[[TextMapPropagator], None],
        faults_are_logged: None,
    ):
        hook, subject = Hook(), unique()
        telemetry.instrument(publish_hook=hook, consume_hook=hook)

        async def callback(msg: Any) -> None:
            pass

        await nc.subscribe(subject, cb=callback)
        for broken in ("inject", "extract"):
            set_propagator(BrokenPropagator(broken))
            await nc.publish(subject, headers={"Own": "1"})
            await eventually(lambda: len(telemetry.named(f"process {subject}")) == 1)
            assert hook.span_names == [f"publish {subject}", f"process {subject}"]
            telemetry.clear()
            hook.seen.clear()

    async def test_the_users_own_exception_is_the_one_that_arrives(
        self, telemetry: Telemetry, nc: Client, unique: Unique, faults_are_logged: None
    ):
        telemetry.instrument(**tracer_provider(processors=[BrokenEnd()]))
        subscription = await nc.subscribe(unique())
        await nc.publish(subscription.subject)
        error = KeyError("mine")
        with pytest.raises(KeyError) as caught:
            async for _ in subscription.messages:
                raise error
        assert caught.value is error
