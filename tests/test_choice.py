# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`included_subjects` and `should_trace`: which operations are told, and that the context goes through the others."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from opentelemetry import trace
from opentelemetry.instrumentation.nats import _faults
from support.core import Connect, Unique, process_attributes, receive_attributes, send_attributes
from support.options import Give
from support.spans import assert_span
from support.stores import watching
from support.telemetry import Telemetry

MESSAGE_METRICS = (
    "messaging.client.sent.messages",
    "messaging.client.consumed.messages",
    "messaging.process.duration",
    "messaging.client.operation.duration",
    "nats.client.processing.messages",
)


def destinations(telemetry: Telemetry) -> set[Any]:
    """The destinations that metrics tell of, the server but for the connect among them."""
    points = [dict(point) for name in MESSAGE_METRICS for point in telemetry.metric(name)]
    return {
        point.get("messaging.destination.name", point.get("messaging.destination.template"))
        for point in points
        if point.get("messaging.operation.name") != "connect"
    }


async def every_way(nc: Client, subject: str) -> None:
    """Sends and receives on a subject in each way of core NATS."""

    async def answer(msg: Msg) -> None:
        await msg.respond(b"pong")

    called = await nc.subscribe(subject, cb=answer)
    await nc.request(subject, b"ping", timeout=5)
    await called.unsubscribe()
    waiting = await nc.subscribe(subject)
    await nc.publish(subject, b"hello")
    await waiting.next_msg(5)
    await nc.publish(subject, b"hello")
    async for _ in waiting.messages:
        break
    await waiting.unsubscribe()


