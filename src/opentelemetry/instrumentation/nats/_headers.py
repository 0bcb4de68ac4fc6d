# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The headers of a message on its way out: the caller's, and beside them the context that it carries.

Nothing that the caller gave is changed, and nothing that worked may break: what does not fit is left out. Of what the
caller gave only that gives way which nobody wrote for this message: the context of a received one that clings to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats._arrived import SERVER_TRACE, TRACE_DEST, brought, came_with
from opentelemetry.instrumentation.nats._incoming import BAGGAGE
from opentelemetry.instrumentation.nats._propagation import configured, extract, write_context
from opentelemetry.instrumentation.nats._providers import span_context

# Servers from 2.14 write it on messages that carry a `traceparent` that they did not follow. Sent on, it switches
# server tracing off downstream.
_TRACE_DISABLED = "trace disabled"

# Servers write it on requests that came over a service import. Nobody but they can receive there: an answer that
# carries it is lost where the responder may only publish answers.
_OF_IMPORT = "_R_."

_NO_HEADERS_SIZE = len("NATS/1.0\r\n\r\n")
_HEADER_OVERHEAD = len(": \r\n")

# A server closes the connection over a control line of more than 4,096 bytes, and that of a message with headers is
# longer than without: by the "H" and the block's size. With both sizes of many digits, this much is left for subjects.
_LONGEST_SUBJECTS = 4064

_LONGEST_BAGGAGE = 8192
_MOST_ENTRIES = 180

# What a program's context keeps its baggage under begins like this.
_BAGGAGE_KEY = "baggage-"


def has_context(headers: Any) -> bool:
    """Tells whether a caller's headers, of any type, have one that carries context."""
    fields = configured().fields
    try:
        return any(name.lower() in fields for name, _ in headers.items())
    except (AttributeError, TypeError):
        return False  # not headers: nats-py is about to say so


def chosen(headers: Any, current: Context) -> trace.SpanContext | None:
    """Finds the context that a caller put into the headers on purpose, as an outbox relay does.

    Args:
        headers: What the caller gave as headers, of any type.
        current: The current context; finding it in the headers is no choice, nor is where it came from.

    Returns:
        The chosen span context; None if there is none, if it came with the message that the task received last, if it
        is current anyway, or if the current span is its child, as in a gateway that forwards what it was called with.
    """
    if not headers or not has_context(headers):
        return None
    found = span_context(extract(headers, Context()))
    if found is None or came_with(found.span_id):
        return None
    ambient: Any = trace.get_current_span(current)
    for other in (ambient.get_span_context(), getattr(ambient, "parent", None)):
        if other is not None and found.span_id == other.span_id and found.trace_id == other.trace_id:
            return None
    return found


def inject(headers: Any, context: Context, room: int, subjects: int = 0) -> Any:
    """Builds the headers of a message that carries `context`.

    Args:
        headers: What the caller gave, of any type; never changed.
        context: The context to carry.
        room: How many bytes the header block may take.
        subjects: How many bytes the message's subject and reply subject are long.

    Returns:
        A new mapping with the caller's headers and ours, as far as they fit: first baggage gives way. `headers` itself
        when nothing is added or left out, or when nats-py will refuse what the caller gave; None for no headers at all.
    """
    ours = write_context(context)
    try:
        given: list[tuple[str, Any]] = [] if headers is None else list(headers.items())
        staying, data = _divide(given, ours, context) if given else (given, given)
    except (AttributeError, TypeError, ValueError):
        return headers
    if ours and subjects <= _LONGEST_SUBJECTS:
        merged = _made(_with_ours(staying, ours, data), headers)
        if _block_size(merged) <= room:
            return merged
        of_spans = configured().of_spans()
        merged = _made([*staying, *(item for item in ours.items() if item[0].lower() in of_spans)], headers)
        if _block_size(merged) <= room:
            return merged
    if len(staying) < len(given):
        return _made(staying, headers) if staying else None
    return headers


