# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the program tells of itself: counts as metrics, and each kind of trouble once in its log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from logging import getLogger

from opentelemetry.instrumentation.nats.server_trace._making import SCHEMA_URL, SCOPE
from opentelemetry.instrumentation.nats.version import __version__
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

_logger = getLogger(__package__)

REASON = "reason"


class Health:
    """Counts since the start.

    Attributes:
        events: Events received.
        spans: Spans made of them.
        skipped: Events, and steps of events, that made none, by reason.
        pending: Events that wait in the stream; None where there is no stream.
    """

    def __init__(self) -> None:
        self.events = 0
        self.spans = 0
        self.skipped: Counter[str] = Counter()
        self.pending: int | None = None
        self._lag: float | None = None

    def arrived(self, sent: int | None) -> None:
        """Notes when an event was sent that is being worked on now.

        Args:
            sent: By the clock of its server, in nanoseconds since the epoch; None if it does not say.
        """
        if sent is not None:
            self._lag = max(time.time_ns() - sent, 0) / 1e9

    def skip(self, reason: str, count: int = 1, detail: str = "") -> None:
        """Counts what makes no span, and logs the first one of a kind.

        Args:
            reason: Why, out of the fixed set in `_reasons`.
            count: How many.
            detail: More about the first one.
        """
        if reason not in self.skipped:
            _logger.warning(
                "skipped: %s%s (logged once; the metric nats.server_trace.skipped counts them)",
                reason.replace("_", " "),
                f", {detail}" if detail else "",
            )
        self.skipped[reason] += count

    def summary(self) -> str:
        """The counts in a line for the log."""
        skipped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(self.skipped.items()))
        return f"{self.events} events, {self.spans} spans, skipped: {skipped or 'none'}"

    def measure(self, provider: MeterProvider) -> None:
        """Offers the counts as metrics; they are read when a reader collects.

        Args:
            provider: Where the instruments are made.
        """
        meter = provider.get_meter(SCOPE, __version__, schema_url=SCHEMA_URL)
        meter.create_observable_counter(
            "nats.server_trace.events", [lambda _: [Observation(self.events)]], "{event}", "Trace events received."
        )
        meter.create_observable_counter(
            "nats.server_trace.spans", [lambda _: [Observation(self.spans)]], "{span}", "Spans made of trace events."
        )
        meter.create_observable_counter(
            "nats.server_trace.skipped",
            [self._observe_skipped],
            "{item}",
            "Trace events, and steps of them, that made no span, by reason.",
        )
        meter.create_observable_gauge(
            "nats.server_trace.lag",
            [self._observe_lag],
            "s",
            "Time from a server's sending the latest event to its arrival here, by the clocks of both.",
        )
        meter.create_observable_gauge(
            "nats.server_trace.pending",
            [self._observe_pending],
            "{event}",
            "Trace events in the stream that the consumer has not delivered yet.",
        )

    def _observe_skipped(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(count, {REASON: reason}) for reason, count in list(self.skipped.items())]

    def _observe_lag(self, _: CallbackOptions) -> Iterable[Observation]:
        return [] if self._lag is None else [Observation(self._lag)]

    def _observe_pending(self, _: CallbackOptions) -> Iterable[Observation]:
        return [] if self.pending is None else [Observation(self.pending)]
