# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Names of the instruments, and what is counted between two collections.

Everything that can be counted is counted as a plain integer on a series that belongs to one connection, and read when
a reader collects: an SDK counter costs 7 us per message, an integer 50 ns.
"""

from __future__ import annotations

from collections.abc import Iterator

from opentelemetry.instrumentation.nats._attributes import JETSTREAM_SETTLEMENT, Attributes
from opentelemetry.instrumentation.nats._bounds import Bounds, SeriesAttributes
from opentelemetry.semconv._incubating.attributes.messaging_attributes import MESSAGING_OPERATION_NAME
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
PROCESSING = "nats.client.processing.messages"
DELIVERY_LATENCY = "nats.jetstream.delivery.latency"
REDELIVERIES = "nats.jetstream.redeliveries"
DEAD_LETTERS = "nats.jetstream.dead_letters"
CONSUMER_PENDING = "nats.jetstream.consumer.pending"

Reading = tuple[str, Attributes, int]
"""An instrument's name, the attributes, the value."""


class Series:
    """The metrics of one operation on one destination through one connection.

    Args:
        bounds: The bounds of series.
        instrument: The counter that `count` is for; None where messages are not counted.
        shared: The metric attributes.

    Attributes:
        instrument: The counter.
        attributes: The attributes of its durations.
        count: Messages so far, sent or consumed.
    """

    __slots__ = ("_bounds", "_by_type", "_counted", "_failed", "_settled", "attributes", "count", "instrument")

    def __init__(self, bounds: Bounds, instrument: str | None, shared: SeriesAttributes) -> None:
        self.instrument = instrument
        self.attributes = shared.attributes
        self.count = 0
        self._bounds = bounds
        self._counted = shared.counted
        self._by_type: dict[str, Series] | None = None
        self._failed: dict[int, Series] | None = None
        self._settled: dict[str, Series] | None = None

    def settled(self, settlement: str) -> Series:
        """Returns the series of the same processing where its message was settled in this way."""
        settled = self._settled
        if settled is None:
            settled = self._settled = {}
        series = settled.get(settlement)
        if series is None:
            shared = self._bounds.operation(None, {**self.attributes, JETSTREAM_SETTLEMENT: settlement})
            series = settled[settlement] = Series(self._bounds, None, shared)
        return series

    def destination(self) -> Attributes:
        """Returns the attributes of what is about the destination, and no operation on it."""
        return {name: value for name, value in self._counted.items() if name != MESSAGING_OPERATION_NAME}

    def failed(self, error_type: str) -> Series:
        """Returns the series of the same operation where it failed in this way."""
        by_type, failed = self._by_type, self._failed
        if by_type is None or failed is None:
            by_type, failed = self._by_type, self._failed = {}, {}
        series = by_type.get(error_type)
        if series is None:
            counted_type = self._bounds.error_type(error_type)
            shared = self._bounds.operation(self.instrument, {**self.attributes, ERROR_TYPE: counted_type})
            series = failed.get(id(shared))
            if series is None:
                series = failed[id(shared)] = Series(self._bounds, self.instrument, shared)
            if counted_type == error_type:  # of the others there is no end
                by_type[error_type] = series
        return series

    def readings(self) -> Iterator[Reading]:
        """Yields the counts, of failures too."""
        if self.instrument is not None and self.count:
            yield self.instrument, self._counted, self.count
        for series in list((self._failed or {}).values()):
            yield from series.readings()


class JetStreamSeries:
    """The delivery metrics of one stream, and of one consumer where its name is not made up by the server.

    Args:
        attributes: The metric attributes.
        one: Whether they are those of a single consumer, so that what is pending can be told.

    Attributes:
        attributes: The metric attributes.
        one: Whether they are those of a single consumer.
        redeliveries: Deliveries so far with a delivery count above one.
        dead_letters: Deliveries so far that were the last of their message; None where that can't be told.
        pending: The last number of pending messages seen.
        seen_at: When that was, in nanoseconds since the epoch; 0 before.
    """

    __slots__ = ("attributes", "dead_letters", "one", "pending", "redeliveries", "seen_at")

    def __init__(self, attributes: Attributes, one: bool) -> None:
        self.attributes = attributes
        self.one = one
        self.redeliveries = 0
        self.dead_letters: int | None = None
        self.pending = 0
        self.seen_at = 0
