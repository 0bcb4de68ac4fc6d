# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Go's timestamps as nanoseconds since the epoch.

A server writes them in its own time zone and without trailing zeros: `2026-01-15T15:00:00.0001+05:30`.
`datetime.fromisoformat` of Python 3.10 reads neither that nor `Z`, and no `datetime` has nanoseconds.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

_PARTS = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(?:Z|([+-][0-9]{2}:[0-9]{2}))"
).fullmatch

_LATEST = 2**63 - 1


def parse_time(text: object) -> int | None:
    """Reads a timestamp.

    Args:
        text: RFC 3339, with up to nine digits after the point.

    Returns:
        Nanoseconds since the epoch; None for anything else, and for what a span can't have: OTLP's times are unsigned.
    """
    if not isinstance(text, str) or not (match := _PARTS(text)):
        return None
    second, fraction, zone = match.groups()
    seconds = _epoch(second, zone or "+00:00")
    if seconds is None:
        return None
    nanoseconds = seconds * 1_000_000_000 + (int(fraction.ljust(9, "0")) if fraction else 0)
    return nanoseconds if 0 < nanoseconds <= _LATEST else None


@lru_cache(256)  # the steps of an event, and the events of a moment, share their second
def _epoch(second: str, zone: str) -> int | None:
    try:
        return int(datetime.fromisoformat(second + zone).timestamp())
    except ValueError:  # the 31st of February
        return None
