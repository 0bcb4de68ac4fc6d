# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Traces as trees for a terminal: what is under what, in which service, when and for how long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from textwrap import wrap

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

PALETTE = ("cyan", "yellow", "green", "magenta", "blue")  # red is for errors
DURATION_WIDTH = 10


@dataclass(frozen=True, slots=True)
class Span:
    """What the tree shows of a span. Ids are lower-case hex, times nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    service: str
    instance: str
    destination: str
    start: int
    end: int
    error: str
    links: tuple[str, ...]


def decode(request: ExportTraceServiceRequest) -> list[Span]:
    """All spans of an OTLP request, by their start."""
    spans: list[Span] = []
    for resource_spans in request.resource_spans:
        resource = _strings(resource_spans.resource.attributes)
        service = resource.get("service.name", "unknown")
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                attributes = _strings(span.attributes)
                spans.append(
                    Span(
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        name=span.name,
                        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                        service=service,
                        instance=resource.get("service.instance.id", service),
                        destination=attributes.get("messaging.destination.name", ""),
                        start=span.start_time_unix_nano,
                        end=span.end_time_unix_nano,
                        error=_error(span, attributes.get("error.type", "error")),
                        links=tuple(link.span_id.hex() for link in span.links),
                    )
                )
    return sorted(spans, key=lambda span: span.start)


def show(spans: Iterable[Span], console: Console) -> None:
    """Prints every trace: those of several spans one by one, those of a single span on one common time line."""
    traces: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        traces[span.trace_id].append(span)
    by_id = {span.span_id: span for trace in traces.values() for span in trace}
    colours = dict(zip(dict.fromkeys(span.service for span in by_id.values()), cycle(PALETTE)))

    for trace_id, trace in traces.items():
        if len(trace) > 1:
            title = Text.assemble(
                (trace[0].destination or trace[0].name, "bold"), (f"  trace {trace_id}, {len(trace)} spans", "dim")
            )
            for number, service in enumerate(dict.fromkeys(span.service for span in trace)):
                title.append(" → " if number else "  ", "dim").append(service, colours[service])
            console.print(title)
            console.print(Group(*_lines(trace, by_id, colours, console.width)), "")
    if alone := [trace[0] for trace in traces.values() if len(trace) == 1]:
        console.print(Text(f"Traces of a single span: {len(alone)}", "bold"))
        console.print(Group(*_lines(alone, by_id, colours, console.width)), "")


def _lines(
    spans: list[Span], by_id: Mapping[str, Span], colours: Mapping[str, str], width: int
) -> Iterator[RenderableType]:
    begin, end = min(span.start for span in spans), max(span.end for span in spans)
    whole = max(end - begin, 1)
    kind_width = max(len(span.kind) for span in spans)
    instance_width = max(len(span.instance) for span in spans)
    bar_width = max(width - 90, 12)
    name_width = max(width - kind_width - instance_width - DURATION_WIDTH - bar_width - 4, 20)

    def row(*cells: RenderableType) -> Table:
        # Not one table for all: an error's message may be as wide as all its columns.
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(width=name_width, no_wrap=True)
        grid.add_column(width=kind_width)
        grid.add_column(width=instance_width)
        grid.add_column(width=DURATION_WIDTH, justify="right")
        grid.add_column(width=bar_width)
        grid.add_row(*cells)
        return grid

    axis = f"0 ms{_milliseconds(whole):>{bar_width - 4}}"
    yield row(*(Text(heading, "dim") for heading in ("span", "kind", "service", "duration", axis)))
    least = whole // (bar_width * 8) + 1  # less than an eighth of a cell would be no bar at all
    for guide, guide_below, span in _walk(spans):
        colour = colours[span.service]
        bar_begin = min(span.start, end - least) - begin
        bar_end = max(span.end - begin, bar_begin + least)
        yield row(
            Text.assemble((guide, "dim"), (span.name, f"bold {'red' if span.error else colour}")),
            span.kind,
            Text(span.instance, colour),
            _milliseconds(span.end - span.start),
            Bar(whole, bar_begin, bar_end, color=colour),
        )
        for line in wrap(f"✗ {span.error}", width - len(guide_below)) if span.error else ():
            yield Text.assemble((guide_below, "dim"), (line, "red"))
        for link in span.links:
            yield Text(f"{guide_below}↪ {_linked(span, by_id.get(link), link)}", "dim")


def _walk(spans: list[Span]) -> Iterator[tuple[str, str, Span]]:
    """Every span below its parent, with the guide before it and the one before lines that belong to it."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        children[span.parent_id if span.parent_id in known else ""].append(span)

    def below(parent_id: str, indent: str) -> Iterator[tuple[str, str, Span]]:
        siblings = children[parent_id]
        for number, span in enumerate(siblings, 1):
            branch, trunk = ("└─ ", "   ") if number == len(siblings) else ("├─ ", "│  ")
            if not parent_id:
                branch, trunk = "", ""
            twig = "│  " if span.span_id in children else "   "
            yield indent + branch, indent + trunk + twig, span
            yield from below(span.span_id, indent + trunk)

    yield from below("", "")


def _linked(span: Span, target: Span | None, span_id: str) -> str:
    if target is None:
        return f"links to span {span_id}, not received"
    if target.span_id == span.parent_id:
        return "links to its parent"
    text = f"links to {target.name} ({target.instance})"
    return text if target.trace_id == span.trace_id else f"{text} of trace {target.trace_id[:8]}"


def _error(span: trace_pb2.Span, error_type: str) -> str:
    if span.status.code != trace_pb2.Status.STATUS_CODE_ERROR:
        return ""
    return f"{error_type}: {span.status.message}" if span.status.message else error_type


def _strings(attributes: Iterable[KeyValue]) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in attributes}


def _milliseconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.1f} ms"
