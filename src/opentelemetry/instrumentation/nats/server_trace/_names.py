# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a subject is to the spans of servers: its template, or an inbox; and which words a name may be made of.

The same templates as in the spans of clients: under `publish orders.*.created` is `ingress orders.*.created`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, partial
from logging import getLogger
from typing import NamedTuple

from opentelemetry.instrumentation.nats._learning import LearnedNames
from opentelemetry.instrumentation.nats._subjects import ACK_PREFIX, INBOX_PREFIX, SubjectPatterns, has_wildcard

_logger = getLogger(__package__)

# A reply that crosses a gateway is prefixed with where it has to go back to: `_GR_.cluster.server.`, then the reply.
_GATEWAY_REPLY_PREFIX = "_GR_."
# The reply of a request over a service import: `_R_.x.y`.
_IMPORT_REPLY_PREFIX = "_R_."

SUBJECT_NAMES = 50
"""The default of the clients' option `subject_names`."""

_CACHE_SIZE = 1024

_LONGEST_NAMED = 256
"""Characters of a subject that gets a name. Nobody reads a longer one; who forges it wants us to look at it long."""


class Destination(NamedTuple):
    """A subject, or a stream, as a destination.

    Attributes:
        name: The subject as it is.
        label: What a span's name says of it: its name or its template. None for an inbox, and where no names are left.
        template: Its form of low cardinality, if that is another one.
        inbox: Whether it is a reply subject.
    """

    name: str
    label: str | None
    template: str | None
    inbox: bool


class Names:
    """The templates of subjects, and what streams are called.

    Args:
        templates: The user's own, NATS wildcard subjects; the first one that a subject matches is its template.
        inbox_prefixes: Prefixes of reply subjects, beside the usual ones.
        limit: How many different tokens of one place keep their names; 0 for all.

    Raises:
        ValueError: A template is not one that NATS would accept.
    """

    def __init__(
        self, templates: Iterable[str] = (), inbox_prefixes: Iterable[str] = (), limit: int = SUBJECT_NAMES
    ) -> None:
        self._templates = SubjectPatterns(templates)
        self._inbox_prefixes = (
            INBOX_PREFIX,
            _IMPORT_REPLY_PREFIX,
            ACK_PREFIX,
            *(prefix.rstrip(".") + "." for prefix in inbox_prefixes),
        )
        self._subjects = LearnedNames(limit, on_full=partial(_warn, "subjects"))
        self._streams = LearnedNames(limit, on_full=partial(_warn, "streams"))
        self.destination = lru_cache(_CACHE_SIZE)(self._destination)
        self.delivered = lru_cache(_CACHE_SIZE)(self._delivered)

    def stream(self, stream: str) -> str | None:
        """What a stream is called."""
        return self._streams.name(stream) if len(stream) <= _LONGEST_NAMED else None

    def _destination(self, subject: str) -> Destination:
        """Tells what a subject is."""
        if _behind_gateway(subject).startswith(self._inbox_prefixes):
            return Destination(subject, None, None, True)
        template = self._templates.find(subject)
        if template is not None:
            return Destination(subject, template, template, False)
        return self._named(subject, _store_template(subject) or subject)

    def _delivered(self, subject: str, subscription: str) -> Destination:
        """Tells what a subject is to whom a subscription delivers it: its wildcard is the template."""
        destination = self.destination(subject)
        if destination.inbox or not has_wildcard(subscription) or self._templates.find(subject):
            return destination
        # By a stream import it comes with the importing account's subject, to a subscription with the exporting's.
        return self._named(subject, subscription) if _matches(subscription, subject) else destination

    def _named(self, subject: str, pattern: str) -> Destination:
        label = self._subjects.name(pattern) if len(pattern) <= _LONGEST_NAMED else None
        return Destination(subject, label, label if label != subject else None, False)


def _warn(what: str, position: int, first: str) -> None:
    _logger.warning(
        "too many %s to give each a name; most differ in token %d%s. Further ones share names with "
        "wildcards, or have none",
        what,
        position,
        f" of those that begin with {first!r}" if first else "",
    )


def _behind_gateway(subject: str) -> str:
    if subject.startswith(_GATEWAY_REPLY_PREFIX):
        parts = subject.split(".", 3)
        if len(parts) == 4:
            return parts[3]
    return subject


def _store_template(subject: str) -> str | None:
    """The template of what a key-value or object store writes to: the bucket; keys are as many as the user likes."""
    tokens = subject.split(".", 3)
    if tokens[0] == "$KV" and len(tokens) > 2:
        return f"$KV.{tokens[1]}.>"
    if tokens[0] == "$O" and len(tokens) > 3:
        return f"$O.{tokens[1]}.{tokens[2]}.>"
    return None


def _matches(subscription: str, subject: str) -> bool:
    wanted, tokens = subscription.split("."), subject.split(".")
    if wanted[-1] == ">" and len(tokens) >= len(wanted):
        wanted = wanted[:-1]
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(want in ("*", token) for want, token in zip(wanted, tokens, strict=True))
