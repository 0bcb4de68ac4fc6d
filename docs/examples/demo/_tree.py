# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Traces as trees for a terminal: what is under what, in which service, when and for how long."""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from textwrap import wrap

from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

PALETTE = ("cyan", "yellow", "green", "magenta", "blue")  # red is for errors
DURATION_WIDTH = 9  # "1234.56 s"
BAR_WIDTHS = range(12, 41)  # the head of the narrowest has room for "0" and a duration


@dataclass(frozen=True, slots=True)
class Span:
    """What the tree shows of a span. Ids are lower-case hex, times nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    service: str
    start: int
    end: int
    error: str
    links: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A span at its place in the tree.

    Attributes:
        guide: what is drawn before its name.
        guide_below: what is drawn before the lines that belong to it.
        notes: its error and its links, as far as they are not those to its parent.
    """

    guide: str
    guide_below: str
    span: Span
    notes: tuple[str, ...]


def decode(request: ExportTraceServiceRequest) -> list[Span]:
    """All spans of an OTLP request, by their start."""
    spans: list[Span] = []
    for resource_spans in request.resource_spans:
        resource = _strings(resource_spans.resource.attributes)
        service = resource.get("service.name", "unknown")
        if server := resource.get("nats.server.name"):
            service = f"nats {server}"
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                spans.append(
                    Span(
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        name=span.name,
                        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                        service=service,
                        start=span.start_time_unix_nano,
                        end=span.end_time_unix_nano,
                        error=_error(span),
                        links=tuple(link.span_id.hex() for link in span.links),
                    )
                )
    return sorted(spans, key=lambda span: span.start)


def show(spans: Iterable[Span], console: Console, *, times: bool = True, only: str = "") -> None:
    """Prints every trace of several spans as a tree, and counts the others by their names.

    Of those others with a link or an error, which the names do not tell, the first of each name is drawn as well.

    Args:
        spans: the spans, by their start.
        console: where to print.
        times: whether to show what differs from run to run: times and the ids of traces.
        only: the id of the one trace to print; all of them when empty.
    """
    traces: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        traces[span.trace_id].append(span)
    by_id = {span.span_id: span for trace in traces.values() for span in trace}
    colours = dict(zip(dict.fromkeys(span.service for span in by_id.values()), cycle(PALETTE)))
    drawn: set[str] = set()
    # Those of a single span come last: what begins them may be older than what they are about, a wait for one.
    for trace_id, trace in sorted(traces.items(), key=lambda item: len(item[1]) == 1):
        if only not in ("", trace_id):
            continue
        lines = list(_lines(trace, by_id, times))
        if len(trace) == 1:
            if not lines[0].notes or trace[0].name in drawn:
                continue
            drawn.add(trace[0].name)
        services = list(dict.fromkeys(span.service for span in trace))
        title = Text.assemble((trace[0].name, "bold"), f"  {len(trace)} span{'s' * (len(trace) > 1)}")
        for number, service in enumerate(services if len(colours) > 1 else ()):
            title.append(" → " if number else "  ", "dim").append(service, colours[service])
        if times:
            console.print(title, overflow="ellipsis", no_wrap=True)
            console.print(Text(f"trace {trace_id}", "dim"))
        for row in _rows(lines, colours, console.width, times):
            console.print(row)
        console.print()
    if not only and (alone := Counter(trace[0].name for trace in traces.values() if len(trace) == 1)):
        console.print(Text(f"Traces of a single span: {alone.total()}", "bold"))
        names = [name if count == 1 else f"{name} ({count})" for name, count in alone.items()]
        for line in wrap(", ".join(names), console.width - 2):
            console.print(Text(f"  {line}"))
        console.print()


def outline(spans: Iterable[Span], only: str = "") -> str:
    """The traces, or only one, as text of 80 columns, without what differs from run to run: times, ids, ports."""
    console = Console(file=io.StringIO(), width=80, highlight=False)
    fixed = [replace(span, name=re.sub(r"(?<=^connect 127\.0\.0\.1:)\d+", "4222", span.name)) for span in spans]
    show(fixed, console, times=False, only=only)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    return "\n".join(lines).strip() + "\n"


