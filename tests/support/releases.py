# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What is tested with, and what the installed OpenTelemetry can do where the oldest releases that work can't."""

from __future__ import annotations

import configparser
import inspect
from importlib.metadata import version

import pytest

from opentelemetry import _logs as api
from support.docs import ROOT

OPENTELEMETRY = tuple(int(part) for part in version("opentelemetry-api").split(".")[:2])

NAMES_EVENTS = "event_name" in inspect.signature(api.LogRecord).parameters
"""Whether a log record can have the name of an event."""

EXPORTS_SCHEMA_URLS = OPENTELEMETRY >= (1, 31)
"""Whether the OTLP exporter writes the schema URLs of scopes."""

EXPORTS_ADVISED_BUCKETS = OPENTELEMETRY >= (1, 31)
"""Whether the OTLP exporter leaves the buckets to their instruments."""

knows_no_propagators = pytest.mark.skipif(OPENTELEMETRY < (1, 33), reason="OTEL_PROPAGATORS has no `none` yet")


def tox() -> configparser.ConfigParser:
    """Reads tox.ini, which names the releases."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini", encoding="utf-8")
    return parser
