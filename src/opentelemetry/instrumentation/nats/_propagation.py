# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Trace context and baggage, in message headers and out of them.

Whatever propagators are configured do the work. What is added here is what NATS needs: headers in any case, copies
instead of changes, and the difference between a context that a caller chose and one that only clings to a message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats._providers import SPAN_KEY, parts_of, span_context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter, TextMapPropagator

# The longest value that the W3C formats ask anybody to carry (baggage). A longer one is no context, it is an attack.
_LONGEST_VALUE = 8192

# Servers 2.11 and 2.12 rename the header on messages that they traced themselves.
_TRACEPARENT = "traceparent"
_RENAMED = {"xraceparent": _TRACEPARENT}

# Servers from 2.14 write it on messages that carry a `traceparent` that they did not follow. Sent on, it switches
# server tracing off downstream.
_TRACE_DEST = "nats-trace-dest"
_TRACE_DISABLED = "trace disabled"

_BAGGAGE = "baggage"
_NATS_PREFIX = "Nats-"

_NO_HEADERS_SIZE = len("NATS/1.0\r\n\r\n")
_HEADER_OVERHEAD = len(": \r\n")

_REMEMBERED_CONTEXTS = 16384


class _HeaderGetter(Getter[Mapping[str, Any]]):
    """Reads headers whose names are in lower case; a value that is no single, sane string counts as absent."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        value = carrier.get(key.lower())
        if value is None:
            return None
        if not isinstance(value, str):
            # Of lists (nats-py's `fast_mail_parser` extra makes them) only one of one is no contradiction.
            value = value[0] if isinstance(value, list) and len(value) == 1 else None  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            if not isinstance(value, str):
                return None
        return [value] if len(value) <= _LONGEST_VALUE else None

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        return list(carrier)


_GETTER = _HeaderGetter()


class _Configured:
    """The configured propagators, less those that have nothing to do with most messages.

    Attributes:
        propagator: What was configured when that was read.
        readers: Those that read `traceparent`.
        writers: Those that may write something where a context holds nothing but a span.
    """

    __slots__ = ("propagator", "readers", "writers")

    def __init__(self, propagator: TextMapPropagator) -> None:
        parts = parts_of(propagator)
        self.readers = [part for part in parts if _TRACEPARENT in part.fields]
        # That of baggage itself, no subclass, which might write what it likes.
        self.writers = [part for part in parts if type(part) is not W3CBaggagePropagator]
        self.propagator = propagator


# Of none: a propagator may raise, and does so where faults are reported, not where this is imported.
_configured = _Configured(CompositePropagator([]))


def _configure(propagator: TextMapPropagator) -> None:
    """Reads the propagators again, because there are others now."""
    global _configured
    _configured = _Configured(propagator)


def write_context(context: Context) -> dict[str, str]:
    """Writes a context into new headers."""
    headers: dict[str, str] = {}
    if len(context) == 1 and SPAN_KEY in context:
        current = propagate.get_global_textmap()
        if current is not _configured.propagator:
            _configure(current)
        for propagator in _configured.writers:
            propagator.inject(headers, context)  # pyright: ignore[reportArgumentType] (the default setter takes any)
    else:
        propagate.inject(headers, context)
    return headers


def extract(headers: Mapping[str, Any] | None, context: Context) -> Context:
    """Reads the creation context of a message.

    Args:
        headers: The message's headers.
        context: What it is added to. Always given: with none, some propagators fall back to the current context, and
            the current context of a nats-py callback is that of its `subscribe()`, for ever.

    Returns:
        The context with the span context and the baggage that travelled in the headers.
    """
    if not headers:
        return context
    if _TRACEPARENT in headers and (len(headers) == 1 or _others_are_of_nats(tuple(headers))):
        # By far the most messages have this one header, in this case. Propagators of other headers need not look.
        current = propagate.get_global_textmap()
        if current is not _configured.propagator:
            _configure(current)
        for propagator in _configured.readers:
            context = propagator.extract(headers, context, _GETTER)
        return context
    return propagate.extract(_in_lower_case(headers), context, _GETTER)


@lru_cache(maxsize=256)
def _others_are_of_nats(names: tuple[str, ...]) -> bool:
    """Tells whether all headers but `traceparent` are the server's or nats-py's own, as on a stored message."""
    return all(name.startswith(_NATS_PREFIX) or name == _TRACEPARENT for name in names)


def _in_lower_case(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Copies headers with their names in lower case; where two spellings disagree, neither counts."""
    carrier: dict[str, Any] = {}
    for name, value in headers.items():
        lower = name.lower()
        lower = _RENAMED.get(lower, lower)
        if lower in carrier and carrier[lower] != value:
            value = None
        carrier[lower] = value
    return carrier


