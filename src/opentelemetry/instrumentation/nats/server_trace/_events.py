# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Reads trace events, which anybody may forge, into small records that can be trusted.

What is not of the type that the server would write is taken for absent; an event without one of the few things that a
span can't do without is skipped. The message's own headers are looked at for three names and never kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from opentelemetry.instrumentation.nats.server_trace._reasons import (
    BAD_TIME,
    MALFORMED,
    NO_INGRESS,
    NO_TRACE_CONTEXT,
    NOT_JSON,
    NOT_SAMPLED,
    Skipped,
)
from opentelemetry.instrumentation.nats.server_trace._times import parse_time

INGRESS = "in"
MAPPING = "sm"
EXPORT = "se"
IMPORT = "si"
STORE = "js"
EGRESS = "eg"

CLIENT = 0
ROUTE = 1
GATEWAY = 2
LEAFNODE = 4

MOST_STEPS = 128
"""Steps of one event that become spans: a message to 10,000 subscribers must not make 10,000 spans."""

MOST_HOPS = 1024
"""Steps to other servers, beside those: without such a step the other server's spans would be orphans."""

_SUBJECT_KEYS = {INGRESS: "subj", MAPPING: "to", EXPORT: "to", IMPORT: "to", STORE: "subject", EGRESS: ""}

_LONGEST_TEXT = 4096
_LONGEST_ID = 128
_MOST_TAGS = 32
_LARGEST_INTEGER = 2**63 - 1

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})", re.IGNORECASE
).fullmatch
_HOP = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,15}").fullmatch


class Server(NamedTuple):
    """The server that sent an event.

    Attributes:
        id: Its id, another one after every restart.
        name: Its name.
        version: Its version.
        cluster: Its cluster, if it is in one.
        domain: Its JetStream domain.
        tags: Its `server_tags`.
    """

    id: str
    name: str | None
    version: str | None
    cluster: str | None
    domain: str | None
    tags: tuple[str, ...]


class Step(NamedTuple):
    """One thing that the server did with the message.

    Attributes:
        place: Its index in the event, which identifies it there.
        type: `sm`, `se`, `si`, `js` or `eg`; `in` for the ingress.
        time: Nanoseconds since the epoch. Of an egress: when the message was queued for the connection.
        kind: The connection's kind: 0 client, 1 route, 2 gateway, 3 system, 4 leaf node, 5 JetStream, 6 account.
        client_id: The connection's id on this server.
        name: The connection's name: the client's, or that of the server at its other end.
        account: The account, where it is said.
        subject: Ingress and store: the message's subject. Mapping, export and import: the subject that it gets.
        subscription: The subject of the subscription that an egress goes to.
        queue: The queue group of that subscription.
        stream: The stream that stores the message.
        hop: Names the way to another server; that one's event has the same name.
        no_interest: Whether a stream did not store it because it has no consumer for it.
        error: What went wrong, in the server's words.
    """

    place: int
    type: str
    time: int
    kind: int | None
    client_id: int | None
    name: str | None
    account: str | None
    subject: str | None
    subscription: str | None
    queue: str | None
    stream: str | None
    hop: str | None
    no_interest: bool
    error: str | None


class Event(NamedTuple):
    """What one server did with one message.

    Attributes:
        server: The server.
        sequence: Identifies the event among those of this server.
        sent: When the server sent it, in nanoseconds since the epoch; None if that can't be read.
        trace_id: The trace of the message.
        parent_id: The span that published it.
        trace_flags: The flags of its `traceparent`.
        hop: The hop by which it reached this server; None where it entered the system here.
        size: Bytes of its headers and payload.
        ingress: How it came in.
        steps: What happened then.
        last: The time of the last step, in nanoseconds since the epoch, of those too that are not in `steps`.
        unknown_steps: How many steps were left out because they are of no type that is known, or have no time.
        surplus_steps: How many were left out because there are too many.
    """

    server: Server
    sequence: int
    sent: int | None
    trace_id: int
    parent_id: int
    trace_flags: int
    hop: str | None
    size: int | None
    ingress: Step
    steps: list[Step]
    last: int
    unknown_steps: int
    surplus_steps: int


