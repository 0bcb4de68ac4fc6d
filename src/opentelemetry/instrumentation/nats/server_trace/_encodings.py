# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The bytes of an event as they were before the server compressed them.

The server compresses an event as the *message* asked for with its header `Accept-Encoding`. Whoever may publish can
send us anything, so that a small message must not become a large one.
"""

from __future__ import annotations

import zlib

from opentelemetry.instrumentation.nats.server_trace._reasons import OVERSIZED, UNDECODABLE, Skipped

try:
    import cramjam
except ImportError:  # it has no wheel for every platform, and few messages ask for Snappy
    cramjam = None

MOST_BYTES = 4 * 1024 * 1024
"""The largest event that is read: one message to about 40,000 subscriptions of one server."""

_GZIP = 16 + zlib.MAX_WBITS


def decode(data: bytes, encoding: str | None) -> bytes:
    """Undoes the compression of an event.

    Args:
        data: The payload of the event's message.
        encoding: Its header `Content-Encoding`, if it has one.

    Returns:
        The event's JSON.

    Raises:
        Skipped: The event is too large, broken, or in an encoding that can't be read.
    """
    if len(data) > MOST_BYTES:
        raise Skipped(OVERSIZED)
    match (encoding or "identity").strip().lower():
        case "identity" | "":
            return data
        case "gzip":
            return _gunzip(data)
        case "snappy":
            return _unsnap(data)
        case _:
            raise Skipped(UNDECODABLE, "an unknown Content-Encoding")


def _gunzip(data: bytes) -> bytes:
    decompressor = zlib.decompressobj(_GZIP)
    try:
        plain = decompressor.decompress(data, MOST_BYTES)
    except zlib.error:
        raise Skipped(UNDECODABLE, "broken gzip") from None
    if decompressor.unconsumed_tail:
        raise Skipped(OVERSIZED)
    if not decompressor.eof:
        raise Skipped(UNDECODABLE, "gzip that ends too early")
    return plain


def _unsnap(data: bytes) -> bytes:
    if cramjam is None:
        raise Skipped(UNDECODABLE, "Snappy needs the package cramjam")
    plain = bytearray(MOST_BYTES)
    try:
        size = cramjam.snappy.decompress_into(data, plain)
    except cramjam.DecompressionError:
        raise Skipped(UNDECODABLE, "Snappy that is broken, or too large") from None
    return bytes(plain[:size])
