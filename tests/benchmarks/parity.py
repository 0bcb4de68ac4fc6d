# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The floors must make what the instrumentation makes: the same spans, links and histogram points."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from row import Row
from variants import METRICS, METRICS_FLOOR, Providers, Variant

from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

# They differ from one operation to the next; of these, only the type is compared.
_VARYING = {
    "messaging.message.conversation_id",
    "messaging.message.id",
    "messaging.nats.jetstream.consumer_sequence",
    "messaging.nats.jetstream.pending",
    "messaging.nats.jetstream.sequence",
    "messaging.nats.kv.revision",
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
    return [
        f"{row.name}, {difference}"
        for difference in (
            *_differences(ours.spans, floor.spans, {*ours.spans, *floor.spans}),
            *_differences(ours.points, floor.points, floor.points),
        )
    ]


def _differences(
    ours: dict[str, Counter[Shape]], floor: dict[str, Counter[Shape]], names: Iterable[str]
) -> Iterator[str]:
    for name in names:
        for one, other, who in ((ours, floor, "instrumented"), (floor, ours, "in the floor")):
            for shape, number in (one[name] - other[name]).items():
                facts = sorted(shape - frozenset().union(*other[name]))
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
