# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""docs/semconv.md as data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "semconv.md"
_CODE = re.compile(r"`([^`]+)`").findall
_METHOD = re.compile(r"[A-Z]\w+(?:\.\w+)+|nats(?:\.\w+)+").fullmatch


@dataclass
class Row:
    """A row of a table of spans: what a call makes.

    Attributes:
        call: The first cell, which names a scenario.
        methods: The methods in it, `Client.publish`.
        name: The span's name, with `{placeholders}`.
        type: `messaging.operation.type`, or an empty string.
        kind: The span's kind, in lower case.
    """

    call: str
    methods: list[str]
    name: str
    type: str
    kind: str

    def calls(self) -> dict[str, str]:
        """The name of the span of each call in the row; a call is a method, or the whole cell if that has none."""
        return {call: self.name.replace("{method}", call.rpartition(".")[2]) for call in (self.methods or [self.call])}


def tables(section: str) -> Iterator[list[dict[str, str]]]:
    """The tables under a heading of the page, up to the next one of the same level; rows by the header's words."""
    text = PAGE.read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n## {section}\n")
    assert found, f"no section {section!r}"
    rows: list[dict[str, str]] = []
    header: list[str] = []
    for line in [*re.split(r"\n## ", rest)[0].splitlines(), ""]:
        if not line.startswith("|"):
            if rows:
                yield rows
            rows, header = [], []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not header:
            header = cells
        elif not set(line) <= set("|- "):
            rows.append(dict(zip(header, cells, strict=True)))


def spans() -> list[Row]:
    """All rows of all tables of spans."""
    return [
        Row(
            row["call"],
            [name for name in _CODE(row["call"]) if _METHOD(name)],
            _CODE(row["span"])[0],
            row["type"],
            row["kind"],
        )
        for table in tables("Spans")
        for row in table
        if "span" in row
    ]


def silent() -> dict[str, str]:
    """The methods that make no span, and why."""
    return {
        name: row["why"] for table in tables("Calls without a span") for row in table for name in _CODE(row["call"])
    }


def attributes(section: str = "Attributes") -> dict[str, list[str]]:
    """The attributes, each with the operations that have it."""
    found: dict[str, list[str]] = {}
    for table in tables(section):
        for row in table:
            if "attribute" not in row:
                continue
            previous = ""
            for name in _CODE(row["attribute"]):
                # `messaging.nats.kv.key`, `.revision`
                name = previous.rpartition(".")[0] + name if name.startswith(".") else name
                previous = name
                assert name not in found, f"{name} is there twice"
                found[name] = _CODE(row["on"]) or [row["on"]]
    return found
