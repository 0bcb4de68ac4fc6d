# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""How a record becomes a span of the SDK, and goes through the user's span processors.

Written twice for speed. A tracer starts and ends a span for processors that watch starts; that is 60 of the 210 us that
an event costs. The processors that most users have are the SDK's own two, which take ended spans and nothing else: they
get them made at once. `tests/server_trace/test_trace_intake.py` holds both to the same spans.
"""

from __future__ import annotations

from typing import Any, Protocol

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats.server_trace._exporting import Export
from opentelemetry.instrumentation.nats.server_trace._spans import SpanRecord
from opentelemetry.instrumentation.nats.version import __version__
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, get_current_span

SCOPE = "opentelemetry.instrumentation.nats.server_trace"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

_UNSET = Status(StatusCode.UNSET)
_RANDOM: int = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)  # older releases do not hand it down


class SpanMaker(Protocol):
    """Makes the spans of one server."""

    def make(self, record: SpanRecord, parent: Context) -> tuple[SpanContext, bool]:
        """Makes a span that is over, and hands it to the processors.

        Args:
            record: What is to be known of it.
            parent: A context with its parent.

        Returns:
            What identifies it, and whether the sampler let it be recorded.
        """
        ...


def maker(export: Export, resource: Resource) -> SpanMaker:
    """Returns what makes the spans of a server.

    Args:
        export: Where they go.
        resource: The server.
    """
    return _AtOnce(export, resource) if export.takes_ended_spans else _ByTracer(export, resource)


class _AtOnce:
    def __init__(self, export: Export, resource: Resource) -> None:
        self._sampler = export.sampler
        self._on_end = export.processor.on_end
        self._resource = resource
        self._scope = InstrumentationScope(SCOPE, __version__, SCHEMA_URL)

    def make(self, record: SpanRecord, parent: Context) -> tuple[SpanContext, bool]:
        parent_context = get_current_span(parent).get_span_context()
        trace_id = parent_context.trace_id
        # The types of what a sampler returns are known in part only.
        result: Any = self._sampler.should_sample(
            parent, trace_id, record.name, SpanKind.INTERNAL, record.attributes, ()
        )
        flags = TraceFlags((parent_context.trace_flags & _RANDOM) | result.decision.is_sampled())
        context = SpanContext(trace_id, record.span_id, False, flags, result.trace_state)
        if not result.decision.is_recording():
            return context, False
        self._on_end(
            ReadableSpan(
                name=record.name,
                context=context,
                parent=parent_context,
                resource=self._resource,
                attributes=result.attributes,
                status=_UNSET if record.error is None else Status(StatusCode.ERROR, record.error),
                start_time=record.start,
                end_time=record.end,
                instrumentation_scope=self._scope,
            )
        )
        return context, True


class _ByTracer:
    def __init__(self, export: Export, resource: Resource) -> None:
        self._ids = _PresetIds()
        provider = TracerProvider(
            sampler=export.sampler,
            resource=resource,
            shutdown_on_exit=False,
            active_span_processor=export.processor,
            id_generator=self._ids,
            span_limits=export.span_limits,
        )
        self._tracer = provider.get_tracer(SCOPE, __version__, schema_url=SCHEMA_URL)

    def make(self, record: SpanRecord, parent: Context) -> tuple[SpanContext, bool]:
        self._ids.span_id = record.span_id
        span = self._tracer.start_span(record.name, parent, attributes=record.attributes, start_time=record.start)
        recorded = span.is_recording()
        if recorded:
            if record.error is not None:
                span.set_status(Status(StatusCode.ERROR, record.error))
            span.end(record.end)
        return span.get_span_context(), recorded


class _PresetIds(IdGenerator):
    """Gives the next span the id that was computed for it."""

    def __init__(self) -> None:
        self.span_id = 0

    def generate_span_id(self) -> int:
        return self.span_id

    def generate_trace_id(self) -> int:
        raise RuntimeError("a span of a server without a parent")  # each has one, whose trace is its trace
