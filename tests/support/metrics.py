# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Metrics as a reader gets them: whole attribute sets and exact values.

Names are written out here and in the tests, not taken from the package: a wrong constant must fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nats.aio.client import Client

from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
)
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from support.telemetry import AttributeSet, attribute_set

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

# Name: the SDK's data type, whether it only rises, unit.
INSTRUMENTS = {
    "messaging.client.operation.duration": ("Histogram", None, "s"),
    "messaging.process.duration": ("Histogram", None, "s"),
    "messaging.client.sent.messages": ("Sum", True, "{message}"),
    "messaging.client.consumed.messages": ("Sum", True, "{message}"),
    "nats.client.sent.bytes": ("Sum", True, "By"),
    "nats.client.received.bytes": ("Sum", True, "By"),
    "nats.client.reconnects": ("Sum", True, "{reconnect}"),
    "nats.client.messages.dropped": ("Sum", True, "{message}"),
    "nats.client.processing.messages": ("Sum", False, "{message}"),
    "nats.client.async_errors": ("Sum", True, "{error}"),
    "nats.client.connections": ("Sum", False, "{connection}"),
    "nats.client.active_subscriptions": ("Sum", False, "{subscription}"),
    "nats.client.pending.messages": ("Sum", False, "{message}"),
    "nats.client.pending.bytes": ("Sum", False, "By"),
    "nats.jetstream.delivery.latency": ("Histogram", None, "s"),
    "nats.jetstream.redeliveries": ("Sum", True, "{message}"),
    "nats.jetstream.consumer.pending": ("Gauge", None, "{message}"),
    "nats.jetstream.dead_letters": ("Sum", True, "{message}"),
}
OPT_IN = {"messaging.client.message.body.size": ("Histogram", None, "By")}

_SERVER = {"server.address", "server.port"}
_SUBJECT = {*_SERVER, "messaging.destination.name", "messaging.destination.template"}
_SENDER = {*_SUBJECT, "messaging.operation.name"}
_CONSUMER = {"messaging.consumer.group.name", "messaging.destination.subscription.name"}
_STREAM = {"messaging.nats.jetstream.stream", "messaging.nats.jetstream.consumer"}

# All attributes that a metric can have besides `messaging.system`.
ATTRIBUTES = {
    "messaging.client.operation.duration": {*_SENDER, *_CONSUMER, "messaging.operation.type", "error.type"},
    "messaging.process.duration": {*_SENDER, *_CONSUMER, "messaging.nats.jetstream.settlement", "error.type"},
    "messaging.client.sent.messages": {*_SENDER, "error.type"},
    "messaging.client.consumed.messages": {*_SENDER, *_CONSUMER},
    "nats.client.sent.bytes": _SERVER,
    "nats.client.received.bytes": _SERVER,
    "nats.client.reconnects": _SERVER,
    "nats.client.messages.dropped": {*_SUBJECT, *_CONSUMER},
    "nats.client.processing.messages": {*_SUBJECT, *_CONSUMER},
    "nats.client.async_errors": {*_SERVER, "error.type"},
    "nats.client.connections": {*_SERVER, "nats.client.connection.state"},
    "nats.client.active_subscriptions": _SERVER,
    "nats.client.pending.messages": _SERVER,
    "nats.client.pending.bytes": _SERVER,
    "nats.jetstream.delivery.latency": _STREAM,
    "nats.jetstream.redeliveries": _STREAM,
    "nats.jetstream.consumer.pending": _STREAM,
    "nats.jetstream.dead_letters": _STREAM,
}
OPT_IN_ATTRIBUTES = {"messaging.client.message.body.size": {*_SENDER, *_CONSUMER, "messaging.operation.type"}}

COUNTERS = [name for name, (_, rises, _) in INSTRUMENTS.items() if rises]

DELTA = dict.fromkeys(
    (Counter, UpDownCounter, Histogram, ObservableCounter, ObservableUpDownCounter, ObservableGauge),
    AggregationTemporality.DELTA,
)


