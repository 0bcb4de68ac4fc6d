# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What becomes of messages in hand when nobody can settle them any more, or step on: of their open process spans."""

from __future__ import annotations

from opentelemetry.instrumentation.nats._collecting import watch_collector
from opentelemetry.instrumentation.nats._connection import Connection
from opentelemetry.instrumentation.nats._holding import all_deliveries, end_let_go
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._processing import Delivery
from opentelemetry.instrumentation.nats._telemetry import Telemetry


def end_all(telemetry: Telemetry) -> None:
    """Ends what waits, because nobody tells us of a settlement any more. What runs goes on, and ends by itself."""
    watch_collector(False)
    end_let_go()
    for delivery in all_deliveries():
        if delivery.is_of(telemetry):
            _end(delivery)


def end_of_client(connection: Connection) -> None:
    """Ends what waits for a client, which is closed."""
    end_let_go()
    for delivery in list(connection.readings.processing):
        if isinstance(delivery, Delivery):
            _end(delivery)


def end_of_subscription(origin: Origin) -> None:
    """Ends what waits for a subscription, which gets no more messages."""
    for delivery in list(origin.connection.readings.processing):
        if isinstance(delivery, Delivery) and delivery.origin is origin:
            _end(delivery)


def _end(delivery: Delivery) -> None:
    for body in delivery.loops():
        # A `for` ends its bodies itself, when it steps or is left. Of what is stepped by hand nobody knows whether it
        # will be once more; of what was stepped in a task that is done it is known that it will not.
        if body.is_abandoned():
            body.leave()
            delivery.leave(body, done=True)
    delivery.release()
