# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The rooms of the package: imports run downwards only, and none grows past its bound. See docs/design."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import opentelemetry.instrumentation.nats as package

ROOT = Path(package.__file__).parent
PACKAGE = package.__name__

# From the ground up. A room imports only rooms of the storeys below its own; a new room gets its line here.
STOREYS = (
    (
        "version",
        "package",
        "environment_variables",
        "_collecting",
        "_incoming",
        "_providers",
        "_subjects",
        "_texts",
        "_tokens",
    ),
    ("_floor", "_faults", "_expected", "_sampling"),
    ("_values", "_learning"),
    ("_options",),
    ("_attributes",),
    ("_naming", "_bounds", "_baggage", "_logs"),
    ("_propagation", "_series", "_splitting"),
    ("_arrived",),
    ("_headers",),
    ("_readings",),
    ("_metrics",),
    ("_telemetry",),
    ("_operations",),
    ("_connection",),
    ("_origins",),
    ("_calls", "_messages"),
    ("_hooks", "_contexts"),
    ("_processing",),
    ("_holding",),
    ("_sending", "_observing", "_delivering", "_abandoning"),
    ("_receiving", "_unacked"),
    ("_patches._nats", "_patches._replacing"),
    ("_patches._errors",),
    ("_patches._keeping", "_patches._running"),
    ("_patches._bodies", "_patches._loops", "_patches._publishing", "_patches._waiting"),
    ("_patches._watching",),
    ("_patches.client", "_patches.message", "_patches.subscription", "_patches.jetstream", "_patches.management"),
    ("_patches.jetstream_subscriptions", "_patches.key_value", "_patches.service"),
    ("_patches.object_store",),
    ("_patches",),
    ("_instrumentor",),
    ("",),
)

MOST_LINES = 320
"""Lines of a room. Past that it has more than one idea: make another room."""

LARGER = {
    "_patches._nats": 420,  # a small reader for each private name of nats-py
}
"""Rooms that are larger, each with a bound of its own."""


def name_of(path: Path) -> str:
    """Returns a module's name below the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


ROOMS = {name_of(path): path for path in sorted(ROOT.rglob("*.py")) if "server_trace" not in path.parts}
HEIGHT = {room: height for height, storey in enumerate(STOREYS) for room in storey}


def imported(path: Path) -> Iterator[str]:
    """Yields the rooms that a file imports, in functions and under `TYPE_CHECKING` too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if not f"{name}.".startswith(f"{PACKAGE}."):
                continue
            # `from package import room` names a room; `from package.room import thing` a thing in one.
            below = name[len(PACKAGE) + 1 :]
            while below not in ROOMS:
                below = below.rpartition(".")[0]
            yield below


def test_every_room_has_its_storey():
    assert sorted(HEIGHT) == sorted(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_downwards(room: str):
    up = {other for other in imported(ROOMS[room]) if HEIGHT[other] >= HEIGHT[room]}
    assert not up


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_one_idea(room: str):
    lines = len(ROOMS[room].read_text(encoding="utf-8").splitlines())
    assert lines <= LARGER.get(room, MOST_LINES)


# The rooms that read what nats-py, and what OpenTelemetry and asyncio, keep to themselves.
KNOW_PRIVATE_NAMES = ("_patches._nats", "_providers")

# Public by their documentation: of every named tuple; and one of our own, which another object of the class reads.
NOT_PRIVATE = {"_replace", "_frame"}


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in KNOW_PRIVATE_NAMES])
def test_private_names_of_others_are_read_in_their_room(room: str):
    read = set()
    for node in ast.walk(ast.parse(ROOMS[room].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", *HEIGHT)):
                read.add(node.attr)
        elif isinstance(node, ast.Call) and len(node.args) > 0:
            # `getattr(x, "_name")`, `x.__dict__.get("_name")`
            read |= {
                argument.value
                for argument in node.args[:2]
                if isinstance(argument, ast.Constant)
                and ast.unparse(node.func).endswith(("getattr", "__dict__.get"))
                and str(argument.value).startswith("_")
                and not str(argument.value).startswith("__")
            }
    assert read - NOT_PRIVATE == set()
