# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""From the bytes of an event to ended spans: the one way in for both kinds of subscription.

Nothing that a message may contain raises here, and nothing is kept of it but the key of the last few.
"""

from __future__ import annotations

from collections import OrderedDict

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats.server_trace import _attributes as names_of
from opentelemetry.instrumentation.nats.server_trace._encodings import decode
from opentelemetry.instrumentation.nats.server_trace._events import Event, read_event
from opentelemetry.instrumentation.nats.server_trace._exporting import Export
from opentelemetry.instrumentation.nats.server_trace._health import Health
from opentelemetry.instrumentation.nats.server_trace._making import SpanMaker
from opentelemetry.instrumentation.nats.server_trace._names import Names
from opentelemetry.instrumentation.nats.server_trace._reasons import (
    DUPLICATE,
    FAULT,
    TOO_MANY_SERVERS,
    TOO_MANY_STEPS,
    UNKNOWN_STEP,
    Skipped,
)
from opentelemetry.instrumentation.nats.server_trace._servers import Servers
from opentelemetry.instrumentation.nats.server_trace._spans import SpanRecord, make_spans
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

REMEMBERED = 8192
"""Events whose repetition is noticed: two subscriptions that overlap, a message delivered again."""

_NOWHERE = Context()


class Intake:
    """Takes events in.

    Args:
        export: Where the spans go.
        servers: What makes the spans of each server.
        names: The templates of subjects.
        health: What is counted.
    """

    def __init__(self, export: Export, servers: Servers, names: Names, health: Health) -> None:
        self._export = export
        self._servers = servers
        self._names = names
        self._health = health
        self._seen: OrderedDict[int, None] = OrderedDict()

    async def take(self, data: bytes, encoding: str | None = None, stored: int | None = None) -> None:
        """Makes the spans of an event; waits while there is no room for them.

        Args:
            data: The payload of its message.
            encoding: The message's header `Content-Encoding`.
            stored: When a stream stored it, in nanoseconds since the epoch.
        """
        self._health.events += 1
        try:
            event = read_event(decode(data, encoding))
            maker = self._servers.maker(event.server)
            if maker is None:
                raise Skipped(TOO_MANY_SERVERS)
            records = make_spans(event, self._names)
            self._remember(records[0].span_id)
        except Skipped as skipped:
            self._health.skip(skipped.reason, detail=skipped.detail)
            return
        except Exception:
            self._health.skip(FAULT)
            _faults.report("reading a trace event")
            return
        self._health.arrived(event.sent)
        if event.unknown_steps:
            self._health.skip(UNKNOWN_STEP, event.unknown_steps)
        if event.surplus_steps:
            self._health.skip(TOO_MANY_STEPS, event.surplus_steps)
        if stored is not None and event.sent is not None:
            # The two clocks' difference, and the way to the stream: the same whoever reads the stream, and when.
            records[0].attributes[names_of.STORED_AFTER] = (stored - event.sent) / 1e9
        await self._emit(event, records, maker)

    def forget(self) -> None:
        """Forgets which events were taken: their spans did not get out, and they will come again."""
        self._seen.clear()

    def _remember(self, server_span_id: int) -> None:
        if server_span_id in self._seen:
            raise Skipped(DUPLICATE)
        self._seen[server_span_id] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    async def _emit(self, event: Event, records: list[SpanRecord], maker: SpanMaker) -> None:
        flags = TraceFlags(event.trace_flags)
        parent = _context(SpanContext(event.trace_id, records[0].parent_id, True, flags))
        for record in records:
            if self._export.room <= 0:
                await self._export.make_room()
            self._export.room -= 1
            try:
                span_context, recorded = maker.make(record, parent)
            except Exception:  # a span processor or sampler of the user's
                self._health.skip(FAULT)
                _faults.report("the span processor or sampler of server spans")
                return
            self._health.spans += recorded
            if record is records[0]:
                parent = _context(span_context)


def _context(span_context: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(span_context), _NOWHERE)
