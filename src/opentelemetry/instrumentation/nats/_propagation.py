# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Trace context and baggage, in message headers and out of them.

Whatever propagators are configured do the work. What is added here is what NATS needs: headers in any case, and that
neither what a remote side writes nor what a propagator makes of it can break a program's message. How a context gets
into the headers that a caller gave is in `_headers`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._incoming import (
    BAGGAGE,
    GETTER,
    ORDINARY_GETTER,
    RENAMED,
    TRACEPARENT,
    in_lower_case,
    others_are_of_nats,
)
from opentelemetry.instrumentation.nats._providers import SPAN_KEY, parts_of
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

BODY_KEY = context_api.create_key("nats-body")
"""The key by which a context keeps the body that it belongs to, see `_contexts`. No propagator looks for it."""

# What nats-py takes for a header's name. Of values it takes any text, and so does the server; but older releases of
# nats-py write a line break as it is, and read no header at all of a message that has one character beyond ASCII.
_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = r"[\t\x20-\x7e]*"

# They write nothing that NATS could refuse. No subclass, which might write what it likes.
_OF_W3C = (TraceContextTextMapPropagator, W3CBaggagePropagator)

# Two contexts that have nothing in common: what a propagator writes differently for them tells of the span.
_PROBES = tuple(
    NonRecordingSpan(SpanContext(trace_id, span_id, False, TraceFlags(flags), TraceState([("probe", str(flags))])))
    for trace_id, span_id, flags in ((0x10, 0x20, 1), (0x30, 0x40, 0))
)


class _Configured:
    """The configured propagators.

    Attributes:
        propagator: What was configured when that was read.
        parts: The propagators that it consists of.
        readers: Those that read `traceparent`.
        writers: Those that may write something where a context holds nothing but a span.
        checked: Whether what they write has to be checked.
        fields: The lower-case names of the headers that they say carry context.
    """

    __slots__ = ("_beside_spans", "_of_spans", "checked", "fields", "parts", "propagator", "readers", "writers")

    def __init__(self, propagator: TextMapPropagator) -> None:
        self.parts = parts_of(propagator)
        self.readers = [part for part in self.parts if TRACEPARENT in part.fields]
        self.writers = [part for part in self.parts if type(part) is not W3CBaggagePropagator]
        self.checked = not all(type(part) in _OF_W3C for part in self.parts)
        names = {name.lower() for part in self.parts for name in part.fields}
        names.update(renamed for renamed, name in RENAMED.items() if name in names)
        self.fields = frozenset(names)
        self.propagator = propagator
        self._of_spans: frozenset[str] | None = None
        self._beside_spans: frozenset[str] = frozenset()

    def of_spans(self) -> frozenset[str]:
        """Returns the lower-case names of the headers that tell of a span; the others carry data, as baggage."""
        if self._of_spans is None:
            self._probe()
        return self._of_spans or frozenset()

    def beside_spans(self) -> frozenset[str]:
        """Returns the fields of those propagators that write headers which tell of a span."""
        if self._of_spans is None:
            self._probe()
        return self._beside_spans

    def _probe(self) -> None:
        names: set[str] = set()
        beside: set[str] = set()
        for part in self.parts:
            first, second = (_written(part, trace.set_span_in_context(probe, Context())) for probe in _PROBES)
            differing = {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
            if differing:
                names |= differing
                beside.update(name.lower() for name in part.fields)
        names.update(renamed for renamed, name in RENAMED.items() if name in names)
        self._of_spans = frozenset(names)
        self._beside_spans = frozenset(beside - {BAGGAGE})


def _written(part: TextMapPropagator, context: Context) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    try:
        part.inject(headers, context)
    except _faults.FAULTS:
        _faults.report("writing the context of a message")
    return {name.lower(): value for name, value in headers.items() if isinstance(name, str)}  # pyright: ignore[reportUnnecessaryIsInstance] (a propagator may write anything)


# Of none: a propagator may raise, and does so where faults are reported, not where this is imported.
_configured = _Configured(CompositePropagator([]))


def configured() -> _Configured:
    """Returns the propagators that are configured now."""
    global _configured
    current = propagate.get_global_textmap()
    if current is not _configured.propagator:
        _configured = _Configured(current)
    return _configured


def write_context(context: Context) -> dict[str, str]:
    """Writes a context into new headers.

    Returns:
        What the propagators wrote, but nothing that nats-py, an older nats-py on the other side, or the server would
        refuse.
    """
    headers: dict[str, str] = {}
    current = _configured
    if propagate.get_global_textmap() is not current.propagator:
        current = configured()
    # Where a context has a span and at most the body that it belongs to, there is nothing for the other propagators.
    only_span = SPAN_KEY in context and len(context) == 1 + (BODY_KEY in context)
    for propagator in current.writers if only_span else current.parts:
        try:
            propagator.inject(headers, context)  # pyright: ignore[reportArgumentType] (the default setter takes any)
        except _faults.FAULTS:
            _faults.report("writing the context of a message")
    if current.checked:
        _remove_what_nats_refuses(headers)
    return headers


def _remove_what_nats_refuses(headers: dict[Any, Any]) -> None:
    for name, value in list(headers.items()):
        if not (
            isinstance(name, str)
            and re.fullmatch(_NAME, name)
            and isinstance(value, str)
            and re.fullmatch(_VALUE, value)
        ):
            del headers[name]
            try:
                raise ValueError(f"no header for NATS: {name!r}")
            except ValueError:
                _faults.report("writing a header of a propagator")


def extract(headers: Mapping[str, Any] | None, context: Context) -> Context:
    """Reads the creation context of a message.

    Args:
        headers: The message's headers.
        context: What it is added to. Always given: with none, some propagators fall back to the current context, and
            the current context of a nats-py callback is that of its `subscribe()`, for ever.

    Returns:
        The context with the span context and the baggage that travelled in the headers.
    """
    if not headers:
        return context
    current = _configured
    if propagate.get_global_textmap() is not current.propagator:
        current = configured()
    getter = ORDINARY_GETTER
    parts = current.readers
    # By far the most messages have this one header, in this case. Propagators of other headers need not look.
    if TRACEPARENT not in headers or (len(headers) != 1 and not others_are_of_nats(headers)):
        getter, parts, headers = GETTER, current.parts, in_lower_case(headers)
    for propagator in parts:
        try:
            context = propagator.extract(headers, context, getter)
        except _faults.FAULTS:
            _faults.report("reading the context of a message")
    return context
