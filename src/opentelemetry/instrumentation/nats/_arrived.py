# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the running task received last: a context that clings to a message is none that somebody chose for the next one.

A program that answers or forwards a message passes its headers on, and with them a context that only says where the
message came from. An outbox relay passes headers on as well, and means them. What tells the two apart is whether the
headers are those of the message (or batch) that this task, or the one that it was started from, received last. So the
note is a context variable; and it holds numbers, because a context lives for as long as the longest task with a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from opentelemetry.instrumentation.nats._incoming import in_lower_case, others_are_of_nats, single
from opentelemetry.instrumentation.nats._propagation import configured
from opentelemetry.trace import SpanContext

TRACE_DEST = "nats-trace-dest"
SERVER_TRACE = frozenset({TRACE_DEST, "nats-trace-hop", "nats-trace-origin-account"})
"""Lower-case names of the headers by which servers tell one another what to trace."""

_TRACE_DEST = "Nats-Trace-Dest"

_MOST_NOTED = 256

Note = int | frozenset[int] | None
"""The number of the span that a message came with, or that and the marks of its other headers, or nothing."""

Notes = Note | frozenset[Note]
"""That of a message, or of all messages of a batch."""

_last: ContextVar[Notes] = ContextVar("opentelemetry_nats_last_received", default=None)
_read: ContextVar[Notes] = ContextVar("opentelemetry_nats_last_read", default=None)

note = _last.set
"""Notes what the running task has received."""

noted = _last.get
"""Returns what was noted."""

note_read = _read.set
"""Notes what stored message the running task has read."""


def note_of(headers: Mapping[str, Any] | None, creation: SpanContext | None) -> Note:
    """Makes the note of a message.

    Args:
        headers: Its headers.
        creation: The context that it came with; None without one.
    """
    span_id = None if creation is None else creation.span_id
    if not headers or (span_id is not None and len(headers) == 1):
        return span_id
    if span_id is not None and others_are_of_nats(headers) and _TRACE_DEST not in headers:
        return span_id
    marks = set[int]() if span_id is None else {span_id}
    current = configured()
    for lower, value in list(in_lower_case(headers).items())[:_MOST_NOTED]:
        # What a propagator of another make writes, it need not name.
        if current.checked or lower in current.fields or lower in SERVER_TRACE:
            text = single(value)
            if text is not None:
                marks.add(hash((lower, text)))
    return frozenset(marks)


def note_all(notes: Iterable[Note]) -> None:
    """Notes what came in one batch."""
    note(frozenset(notes))


def is_noted(span_id: int) -> bool:
    """Tells whether a span's context came with what this task received last."""
    last = _last.get()
    return last == span_id or (last.__class__ is frozenset and _holds(last, span_id))


def came_with(span_id: int) -> bool:
    """Tells whether a span's context came with what this task received, or read, last."""
    return _holds(_last.get(), span_id) or _holds(_read.get(), span_id)


def brought(name: str, value: str) -> bool:
    """Tells whether a header, its name in lower case, came like this with what this task received, or read, last."""
    mark = hash((name, value))
    return _holds(_last.get(), mark) or _holds(_read.get(), mark)


def _holds(notes: Notes, mark: int) -> bool:
    if notes is None or isinstance(notes, int):
        return notes == mark
    return mark in notes or any(mark in each for each in notes if isinstance(each, frozenset))
