# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""An OTLP/HTTP receiver for traces on loopback, which can pass on what it got."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.request import Request, urlopen

from google.protobuf.message import DecodeError

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.util.re import parse_env_headers


class Collector:
    """Receives spans while its `with` block runs.

    Attributes:
        received: everything that the services exported so far, as one request.
        endpoint: the value for `OTEL_EXPORTER_OTLP_ENDPOINT` of the services.
    """

    def __init__(self) -> None:
        self.received = ExportTraceServiceRequest()
        lock = threading.Lock()
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    request = ExportTraceServiceRequest.FromString(body)
                except DecodeError as error:
                    self.send_error(400, str(error))
                    return
                with lock:
                    received.MergeFrom(request)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                """Keeps the demo's output free of one line per export."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
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


def forward(received: ExportTraceServiceRequest, url: str) -> None:
    """Sends everything received to another OTLP/HTTP endpoint, with the user's `OTEL_EXPORTER_OTLP_*HEADERS`.

    Args:
        received: the spans.
        url: full URL of the endpoint for traces.

    Raises:
        OSError: the endpoint can't be reached or refuses the spans.
        ValueError: `url` is none.
    """
    headers = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    request = Request(
        url,
        data=received.SerializeToString(),
        headers={**parse_env_headers(headers, liberal=True), "Content-Type": "application/x-protobuf"},
    )
    with urlopen(request, timeout=10):
        pass
