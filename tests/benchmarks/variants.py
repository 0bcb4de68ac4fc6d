# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What is compared: nats-py alone, instrumented in seven ways, and the floors written by hand.

All of them run in one process, so a variant is entered before a round and left after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.nats import NatsInstrumentor
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import NoOpTracer, NoOpTracerProvider, Tracer

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

# No round fills it: a full queue drops spans, which is cheaper than to keep them.
QUEUE_SIZE = 65536


@dataclass(frozen=True)
class Variant:
    """One way to run a row.

    Attributes:
        name: Its name in the report.
        instrumented: Whether nats-py is instrumented.
        floor: Whether the telemetry is written by hand around nats-py.
        traces: Whether there is a tracer provider.
        sampled: One operation in so many is sampled, and of received messages one in so many has a sampled publisher; 0
            for none.
        metrics: Whether there is a meter provider.
        propagation_only: Whether contexts go through, and nothing else happens.
    """

    name: str
    instrumented: bool = True
    floor: bool = False
    traces: bool = True
    sampled: int = 1
    metrics: bool = False
    propagation_only: bool = False


BARE = Variant("not instrumented", instrumented=False, traces=False)
NO_SDK = Variant("no SDK", traces=False)
NO_SDK_FLOOR = Variant("floor: no SDK", instrumented=False, floor=True, traces=False)
PROPAGATION = Variant("propagation only", traces=False, propagation_only=True)
PROPAGATION_FLOOR = Variant(
    "floor: propagation only", instrumented=False, floor=True, traces=False, propagation_only=True
)
SAMPLED_OUT = Variant("sampled out", sampled=0)
SAMPLED_OUT_FLOOR = Variant("floor: sampled out", instrumented=False, floor=True, sampled=0)
SAMPLED_OUT_METRICS = Variant("sampled out + metrics", sampled=0, metrics=True)
SAMPLED_OUT_METRICS_FLOOR = Variant(
    "floor: sampled out + metrics", instrumented=False, floor=True, sampled=0, metrics=True
)
MIXED = Variant("10 % sampled + metrics", sampled=10, metrics=True)
MIXED_FLOOR = Variant("floor: 10 % sampled + metrics", instrumented=False, floor=True, sampled=10, metrics=True)
RECORDING = Variant("recording")
RECORDING_FLOOR = Variant("floor: recording", instrumented=False, floor=True)
METRICS = Variant("recording + metrics", metrics=True)
METRICS_FLOOR = Variant("floor: recording + metrics", instrumented=False, floor=True, metrics=True)

VARIANTS = (
    BARE,
    NO_SDK,
    PROPAGATION,
    PROPAGATION_FLOOR,
    SAMPLED_OUT,
    SAMPLED_OUT_FLOOR,
    SAMPLED_OUT_METRICS,
    SAMPLED_OUT_METRICS_FLOOR,
    MIXED,
    MIXED_FLOOR,
    RECORDING,
    RECORDING_FLOOR,
    METRICS,
    METRICS_FLOOR,
)
"""Those of most rows."""

NOT_PROPAGATION = tuple(variant for variant in VARIANTS if not variant.propagation_only)
"""Those of the rows that no context goes through: what they receive has a context, and none is current afterwards."""

PAIRS = (
    (NO_SDK, NO_SDK_FLOOR),
    (PROPAGATION, PROPAGATION_FLOOR),
    (SAMPLED_OUT, SAMPLED_OUT_FLOOR),
    (SAMPLED_OUT_METRICS, SAMPLED_OUT_METRICS_FLOOR),
    (MIXED, MIXED_FLOOR),
    (RECORDING, RECORDING_FLOOR),
    (METRICS, METRICS_FLOOR),
)
"""The variants that have a floor, each with its floor; not every row has all of them."""


@dataclass(frozen=True)
class Floor:
    """What the floors use of the SDK.

    Attributes:
        tracer: The tracer; one that does nothing without an SDK, and where contexts only go through.
        operation_duration: The histogram; None without metrics, as the others are.
        process_duration: The histogram.
        delivery_latency: The histogram.
    """

    tracer: Tracer
    operation_duration: Histogram | None = None
    process_duration: Histogram | None = None
    delivery_latency: Histogram | None = None

    @property
    def carries(self) -> bool:
        """Whether it makes no spans: the contexts of others go through, and that is all."""
        return isinstance(self.tracer, NoOpTracer)


