# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Exceptions as log records, where the user has opted in; see the conventions for exceptions.

Else, and where the API is too old or there is no logger provider, they are events of the span.
"""

from __future__ import annotations

from os import environ
from time import time_ns
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.trace import Span

_OPT_IN = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"
_PROCESS = "process"


class ExceptionLogs:
    """Where exceptions are recorded in one `instrument()` call.

    Args:
        provider: The logger provider; None for the global one, which may be set later.
        name: The instrumentation scope's name.
        version: Version of this package.
        schema_url: Schema URL of the conventions.

    Attributes:
        duplicates: Whether they are events of the span besides.
    """

    __slots__ = ("_logger", "_provider", "_scope", "_wanted", "duplicates")

    def __init__(self, provider: Any, name: str, version: str, schema_url: str) -> None:
        opted = {value.strip() for value in environ.get(_OPT_IN, "").split(",")}
        self.duplicates = "logs/dup" in opted
        self._wanted = self.duplicates or "logs" in opted
        self._provider = provider
        self._scope = name, version, schema_url
        self._logger: Any = None

    def emit(self, operation: str | None, attributes: dict[str, str], span: Span) -> bool:
        """Writes a log record about an exception.

        Args:
            operation: `messaging.operation.type`; None has no name for its record.
            attributes: The exception's.
            span: The span of the operation.

        Returns:
            Whether it did.
        """
        if not self._wanted or operation is None:
            return False
        try:
            # Not at the top: most programs never do, and the API of logs takes milliseconds.
            from opentelemetry import _logs as api  # noqa: PLC0415

            if self._logger is None:
                provider = self._provider or api.get_logger_provider()
                if isinstance(provider, api.NoOpLoggerProvider) or type(provider).__name__ == "ProxyLoggerProvider":
                    return False
                name, version, schema_url = self._scope
                self._logger = provider.get_logger(name, version, schema_url)
            process = operation == _PROCESS
            now = time_ns()
            try:
                record = api.LogRecord(
                    timestamp=now,
                    observed_timestamp=now,
                    context=trace.set_span_in_context(span, Context()),
                    severity_number=api.SeverityNumber.ERROR if process else api.SeverityNumber.WARN,
                    severity_text="ERROR" if process else "WARN",
                    event_name=f"messaging.{operation}.exception",
                    attributes=attributes,
                )
            except TypeError:
                self._wanted = False  # an API that knows no event names
                return False
            self._logger.emit(record)
            return True
        except FAULTS:
            _faults.report("recording an exception as a log record")
            return False
