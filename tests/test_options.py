# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The options: what each does, by keyword and by environment variable, and what becomes of a bad one.

The declarative configuration file is in test_configuration_file.py, the hooks in test_hooks.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.nats import InstrumentOptions, NatsConfiguration, environment_variables
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from support.core import Connect, Unique, carrying, process_attributes, receive_attributes, send_attributes
from support.exercises import EXERCISES, Exercise
from support.options import ALL_OPTIONS, OPPOSITES, PROGRAM, SCOPE, VARIABLES, Give, check_program, variables
from support.otlp import OtlpReceiver
from support.processes import run
from support.server import NatsServer
from support.spans import assert_span, span_context, traceparent
from support.stores import watching
from support.telemetry import Telemetry, attribute_set


async def nothing(msg: Msg) -> None:
    pass


def test_every_option_but_hooks_and_providers_has_a_variable_and_a_place_in_a_file():
    options = set(InstrumentOptions.__annotations__)
    objects = {
        "tracer_provider",
        "meter_provider",
        "logger_provider",
        "publish_hook",
        "consume_hook",
        "response_hook",
        "should_trace",
    }
    assert set(NatsConfiguration.__annotations__) == options - objects == set(VARIABLES)
    names = {value for name, value in vars(environment_variables).items() if name.startswith("OTEL_")}
    assert names == set(VARIABLES.values())


