# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""An OTLP/HTTP receiver on the loopback interface: what a backend would see."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import SpanKind, StatusCode

Attributes = dict[str, Any]

DECOMPRESS: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}


@dataclass(frozen=True)
class Scope:
    """An instrumentation scope.

    Attributes:
        name: Its name.
        version: Its version, or an empty string.
        schema_url: The schema URL that came with it, or an empty string.
    """

    name: str
    version: str
    schema_url: str


@dataclass(frozen=True)
class ReceivedEvent:
    """A span event."""

    name: str
    attributes: Attributes


@dataclass(frozen=True)
class ReceivedLink:
    """A span link, ids as hex."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True)
class ReceivedSpan:
    """A span, ids as hex, times in nanoseconds since the epoch.

    Attributes:
        parent_span_id: The parent's id; empty for a root.
        resource: The attributes of its resource.
    """

    name: str
    kind: SpanKind
    trace_id: str
    span_id: str
    parent_span_id: str
    start: int
    end: int
    attributes: Attributes
    links: list[ReceivedLink]
    events: list[ReceivedEvent]
    status: StatusCode
    description: str
    scope: Scope
    resource: Attributes

    @property
    def service(self) -> str:
        return self.resource.get("service.name", "")


@dataclass(frozen=True)
class ReceivedHistogram:
    """The value of a histogram's data point."""

    count: int
    sum: float
    bounds: list[float]
    bucket_counts: list[int]


@dataclass(frozen=True)
class ReceivedMetric:
    """One export of a metric.

    Attributes:
        kind: `sum`, `gauge`, `histogram` or `exponential_histogram`.
        points: Attributes and value of each data point.
    """

    name: str
    unit: str
    kind: str
    points: list[tuple[Attributes, int | float | ReceivedHistogram]]
    scope: Scope
    resource: Attributes


@dataclass(frozen=True)
class ReceivedLog:
    """A log record, ids as hex, empty without a span.

    Attributes:
        event: The name of the event that it is, or an empty string.
        severity: The text of its severity.
        resource: The attributes of its resource.
    """

    body: Any
    event: str
    severity: str
    trace_id: str
    span_id: str
    attributes: Attributes
    scope: Scope
    resource: Attributes


@dataclass
class OtlpReceiver:
    """Receives traces, metrics and logs as protobuf, compressed or not; use it as a context manager.

    Attributes:
        spans: All spans so far, in the order of their arrival.
        metrics: All exports of metrics so far, in the order of their arrival.
        logs: All log records so far, likewise.
        faults: What could not be taken in, and why.
    """

    spans: list[ReceivedSpan] = field(default_factory=list)
    metrics: list[ReceivedMetric] = field(default_factory=list)
    logs: list[ReceivedLog] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __enter__(self) -> OtlpReceiver:
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """The base URL, as `OTEL_EXPORTER_OTLP_ENDPOINT` takes it."""
        host, port = self._server.server_address[:2]
        return f"http://{host}:{port}"

    def environment(self, service: str) -> dict[str, str]:
        """What makes an `opentelemetry-instrument` process of that service name export to here, soon."""
        return {
            "OTEL_SERVICE_NAME": service,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }

    def named(self, name: str) -> list[ReceivedSpan]:
        """The spans of that name."""
        return [span for span in self.spans if span.name == name]

    def wait_for(self, condition: Callable[[OtlpReceiver], Any], timeout: float = 10.0) -> None:
        """Waits, blocking this thread, until something has arrived; `await asyncio.to_thread(receiver.wait_for, ...)`.

        Args:
            condition: Is given the receiver and returns something true.
            timeout: Seconds before giving up.

        Raises:
            AssertionError: The time is up; the message tells what arrived.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout):
                arrived = "".join(f"\n  {span.service}: {span.name}" for span in self.spans) or " none"
                raise AssertionError(
                    f"not received within {timeout} s; spans:{arrived}\nfaults: {self.faults}, "
                    f"metrics: {sorted({metric.name for metric in self.metrics})}"
                )

    def receive(self, path: str, body: bytes) -> bytes | None:
        """Takes one export in.

        Args:
            path: The path of the request.
            body: Its body, no longer compressed.

        Returns:
            The answer's body; None where nothing is known under that path.

        Raises:
            Exception: The body can't be decoded.
        """
        if path == "/v1/traces":
            spans, answer = _spans(ExportTraceServiceRequest.FromString(body)), ExportTraceServiceResponse()
            with self._changed:
                self.spans += spans
                self._changed.notify_all()
        elif path == "/v1/metrics":
            metrics, answer = _metrics(ExportMetricsServiceRequest.FromString(body)), ExportMetricsServiceResponse()
            with self._changed:
                self.metrics += metrics
                self._changed.notify_all()
        elif path == "/v1/logs":
            logs, answer = _logs(ExportLogsServiceRequest.FromString(body)), ExportLogsServiceResponse()
            with self._changed:
                self.logs += logs
                self._changed.notify_all()
        else:
            return None
        return answer.SerializeToString()


def _handler(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # noqa: N802 (the name that http.server calls)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                answer = receiver.receive(self.path, DECOMPRESS[self.headers["Content-Encoding"]](body))
            except Exception as error:  # whatever it is, the test must see it, and the exporter an answer
                receiver.faults.append(f"{self.path}: {error!r}")
                self._answer(400, b"")
            else:
                self._answer(404, b"") if answer is None else self._answer(200, answer)

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Keeps requests out of the output of the tests."""

    return Handler