def _rows(lines: list[Line], colours: Mapping[str, str], width: int, times: bool) -> Iterator[RenderableType]:
    begin, end = min(line.span.start for line in lines), max(line.span.end for line in lines)
    whole = max(end - begin, 1)
    widths = {
        "span": max(len(line.guide + line.span.name) for line in lines),
        "kind": max(len(line.span.kind) for line in lines),
    }
    if len(colours) > 1:
        widths["service"] = max(7, *(len(line.span.service) for line in lines))
    if times:
        widths["duration"] = DURATION_WIDTH
        room = width - sum(widths.values()) - len(widths)
        if room < BAR_WIDTHS[0]:  # what a span's kind is, its name tells as well
            room += widths.pop("kind") + 1
        widths["bar"] = max(BAR_WIDTHS[0], min(room, BAR_WIDTHS[-1]))
        widths["span"] -= max(0, widths["bar"] - room)
        if widths["bar"] == room or widths["bar"] == BAR_WIDTHS[-1]:
            widths["span"] += min(room - widths["bar"], 4)

    def row(cells: Mapping[str, RenderableType]) -> Table:
        # Not one table for all: an error's message may be as wide as all its columns.
        grid = Table.grid(padding=(0, 1, 0, 0))
        for name, column_width in widths.items():
            grid.add_column(width=column_width, no_wrap=True, justify="right" if name == "duration" else "left")
        grid.add_row(*(cells[name] for name in widths))
        return grid

    if times:
        axis = f"0{_time(whole):>{widths['bar'] - 1}}"
        yield row({name: Text(axis if name == "bar" else name, "dim") for name in widths})
    least = whole // (widths.get("bar", 1) * 8) + 1  # less than an eighth of a cell would be no bar at all
    for line in lines:
        span, colour = line.span, colours[line.span.service]
        bar_begin = min(span.start, end - least) - begin
        bar_end = max(span.end - begin, bar_begin + least)
        yield row(
            {
                "span": Text.assemble((line.guide, "dim"), (span.name, f"bold {'red' if span.error else colour}")),
                "kind": span.kind,
                "service": Text(span.service, colour),
                "duration": _time(span.end - span.start),
                "bar": Bar(whole, bar_begin, bar_end, color=colour),
            }
        )
        for note in line.notes:
            for part in wrap(note, width - len(line.guide_below)):
                yield Text.assemble((line.guide_below, "dim"), (part, "red" if note.startswith("✗") else "dim"))


def _lines(spans: list[Span], by_id: Mapping[str, Span], ids: bool) -> Iterator[Line]:
    """Every span below its parent."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        children[span.parent_id if span.parent_id in known else ""].append(span)

    def below(parent_id: str, indent: str) -> Iterator[Line]:
        siblings = children[parent_id]
        for number, span in enumerate(siblings, 1):
            branch, trunk = ("└─ ", "   ") if number == len(siblings) else ("├─ ", "│  ")
            if not parent_id:
                branch, trunk = "", ""
            twig = "│  " if span.span_id in children else "   "
            notes = [f"✗ {span.error}"] if span.error else []
            links = [_linked(span, by_id.get(link), link, ids) for link in span.links if link != span.parent_id]
            notes += links if ids else sorted(links)  # what several connections send at once comes in any order
            yield Line(indent + branch, indent + trunk + twig, span, tuple(notes))
            yield from below(span.span_id, indent + trunk)

    yield from below("", "")


def _linked(span: Span, target: Span | None, span_id: str, ids: bool) -> str:
    if target is None:
        return f"↪ links to span {span_id}, not received" if ids else "↪ links to a span that was not received"
    if target.trace_id == span.trace_id:
        return f"↪ links to {target.name}"
    where = "" if target.service == span.service else f" ({target.service})"
    return f"↪ links to {target.name}{where} of {f'trace {target.trace_id[:8]}' if ids else 'another trace'}"


def _error(span: trace_pb2.Span) -> str:
    if span.status.code != trace_pb2.Status.STATUS_CODE_ERROR:
        return ""
    error_type = _strings(span.attributes).get("error.type", "error")
    return f"{error_type}: {span.status.message}" if span.status.message else error_type


def _strings(attributes: Iterable[KeyValue]) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in attributes}


def _time(nanoseconds: int) -> str:
    seconds = nanoseconds / 1e9
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.99995 else f"{seconds:.2f} s"
