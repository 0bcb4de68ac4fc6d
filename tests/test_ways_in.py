# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The rules of docs/semconv for a received message, for every way in which a program gets one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from nats.aio.client import Client

from opentelemetry import baggage, trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from support.core import Unique
from support.server import NatsServer
from support.spans import REMOTE, assert_span, span_context
from support.telemetry import Telemetry
from support.ways_in import WAYS, Way
from support.wire import Wire

HEADERS = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nbaggage: tenant=acme\r\n"
UNSAMPLED = HEADERS.replace(b"-01", b"-00")


SHOWN: list[Any] = []
"""What the consume hook of a test has been shown."""


class Received:
    """A way, opened, and who sends to it."""

    def __init__(self, way: Way, wire: Wire, telemetry: Telemetry) -> None:
        self.way = way
        self._wire = wire
        self._telemetry = telemetry

    async def send(self, headers: bytes | None = HEADERS) -> None:
        """Sends the message, as a client that is none of ours."""
        reply = f"{self.way.name}.answers" if type(self.way).__name__ == "MicroHandler" else ""
        await self._wire.publish(self.way.subject, self.way.body, headers=headers, reply=reply)

    async def span(self) -> ReadableSpan:
        """The span of the message's processing or receive, the only one."""

        def found() -> list[ReadableSpan]:
            return [span for span in self._telemetry.spans() if span.name.split(" ")[0] == self.way.operation]

        await self._telemetry.wait_for(lambda _: found())
        spans = [span for span in found() if "messaging.batch.message_count" not in (span.attributes or {})]
        assert len(spans) == 1, str(self._telemetry)
        return spans[0]

    def none(self) -> None:
        """There is no span of receiving or processing."""
        found = [span.name for span in self._telemetry.spans() if span.name.split(" ")[0] in ("process", "receive")]
        assert found == []


@pytest.fixture(params=WAYS, ids=[way.__name__ for way in WAYS])
async def received(
    request: pytest.FixtureRequest, telemetry: Telemetry, nc: Client, nats_server: NatsServer, unique: Unique
) -> AsyncIterator[Received]:
    way: Way = request.param(nc, unique("way"))
    # Around `subscribe()` a span is current, which no message has to do with.
    with trace.use_span(NonRecordingSpan(SpanContext(7, 7, True, TraceFlags(1)))):
        await way.open()
    telemetry.clear()
    async with Wire(nats_server.url) as wire:
        yield Received(way, wire, telemetry)


async def nothing(_: Any) -> None:
    """Does not look at the message."""


def publishing(nc: Client, subject: str) -> Callable[[Any], Any]:
    async def work(_: Any) -> None:
        await nc.publish(subject, b"")

    return work


