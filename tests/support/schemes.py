# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""How programs make ids: a function for each scheme, that returns another one at each call."""

from __future__ import annotations

import base64
import ipaddress
import random
import string
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

Scheme = Callable[[], str]

_random = random.Random(20261125)

_BASE62 = string.digits + string.ascii_letters
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_NANOID = string.digits + string.ascii_letters + "_-"
_KUBERNETES = "bcdfghjklmnpqrstvwxz2456789"


def _pick(alphabet: str, size: int) -> str:
    return "".join(_random.choices(alphabet, k=size))


def _moment() -> datetime:
    return datetime(2020, 1, 1) + timedelta(seconds=_random.randrange(10**9))


def _user_name() -> str:
    syllables = (_random.choice("bdfgklmnprstvz") + _random.choice("aeiou") for _ in range(_random.randint(3, 6)))
    return "".join(syllables)


SCHEMES: dict[str, Scheme] = {
    "numbers": lambda: str(_random.randrange(10**9)),
    "order numbers": lambda: f"ORD-2026-{_random.randrange(10**6):06}",
    "a letter and digits": lambda: f"A{_random.randrange(10**6):06}",
    "numbered tenants": lambda: f"tenant-{_random.randrange(10, 10**6)}",
    "dates": lambda: f"{_moment():%Y-%m-%d}",
    "times": lambda: f"{_moment():%H:%M:%S}",
    "moments": lambda: f"{_moment().isoformat()}Z",
    "telephone numbers": lambda: f"+49-{_random.randrange(100, 1000)}-{_random.randrange(10**5, 10**8)}",
    "MAC addresses": lambda: ":".join(f"{_random.randrange(256):02x}" for _ in range(6)),
    "MAC addresses of Windows": lambda: "-".join(f"{_random.randrange(256):02X}" for _ in range(6)),
    "IPv4 with hyphens": lambda: str(ipaddress.IPv4Address(_random.getrandbits(32))).replace(".", "-"),
    "IPv6": lambda: str(ipaddress.IPv6Address(_random.getrandbits(128))),
    "pods": lambda: f"web-{_pick(_KUBERNETES, 10)}-{_pick(_KUBERNETES, 5)}",
    "hexadecimal": lambda: hex(_random.getrandbits(32)),
    "UUIDs": lambda: str(uuid.UUID(int=_random.getrandbits(128), version=4)),
    "ObjectIds": lambda: f"{_random.getrandbits(31):08x}{_random.getrandbits(64):016x}",
    "Snowflakes": lambda: str(_random.getrandbits(62) | 1 << 61),
    "ULIDs": lambda: f"01{_pick(_CROCKFORD, 24)}",
    "KSUIDs": lambda: f"2{_pick(_BASE62, 26)}",
    "sessions": lambda: f"session-{_random.getrandbits(128):032x}",
    "percent-encoded addresses": lambda: f"{_pick(string.ascii_lowercase, 8)}%40example",
    "padded base32": lambda: base64.b32encode(_random.randbytes(16)).decode(),
}
"""Those whose ids a rule knows, each of them."""

MOSTLY_KNOWN: dict[str, Scheme] = {
    "NanoIDs": lambda: _pick(_NANOID, 21),
    "base64 of UUIDs": lambda: base64.urlsafe_b64encode(_random.randbytes(16)).decode().rstrip("="),
    "cuid2": lambda: f"{_random.choice(string.ascii_lowercase)}{_pick(string.digits + string.ascii_lowercase, 23)}",
    "xids": lambda: _pick("0123456789abcdefghijklmnopqrstuv", 20),
}
"""Those whose ids by chance have no digit, or read like words: one in a thousand, or less."""

UNKNOWN: dict[str, Scheme] = {
    "short NanoIDs": lambda: _pick(_NANOID, 10),
    "four of base62": lambda: _pick(_BASE62, 4),
    "pods of a daemon set": lambda: f"fluentd-{_pick(_KUBERNETES, 5)}",
    "user names": _user_name,
}
"""Those that no rule can know, and that are learned."""
