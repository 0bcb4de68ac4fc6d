# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Assertions on spans, and spans as a text that a failure can show.

Attribute names are written out here and in the tests, not taken from the package: a wrong constant must fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union
from unittest.mock import ANY

from nats.aio.client import Client

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode, TraceFlags, format_span_id

AnySpan = Union[ReadableSpan, Span, SpanContext]
"""A finished span, a running one, or what identifies one."""

_UNCHECKED: Any = object()

REMOTE = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True, TraceFlags(1))
"""The context of somebody else's span, sampled."""

OTHER = SpanContext(0x1AF7651916CD43DD8448EB211C80319C, 0xC7AD6B7169203331, True, TraceFlags(1))
"""That of another one."""


def span_context(span: AnySpan) -> SpanContext:
    """What identifies a span."""
    return span if isinstance(span, SpanContext) else span.get_span_context()  # type: ignore[return-value]


def traceparent(span: AnySpan) -> str:
    """A span's context as the W3C writes it."""
    found = span_context(span)
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def assert_span(
    span: ReadableSpan,
    *,
    name: str = _UNCHECKED,
    kind: SpanKind = _UNCHECKED,
    attributes: Mapping[str, Any] = _UNCHECKED,
    parent: AnySpan | None = _UNCHECKED,
    links: Sequence[AnySpan | tuple[AnySpan, Mapping[str, Any]]] = _UNCHECKED,
    status: StatusCode | tuple[StatusCode, str | None] = StatusCode.UNSET,
    events: Sequence[str] = (),
) -> None:
    """Checks a finished span; what is left out is not checked, except that a status or an event must be expected.

    Args:
        span: The span.
        name: Its whole name.
        kind: Its kind.
        attributes: All its attributes, no more and no fewer; `unittest.mock.ANY` stands for any value.
        parent: Its parent, which is in the same trace then; None for a root.
        links: All its links in their order: a span, or a span and all attributes of the link.
        status: Its status code, or code and description.
        events: The names of its events in their order.

    Raises:
        AssertionError: With every difference, one a line.
    """
    differences: list[str] = []
    if name is not _UNCHECKED and span.name != name:
        differences.append(f"name: {span.name!r}, expected {name!r}")
    if kind is not _UNCHECKED and span.kind is not kind:
        differences.append(f"kind: {span.kind.name}, expected {kind.name}")
    if attributes is not _UNCHECKED:
        differences += _attribute_differences("attribute", span.attributes or {}, attributes)
    if parent is not _UNCHECKED:
        differences += _parent_differences(span, parent)
    if links is not _UNCHECKED:
        differences += _link_differences(span, links)
    differences += _status_differences(span, status)
    if [event.name for event in span.events] != list(events):
        differences.append(f"events: {[event.name for event in span.events]}, expected {list(events)}")
    if differences:
        raise AssertionError(f"span {span.name!r} is not as expected:\n  " + "\n  ".join(differences))


def connection_attributes(nc: Client, *, peer: bool = True) -> dict[str, Any]:
    """The attributes that every span of a connected client has.

    Args:
        nc: The client, connected.
        peer: Whether the span contacts the server; a process span does not.
    """
    uri = nc._current_server.uri
    attributes: dict[str, Any] = {
        "messaging.system": "nats",
        "messaging.client.id": str(nc.client_id),
        "server.address": uri.hostname,
        "server.port": uri.port,
    }
    if peer:
        address, port, *_ = nc._transport._io_writer.get_extra_info("peername")
        attributes |= {"network.peer.address": address, "network.peer.port": port}
    return attributes


def tree(spans: Iterable[ReadableSpan]) -> str:
    """The spans as trees, one trace after the other, children under their parent in the order of the spans.

    A span whose parent is not among them says so, and so does a link.
    """
    spans = list(spans)
    names = {span_context(span).span_id: span.name for span in spans}
    traces = {trace_id: number for number, trace_id in enumerate(dict.fromkeys(map(_trace_id, spans)), start=1)}
    lines: list[str] = []

    def add(span: ReadableSpan, depth: int) -> None:
        lines.append("  " * depth + _line(span, names))
        for child in spans:
            if child.parent and child.parent.span_id == span_context(span).span_id:
                add(child, depth + 1)

    for trace_id, number in traces.items():
        lines.append(f"trace {number}")
        for span in spans:
            if _trace_id(span) == trace_id and (span.parent is None or span.parent.span_id not in names):
                add(span, 1)
    return "\n".join(lines) or "no spans"


