# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the SDK is certain to do is not asked for: nothing but the time that it takes may differ."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import pytest

from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.nats._options import read_options
from opentelemetry.instrumentation.nats._providers import decisions_of
from opentelemetry.instrumentation.nats._telemetry import Failure
from opentelemetry.instrumentation.nats._telemetry import Telemetry as PackageTelemetry
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from support.core import Connect, Unique
from support.exercises import EXERCISES, Exercise, request_that_nobody_answers
from support.metrics import Meters
from support.server import NatsServer
from support.spans import REMOTE, assert_span
from support.telemetry import Telemetry
from support.wire import Wire


class Asked(Sampler):
    """Decides as another one. But it is a program's, and may decide otherwise, so it is asked."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.times = 0

    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        self.times += 1
        return self._sampler.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return f"asked {self._sampler.get_description()}"


class Overridden(ParentBased):
    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        return ALWAYS_ON.should_sample(*args, **kwargs)


UNSAMPLED = SpanContext(
    REMOTE.trace_id, REMOTE.span_id, is_remote=True, trace_flags=TraceFlags(0), trace_state=TraceState([("a", "b")])
)
LOCAL = SpanContext(REMOTE.trace_id, REMOTE.span_id, is_remote=False, trace_flags=TraceFlags(0))


def below(parent: SpanContext) -> context.Context:
    return trace.set_span_in_context(NonRecordingSpan(parent), context.Context())


ON, OFF, ASK = True, False, None


@pytest.mark.parametrize(
    ("sampler", "decisions"),
    [
        (DEFAULT_ON, (ON, OFF, ON)),
        (DEFAULT_OFF, (ON, OFF, OFF)),
        (ALWAYS_ON, (ON, ON, ON)),
        (ALWAYS_OFF, (OFF, OFF, OFF)),
        (ParentBasedTraceIdRatio(0.1), (ON, OFF, ASK)),
        (ParentBased(TraceIdRatioBased(0.1)), (ON, OFF, ASK)),
        (ParentBased(Asked(ALWAYS_ON)), (ON, OFF, ASK)),
        (ParentBased(ALWAYS_ON, remote_parent_sampled=TraceIdRatioBased(0.5)), (ASK, OFF, ON)),
        (ParentBased(ALWAYS_ON, local_parent_sampled=ALWAYS_OFF), (ASK, OFF, ON)),
        (ParentBased(ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON), (ON, ASK, OFF)),
        (ParentBased(ALWAYS_OFF, local_parent_not_sampled=Asked(ALWAYS_OFF)), (ON, ASK, OFF)),
        (Asked(DEFAULT_ON), (ASK, ASK, ASK)),
        (Overridden(ALWAYS_OFF), (ASK, ASK, ASK)),
        (TraceIdRatioBased(0), (ASK, ASK, ASK)),
    ],
    ids=lambda value: value.get_description() if isinstance(value, Sampler) else "",
)
def test_the_sdks_own_samplers_are_known(sampler: Sampler, decisions: tuple[bool | None, ...]):
    assert decisions_of(TracerProvider(sampler, shutdown_on_exit=False).get_tracer("tests")) == decisions


NOTHING = (ASK, ASK, ASK)


class TestATracerIsAsked:
    """Where something about it is not the SDK's own."""

    @pytest.fixture
    def tracer(self) -> Any:
        tracer = TracerProvider(DEFAULT_OFF, shutdown_on_exit=False).get_tracer("tests")
        assert decisions_of(tracer) == (ON, OFF, OFF)
        return tracer

    def test_that_is_of_another_class(self, tracer: Any):
        tracer.__class__ = type("Own", (Tracer,), {})
        assert decisions_of(tracer) == NOTHING

    def test_that_somebody_has_wrapped(self, tracer: Any):
        tracer.start_span = tracer.start_span
        assert decisions_of(tracer) == NOTHING

    def test_that_counts_what_it_drops(self, tracer: Any):
        if not hasattr(tracer, "_tracer_metrics"):
            pytest.skip("this release counts nothing")
        tracer._tracer_metrics = object()
        assert decisions_of(tracer) == NOTHING

    def test_whose_sampler_keeps_its_parts_elsewhere(self, tracer: Any):
        tracer.sampler = object.__new__(ParentBased)
        assert decisions_of(tracer) == NOTHING

    def test_that_is_not_of_the_sdk(self):
        assert decisions_of(trace.NoOpTracer()) == NOTHING


@pytest.mark.parametrize(
    ("sampler", "parent"),
    [
        (ParentBased(ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON), UNSAMPLED),
        (ParentBased(ALWAYS_OFF, local_parent_not_sampled=ALWAYS_ON), LOCAL),
        (ALWAYS_ON, UNSAMPLED),
    ],
    ids=["remote", "local", "always on"],
)
async def test_a_sampler_that_records_below_what_is_not_sampled_does(
    telemetry: Telemetry, connect: Connect, unique: Unique, sampler: Sampler, parent: SpanContext
):
    provider = TracerProvider(sampler, shutdown_on_exit=False)
    provider.add_span_processor(telemetry.tracer_provider._active_span_processor)
    telemetry.instrument(tracer_provider=provider)
    nc, subject = await connect(), unique("orders")
    telemetry.clear()
    context.attach(below(parent))
    await nc.publish(subject)
    context.attach(context.Context())
    assert_span(telemetry.span(f"publish {subject}"), parent=parent)


