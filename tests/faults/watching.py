# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The instrumentation inside of a program, and what must not be there afterwards."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from typing import Any

from opentelemetry import context, trace
from opentelemetry.instrumentation.nats import NatsInstrumentor, _faults
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from support.patched import PATCHED
from support.telemetry import SpanCounter

OPERATION = "messaging.operation.name"


class _Faults:
    """The value of the package's `raise_faults`: false, as a user has it, but remembers what was reported."""

    def __init__(self) -> None:
        self.reported: Counter[str] = Counter()

    def __bool__(self) -> bool:
        self.reported["".join(traceback.format_exception(*sys.exc_info())[-4:])] += 1
        return False


class _Log(logging.Handler):
    """What the package, or OpenTelemetry, would show to a user."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines[f"{record.name}: {record.getMessage()}"] += 1


class _Exceptions:
    """Where exceptions go as log records: looks for secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.found: Counter[str] = Counter()
        self._secrets = list(secrets)

    def export(self, batch: Iterable[Any]) -> None:
        for each in batch:
            written = str(each.log_record.attributes)
            self.found.update(f"{secret} in a log record" for secret in self._secrets if secret in written)

    def shutdown(self) -> None:
        """Has nothing to end."""


class _Spans(SpanProcessor):
    """Counts spans by operation, and looks for secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.ended: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self._secrets = list(secrets)
        self._lock = threading.Lock()

    def on_end(self, span: ReadableSpan) -> None:
        operation = str((span.attributes or {}).get(OPERATION))
        written = span.to_json() if self._secrets else ""
        with self._lock:
            self.ended[operation] += 1
            self.found.update(f"{secret} in {span.name}" for secret in self._secrets if secret in written)


class Recorder:
    """The instrumentation with providers of its own.

    Args:
        options: What `instrument()` is given.
        ambient: The context that the program runs in.
        secrets: Texts that must not be in any telemetry.
    """

    def __init__(self, options: dict[str, Any], ambient: context.Context, secrets: Iterable[str]) -> None:
        self._secrets = list(secrets)
        self._faults = _Faults()
        _faults.raise_faults = self._faults  # type: ignore[assignment]
        self._log = _Log()
        logging.getLogger("opentelemetry").addHandler(self._log)
        self._counter = SpanCounter()
        self._spans = _Spans(self._secrets)
        self._tracers = TracerProvider(shutdown_on_exit=False)
        self._tracers.add_span_processor(self._spans)
        self._tracers.add_span_processor(self._counter)
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self._exceptions = _Exceptions(self._secrets)
        self._loggers = LoggerProvider(shutdown_on_exit=False)
        self._loggers.add_log_record_processor(SimpleLogRecordProcessor(self._exceptions))  # type: ignore[arg-type]
        self._options = {
            "tracer_provider": self._tracers,
            "meter_provider": self._meters,
            "logger_provider": self._loggers,
            **options,
        }
        self._activates = bool(options.get("activate_next_msg"))
        self._originals = {(owner, name): owner.__dict__[name] for owner, name in PATCHED}
        self._left: Counter[str] = Counter()
        self._ambient = ambient
        context.attach(ambient)

    def instrument(self) -> None:
        """Instruments nats-py."""
        NatsInstrumentor().instrument(**self._options, raise_exception_on_conflict=True)

    def switch(self) -> None:
        """Takes the instrumentation away and puts it back."""
        NatsInstrumentor().uninstrument()
        self.instrument()

    def check_context(self, where: str) -> None:
        """Notes a context that was left behind, at a point where there should be none."""
        span = trace.get_current_span()
        # An option says that a received message's context stays.
        if self._activates and getattr(span, "name", "").startswith("receive"):
            return
        if context.get_current() not in ({}, self._ambient):  # a thread has none
            self._left[f"{where}: {getattr(span, 'name', span)}"] += 1

    def report(self, timeout: float) -> dict[str, Any]:
        """Ends the instrumentation and tells what there was.

        Args:
            timeout: Seconds that what is still being cancelled has to end its spans.
        """
        deadline = time.monotonic() + timeout
        while self._counter.open and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        open_spans = [span.name for span in self._counter.open]
        data = self._reader.get_metrics_data()
        written = data.to_json() if data else ""
        self.check_context("at the end")
        NatsInstrumentor().uninstrument()
        kept = [
            f"{owner.__qualname__}.{name}"
            for (owner, name), value in self._originals.items()
            if owner.__dict__[name] is not value
        ]
        found = dict(self._spans.found + self._exceptions.found) | {
            f"{secret} in metrics": 1 for secret in self._secrets if secret in written
        }
        found |= {f"{secret} in the log": 1 for secret in self._secrets if secret in str(self._log.lines)}
        return {
            "open spans": open_spans,
            "contexts left": dict(self._left),
            "faults": dict(self._faults.reported),
            "log": dict(self._log.lines),
            "secrets": found,
            "still patched": kept,
            "spans": dict(self._spans.ended),
        }