class Collected(dict[str, Metric]):
    """What one collection of a reader gave: the metrics with a data point, by name."""

    def of(self, name: str) -> dict[AttributeSet, Any]:
        """The values of a metric by their attributes; of a histogram the counts of what was recorded."""
        return {key: _value(point) for key, point in self.points(name).items()}

    def points(self, name: str) -> dict[AttributeSet, HistogramDataPoint | NumberDataPoint]:
        """The data points of a metric by their attributes."""
        metric = self.get(name)
        return (
            {}
            if metric is None
            else {attribute_set(point.attributes or {}): point for point in metric.data.data_points}
        )


class Meters:
    """A meter provider of the test's own, to give to `telemetry.instrument(meter_provider=meters.provider)`.

    Args:
        temporality: The reader's preferred temporality; cumulative by default.
        views: The views.
        more: What the SDK's provider takes besides.
    """

    def __init__(
        self,
        temporality: dict[type, AggregationTemporality] | None = None,
        views: Sequence[View] = (),
        **more: Any,
    ) -> None:
        self.reader = InMemoryMetricReader(temporality)
        self.provider = MeterProvider(
            [self.reader], views=views, resource=Resource.get_empty(), shutdown_on_exit=False, **more
        )

    def collect(self) -> Collected:
        """Collects."""
        return collect(self.reader)


def collect(reader: InMemoryMetricReader) -> Collected:
    """Collects from any reader that keeps what it collects."""
    data = reader.get_metrics_data()
    resources = data.resource_metrics if data else ()
    return Collected(
        (metric.name, metric) for resource in resources for scope in resource.scope_metrics for metric in scope.metrics
    )


def server(nc: Client, **more: Any) -> dict[str, Any]:
    """The attributes of the server that a client is connected to, which all of its metrics have."""
    uri = nc._current_server.uri
    return {"messaging.system": "nats", "server.address": uri.hostname, "server.port": uri.port, **more}


def messages(nc: Client, operation: str, destination: str | None = None, **more: Any) -> AttributeSet:
    """The attributes of the messages of an operation; `template`, `group`, `consumer`, `error`, `type` for short."""
    attributes = server(nc, **{"messaging.operation.name": operation})
    if destination is not None:
        attributes["messaging.destination.name"] = destination
    return attribute_set({**attributes, **{_SHORT[name]: value for name, value in more.items()}})


def dropped(nc: Client, destination: str | None = None, **more: Any) -> AttributeSet:
    """The attributes of messages dropped."""
    return frozenset(item for item in messages(nc, "", destination, **more) if item[0] != "messaging.operation.name")


def jetstream(stream: str, consumer: str | None = None) -> AttributeSet:
    """The attributes of deliveries from a stream."""
    attributes = {"messaging.system": "nats", "messaging.nats.jetstream.stream": stream}
    return attribute_set(
        attributes if consumer is None else {**attributes, "messaging.nats.jetstream.consumer": consumer}
    )


def states(nc_or_server: Client | Mapping[str, Any], **counts: int) -> dict[AttributeSet, int]:
    """All states of the connections to a server; zero where nothing is said."""
    of_server = nc_or_server if isinstance(nc_or_server, Mapping) else server(nc_or_server)
    names = ("connecting", "connected", "reconnecting", "draining", "disconnected")
    return {attribute_set({**of_server, "nats.client.connection.state": name}): counts.get(name, 0) for name in names}


_SHORT = {
    "template": "messaging.destination.template",
    "group": "messaging.consumer.group.name",
    "consumer": "messaging.destination.subscription.name",
    "error": "error.type",
    "settlement": "messaging.nats.jetstream.settlement",
    "type": "messaging.operation.type",
}


def _value(point: HistogramDataPoint | NumberDataPoint) -> float:
    return point.count if isinstance(point, HistogramDataPoint) else point.value
