# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What every text goes through before it leaves: exceptions' messages, stack traces, descriptions, our own log lines.

Exceptions quote what they stumbled over: a URL with a password, a seed that was given for a path, a payload. Telemetry
goes where logs and traces go, which is further than any of these may. Names and ids only have to be short and UTF-8
(`cut`); what is prose is cleaned as well (`clean`).
"""

from __future__ import annotations

import re
import traceback
from asyncio import CancelledError
from collections.abc import Iterator
from typing import Any

from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)

LONGEST = 1024
"""Characters of the longest text that somebody else chose, as far as it is recorded."""

HIDDEN = "[REDACTED]"
"""What stands where a secret stood."""

SECRET_WORDS = (
    "auth",
    "cookie",
    "token",
    "secret",
    "password",
    "passwd",
    "pwd",
    "key",
    "credential",
    "jwt",
    "session",
    "signature",
    "bearer",
    "seed",
)
"""What the names of headers contain whose values are nobody else's business."""

# No more of a text than this is read: a remote side may have written it, and somebody waits.
_LONGEST_READ = 4 * LONGEST

_FRAMES = 64
_CHAINED = 8
_IN_GROUP = 8
_LONGEST_TRACE = 16 * LONGEST

# Patterns, compiled when one is needed: most programs never do, and importing them all takes milliseconds.

# A message of nats-py's shows its payload and all of its headers when somebody writes it into a text.
_MESSAGE = r"(?s)(?:: )?\bMsg\(_client=.*"
_BYTES = r"(?s)\bb(?:'(?:[^'\\]|\\.)*'?|\"(?:[^\"\\]|\\.)*\"?)"
_PEM = r"(?s)-----BEGIN.*?(?:-----END[^\n]{0,64}|\Z)"
_SEED = r"[SP][A-Z2-7]{40,}"
_JWT = r"eyJ[\w-]{8,}(?:\.[\w-]*){0,2}"
_BEARER = r"(?i)\b(bearer|basic)\s{1,3}[\w.~+/=-]{4,}"
_NAMES = (
    "passw",
    "pwd",
    "token",
    "secret",
    "authorization",
    "credential",
    "jwt",
    "nkey",
    "seed",
    "signature",
    "apikey",
    "api_key",
    "api-key",
)
_NAME = r"(?<![\w-])[\w-]{1,64}['\"]?\s{0,3}[=:]\s{0,3}"
_VALUE = r"b?'[^']*'?|b?\"[^\"]*\"?|[^\s'\",;)}\]]+"
_WORDS = r"(\s+)"

# Python's own words about a URL with a stray character in its password.
_PART_OF_URL = r"(?s)(integer value as|netloc) .*"

# Of a line of source only the strings can be secret; what it does must stay readable.
_STRING = r"'(?:[^'\\]|\\.)*'?|\"(?:[^\"\\]|\\.)*\"?"

_QUOTATION = r"(?<!\w)(?:'[^']*'?|\"[^\"]*\"?)"

_LONE_SURROGATES = "[\ud800-\udfff]"


def cut(text: str, longest: int = LONGEST) -> str:
    """Makes a name or an id that somebody else chose fit to leave.

    Args:
        text: The text.
        longest: How many characters may leave.

    Returns:
        The text; where it was longer it ends with a mark that says how long it was. What no encoding of UTF-8 can hold
        is replaced: one such character loses an exporter its whole batch.
    """
    if len(text) > longest:
        mark = f"...[{len(text)} characters]"
        text = text[: longest - len(mark)] + mark
    return text if text.isascii() else re.sub(_LONE_SURROGATES, "\ufffd", text)


def clean(text: str, longest: int = LONGEST) -> str:
    """Takes out of a text what must not leave: credentials, seeds, tokens, payloads; and cuts it.

    Args:
        text: What somebody wrote for people to read: a message of an exception, a description.
        longest: How many characters may leave.

    Returns:
        The text, fit to leave.
    """
    size = len(text)
    text = text[:_LONGEST_READ]
    # To look for a word takes no time beside what an expression takes: nearly every text has none of them.
    if "-----BEGIN" in text:
        text = re.sub(_PEM, HIDDEN, text)
    if "Msg(" in text:
        text = re.sub(_MESSAGE, "", text)
    lower = text.lower()
    if "bearer" in lower or "basic" in lower:
        text = re.sub(_BEARER, rf"\1 {HIDDEN}", text)
    if any(name in lower for name in _NAMES):
        text = _without_named(text)
    if "b'" in text or 'b"' in text:
        text = re.sub(_BYTES, "b'...'", text)
    if "eyJ" in text:
        text = re.sub(_JWT, HIDDEN, text)
    if "integer value as" in text or "netloc" in text:
        text = re.sub(_PART_OF_URL, r"\1 '...'", text)
    if len(text) > 40:
        text = re.sub(_SEED, HIDDEN, text)
    if "@" in text:
        text = "".join(_without_credentials(word) for word in re.split(_WORDS, text))
    if size > _LONGEST_READ:
        text += "..."
    return cut(text, longest)