class Seen(NamedTuple):
    """What an exercise below a span sends, measures and records. Of names that differ each time all look the same.

    Attributes:
        sent: Each message's subject, and its context without the id of its span.
        span_ids: The ids of the messages' spans.
        measured: What the messaging metrics tell; of a histogram the counts.
        recorded: The spans, with the names of their attributes and of those of their links.
        result: What the program got.
    """

    sent: set[tuple[Any, ...]]
    span_ids: list[str]
    measured: Counter[Any]
    recorded: Counter[Any]
    result: Any


async def run(
    telemetry: Telemetry,
    server: NatsServer,
    connect: Connect,
    exercise: Exercise,
    sampler: Sampler,
    parent: SpanContext,
    name: str,
) -> Seen:
    def plain(text: str) -> str:
        return re.sub(r"(_INBOX\.|\$JS\.ACK\.).*|[0-9A-Za-z]{20,}", "*", text.replace(name, "NAME"))

    provider, meters, spans = TracerProvider(sampler, shutdown_on_exit=False), Meters(), InMemorySpanExporter()
    telemetry.instrument(tracer_provider=provider, meter_provider=meters.provider)
    nc = await connect()
    provider.add_span_processor(SimpleSpanProcessor(spans))  # after the connect, which has no parent
    async with Wire(server.url) as wire:
        await wire.subscribe(">")
        context.attach(baggage.set_baggage("tenant", "acme", below(parent)))
        result = await exercise(nc, name)
        context.attach(context.Context())
        await nc.flush()
        frames = [frame for frame in await wire.frames() if not frame.subject.startswith("$JS.")]
    await nc.close()
    sent: set[tuple[Any, ...]] = set()
    span_ids: list[str] = []
    for frame in frames:
        headers = dict(line.lower().split(": ", 1) for line in frame.header_lines)
        _, trace_id, span_id, flags = headers.get("traceparent", "---").split("-")
        sent.add((plain(frame.subject), trace_id, flags, headers.get("tracestate"), headers.get("baggage")))
        if span_id:
            span_ids.append(span_id)
    measured: Counter[Any] = Counter()
    collected = meters.collect()
    for metric in collected:
        for attributes, value in collected.of(metric).items() if metric.startswith("messaging.") else ():
            measured[metric, frozenset((key, plain(str(each))) for key, each in attributes)] += value
    recorded: Counter[Any] = Counter(
        (plain(span.name), span.kind, *(frozenset(each.attributes or ()) for each in (span, *span.links)))
        for span in spans.get_finished_spans()
    )
    return Seen(sent, span_ids, measured, recorded, result)


# Whoever listens to all subjects answers no request, but keeps the server from saying that nobody is there.
SENDING = [exercise for exercise in EXERCISES if exercise is not request_that_nobody_answers]


@pytest.mark.parametrize(
    ("sampler", "parent", "records"),
    [(DEFAULT_ON, UNSAMPLED, False), (ALWAYS_OFF, REMOTE, False), (DEFAULT_ON, REMOTE, True)],
    ids=["below what is not sampled", "always off", "below what is sampled"],
)
@pytest.mark.parametrize("exercise", SENDING, ids=lambda exercise: exercise.__name__)
async def test_whoever_is_asked_or_not_the_same_happens(
    telemetry: Telemetry,
    nats_server: NatsServer,
    connect: Connect,
    unique: Unique,
    exercise: Exercise,
    sampler: Sampler,
    parent: SpanContext,
    records: bool,
):
    asked = Asked(sampler)
    first = await run(telemetry, nats_server, connect, exercise, asked, parent, unique("first"))
    second = await run(telemetry, nats_server, connect, exercise, sampler, parent, unique("other"))
    assert asked.times > 0
    assert second.sent == first.sent
    assert second.measured == first.measured
    assert second.recorded == first.recorded
    assert records or not second.recorded  # not each makes a span
    assert second.result == first.result
    # A span that is dropped has an id of its own all the same, as the SDK's have.
    own = f"{parent.span_id:016x}"
    assert own not in first.span_ids and own not in second.span_ids
    assert len(set(second.span_ids)) == len(set(first.span_ids))


async def test_at_the_root_the_flags_are_those_of_the_sdk(
    telemetry: Telemetry, nats_server: NatsServer, connect: Connect, unique: Unique
):
    provider = TracerProvider(DEFAULT_OFF, shutdown_on_exit=False)
    telemetry.instrument(tracer_provider=provider)
    nc, subject = await connect(), unique("orders")
    async with Wire(nats_server.url) as wire:
        await wire.subscribe(subject)
        await nc.publish(subject)
        await nc.publish(subject)
        [first], [second] = [(await wire.frame()).header_lines for _ in range(2)]
    own = provider.get_tracer("tests").start_span("own", context.Context()).get_span_context()
    ids = [line.split("-")[1:] for line in (first, second)]
    assert [flags for _, _, flags in ids] == [f"{own.trace_flags:02x}"] * 2
    assert len({trace_id for trace_id, _, _ in ids}) == len({span_id for _, span_id, _ in ids}) == 2
    assert all(int(trace_id, 16) and int(span_id, 16) for trace_id, span_id, _ in ids)


def test_of_a_provider_that_is_set_late_the_same_is_known(monkeypatch: pytest.MonkeyPatch):
    made = PackageTelemetry(None, None, read_options({}), lambda error: Failure("", False, ""))
    assert made.idle() and made.sampling.dropped(UNSAMPLED) is None
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))
    assert not made.idle()
    dropped = made.sampling.dropped(UNSAMPLED)
    assert dropped is not None and dropped.get_span_context().trace_id == UNSAMPLED.trace_id
