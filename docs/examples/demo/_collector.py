# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""An OTLP/HTTP receiver for traces and metrics on loopback, which can pass on the traces."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.request import Request, urlopen

from google.protobuf.message import DecodeError

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.util.re import parse_env_headers


class Collector:
    """Receives what the services export while its `with` block runs.

    Attributes:
        traces: every span so far, as one request.
        metrics: every export of metrics so far, one after the other.
        endpoint: the value for `OTEL_EXPORTER_OTLP_ENDPOINT` of the services.
    """

    def __init__(self) -> None:
        self.traces = ExportTraceServiceRequest()
        self.metrics = ExportMetricsServiceRequest()
        lock = threading.Lock()
        received = {"/v1/traces": self.traces, "/v1/metrics": self.metrics}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if (whole := received.get(self.path)) is None:
                    self.send_error(404)
                    return
                try:
                    request = type(whole).FromString(body)
                except DecodeError as error:
                    self.send_error(400, str(error))
                    return
                with lock:
                    whole.MergeFrom(request)
                # An empty answer is a valid one: nothing was rejected.
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Keeps the demo's output free of one line per export."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def user_endpoint() -> str | None:
    """The full traces URL that the user's own `OTEL_EXPORTER_OTLP_*` variables ask for, if they do."""
    if traces := os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return traces
    if base := os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return base.rstrip("/") + "/v1/traces"
    return None


def forward(traces: ExportTraceServiceRequest, url: str) -> None:
    """Sends spans to another OTLP/HTTP endpoint, with the user's `OTEL_EXPORTER_OTLP_*HEADERS`.

    Args:
        traces: the spans.
        url: full URL of the endpoint for traces.

    Raises:
        OSError: the endpoint can't be reached or refuses the spans.
        ValueError: `url` is none.
    """
    headers = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    request = Request(
        url,
        data=traces.SerializeToString(),
        headers={**parse_env_headers(headers, liberal=True), "Content-Type": "application/x-protobuf"},
    )
    with urlopen(request, timeout=10):
        pass
