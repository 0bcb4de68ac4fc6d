# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Span ids that follow from the event alone.

Whoever reads an event computes the same ids: in any order, twice, in two programs. So the parts of a trace find one
another though each server tells its own part and nobody keeps anything.

A message is known by the span that published it, trace id and span id. Several messages of one context, which only
a program that copies headers sends, share the ids of their hops where they take the same way; the answer to a request,
which plain nats-py sends with the request's headers, is told apart by going to an inbox.
"""

from __future__ import annotations

from hashlib import blake2b

_SIZE = 8


def message_key(trace_id: int, parent_id: int) -> bytes:
    """What the ids of all spans of one message start from."""
    return trace_id.to_bytes(16, "big") + parent_id.to_bytes(8, "big")


def server_span_id(message: bytes, server_id: str, sequence: int) -> int:
    """The id of the span of one message in one server.

    Args:
        message: The message's key.
        server_id: The server's id.
        sequence: The event's sequence there.
    """
    return _hash(b"%b server %b %d" % (message, server_id.encode(), sequence))


def hop_span_id(message: bytes, hop: str, inbox: bool) -> int:
    """The id of the span of the way between two servers, which both ends can compute.

    Args:
        message: The message's key.
        hop: The hop's name, `2.1`.
        inbox: Whether the message goes to an inbox.
    """
    return _hash(b"%b hop %b %d" % (message, hop.encode(), inbox))


def step_span_id(server_span: int, place: int) -> int:
    """The id of the span of a step that only its own server knows.

    Args:
        server_span: The id of the server's span.
        place: The step's index in the event.
    """
    return _hash(b"%d step %d" % (server_span, place))


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=_SIZE).digest(), "big") or 1  # 0 is no span's id
