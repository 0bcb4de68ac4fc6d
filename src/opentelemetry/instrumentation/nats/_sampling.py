# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What is certain about a span before it is made: one that is dropped is neither described nor asked for.

Where one trace in a hundred is sampled, 99 messages in a hundred come with a context that says so, and what the SDK's
parent-based sampler makes of it is known. To hear it from the SDK takes 380 instructions, to describe a span that
nobody gets to see another 50 to 150. The context is the one that the SDK would have made: a span's id of its own.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.instrumentation.nats._providers import decisions_of
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, Tracer

_SAMPLED = TraceFlags.SAMPLED


class Sampling:
    """What is known of a tracer's sampler.

    Args:
        tracer: The tracer.
    """

    __slots__ = ("_ids", "_root", "_sampled", "_unsampled")

    def __init__(self, tracer: Tracer) -> None:
        self._sampled, self._unsampled, self._root = decisions = decisions_of(tracer)
        self._ids: Any = getattr(tracer, "id_generator", None) if False in decisions else None

    def records(self, parent: SpanContext | None) -> bool:
        """Tells whether a span is certain to be recorded.

        Args:
            parent: What its parent is; None for none.
        """
        if parent is None:
            return self._root is True
        return (self._sampled if parent.trace_flags & _SAMPLED else self._unsampled) is True

    def dropped(self, parent: SpanContext | None) -> Span | None:
        """Makes a span that is certain not to be recorded.

        Args:
            parent: What its parent is; None for none.

        Returns:
            The span; None where the tracer is to be asked.

        Raises:
            Exception: Whatever the program's own id generator raises, as the tracer does.
        """
        if parent is not None:
            flags = parent.trace_flags
            if flags & _SAMPLED:
                if self._sampled is not False:
                    return None
                flags = TraceFlags(flags & ~_SAMPLED)
            elif self._unsampled is not False:
                return None
            trace_id, state = parent.trace_id, parent.trace_state
        elif self._root is False:
            # Of releases that know no random ids no generator has the method.
            random = getattr(self._ids, "is_trace_id_random", bool)()
            flags = TraceFlags(TraceFlags.RANDOM_TRACE_ID if random else TraceFlags.DEFAULT)
            trace_id, state = self._ids.generate_trace_id(), None
        else:
            return None
        return NonRecordingSpan(SpanContext(trace_id, self._ids.generate_span_id(), False, flags, state))