def read_event(data: bytes) -> Event:
    """Reads an event.

    Args:
        data: Its JSON.

    Returns:
        The event.

    Raises:
        Skipped: It is none, or not one that spans can be made of.
    """
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):  # ValueError: bytes that are no UTF-8, and integers of 5,000 digits, as well
        raise Skipped(NOT_JSON) from None
    event = _object(event)
    server = _object(event.get("server"))
    request = _object(event.get("request"))
    headers = _object(request.get("header"))
    entries = _array(event.get("events"))
    sequence = _integer(server.get("seq"))
    identity = _text(server.get("id"))
    if not identity or len(identity) > _LONGEST_ID or sequence is None or not entries:
        raise Skipped(MALFORMED)
    trace_id, parent_id, trace_flags = _trace_context(headers)
    ingress, steps, last, unknown, surplus = _steps(entries)
    return Event(
        server=Server(
            identity,
            _text(server.get("name")),
            _text(server.get("ver")),
            _text(server.get("cluster")),
            _text(server.get("domain")),
            _tags(server.get("tags")),
        ),
        sequence=sequence,
        sent=parse_time(server.get("time")),
        trace_id=trace_id,
        parent_id=parent_id,
        trace_flags=trace_flags,
        # A client that passes on the headers of what it received sends the hop of another message.
        hop=None if ingress.kind == CLIENT else _hop(_header(headers, "nats-trace-hop")),
        size=_integer(request.get("msgsize")),
        ingress=ingress,
        steps=steps,
        last=last,
        unknown_steps=unknown,
        surplus_steps=surplus,
    )


def _trace_context(headers: Mapping[str, Any]) -> tuple[int, int, int]:
    # The server traces what has ids of zeros, or none at all; and of two contexts nobody can say which one is meant.
    match = _TRACEPARENT(_header(headers, "traceparent") or "")
    if not match:
        raise Skipped(NO_TRACE_CONTEXT)
    trace_id, parent_id, flags = (int(part, 16) for part in match.groups())
    if not flags & 1:
        raise Skipped(NOT_SAMPLED)
    return trace_id, parent_id, flags


def _steps(entries: Sequence[Any]) -> tuple[Step, list[Step], int, int, int]:
    ingress: Step | None = None
    steps: list[Step] = []
    plain = hops = unknown = surplus = last = 0
    for place, value in enumerate(entries):
        entry = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        type_ = entry.get("type")
        if not isinstance(type_, str) or type_ not in _SUBJECT_KEYS or (type_ == INGRESS and ingress):
            unknown += 1
            continue
        time = parse_time(entry.get("ts"))
        if time is None:
            if type_ == INGRESS:
                raise Skipped(BAD_TIME)
            unknown += 1
            continue
        last = max(last, time)
        if type_ == INGRESS:
            ingress = _step(place, type_, time, entry)
            continue
        if type_ == EGRESS and entry.get("hop"):
            hops += 1
            kept = hops <= MOST_HOPS
        else:
            plain += 1
            kept = plain <= MOST_STEPS
        if kept:
            steps.append(_step(place, type_, time, entry))
        else:
            surplus += 1
    if ingress is None:
        raise Skipped(NO_INGRESS)
    return ingress, steps, last, unknown, surplus


def _step(place: int, type_: str, time: int, entry: dict[str, Any]) -> Step:
    get = entry.get
    return Step(
        place,
        type_,
        time,
        _integer(get("kind")),
        _integer(get("cid")),
        _text(get("name")),
        _text(get("acc")),
        _text(get(_SUBJECT_KEYS[type_])),
        _text(get("sub")),
        _text(get("queue")),
        _text(get("stream")),
        _hop(get("hop")),
        get("nointerest") is True,
        _text(get("error")),
    )


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Skipped(MALFORMED)
    return cast("dict[str, Any]", value)


def _array(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _header(headers: Mapping[str, Any], name: str) -> str | None:
    """Reads a header in any case; None unless all its values are one and the same string."""
    found: set[str | None] = set()
    for key, values in headers.items():
        if key.lower() == name:
            found.update(item if isinstance(item, str) else None for item in _array(values) or [values])
    return found.pop() if len(found) == 1 else None


def _text(value: Any) -> str | None:
    if value is None or not isinstance(value, str) or not value:
        return None
    if len(value) > _LONGEST_TEXT:
        value = value[:_LONGEST_TEXT]
    if not value.isascii():
        # JSON can hold half a surrogate pair. Protobuf refuses it, and with it the whole batch of spans.
        value = value.encode("utf-8", "replace").decode()
    return value


def _integer(value: Any) -> int | None:
    # OTLP's integers are signed and have 64 bits; JSON's have no limit. A bool is an int to Python.
    return value if type(value) is int and 0 <= value <= _LARGEST_INTEGER else None


def _hop(value: Any) -> str | None:
    return value if isinstance(value, str) and _HOP(value) else None


def _tags(value: Any) -> tuple[str, ...]:
    return tuple(text for text in map(_text, _array(value)[:_MOST_TAGS]) if text)
