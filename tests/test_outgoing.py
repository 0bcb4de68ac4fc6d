# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What goes out: nothing that NATS refuses, whatever a propagator writes; and the caller's own data beside ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.propagators.ot_trace import OTTracePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from support.server import NatsServer
from support.spans import OTHER, REMOTE, assert_span, traceparent
from support.telemetry import Telemetry
from support.waiting import eventually, flush
from support.wire import Wire

Unique = Callable[[str], str]
Connect = Callable[..., Awaitable[Client]]
ServerFactory = Callable[..., NatsServer]

UBER = f"uber-trace-id: {REMOTE.trace_id:x}:{REMOTE.span_id:x}:0:1"


@pytest.fixture
def _logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a user's program: a fault is logged and swallowed, each place once."""
    monkeypatch.setattr(_faults, "raise_faults", False)
    monkeypatch.setattr(_faults, "_reported", set())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry.instr")]


class Raw(TextMapPropagator):
    """Writes what it is told to, beside `traceparent`."""

    def __init__(self, headers: dict[Any, Any]) -> None:
        self._headers = headers

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        return Context() if context is None else context

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        carrier.update(self._headers)  # type: ignore[attr-defined]

    @property
    def fields(self) -> set[str]:
        return {"x-raw"}


class Raising(Raw):
    def __init__(self, error: BaseException) -> None:
        super().__init__({})
        self._error = error

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        raise self._error

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        raise self._error


REFUSED: list[dict[Any, Any]] = [
    {"x a": "1"},
    {"x(b": "1"},
    {"": "1"},
    {"x:a": "1"},
    {"x\r\ny": "1"},
    {"ключ": "1"},
    {7: "1"},
    {None: "1"},
    {b"x": "1"},
    {"x": 1},
    {"x": None},
    {"x": b"1"},
    {"x": ["1"]},
    {"x": "\ud800"},
    {"x": "1\r\nInjected: 2"},
    {"x": "1\n"},
    {"x": "\x00"},
    {"x": "é"},
]


class TestWhatAPropagatorWrites:
    @pytest.mark.parametrize("refused", REFUSED, ids=repr)
    async def test_is_left_out_where_nats_refuses_it_and_told_once(
        self,
        telemetry: Telemetry,
        nc: Client,
        wire: Wire,
        unique: Unique,
        propagators: Callable[..., None],
        _logged: None,
        caplog: pytest.LogCaptureFixture,
        refused: dict[Any, Any],
    ):
        propagators(TraceContextTextMapPropagator(), Raw({**refused, "x-good": "1"}))
        subject = unique("orders")
        await wire.subscribe(subject)
        for _ in range(3):
            await nc.publish(subject)
        for span in telemetry.named(f"publish {subject}"):
            assert (await wire.frame()).header_lines == [f"traceparent: {traceparent(span)}", "x-good: 1"]
        assert warnings(caplog) == [
            "nats instrumentation: writing a header of a propagator failed; messages go on, telemetry may be missing "
            "(logged once)"
        ]

    async def test_does_not_stop_what_a_handler_publishes_whatever_a_remote_sends(
        self,
        telemetry: Telemetry,
        nc: Client,
        wire: Wire,
        unique: Unique,
        propagators: Callable[..., None],
        _logged: None,
    ):
        propagators(JaegerPropagator())
        subject, onward = unique("orders"), unique("onward")
        await wire.subscribe(onward)
        failed: list[BaseException] = []

        async def handler(msg: Any) -> None:
            try:
                await nc.publish(onward)
            except BaseException as error:
                failed.append(error)

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        await wire.publish(subject, headers=f"{UBER}\r\nuberctx-a(b: 1\r\nuberctx-c: %0d%0aX: 1\r\n".encode())
        lines = (await wire.frame()).header_lines
        assert failed == []
        assert [line.partition(":")[0] for line in lines] == ["uber-trace-id", "uberctx-c"]

    @pytest.mark.parametrize("maker", [JaegerPropagator, OTTracePropagator, W3CBaggagePropagator])
    @pytest.mark.parametrize("key", ["a b", "a(b", 7, None, "\ud800", "a\r\nb", "", "é"])
    @pytest.mark.parametrize("value", ["1", "\ud800", "1\r\n2"])
    async def test_of_any_baggage_costs_no_message(
        self,
        telemetry: Telemetry,
        nc: Client,
        wire: Wire,
        unique: Unique,
        propagators: Callable[..., None],
        _logged: None,
        maker: Callable[[], TextMapPropagator],
        key: Any,
        value: Any,
    ):
        propagators(TraceContextTextMapPropagator(), maker())
        subject = unique("orders")
        await wire.subscribe(subject)
        before = context.get_current()
        context.attach(baggage.set_baggage(key, value))
        await nc.publish(subject)
        context.attach(before)
        lines = (await wire.frame()).header_lines
        assert lines[0] == f"traceparent: {traceparent(telemetry.span(f'publish {subject}'))}"

    @pytest.mark.parametrize("error", [ValueError("broken"), asyncio.CancelledError()], ids=repr)
    async def test_is_missing_where_it_raises_but_not_that_of_the_others(
        self,
        telemetry: Telemetry,
        nc: Client,
        wire: Wire,
        unique: Unique,
        propagators: Callable[..., None],
        _logged: None,
        error: BaseException,
    ):
        propagators(Raising(error), TraceContextTextMapPropagator(), Raising(error))
        subject, onward = unique("orders"), unique("onward")
        await wire.subscribe(onward)

        async def handler(msg: Any) -> None:
            await nc.publish(onward, headers={**msg.headers})

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        await wire.publish(subject, headers=f"X-Tenant: a\r\ntraceparent: {traceparent(REMOTE)}\r\n".encode())
        lines = (await wire.frame()).header_lines
        (process,) = await telemetry.wait_for(f"process {subject}")
        assert_span(process, parent=REMOTE, links=[REMOTE])
        assert lines == ["X-Tenant: a", f"traceparent: {traceparent(telemetry.span(f'publish {onward}'))}"]


