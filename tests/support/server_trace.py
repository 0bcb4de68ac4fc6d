# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Trace events of real servers, and the spans that they become, as a text that a test can compare."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from opentelemetry.instrumentation.nats.server_trace._exporting import BatchedExport
from opentelemetry.instrumentation.nats.server_trace._health import Health
from opentelemetry.instrumentation.nats.server_trace._intake import Intake
from opentelemetry.instrumentation.nats.server_trace._names import Names
from opentelemetry.instrumentation.nats.server_trace._servers import Servers
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

SAMPLES = Path(__file__).resolve().parent.parent / "server_trace" / "samples"
VERSIONS = ("2.11", "2.12", "2.14.2", "2.14", "2.15", "mixed")

Event = dict[str, Any]


def sample(name: str) -> Any:
    """What is in a file of samples, `2.15` for one."""
    return json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))


def events(version: str, scenario: str) -> list[Event]:
    """The events of a scenario."""
    return sample(version)[scenario]["events"]


def scenarios() -> list[tuple[str, str]]:
    """Every scenario: the server's version and the scenario's name."""
    return [(version, name) for version in VERSIONS for name in sample(version)]


def encode(event: Any) -> bytes:
    """An event as the server would send it."""
    return json.dumps(event).encode()


class ServerSpans:
    """An exporter of server spans without a connection: events in, finished spans out.

    Args:
        processors: What the spans go through besides.
        sampler: The user's sampler.
        resource: The attributes that the user gives to everything.
        names: The templates of subjects.
    """

    def __init__(
        self,
        *processors: SpanProcessor,
        sampler: Sampler = ALWAYS_ON,
        resource: Resource | None = None,
        names: Names | None = None,
    ) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler, resource or Resource.get_empty(), shutdown_on_exit=False)
        for processor in (SimpleSpanProcessor(self._exporter), *processors):
            provider.add_span_processor(processor)
        self.export = BatchedExport(provider)
        self.health = Health()
        self.servers = Servers(self.export, dict(provider.resource.attributes))
        self.intake = Intake(self.export, self.servers, names or Names(), self.health)

    async def take(self, events: Iterable[Event | bytes]) -> list[ReadableSpan]:
        """Takes events in; returns all spans so far."""
        for event in events:
            await self.intake.take(event if isinstance(event, bytes) else encode(event))
        return self.spans

    @property
    def spans(self) -> list[ReadableSpan]:
        """All spans so far, in the order in which they ended."""
        return list(self._exporter.get_finished_spans())


def where(span: ReadableSpan) -> str:
    """The server of a span, or `app` for one of the program's own."""
    return str(span.resource.attributes.get("nats.server.name", "app"))


def server_tree(spans: Iterable[ReadableSpan]) -> str:
    """Spans as trees: name, server, and what tells one span from its sisters. Children in the order of their lines.

    A span whose parent is not among them is at the top.
    """
    spans = list(spans)
    ids = {span.context.span_id for span in spans}
    children: dict[int | None, list[ReadableSpan]] = defaultdict(list)
    for span in spans:
        parent = span.parent.span_id if span.parent and span.parent.span_id in ids else None
        children[parent].append(span)

    def lines(parent: int | None, depth: int) -> list[str]:
        blocks = sorted(
            ["  " * depth + _line(span), *lines(span.context.span_id, depth + 1)] for span in children[parent]
        )
        return [line for block in blocks for line in block]

    return "\n".join(lines(None, 0))


def _line(span: ReadableSpan) -> str:
    attributes = span.attributes or {}
    line = f"{span.name} [{where(span)}]"
    if where(span) != "app":
        peer = attributes.get("messaging.nats.connection.name")
        group = attributes.get("messaging.consumer.group.name")
        hop = attributes.get("messaging.nats.trace.hop")
        account = attributes.get("messaging.nats.account")
        line += f" {'from' if span.name.startswith('ingress') else 'to'} {peer}" if peer else ""
        line += f", {group}" if group else ""
        line += f", hop {hop}" if hop else ""
        line += f", account {account}" if account else ""
        for key in ("messaging.nats.trace.outcome", "messaging.nats.jetstream.duplicate", "error.type"):
            line += f", {key.rpartition('.')[2]} {attributes[key]}" if key in attributes else ""
    return line