def _spans(request: ExportTraceServiceRequest) -> list[ReceivedSpan]:
    return [
        _span(span, Scope(scoped.scope.name, scoped.scope.version, scoped.schema_url), resource)
        for resource_spans in request.resource_spans
        for resource in [_attributes(resource_spans.resource.attributes)]
        for scoped in resource_spans.scope_spans
        for span in scoped.spans
    ]


def _span(span: Span, scope: Scope, resource: Attributes) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        # The protocol has 0 for "unspecified" before the kinds that the API numbers from 0.
        kind=SpanKind(span.kind - 1),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        links=[
            ReceivedLink(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links
        ],
        events=[ReceivedEvent(event.name, _attributes(event.attributes)) for event in span.events],
        status=StatusCode(span.status.code),
        description=span.status.message,
        scope=scope,
        resource=resource,
    )


def _logs(request: ExportLogsServiceRequest) -> list[ReceivedLog]:
    return [
        ReceivedLog(
            body=_value(log.body),
            event=log.event_name,
            severity=log.severity_text,
            trace_id=log.trace_id.hex(),
            span_id=log.span_id.hex(),
            attributes=_attributes(log.attributes),
            scope=Scope(scoped.scope.name, scoped.scope.version, scoped.schema_url),
            resource=resource,
        )
        for resource_logs in request.resource_logs
        for resource in [_attributes(resource_logs.resource.attributes)]
        for scoped in resource_logs.scope_logs
        for log in scoped.log_records
    ]


def _metrics(request: ExportMetricsServiceRequest) -> list[ReceivedMetric]:
    return [
        _metric(metric, Scope(scoped.scope.name, scoped.scope.version, scoped.schema_url), resource)
        for resource_metrics in request.resource_metrics
        for resource in [_attributes(resource_metrics.resource.attributes)]
        for scoped in resource_metrics.scope_metrics
        for metric in scoped.metrics
    ]


def _metric(metric: Metric, scope: Scope, resource: Attributes) -> ReceivedMetric:
    kind = metric.WhichOneof("data") or ""
    points = [(_attributes(point.attributes), _point_value(point)) for point in getattr(metric, kind).data_points]
    return ReceivedMetric(metric.name, metric.unit, kind, points, scope, resource)


def _point_value(point: Any) -> int | float | ReceivedHistogram:
    if "explicit_bounds" in point.DESCRIPTOR.fields_by_name:
        return ReceivedHistogram(point.count, point.sum, list(point.explicit_bounds), list(point.bucket_counts))
    if "scale" in point.DESCRIPTOR.fields_by_name:  # its buckets are not for reading
        return ReceivedHistogram(point.count, point.sum, [], [])
    return getattr(point, point.WhichOneof("value"))


def _attributes(pairs: Iterable[KeyValue]) -> Attributes:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)
