# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Exceptions as log records: `OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from opentelemetry.sdk import _logs as sdk
from opentelemetry.sdk._logs import export
from support.core import Unique
from support.releases import NAMES_EVENTS
from support.spans import span_context
from support.telemetry import Telemetry

OPT_IN = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"

names_events = pytest.mark.skipif(not NAMES_EVENTS, reason="log records have no event names yet")


class Provider:
    """A logger provider, and what it was given."""

    def __init__(self) -> None:
        exporter: Any = getattr(export, "InMemoryLogRecordExporter", None) or export.InMemoryLogExporter()  # type: ignore[attr-defined]
        self._exporter = exporter() if isinstance(exporter, type) else exporter
        self.provider = sdk.LoggerProvider(shutdown_on_exit=False)
        self.provider.add_log_record_processor(export.SimpleLogRecordProcessor(self._exporter))

    @property
    def records(self) -> list[Any]:
        return [finished.log_record for finished in self._exporter.get_finished_logs()]


@pytest.fixture
def logs() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.provider.shutdown()


async def fail(telemetry: Telemetry, nc: Client, subject: str) -> Any:
    """A handler that raises, and a publish that does; returns the process span."""

    async def handler(msg: Msg) -> None:
        raise ValueError("password=hunter2")

    async def ignore(error: Exception) -> None:
        pass

    nc._error_cb = ignore
    await nc.subscribe(subject, cb=handler)
    await nc.publish(subject)
    await telemetry.wait_for(f"process {subject}")
    return telemetry.span(f"process {subject}")


@names_events
@pytest.mark.parametrize(("value", "events"), [("logs", []), ("logs/dup", ["exception"]), ("other, logs", [])])
async def test_opted_in_an_exception_is_a_log_record(
    telemetry: Telemetry,
    logs: Provider,
    nc: Client,
    unique: Unique,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    events: list[str],
):
    monkeypatch.setenv(OPT_IN, value)
    telemetry.instrument(logger_provider=logs.provider)
    process = await fail(telemetry, nc, unique())
    assert [event.name for event in process.events] == events
    [record] = logs.records
    assert (record.event_name, record.severity_text) == ("messaging.process.exception", "ERROR")
    assert record.severity_number.name == "ERROR"
    assert (record.trace_id, record.span_id) == (span_context(process).trace_id, span_context(process).span_id)
    assert set(record.attributes) == {"exception.type", "exception.message", "exception.stacktrace"}
    assert record.attributes["exception.type"] == "ValueError"
    assert record.attributes["exception.message"] == "password=[REDACTED]"
    assert "hunter2" not in record.attributes["exception.stacktrace"]


@names_events
async def test_of_a_client_call_it_is_a_warning(
    telemetry: Telemetry, logs: Provider, nc: Client, unique: Unique, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(OPT_IN, "logs")
    telemetry.instrument(logger_provider=logs.provider)
    await nc.close()
    subject = unique()
    with pytest.raises(Exception):  # noqa: B017 (nats-py's)
        await nc.publish(subject, b"hello")
    [record] = logs.records
    assert (record.event_name, record.severity_text) == ("messaging.send.exception", "WARN")
    assert telemetry.span(f"publish {subject}").events == ()


@names_events
async def test_without_texts_the_record_has_none(
    telemetry: Telemetry, logs: Provider, nc: Client, unique: Unique, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(OPT_IN, "logs")
    telemetry.instrument(logger_provider=logs.provider, record_exception_messages=False)
    await fail(telemetry, nc, unique())
    [record] = logs.records
    assert dict(record.attributes) == {"exception.type": "ValueError"}
    assert record.body is None


@pytest.mark.parametrize("value", ["", "traces"])
async def test_by_default_it_is_an_event_of_the_span(
    telemetry: Telemetry, logs: Provider, nc: Client, unique: Unique, monkeypatch: pytest.MonkeyPatch, value: str
):
    monkeypatch.setenv(OPT_IN, value)
    telemetry.instrument(logger_provider=logs.provider)
    process = await fail(telemetry, nc, unique())
    assert [event.name for event in process.events] == ["exception"]
    assert logs.records == []


async def test_without_a_logger_provider_it_stays_one(
    telemetry: Telemetry, nc: Client, unique: Unique, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(OPT_IN, "logs")
    telemetry.instrument()
    process = await fail(telemetry, nc, unique())
    assert [event.name for event in process.events] == ["exception"]


async def test_with_an_api_that_knows_no_event_names_it_stays_one(
    telemetry: Telemetry, logs: Provider, nc: Client, unique: Unique, monkeypatch: pytest.MonkeyPatch
):
    class Old:
        def __init__(self, timestamp: int = 0, body: Any = None) -> None: ...

    monkeypatch.setattr("opentelemetry._logs.LogRecord", Old)
    monkeypatch.setenv(OPT_IN, "logs")
    telemetry.instrument(logger_provider=logs.provider)
    process = await fail(telemetry, nc, unique())
    assert [event.name for event in process.events] == ["exception"]
    assert logs.records == []