class Discard(SpanExporter):
    """An exporter that does nothing, so that only making spans is measured."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


class Providers:
    """The providers of a run.

    Args:
        processor: What recorded spans are given to; by default a batch processor that discards them.
    """

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        self._recording = _tracer_provider(ParentBased(ALWAYS_ON))
        self._recording.add_span_processor(processor or BatchSpanProcessor(Discard(), max_queue_size=QUEUE_SIZE))
        self._sampled_out = _tracer_provider(ParentBased(ALWAYS_OFF))
        self._one_in = OneIn(MIXED.sampled)
        self._mixed = _tracer_provider(ParentBased(self._one_in))
        for provider in (self._sampled_out, self._mixed):
            provider.add_span_processor(BatchSpanProcessor(Discard(), max_queue_size=QUEUE_SIZE))
        self.reader: InMemoryMetricReader | None = None
        """The reader of the round, when it has metrics."""

    @contextmanager
    def entered(self, variant: Variant) -> Iterator[Floor | None]:
        """Makes `variant` what the process does.

        Yields:
            What a floor needs; None for what is no floor.
        """
        options: dict[str, Any] = {}
        meter_provider = None
        self.reader = None
        if variant.traces:
            options["tracer_provider"] = self._of(variant)
        if variant.metrics:
            # A new one for every round: instruments made twice are reported, and kept.
            self.reader = InMemoryMetricReader()
            meter_provider = MeterProvider([self.reader], Resource.get_empty(), shutdown_on_exit=False)
            options["meter_provider"] = meter_provider
        try:
            if variant.floor:
                yield _floor(options.get("tracer_provider", NoOpTracerProvider()), meter_provider)
            elif variant.instrumented:
                if variant.propagation_only:
                    options["propagation_only"] = True
                NatsInstrumentor().instrument(raise_exception_on_conflict=True, **options)
                try:
                    yield None
                finally:
                    NatsInstrumentor().uninstrument()
            else:
                yield None
        finally:
            if meter_provider is not None:
                meter_provider.shutdown()

    def _of(self, variant: Variant) -> TracerProvider:
        if variant.sampled == MIXED.sampled:
            self._one_in.restart()  # so that a variant and its floor sample the same operations
            return self._mixed
        return self._recording if variant.sampled else self._sampled_out

    def flush(self) -> None:
        """Empties the batch processors."""
        self._recording.force_flush()
        self._mixed.force_flush()

    def shutdown(self) -> None:
        """Ends the processors' threads."""
        self._recording.shutdown()
        self._sampled_out.shutdown()
        self._mixed.shutdown()


class OneIn(Sampler):
    """Samples the first of every so many traces: the same share in every run, which chance would not give a short one.

    Args:
        every: How many.
    """

    def __init__(self, every: int) -> None:
        self._numbers = count()
        self._every = every

    def restart(self) -> None:
        """Begins to count anew."""
        self._numbers = count()

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        """Decides about the next trace."""
        sampler = ALWAYS_OFF if next(self._numbers) % self._every else ALWAYS_ON
        return sampler.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        """Says what it is."""
        return f"one in {self._every}"


def _tracer_provider(sampler: Sampler) -> TracerProvider:
    return TracerProvider(sampler, Resource.get_empty(), shutdown_on_exit=False)


def _floor(tracer_provider: trace.TracerProvider, meter_provider: MeterProvider | None) -> Floor:
    tracer = tracer_provider.get_tracer("floor")
    if meter_provider is None:
        return Floor(tracer)
    meter = meter_provider.get_meter("floor")
    return Floor(
        tracer,
        *(
            meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=BUCKETS)
            for name in (
                "messaging.client.operation.duration",
                "messaging.process.duration",
                "nats.jetstream.delivery.latency",
            )
        ),
    )
