# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Every option of the instrumentation, with a value that puts it to work, and the context that a program runs in."""

from __future__ import annotations

from typing import Any

from faults.child import ALL, ON, PROPAGATION
from opentelemetry.baggage import set_baggage
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats._options import InstrumentOptions
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

EXCLUDED = "excluded.>"
"""Subjects that programs may use to have the option at work."""
UNTRACED = "untraced."
"""What subjects begin with that programs may use to have `should_trace` say no."""


def publish_hook(span: Any, message: Any) -> None:
    """Looks at all there is."""
    span.set_attribute("faults.publish", f"{message.subject} {message.reply} {message.size} {bool(message.headers)}")


def consume_hook(span: Any, message: Any) -> None:
    """Looks at what is received."""
    span.set_attribute("faults.consume", type(message).__name__)


def response_hook(span: Any, message: Any) -> None:
    """Looks at what is answered."""
    span.set_attribute("faults.response", f"{message.subject} {len(message.data)} {bool(message.headers)}")


def should_trace(operation: str, subject: str) -> bool:
    """Looks at what is about to be traced."""
    return not f"{operation} {subject}".partition(" ")[2].startswith(UNTRACED)


OPTIONS: dict[str, Any] = {
    "publish_hook": publish_hook,
    "consume_hook": consume_hook,
    "response_hook": response_hook,
    "should_trace": should_trace,
    "use_span_links": True,
    "included_subjects": [">"],
    "excluded_subjects": [EXCLUDED],
    "propagation_excluded_subjects": ["bare.>"],
    "subject_templates": ["templated.*.>"],
    "subject_names": 3,
    "headers_included": ["*"],
    "headers_excluded": ["x-private"],
    "baggage_keys": ["*"],
    "activate_next_msg": True,
    "record_exception_messages": False,
    "expected_errors": [TimeoutError, "NotFoundError"],
    "record_body_sizes": True,
}

PROPAGATION_ONLY: dict[str, Any] = {"propagation_only": True}
"""What leaves nothing to do for most of the others, so it is not among them."""

PROVIDERS = frozenset({"tracer_provider", "meter_provider", "logger_provider"})
"""What the harness gives."""


def known() -> set[str]:
    """The options that there are, but for providers."""
    return set(InstrumentOptions.__annotations__) - PROVIDERS


OPTIONS_OF = {ON: {}, ALL: OPTIONS, PROPAGATION: PROPAGATION_ONLY}
"""The options of each mode that is not bare."""

_PARENT = NonRecordingSpan(SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))

AMBIENT = {
    ON: Context(),
    ALL: set_baggage("faults", "all", Context()),  # what `baggage_keys` records
    PROPAGATION: set_span_in_context(_PARENT, Context()),  # without one there is nothing to send
}
"""The context that each of them runs in."""