RECEIVED = f"traceparent: {traceparent(REMOTE)}\r\nbaggage: tenant=acme\r\n"


class TestTheCallersOwnBaggage:
    """A program that carries its own baggage by hand goes on doing so."""

    @pytest.mark.parametrize(
        ("given", "sent"),
        [
            pytest.param(lambda m: {**m, "baggage": "tenant=acme,added=1"}, "tenant=acme,added=1", id="more"),
            pytest.param(lambda m: {"baggage": "added=1"}, "tenant=acme,added=1", id="alone"),
            pytest.param(lambda m: {**m, "Baggage": "added=1", "baggage": ""}, "tenant=acme,added=1", id="spelled"),
            pytest.param(lambda m: {**m, "baggage": "tenant=other"}, "tenant=other", id="another"),
            pytest.param(
                lambda m: {"baggage": "tenant = other;ttl=5 , b=2"}, "tenant = other;ttl=5,b=2", id="properties"
            ),
            pytest.param(lambda m: m, "tenant=acme", id="echo"),
            pytest.param(lambda m: dict(m), "tenant=acme", id="copy"),
            pytest.param(lambda m: {"BAGGAGE": m["baggage"]}, "tenant=acme", id="echo of that alone"),
            pytest.param(lambda m: {"baggage": "a=" + "b" * 8185}, "a=" + "b" * 8185, id="no room for ours"),
        ],
    )
    async def test_is_merged_with_what_is_current(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, given: Callable[[Any], Any], sent: str
    ):
        subject, onward = unique("orders"), unique("onward")
        await wire.subscribe(onward)

        async def handler(msg: Any) -> None:
            await nc.publish(onward, headers=given(msg.headers))

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        await wire.publish(subject, headers=RECEIVED.encode())
        lines = (await wire.frame()).header_lines
        (publish,) = await telemetry.wait_for(f"publish {onward}")
        (process,) = await telemetry.wait_for(f"process {subject}")
        assert_span(publish, kind=SpanKind.PRODUCER, parent=process, links=[])
        assert [line for line in lines if line.lower().startswith("baggage:")] == [f"baggage: {sent}"]
        assert [line for line in lines if line.startswith("trace")] == [f"traceparent: {traceparent(publish)}"]

    async def test_that_only_clings_gives_way_to_what_the_program_has_made_of_it(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject, onward = unique("orders"), unique("onward")
        await wire.subscribe(onward)

        async def handler(msg: Any) -> None:
            before = context.get_current()
            context.attach(baggage.set_baggage("tenant", "other"))
            await nc.publish(onward, headers=msg.headers)
            context.attach(baggage.clear())
            await nc.publish(onward, headers=msg.headers)
            context.attach(before)

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        await wire.publish(subject, headers=RECEIVED.encode())
        assert (await wire.frame()).header_lines[1:] == ["baggage: tenant=other"]
        assert (await wire.frame()).header_lines[1:] == []

    @pytest.mark.parametrize("changed", [False, True])
    async def test_goes_on_where_nothing_made_it_current(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, changed: bool
    ):
        subject, onward = unique("orders"), unique("onward")
        await wire.subscribe(onward)
        sub = await nc.subscribe(subject)
        await flush(nc)
        await wire.publish(subject, headers=RECEIVED.encode())
        headers = dict((await sub.next_msg(5)).headers)
        if changed:
            headers["baggage"] = "tenant=acme,added=1"
        await nc.publish(onward, headers=headers)
        publish = telemetry.span(f"publish {onward}")
        assert_span(publish, kind=SpanKind.PRODUCER, parent=None, links=[])
        assert (await wire.frame()).header_lines == [
            "baggage: tenant=acme,added=1" if changed else "baggage: tenant=acme",
            f"traceparent: {traceparent(publish)}",
        ]

    async def test_in_another_format_is_his_too(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, propagators: Callable[..., None]
    ):
        propagators(JaegerPropagator())
        subject, onward = unique("orders"), unique("onward")
        await wire.subscribe(onward)

        async def handler(msg: Any) -> None:
            await nc.publish(onward, headers={**msg.headers, "uberctx-tenant": "other"})
            await nc.publish(onward, headers=msg.headers)

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        await wire.publish(subject, headers=f"{UBER}\r\nuberctx-tenant: acme\r\nX-Tenant: a\r\n".encode())
        changed, echoed = (await wire.frame()).header_lines, (await wire.frame()).header_lines
        assert [line for line in changed if not line.startswith("uber-")] == ["uberctx-tenant: other", "X-Tenant: a"]
        assert [line for line in echoed if not line.startswith("uber-")] == ["X-Tenant: a", "uberctx-tenant: acme"]
        first, second = await telemetry.wait_for(lambda _: len(telemetry.named(f"publish {onward}")) == 2) and (
            telemetry.named(f"publish {onward}")
        )
        for span, lines in ((first, changed), (second, echoed)):
            (line,) = [line for line in lines if line.startswith("uber-trace-id")]
            assert f"{span.context.span_id:016x}" in line

    async def test_beside_a_context_without_a_span_leaves_a_context_by_hand(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        """Without an SDK nobody makes a span: what is current has baggage alone, and the caller's context stays."""
        telemetry.uninstrument()
        telemetry.instrument(tracer_provider=trace.NoOpTracerProvider(), meter_provider=None)
        subject = unique("orders")
        await wire.subscribe(subject)
        before = context.get_current()
        context.attach(baggage.set_baggage("tenant", "acme"))
        await nc.publish(subject, headers={"traceparent": traceparent(REMOTE)})
        context.attach(before)
        assert f"traceparent: {traceparent(REMOTE)}" in (await wire.frame()).header_lines


class TestContextsOfTheServer:
    @pytest.mark.parametrize("value", ["trace disabled", "_R_.abc.def"])
    @pytest.mark.parametrize("strip", [False, True])
    async def test_are_not_passed_on(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, value: str, strip: bool
    ):
        subject, onward = unique("orders"), unique("onward")
        await wire.subscribe(onward)

        async def handler(msg: Any) -> None:
            headers = {name: kept for name, kept in msg.headers.items() if not (strip and name == "traceparent")}
            await nc.publish(onward, headers=headers)

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        lines = [f"Nats-Trace-Dest: {value}", "Nats-Trace-Hop: 1", "Nats-Trace-Origin-Account: A", "X-Tenant: a"]
        lines.append(f"traceparent: {traceparent(REMOTE)}")
        await wire.publish(subject, headers="".join(f"{line}\r\n" for line in lines).encode())
        sent = (await wire.frame()).header_lines
        (publish,) = await telemetry.wait_for(f"publish {onward}")
        assert sent == ["X-Tenant: a", f"traceparent: {traceparent(publish)}"]

    async def test_of_a_program_stay(self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique):
        subject = unique("orders")
        await wire.subscribe(subject)
        await nc.publish(subject, headers={"Nats-Trace-Dest": "my.traces"})
        assert (await wire.frame()).header_lines[:1] == ["Nats-Trace-Dest: my.traces"]


class TestContextsThatNobodyChose:
    @pytest.mark.parametrize("spelling", [str.lower, str.title])
    async def test_are_those_that_a_gateway_was_called_with(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, spelling: Callable[[str], str]
    ):
        subject = unique("orders")
        await wire.subscribe(subject)
        incoming = {spelling("traceparent"): traceparent(REMOTE), "X-Tenant": "a"}
        parent = propagate.extract({"traceparent": traceparent(REMOTE)})
        with telemetry.tracer.start_as_current_span("GET /", context=parent) as server:
            await nc.publish(subject, headers=incoming)
        publish = telemetry.span(f"publish {subject}")
        assert_span(publish, kind=SpanKind.PRODUCER, parent=server, links=[])
        assert (await wire.frame()).header_lines == ["X-Tenant: a", f"traceparent: {traceparent(publish)}"]

    async def test_are_not_those_of_an_outbox_that_comes_back(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        """A row that is relayed, retried, and consumed in the same process."""
        subject = unique("orders")
        seen: list[int] = []

        async def handler(_: Any) -> None:
            seen.append(trace.get_current_span().get_span_context().trace_id)

        await nc.subscribe(subject, cb=handler)
        row: dict[str, str] = {}
        with telemetry.tracer.start_as_current_span("request") as request:
            propagate.inject(row)
        for count in range(1, 4):
            await nc.publish(subject, headers=row)
            await eventually(lambda count=count: len(seen) == count)
        assert seen == [request.get_span_context().trace_id] * 3
        for span in telemetry.named(f"publish {subject}"):
            assert_span(span, kind=SpanKind.CLIENT, parent=None, links=[request])

    async def test_are_those_of_a_task_that_works_for_the_one_that_received_them(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject, onward = unique("orders"), unique("onward")
        await wire.subscribe(onward)

        async def work(msg: Any) -> None:
            await nc.publish(onward, headers=msg.headers)

        async def handler(msg: Any) -> None:
            await asyncio.create_task(work(msg))

        await nc.subscribe(subject, cb=handler)
        await flush(nc)
        await wire.publish(subject, headers=f"traceparent: {traceparent(REMOTE)}\r\n".encode())
        await wire.frame()
        (publish,) = await telemetry.wait_for(f"publish {onward}")
        assert_span(publish, kind=SpanKind.PRODUCER, links=[])

    @pytest.mark.parametrize("which", [0, 1, 2])
    async def test_are_those_of_every_message_of_a_batch(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique, which: int
    ):
        js = nc.jetstream()
        subject, onward = unique("orders"), unique("onward")
        await js.add_stream(name=subject, subjects=[subject])
        await wire.subscribe(onward)
        for number in range(1, 4):
            headers = f"traceparent: 00-{number:032x}-{number:016x}-01\r\nbaggage: number={number}\r\n"
            await wire.publish(subject, headers=headers.encode())
        messages = await (await js.pull_subscribe(subject, "worker")).fetch(3, timeout=5)
        for msg in messages:
            assert msg.headers
        await nc.publish(onward, headers=list(messages)[which].headers)
        assert_span(telemetry.span(f"publish {onward}"), kind=SpanKind.PRODUCER, links=[])

    @pytest.mark.instrument(excluded_subjects=["quiet.>"])
    async def test_and_those_that_somebody_chose_differ_on_excluded_subjects_as_well(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject = f"quiet.{unique('orders')}"
        await wire.subscribe(subject)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await nc.publish(subject, headers={"traceparent": traceparent(OTHER)})
            await nc.publish(subject, headers={"traceparent": traceparent(ambient)})
            await nc.publish(subject)
        assert (await wire.frame()).header_lines == [f"traceparent: {traceparent(OTHER)}"]
        assert (await wire.frame()).header_lines == [f"traceparent: {traceparent(ambient)}"]
        assert (await wire.frame()).header_lines == [f"traceparent: {traceparent(ambient)}"]


class TestLongSubjects:
    """A server closes the connection over a control line of more than 4,096 bytes, and HPUB's is longer than PUB's."""

    @pytest.mark.parametrize("length", [1000, 3000, 4000, 4064, 4065, 4080, 4088, 4089, 4090, 4093])
    @pytest.mark.parametrize("character", ["s", "é"])
    async def test_work_as_without_telemetry(
        self, telemetry: Telemetry, connect: Connect, wire: Wire, unique: Unique, length: int, character: str
    ):
        subject = character * (length // len(character.encode()))
        nc = await connect(allow_reconnect=False)
        await nc.publish(subject, b"x")
        await nc.flush(timeout=5)
        assert nc.is_connected

    async def test_of_replies_work_as_without_telemetry(self, telemetry: Telemetry, connect: Connect, unique: Unique):
        nc = await connect(allow_reconnect=False)
        await nc.publish(unique("orders"), b"x", reply="r" * 4070)
        await nc.flush(timeout=5)
        assert nc.is_connected

    async def test_carry_their_context_as_long_as_there_is_room(
        self, telemetry: Telemetry, nc: Client, wire: Wire, unique: Unique
    ):
        subject = unique("orders") + "s" * 3900
        await wire.subscribe(subject)
        await nc.publish(subject)
        assert len((await wire.frame()).header_lines) == 1

    async def test_are_cut_in_attributes_and_names(self, telemetry: Telemetry, nc: Client, unique: Unique):
        await nc.publish("s" * 4000)
        (span,) = telemetry.spans()
        assert len(span.attributes["messaging.destination.name"]) == 1024
        assert len(span.name) <= 1100

    async def test_that_are_no_text_leave_the_batch_of_an_exporter_whole(self, telemetry: Telemetry, nc: Client):
        """The conftest looks at every span for what is no UTF-8."""
        with pytest.raises(UnicodeEncodeError):
            await nc.publish("\ud800")
        with pytest.raises(UnicodeEncodeError):
            await nc.publish("orders", reply="\ud800")
        assert len(telemetry.spans()) == 2
