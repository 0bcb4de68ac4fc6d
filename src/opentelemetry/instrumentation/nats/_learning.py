# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Names for subjects, of which there are few however many subjects there are.

A tree of tokens: each node has the tokens that were seen after those on the way to it. Ids that no rule knows show in
that there are ever more of them in one place. So only so many tokens of a place keep their names, and all further ones
share the child `*`. A name, once given, is never changed or taken back: a series that ended, and another one that goes
on under a wildcard, would look like a fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from sys import maxsize
from threading import RLock

from opentelemetry.instrumentation.nats._tokens import looks_generated

MOST_NAMES = 1000

# Names have to be left for the places where ids were seen last, or their subjects would have none at all. So when nine
# in ten are gone, a tenth as many tokens keep theirs in a place; and the last few dozen are for `{first token}.>`.
_THRIFTY, _CLOSED = 0.9, 0.94

# NATS' own advice is 16 tokens at most. What comes after is one `>`.
_MOST_TOKENS = 16

_NODES_A_NAME = 4

_WILDCARDS = ("*", ">")


class _Node:
    """A token in its place.

    Attributes:
        children: What was seen after it; `*` is all that has no name of its own there.
        words: How many of these are neither `*` nor `>`.
        name: Name of the subjects that end here; None before there was one.
    """

    __slots__ = ("children", "name", "words")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.words = 0
        self.name: str | None = None


class LearnedNames:
    """The names of subjects, or of streams, buckets, queue groups or the like.

    Look-ups of known subjects take no lock. Threads that learn wait for each other.

    Args:
        limit: How many different tokens keep their names in one place; 0 for all.
        most: How many names there are at most.
        on_full: Called once, when a subject has lost a token or its name to `most`, with the place where most names
            were given: the position of the token, from 1, and the token that its subjects begin with.
    """

    def __init__(self, limit: int, most: int = MOST_NAMES, on_full: Callable[[int, str], None] | None = None) -> None:
        self._limit = limit
        self._limit_now = limit or maxsize
        self._most = most
        self._most_nodes = _NODES_A_NAME * most
        self._on_full = on_full
        self._full = False
        self._root = _Node()
        # Of the kind that a thread may take twice: a finalizer that publishes can run in the middle of anything.
        self._lock = RLock()
        self._names = 0
        self._nodes = 0

    def __len__(self) -> int:
        return self._names

    def name(self, subject: str) -> str | None:
        """Returns the name of a subject.

        Args:
            subject: A subject; with wildcards too, as of a subscription.

        Returns:
            The subject itself, or with `*` for tokens; None where there are no names left.
        """
        tokens = _tokens(subject)
        return self._find(tokens) or self._learn(tokens)

    def _find(self, tokens: list[str]) -> str | None:
        node = self._root
        for token in tokens:
            child = node.children.get(token)
            if child is None:
                # What is not known is mostly an id, in a place of ids.
                child = node.children.get("*")
                if child is None or token == ">" or (node.words < self._limit_now and not looks_generated(token)):
                    return None
            node = child
        return node.name

    def _learn(self, tokens: list[str]) -> str | None:
        with self._lock:
            name = self._find(tokens) or self._add(tokens)
            on_full = None
            if self._full:
                on_full, self._on_full = self._on_full, None
        if on_full is not None:
            on_full(*self._busiest_place())  # it may log, and a log handler may publish: not with the lock in hand
        return name

    def _add(self, tokens: list[str]) -> str | None:
        if self._limit:
            used = max(self._names / self._most, self._nodes / self._most_nodes)
            if used >= _CLOSED:
                self._full = True
                if self._limit_now:
                    self._limit_now = 0
                    name = self._find(tokens)
                    if name is not None:
                        return name  # what it is going to be found by from now on
                if len(tokens) > 1:
                    tokens = [tokens[0], ">"]
            elif used >= _THRIFTY:
                self._limit_now = (self._limit + 9) // 10
        path: list[str] = []
        node = self._root
        for token in tokens:
            token = self._kept(node, token)
            child = node.children.get(token)
            if child is None:
                if self._nodes >= self._most_nodes or self._names >= self._most:
                    self._full = True
                    return None
                child = node.children[token] = _Node()
                node.words += token not in _WILDCARDS
                self._nodes += 1
            node = child
            path.append(token)
        if node.name is None:
            if self._names >= self._most:
                self._full = True
                return None
            self._names += 1
            node.name = ".".join(path)
        return node.name

    def _kept(self, node: _Node, token: str) -> str:
        """Returns what stands for a token in this place: itself, or `*`."""
        if token in node.children or token in _WILDCARDS:
            return token
        if looks_generated(token):
            return "*"
        if node.words < self._limit_now:
            return token
        if node.words < self._limit:
            self._full = True
        return "*"

    def _busiest_place(self) -> tuple[int, str]:
        words = Counter({(1, ""): self._root.words})
        pending = [(2, token, node) for token, node in list(self._root.children.items())]
        while pending:
            position, first, node = pending.pop()
            words[position, first] += node.words
            pending.extend((position + 1, first, child) for child in list(node.children.values()))
        return max(words, key=lambda place: words[place])


def _tokens(subject: str) -> list[str]:
    tokens = subject.split(".", _MOST_TOKENS)
    if len(tokens) > _MOST_TOKENS:
        tokens[_MOST_TOKENS] = ">"
    return tokens
