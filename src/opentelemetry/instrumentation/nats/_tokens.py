# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Whether one token of a subject is an id or a word, as far as the token alone tells.

The rules know the schemes that programs make ids by, and what people name with digits in it: versions, regions,
standards. An id that looks like a word (`K3xo`, `alice`) is found out by `_learning`.

This runs for every token that was not seen before, of ids that is each of them. So what decides most comes first, and
patterns that backtrack are avoided: 1 to 2 us, and less than 1 us for numbers, hexadecimal and UUIDs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import add
from typing import Any


def _lazily(method: str, pattern: str) -> Callable[[str], Any]:
    """Returns the method of a pattern that is compiled when it is first needed: all of them take a millisecond."""
    compiled: Callable[[str], Any] | None = None

    def run(text: str) -> Any:
        nonlocal compiled
        if compiled is None:
            compiled = getattr(re.compile(pattern), method)
        return compiled(text)  # pyright: ignore[reportOptionalCall]

    return run


# The usual token is short and has neither a digit nor a sign of an address: one scan in C spares it the rest.
_SUSPECT = re.compile(r"\d|[%@=:]|.{15}").search

# Nobody's word; and what a stranger sends can't keep the patterns busy.
_LONGEST_WORD = 128

# Without a separator.
_ID = _lazily(
    "fullmatch",
    r"\d+"
    r"|(?=[a-fA-F]*\d)[0-9a-fA-F]{8,}"
    r"|0[xX][0-9a-fA-F]+"
    r"|(?=\D*\d+\D+\d+\D+\d)(?:[0-9A-Za-z]{20,}|[0-9A-Z]{12,})",  # ULID, KSUID and the like, with digits throughout
)

# With separators.
_COMPOUND_ID = _lazily(
    "fullmatch",
    r"[0-9a-fA-F]{8}(?:[-_][0-9a-fA-F]{4}){3}[-_][0-9a-fA-F]{12}"  # a UUID
    r"|[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5,7}"  # a MAC address, or one of 64 bits
    r"|[0-9a-fA-F]{0,4}([:-])(?=\D*\d)[0-9a-fA-F]{0,4}(?:\1[0-9a-fA-F]{0,4}){1,7}(?:%\w+)?",  # an IPv6 address
)
_TYPED = _lazily("match", r"[^%@]*(?:%[0-9a-fA-F]{2}|[^@]@[^@])")  # percent-encoded, or an e-mail address
_PADDED = _lazily("fullmatch", r"[0-9A-Za-z+/_-]{3,}={1,6}")  # base64 or base32
_POD = _lazily("fullmatch", r".+-[bcdfghjklmnpqrstvwxz2-9]{8,10}-[bcdfghjklmnpqrstvwxz2-9]{5}")  # of Kubernetes
_MIXED_PART = _lazily(
    "search",
    r"(?<![^\W_])(?=[a-fA-F]*\d[a-fA-F]*\d)[0-9a-fA-F]{6,}(?![^\W_])"  # hexadecimal
    r"|[A-Za-z]\d+[A-Za-z]+\d+[A-Za-z]|\d[A-Za-z]+\d+[A-Za-z]+\d",  # letters and digits in turns
)

# To the shape of a token: of `Web-7d4b` that is `Aaa-0a0a`. Substrings of it are found faster than patterns.
_SHAPE = bytes.maketrans(
    bytes(range(256)),
    bytes(
        b"0"[0] if 48 <= byte < 58
        else b"A"[0] if 65 <= byte < 91
        else b"a"[0] if 97 <= byte < 123 or byte > 127
        else b"-"[0]
        for byte in range(256)
    ),
)  # fmt: skip

# Names that have a number: of a standard, with up to five digits; others, with up to three.
_STANDARDS = frozenset("iso rfc ieee iec din nmea rsa windows".split())
_NUMBERED = _STANDARDS | frozenset(
    "utf sha shake md aes blake ripemd base cp ibm fips pkcs rs int uint float fp win amd arm crc http https status"
    " covid v version release level top tier stage phase step layer priority grade zone az day week month".split()
)
_UNITS = frozenset(
    "ms s sec secs second seconds m min mins minute minutes h hr hrs hour hours day days week weeks month months"
    " year years".split()
)
_NAMED = _lazily(
    "fullmatch",
    r"(?:iso|rfc|ieee|iec|din|nmea)\d{4,5}|rsa(?:1024|2048|3072|4096)|(?:cp|windows)125\d"
    r"|(?:ed|x|curve)25519|(?:x?chacha20)?poly1305|es20\d\d|j1939|\d{4}[pi]",
)
_WORDS = _lazily("findall", r"[a-z]+")
_MAY_BE_NAMED = _NUMBERED | _UNITS | frozenset("ed x curve poly chacha xchacha es j p i".split())
_PARTS = _lazily("findall", r"[^\W_]+")
_LONG_NUMBER = _lazily("search", r"\d{4}")

_BASE64 = _lazily("fullmatch", r"[0-9A-Za-z_-]{10,}")
_BASE62 = _lazily("fullmatch", r"(?=\D*\d)(?=\d*\D)(?:[0-9A-Za-z]{20,}|[0-9A-Z]{16,})")

