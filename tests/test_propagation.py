# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Trace context and baggage in message headers: byte for byte on the way out, in every spelling on the way in."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import nats
import pytest
from multidict import CIMultiDict, MultiDict
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, Header

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from support.processes import run
from support.server import NatsServer, release
from support.spans import OTHER, REMOTE, assert_span, connection_attributes, span_context, traceparent
from support.telemetry import Telemetry
from support.waiting import eventually, flush
from support.wire import Frame, Wire

Connect = Callable[..., Awaitable[Client]]
ServerFactory = Callable[..., NatsServer]
Unique = Callable[[str], str]


class Collected:
    """Keeps the messages that a callback gets, and what is current in it."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.spans: list[SpanContext] = []
        self.baggage: list[Mapping[str, object]] = []

    async def take(self, msg: Any) -> None:
        self.messages.append(msg)
        self.spans.append(trace.get_current_span().get_span_context())
        self.baggage.append(dict(baggage.get_all()))

    async def wait_for(self, count: int) -> list[Any]:
        await eventually(lambda: len(self.messages) >= count)
        return self.messages


class TestHeadersSent:
    async def test_are_lower_case_and_nothing_else(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        subject = unique("orders")
        await wire.subscribe(subject)
        await nc.publish(subject, b"12")
        span = telemetry.span(f"publish {subject}")
        assert await wire.frame() == Frame(
            subject, "", f"NATS/1.0\r\ntraceparent: {traceparent(span)}\r\n\r\n".encode(), b"12"
        )

    async def test_come_after_the_callers(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        subject = unique("orders")
        await wire.subscribe(subject)
        headers = {"X-Tenant": "a", "nats-msg-id": "1", "UPPER": "é".encode().decode()}
        await nc.publish(subject, headers=headers)
        assert (await wire.frame()).header_lines == [
            "X-Tenant: a",
            "nats-msg-id: 1",
            "UPPER: é",
            f"traceparent: {traceparent(telemetry.span(f'publish {subject}'))}",
        ]

    async def test_carry_the_trace_state_and_the_baggage(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject = unique("orders")
        await wire.subscribe(subject)
        state = trace.TraceState([("vendor", "x")])
        ambient = NonRecordingSpan(SpanContext(REMOTE.trace_id, REMOTE.span_id, True, TraceFlags(1), state))
        before = context.get_current()
        context.attach(baggage.set_baggage("tenant", "a b", trace.set_span_in_context(ambient)))
        await nc.publish(subject)
        context.attach(before)
        span = telemetry.span(f"publish {subject}")
        assert span.parent == ambient.get_span_context()
        assert (await wire.frame()).header_lines == [
            f"traceparent: {traceparent(span)}",
            "tracestate: vendor=x",
            "baggage: tenant=a+b",
        ]

    @pytest.mark.parametrize("old_style", [False, True])
    async def test_of_a_request_carry_its_span(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, old_style: bool
    ):
        subject = unique("prices")
        await wire.subscribe(subject)
        headers = {"X-Tenant": "a"}
        request = asyncio.ensure_future(nc.request(subject, b"", 5, old_style, headers))
        frame = await wire.frame()
        await wire.publish(frame.reply)
        await request
        span = telemetry.span(f"request {subject}")
        # nats-py drops the headers of an old-style request.
        assert frame.header_lines == [*([] if old_style else ["X-Tenant: a"]), f"traceparent: {traceparent(span)}"]
        assert headers == {"X-Tenant": "a"}

    async def test_of_a_stored_message_carry_its_span(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, wire: Wire, unique: Unique
    ):
        subject = unique("orders")
        await js.add_stream(name=subject, subjects=[subject])
        await wire.subscribe(subject)
        headers = {"X-Tenant": "a"}
        await js.publish(subject, b"", headers=headers)
        span = telemetry.span(f"publish {subject}")
        assert (await wire.frame()).header_lines == ["X-Tenant: a", f"traceparent: {traceparent(span)}"]
        assert headers == {"X-Tenant": "a"}

    @pytest.mark.parametrize("headers", [{}, {"X-Tenant": "a"}, {"Traceparent": traceparent(REMOTE)}])
    async def test_never_change_what_the_caller_gave(
        self, telemetry: Telemetry, nc: Client, unique: Unique, headers: dict[str, str]
    ):
        given = dict(headers)
        await nc.publish(unique("orders"), headers=given)
        await nc.publish(unique("orders"), b"", "", given)
        assert given == headers

    async def test_may_be_given_as_any_mapping(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        subject = unique("orders")
        await wire.subscribe(subject)
        await nc.publish(subject, headers=types.MappingProxyType({"X-Tenant": "a"}))  # type: ignore[arg-type]
        assert (await wire.frame()).header_lines == [
            "X-Tenant: a",
            f"traceparent: {traceparent(telemetry.span(f'publish {subject}'))}",
        ]

    @pytest.mark.parametrize("kind", [MultiDict, CIMultiDict])
    async def test_keep_the_duplicates_of_a_multidict(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, kind: Callable[..., Any]
    ):
        subject = unique("orders")
        await wire.subscribe(subject)
        pairs = [("X-Tag", "a"), ("X-Other", "c"), ("X-Tag", "b")]
        headers = kind(pairs)
        await nc.publish(subject, headers=headers)
        assert (await wire.frame()).header_lines == [
            "X-Tag: a",
            "X-Other: c",
            "X-Tag: b",
            f"traceparent: {traceparent(telemetry.span(f'publish {subject}'))}",
        ]
        assert list(headers.items()) == pairs

    async def test_may_have_enums_as_names(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, wire: Wire, unique: Unique
    ):
        subject = unique("orders")
        await js.add_stream(name=subject, subjects=[subject])
        await wire.subscribe(subject)
        headers = {Header.MSG_ID: "1", Header.EXPECTED_STREAM: subject}
        await nc.publish(subject, headers=headers)  # type: ignore[arg-type]
        assert (await js.publish(subject, headers=headers)).duplicate  # type: ignore[arg-type]
        spans = telemetry.named(f"publish {subject}")
        for frame in (await wire.frame(), await wire.frame()):
            lines = ["Nats-Msg-Id: 1", f"Nats-Expected-Stream: {subject}"]
            assert frame.header_lines[:2] == lines
            assert frame.header_lines[2:] in [[f"traceparent: {traceparent(span)}"] for span in spans]
        assert [span.attributes["messaging.message.id"] for span in spans] == ["1", "1"]
        assert list(headers) == [Header.MSG_ID, Header.EXPECTED_STREAM]

    async def test_replace_a_context_that_is_none(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        subject = unique("orders")
        await wire.subscribe(subject)
        await nc.publish(subject, headers={"Traceparent": "garbage", "tracestate": "a=b", "X-Tenant": "a"})
        span = telemetry.span(f"publish {subject}")
        assert_span(span, kind=SpanKind.PRODUCER, links=[], parent=None)
        assert (await wire.frame()).header_lines == ["X-Tenant: a", f"traceparent: {traceparent(span)}"]

    async def test_leave_baggage_that_the_caller_wrote(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject = unique("orders")
        await wire.subscribe(subject)
        await nc.publish(subject, headers={"Baggage": "tenant=a"})
        assert (await wire.frame()).header_lines == [
            "Baggage: tenant=a",
            f"traceparent: {traceparent(telemetry.span(f'publish {subject}'))}",
        ]

    async def test_leave_server_tracing_off_where_the_caller_switched_it_off(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject = unique("orders")
        await wire.subscribe(subject)
        await nc.publish(subject, headers={"Nats-Trace-Dest": "trace disabled"})
        assert (await wire.frame()).header_lines[0] == "Nats-Trace-Dest: trace disabled"


NO_HEADERS: list[Any] = [
    "text",
    b"bytes",
    7,
    ["traceparent"],
    [("X-Tenant", "a")],
    {"X-Tenant"},
    object(),
    True,
    0,
    "",
    [],
    {1: "a"},
    {None: "a"},
    {b"X-Tenant": "a"},
    {b"traceparent": b"a"},
    {"X-Tenant": None},
    {"X-Tenant": 1},
    {"X-Tenant": b"a"},
    {"X-Tenant": ["a"]},
    {"X-Tenant": ["a", "b"]},
    {"traceparent": None},
    {"traceparent": 1},
    {"Traceparent": b"a"},
    {"traceparent": [traceparent(REMOTE)]},
    {"baggage": None},
    {"X Tenant": "a"},
    {"X:Tenant": "a"},
    {"X-Tenant\r\nY": "a"},
    {"ключ": "a"},
    {"X-Tenant": "\ud800"},
]

ODD_HEADERS: list[Any] = [
    {},
    {"": "a"},
    {"  ": "a"},
    {" X-Tenant ": " a "},
    {"X-Tenant": ""},
    {"X-Tenant": "a\r\nX-Injected: b"},
    {"X-Tenant": "é"},
    {"X-Tenant": "a: b"},
]


keeps_spelling = pytest.mark.skipif(
    release() in ((2, 11), (2, 12)), reason="this server writes the name of `traceparent` in lower case"
)


def _without_address(headers: Any) -> str:
    """A name that is the same in every process: pytest-xdist compares what its workers collect."""
    return repr(headers).partition(" at 0x")[0]


async def _outcome(call: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await call()
    except Exception as error:
        return type(error), str(error)


class TestHeadersThatNatsRefuses:
    @pytest.mark.parametrize("headers", NO_HEADERS, ids=_without_address)
    async def test_are_refused_in_its_own_words(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, headers: Any
    ):
        nc = await connect()
        js = nc.jetstream()
        subject = unique("orders")
        await js.add_stream(name=subject, subjects=[subject])
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: nc.publish(subject, b"", headers=headers),
            lambda: nc.request(subject, b"", timeout=5, headers=headers),
            lambda: js.publish(subject, b"", headers=headers),
        ]
        telemetry.uninstrument()
        expected = [await _outcome(call) for call in calls]
        telemetry.instrument()
        telemetry.clear()
        for call, outcome in zip(calls, expected, strict=True):
            happened = await _outcome(call)
            if not isinstance(outcome, tuple):  # some versions of nats-py take what others refuse
                assert type(happened) is type(outcome)
                continue
            assert happened == outcome
        assert nc.is_connected
        failed = [outcome for outcome in expected if isinstance(outcome, tuple)]
        errors = [span for span in telemetry.spans() if span.status.description is not None]
        assert [span.status.description for span in errors] == [words for _, words in failed]
        assert [span.attributes["error.type"].rpartition(".")[2] for span in errors] == [
            kind.__name__ for kind, _ in failed
        ]

    @pytest.mark.parametrize("headers", ODD_HEADERS, ids=repr)
    async def test_or_reads_in_its_own_way_stay_as_they_were(
        self, telemetry: Telemetry, connect: Connect, wire: Wire, unique: Unique, headers: Any
    ):
        nc = await connect()
        subject = unique("orders")
        await wire.subscribe(subject)
        telemetry.uninstrument()
        expected = await _outcome(lambda: nc.publish(subject, headers=headers))
        telemetry.instrument()
        assert await _outcome(lambda: nc.publish(subject, headers=headers)) == expected
        await flush(nc)
        frames = await wire.frames()
        if expected is not None:  # some versions of nats-py refuse what others take
            assert frames == []
            return
        without, with_ours = frames
        span = telemetry.span(f"publish {subject}")
        assert with_ours.header_lines == [*without.header_lines, f"traceparent: {traceparent(span)}"]

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            ((), {}),
            (("orders",), {"data": b""}),
            (("orders", b"", "", None, 1, 2), {}),
            (("orders", b""), {"payload": b""}),
            ((7,), {}),
            ((None,), {}),
            (("",), {}),
            (("orders", None), {}),
            (("orders", 7), {}),
            (("orders", "text"), {}),
            (("orders", b"", 7), {}),
            (("orders created",), {}),
            (("orders..created",), {}),
        ],
        ids=repr,
    )
    async def test_so_are_all_other_arguments(
        self, telemetry: Telemetry, connect: Connect, args: tuple[Any, ...], kwargs: dict[str, Any]
    ):
        nc = await connect()
        telemetry.uninstrument()
        expected = await _outcome(lambda: nc.publish(*args, **kwargs))
        telemetry.instrument()
        assert await _outcome(lambda: nc.publish(*args, **kwargs)) == expected


SPELLINGS = ["traceparent", "Traceparent", "TraceParent", "TRACEPARENT", "Xraceparent", "xraceparent"]


class TestHeadersReceived:
    @keeps_spelling
    @pytest.mark.parametrize("name", SPELLINGS)
    async def test_count_in_any_spelling(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, name: str):
        subject = unique("orders")
        got = Collected()
        await nc.subscribe(subject, cb=got.take)
        await flush(nc)
        await wire.publish(subject, b"12", headers=f"{name}: {traceparent(REMOTE)}\r\n".encode())
        (message,) = await got.wait_for(1)
        assert message.headers == {name: traceparent(REMOTE)}
        (span,) = await telemetry.wait_for(f"process {subject}")
        assert_span(
            span,
            kind=SpanKind.CONSUMER,
            attributes={
                **connection_attributes(nc, peer=False),
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": subject,
                "messaging.message.body.size": 2,
            },
            parent=REMOTE,
            links=[REMOTE],
        )
        assert got.spans == [span_context(span)]

    @pytest.mark.parametrize("title", [str.lower, str.title, str.upper])
    async def test_bring_trace_state_and_baggage(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, title: Callable[[str], str]
    ):
        subject = unique("orders")
        got = Collected()
        await nc.subscribe(subject, cb=got.take)
        await flush(nc)
        lines = [
            f"{title('traceparent')}: {traceparent(REMOTE)}",
            f"{title('tracestate')}: vendor=x,other=y",
            f"{title('baggage')}: tenant=a,user=b%20c",
            "X-Tenant: a",
        ]
        await wire.publish(subject, headers="".join(f"{line}\r\n" for line in lines).encode())
        await got.wait_for(1)
        (span,) = await telemetry.wait_for(f"process {subject}")
        assert_span(span, parent=REMOTE, links=[REMOTE])
        assert dict(span.parent.trace_state) == {"vendor": "x", "other": "y"}
        assert got.baggage == [{"tenant": "a", "user": "b c"}]

    @keeps_spelling
    @pytest.mark.parametrize(
        ("more", "found", "tenant"),
        [
            ("Nats-Msg-Id: 1", REMOTE, None),
            ("Nats-Msg-Id: 1\r\nbaggage: tenant=a", REMOTE, "a"),
            ("Nats-Msg-Id: 1\r\nBaggage: tenant=a", REMOTE, "a"),
            (f"Nats-Msg-Id: 1\r\nTraceparent: {traceparent(OTHER)}", None, None),
            (f"Nats-Msg-Id: 1\r\nXraceparent: {traceparent(OTHER)}", None, None),
        ],
    )
    async def test_may_stand_beside_those_of_nats(
        self,
        telemetry: Telemetry,
        nc: Client,
        wire: Wire,
        unique: Unique,
        more: str,
        found: SpanContext | None,
        tenant: str | None,
    ):
        subject = unique("orders")
        got = Collected()
        await nc.subscribe(subject, cb=got.take)
        await flush(nc)
        await wire.publish(subject, headers=f"traceparent: {traceparent(REMOTE)}\r\n{more}\r\n".encode())
        await got.wait_for(1)
        (span,) = await telemetry.wait_for(f"process {subject}")
        assert_span(span, parent=found, links=[found] if found else [])
        assert got.baggage == [{"tenant": tenant} if tenant else {}]

    @keeps_spelling
    async def test_may_be_lists(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        got = Collected()
        await nc.subscribe(subject, cb=got.take)
        _lists_in_headers(nc)
        await nc.publish(subject, headers={"Traceparent": traceparent(REMOTE), "Baggage": "tenant=a"})
        (message,) = await got.wait_for(1)
        assert message.headers == {"Traceparent": [traceparent(REMOTE)], "Baggage": ["tenant=a"]}
        (span,) = await telemetry.wait_for(f"process {subject}")
        assert_span(span, parent=REMOTE, links=[REMOTE])
        assert got.baggage == [{"tenant": "a"}]

    async def test_may_not_be_lists_of_several(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        got = Collected()
        await nc.subscribe(subject, cb=got.take)
        _lists_in_headers(nc, times=2)
        await nc.publish(subject, headers={"traceparent": traceparent(REMOTE)})
        (message,) = await got.wait_for(1)
        assert message.headers == {"traceparent": [traceparent(REMOTE)] * 2}
        (span,) = await telemetry.wait_for(f"process {subject}")
        assert_span(span, parent=None, links=[])

    @keeps_spelling
    @pytest.mark.parametrize(
        "lines",
        [
            b"traceparent: " + traceparent(REMOTE).encode() + b"\r\nTraceparent: " + traceparent(OTHER).encode(),
            b"Xraceparent: " + traceparent(REMOTE).encode() + b"\r\ntraceparent: " + traceparent(OTHER).encode(),
            b"traceparent: garbage\r\nTraceparent: " + traceparent(OTHER).encode(),
            b"traceparent:",
            b"traceparent: garbage",
            b"traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01",
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            b"traceparent: ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"traceparent: 00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            b"traceparent: cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-" + b"x" * 9000,
            b"traceparent: " + b"0" * 200_000,
            b"traceparent: \xff\xfe\x00\x01\x80",
            b"traceparent: \x00\x01\x02",
            b"traceparent: 00-\xd9\xa0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"no-colon-at-all",
            b": no name",
            b"tracestate: vendor=x\r\nbaggage: tenant=a",
        ],
        ids=lambda lines: repr(lines[:60]),
    )
    async def test_that_are_no_context_count_as_absent_and_the_message_is_delivered(
        self, telemetry: Telemetry, connect: Connect, wire: Wire, unique: Unique, lines: bytes
    ):
        errors: list[Exception] = []

        async def error_cb(error: Exception) -> None:
            errors.append(error)

        subject = unique("orders")
        nc = await connect(error_cb=error_cb)
        got = Collected()
        await nc.subscribe(subject, cb=got.take)
        looped = await nc.subscribe(subject)
        taken = await nc.subscribe(subject)
        await flush(nc)
        telemetry.clear()
        await wire.publish(subject, b"payload", headers=lines + b"\r\n")
        await got.wait_for(1)
        async for message in looped.messages:
            got.messages.append(message)
            break
        got.messages.append(await taken.next_msg(5))
        assert [message.data for message in got.messages] == [b"payload"] * 3
        spans = await telemetry.wait_for(3)
        assert sorted(span.name for span in spans) == [f"process {subject}"] * 2 + [f"receive {subject}"]
        for span in spans:
            assert_span(span, parent=None, links=[])

    async def test_of_an_unusable_trace_state_leave_the_context(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject = unique("orders")
        await nc.subscribe(subject, cb=Collected().take)
        await flush(nc)
        lines = f"traceparent: {traceparent(REMOTE)}\r\ntracestate: {'x=y,' * 5000}\r\nbaggage: {'z' * 9000}\r\n"
        await wire.publish(subject, headers=lines.encode())
        (span,) = await telemetry.wait_for(f"process {subject}")
        assert_span(span, parent=REMOTE, links=[REMOTE])
        assert not span.parent.trace_state

    @keeps_spelling
    async def test_are_never_changed(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        subject, answers = unique("orders"), unique("answers")
        seen: list[dict[str, str]] = []
        headers = {"Traceparent": traceparent(REMOTE), "X-Tenant": "a"}

        async def handler(msg: Any) -> None:
            before = msg.headers
            await msg.respond(b"")
            await nc.publish(answers, headers=msg.headers)
            assert msg.headers is before
            seen.append(msg.headers)

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        await wire.publish(subject, headers=lines.encode(), reply="_INBOX.x")
        await eventually(lambda: seen)
        assert seen == [headers]


class TestChosenContexts:
    """An outbox relay, for one, sends messages on behalf of whoever wrote them into the outbox."""

    @keeps_spelling
    @pytest.mark.parametrize("name", ["traceparent", "Traceparent"])
    @pytest.mark.parametrize("ambient", [False, True])
    async def test_are_respected(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, name: str, ambient: bool
    ):
        subject = unique("orders")
        await wire.subscribe(subject)
        await nc.subscribe(subject, cb=Collected().take)
        headers = {name: traceparent(REMOTE), "X-Tenant": "a"}
        parent = None
        if ambient:
            with telemetry.tracer.start_as_current_span("relay") as parent:
                await nc.publish(subject, b"12", headers=headers)
        else:
            await nc.publish(subject, b"12", headers=headers)
        assert (await wire.frame()).header_lines == [f"{name}: {traceparent(REMOTE)}", "X-Tenant: a"]
        assert_span(
            telemetry.span(f"publish {subject}"),
            kind=SpanKind.CLIENT,
            attributes={
                **connection_attributes(nc),
                "messaging.operation.name": "publish",
                "messaging.operation.type": "send",
                "messaging.destination.name": subject,
                "messaging.message.body.size": 2,
            },
            parent=parent,
            links=[REMOTE],
        )
        (process,) = await telemetry.wait_for(f"process {subject}")
        assert_span(process, parent=REMOTE, links=[REMOTE])

    async def test_are_respected_by_every_call_that_sends(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, wire: Wire, unique: Unique
    ):
        stream, prices = unique("orders"), unique("prices")
        await js.add_stream(name=stream, subjects=[stream])
        await wire.subscribe(stream, prices)
        headers = {"traceparent": traceparent(REMOTE), "tracestate": "vendor=x"}
        lines = [f"traceparent: {traceparent(REMOTE)}", "tracestate: vendor=x"]
        before = context.get_current()
        context.attach(baggage.set_baggage("tenant", "a"))
        await js.publish(stream, headers=headers)
        request = asyncio.ensure_future(nc.request(prices, headers=headers, timeout=5))
        context.attach(before)
        assert (await wire.frame()).header_lines == lines
        frame = await wire.frame()
        assert frame.header_lines == lines
        await wire.publish(frame.reply)
        await request
        for span in (telemetry.span(f"publish {stream}"), telemetry.span(f"request {prices}")):
            assert_span(span, kind=SpanKind.CLIENT, parent=None, links=[REMOTE])
        assert headers == {"traceparent": traceparent(REMOTE), "tracestate": "vendor=x"}

    @pytest.mark.parametrize("spelling", [str.lower, str.title])
    async def test_the_current_one_written_by_hand_is_none(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, spelling: Callable[[str], str]
    ):
        subject = unique("orders")
        await wire.subscribe(subject)
        before = context.get_current()
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            context.attach(baggage.set_baggage("tenant", "a"))
            headers: dict[str, str] = {}
            propagate.inject(headers)
            headers = {spelling(name): value for name, value in headers.items()}
            assert len(headers) == 2
            await nc.publish(subject, headers=headers)
        context.attach(before)
        span = telemetry.span(f"publish {subject}")
        assert_span(span, kind=SpanKind.PRODUCER, parent=ambient, links=[])
        assert (await wire.frame()).header_lines == [f"traceparent: {traceparent(span)}", "baggage: tenant=a"]


async def _by_callback(nc: Client, subject: str, send: Callable[[Any], Awaitable[None]]) -> None:
    await nc.subscribe(subject, cb=send)


async def _by_loop(nc: Client, subject: str, send: Callable[[Any], Awaitable[None]]) -> asyncio.Future[None]:
    sub = await nc.subscribe(subject)

    async def loop() -> None:
        async for msg in sub.messages:
            await send(msg)
            break

    return asyncio.ensure_future(loop())


async def _by_next_msg(nc: Client, subject: str, send: Callable[[Any], Awaitable[None]]) -> asyncio.Future[None]:
    sub = await nc.subscribe(subject)

    async def take() -> None:
        await send(await sub.next_msg(5))

    return asyncio.ensure_future(take())


FORWARDED: dict[str, Callable[[Any], Any]] = {
    "the same dict": lambda headers: headers,
    "a copy": dict,
    "a copy with more": lambda headers: {**headers, "X-Hop": "1"},
    "a multidict": CIMultiDict,
    "in another case": lambda headers: {name.title(): value for name, value in headers.items()},
}


class TestContextsPassedOn:
    """The headers of a received message, given to the next one, bring a context that nobody chose."""

    @pytest.mark.parametrize("forward", FORWARDED.values(), ids=FORWARDED)
    @pytest.mark.parametrize("receive", [_by_callback, _by_loop, _by_next_msg])
    async def test_are_replaced(
        self,
        telemetry: Telemetry,
        nc: Client,
        wire: Wire,
        unique: Unique,
        receive: Callable[..., Awaitable[asyncio.Future[None] | None]],
        forward: Callable[[Any], Any],
    ):
        subject, onward = unique("orders"), unique("onward")
        await wire.subscribe(onward)

        async def send(msg: Any) -> None:
            await nc.publish(onward, headers=forward(msg.headers))

        task = await receive(nc, subject, send)
        await flush(nc)
        lines = [
            f"Xraceparent: {traceparent(REMOTE)}",
            "Tracestate: vendor=x",
            "Nats-Trace-Dest: trace disabled",
            "X-Tenant: a",
        ]
        await wire.publish(subject, headers="".join(f"{line}\r\n" for line in lines).encode())
        sent = (await wire.frame()).header_lines
        if task is not None:
            await task
        if receive is _by_next_msg:
            parent, state = None, []
        else:
            (parent,), state = await telemetry.wait_for(f"process {subject}"), ["tracestate: vendor=x"]
        (span,) = await telemetry.wait_for(f"publish {onward}")
        assert_span(span, kind=SpanKind.PRODUCER, parent=parent, links=[])
        hop = ["X-Hop: 1"] if forward is FORWARDED["a copy with more"] else []
        assert sent == ["X-Tenant: a", *hop, f"traceparent: {traceparent(span)}", *state]

    async def test_are_replaced_in_the_answer_that_echoes_them(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject = unique("prices")

        async def handler(msg: Any) -> None:
            await msg.respond(b"12")

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        await wire.subscribe("answers.here")
        lines = [f"Traceparent: {traceparent(REMOTE)}", "Nats-Trace-Dest: trace disabled", "X-Tenant: a"]
        await wire.publish(subject, headers="".join(f"{line}\r\n" for line in lines).encode(), reply="answers.here")
        frame = await wire.frame()
        (reply,) = await telemetry.wait_for("reply")
        (process,) = await telemetry.wait_for(f"process {subject}")
        assert_span(reply, kind=SpanKind.PRODUCER, parent=process, links=[])
        assert frame.header_lines == ["X-Tenant: a", f"traceparent: {traceparent(reply)}"]

    @pytest.mark.parametrize("again", ["before", "after", "both"])
    async def test_are_only_those_of_the_message_that_the_task_received_last(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, again: str
    ):
        """A row of an outbox that comes back to a consumer in the same process stays a choice of whoever relays it."""
        subject, onward = unique("orders"), unique("onward")
        await wire.subscribe(onward)
        kept: list[dict[str, str]] = []

        async def handler(msg: Any) -> None:
            kept.append(dict(msg.headers))

        await nc.subscribe(subject, cb=handler)
        row = {"traceparent": traceparent(REMOTE)}
        if again != "after":
            await nc.publish(onward, headers=row)
        await nc.publish(subject, headers=row)
        await eventually(lambda: kept)
        if again != "before":
            await nc.publish(onward, headers=kept[0])
        for span in telemetry.named(f"publish {onward}"):
            assert_span(span, kind=SpanKind.CLIENT, parent=None, links=[REMOTE])
        for _ in telemetry.named(f"publish {onward}"):
            assert (await wire.frame()).header_lines == [f"traceparent: {traceparent(REMOTE)}"]

    async def test_are_known_where_a_stored_message_was_read(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, wire: Wire, unique: Unique
    ):
        subject, onward = unique("orders"), unique("onward")
        await js.add_stream(name=subject, subjects=[subject])
        await wire.subscribe(onward)
        await wire.publish(subject, headers=f"traceparent: {traceparent(REMOTE)}\r\n".encode())
        stored = await js.get_last_msg(subject, subject)
        await nc.publish(onward, headers=stored.headers)
        await js.pull_subscribe(subject, "worker")
        span = telemetry.span(f"publish {onward}")
        assert_span(span, kind=SpanKind.PRODUCER, parent=None, links=[])
        assert (await wire.frame()).header_lines == [f"traceparent: {traceparent(span)}"]

    async def test_are_known_where_a_batch_was_fetched(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, wire: Wire, unique: Unique
    ):
        subject, onward = unique("orders"), unique("onward")
        await js.add_stream(name=subject, subjects=[subject])
        await wire.subscribe(onward)
        await wire.publish(subject, headers=f"traceparent: {traceparent(REMOTE)}\r\n".encode())
        (message,) = await (await js.pull_subscribe(subject, "worker")).fetch(1, timeout=5)
        await nc.publish(onward, headers=message.headers)
        span = telemetry.span(f"publish {onward}")
        assert_span(span, kind=SpanKind.PRODUCER, parent=None, links=[])
        assert (await wire.frame()).header_lines == [f"traceparent: {traceparent(span)}"]


class _OwnPropagator(TextMapPropagator):
    """A format of a company's own, in one header with upper-case letters; it carries baggage as well."""

    NAME = "X-Own-Trace"

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        context = Context() if context is None else context
        for value in getter.get(carrier, self.NAME) or ():
            trace_id, span_id, tenant = value.split("/")
            found = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(1))
            context = trace.set_span_in_context(NonRecordingSpan(found), context)
            context = baggage.set_baggage("tenant", tenant, context)
        return context

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        found = trace.get_current_span(context).get_span_context()
        setter.set(carrier, self.NAME, self.write(found, baggage.get_baggage("tenant", context)))

    def write(self, found: SpanContext, tenant: object = None) -> str:
        return f"{found.trace_id:x}/{found.span_id:x}/{tenant}"

    @property
    def fields(self) -> set[str]:
        return {self.NAME}


