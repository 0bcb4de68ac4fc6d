# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The floors must make what the instrumentation makes: the same spans, links and histogram points, the same headers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from measuring import ambient_context
from row import Row
from variants import METRICS, METRICS_FLOOR, PROPAGATION, PROPAGATION_FLOOR, Providers, Variant

from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import get_global_textmap, set_global_textmap
from opentelemetry.propagators.textmap import TextMapPropagator, default_getter, default_setter
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

# They differ from one operation to the next; of these, only the type is compared.
_VARYING = {
    "messaging.message.conversation_id",
    "messaging.message.id",
    "messaging.nats.jetstream.consumer_sequence",
    "messaging.nats.jetstream.pending",
    "messaging.nats.jetstream.sequence",
    "messaging.nats.kv.revision",
    "messaging.nats.service.id",
}

Shape = frozenset[str]
"""All that is compared of a span or of a histogram's point, each fact a text."""


class _Found(NamedTuple):
    """What a row made, by name."""

    spans: dict[str, Counter[Shape]]
    points: dict[str, Counter[Shape]]


async def check(row: Row) -> list[str]:
    """Compares the telemetry of a row with that of its floor.

    Returns:
        The differences, one a line; none if there are none.
    """
    count = min(row.operations, 3)
    ours = await _telemetry(row, METRICS, count)
    floor = await _telemetry(row, METRICS_FLOOR, count)
    # The preparations of a round have points too, those of other operations.
    differences = [
        *_differences(ours.spans, floor.spans, {*ours.spans, *floor.spans}),
        *_differences(ours.points, floor.points, floor.points),
    ]
    if PROPAGATION in row.variants:
        carried, least = [await _carried(row, variant, count) for variant in (PROPAGATION, PROPAGATION_FLOOR)]
        differences += _differences(carried, least, carried.keys() | least.keys())
    return [f"{row.name}, {difference}" for difference in differences]


def _differences(
    ours: dict[str, Counter[Shape]], floor: dict[str, Counter[Shape]], names: Iterable[str]
) -> Iterator[str]:
    for name in names:
        for one, other, who in ((ours, floor, "instrumented"), (floor, ours, "in the floor")):
            there = other.get(name, Counter())
            for shape, number in (one.get(name, Counter()) - there).items():
                facts = sorted(shape - frozenset().union(*there))
                yield f"{number} x {name}, only {who}: {facts or 'fewer of the same'}"


async def _telemetry(row: Row, variant: Variant, count: int) -> _Found:
    exporter = InMemorySpanExporter()
    providers = Providers(SimpleSpanProcessor(exporter))
    found = _Found(defaultdict(Counter), defaultdict(Counter))
    try:
        with providers.entered(variant) as floor:
            await row.prepare(count, floor, variant.sampled)
            token = attach(Context())
            exporter.clear()
            try:
                await row.run(count, floor)
            finally:
                detach(token)
            for span in exporter.get_finished_spans():
                found.spans[span.name][_span(span)] += 1
            assert providers.reader is not None
            for name, shape, number in _points(providers.reader):
                found.points[name][shape] += number
            await row.clean()
    finally:
        providers.shutdown()
    return found


class _Noting(TextMapPropagator):
    """The W3C propagator, and what it wrote and read."""

    def __init__(self) -> None:
        self._propagator = TraceContextTextMapPropagator()
        self.noted: dict[str, Counter[Shape]] = defaultdict(Counter)

    def extract(self, carrier: Any, context: Context | None = None, getter: Any = default_getter) -> Context:
        context = self._propagator.extract(carrier, context, getter)
        # Once or twice, that is no matter of what is carried.
        self.noted["read"][self._shape(context)] = 1
        return context

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = default_setter) -> None:
        self._propagator.inject(carrier, context, setter)
        self.noted["written"][self._shape(context)] += 1

    @staticmethod
    def _shape(context: Context | None) -> Shape:
        return frozenset([f"{get_current_span(context).get_span_context()}"])

    @property
    def fields(self) -> set[str]:
        return self._propagator.fields


async def _carried(row: Row, variant: Variant, count: int) -> dict[str, Counter[Shape]]:
    """Notes which contexts a row reads and writes."""
    propagator, usual = _Noting(), get_global_textmap()
    set_global_textmap(propagator)
    providers = Providers()
    try:
        with providers.entered(variant) as floor:
            await row.prepare(count, floor, variant.sampled)
            token = attach(ambient_context(row, variant))
            propagator.noted.clear()
            try:
                await row.run(count, floor)
            finally:
                detach(token)
            noted = dict(propagator.noted)
            await row.clean()
    finally:
        providers.shutdown()
        set_global_textmap(usual)
    return noted


def _facts(prefix: str, attributes: Any) -> list[str]:
    return [
        f"{prefix}{name}={type(value).__name__ if name in _VARYING else repr(value)}"
        for name, value in (attributes or {}).items()
    ]


def _span(span: ReadableSpan) -> Shape:
    facts = [str(span.kind), f"has a parent: {span.parent is not None}", *_facts("", span.attributes)]
    links: Counter[str] = Counter()
    for link in span.links:
        links[f"to the parent: {link.context == span.parent}"] += 1
        links.update(_facts("", link.attributes))
    return frozenset(facts + [f"{number} links {fact}" for fact, number in links.items()])


def _points(reader: InMemoryMetricReader) -> Iterator[tuple[str, Shape, int]]:
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    if isinstance(point, HistogramDataPoint):
                        attributes = point.attributes or {}
                        facts = [str(point.explicit_bounds), f"exemplars: {bool(point.exemplars)}"]
                        name = f"{metric.name} {attributes.get('messaging.operation.name', '')}"
                        yield name, frozenset(facts + _facts("", attributes)), point.count
