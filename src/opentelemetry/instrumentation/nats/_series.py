# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Names of the instruments, and what is counted between two collections.

Everything that can be counted is counted as a plain integer on a series that belongs to one connection, and read when
a reader collects: an SDK counter costs 7 us per message, an integer 50 ns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.semconv._incubating.attributes.messaging_attributes import MESSAGING_OPERATION_TYPE
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

SENT_BYTES = "nats.client.sent.bytes"
RECEIVED_BYTES = "nats.client.received.bytes"
RECONNECTS = "nats.client.reconnects"
DROPPED = "nats.client.messages.dropped"
ASYNC_ERRORS = "nats.client.async_errors"
CONNECTIONS = "nats.client.connections"
SUBSCRIPTIONS = "nats.client.active_subscriptions"
PENDING_MESSAGES = "nats.client.pending.messages"
PENDING_BYTES = "nats.client.pending.bytes"
DELIVERY_LATENCY = "nats.jetstream.delivery.latency"
REDELIVERIES = "nats.jetstream.redeliveries"
CONSUMER_PENDING = "nats.jetstream.consumer.pending"

# An error type from a service's error code is the service author's text: past this many, they share one series.
_MOST_ERROR_TYPES = 100
OTHER_ERROR = "_OTHER"

Reading = tuple[str, Attributes, int]
"""An instrument's name, the attributes, the value."""


class SeriesAttributes(NamedTuple):
    """The attributes of a series; one object for all connections that have such a series.

    Attributes:
        attributes: Those of its durations.
        counted: Those of its messages.
    """

    attributes: Attributes
    counted: Attributes

    @staticmethod
    def of(attributes: Attributes) -> SeriesAttributes:
        """Returns the attributes of a series from those of its durations."""
        counted = {name: value for name, value in attributes.items() if name != MESSAGING_OPERATION_TYPE}
        return SeriesAttributes(attributes, counted)


class Series:
    """The metrics of one operation on one destination through one connection.

    Args:
        instrument: The counter that `count` is for; None where messages are not counted.
        shared: The metric attributes.

    Attributes:
        instrument: The counter.
        attributes: The attributes of its durations.
        count: Messages so far, sent or consumed.
    """

    __slots__ = ("_counted", "_failed", "attributes", "count", "instrument")

    def __init__(self, instrument: str | None, shared: SeriesAttributes) -> None:
        self.instrument = instrument
        self.attributes = shared.attributes
        self.count = 0
        self._counted = shared.counted
        self._failed: dict[str, Series] | None = None

    def failed(self, error_type: str) -> Series:
        """Returns the series of the same operation where it failed in this way."""
        failed = self._failed
        if failed is None:
            failed = self._failed = {}
        series = failed.get(error_type)
        if series is None:
            if len(failed) >= _MOST_ERROR_TYPES and error_type != OTHER_ERROR:
                return self.failed(OTHER_ERROR)
            shared = SeriesAttributes.of({**self.attributes, ERROR_TYPE: error_type})
            series = failed[error_type] = Series(self.instrument, shared)
        return series

    def readings(self) -> Iterator[Reading]:
        """Yields the counts, of failures too."""
        if self.instrument is not None and self.count:
            yield self.instrument, self._counted, self.count
        for series in list((self._failed or {}).values()):
            yield from series.readings()


class JetStreamSeries:
    """The delivery metrics of one stream, and of one consumer where its name is not made up by the server.

    Attributes:
        attributes: The metric attributes.
        redeliveries: Deliveries so far with a delivery count above one.
        pending: The last number of pending messages seen.
        seen_at: When that was, in nanoseconds since the epoch; 0 before.
    """

    __slots__ = ("attributes", "pending", "redeliveries", "seen_at")

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes
        self.redeliveries = 0
        self.pending = 0
        self.seen_at = 0