class TestIncludedSubjects:
    async def test_only_they_have_spans_and_metrics(self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique):
        word = unique()
        give(included_subjects=[f"{word}.told.>"])
        await every_way(nc, f"{word}.other")
        assert telemetry.spans() == []
        assert destinations(telemetry) == set()

        told = f"{word}.told.one"
        await every_way(nc, told)
        await telemetry.wait_for("reply")
        names = ["request", "process", "reply", "publish", "receive", "publish", "process"]
        assert [span.name.split()[0] for span in telemetry.spans()] == names
        assert {span.name for span in telemetry.spans()} == {f"{name} {told}" for name in names if name != "reply"} | {
            "reply"
        }
        assert destinations(telemetry) == {told, None}

    async def test_the_context_travels_through_the_others(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        word = unique()
        give(included_subjects=[f"{word}.told"])

        async def callback(msg: Msg) -> None:
            await nc.publish(f"{word}.told", b"hello")

        await nc.subscribe(f"{word}.other", cb=callback)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await nc.publish(f"{word}.other")
        (publish,) = await telemetry.wait_for(f"publish {word}.told")
        assert_span(publish, attributes=send_attributes(nc, "publish", f"{word}.told", 5), parent=ambient)

    async def test_what_is_on_both_lists_is_excluded(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        word = unique()
        give(included_subjects=[f"{word}.>"], excluded_subjects=[f"{word}.quiet"])
        await nc.publish(f"{word}.quiet")
        await nc.publish(f"{word}.loud")
        assert [span.name for span in telemetry.spans()] == [f"publish {word}.loud"]

    async def test_an_answer_goes_with_the_message_that_it_answers(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        word = unique()
        give(included_subjects=[f"{word}.told"])
        answered = asyncio.Event()

        async def publish(msg: Msg) -> None:
            await nc.publish(msg.reply, b"pong")

        async def respond(msg: Msg) -> None:
            await msg.respond(b"pong")
            answered.set()

        await nc.subscribe(f"{word}.other", cb=respond)
        await nc.request(f"{word}.other", timeout=5)
        assert answered.is_set() and telemetry.spans() == []
        await nc.subscribe(f"{word}.told", cb=publish)
        await nc.request(f"{word}.told", timeout=5)
        await telemetry.wait_for(f"process {word}.told")
        assert telemetry.named("reply") == []

    async def test_streams_and_buckets_go_by_their_subjects(
        self, telemetry: Telemetry, give: Give, js: JetStreamContext, unique: Unique
    ):
        stream, bucket = unique("stream"), unique("bucket")
        await js.add_stream(name=stream, subjects=[f"{stream}.>"])
        kv = await js.create_key_value(bucket=bucket)
        give(included_subjects=[f"{stream}.*", f"{stream}.told.>", f"$KV.{bucket}.told"])
        telemetry.clear()
        for key in ("told", "other"):
            await js.publish(f"{stream}.{key}.one", b"1")
            await kv.put(key, b"1")
            await kv.get(key)
        assert [span.name for span in telemetry.spans()] == [
            f"publish {stream}.told.one",
            f"kv.put {bucket}",
            f"kv.get {bucket}",
        ]


class Asked:
    """A predicate that keeps what it is asked, and says no to some."""

    def __init__(self, *refused: str) -> None:
        self.questions: list[tuple[str, str]] = []
        self.refused = refused

    def __call__(self, operation: str, subject: str) -> bool:
        self.questions.append((operation, subject))
        return operation not in self.refused and subject not in self.refused


class TestShouldTrace:
    async def test_it_is_asked_once_for_each_operation(self, telemetry: Telemetry, connect: Connect, unique: Unique):
        asked = Asked()
        telemetry.instrument(should_trace=asked)
        nc = await connect()
        assert asked.questions.pop() == ("connect", "")
        subject = unique()
        await every_way(nc, subject)
        kinds = [operation for operation, _ in asked.questions]
        assert sorted(kinds) == sorted(["request", "process", "reply", "publish", "receive", "publish", "process"])
        assert {told for operation, told in asked.questions if operation != "reply"} == {subject}
        await telemetry.wait_for(lambda spans: len(spans) == 8)
        assert {span.name for span in telemetry.spans()} - {"reply"} == {
            *(f"{name} {subject}" for name in ("request", "process", "publish", "receive")),
            telemetry.spans()[0].name,
        }

    async def test_what_it_refuses_has_no_spans_and_no_metrics(self, telemetry: Telemetry, nc: Client, unique: Unique):
        word = unique()
        telemetry.instrument(should_trace=Asked(f"{word}.quiet", "reply"))
        await every_way(nc, f"{word}.quiet")
        assert telemetry.spans() == []
        assert destinations(telemetry) == set()
        await every_way(nc, f"{word}.loud")
        assert destinations(telemetry) == {f"{word}.loud"}

    async def test_it_decides_about_each_call_anew(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject, answers = unique(), iter([True, False, True])
        telemetry.instrument(should_trace=lambda operation, subject: next(answers))
        for payload in (b"1", b"22", b"333"):
            await nc.publish(subject, payload)
        assert [(span.attributes or {})["messaging.message.body.size"] for span in telemetry.spans()] == [1, 3]
        assert list(telemetry.metric("messaging.client.sent.messages").values()) == [2]

    async def test_the_context_travels_through_what_it_refuses(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject, inside = unique(), unique("inside")
        telemetry.instrument(should_trace=Asked(subject))
        seen: asyncio.Queue[trace.SpanContext] = asyncio.Queue()

        async def callback(msg: Msg) -> None:
            seen.put_nowait(trace.get_current_span().get_span_context())
            await nc.publish(inside)

        await nc.subscribe(subject, cb=callback)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await nc.publish(subject)
        assert (await asyncio.wait_for(seen.get(), 5)).span_id == ambient.get_span_context().span_id
        (publish,) = await telemetry.wait_for(f"publish {inside}")
        assert_span(publish, parent=ambient)

    async def test_without_the_process_span_the_work_hangs_on_the_publish(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject, inside = unique(), unique("inside")
        telemetry.instrument(should_trace=Asked("process"))

        async def callback(msg: Msg) -> None:
            await nc.publish(inside)
            raise ValueError("nobody tells")

        await nc.subscribe(subject, cb=callback)
        nc._error_cb = _ignore
        await nc.publish(subject)
        (publish,) = await telemetry.wait_for(f"publish {inside}")
        assert_span(publish, parent=telemetry.span(f"publish {subject}"))
        assert {span.name for span in telemetry.spans()} == {f"publish {subject}", f"publish {inside}"}
        assert telemetry.metric("messaging.process.duration") == {}

    async def test_the_subject_is_the_exact_one_behind_wildcards(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        word = unique()
        telemetry.instrument(should_trace=Asked(f"{word}.1.quiet"))
        subscription = await nc.subscribe(f"{word}.>")
        for subject in (f"{word}.1.quiet", f"{word}.2.loud"):
            await nc.publish(subject, b"hello")
            await subscription.next_msg()
        receive = telemetry.span(f"receive {word}.>")
        attributes = receive_attributes(nc, f"{word}.2.loud", 5, template=f"{word}.>")
        assert_span(receive, attributes=attributes)

    async def test_streams_batches_and_acknowledgements(
        self, telemetry: Telemetry, js: JetStreamContext, unique: Unique
    ):
        stream = unique("stream")
        asked = Asked(f"{stream}.quiet", "ack", "add_stream")
        telemetry.instrument(should_trace=asked)
        await js.add_stream(name=stream, subjects=[f"{stream}.>"])
        for kind in ("quiet", "loud"):
            await js.publish(f"{stream}.{kind}", b"hello")
        subscription = await js.pull_subscribe(f"{stream}.>", durable="worker")
        for msg in await subscription.fetch(2, timeout=5):
            await msg.ack()
        assert ("add_stream", stream) in asked.questions and ("ack", f"{stream}.loud") in asked.questions
        assert [span.name for span in telemetry.spans()] == [
            f"publish {stream}.loud",
            f"subscribe {stream}.>",
            f"receive {stream}.>",
            f"process {stream}.>",
        ]
        receive = telemetry.span(f"receive {stream}.>")
        assert (receive.attributes or {})["messaging.batch.message_count"] == 1
        (consumed,) = telemetry.metric("messaging.client.consumed.messages").values()
        assert consumed == 1

    async def test_buckets_are_asked_about_by_key(self, telemetry: Telemetry, js: JetStreamContext, unique: Unique):
        bucket = unique("bucket")
        asked = Asked(f"$KV.{bucket}.quiet")
        telemetry.instrument(should_trace=asked)
        kv = await js.create_key_value(bucket=bucket)
        for key in ("quiet", "loud"):
            await kv.put(key, b"1")
            await kv.get(key)
        watcher = await watching(kv)
        await watcher.updates()
        await watcher.stop()
        assert [span.name for span in telemetry.spans()] == [
            f"create_key_value {bucket}",
            f"kv.put {bucket}",
            f"kv.get {bucket}",
            f"kv.watch {bucket}",
            f"receive {bucket}",
        ]
        assert asked.questions == [
            ("create_key_value", bucket),
            *((operation, f"$KV.{bucket}.{key}") for key in ("quiet", "loud") for operation in ("kv.put", "kv.get")),
            ("kv.watch", f"$KV.{bucket}.>"),
            ("receive", f"$KV.{bucket}.>"),
        ]

    async def test_what_patterns_exclude_it_is_not_asked_about(self, telemetry: Telemetry, nc: Client, unique: Unique):
        word, asked = unique(), Asked()
        telemetry.instrument(should_trace=asked, excluded_subjects=[f"{word}.quiet"])
        await nc.publish(f"{word}.quiet")
        await nc.publish(f"{word}.loud")
        assert asked.questions == [("publish", f"{word}.loud")]

    async def test_one_that_raises_is_logged_once_and_traces(
        self,
        telemetry: Telemetry,
        nc: Client,
        unique: Unique,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ):
        def should_trace(operation: str, subject: str) -> bool:
            raise RuntimeError("no idea")

        monkeypatch.setattr(_faults, "raise_faults", False)
        monkeypatch.setattr(_faults, "_reported", set())
        telemetry.instrument(should_trace=should_trace)
        subscription = await nc.subscribe(unique())
        await nc.publish(subscription.subject, b"hello")
        async for _ in subscription.messages:
            break
        assert_span(
            telemetry.span(f"process {subscription.subject}"),
            attributes=process_attributes(nc, subscription.subject, 5),
        )
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            "nats instrumentation: should_trace failed; messages go on, telemetry may be missing (logged once)"
        ]

    @pytest.mark.parametrize("predicate", [True, "orders.>", _faults])
    async def test_what_can_not_be_called_is_warned_about(
        self, telemetry: Telemetry, nc: Client, unique: Unique, caplog: pytest.LogCaptureFixture, predicate: Any
    ):
        telemetry.instrument(should_trace=predicate)
        assert [record.getMessage() for record in caplog.records] == [
            f"nats instrumentation: should_trace is {predicate!r}, not a plain function; no hook is used"
        ]
        await nc.publish(unique())
        assert len(telemetry.spans()) == 1


async def _ignore(error: Exception) -> None:
    pass
