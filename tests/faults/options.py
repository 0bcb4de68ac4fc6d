# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Every option of the instrumentation, with a value that puts it to work."""

from __future__ import annotations

from typing import Any

from opentelemetry.instrumentation.nats._options import InstrumentOptions

EXCLUDED = "excluded.>"
"""Subjects that programs may use to have the option at work."""


def publish_hook(span: Any, message: Any) -> None:
    """Looks at all there is."""
    span.set_attribute("faults.publish", f"{message.subject} {message.reply} {message.size} {bool(message.headers)}")


def consume_hook(span: Any, message: Any) -> None:
    """Looks at what is received."""
    span.set_attribute("faults.consume", type(message).__name__)


OPTIONS: dict[str, Any] = {
    "publish_hook": publish_hook,
    "consume_hook": consume_hook,
    "use_span_links": True,
    "excluded_subjects": [EXCLUDED],
    "propagation_excluded_subjects": ["bare.>"],
    "subject_templates": ["templated.*.>"],
    "subject_names": 3,
    "headers_included": ["*"],
    "headers_excluded": ["x-private"],
    "activate_next_msg": True,
    "record_exception_messages": False,
}


PROVIDERS = frozenset({"tracer_provider", "meter_provider", "logger_provider"})
"""What the harness gives."""


def known() -> set[str]:
    """The options that there are, but for providers."""
    return set(InstrumentOptions.__annotations__) - PROVIDERS


def all_options() -> dict[str, Any]:
    """All options at once."""
    return {name: value for name, value in OPTIONS.items() if name in known()}
