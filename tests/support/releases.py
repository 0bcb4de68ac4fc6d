# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the installed OpenTelemetry can do, where the oldest releases that the package works with can't."""

from __future__ import annotations

import inspect
from importlib import metadata

import pytest

from opentelemetry import _logs as api


def _is_before(major: int, minor: int) -> bool:
    return tuple(map(int, metadata.version("opentelemetry-api").split(".")[:2])) < (major, minor)


NAMES_EVENTS = "event_name" in inspect.signature(api.LogRecord).parameters
"""Whether a log record can have the name of an event."""

EXPORTS_SCHEMA_URLS = not _is_before(1, 31)
"""Whether the OTLP exporter writes the schema URLs of scopes."""

EXPORTS_ADVISED_BUCKETS = not _is_before(1, 31)
"""Whether the OTLP exporter leaves the buckets to their instruments."""

knows_no_propagators = pytest.mark.skipif(_is_before(1, 33), reason="OTEL_PROPAGATORS has no `none` yet")
