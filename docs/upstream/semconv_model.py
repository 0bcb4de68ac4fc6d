# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The model of the NATS conventions in docs/upstream/model, resolved: groups unfolded, references filled in.

The format is `definition/2` of the semantic conventions, as far as the model uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "model"

LEVELS = ("required", "conditionally_required", "recommended", "opt_in")
"""Requirement levels, the strictest first."""

_REFINABLE = ("brief", "note", "examples", "requirement_level", "sampling_relevant")


@dataclass(frozen=True)
class Attribute:
    """An attribute, as one signal has it.

    Attributes:
        name: Its name.
        type: Its type, in the words of the model.
        stability: `stable` or `development`.
        brief: What it is.
        note: More about it.
        examples: Values.
        members: Value and description of an enumeration's members.
        level: One of `LEVELS`.
        condition: When the level holds.
        sampling_relevant: Whether it has to be there when the span starts.
    """

    name: str
    type: str
    stability: str
    brief: str
    note: str = ""
    examples: tuple[Any, ...] = ()
    members: tuple[tuple[str, str], ...] = ()
    level: str = "recommended"
    condition: str = ""
    sampling_relevant: bool = False


@dataclass(frozen=True)
class Signal:
    """A span or a metric.

    Attributes:
        id: `span.messaging.nats.send.producer`, `metric.nats.client.reconnects`.
        brief: What it is of.
        note: More about it.
        attributes: Its attributes, by name.
        base: The general span that it refines, or an empty string.
        kind: The span's kind, or the metric's instrument.
        unit: The metric's unit, or an empty string.
    """

    id: str
    brief: str
    note: str
    attributes: Mapping[str, Attribute]
    base: str = ""
    kind: str = ""
    unit: str = ""


# What the model and the conventions' own refer to, of the registry: type, stability, and what it is in few words.
_REGISTRY = {
    "error.type": ("string", "stable", "The class of error that the operation ended with."),
    "messaging.batch.message_count": ("int", "development", "The number of messages of a batch."),
    "messaging.client.id": ("string", "development", "What identifies the client."),
    "messaging.consumer.group.name": ("string", "development", "The group that the consumer belongs to."),
    "messaging.destination.anonymous": ("boolean", "development", "Whether the destination has a generated name."),
    "messaging.destination.name": ("string", "development", "The name of the message's destination."),
    "messaging.destination.partition.id": ("string", "development", "The partition that the message goes to."),
    "messaging.destination.subscription.name": ("string", "development", "The subscription of the destination."),
    "messaging.destination.template": ("string", "development", "The destination name in a form of low cardinality."),
    "messaging.destination.temporary": ("boolean", "development", "Whether the destination exists for a while only."),
    "messaging.message.body.size": ("int", "development", "The size of the message's body in bytes."),
    "messaging.message.conversation_id": ("string", "development", "The conversation that the message belongs to."),
    "messaging.message.envelope.size": ("int", "development", "The size of the message with its headers in bytes."),
    "messaging.message.id": ("string", "development", "What identifies the message."),
    "messaging.operation.name": ("string", "development", "The name of the operation, in the words of NATS."),
    "messaging.operation.type": ("string", "development", "The type of the operation."),
    "messaging.system": ("string", "development", "The messaging system."),
    "network.peer.address": ("string", "stable", "The address at the other end of the connection."),
    "network.peer.port": ("int", "stable", "The port at the other end of the connection."),
    "server.address": ("string", "stable", "The name or address of the server."),
    "server.port": ("int", "stable", "The port of the server."),
}


class Model:
    """The model.

    Args:
        folder: Where its files are.

    Attributes:
        attributes: The attributes that it adds to the registry, by name.
        signals: Its spans and metrics, by id.

    Raises:
        ValueError: A file has another format, or refers to what is not there.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml"))]
        if any(file.pop("file_format") != "definition/2" for file in files):
            raise ValueError("a file is not in the format definition/2")

        def entries(section: str) -> Iterator[dict[str, Any]]:
            for file in files:
                yield from file.get(section, ())

        self.attributes = {entry["key"]: _defined(entry) for entry in entries("attributes")}
        self._groups = {entry["id"]: entry for entry in entries("attribute_groups")}
        self.signals: dict[str, Signal] = {}
        for entry in entries("span_refinements"):
            self._add(entry["id"], entry, base=entry["ref"], kind=entry["ref"].rpartition(".")[2])
        for entry in entries("spans"):
            self._add(f"span.{entry['type']}", entry, kind=entry["kind"])
        for entry in entries("metrics"):
            self._add(f"metric.{entry['name']}", entry, kind=entry["instrument"], unit=entry["unit"])

    def spans(self) -> list[Signal]:
        """Returns the spans."""
        return [signal for name, signal in self.signals.items() if name.startswith("span.")]

    def metrics(self) -> dict[str, Signal]:
        """Returns the metrics, by the name of the instrument."""
        return {name[len("metric.") :]: signal for name, signal in self.signals.items() if name.startswith("metric.")}

    def _add(self, name: str, entry: Mapping[str, Any], **rest: str) -> None:
        attributes: dict[str, Attribute] = {}
        for reference in self._references(entry):
            key = reference["ref"]
            attributes[key] = _refined(attributes.get(key) or self._registered(key), reference)
        self.signals[name] = Signal(name, _text(entry["brief"]), _text(entry.get("note", "")), attributes, **rest)

    def _references(self, entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        for reference in entry["attributes"]:
            if "ref_group" in reference:
                yield from self._references(self._groups[reference["ref_group"]])
            else:
                yield reference

    def _registered(self, key: str) -> Attribute:
        if key in self.attributes:
            return self.attributes[key]
        if key not in _REGISTRY:
            raise ValueError(f"{key} is neither in the model nor known of the registry")
        return Attribute(key, *_REGISTRY[key])


def _defined(entry: Mapping[str, Any]) -> Attribute:
    kind, members = entry["type"], ()
    if isinstance(kind, dict):
        members = tuple((member["value"], _text(member["brief"])) for member in kind["members"])
        kind = "string"
    attribute = Attribute(entry["key"], kind, entry["stability"], _text(entry["brief"]), members=members)
    return _refined(attribute, entry)


def _refined(attribute: Attribute, entry: Mapping[str, Any]) -> Attribute:
    given = {name: entry[name] for name in _REFINABLE if name in entry}
    for name in ("brief", "note"):
        if name in given:
            given[name] = _text(given[name])
    if "examples" in given:
        given["examples"] = tuple(given["examples"])
    level = given.pop("requirement_level", None)
    if isinstance(level, dict):
        [(given["level"], condition)] = level.items()
        given["condition"] = _text(condition)
    elif level is not None:
        given["level"], given["condition"] = level, ""
    return replace(attribute, **given)


def _text(text: str) -> str:
    return text.strip()