class _RegionalBaggage(W3CBaggagePropagator):
    """Writes a header also where there is no baggage."""

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        setter.set(carrier, "baggage", "region=eu")


class _Composite(CompositePropagator):
    """Writes a header besides what its parts write."""

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        super().inject(carrier, context, setter)
        setter.set(carrier, "x-composite", "1")


class TestPropagators:
    @pytest.mark.parametrize(
        ("propagator", "header"),
        [
            pytest.param(CompositePropagator([_RegionalBaggage()]), "baggage: region=eu", id="of baggage"),
            pytest.param(_Composite([]), "x-composite: 1", id="composite"),
        ],
    )
    async def test_that_somebody_derived_are_asked_though_there_is_nothing_but_a_span(
        self,
        telemetry: Telemetry,
        nc: Client,
        wire: Wire,
        unique: Unique,
        propagators: Callable[..., None],
        propagator: TextMapPropagator,
        header: str,
    ):
        propagate.set_global_textmap(propagator)
        subject = unique("orders")
        await wire.subscribe(subject)
        await nc.publish(subject)
        assert (await wire.frame()).header_lines == [header]

    async def test_of_any_make_carry_the_context(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, propagators: Callable[..., None]
    ):
        own = _OwnPropagator()
        propagators(own)
        subject, onward = unique("orders"), unique("onward")
        await wire.subscribe(onward)

        async def handler(msg: Any) -> None:
            await nc.publish(onward, headers=msg.headers)

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        lines = f"x-own-trace: {own.write(REMOTE, 'a')}\r\ntraceparent: {traceparent(OTHER)}\r\n"
        await wire.publish(subject, headers=lines.encode())
        frame = await wire.frame()
        (process,) = await telemetry.wait_for(f"process {subject}")
        publish = telemetry.span(f"publish {onward}")
        assert_span(process, parent=REMOTE, links=[REMOTE])
        assert_span(publish, kind=SpanKind.PRODUCER, parent=process, links=[])
        # To this program `traceparent` is a header like any other.
        assert frame.header_lines == [
            f"traceparent: {traceparent(OTHER)}",
            f"X-Own-Trace: {own.write(span_context(publish), 'a')}",
        ]

    async def test_of_any_make_bring_chosen_contexts(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, propagators: Callable[..., None]
    ):
        own = _OwnPropagator()
        propagators(own)
        subject = unique("orders")
        await wire.subscribe(subject)
        await nc.publish(subject, headers={"x-own-trace": own.write(REMOTE)})
        assert_span(telemetry.span(f"publish {subject}"), kind=SpanKind.CLIENT, parent=None, links=[REMOTE])
        assert (await wire.frame()).header_lines == [f"x-own-trace: {own.write(REMOTE)}"]

    async def test_may_change_while_the_program_runs(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, propagators: Callable[..., None]
    ):
        subject = unique("orders")
        await wire.subscribe(subject)
        own = _OwnPropagator()
        headers = {"X-Own-Trace": own.write(REMOTE)}
        await nc.publish(subject, headers=headers)
        propagators(own)
        await nc.publish(subject, headers=headers)
        propagators()
        await nc.publish(subject, headers=headers)
        first, second, third = telemetry.named(f"publish {subject}")
        assert_span(first, kind=SpanKind.PRODUCER, links=[])
        assert_span(second, kind=SpanKind.CLIENT, links=[REMOTE])
        assert_span(third, kind=SpanKind.PRODUCER, links=[])
        given = f"X-Own-Trace: {own.write(REMOTE)}"
        assert (await wire.frame()).header_lines == [given, f"traceparent: {traceparent(first)}"]
        assert (await wire.frame()).header_lines == [given]
        assert (await wire.frame()).header_lines == [given]

    async def test_in_any_order_do_not_see_the_context_of_the_subscribe_call(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, propagators: Callable[..., None]
    ):
        propagators(W3CBaggagePropagator(), TraceContextTextMapPropagator())
        subject = unique("orders")
        got = Collected()
        before = context.get_current()
        with telemetry.tracer.start_as_current_span("start-up"):
            context.attach(baggage.set_baggage("of", "the start-up"))
            await nc.subscribe(subject, cb=got.take)
            await flush(nc)
        context.attach(before)
        for headers in (None, b"X-Tenant: a\r\n", b"baggage: tenant=a\r\n"):
            await wire.publish(subject, headers=headers)
        await got.wait_for(3)
        for span in await telemetry.wait_for(lambda spans: len(telemetry.named(f"process {subject}")) == 3):
            assert_span(span, parent=None, links=[])
        assert got.baggage == [{}, {}, {"tenant": "a"}]

    async def test_may_be_none(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, propagators: Callable[..., None]
    ):
        propagators()
        subject = unique("orders")
        await wire.subscribe(subject)
        got = Collected()
        await nc.subscribe(subject, cb=got.take)
        headers = {"traceparent": traceparent(REMOTE), "Nats-Trace-Dest": "trace disabled"}
        await nc.publish(subject)
        await nc.publish(subject, headers={})
        await nc.publish(subject, headers=headers)
        # Without headers the frame has no header block, with none in it an empty one: as without instrumentation.
        assert (await wire.frame()).headers is None
        assert (await wire.frame()).headers == b"NATS/1.0\r\n\r\n"
        assert (await wire.frame()).header_lines == [f"{name}: {value}" for name, value in headers.items()]
        await got.wait_for(3)
        spans = await telemetry.wait_for(6)
        assert sorted(span.name for span in spans) == [f"process {subject}"] * 3 + [f"publish {subject}"] * 3
        for span in spans:
            assert_span(span, parent=None, links=[])


