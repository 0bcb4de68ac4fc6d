# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a subject is to the spans of servers: its template, or an inbox; and which words a name may be made of.

The same templates as in the spans of clients: under `publish orders.*.created` is `ingress orders.*.created`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from opentelemetry.instrumentation.nats._subjects import (
    ACK_PREFIX,
    INBOX_PREFIX,
    SubjectPatterns,
    has_wildcard,
    reduce_subject,
)

# A reply that crosses a gateway is prefixed with where it has to go back to: `_GR_.cluster.server.`, then the reply.
_GATEWAY_REPLY_PREFIX = "_GR_."
# The reply of a request over a service import: `_R_.x.y`.
_IMPORT_REPLY_PREFIX = "_R_."

_CACHE_SIZE = 4096


class Destination(NamedTuple):
    """A subject, or a stream, as a destination.

    Attributes:
        name: The subject as it is.
        template: Its form of low cardinality, if that is another one.
        inbox: Whether it is a reply subject: no part of a name.
    """

    name: str
    template: str | None
    inbox: bool

    @property
    def label(self) -> str:
        """What a span's name says of it; empty for an inbox."""
        return "" if self.inbox else self.template or self.name


class Names:
    """The templates of subjects.

    Args:
        templates: The user's own, NATS wildcard subjects; the first one that a subject matches is its template.
        inbox_prefixes: Prefixes of reply subjects, beside the usual ones.

    Raises:
        ValueError: A template is not one that NATS would accept.
    """

    def __init__(self, templates: Iterable[str] = (), inbox_prefixes: Iterable[str] = ()) -> None:
        self._templates = SubjectPatterns(templates)
        self._inbox_prefixes = (
            INBOX_PREFIX,
            _IMPORT_REPLY_PREFIX,
            ACK_PREFIX,
            *(prefix.rstrip(".") + "." for prefix in inbox_prefixes),
        )
        self.destination = lru_cache(_CACHE_SIZE)(self._destination)
        self.delivered = lru_cache(_CACHE_SIZE)(self._delivered)
        self.stream = lru_cache(_CACHE_SIZE)(self._stream)

    def _destination(self, subject: str) -> Destination:
        """Tells what a subject is."""
        reply = _behind_gateway(subject)
        if reply.startswith(self._inbox_prefixes):
            return Destination(subject, None, True)
        template = self._templates.find(subject) or _store_template(subject) or reduce_subject(subject)
        return Destination(subject, template if template != subject else None, False)

    def _delivered(self, subject: str, subscription: str) -> Destination:
        """Tells what a subject is to whom a subscription delivers it: its wildcard is the template."""
        destination = self.destination(subject)
        if destination.inbox or not has_wildcard(subscription) or self._templates.find(subject):
            return destination
        # By a stream import it comes with the importing account's subject, to a subscription with the exporting's.
        return Destination(subject, subscription, False) if _matches(subscription, subject) else destination

    def _stream(self, stream: str) -> str:
        """A stream's name without what looks generated."""
        return reduce_subject(stream) or stream


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


@lru_cache(1024)
def _pattern(subscription: str) -> SubjectPatterns:
    try:
        return SubjectPatterns((subscription,))
    except ValueError:  # no server would write it
        return SubjectPatterns(())


def _matches(subscription: str, subject: str) -> bool:
    return _pattern(subscription).find(subject) is not None
