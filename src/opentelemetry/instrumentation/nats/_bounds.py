# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""How many series an instrument has: about a thousand, whatever a program generates, and however many clients it has.

Each kind of name is bounded by itself, see `_naming`; what they multiply to, with each other, with servers and with
types of errors, is bounded here. What there is no room for is counted all the same, in a coarser series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from logging import getLogger
from threading import RLock
from typing import Any, NamedTuple

from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT

_logger = getLogger(__name__)

MOST_SERIES = 1024
MOST_SERVERS = 100
MOST_ERROR_TYPES = 100

OTHER_ERROR = "_OTHER"

# From here on the servers of a cluster have no series of their own: each of them would take up what names need.
_CROWDED = 0.8

_SERVER = (SERVER_ADDRESS, SERVER_PORT)
_ALWAYS = (messaging.MESSAGING_SYSTEM, messaging.MESSAGING_OPERATION_NAME, messaging.MESSAGING_OPERATION_TYPE)


class SeriesAttributes(NamedTuple):
    """The attributes of a series; one object for all connections that have such a series.

    Clients of one server have the same, and the garbage collector need not walk a copy for each of them. Of what is
    counted they have one each, because each client may run in a thread of its own.

    Attributes:
        attributes: Those of its durations.
        counted: Those of its messages.
    """

    attributes: Attributes
    counted: Attributes


class Bounds:
    """The attributes of all series that one meter provider's instruments have.

    Args:
        most: How many series of one instrument there are before they become coarser.
    """

    def __init__(self, most: int = MOST_SERIES) -> None:
        self._most = most
        self._lock = RLock()  # the kind that a thread may take twice: a finalizer can run in the middle of anything
        self._known: dict[tuple[Any, ...], Attributes] = {}
        self._operations: dict[int, SeriesAttributes] = {}
        self._sizes: Counter[str] = Counter()
        self._servers: set[frozenset[Any]] = set()
        self._error_types: set[str] = set()
        self._told = False

    def server(self, attributes: Attributes) -> Attributes:
        """Returns the metric attributes of a server; after many servers those of none."""
        with self._lock:
            key = frozenset(attributes.items())
            if key not in self._servers and len(self._servers) >= MOST_SERVERS:
                return {name: value for name, value in attributes.items() if name not in _SERVER}
            self._servers.add(key)
        return attributes

    def error_type(self, error_type: str) -> str:
        """Returns the type that an error is counted under: an error code may be anybody's text, so not any is."""
        if error_type in self._error_types:
            return error_type
        with self._lock:
            if len(self._error_types) >= MOST_ERROR_TYPES:
                return OTHER_ERROR
            self._error_types.add(error_type)
        return error_type

    def operation(self, counter: str | None, attributes: Attributes) -> SeriesAttributes:
        """Returns the attributes to record an operation's duration with, and to count its messages.

        Args:
            counter: The instrument that counts its messages, if any does.
            attributes: The attributes of its series, if there is room for it.

        Returns:
            These or coarser ones; for the same ones always the same object, which lives as long as this.
        """
        duration = (
            messaging_metrics.MESSAGING_PROCESS_DURATION
            if attributes.get(messaging.MESSAGING_OPERATION_NAME) == "process"
            else messaging_metrics.MESSAGING_CLIENT_OPERATION_DURATION
        )
        attributes = self.fit(attributes, duration, *(() if counter is None else (counter,)))
        shared = self._operations.get(id(attributes))  # what fits stays: nothing else gets its number
        if shared is None:
            counted = {name: value for name, value in attributes.items() if name != messaging.MESSAGING_OPERATION_TYPE}
            shared = self._operations.setdefault(id(attributes), SeriesAttributes(attributes, counted))
        return shared

    def fit(self, attributes: Attributes, *instruments: str) -> Attributes:
        """Returns attributes as they are, or coarser where an instrument has no room for another series.

        Args:
            attributes: The attributes.
            *instruments: The instruments that have a series with them.

        Returns:
            For the same ones always the same object, which lives as long as this.
        """
        key = (instruments[0], *attributes, *attributes.values())
        found = self._known.get(key)
        if found is not None:
            return found
        with self._lock:
            size = max(self._sizes[instrument] for instrument in instruments)
            crowded = _CROWDED if len(self._servers) > 1 else 1
            for share, fitting in _coarser(attributes, crowded):
                key = (instruments[0], *fitting, *fitting.values())
                found = self._known.get(key)
                if found is not None:
                    return found
                if share is None or size < share * self._most:
                    self._known[key] = fitting
                    self._sizes.update(instruments)
                    break
            else:
                raise AssertionError("the coarsest attributes always fit")
            tells = share is None and not self._told
            self._told = self._told or tells
        if tells:
            _logger.warning(
                "nats instrumentation: %s has %d series, the most that it may have. Further ones share one for each "
                "operation, without destination, group and server. Fewer names leave room, see subject_templates",
                instruments[0],
                size,
            )
        return fitting


def _coarser(attributes: Attributes, crowded: float) -> Iterator[tuple[float | None, Attributes]]:
    """Yields attributes for ever fewer series, with the share of the room up to which they may take some."""
    yield crowded, attributes
    yield 1, {name: value for name, value in attributes.items() if name not in _SERVER}
    coarsest = {name: value for name, value in attributes.items() if name in _ALWAYS}
    if ERROR_TYPE in attributes:
        coarsest[ERROR_TYPE] = OTHER_ERROR
    yield None, coarsest