class TestUseSpanLinks:
    async def test_off_a_callback_is_a_child_of_the_publish(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        give(use_span_links=False)
        subject = unique()
        await nc.subscribe(subject, cb=nothing)
        await nc.publish(subject, b"hello")
        (process,) = await telemetry.wait_for(f"process {subject}")
        publish = telemetry.span(f"publish {subject}")
        assert_span(process, parent=publish, links=[publish])

    async def test_on_a_callback_starts_a_trace_that_links_to_the_publish(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        give(use_span_links=True)
        subject, inside = unique(), unique("inside")
        tenants: list[object] = []

        async def callback(msg: Msg) -> None:
            tenants.append(baggage.get_baggage("tenant"))
            await nc.publish(inside)

        await nc.subscribe(subject, cb=callback)
        with carrying({"tenant": "acme"}):
            await nc.publish(subject, b"hello")
        (process,) = await telemetry.wait_for(f"process {subject}")
        publish = telemetry.span(f"publish {subject}")
        assert_span(
            process,
            kind=SpanKind.CONSUMER,
            attributes=process_attributes(nc, subject, 5),
            parent=None,
            links=[publish],
        )
        assert span_context(process).trace_id != span_context(publish).trace_id
        assert_span(telemetry.span(f"publish {inside}"), parent=process)
        assert tenants == ["acme"]

    async def test_on_a_loop_body_starts_a_trace_even_under_an_ambient_span(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        give(use_span_links=True)
        subscription = await nc.subscribe(unique())
        await nc.publish(subscription.subject)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            async for _ in subscription.messages:
                assert trace.get_current_span() is not ambient
                break
            assert trace.get_current_span() is ambient
        publish = telemetry.span(f"publish {subscription.subject}")
        assert_span(telemetry.span(f"process {subscription.subject}"), parent=None, links=[publish])

    async def test_on_a_fetched_message_starts_a_trace(
        self, telemetry: Telemetry, give: Give, js: JetStreamContext, unique: Unique
    ):
        give(use_span_links=True)
        stream = unique("stream")
        await js.add_stream(name=stream, subjects=[stream])
        await js.publish(stream)
        for msg in await (await js.pull_subscribe(stream, durable="worker")).fetch(1):
            await msg.ack()
        process = telemetry.span(f"process {stream}")
        assert_span(process, parent=None, links=[telemetry.span(f"publish {stream}")])
        assert_span(telemetry.span(f"ack {stream}"), parent=process)

    async def test_on_a_receive_stays_in_the_trace(self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique):
        give(use_span_links=True)
        subscription = await nc.subscribe(unique())
        await nc.publish(subscription.subject)
        await subscription.next_msg()
        publish = telemetry.span(f"publish {subscription.subject}")
        assert_span(telemetry.span(f"receive {subscription.subject}"), parent=publish, links=[publish])


class TestExcludedSubjects:
    async def test_they_get_no_spans_and_no_metrics(
        self, telemetry: Telemetry, give: Give, connect: Connect, unique: Unique
    ):
        word = unique()
        give(excluded_subjects=[f"{word}.*.quiet", f"{word}.health.>"])
        nc = await connect()
        telemetry.clear()

        async def answer(msg: Msg) -> None:
            await msg.respond(b"pong")

        for subject in (f"{word}.one.quiet", f"{word}.health.a", f"{word}.health.a.b"):
            await nc.subscribe(subject, cb=answer)
            await nc.request(subject, b"ping", timeout=5)
            waiting = await nc.subscribe(subject)
            await nc.publish(subject)
            await waiting.next_msg(5)
            await nc.publish(subject)
            async for _ in waiting.messages:
                break
        # Only the answers, which go to an inbox.
        assert {span.name for span in telemetry.spans()} == {"reply"}
        for name in (
            "messaging.client.sent.messages",
            "messaging.client.consumed.messages",
            "messaging.process.duration",
            "messaging.client.operation.duration",
        ):
            operations = {dict(point).get("messaging.operation.name") for point in telemetry.metric(name)}
            assert operations <= {"connect", "reply"}

    async def test_patterns_are_those_of_nats(self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique):
        word = unique()
        give(excluded_subjects=[f"{word}.*.quiet", f"{word}.health.>"])
        seen = [f"{word}.quiet", f"{word}.one.two.quiet", f"{word}.one.quieter", f"{word}.health", f"{word}.healthy.a"]
        for subject in seen:
            await nc.publish(subject)
        assert [span.name for span in telemetry.spans()] == [f"publish {subject}" for subject in seen]

    async def test_the_current_context_still_travels_through_them(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        word = unique()
        give(excluded_subjects=[f"{word}.>"])
        inside = unique("inside")
        got: asyncio.Queue[Msg] = asyncio.Queue()

        async def callback(msg: Msg) -> None:
            got.put_nowait(msg)
            assert baggage.get_baggage("tenant") == "acme"
            await nc.publish(inside)

        await nc.subscribe(f"{word}.>", cb=callback)
        with telemetry.tracer.start_as_current_span("ambient") as ambient, carrying({"tenant": "acme"}):
            await nc.publish(f"{word}.one", headers={"Own": "1"})
            msg = await asyncio.wait_for(got.get(), 5)
        assert msg.headers == {"Own": "1", "traceparent": traceparent(ambient), "baggage": "tenant=acme"}
        await telemetry.wait_for(f"publish {inside}")
        assert_span(telemetry.span(f"publish {inside}"), parent=ambient)

    async def test_jetstream_and_buckets_are_excluded_by_the_subject_too(
        self, telemetry: Telemetry, give: Give, js: JetStreamContext, unique: Unique
    ):
        stream, bucket = unique("stream"), unique("bucket")
        await js.add_stream(name=stream, subjects=[f"{stream}.>"])
        kv = await js.create_key_value(bucket=bucket)
        give(excluded_subjects=[f"{stream}.>", f"$KV.{bucket}.quiet"])
        telemetry.clear()
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await js.publish(f"{stream}.one")
            await kv.put("quiet", b"1")
        await kv.get("quiet")
        subscription = await js.pull_subscribe(f"{stream}.>", durable="worker")
        (msg,) = await subscription.fetch(1)
        await msg.ack_sync()
        assert [span.name for span in telemetry.spans()] == ["ambient"]
        assert msg.headers == {"traceparent": traceparent(ambient)}

        await kv.put("loud", b"1")
        assert [span.name for span in telemetry.spans()] == ["ambient", f"kv.put {bucket}"]


class TestPropagationExcludedSubjects:
    async def test_messages_on_them_are_sent_as_they_were_given(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        word = unique()
        give(propagation_excluded_subjects=[f"{word}.*"])
        subscription = await nc.subscribe(f"{word}.one")
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await nc.publish(f"{word}.one", b"hello")
            await nc.publish(f"{word}.one", b"hello", headers={"Own": "1"})
        assert [(await subscription.next_msg()).headers for _ in range(2)] == [None, {"Own": "1"}]
        for publish in telemetry.named(f"publish {word}.one"):
            assert_span(publish, attributes=send_attributes(nc, "publish", f"{word}.one", 5), parent=ambient)
        for receive in telemetry.named(f"receive {word}.one"):
            assert_span(receive, parent=None, links=[])

    async def test_so_are_requests_and_what_is_stored(
        self, telemetry: Telemetry, give: Give, nc: Client, js: JetStreamContext, unique: Unique
    ):
        stream, bucket, subject = unique("stream"), unique("bucket"), unique()
        give(propagation_excluded_subjects=[f"{stream}.>", f"$KV.{bucket}.>", subject])
        headers: list[Any] = []

        async def answer(msg: Msg) -> None:
            headers.append(msg.headers)
            await msg.respond(b"")

        await nc.subscribe(subject, cb=answer)
        await nc.request(subject)
        await js.add_stream(name=stream, subjects=[f"{stream}.>"])
        await js.publish(f"{stream}.one")
        kv = await js.create_key_value(bucket=bucket)
        await kv.put("key", b"1")
        headers += [(await js.get_msg(name, 1)).headers for name in (stream, f"KV_{bucket}")]
        assert headers == [None, None, None]
        for name in (f"request {subject}", f"publish {stream}.one", f"kv.put {bucket}"):
            assert telemetry.named(name)

    async def test_others_carry_the_context(self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique):
        word = unique()
        give(propagation_excluded_subjects=[f"{word}.*"])
        subscription = await nc.subscribe(f"{word}.one.two")
        await nc.publish(subscription.subject)
        publish = telemetry.span(f"publish {subscription.subject}")
        assert (await subscription.next_msg()).headers == {"traceparent": traceparent(publish)}


class TestSubjectTemplates:
    async def test_they_name_spans_and_metrics(self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique):
        word = unique()
        give(subject_templates=[f"{word}.*.orders", f"{word}.>"])
        subscription = await nc.subscribe(f"{word}.acme.orders")
        await nc.publish(f"{word}.acme.orders", b"hello")
        await subscription.next_msg()
        template = f"{word}.*.orders"
        publish = telemetry.span(f"publish {template}")
        subject = f"{word}.acme.orders"
        assert_span(publish, attributes=send_attributes(nc, "publish", subject, 5, template=template))
        assert_span(
            telemetry.span(f"receive {template}"), attributes=receive_attributes(nc, subject, 5, template=template)
        )
        (point,) = telemetry.metric("messaging.client.sent.messages")
        assert point == attribute_set(
            {
                "messaging.system": "nats",
                "messaging.operation.name": "publish",
                "messaging.destination.template": template,
                "server.address": nc._current_server.uri.hostname,
                "server.port": nc._current_server.uri.port,
            }
        )

    async def test_the_first_that_matches_wins(self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique):
        word = unique()
        give(subject_templates=[f"{word}.*.orders", f"{word}.>"])
        await nc.publish(f"{word}.acme.orders")
        await nc.publish(f"{word}.acme.refunds")
        await nc.publish(f"{word}.acme.refunds.late")
        await nc.publish(word)
        assert [span.name for span in telemetry.spans()] == [
            f"publish {word}.*.orders",
            f"publish {word}.>",
            f"publish {word}.>",
            f"publish {word}",
        ]

    async def test_they_beat_the_subscriptions_wildcard_and_the_automatic_reduction(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        word = unique()
        give(subject_templates=[f"{word}.*.>"])
        await nc.subscribe(f"{word}.>", cb=nothing)
        await nc.publish(f"{word}.8812.created")
        await telemetry.wait_for(f"process {word}.*.>")
        assert [span.name for span in telemetry.spans()] == [f"publish {word}.*.>", f"process {word}.*.>"]


class TestHeaderCapture:
    SENT = {"X-Tenant": "acme", "x-region": "eu", "X-Private": "no", "Other": "1"}

    @staticmethod
    def captured(span: Any) -> dict[str, Any]:
        return {name: value for name, value in span.attributes.items() if name.startswith("messaging.header.")}

    async def test_included_headers_are_on_the_spans_of_both_sides(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        give(headers_included=["x-*"], headers_excluded=["*-PRIVATE"])
        subscription = await nc.subscribe(unique())
        subject = subscription.subject
        await nc.publish(subject, b"hello", headers=self.SENT)
        await nc.publish(subject, b"hello", headers=self.SENT)
        await subscription.next_msg()
        async for _ in subscription.messages:
            break
        own = {"messaging.header.x-tenant": ("acme",), "messaging.header.x-region": ("eu",)}
        for name, attributes in {
            f"publish {subject}": send_attributes(nc, "publish", subject, 5, **own),
            f"receive {subject}": receive_attributes(nc, subject, 5, **own),
            f"process {subject}": process_attributes(nc, subject, 5, **own),
        }.items():
            for span in await telemetry.wait_for(name):
                assert_span(span, attributes=attributes)

    async def test_of_a_request_the_requests_headers_are_captured(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        async def answer(msg: Msg) -> None:
            await nc.publish(msg.reply, b"", headers={"X-Answer": "1"})

        give(headers_included=["X-*"])
        subject = unique()
        await nc.subscribe(subject, cb=answer)
        await nc.request(subject, headers={"X-Question": "1"})
        await telemetry.wait_for("reply")
        assert self.captured(telemetry.span(f"request {subject}")) == {"messaging.header.x-question": ("1",)}
        assert self.captured(telemetry.span("reply")) == {"messaging.header.x-answer": ("1",)}

    async def test_of_a_batch_they_are_on_the_links(
        self, telemetry: Telemetry, give: Give, js: JetStreamContext, unique: Unique
    ):
        give(headers_included=["x-tenant"])
        stream = unique("stream")
        await js.add_stream(name=stream, subjects=[stream])
        await js.publish(stream, headers=self.SENT)
        await (await js.pull_subscribe(stream, durable="worker")).fetch(1)
        receive = telemetry.span(f"receive {stream}")
        assert self.captured(receive) == {}
        assert self.captured(receive.links[0]) == {"messaging.header.x-tenant": ("acme",)}

    async def test_without_the_option_none_are_captured(self, telemetry: Telemetry, nc: Client, unique: Unique):
        await nc.publish(unique(), headers=self.SENT)
        assert self.captured(telemetry.spans()[0]) == {}

    async def test_propagation_headers_never_are(self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique):
        give(headers_included=["*"])
        subscription = await nc.subscribe(unique())
        sent = {
            "Own": "1",
            "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "tracestate": "a=b",
            "BAGGAGE": "a=b",
            "Xraceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        }
        with carrying({"tenant": "acme"}):
            await nc.publish(subscription.subject, headers=sent)
        await subscription.next_msg()
        assert len(telemetry.spans()) == 2
        for span in telemetry.spans():
            assert self.captured(span) == {"messaging.header.own": ("1",)}

    @pytest.mark.parametrize(
        "name",
        [
            "Authorization",
            "Proxy-Authorization",
            "Cookie",
            "Set-Cookie",
            "X-Auth-Token",
            "client_secret",
            "DB-PASSWORD",
            "X-Api-Key",
        ],
    )
    async def test_values_that_sound_secret_are_redacted(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique, name: str
    ):
        give(headers_included=[name, "plain"])
        subscription = await nc.subscribe(unique())
        await nc.publish(subscription.subject, headers={name: "hunter2", "Plain": "1"})
        assert (await subscription.next_msg()).headers[name] == "hunter2"
        for span in telemetry.spans():
            assert self.captured(span) == {
                f"messaging.header.{name.lower()}": ("[REDACTED]",),
                "messaging.header.plain": ("1",),
            }

    async def test_globs_are_the_shells(self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique):
        give(headers_included=["a*b*c", "x-?", "v[12]"], headers_excluded=["x-9", "*bb*"])
        headers = ["a-b-c", "a-bb-c", "a-b-d", "x-1", "x-9", "x-10", "v1", "v3"]
        await nc.publish(unique(), headers=dict.fromkeys(headers, "1"))
        captured = self.captured(telemetry.spans()[0])
        assert set(captured) == {f"messaging.header.{name}" for name in ("a-b-c", "x-1", "v1")}


class TestActivateNextMsg:
    @pytest.fixture
    def activate(self, give: Give) -> None:
        give(activate_next_msg=True)

    async def published(self, nc: Client, subject: str) -> None:
        with carrying({"tenant": "acme"}):
            await nc.publish(subject)

    async def test_off_nothing_is_current_after_it(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subscription = await nc.subscribe(unique())
        await self.published(nc, subscription.subject)
        await subscription.next_msg()
        assert not context.get_current()

    async def test_on_its_span_and_baggage_stay_current_until_the_next_receive(
        self, telemetry: Telemetry, activate: None, nc: Client, unique: Unique
    ):
        subscription = await nc.subscribe(unique())
        subject, inside = subscription.subject, unique("inside")

        async def work() -> None:
            for _ in range(2):
                await self.published(nc, subject)
            for _ in range(2):
                await subscription.next_msg()
                assert baggage.get_baggage("tenant") == "acme"
                await nc.publish(inside)
            with pytest.raises(asyncio.TimeoutError):
                await subscription.next_msg(timeout=0.01)
            assert not context.get_current()
            await nc.publish(inside)

        await asyncio.ensure_future(work())
        publishes, receives = telemetry.named(f"publish {subject}"), telemetry.named(f"receive {subject}")
        for publish, receive in zip(publishes, receives, strict=True):
            assert_span(receive, parent=publish, links=[publish])
        for publish, parent in zip(telemetry.named(f"publish {inside}"), [*receives, None], strict=True):
            assert_span(publish, parent=parent)

    async def test_an_ambient_span_stays_current(
        self, telemetry: Telemetry, activate: None, nc: Client, unique: Unique
    ):
        subscription = await nc.subscribe(unique())
        await self.published(nc, subscription.subject)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await subscription.next_msg()
            assert trace.get_current_span() is ambient
            assert baggage.get_baggage("tenant") is None
        assert_span(telemetry.span(f"receive {subscription.subject}"), parent=ambient)

    async def test_a_span_opened_since_is_ambient_and_stays_current(
        self, telemetry: Telemetry, activate: None, nc: Client, unique: Unique
    ):
        subscription, other = await nc.subscribe(unique()), await nc.subscribe(unique())
        await self.published(nc, subscription.subject)
        await self.published(nc, other.subject)

        async def work() -> None:
            await subscription.next_msg()
            with telemetry.tracer.start_as_current_span("step") as step:
                await other.next_msg()
                assert trace.get_current_span() is step
            assert current_name() == f"receive {subscription.subject}"

        def current_name() -> str:
            return trace.get_current_span().name  # type: ignore[attr-defined]

        await asyncio.ensure_future(work())
        receive = telemetry.span(f"receive {subscription.subject}")
        step = telemetry.span("step")
        assert_span(step, parent=receive)
        assert_span(telemetry.span(f"receive {other.subject}"), parent=step)

    async def test_it_is_in_the_receiving_task_only(
        self, telemetry: Telemetry, activate: None, nc: Client, unique: Unique
    ):
        subscription = await nc.subscribe(unique())
        await self.published(nc, subscription.subject)
        received, seen = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await subscription.next_msg()
            received.set()
            await seen.wait()
            assert context.get_current()

        task = asyncio.ensure_future(work())
        await received.wait()
        assert not context.get_current()
        seen.set()
        await task
        assert not context.get_current()

    @pytest.mark.skipif(sys.version_info >= (3, 12), reason="asyncio.wait_for no longer makes a task since Python 3.12")
    async def test_under_wait_for_it_is_lost_before_python_3_12(
        self, telemetry: Telemetry, activate: None, nc: Client, unique: Unique
    ):
        subscription = await nc.subscribe(unique())
        await self.published(nc, subscription.subject)
        await asyncio.wait_for(subscription.next_msg(), 5)
        assert not context.get_current()

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.wait_for makes a task before Python 3.12")
    async def test_under_wait_for_it_works_from_python_3_12(
        self, telemetry: Telemetry, activate: None, nc: Client, unique: Unique
    ):
        subscription = await nc.subscribe(unique())
        await self.published(nc, subscription.subject)

        async def work() -> None:
            await asyncio.wait_for(subscription.next_msg(), 5)
            assert baggage.get_baggage("tenant") == "acme"

        await asyncio.ensure_future(work())

    async def test_a_fetch_and_a_loop_end_it_and_activate_nothing(
        self, telemetry: Telemetry, activate: None, nc: Client, js: JetStreamContext, unique: Unique
    ):
        stream, subject = unique("stream"), unique()
        await js.add_stream(name=stream, subjects=[stream])
        await js.publish(stream)
        pull = await js.pull_subscribe(stream, durable="worker")
        subscription = await nc.subscribe(subject)
        for _ in range(3):
            await self.published(nc, subject)

        async def work() -> None:
            await subscription.next_msg()
            assert context.get_current()
            await pull.fetch(1)
            assert not context.get_current()
            await subscription.next_msg()
            async for _ in subscription.messages:
                break
            assert not context.get_current()

        await asyncio.ensure_future(work())
        publish = telemetry.named(f"publish {subject}")[2]
        assert_span(telemetry.span(f"process {subject}"), parent=publish, links=[publish])
        assert_span(telemetry.span(f"receive {stream}"), parent=None)

    async def test_it_works_for_the_updates_of_a_watcher(
        self, telemetry: Telemetry, activate: None, js: JetStreamContext, unique: Unique
    ):
        bucket, inside = unique("bucket"), unique("inside")
        kv = await js.create_key_value(bucket=bucket)
        with carrying({"tenant": "acme"}):
            await kv.put("key", b"1")
        watcher = await watching(kv)

        async def work() -> None:
            await watcher.updates()
            assert baggage.get_baggage("tenant") == "acme"
            await js._nc.publish(inside)
            assert await watcher.updates() is None
            assert not context.get_current()

        await asyncio.ensure_future(work())
        await watcher.stop()
        receive = telemetry.span(f"receive {bucket}")
        assert_span(receive, parent=telemetry.span(f"kv.put {bucket}"))
        assert_span(telemetry.span(f"publish {inside}"), parent=receive)


class TestSubjectNames:
    async def test_by_default_fifty_tokens_of_a_place_keep_their_names(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        give()
        await self.check(telemetry, nc, unique(), 50)

    @pytest.mark.parametrize("limit", [1, 3, 75])
    async def test_that_many_tokens_of_a_place_keep_their_names(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique, limit: int
    ):
        give(subject_names=limit)
        await self.check(telemetry, nc, unique(), limit)

    async def test_with_none_only_what_looks_generated_is_reduced(
        self, telemetry: Telemetry, give: Give, nc: Client, unique: Unique
    ):
        give(subject_names=0)
        await self.check(telemetry, nc, unique(), 100)
        await nc.publish("orders.8812.created")
        assert telemetry.spans()[-1].name == "publish orders.*.created"

    async def check(self, telemetry: Telemetry, nc: Client, word: str, limit: int) -> None:
        subjects = [f"{word}.{a}{b}.done" for a in "ghijklmnop" for b in "ghijklmnop"]
        telemetry.clear()
        for subject in subjects:
            await nc.publish(subject)
        names = [*subjects[:limit], *[f"{word}.*.done"] * (100 - limit)]
        assert [span.name for span in telemetry.spans()] == [f"publish {name}" for name in names]

    async def test_one_warning_says_where_names_ran_out(
        self, telemetry: Telemetry, nc: Client, caplog: pytest.LogCaptureFixture
    ):
        for a in range(100):
            for b in range(40):
                await nc.publish(f"t.{chr(0x4E00 + a)}.u.{chr(0x4E00 + b)}")
        assert len({span.name for span in telemetry.spans()}) <= 1000
        assert warnings(caplog) == [
            "nats instrumentation: too many subjects to give each a name; most differ in token 4 of those that begin"
            " with 't'. Further ones share names with wildcards, or have none. Name them by patterns of yours with"
            " subject_templates (OTEL_PYTHON_NATS_SUBJECT_TEMPLATES), or let fewer tokens of one place keep their names"
            " with subject_names (OTEL_PYTHON_NATS_SUBJECT_NAMES, 50 now)"
        ]


class TestRecordExceptionMessages:
    async def fail(self, nc: Client, js: JetStreamContext, word: str) -> None:
        """Fails in each way in which a text gets onto a span."""

        async def handler(msg: Msg) -> None:
            raise ValueError("secret")

        async def refuse(msg: Msg) -> None:
            headers = {"Nats-Service-Error": "secret", "Nats-Service-Error-Code": "4711"}
            await nc.publish(msg.reply, headers=headers)

        async def ignore(error: Exception) -> None:
            pass

        nc._error_cb = ignore
        await nc.subscribe(f"{word}.raises", cb=handler)
        await nc.publish(f"{word}.raises")
        await nc.subscribe(f"{word}.refuses", cb=refuse)
        await nc.request(f"{word}.refuses")
        with pytest.raises(Exception, match="no responders"):
            await nc.request(f"{word}.nobody")
        with pytest.raises(Exception, match="not found"):
            await js.stream_info(word)

    async def test_off_spans_have_the_types_only(
        self, telemetry: Telemetry, give: Give, nc: Client, js: JetStreamContext, unique: Unique
    ):
        give(record_exception_messages=False)
        word = unique()
        await self.fail(nc, js, word)
        await telemetry.wait_for(f"process {word}.raises")
        process = telemetry.span(f"process {word}.raises")
        (event,) = process.events
        assert (event.name, dict(event.attributes or {})) == ("exception", {"exception.type": "ValueError"})
        types = {}
        for span in telemetry.spans():
            assert "secret" not in span.to_json() and "found" not in span.to_json()
            if not span.status.is_ok and span.status.description is None:
                types[span.name] = span.attributes.get("error.type") if span.attributes else None
        assert types[f"process {word}.raises"] == "ValueError"
        assert types[f"request {word}.refuses"] == "4711"
        assert types[f"request {word}.nobody"] == "nats.errors.NoRespondersError"
        assert types[f"stream_info {word}"] == "10059"
        refused = telemetry.span(f"request {word}.refuses").attributes or {}
        assert refused["messaging.nats.service.error_code"] == "4711"

    async def test_on_spans_have_the_texts(
        self, telemetry: Telemetry, give: Give, nc: Client, js: JetStreamContext, unique: Unique
    ):
        give(record_exception_messages=True)
        word = unique()
        await self.fail(nc, js, word)
        await telemetry.wait_for(f"process {word}.raises")
        process = telemetry.span(f"process {word}.raises")
        assert process.status.description == "secret"
        (event,) = process.events
        assert set(event.attributes or {}) >= {"exception.type", "exception.message", "exception.stacktrace"}
        refused = telemetry.span(f"request {word}.refuses")
        assert refused.status.description == (refused.attributes or {})["messaging.nats.service.error"] == "secret"
        assert telemetry.span(f"stream_info {word}").status.description != ""


class TestProviders:
    async def test_the_given_ones_are_used(self, telemetry: Telemetry, nc: Client, unique: Unique):
        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        meter_provider = MeterProvider([reader], shutdown_on_exit=False)
        telemetry.instrument(tracer_provider=provider, meter_provider=meter_provider)
        subject = unique()
        await nc.publish(subject)
        (span,) = exporter.get_finished_spans()
        assert (span.name, span.instrumentation_scope.name) == (
            f"publish {subject}",
            "opentelemetry.instrumentation.nats",
        )
        data = reader.get_metrics_data()
        assert data is not None
        names = {metric.name for metric in data.resource_metrics[0].scope_metrics[0].metrics}
        assert "messaging.client.sent.messages" in names
        assert telemetry.spans() == [] and telemetry.metric("messaging.client.sent.messages") == {}
        meter_provider.shutdown()

    @pytest.mark.parametrize("name", ["tracer_provider", "meter_provider"])
    async def test_what_is_none_is_warned_about(
        self, telemetry: Telemetry, nc: Client, unique: Unique, caplog: pytest.LogCaptureFixture, name: str
    ):
        telemetry.instrument(**{name: "console"})
        assert warnings(caplog) == [
            f"nats instrumentation: {name} is 'console', not a provider; the global one is used"
        ]
        subscription = await nc.subscribe(unique())
        await nc.publish(subscription.subject, b"hello")
        assert (await subscription.next_msg()).data == b"hello"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    for record in caplog.records:
        assert record.levelno == logging.WARNING and record.name.startswith("opentelemetry.instrumentation.nats")
    return [record.getMessage() for record in caplog.records]


@pytest.fixture
async def flows(nc: Client, unique: Unique) -> Any:
    """Sends a message through, traced, with no option in effect."""

    async def check(telemetry: Telemetry) -> None:
        subject = f"{unique()}.bad"
        await nc.subscribe(subject, cb=nothing)
        telemetry.clear()
        await nc.publish(subject, headers={"X-Own": "1"})
        (process,) = await telemetry.wait_for(f"process {subject}")
        publish = telemetry.span(f"publish {subject}")
        assert_span(publish, attributes=send_attributes(nc, "publish", subject, 0), parent=None)
        assert_span(process, attributes=process_attributes(nc, subject, 0), parent=publish, links=[publish])

    return check


class TestBadValues:
    @pytest.mark.parametrize("name", ["use_span_links", "activate_next_msg"])
    @pytest.mark.parametrize("value", ["maybe", 2, [], "tru e"])
    async def test_what_is_no_boolean_is_warned_about(
        self, telemetry: Telemetry, caplog: pytest.LogCaptureFixture, flows: Any, name: str, value: Any
    ):
        telemetry.instrument(**{name: value})
        assert warnings(caplog) == [f"nats instrumentation: {name} is {value!r}, not true or false; false is used"]
        await flows(telemetry)

    @pytest.mark.parametrize("name", ["use_span_links", "activate_next_msg"])
    async def test_the_warning_names_the_variable(
        self,
        telemetry: Telemetry,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        flows: Any,
        name: str,
    ):
        monkeypatch.setenv(VARIABLES[name], "maybe")
        telemetry.instrument()
        assert warnings(caplog) == [
            f"nats instrumentation: {VARIABLES[name]} is 'maybe', not true or false; false is used"
        ]
        await flows(telemetry)

    @pytest.mark.parametrize("value", ["many", -1, 2.5, True, [], "-3", "2.5", "1e3"])
    async def test_what_is_no_number_is_warned_about(
        self, telemetry: Telemetry, caplog: pytest.LogCaptureFixture, flows: Any, value: Any
    ):
        telemetry.instrument(subject_names=value)
        assert warnings(caplog) == [
            f"nats instrumentation: subject_names is {value!r}, not a number that is not negative; 50 is used"
        ]
        assert used(telemetry).subject_names == 50
        await flows(telemetry)

    @pytest.mark.parametrize(("text", "number"), [("0", 0), (" 7 ", 7), ("50", 50), ("100000", 100_000)])
    def test_every_number_is_understood(
        self,
        telemetry: Telemetry,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        text: str,
        number: int,
    ):
        for value in (number, text, float(number)):
            telemetry.instrument(subject_names=value)
            assert used(telemetry).subject_names == number
        monkeypatch.setenv(VARIABLES["subject_names"], text)
        telemetry.instrument()
        assert used(telemetry).subject_names == number
        assert caplog.records == []

    @pytest.mark.parametrize("source", ["keyword", "variable"])
    async def test_what_defaults_to_true_stays_so(
        self,
        telemetry: Telemetry,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        flows: Any,
        source: str,
    ):
        if source == "keyword":
            telemetry.instrument(record_exception_messages="maybe")
        else:
            monkeypatch.setenv(VARIABLES["record_exception_messages"], "maybe")
            telemetry.instrument()
        name = "record_exception_messages" if source == "keyword" else VARIABLES["record_exception_messages"]
        assert warnings(caplog) == [f"nats instrumentation: {name} is 'maybe', not true or false; true is used"]
        assert used(telemetry).record_exception_messages is True
        await flows(telemetry)

    @pytest.mark.parametrize("text", ["true", "TRUE", " 1 ", "Yes", "on"])
    def test_every_usual_word_for_true_is_understood(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str
    ):
        monkeypatch.setenv(VARIABLES["use_span_links"], text)
        telemetry.instrument()
        assert used(telemetry).use_span_links is True
        telemetry.instrument(use_span_links=text)
        assert used(telemetry).use_span_links is True
        assert caplog.records == []

    @pytest.mark.parametrize("text", ["false", "False", "0", "no", "OFF", "", "  "])
    def test_every_usual_word_for_false_is_understood(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str
    ):
        monkeypatch.setenv(VARIABLES["use_span_links"], text)
        telemetry.instrument()
        assert used(telemetry).use_span_links is False
        assert caplog.records == []

    @pytest.mark.parametrize("name", ["excluded_subjects", "propagation_excluded_subjects", "subject_templates"])
    @pytest.mark.parametrize("pattern", ["a..b", "a.>.b", "a*.b", "a.b>", ".a", "a.", "a b"])
    async def test_an_invalid_pattern_is_warned_about_and_the_others_hold(
        self,
        telemetry: Telemetry,
        give: Give,
        caplog: pytest.LogCaptureFixture,
        request: pytest.FixtureRequest,
        flows: Any,
        name: str,
        pattern: str,
    ):
        give(**{name: [pattern, "good.*"]})
        source = VARIABLES[name] if "variable" in request.node.callspec.id else name
        assert warnings(caplog) == [
            f"nats instrumentation: {source} is {pattern!r}, not a NATS subject pattern; no such pattern is used"
        ]
        assert getattr(used(telemetry), name).patterns == ("good.*",)
        await flows(telemetry)

    @pytest.mark.parametrize(
        "name",
        [
            "excluded_subjects",
            "propagation_excluded_subjects",
            "subject_templates",
            "headers_included",
            "headers_excluded",
        ],
    )
    @pytest.mark.parametrize("value", [42, [1], b"x"])
    async def test_what_is_no_list_of_strings_is_warned_about(
        self, telemetry: Telemetry, caplog: pytest.LogCaptureFixture, flows: Any, name: str, value: Any
    ):
        telemetry.instrument(**{name: value})
        assert warnings(caplog) == [
            f"nats instrumentation: {name} is {value!r}, not a list of strings; what is a string in it is used"
        ]
        await flows(telemetry)

    async def test_an_unknown_option_is_warned_about(
        self, telemetry: Telemetry, caplog: pytest.LogCaptureFixture, flows: Any
    ):
        telemetry.instrument(span_links=True)
        assert warnings(caplog) == ["nats instrumentation: unknown option span_links is ignored"]
        await flows(telemetry)

    def test_a_string_is_a_list_separated_by_commas(self, telemetry: Telemetry, caplog: pytest.LogCaptureFixture):
        telemetry.instrument(excluded_subjects="a.*, b.>,,")
        assert used(telemetry).excluded_subjects.patterns == ("a.*", "b.>")
        assert caplog.records == []

    def test_any_iterable_of_strings_will_do(self, telemetry: Telemetry, caplog: pytest.LogCaptureFixture):
        telemetry.instrument(excluded_subjects=(word for word in ("a", "b")), subject_templates=("c",))
        assert used(telemetry).excluded_subjects.patterns == ("a", "b")
        assert used(telemetry).subject_templates.patterns == ("c",)
        assert caplog.records == []


def used(telemetry: Telemetry) -> Any:
    """The options that are in effect."""
    from opentelemetry.instrumentation.nats import _instrumentor  # noqa: PLC0415

    assert _instrumentor._active is not None
    return _instrumentor._active.options


class TestPrecedence:
    @pytest.mark.parametrize("keyword", [True, False])
    @pytest.mark.parametrize("name", ["use_span_links", "activate_next_msg"])
    def test_a_keyword_beats_the_variable(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, name: str, keyword: bool
    ):
        monkeypatch.setenv(VARIABLES[name], str(not keyword))
        telemetry.instrument(**{name: keyword})
        assert getattr(used(telemetry), name) is keyword
        telemetry.instrument(**{name: None})
        assert getattr(used(telemetry), name) is not keyword

    @pytest.mark.parametrize("name", ["excluded_subjects", "propagation_excluded_subjects", "subject_templates"])
    def test_so_it_does_for_patterns_even_when_it_is_empty(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, name: str
    ):
        monkeypatch.setenv(VARIABLES[name], "variable")
        for given, expected in ((["keyword"], ("keyword",)), ([], ()), (None, ("variable",))):
            telemetry.instrument(**{name: given})
            assert getattr(used(telemetry), name).patterns == expected

    def test_so_it_does_for_headers(self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv(VARIABLES["headers_included"], "variable")
        monkeypatch.setenv(VARIABLES["headers_excluded"], "keyword")
        telemetry.instrument(headers_included=["keyword"], headers_excluded=["variable"])
        assert used(telemetry).headers.selects("keyword") and not used(telemetry).headers.selects("variable")
        telemetry.instrument()
        assert used(telemetry).headers.selects("variable") and not used(telemetry).headers.selects("keyword")

    def test_a_bad_keyword_gets_the_default_and_not_the_variables_value(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ):
        monkeypatch.setenv(VARIABLES["use_span_links"], "true")
        telemetry.instrument(use_span_links="maybe")
        assert used(telemetry).use_span_links is False


class TestSuppression:
    @pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.__name__)
    async def test_suppress_instrumentation_silences_every_call(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, exercise: Exercise
    ):
        telemetry.uninstrument()
        expected = await exercise(await connect(), unique())
        hooked: list[Any] = []
        telemetry.instrument(
            publish_hook=lambda span, message: hooked.append(message),
            consume_hook=lambda span, message: hooked.append(message),
        )
        with suppress_instrumentation():
            nc = await connect()
            assert await exercise(nc, unique()) == expected
            await nc.flush()
        assert telemetry.spans() == [] and telemetry.counter.started == 0 and hooked == []
        # What is left is what the client itself counts.
        assert {name for name in telemetry.metrics() if name.startswith("messaging.")} == set()
        assert telemetry.metric("nats.jetstream.delivery.latency") == {}

    async def test_nothing_is_added_to_messages(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subscription = await nc.subscribe(unique())
        with telemetry.tracer.start_as_current_span("ambient"), suppress_instrumentation():
            await nc.publish(subscription.subject)
        assert (await subscription.next_msg()).headers is None

    async def test_a_loop_inside_of_it_makes_no_spans_and_one_after_it_does(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subscription = await nc.subscribe(unique())
        for _ in range(2):
            await nc.publish(subscription.subject)
        with suppress_instrumentation():
            before = context.get_current()
            async for _ in subscription.messages:
                assert context.get_current() == before
                break
        assert telemetry.named(f"process {subscription.subject}") == []
        async for _ in subscription.messages:
            break
        assert len(telemetry.named(f"process {subscription.subject}")) == 1


class TestInAProcess:
    """Programs under `opentelemetry-instrument`."""

    async def test_every_option_works_by_its_variable(self, nats_server: NatsServer, otlp: OtlpReceiver):
        program = await run(PROGRAM, nats_server.url, env={**otlp.environment("program"), **variables(ALL_OPTIONS)})
        assert program.stderr == ""
        check_program(program, otlp)

    async def test_without_options_the_defaults_hold(self, nats_server: NatsServer, otlp: OtlpReceiver):
        program = await run(PROGRAM, nats_server.url, env=otlp.environment("program"))
        assert program.stderr == ""
        check_program(program, otlp, {})

    async def test_a_program_that_instruments_by_itself_beats_the_variables(
        self, nats_server: NatsServer, otlp: OtlpReceiver
    ):
        program = await run(
            PROGRAM,
            nats_server.url,
            json.dumps(ALL_OPTIONS),
            env={
                **otlp.environment("program"),
                **variables(OPPOSITES),
                "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "nats",
            },
        )
        assert program.stderr == ""
        check_program(program, otlp)

    async def test_bad_variables_are_warned_about_and_the_defaults_hold(
        self, nats_server: NatsServer, otlp: OtlpReceiver
    ):
        bad = {
            VARIABLES["use_span_links"]: "maybe",
            VARIABLES["activate_next_msg"]: "2",
            VARIABLES["excluded_subjects"]: "app..linked",
            VARIABLES["propagation_excluded_subjects"]: "app.>.bare",
            VARIABLES["subject_templates"]: "app.ten*.>",
            VARIABLES["subject_names"]: "few",
            VARIABLES["record_exception_messages"]: "never",
        }
        program = await run(PROGRAM, nats_server.url, env={**otlp.environment("program"), **bad})
        check_program(program, otlp, {})
        lines = program.stderr.splitlines()
        assert len(lines) == len(bad)
        for variable, value in bad.items():
            assert any(line.startswith(f"nats instrumentation: {variable} is {value!r}, not ") for line in lines)

    async def test_disabled_by_name_it_does_nothing(self, nats_server: NatsServer, otlp: OtlpReceiver):
        program = await run(
            PROGRAM,
            nats_server.url,
            env={**otlp.environment("program"), "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "nats"},
        )
        assert (program.returncode, program.stderr) == (0, "")
        assert json.loads(program.stdout) == {"app.quiet.one": None, "app.bare": None}
        assert {span.name for span in otlp.spans} == {"ambient"}
        assert {metric.scope.name for metric in otlp.metrics} & {SCOPE} == set()

    async def test_with_the_sdk_disabled_it_does_nothing(self, nats_server: NatsServer, otlp: OtlpReceiver):
        program = await run(PROGRAM, nats_server.url, env={**otlp.environment("program"), "OTEL_SDK_DISABLED": "true"})
        assert (program.returncode, program.stderr) == (0, "")
        assert json.loads(program.stdout) == {"app.quiet.one": None, "app.bare": None}
        assert otlp.spans == [] and otlp.metrics == []