class Propagation:
    """The headers that the configured propagators use, and the contexts that arrived with messages.

    Attributes:
        remember: Notes the number of a span whose context a message came with: whoever sends that on did not choose it.
    """

    __slots__ = ("_arrived", "_fields", "_propagator", "_seen", "_seen_before", "remember")

    def __init__(self) -> None:
        self._propagator: TextMapPropagator | None = None
        self._fields: frozenset[str] = frozenset()
        # Put into the sets by who looks there. Most programs never do, and a large set is slow memory for each message.
        self._arrived: deque[int] = deque(maxlen=_REMEMBERED_CONTEXTS)
        self.remember: Callable[[int], None] = self._arrived.append
        # Two generations bound the memory and keep the last _REMEMBERED_CONTEXTS at least.
        self._seen: set[int] = set()
        self._seen_before: set[int] = set()

    def fields(self) -> frozenset[str]:
        """Returns the lower-case names of the headers that carry context."""
        propagator = propagate.get_global_textmap()
        if propagator is not self._propagator:
            names = {name.lower() for name in propagator.fields}
            names.update(renamed for renamed, name in _RENAMED.items() if name in names)
            self._fields = frozenset(names)
            self._propagator = propagator
        return self._fields

    def _came_with_a_message(self, span_id: int) -> bool:
        arrived = self._arrived
        while arrived:
            try:
                latest = arrived.popleft()
            except IndexError:
                break  # another thread was faster
            if len(self._seen) >= _REMEMBERED_CONTEXTS:
                self._seen_before, self._seen = self._seen, set()
            self._seen.add(latest)
        return span_id in self._seen or span_id in self._seen_before

    def chosen(self, headers: Any, current: Context) -> trace.SpanContext | None:
        """Finds the context that a caller put into the headers on purpose, as an outbox relay does.

        Args:
            headers: What the caller gave as headers, of any type.
            current: The current context; finding it in the headers is no choice.

        Returns:
            The chosen span context; None if there is none, if it arrived with a message, or if it is current anyway.
        """
        if not headers or not self._has_fields(headers):
            return None
        found = span_context(extract(headers, Context()))
        if found is None or self._came_with_a_message(found.span_id):
            return None
        ambient = trace.get_current_span(current).get_span_context()
        if found.span_id == ambient.span_id and found.trace_id == ambient.trace_id:
            return None
        return found

    def _has_fields(self, headers: Any) -> bool:
        fields = self.fields()
        try:
            return any(name.lower() in fields for name, _ in headers.items())
        except (AttributeError, TypeError):
            return False  # not headers: nats-py is about to say so

    def inject(self, headers: Any, context: Context, room: int) -> Any:
        """Builds the headers of a message that carries `context`.

        Args:
            headers: What the caller gave, of any type; never changed.
            context: The context to carry.
            room: How many bytes the header block may take.

        Returns:
            A new mapping with the caller's headers and ours; `headers` itself when nothing was to be added, when the
            result would not fit, or when nats-py will refuse what the caller gave.
        """
        ours = write_context(context)
        if not ours:
            return headers
        try:
            merged = ours if headers is None else self._merge(headers, ours)
        except (AttributeError, TypeError, ValueError):
            return headers
        return headers if _block_size(merged) > room else merged

    def _echoes_lists(self, headers: Any) -> bool:
        """Tells whether headers are those of a received message, with lists as the `fast_parse` extra makes them.

        `Msg.respond` sends such headers back, and nats-py refuses a list: an answer to somebody who has sent none but
        the headers of a context would fail, because of that context.
        """
        if type(headers) is not dict or list not in map(type, headers.values()):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType, reportUnknownMemberType]
            return False
        found = span_context(extract(headers, Context()))  # pyright: ignore[reportUnknownArgumentType]
        return found is not None and self._came_with_a_message(found.span_id)

    def _merge(self, headers: Any, ours: dict[str, str]) -> Any:
        fields = self.fields()
        kept: list[tuple[str, Any]] = []
        carried: list[tuple[str, Any]] = []
        echoes = self._echoes_lists(headers)
        for name, value in headers.items():
            lower = name.lower()
            of_context = lower in fields or (lower == _TRACE_DEST and value == _TRACE_DISABLED)
            if of_context and echoes and isinstance(value, list):
                continue
            (carried if of_context else kept).append((name, value))
        if carried:
            kept += _not_replaced(carried, ours)
        kept.extend(ours.items())
        # A mapping with an `items` of its own may have the same name twice: a dict would drop one of them.
        return dict(kept) if type(headers) is dict else _HeaderItems(kept)


def _not_replaced(carried: list[tuple[str, Any]], ours: dict[str, str]) -> list[tuple[str, Any]]:
    """Returns what stays of the caller's headers that carry context, or say what became of it, beside our own."""
    if not all(isinstance(value, str) for _, value in carried):
        raise TypeError  # nats-py is about to say so
    if {name.lower() for name, _ in carried} - {_BAGGAGE, _TRACE_DEST}:
        return []  # a context that is passed on goes as a whole
    written = {name.lower() for name in ours}
    return [(name, value) for name, value in carried if name.lower() not in written]


def _block_size(headers: Any) -> int:
    """Returns an upper bound of the bytes that nats-py makes of the headers, or 0 if it will refuse them."""
    try:
        return _NO_HEADERS_SIZE + sum(
            len(name.encode()) + len(value.encode()) + _HEADER_OVERHEAD for name, value in headers.items()
        )
    except (AttributeError, UnicodeEncodeError):
        return 0


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
