# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What two runs of a program have in common: values and frames, without ids, times and propagation headers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

PROPAGATION_HEADERS = frozenset({"traceparent", "tracestate", "baggage"})
"""What the instrumentation may add to a message. Programs here add none of these by themselves."""

STATUS = b"NATS/1.0"

_PLACEHOLDERS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r'"(sig|nonce)": ?"[^"]*"', r'"\1": "<secret>"'),
        (r'"(expires|idle_heartbeat)": ?\d+', r'"\1": "<n>"'),
        (r"\b[0-9A-Za-z]{22}(?:[0-9a-f]{4,6})?\b", "<id>"),  # a NUID, and a token that nats-py makes of one
        (r"\b1\d{18}\b", "<time>"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?", "<time>"),
        (r"(127\.0\.0\.1|localhost):\d+", "<server>"),
        # A consumer that the server named, in subjects of its API and of acknowledgements.
        (r"(\$JS\.(?:ACK|FC|API\.CONSUMER\.(?:MSG\.NEXT|\w+))\.[^.\s]+\.)[0-9A-Za-z]{8}(?=[.\s\"]|$)", r"\1<consumer>"),
        (r"object at 0x[0-9a-f]+", "object"),
    )
]

_SIZES = frozenset({"bytes", "memory", "storage", "reserved_memory", "reserved_storage", "hdrs", "pause_remaining"})
"""Fields that count headers, or are them, or depend on time."""

_TIMES = frozenset({"created", "modified", "mtime", "ts", "first_ts", "last_ts", "last_active", "started", "delta"})

_NAMES = frozenset({"consumer", "name"})
"""Fields in which the server's own names for consumers are."""

_GENERATED = re.compile(r"[0-9A-Za-z]{8}")


def text(value: str) -> str:
    """A text with placeholders for what is another one in each run."""
    for pattern, replacement in _PLACEHOLDERS:
        value = pattern.sub(replacement, value)
    return value


def headers(value: Mapping[Any, Any] | None) -> dict[str, Any] | None:
    """Headers but for those that the instrumentation adds; None if there are no others."""
    rest = {str(key): plain(each) for key, each in (value or {}).items() if key not in PROPAGATION_HEADERS}
    return rest or None


def plain(value: Any, depth: int = 0) -> Any:
    """Anything that nats-py returns or raises, as JSON has it."""
    if depth > 8:
        return "..."
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return plain(value.value, depth)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bytes | bytearray):
        return text(value.decode("latin-1"))
    if isinstance(value, BaseException):
        return {"raised": f"{type(value).__module__}.{type(value).__qualname__}", "says": text(str(value))}
    if isinstance(value, Mapping):
        return {str(key): _field(str(key), each, depth) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(each, depth + 1) for each in value]
    if hasattr(value, "subject") and hasattr(value, "data"):
        name = "Request" if type(value).__name__ == "Request" else "Msg"
        reply = plain(getattr(value, "reply", None))
        return {name: [plain(value.subject), reply, headers(value.headers), plain(value.data)]}
    if is_dataclass(value):
        return {each.name: _field(each.name, getattr(value, each.name), depth) for each in fields(value)}
    return f"<{type(value).__qualname__}>"


def _field(name: str, value: Any, depth: int) -> Any:
    if name in _SIZES or name in _TIMES:
        return "<n>" if value else value
    if name == "headers":
        return headers(value)
    if name in _NAMES and isinstance(value, str) and _GENERATED.fullmatch(value):
        return "<consumer>"
    return plain(value, depth + 1)


def frames(sent: bytes) -> Iterator[str]:
    """What a client has sent, a frame at a time: sizes aside, they follow from the rest.

    A PONG is left out: when the server asks for it is the server's affair. So is what lacks its end.
    """
    while sent:
        line, found, sent = sent.partition(b"\r\n")
        if not found:
            return
        verb, _, rest = line.decode("latin-1").partition(" ")
        if verb == "PONG":
            continue
        if verb not in ("PUB", "HPUB"):
            yield text(line.decode("latin-1"))
            continue
        *target, size = rest.split(" ")
        block = int(target.pop()) if verb == "HPUB" else 0
        if len(sent) < int(size) + 2:
            return
        payload, sent = sent[: int(size)], sent[int(size) + 2 :]
        kept, verb = _headers(payload[:block]) if block else ([], "PUB")
        yield json.dumps([verb, text(" ".join(target)), kept, text(payload[block:].decode("latin-1"))])


def _headers(block: bytes) -> tuple[list[str], str]:
    lines = block.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    assert lines[0].encode() == STATUS, block
    others = [line for line in lines[1:] if line.partition(":")[0] not in PROPAGATION_HEADERS]
    # A block of ours alone: the message had none. One that is empty had none either, but is another frame.
    return [text(line) for line in others], "HPUB" if others or len(lines) == 1 else "PUB"