PROGRAM_WITH_A_BROKEN_PROPAGATOR = """
from opentelemetry import propagate
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

class Broken(TraceContextTextMapPropagator):
    @property
    def fields(self):
        raise RuntimeError("no fields today")

propagate.set_global_textmap(Broken())
from opentelemetry.instrumentation.nats import NatsInstrumentor

NatsInstrumentor().instrument()
print("instrumented")
"""


class TestAPropagatorThatRaises:
    async def test_does_not_keep_the_package_from_being_imported(self) -> None:
        finished = await run(PROGRAM_WITH_A_BROKEN_PROPAGATOR, instrumented=False)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout == "instrumented\n"


class TestBaggage:
    async def test_travels_through_handlers_and_loops(self, telemetry: Telemetry, nc: Client, unique: Unique):
        first, second, third = unique("first"), unique("second"), unique("third")
        got = Collected()

        async def handler(msg: Any) -> None:
            await nc.publish(second)

        async def loop() -> None:
            async for _ in sub.messages:
                await nc.publish(third)
                break
            assert not baggage.get_all()

        await nc.subscribe(first, cb=handler)
        sub = await nc.subscribe(second)
        await nc.subscribe(third, cb=got.take)
        looping = asyncio.ensure_future(loop())
        before = context.get_current()
        context.attach(baggage.set_baggage("tenant", "a"))
        await nc.publish(first)
        context.attach(before)
        await got.wait_for(1)
        await looping
        assert got.baggage == [{"tenant": "a"}]

    async def test_of_a_message_without_is_none(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        subject = unique("orders")
        got = Collected()
        await nc.subscribe(subject, cb=got.take)
        await flush(nc)
        await wire.publish(subject, headers=b"baggage: tenant=a\r\n")
        await wire.publish(subject)
        await got.wait_for(2)
        assert got.baggage == [{"tenant": "a"}, {}]


class TestServersWithoutHeaders:
    async def test_keep_the_connection(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect, unique: Unique
    ):
        nc = await connect(server_factory("no_header_support: true"), allow_reconnect=False)
        js = nc.jetstream()
        subject, prices = unique("orders"), unique("prices")
        got = Collected()

        async def handler(msg: Any) -> None:
            assert msg.headers is None
            await msg.respond(b"12")

        await nc.subscribe(subject, cb=got.take)
        await nc.subscribe(prices, cb=handler)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await nc.publish(subject, b"1")
            assert (await nc.request(prices, timeout=5)).data == b"12"
            assert (await nc.request(prices, timeout=5, old_style=True)).data == b"12"
            await js.add_stream(name=subject, subjects=[subject])
            assert (await js.publish(subject, b"2")).seq == 1
        await got.wait_for(2)
        await flush(nc)
        assert nc.is_connected
        assert [(message.data, message.headers) for message in got.messages] == [(b"1", None), (b"2", None)]
        for name in (f"publish {subject}", f"request {prices}"):
            for span in telemetry.named(name):
                assert_span(span, parent=ambient, links=[])
        for span in await telemetry.wait_for(lambda _: len(telemetry.named(f"process {subject}")) == 2):
            if span.name.startswith("process"):
                assert_span(span, parent=None, links=[])


MAX_PAYLOAD = 4096
OURS = len("NATS/1.0\r\ntraceparent: ") + 55 + len("\r\n\r\n")


class TestLargeMessages:
    @pytest.mark.parametrize("missing", [0, 1, OURS - 1, OURS, OURS + 1])
    async def test_up_to_the_servers_limit_are_sent_with_headers_only_where_they_fit(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect, unique: Unique, missing: int
    ):
        server = server_factory(f"max_payload: {MAX_PAYLOAD}")
        nc = await connect(server, allow_reconnect=False)
        js = nc.jetstream()
        subject, prices, stream = unique("orders"), unique("prices"), unique("stream")
        await js.add_stream(name=stream, subjects=[stream])
        payload = b"x" * (MAX_PAYLOAD - missing)

        async def handler(msg: Any) -> None:
            await msg.respond(msg.data)

        await nc.subscribe(prices, cb=handler)
        async with Wire(server.url) as wire:
            await wire.subscribe(subject, prices, stream)
            await nc.publish(subject, payload)
            await js.publish(stream, payload)
            assert (await nc.request(prices, payload, timeout=5)).data == payload
            await flush(nc)
            frames = await wire.frames()
        assert nc.is_connected
        assert [frame.payload for frame in frames] == [payload] * 3
        names = (f"publish {subject}", f"publish {stream}", f"request {prices}")
        sent = [f"traceparent: {traceparent(telemetry.span(name))}" for name in names]
        assert [frame.header_lines for frame in frames] == ([[line] for line in sent] if missing >= OURS else [[]] * 3)

    @pytest.mark.parametrize("size", [3000, 100_000])
    @pytest.mark.parametrize("fits", [False, True])
    async def test_are_measured_with_the_callers_headers(
        self,
        telemetry: Telemetry,
        server_factory: ServerFactory,
        connect: Connect,
        unique: Unique,
        size: int,
        fits: bool,
    ):
        server = server_factory("max_payload: 200000")
        nc = await connect(server, allow_reconnect=False)
        subject = unique("orders")
        headers = {"X-Long": "ä" * (size // 2)}
        with_ours = OURS + len("X-Long: \r\n") + size
        payload = b"x" * (200_000 - with_ours + (0 if fits else 1))
        async with Wire(server.url) as wire:
            await wire.subscribe(subject)
            await nc.publish(subject, payload, headers=headers)
            await flush(nc)
            (frame,) = await wire.frames()
        assert nc.is_connected
        assert [line.partition(":")[0] for line in frame.header_lines] == ["X-Long", *(["traceparent"] if fits else [])]
        assert frame.payload == payload

    async def test_beyond_the_limit_are_refused_in_the_words_of_nats(self, telemetry: Telemetry, nc: Client):
        with pytest.raises(nats.errors.MaxPayloadError):
            await nc.publish("orders", b"x" * (nc.max_payload + 1))
        (span,) = telemetry.spans()
        assert span.attributes["error.type"] == "nats.errors.MaxPayloadError"


PLUMBING = ("$JS.>", "$SRV.>", "$SYS.>", "$O.*.C.>")


class TestPlumbing:
    async def test_of_the_libraries_and_the_server_carries_no_context(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, wire: Wire, unique: Unique
    ):
        stream, bucket, objects = unique("stream"), unique("bucket"), unique("objects")
        await wire.subscribe(*PLUMBING)
        with telemetry.tracer.start_as_current_span("ambient"):
            await js.add_stream(name=stream, subjects=[stream])
            for _ in range(5):
                await js.publish(stream)
            psub = await js.pull_subscribe(stream, "worker")
            for settle in ("ack", "nak", "term", "in_progress", "ack_sync"):
                (message,) = await psub.fetch(1, timeout=5)
                await getattr(message, settle)()
            config = ConsumerConfig(flow_control=True, idle_heartbeat=1)
            sub = await js.subscribe(stream, ordered_consumer=True, config=config)
            await sub.next_msg(5)
            await js.stream_info(stream)
            kv = await js.create_key_value(bucket=bucket)
            await kv.put("a", b"1")
            await kv.get("a")
            await nc.publish("$SRV.PING", b"", nc.new_inbox())
            await nc.publish("$SYS.PING", b"")
            await nc.publish("$JS.FC.x.y", b"")
            with pytest.raises(nats.errors.TimeoutError):  # the test listens there, and does not answer
                await nc.request("$SYS.REQ.NOBODY", timeout=0.05)
            if hasattr(js, "create_object_store"):
                store = await js.create_object_store(bucket=objects)
                await store.put("a", b"x" * 300_000)
        await flush(nc)
        frames = await wire.frames()
        seen = " ".join(frame.subject for frame in frames)
        for what in ("$JS.API.STREAM.CREATE", ".CONSUMER.MSG.NEXT.", "$JS.ACK.", "$SRV.PING", "$SYS.PING", "$JS.FC."):
            assert what in seen
        if hasattr(js, "create_object_store"):
            assert seen.count(".C.") == 3
        assert [frame for frame in frames if "traceparent" in "".join(frame.header_lines).lower()] == []

    async def test_of_a_service_carries_no_context(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        micro = pytest.importorskip("nats.micro", reason="this nats-py has no micro services")
        service = await micro.add_service(nc, name="prices", version="1.0.0")
        await wire.subscribe("$SRV.>", "answers.>")
        telemetry.clear()
        with telemetry.tracer.start_as_current_span("ambient"):
            assert (await nc.request("$SRV.PING.prices", timeout=5)).headers is None
        await wire.publish(
            "$SRV.INFO.prices", headers=f"traceparent: {traceparent(REMOTE)}\r\n".encode(), reply="answers.x"
        )
        frames = {frame.subject: frame for frame in [await wire.frame() for _ in range(3)]}
        assert frames["$SRV.PING.prices"].headers is None
        # nats-py echoes the headers of a verb.
        assert frames["answers.x"].header_lines in ([f"traceparent: {traceparent(REMOTE)}"], [])
        await service.stop()
        assert [span.name for span in telemetry.spans()] == ["ambient"]


class TestSubjectsExcludedFromPropagation:
    @pytest.mark.instrument(propagation_excluded_subjects=["legacy.>", "$KV.*.raw.>"])
    async def test_get_their_messages_as_the_program_gave_them(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, wire: Wire, unique: Unique
    ):
        bucket = unique("bucket")
        got = Collected()
        kv = await js.create_key_value(bucket=bucket)
        await js.add_stream(name=bucket, subjects=["legacy.stored"])
        await nc.subscribe("legacy.orders", cb=got.take)
        await wire.subscribe("legacy.>", f"$KV.{bucket}.>")
        telemetry.clear()
        headers = {"X-Tenant": "a"}
        await nc.publish("legacy.orders")
        await nc.publish("legacy.orders", headers=headers)
        await nc.publish("legacy.orders", headers={"traceparent": traceparent(REMOTE)})
        await js.publish("legacy.stored")
        request = asyncio.ensure_future(nc.request("legacy.prices", timeout=5))
        frames = [await wire.frame() for _ in range(5)]
        await wire.publish(frames[-1].reply)
        await request
        await kv.put("raw.a", b"1")
        await kv.put("a", b"1")
        frames += [await wire.frame() for _ in range(2)]
        put = telemetry.named(f"kv.put {bucket}")[1]
        assert [frame.header_lines for frame in frames] == [
            [],
            ["X-Tenant: a"],
            [f"traceparent: {traceparent(REMOTE)}"],
            [],
            [],
            [],
            [f"traceparent: {traceparent(put)}"],
        ]
        assert [frame.headers is None for frame in frames] == [True, False, False, True, True, True, False]
        await got.wait_for(3)
        # There are spans all the same; only the last message came with a context.
        await telemetry.wait_for(lambda _: len(telemetry.named("process legacy.orders")) == 3)
        first, second, third = telemetry.named("process legacy.orders")
        assert_span(first, parent=None, links=[])
        assert_span(second, parent=None, links=[])
        assert_span(third, parent=REMOTE, links=[REMOTE])
        assert len(telemetry.named("publish legacy.orders")) == 3

    @pytest.mark.instrument(excluded_subjects=["health.>"])
    async def test_are_not_those_excluded_from_telemetry(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        onward = unique("onward")

        async def handler(msg: Any) -> None:
            await nc.publish(onward)

        await nc.subscribe("health.check", cb=handler)
        await wire.subscribe("health.check", onward)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await nc.publish("health.check")
        frame = await wire.frame()
        assert frame.header_lines == [f"traceparent: {traceparent(ambient)}"]
        (span,) = await telemetry.wait_for(f"publish {onward}")
        assert_span(span, parent=ambient, links=[])
        assert sorted(span.name for span in telemetry.spans()) == ["ambient", f"publish {onward}"]


class TestSampledOut:
    @pytest.mark.sampler(ALWAYS_OFF)
    async def test_messages_carry_the_unsampled_context(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, wire: Wire, unique: Unique
    ):
        subject, onward, stored = unique("orders"), unique("onward"), unique("stored")
        await js.add_stream(name=stored, subjects=[stored])
        await wire.subscribe(subject, onward, stored)

        async def handler(msg: Any) -> None:
            found = trace.get_current_span()
            assert found.get_span_context().is_valid and not found.is_recording()
            await nc.publish(onward)

        await nc.subscribe(subject, cb=handler)
        await nc.publish(subject)
        first = (await wire.frame()).header_lines
        second = (await wire.frame()).header_lines
        await js.publish(stored)
        third = (await wire.frame()).header_lines
        for (line,) in (first, second, third):
            assert line.startswith("traceparent: 00-")
            assert not int(line[-2:], 16) & TraceFlags.SAMPLED
        assert first[0].split("-")[1] == second[0].split("-")[1] != third[0].split("-")[1]
        assert telemetry.spans() == []
        assert telemetry.counter.started == 0

    @pytest.mark.sampler(ALWAYS_OFF)
    async def test_a_chosen_context_travels_as_it_is(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject = unique("orders")
        await wire.subscribe(subject)
        await nc.publish(subject, headers={"traceparent": traceparent(REMOTE)})
        assert (await wire.frame()).header_lines == [f"traceparent: {traceparent(REMOTE)}"]


def _lists_in_headers(nc: Client, times: int = 1) -> None:
    """Makes a client's messages have lists as header values, as with nats-py's `fast_mail_parser` extra."""
    build = nc._build_message

    def build_with_lists(*args: Any) -> Any:
        message = build(*args)
        message.headers = {name: [value] * times for name, value in message.headers.items()}
        return message

    nc._build_message = build_with_lists  # type: ignore[method-assign]
