# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a client counts by itself, split over the servers that it was connected to."""

from __future__ import annotations

from typing import Any, NamedTuple

from opentelemetry.instrumentation.nats._attributes import Attributes


class Split(NamedTuple):
    """A client's statistics, split over the servers that it was connected to.

    Attributes:
        server: The metric attributes of the server that it is connected to.
        since: What the statistics were when that began.
        before: What is due to the servers before.
    """

    server: Attributes
    since: dict[str, int]
    before: tuple[tuple[Attributes, dict[str, int]], ...]

    def counts(self, stats: dict[str, int]) -> tuple[tuple[Attributes, dict[str, int]], ...]:
        """Returns what is due to each server, where these are the client's statistics now."""
        since = self.since
        return *self.before, (self.server, {name: value - since.get(name, 0) for name, value in stats.items()})

    def follow(self, server: Attributes, stats: dict[str, int]) -> Split:
        """Returns the split from here on, where another server comes now; one that comes again keeps one place."""
        if not self.server:
            return self._replace(server=server)
        merged: dict[frozenset[Any], tuple[Attributes, dict[str, int]]] = {}
        for attributes, counts in self.counts(stats):
            key = frozenset(attributes.items())
            earlier = merged[key][1] if key in merged else {}
            merged[key] = attributes, {name: value + earlier.get(name, 0) for name, value in counts.items()}
        return Split(server, stats, tuple(merged.values()))
