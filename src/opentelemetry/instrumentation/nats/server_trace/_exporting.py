# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Where spans go: what the OpenTelemetry environment variables or `OTEL_CONFIG_FILE` ask for.

The installed distro and its configurator set up one provider, as they do under `opentelemetry-instrument`. The spans of
all servers go through the span processors of that one. The only file here that knows private names of OpenTelemetry.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from importlib.metadata import entry_points
from importlib.util import find_spec
from logging import getLogger
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.environment_variables import OTEL_PYTHON_CONFIGURATOR, OTEL_PYTHON_DISTRO
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_SERVICE_NAME
from opentelemetry.sdk.trace import (
    ReadableSpan,
    SpanLimits,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Sampler

_logger = getLogger(__package__)

_SERVICE_NAME = "nats-server-trace"
_OTEL_LOGS_EXPORTER = "OTEL_LOGS_EXPORTER"
_GRPC_EXPORTER = "opentelemetry.exporter.otlp.proto.grpc"

_SMALLEST_QUEUE = 512
"""Spans that we trust the queue of a span processor to take that does not tell its size."""

_BATCH = 512
"""Spans of one export of ours; a batch span processor exports as many."""

_MOST_COLLECTED = 2048

_MOST_ATTRIBUTES = 32
"""More than any of our spans has."""


class ExportError(Exception):
    """Spans can't be exported as the command line and the environment ask; the message is for the user."""


def set_up() -> TracerProvider:
    """Sets OpenTelemetry up, unless `opentelemetry-instrument` has done so for this process.

    Returns:
        The tracer provider.

    Raises:
        ExportError: There is no tracer provider of OpenTelemetry's SDK afterwards.
    """
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        # Of this program's own telemetry: its metrics. Its log goes to the standard error; few backends take both.
        os.environ.setdefault(OTEL_SERVICE_NAME, _SERVICE_NAME)
        os.environ.setdefault(_OTEL_LOGS_EXPORTER, "none")
        if not _installed(_GRPC_EXPORTER):
            os.environ.setdefault(OTEL_EXPORTER_OTLP_PROTOCOL, "http/protobuf")
        try:
            _configure("opentelemetry_distro", os.environ.get(OTEL_PYTHON_DISTRO))
            _configure("opentelemetry_configurator", os.environ.get(OTEL_PYTHON_CONFIGURATOR))
        except Exception as error:  # whatever it is, it is the configuration that the user has to change
            raise ExportError(f"OpenTelemetry can't be set up: {error}") from error
        provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        raise ExportError(
            "no tracer provider is set up: opentelemetry-distro is missing, or the configuration has none"
        )
    return provider


def _configure(group: str, name: str | None) -> None:
    for entry_point in entry_points(group=group):
        if name in (None, entry_point.name):
            entry_point.load()().configure()
            return


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # a package above it is missing
        return False


class Export:
    """The way of spans out of this process. Spans of one flush can't overflow it: `room` says how many still fit.

    Args:
        provider: The provider that the user's configuration made.
        processor: What the spans of all servers go through.
        room: How many spans fit in.

    Attributes:
        sampler: The user's sampler.
        span_limits: The user's limits.
        processor: What the spans of all servers go through.
        takes_ended_spans: Whether that is all that the processors do, and no limit of the user's can cut a span.
        room: How many more spans fit in before the next flush.
        failed: Whether spans were lost; set by `flush`, taken back by whoever has dealt with it.
    """

    def __init__(self, provider: TracerProvider, processor: SynchronousMultiSpanProcessor, room: int) -> None:
        self.sampler: Sampler = provider.sampler
        self.span_limits: SpanLimits = getattr(provider, "_span_limits", None) or SpanLimits()
        self.processor = processor
        self.takes_ended_spans = _unlimited(self.span_limits) and all(
            type(one) in _TAKE_ENDED_SPANS for one in _children(processor)
        )
        self.room = self._capacity = room
        self.failed = False
        self._provider = provider
        self._lock = asyncio.Lock()

    async def flush(self) -> None:
        """Waits until all spans have left the process, or have failed to."""
        async with self._lock:
            await asyncio.to_thread(self._flush)
            self.room = self._capacity

    async def make_room(self) -> None:
        """Waits, if there is no room."""
        async with self._lock:
            if self.room <= 0:  # another task may have waited before us
                await asyncio.to_thread(self._flush)
                self.room = self._capacity

    async def close(self) -> None:
        """Ends the provider: its processors export what they have, and give up after 30 s."""
        await asyncio.to_thread(self._provider.shutdown)

    def _flush(self) -> None:
        raise NotImplementedError


class BatchedExport(Export):
    """Spans go through the user's own processors, which export in their own time.

    Args:
        provider: The provider that the user's configuration made.
    """

    def __init__(self, provider: TracerProvider) -> None:
        processors = _processors(provider)
        if not processors:
            _logger.warning("no span exporter is configured: spans go nowhere")
        # A batch span processor that is full drops spans. It is empty after a flush, so that many fit in for sure.
        sizes = [_queue_size(processor) for processor in processors]
        super().__init__(provider, _multi(provider), min([size for size in sizes if size], default=_SMALLEST_QUEUE))

    def _flush(self) -> None:
        self._provider.force_flush()


class AcknowledgedExport(Export):
    """Spans are exported when asked, by the user's own exporters, which say whether they could.

    A span processor never says so: `force_flush` of the SDK's is true whatever becomes of the spans. So processors that
    have an exporter are left out, and their exporters are called from here.

    Args:
        provider: The provider that the user's configuration made.

    Raises:
        ExportError: There is no exporter that can be asked.
    """

    def __init__(self, provider: TracerProvider) -> None:
        collector = _Collector()
        processor = SynchronousMultiSpanProcessor()
        self._exporters: list[SpanExporter] = []
        for one in _processors(provider):
            exporter = getattr(one, "span_exporter", None)
            if exporter is None:
                processor.add_span_processor(one)
            else:
                self._exporters.append(exporter)
        if not self._exporters:
            raise ExportError("--durable acknowledges what was exported, and no span exporter is configured")
        processor.add_span_processor(collector)
        self._collector = collector
        super().__init__(provider, processor, _MOST_COLLECTED)

    def _flush(self) -> None:
        spans = self._collector.take()
        for exporter in self._exporters:
            for start in range(0, len(spans), _BATCH):
                if not _export(exporter, spans[start : start + _BATCH]):
                    self.failed = True
                    return


class _Collector(SpanProcessor):
    """Keeps what ended until it is taken."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        if span.context and span.context.trace_flags.sampled:
            self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans


def _export(exporter: SpanExporter, spans: list[ReadableSpan]) -> bool:
    try:
        return exporter.export(spans) is SpanExportResult.SUCCESS
    except Exception:  # the contract of an exporter is to return; what one raises is its user's to see
        _logger.exception("the span exporter failed")
        return False


def _multi(provider: TracerProvider) -> Any:
    return provider._active_span_processor  # pyright: ignore[reportPrivateUsage] (nothing public tells it)


def _processors(provider: TracerProvider) -> tuple[SpanProcessor, ...]:
    return _children(_multi(provider))


def _children(processor: Any) -> tuple[SpanProcessor, ...]:
    processors: Iterable[SpanProcessor] = processor._span_processors
    return tuple(processors)


def _unlimited(limits: SpanLimits) -> bool:
    count, length = limits.max_span_attributes, limits.max_span_attribute_length
    return length is None and (count is None or count >= _MOST_ATTRIBUTES)


_TAKE_ENDED_SPANS = (BatchSpanProcessor, SimpleSpanProcessor, _Collector)


def _queue_size(processor: SpanProcessor) -> int | None:
    # Public in older releases, and of a part of the processor in newer ones.
    inner = getattr(processor, "_batch_processor", None)
    size = getattr(inner, "_max_queue_size", None) or getattr(processor, "max_queue_size", None)
    return size if isinstance(size, int) else None
