# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the propagators get to see of a received message's headers.

Anybody who may publish chooses them. Some propagators take minutes over the right text, others log all of it; so a
header that its format does not allow counts as absent before they see it, and what they see is short.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from opentelemetry.propagators.textmap import Getter

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"

# Servers 2.11 and 2.12 rename the header on messages that they traced themselves.
RENAMED = {"xraceparent": TRACEPARENT}

_NATS_PREFIX = "Nats-"

# The longest value that the W3C formats ask anybody to carry (baggage). A longer one is no context, it is an attack.
_LONGEST_VALUE = 8192
_LONGEST_TRACEPARENT = 256
_LONGEST_NAME = 256
_MOST_NAMES = 256
_MOST_ENTRIES = 180
_LONGEST_ENTRY = 4096
_MOST_PROPERTIES = 64
_MOST_MEMBERS = 32

# Names that are looked up again and again are remembered; those that a remote chose to be long are not.
_LONGEST_REMEMBERED = 256

# https://www.w3.org/TR/baggage/#definition, with what the API takes for a key and a value. Nothing here can be read in
# two ways, so a text is never read twice.
_KEY = r"[\x21\x23-\x27\x2a\x2b\x2d\x2e\x30-\x39\x41-\x5a\x5e-\x7a\x7c\x7e]+"
_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_PROPERTY = rf"[ \t]*{_KEY}[ \t]*(?:=[ \t]*{_VALUE}[ \t]*)?"
_ENTRY = rf"{_KEY}[ \t]*=[ \t]*{_VALUE}[ \t]*(?:;{_PROPERTY})*"
_BLANKS = str.maketrans("", "", " \t")

# https://www.w3.org/TR/trace-context/#tracestate-header-field-values
_MEMBER = (
    r"([a-z][_0-9a-z\-*/]{0,255}|[a-z0-9][_0-9a-z\-*/]{0,240}@[a-z][_0-9a-z\-*/]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class OrdinaryGetter(Getter[Mapping[str, Any]]):
    """Reads headers of which only `traceparent`, in lower case, is of interest."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        """Returns the header's value in a list, or None; what is no single, sane string counts as absent."""
        value = carrier.get(key.lower())
        if value is None:
            return None
        if not isinstance(value, str):
            value = single(value)
            if value is None:
                return None
        # The API's expression takes quadratic time over blanks behind the flags of a later version.
        return [value] if len(value) <= _LONGEST_TRACEPARENT else None

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        """Returns the names of the headers, as far as a propagator has reason to look at them."""
        return [name for name in carrier if len(name) <= _LONGEST_NAME][:_MOST_NAMES]


class HeaderGetter(OrdinaryGetter):
    """Reads headers whose names are in lower case."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        """Returns the header's value in a list, or None; what is no single, sane string counts as absent."""
        key = key.lower()
        value = single(carrier.get(key))
        if value is None or len(value) > _LONGEST_VALUE:
            return None
        sane = _SANE.get(key)
        if sane is not None:
            value = sane(value)
        return None if value is None else [value]


ORDINARY_GETTER = OrdinaryGetter()
GETTER = HeaderGetter()


def single(value: Any) -> str | None:
    """Returns a header's value if it is one string: of lists only one of one is no contradiction."""
    if isinstance(value, list):  # nats-py's `fast_mail_parser` extra makes them
        value = value[0] if len(value) == 1 else None  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value if isinstance(value, str) else None


def _traceparent(value: str) -> str | None:
    return value if len(value) <= _LONGEST_TRACEPARENT else None


def _tracestate(value: str) -> str | None:
    keys: set[str] = set()
    members = [member for member in (part.strip(" \t") for part in value.split(",", 2 * _MOST_MEMBERS)) if member]
    if len(members) > _MOST_MEMBERS:
        return None
    for member in members:
        match = re.fullmatch(_MEMBER, member)
        if match is None or match[1] in keys:
            return None
        keys.add(match[1])
    return ",".join(members) or None


def _baggage(value: str) -> str | None:
    # The API's expression for the commas takes quadratic time over blanks; and each entry that it refuses it logs.
    entries = [part.strip(" \t") for part in value.split(",", _MOST_ENTRIES)[:_MOST_ENTRIES]]
    if value.count(";") > _MOST_PROPERTIES:
        entries = [entry for entry in entries if ";" not in entry]
    good = (
        entry.translate(_BLANKS) for entry in entries if len(entry) <= _LONGEST_ENTRY and re.fullmatch(_ENTRY, entry)
    )
    return ",".join(good) or None


_SANE: dict[str, Callable[[str], str | None]] = {
    TRACEPARENT: _traceparent,
    TRACESTATE: _tracestate,
    BAGGAGE: _baggage,
}


def others_are_of_nats(headers: Mapping[str, Any]) -> bool:
    """Tells whether all headers but `traceparent` are the server's or nats-py's own, as on a stored message."""
    names = "\n".join(headers)
    return _of_nats(names) if len(names) <= _LONGEST_REMEMBERED else _are_of_nats(names)


def _are_of_nats(names: str) -> bool:
    return all(name.startswith(_NATS_PREFIX) or name == TRACEPARENT for name in names.split("\n"))


_of_nats = lru_cache(maxsize=256)(_are_of_nats)


def in_lower_case(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Copies headers with their names in lower case; where two spellings disagree, neither counts."""
    carrier: dict[str, Any] = {}
    for name, value in headers.items():
        lower = name.lower()
        lower = RENAMED.get(lower, lower)
        if lower in carrier and carrier[lower] != value:
            value = None
        carrier[lower] = value
    return carrier
