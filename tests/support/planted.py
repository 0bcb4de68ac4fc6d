# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Planted secrets and payloads: what the tests give to nats-py and nobody may find in telemetry or in our log lines."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

PLANTED = "pl4nted"
"""What every planted text has in it, and nothing else in the tests."""

PASSWORD = f"{PLANTED}-password"
PAYLOAD = f"{PLANTED} payload".encode()

_found: list[str] = []


class PlantedInSpans(SpanProcessor):
    """Looks through everything that a finished span would export."""

    def on_end(self, span: ReadableSpan) -> None:
        values: list[Any] = [span.name, span.status.description, span.attributes]
        values += [(event.name, event.attributes) for event in span.events]
        values += [link.attributes for link in span.links]
        look(f"the span {span.name!r}", values)


class PlantedInLogs(logging.Handler):
    """Looks through OpenTelemetry's log lines as a stream's handler writes them, and as others do."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("opentelemetry"):
            error = record.exc_info[1] if record.exc_info else None
            look(f"a line of the logger {record.name!r}", [self.format(record), error, record.args])


def look_at_metrics(reader: InMemoryMetricReader) -> None:
    """Looks through the attributes of all data points."""
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                look(f"the metric {metric.name!r}", (point.attributes for point in metric.data.data_points))


def look(where: str, values: Iterable[Any]) -> None:
    """Notes what has a planted text in it, and what no exporter could write."""
    for text in strings(values):
        if PLANTED in text.lower():
            _found.append(f"{where}: {text}")
        try:
            text.encode()
        except UnicodeEncodeError:
            _found.append(f"{where}: no UTF-8: {text!r}")


def strings(value: Any) -> Iterator[str]:
    """Yields every text in a value, of mappings the names as well."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from strings(item)
    elif isinstance(value, Iterable):
        for item in value:
            yield from strings(item)
    else:
        yield str(value)


@contextmanager
def nothing_found() -> Iterator[None]:
    """Fails if something was found within the block.

    Raises:
        AssertionError: With all of it.
    """
    _found.clear()
    yield
    found, _found[:] = _found[:], []
    assert not found, "planted secrets got out:\n" + "\n".join(found)
