# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What long runs share: telemetry as in production, and costs on a machine that others use as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from time import thread_time
from typing import NamedTuple

from opentelemetry.instrumentation.nats import NatsInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


class Discard(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


class Providers(NamedTuple):
    """What the spans and metrics go to."""

    tracer_provider: TracerProvider
    reader: InMemoryMetricReader

    def flush(self) -> None:
        """Hands over all that there is so far."""
        self.tracer_provider.force_flush()
        self.reader.get_metrics_data()


@contextmanager
def in_production() -> Iterator[Providers]:
    """Instruments nats-py as a program in production has it, except that nothing is exported."""
    tracer_provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    tracer_provider.add_span_processor(BatchSpanProcessor(Discard(), max_queue_size=65536))
    reader = InMemoryMetricReader()
    meter_provider = MeterProvider([reader], Resource.get_empty(), shutdown_on_exit=False)
    NatsInstrumentor().instrument(
        tracer_provider=tracer_provider, meter_provider=meter_provider, raise_exception_on_conflict=True
    )
    yield Providers(tracer_provider, reader)
    NatsInstrumentor().uninstrument()
    tracer_provider.shutdown()
    meter_provider.shutdown()


class Cost(NamedTuple):
    """What messages cost.

    Attributes:
        seconds: Time of this thread, per message.
        relative: The same in units of a piece of work that never changes, done in between. A machine that has become
            slower, because others use it as well, is slower at both.
    """

    seconds: float
    relative: float


def yardstick() -> float:
    """Does a piece of work that never changes; returns the time of this thread that it took, in seconds."""
    started = thread_time()
    attributes = {f"attribute.{number}": number for number in range(12)}
    for number in range(1000):
        copied = attributes.copy()
        copied[f"other.{number}"] = number
    return thread_time() - started


def relative(costs: Sequence[Cost]) -> float:
    """Returns the mean of what messages cost, in units of the yardstick."""
    return fmean(cost.relative for cost in costs)