def _line(span: ReadableSpan, names: Mapping[int, str]) -> str:
    def named(context: SpanContext) -> str:
        return repr(names[context.span_id]) if context.span_id in names else format_span_id(context.span_id)

    line = f"{span.name} [{span.kind.name}]"
    if span.status.status_code is not StatusCode.UNSET:
        line += f" {span.status.status_code.name}"
    if span.status.description:
        line += f" ({span.status.description})"
    if span.parent and span.parent.span_id not in names:
        line += f" under {named(span.parent)}"
    if span.links:
        line += " linked to " + ", ".join(named(link.context) for link in span.links)
    return line


def _trace_id(span: ReadableSpan) -> int:
    return span_context(span).trace_id


def _ids(context: SpanContext) -> tuple[int, int]:
    return context.trace_id, context.span_id


def _same(actual: Any, expected: Any) -> bool:
    if expected is ANY:
        return True
    if isinstance(expected, list):
        expected = tuple(expected)
    # To Python `True == 1 == 1.0`; to a backend these are three types.
    if isinstance(expected, (bool, int, float)) and type(actual) is not type(expected):
        return False
    return actual == expected


def _attribute_differences(what: str, actual: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    differences: list[str] = []
    for key in sorted({*actual, *expected}):
        if key not in actual:
            differences.append(f"{what} {key}: missing, expected {expected[key]!r}")
        elif key not in expected:
            differences.append(f"{what} {key}: {actual[key]!r}, not expected")
        elif not _same(actual[key], expected[key]):
            differences.append(f"{what} {key}: {actual[key]!r}, expected {expected[key]!r}")
    return differences


def _parent_differences(span: ReadableSpan, parent: AnySpan | None) -> list[str]:
    actual = span.parent
    if parent is None:
        return [] if actual is None else [f"parent: {format_span_id(actual.span_id)}, expected a root"]
    expected = span_context(parent)
    differences: list[str] = []
    if actual is None:
        differences.append(f"parent: none, expected {format_span_id(expected.span_id)}")
    elif actual.span_id != expected.span_id:
        differences.append(f"parent: {format_span_id(actual.span_id)}, expected {format_span_id(expected.span_id)}")
    if _trace_id(span) != expected.trace_id:
        differences.append(f"trace: {_trace_id(span):032x}, expected {expected.trace_id:032x}")
    return differences


def _link_differences(span: ReadableSpan, links: Sequence[AnySpan | tuple[AnySpan, Mapping[str, Any]]]) -> list[str]:
    # A SpanContext is a tuple as well.
    expected = [
        link if isinstance(link, tuple) and not isinstance(link, SpanContext) else (link, None) for link in links
    ]
    actual_ids = [format_span_id(link.context.span_id) for link in span.links]
    expected_ids = [format_span_id(span_context(target).span_id) for target, _ in expected]
    if [_ids(link.context) for link in span.links] != [_ids(span_context(target)) for target, _ in expected]:
        return [f"links: to {actual_ids}, expected to {expected_ids}"]
    differences: list[str] = []
    for number, (link, (_, attributes)) in enumerate(zip(span.links, expected, strict=True)):
        if attributes is not None:
            differences += _attribute_differences(f"link {number} attribute", link.attributes or {}, attributes)
    return differences


def _status_differences(span: ReadableSpan, status: StatusCode | tuple[StatusCode, str | None]) -> list[str]:
    actual = span.status
    code, description = status if isinstance(status, tuple) else (status, actual.description)
    if (actual.status_code, actual.description) == (code, description):
        return []
    expected = f"{code.name} {description!r}" if isinstance(status, tuple) else code.name
    return [f"status: {actual.status_code.name} {actual.description!r}, expected {expected}"]
