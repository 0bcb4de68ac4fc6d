# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""One test's telemetry: providers of its own, what they recorded, and whether everything was ended."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, Union

from opentelemetry import context as otel_context
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.util.types import AttributeValue
from support.planted import PlantedInSpans, look_at_metrics
from support.spans import span_context, tree
from support.waiting import eventually

END_TIMEOUT = 2.0

AttributeSet = frozenset[tuple[str, AttributeValue]]
Awaited = Union[int, str, Callable[[list[ReadableSpan]], Any]]


class SpanCounter(SpanProcessor):
    """Knows every recording span that was started, in order, and which of them have not ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._order: dict[int, int] = {}
        self._open: dict[int, ReadableSpan] = {}
        self.ended = 0

    @property
    def started(self) -> int:
        return len(self._order)

    @property
    def open(self) -> list[ReadableSpan]:
        """The spans that have not ended, in start order."""
        with self._lock:
            return list(self._open.values())

    def position(self, span: ReadableSpan) -> int:
        """The place of a span among all that were started; start times can be equal."""
        return self._order[span_context(span).span_id]

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:
        with self._lock:
            span_id = span_context(span).span_id
            self._order[span_id] = len(self._order)
            self._open[span_id] = span

    def on_end(self, span: ReadableSpan) -> None:
        with self._lock:
            del self._open[span_context(span).span_id]
            self.ended += 1


class Telemetry:
    """What a test sees of its telemetry.

    Args:
        sampler: Decides which spans are recorded.
    """

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.counter = SpanCounter()
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(sampler=sampler, resource=Resource.get_empty(), shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer_provider.add_span_processor(self.counter)
        self.tracer_provider.add_span_processor(PlantedInSpans())
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], resource=Resource.get_empty(), shutdown_on_exit=False)
        self.tracer = self.tracer_provider.get_tracer("tests")
        """For spans of the test's own: the ambient ones."""
        self.looks_at_metrics = True

    def instrument(self, **options: Any) -> None:
        """Instruments nats-py anew with these options; the providers are this object's unless an option says else."""
        self.uninstrument()
        providers = {"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider}
        _instrumentor().instrument(**{**providers, **options}, raise_exception_on_conflict=True)

    def uninstrument(self) -> None:
        """Takes the instrumentation away, if it is there."""
        if _instrumentor().is_instrumented_by_opentelemetry:
            _instrumentor().uninstrument()

    def spans(self) -> list[ReadableSpan]:
        """The finished spans in the order of their start."""
        return sorted(self._exporter.get_finished_spans(), key=self.counter.position)

    def named(self, name: str) -> list[ReadableSpan]:
        """The finished spans of that name."""
        return [span for span in self.spans() if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        """The finished span of that name.

        Raises:
            AssertionError: There is none, or more than one.
        """
        found = self.named(name)
        assert len(found) == 1, f"{len(found)} finished spans are named {name!r}, expected one:\n{self}"
        return found[0]

    async def wait_for(self, awaited: Awaited, timeout: float = 5.0) -> list[ReadableSpan]:
        """Waits for finished spans.

        Args:
            awaited: How many there must be at least, or the name of one, or a function that is given all of them and
                returns something true.
            timeout: Seconds before giving up.

        Returns:
            The finished spans; of that name only, where it was a name.

        Raises:
            AssertionError: The time is up; the message shows the spans.
        """

        def come_true() -> bool:
            if isinstance(awaited, int):
                return len(self.spans()) >= awaited
            if isinstance(awaited, str):
                return bool(self.named(awaited))
            return bool(awaited(self.spans()))

        try:
            await eventually(come_true, timeout, f"wait_for({awaited!r})")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self}") from None
        return self.named(awaited) if isinstance(awaited, str) else self.spans()

    def clear(self) -> None:
        """Forgets the finished spans; a span that is still open must end all the same. Metrics stay."""
        self._exporter.clear()

    def metrics(self) -> dict[str, Metric]:
        """Every metric with a data point, by name: for its unit, description and kind."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def metric(self, name: str) -> dict[AttributeSet, float | HistogramDataPoint]:
        """The data points of a metric by their attributes, since the start of the test; none if nothing was recorded.

        Returns:
            `{attribute_set({...}): value}`, and the whole point where it is a histogram's.
        """
        metric = self.metrics().get(name)
        if metric is None:
            return {}
        return {
            attribute_set(point.attributes or {}): point if isinstance(point, HistogramDataPoint) else point.value
            for point in metric.data.data_points
        }

    async def check_ended(self) -> None:
        """Gives spans of tasks that are being cancelled a moment to end.

        Raises:
            AssertionError: A span that was started has not ended.
        """
        try:
            await eventually(lambda: not self.counter.open, END_TIMEOUT)
        except AssertionError:
            names = ", ".join(repr(span.name) for span in self.counter.open)
            raise AssertionError(f"spans that never ended: {names}; the finished ones:\n{tree(self.spans())}") from None

    def look_at_metrics(self) -> None:
        """Looks for planted texts in the metrics."""
        look_at_metrics(self._reader)

    def shutdown(self) -> None:
        """Ends the providers, after a look at what metrics there are."""
        if self.looks_at_metrics:
            self.look_at_metrics()
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()

    def __str__(self) -> str:
        text = tree(self.spans())
        if still_open := self.counter.open:
            text += "\nnot ended\n" + "\n".join(f"  {span.name}" for span in still_open)
        return text


def attribute_set(attributes: Mapping[str, AttributeValue]) -> AttributeSet:
    """Attributes in the form that identifies a data point."""
    return frozenset((key, tuple(value) if isinstance(value, list) else value) for key, value in attributes.items())


def _instrumentor() -> BaseInstrumentor:
    # Not at the top: what needs no instrumentation can then be tested while that does not even import.
    return importlib.import_module("opentelemetry.instrumentation.nats").NatsInstrumentor()