def _without_named(text: str) -> str:
    """Takes out what follows a name that tells that it is secret, as in `password='...'` or `token: ...`."""
    parts: list[str] = []
    end = 0
    for name in re.finditer(_NAME, text):
        if name.start() >= end and any(word in name[0].lower() for word in _NAMES):
            value = re.compile(_VALUE).match(text, name.end())
            if value is not None:
                parts += text[end : name.end()], HIDDEN
                end = value.end()
    return "".join(parts) + text[end:]


def _without_credentials(word: str) -> str:
    """Takes the credentials out of a URL. A password may have an "@" in it, or a "/": nats-py takes the last "@"."""
    before, at, host = word.rpartition("@")
    if not at or ":" not in before:
        return word
    scheme, separator, _ = before.partition("://")
    return f"{scheme}{separator}{host}" if separator else host


def without_quotations(text: str) -> str:
    """Takes out of a text what it quotes; an apostrophe is no quote."""
    return re.sub(_QUOTATION, _without_content, text)


def message_of(error: BaseException) -> str:
    """Returns what an exception says, fit to leave; its class's name where it can't say it."""
    try:
        if isinstance(error, OSError) and (error.filename is not None or error.filename2 is not None):
            # The text quotes the name of the file, and who gives nats-py a seed for a path makes the seed one.
            return clean(f"[Errno {error.errno}] {error.strerror}")
        return clean(str(error))
    except (Exception, CancelledError):
        return type_of(error)


def type_of(error: BaseException) -> str:
    """Returns the canonical name of an exception's class."""
    return name_of_class(type(error))


def name_of_class(cls: type) -> str:
    """Returns the canonical name of a class: with its module, but for the builtins."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def exception_attributes(error: BaseException) -> dict[str, str]:
    """Describes an exception as the conventions for exceptions want it, fit to leave."""
    return {
        EXCEPTION_TYPE: type_of(error),
        EXCEPTION_MESSAGE: message_of(error),
        EXCEPTION_STACKTRACE: stack_trace(error),
    }


def stack_trace(error: BaseException) -> str:
    """Writes an exception as Python does, with its causes, its notes and what a group holds; fit to leave.

    Lines of source show what they do, without the strings in them.
    """
    text = "\n".join(_lines(error, set()))
    return text if len(text) <= _LONGEST_TRACE else "...\n" + text[-_LONGEST_TRACE:]


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause = error.__cause__
    reason = "The above exception was the direct cause of the following exception:"
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
        reason = "During handling of the above exception, another exception occurred:"
    if cause is not None and id(cause) not in seen and len(seen) < _CHAINED:
        yield from _lines(cause, seen)
        yield f"\n{reason}\n"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):"
        for frame in traceback.extract_tb(error.__traceback__, limit=-_FRAMES):
            yield f'  File "{cut(frame.filename)}", line {frame.lineno}, in {cut(frame.name)}'
            if frame.line:
                yield f"    {clean(re.sub(_STRING, _without_content, frame.line))}"
    message = message_of(error)
    yield f"{type_of(error)}: {message}" if message else type_of(error)
    notes: Any = getattr(error, "__notes__", ())
    if isinstance(notes, list):
        yield from (clean(note) for note in notes[:_CHAINED] if isinstance(note, str))  # pyright: ignore[reportUnknownVariableType]
    parts: Any = getattr(error, "exceptions", ())  # of a group, which Python has from 3.11 on
    if isinstance(parts, tuple):
        for part in parts[:_IN_GROUP]:  # pyright: ignore[reportUnknownVariableType]
            if isinstance(part, BaseException) and id(part) not in seen:
                yield from (f"  | {line}" for line in _lines(part, seen))


def _without_content(literal: re.Match[str]) -> str:
    quote = literal[0][0]
    return f"{quote}...{quote}"