# Three in four pairs of letters in what people name are one of these; in an id, one in five.
_COMMON = (
    "in er re te st es le at on en ar ti et se de co nt or mm al li ed ng ta tr an ra ri me ge is ro it ma ec lo ne nd"
    " el as to la ea di ca pa un pe ac fi io si ch ns ic il pr ce ct no ll ve ad ab na ex ol th rs am ou rt ss nc ts om"
    " op od im ha em he ur mp po da ff ef bl pl sc ut os ck ot id oc mo ap su ni sh sp mi us so ba ho fo ul ig ke va ag"
    " ep ir cl do rc ee pt cr um ls ow ty oo be ie ai sa gr ld bi ly up ip cu ev qu wo rd we gh"
).split()
# Not with the capital second: in CamelCase that is where the next word begins.
_COMMON_PAIRS = frozenset((*_COMMON, *map(str.title, _COMMON), *map(str.upper, _COMMON)))


def looks_generated(token: str) -> bool:
    """Tells whether one token of a subject looks like an id rather than a word.

    Args:
        token: A subject token, without dots.

    Returns:
        True for numbers, dates, times, telephone numbers; hexadecimal of 8 or more with a digit, or after `0x`; UUIDs,
        ULIDs, NUIDs, NanoIDs, other base62 of 20 or more, base32 and base64; e-mail, MAC and IP addresses; pods of
        Kubernetes; digits in runs of four and more; and what has a number of two digits and more, hexadecimal of six,
        or letters and digits in turns, beside a separator (`tenant-42`). Whatever has more than 128 characters, too.
    """
    if not _SUSPECT(token):
        return False
    if len(token) > _LONGEST_WORD:
        return True
    if token.isalnum():
        if _ID(token):
            return True
        if _LONG_NUMBER(token):
            return not _NAMED(token.lower())
        return len(token) >= 10 and _is_random(token, token.encode(errors="replace").translate(_SHAPE))
    shape = token.encode(errors="replace").translate(_SHAPE)
    if b"0" in shape and (b"a" not in shape and b"A" not in shape):
        return True  # a date, a telephone number
    return (
        _is_scrambled(shape)
        or _COMPOUND_ID(token) is not None
        or _has_number(token, b"-" + shape + b"-")
        or (("%" in token or "@" in token) and _TYPED(token) is not None)
        or (token[-1] == "=" and _PADDED(token) is not None)
        or (token[-6:-5] == "-" and _POD(token) is not None)
        or (shape.count(b"0") > 1 and _MIXED_PART(token) is not None)
        or _is_random(token, shape)
    )


def _is_scrambled(shape: bytes) -> bool:
    """Tells whether digits and capitals are all over a long token, as in NanoIDs and base64."""
    if len(shape) < 20 or b"aA" not in shape:
        return False
    turns = 2 * (shape.count(b"0a") + shape.count(b"0A"))
    return turns > 3 and turns + shape.count(b"aA") > 0.3 * len(shape)


def _has_number(token: str, shape: bytes) -> bool:
    """Tells whether there is a number of two digits between separators, or of four anywhere, that no name has."""
    if not (b"-00-" in shape or b"0000" in shape or b"-000-" in shape):
        return False
    lower = token.lower()
    if _MAY_BE_NAMED.isdisjoint(_WORDS(lower)):
        return True
    before, named = "", False
    parts = _PARTS(lower)
    for part, after in zip(parts, (*parts[1:], ""), strict=True):
        if part.isdigit():
            # `iso-8859-15`, `v1-2-13`: a number goes on with what the number before it named.
            word = before.rstrip("0123456789")
            named = (len(part) < 6 and word in _STANDARDS) or (
                len(part) < 4 and (named or word in _NUMBERED or after in _UNITS or before == "x86")
            )
            if len(part) > 1 and not named:
                return True
        elif _LONG_NUMBER(part) and not _NAMED(part):
            return True
        else:
            named = False
        before = part
    return False


def _is_random(token: str, shape: bytes) -> bool:
    """Tells whether a token reads like base62, base64 or base32 rather than like words and their numbers."""
    if not _BASE64(token):
        return False
    if b"a" in shape and b"A" in shape:
        if len(token) >= 20:
            if _share_of_common_pairs(token) < 0.4:
                return True
        elif b"0" in shape and b"aA" in shape:
            # A short one with digits and capitals all over: `dQw4w9WgXcQ`.
            turns = shape.count(b"a0") + shape.count(b"A0") + shape.count(b"0a") + shape.count(b"0A")
            if shape.count(b"aA") + turns > 3 and _share_of_common_pairs(token) < 0.25:
                return True
    return b"0" in shape and any(
        _share_of_common_pairs(part) < (0.5 if part.isupper() else 0.6) for part in _PARTS(token) if _BASE62(part)
    )


def _share_of_common_pairs(token: str) -> float:
    """Returns which share of the pairs of neighbours in a token reads like words; separators are nobody's neighbour."""
    pairs = len(token) - 1 - 2 * (token.count("-") + token.count("_"))
    return sum(map(_COMMON_PAIRS.__contains__, map(add, token, token[1:]))) / max(pairs, 1)