class TestEveryWayIn:
    async def test_is_one_span_in_the_trace_of_the_message(self, received: Received):
        await received.send()
        await received.way.take(nothing)
        span = await received.span()
        kind = SpanKind.CONSUMER if received.way.operation == "process" else SpanKind.CLIENT
        assert_span(span, kind=kind, parent=REMOTE, links=[REMOTE])
        assert span.attributes is not None
        assert span.attributes["messaging.system"] == "nats"
        assert span.attributes["messaging.operation.name"] == received.way.operation
        assert span.attributes["messaging.operation.type"] == received.way.operation

    async def test_is_a_root_where_the_message_carries_no_context(self, received: Received):
        await received.send(headers=None)
        await received.way.take(nothing)
        assert_span(await received.span(), parent=None, links=[])

    async def test_has_its_context_and_baggage_around_the_work(
        self, received: Received, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        found: list[Any] = []
        subject = unique("work")

        async def work(_: Any) -> None:
            found.append(baggage.get_all())
            await nc.publish(subject, b"")

        await received.send()
        await received.way.take(work)
        span = await received.span()
        processed = received.way.operation == "process"
        assert_span(telemetry.span(f"publish {subject}"), parent=span if processed else None)
        assert found == [{"tenant": "acme"} if processed else {}]

    async def test_is_a_child_of_the_span_around_it(
        self, received: Received, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique("work")
        await received.send()
        with telemetry.tracer.start_as_current_span("around") as around:
            await received.way.take(publishing(nc, subject))
        span = await received.span()
        parent = around if received.way.in_task else REMOTE
        assert_span(span, parent=parent, links=[REMOTE])
        work = telemetry.span(f"publish {subject}")
        processed = received.way.operation == "process"
        assert_span(work, parent=span if processed else around)

    async def test_puts_back_what_was_current(self, received: Received, telemetry: Telemetry):
        await received.send()
        with telemetry.tracer.start_as_current_span("around") as around:
            await received.way.take(nothing)
            assert trace.get_current_span() is around
        await received.span()

    async def test_is_in_no_trace_of_an_earlier_message(self, received: Received, telemetry: Telemetry):
        await received.send(headers=None)
        await received.way.take(nothing)
        first = await received.span()
        telemetry.clear()
        await received.send(headers=None)
        await received.way.take(nothing)
        assert span_context(await received.span()).trace_id != span_context(first).trace_id

    async def test_ends_where_the_work_fails(self, received: Received, telemetry: Telemetry):
        async def work(_: Any) -> None:
            raise ValueError("broken")

        await received.send()
        with pytest.raises(ValueError, match="broken"):
            await received.way.take(work)
        # Only who calls the work knows what it raised.
        called = not received.way.in_task
        assert_span(
            await received.span(),
            parent=REMOTE,
            status=(StatusCode.ERROR, "broken") if called else StatusCode.UNSET,
            events=["exception"] if called else [],
        )

    async def test_ends_where_the_work_is_cancelled(self, received: Received):
        if not received.way.in_task:
            pytest.skip("nats-py's own task, which the program does not cancel")
        started = asyncio.Event()

        async def work(_: Any) -> None:
            started.set()
            await asyncio.Event().wait()

        await received.send()
        task = asyncio.create_task(received.way.take(work))
        await asyncio.wait_for(started.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task  # on Python 3.10 it keeps the traceback of its cancellation, and so the message
        assert_span(await received.span(), parent=REMOTE)

    async def test_is_counted_once(self, received: Received, telemetry: Telemetry):
        await received.send()
        await received.way.take(nothing)
        await received.span()
        assert sum(telemetry.metric("messaging.client.consumed.messages").values()) == 1  # type: ignore[arg-type]

    async def test_records_no_payload(self, received: Received):
        await received.send()
        await received.way.take(nothing)
        span = await received.span()
        assert "hello" not in span.to_json()

    async def test_is_silent_where_instrumentation_is_suppressed(self, received: Received):
        if not received.way.in_task:
            pytest.skip("nats-py's own task, which has the context of its subscribe()")
        await received.send()
        with suppress_instrumentation():
            await received.way.take(nothing)
        received.none()

    async def test_is_silent_after_uninstrument(self, received: Received, telemetry: Telemetry):
        telemetry.uninstrument()
        await received.send()
        await received.way.take(nothing)
        received.none()

    @pytest.mark.instrument(consume_hook=lambda span, message: SHOWN.append(message))
    async def test_is_shown_to_the_hook_once(self, received: Received):
        taken: list[Any] = []

        async def work(message: Any) -> None:
            taken.append(message)
            if (getattr(message, "reply", None) or "").startswith("$JS.ACK."):
                await message.ack()  # until then its processing goes on, because the test keeps it

        SHOWN.clear()
        await received.send()
        await received.way.take(work)
        await received.span()
        # A fetch shows its message, and its loop shows it again: two spans. A service shows what its request has.
        assert len(SHOWN) == (2 if type(received.way).__name__ == "FetchLoop" else 1)
        assert all(message is taken[0] or message is getattr(taken[0], "_msg", None) for message in SHOWN)

    @pytest.mark.instrument(excluded_subjects=["*", "$KV.>", "$O.>"])
    async def test_is_excluded_with_its_subject(self, received: Received):
        await received.send()
        await received.way.take(nothing)
        received.none()

    @pytest.mark.instrument(use_span_links=True)
    async def test_can_have_a_trace_of_its_own(self, received: Received):
        if received.way.operation != "process":
            pytest.skip("the option is about processing")
        await received.send()
        await received.way.take(nothing)
        assert_span(await received.span(), parent=None, links=[REMOTE])

    @pytest.mark.sampler(ParentBased(ALWAYS_OFF))
    async def test_passes_an_unsampled_context_on(
        self, received: Received, telemetry: Telemetry, nats_server: NatsServer, nc: Client, unique: Unique
    ):
        subject = unique("work")
        await received.send(UNSAMPLED)
        async with Wire(nats_server.url) as wire:
            await wire.subscribe(subject)
            await received.way.take(publishing(nc, subject))
            [traceparent] = [
                line for line in (await wire.frame()).header_lines if line.lower().startswith("traceparent")
            ]
        assert telemetry.spans() == []
        assert not int(traceparent.rpartition("-")[2], 16) & TraceFlags.SAMPLED
        if received.way.operation == "process":
            assert f"{REMOTE.trace_id:032x}" in traceparent