def _divide(
    given: list[tuple[str, Any]], ours: dict[str, str], context: Context
) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Tells what stays of a caller's headers, and which of that is data that we write as well.

    Raises:
        TypeError: A header that carries context is no string; nats-py is about to say so.
    """
    current = configured()
    written = {name.lower(): value for name, value in ours.items()}
    of_spans = current.of_spans() if written else frozenset[str]()
    replaced = not of_spans.isdisjoint(written)
    staying: list[tuple[str, Any]] = []
    data: list[tuple[str, Any]] = []
    tracing_off: tuple[str, Any] | None = None
    passed_on = False
    for item in given:
        name, value = item
        lower = name.lower()
        if lower in current.fields or lower in written:
            if isinstance(value, list) and _clings(given):
                # nats-py's `fast_parse` extra makes lists, and `Msg.respond` sends them back, which nats-py refuses: an
                # answer to somebody who sent no header but a context would fail because of it.
                continue
            if not isinstance(value, str):
                raise TypeError
            if lower in of_spans:
                if replaced:
                    passed_on = True
                    continue
            elif lower in written:
                if value == written[lower] or brought(lower, value):
                    continue
                data.append(item)
            elif brought(lower, value) and (lower in current.beside_spans() or _knows_baggage(context)):
                continue
        elif lower in SERVER_TRACE:
            if lower != TRACE_DEST or (isinstance(value, str) and value.startswith(_OF_IMPORT)):
                continue
            if value == _TRACE_DISABLED:
                if brought(lower, value):
                    continue
                tracing_off = item
        staying.append(item)
    if passed_on and tracing_off is not None:
        staying.remove(tracing_off)  # it came with the context
    return staying, data


def _clings(given: list[tuple[str, Any]]) -> bool:
    """Tells whether headers have the context of what this task received last."""
    found = span_context(extract(dict(given), Context()))
    return found is not None and came_with(found.span_id)


def _knows_baggage(context: Context) -> bool:
    """Tells whether a program has had baggage, be it none any more: then that counts, not what a message came with."""
    return any(key.startswith(_BAGGAGE_KEY) for key in context)


def _with_ours(
    staying: list[tuple[str, Any]], ours: dict[str, str], data: list[tuple[str, Any]]
) -> list[tuple[str, Any]]:
    if not data:
        return [*staying, *ours.items()]
    theirs = {name.lower(): value for name, value in data}
    baggage = theirs.get(BAGGAGE, "")
    # What is no baggage goes as it was written.
    merges = bool(baggage) and baggage.isascii() and baggage.isprintable()
    kept = [item for item in staying if not (merges and item[0].lower() == BAGGAGE)]
    for name, value in ours.items():
        lower = name.lower()
        if lower == BAGGAGE and merges:
            kept.append((name, _merge_baggage(value, baggage)))
        elif lower not in theirs:
            kept.append((name, value))
    return kept


def _merge_baggage(ours: str, theirs: str) -> str:
    """Adds to the caller's baggage what is current besides; where both have an entry, his counts."""
    entries = [entry.strip() for entry in theirs.split(",") if entry.strip()]
    keys = {_key(entry) for entry in entries}
    merged = [entry for entry in ours.split(",") if _key(entry) not in keys] + entries
    text = ",".join(merged)
    return text if len(merged) <= _MOST_ENTRIES and len(text) <= _LONGEST_BAGGAGE else theirs


def _key(entry: str) -> str:
    return unquote_plus(entry.partition("=")[0]).strip()


def _block_size(headers: Any) -> int:
    """Returns an upper bound of the bytes that nats-py makes of the headers, or 0 if it will refuse them."""
    try:
        return _NO_HEADERS_SIZE + sum(
            len(name.encode()) + len(value.encode()) + _HEADER_OVERHEAD for name, value in headers.items()
        )
    except (AttributeError, UnicodeEncodeError):
        return 0


def _made(items: list[tuple[str, Any]], headers: Any) -> Any:
    # A mapping with an `items` of its own may have the same name twice: a dict would drop one of them.
    return dict(items) if headers is None or type(headers) is dict else _HeaderItems(items)


class _HeaderItems(Mapping[str, Any]):
    """Headers as nats-py reads them, with `items()`, for names that occur more than once."""

    __slots__ = ("_items",)

    def __init__(self, items: list[tuple[str, Any]]) -> None:
        self._items = items

    def items(self) -> Any:
        return self._items

    def __getitem__(self, name: str) -> Any:
        return dict(self._items)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._items))

    def __len__(self) -> int:
        return len(dict(self._items))
