# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a subject means to telemetry: whose it is, whether it may carry a context, whether it matches a pattern.

Pure functions over strings. What a subject is called is found out in `_naming`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_WHITESPACE = re.compile(r"\s").search

# Acknowledgement subjects name one delivery each, so they are treated as inboxes: never a name, never a metric.
ACK_PREFIX = "$JS.ACK."
FLOW_CONTROL_PREFIX = "$JS.FC."
INBOX_PREFIX = "_INBOX."
SERVICE_PREFIX = "$SRV."

_KV_PREFIX = "$KV."
_NEVER_INJECTED = re.compile(r"\$(?:JS|SRV|SYS|O\.[^.]+\.C)\.").match


def has_wildcard(subject: str) -> bool:
    """Tells whether a subscription's subject has a `*` or `>` token."""
    tokens = subject.split(".")
    return "*" in tokens or tokens[-1] == ">"


def carries_context(subject: str) -> bool:
    """Tells whether a message on this subject may be given trace headers.

    JetStream's API, acknowledgements, flow control, service discovery, system requests and object chunks are
    the server's and the libraries' own; nobody reads a context there, and some of them refuse headers.
    """
    return subject[:1] != "$" or subject.startswith(_KV_PREFIX) or not _NEVER_INJECTED(subject)


def is_plumbing(subject: str) -> bool:
    """Tells whether what is published here is no message of anybody's: pull requests, flow control, discovery."""
    return subject.startswith((FLOW_CONTROL_PREFIX, SERVICE_PREFIX)) or (
        subject.startswith("$JS.") and ".CONSUMER.MSG.NEXT." in subject
    )


class SubjectPatterns:
    """A list of NATS wildcard subjects, compiled once.

    Args:
        patterns: Subjects; `*` stands for one token, a trailing `>` for one or more.

    Raises:
        ValueError: A pattern is not one that NATS would accept.
    """

    __slots__ = ("_match", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        groups = "|".join(f"({_pattern_regex(pattern)})" for pattern in self.patterns)
        self._match = re.compile(groups).fullmatch if groups else None

    def find(self, subject: str) -> str | None:
        """Returns the first pattern that the subject matches, or None."""
        if self._match is None:
            return None
        match = self._match(subject)
        return self.patterns[match.lastindex - 1] if match and match.lastindex else None

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def __repr__(self) -> str:
        return f"SubjectPatterns({list(self.patterns)!r})"


def _pattern_regex(pattern: str) -> str:
    tokens = pattern.split(".")
    parts: list[str] = []
    for index, token in enumerate(tokens):
        if token == ">" and index == len(tokens) - 1:
            parts.append(".+")
        elif token == "*":
            parts.append(r"[^.]+")
        elif not token or "*" in token or ">" in token or _WHITESPACE(token):
            raise ValueError(f"not a NATS subject pattern: {pattern!r}")
        else:
            parts.append(re.escape(token))
    return r"\.".join(parts)
