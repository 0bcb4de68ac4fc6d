# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The quick start on a machine that has nothing but Python: its installation too is typed; and its way over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from support.otlp import OtlpReceiver
from support.shell import type_quick_start


def names(receiver: OtlpReceiver) -> list[str]:
    return [span.name for span in sorted(receiver.spans, key=lambda span: span.start)]


def test_the_quick_start_from_an_empty_directory(tmp_path: Path) -> None:
    with OtlpReceiver() as collector:
        typed = type_quick_start(tmp_path, collector.endpoint, install=True)
    assert (tmp_path / ".venv").is_dir()
    assert '"name": "publish orders.*.created"' in typed["console"].stdout
    once = ["publish orders.*.created", "process orders.*.created", "request prices.*", "process prices.*", "reply"]
    assert [name for name in names(collector) if not name.startswith("connect ")] == once * 2
    assert [log.body for log in collector.logs] == ["orders.8812.created costs 9.90"]
    assert collector.faults == []


class Receiver(TraceServiceServicer):
    """Receives traces over gRPC.

    Attributes:
        names: The names of the spans so far.
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(self, request: ExportTraceServiceRequest, context: object) -> ExportTraceServiceResponse:  # noqa: N802
        for resource_spans in request.resource_spans:
            for scope_spans in resource_spans.scope_spans:
                self.names += [span.name for span in scope_spans.spans]
        return ExportTraceServiceResponse()


@pytest.fixture
def grpc_collector() -> Iterator[tuple[Receiver, str]]:
    receiver, server = Receiver(), grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield receiver, f"http://127.0.0.1:{port}"
    server.stop(None)


def test_the_quick_start_by_grpc(grpc_collector: tuple[Receiver, str], tmp_path: Path) -> None:
    receiver, endpoint = grpc_collector

    def default(text: str) -> str:
        """As the table of troubles says: with the exporter, and no protocol named; traces only, as for Jaeger."""
        return text.replace("export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf\n", "").replace(
            " --service_name", " --metrics_exporter none --logs_exporter none --service_name"
        )

    told = type_quick_start(tmp_path, endpoint, only={"server", "collector"}, edit=default)["collector"]
    assert told.stderr == "INFO:root:orders.8812.created costs 9.90\n"
    assert {"publish orders.*.created", "process orders.*.created"} <= set(receiver.names)
