# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics as a small table: how often each operation ran, how often it failed, how long it took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

OPERATION = "messaging.client.operation.duration"
PROCESS = "messaging.process.duration"
COUNTERS = {
    "nats.client.sent.bytes": "{:,} bytes sent",
    "nats.client.received.bytes": "{:,} bytes received",
    "nats.jetstream.redeliveries": "{:,} redelivered",
}

Series = tuple[str, str, frozenset[tuple[str, str]]]


def show_metrics(metrics: ExportMetricsServiceRequest, console: Console) -> None:
    """Prints the durations by operation and destination, and some counters.

    Args:
        metrics: exports of cumulative metrics, in their order.
        console: where to print.
    """
    # A later export of a series has what the earlier ones had.
    last = {series: point for series, point in _points(metrics)}
    rows: dict[tuple[str, str, str], list[float]] = {}
    for (service, name, attributes), point in last.items():
        labels = dict(attributes)
        # Operations without a type are management: once, at the start.
        if name == PROCESS or (name == OPERATION and "messaging.operation.type" in labels):
            where = labels.get("messaging.destination.template") or labels.get("messaging.destination.name", "an inbox")
            row = rows.setdefault((labels["messaging.operation.name"], where, service), [0, 0, 0.0])
            row[0] += point.count
            row[1] += point.count if "error.type" in labels else 0
            row[2] += point.sum
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("operation", "destination", "service"):
        table.add_column(column, no_wrap=True)
    for column in ("calls", "failed", "mean"):
        table.add_column(column, no_wrap=True, justify="right")
    for (operation, where, service), (calls, failed, seconds) in sorted(rows.items()):
        mean = f"{seconds / calls * 1e3:.1f} ms"
        table.add_row(operation, where, service, f"{calls:.0f}", Text(f"{failed:.0f}", "red" if failed else ""), mean)
    console.print(Text("Metrics", "bold"))
    console.print(table)
    totals = {name: sum(point.as_int for (_, metric, _), point in last.items() if metric == name) for name in COUNTERS}
    console.print(Text("  ".join(text.format(totals[name]) for name, text in COUNTERS.items()), "dim"))


def _points(metrics: ExportMetricsServiceRequest) -> Iterator[tuple[Series, Any]]:
    for resource_metrics in metrics.resource_metrics:
        resource = {pair.key: pair.value.string_value for pair in resource_metrics.resource.attributes}
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    attributes = frozenset((pair.key, pair.value.string_value) for pair in point.attributes)
                    yield (resource.get("service.name", "unknown"), metric.name, attributes), point
