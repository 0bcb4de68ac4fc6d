# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The instruments.

Only durations are recorded per message; all else is read when a reader collects, see `_readings`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from opentelemetry import metrics as metrics_api
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults, _providers
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._readings import ClientReadings, Readings
from opentelemetry.instrumentation.nats._series import (
    ASYNC_ERRORS,
    CONNECTIONS,
    CONSUMER_PENDING,
    DEAD_LETTERS,
    DELIVERY_LATENCY,
    DROPPED,
    PENDING_BYTES,
    PENDING_MESSAGES,
    PROCESSING,
    RECEIVED_BYTES,
    RECONNECTS,
    REDELIVERIES,
    SENT_BYTES,
    SUBSCRIPTIONS,
    Series,
)
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeter, NoOpMeterProvider
from opentelemetry.semconv._incubating.metrics.messaging_metrics import (
    MESSAGING_CLIENT_CONSUMED_MESSAGES,
    MESSAGING_CLIENT_OPERATION_DURATION,
    MESSAGING_CLIENT_SENT_MESSAGES,
    MESSAGING_PROCESS_DURATION,
)

BODY_SIZE = "messaging.client.message.body.size"
SIZE_BUCKETS = (0, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

_COUNTERS = (
    (MESSAGING_CLIENT_SENT_MESSAGES, "{message}", "Number of messages producer attempted to send."),
    (MESSAGING_CLIENT_CONSUMED_MESSAGES, "{message}", "Number of messages delivered to the application."),
    (SENT_BYTES, "By", "Payload bytes sent, by the client's own statistics."),
    (RECEIVED_BYTES, "By", "Payload bytes received, by the client's own statistics."),
    (RECONNECTS, "{reconnect}", "Successful reconnects."),
    (DROPPED, "{message}", "Messages dropped because a subscription's queue was full (slow consumer)."),
    (ASYNC_ERRORS, "{error}", "Errors that reached the client's error callback."),
    (REDELIVERIES, "{message}", "Deliveries of messages that had been delivered before."),
    (DEAD_LETTERS, "{message}", "Last deliveries of messages: the consumer's maximum is reached."),
)


class Metrics:
    """The instruments of one `instrument()` call.

    Args:
        meter_provider: The provider; None for the global one, which may be set later.
        name: The instrumentation scope's name.
        version: Version of this package.
        schema_url: Schema URL of the conventions.
        sizes: Whether the sizes of bodies are recorded.

    Attributes:
        on: Whether there is a provider that does something with what is recorded.
        waiting: Whether there may still be one: the global one is not set yet.
        bounds: The bounds of series.
        sizes: Whether the sizes of bodies are recorded, if anything is.
    """

    def __init__(
        self, meter_provider: MeterProvider | None, name: str, version: str, schema_url: str, sizes: bool = False
    ) -> None:
        meter = metrics_api.get_meter(name, version, meter_provider=meter_provider, schema_url=schema_url)
        self.on = meter_provider is not None and not isinstance(meter_provider, NoOpMeterProvider)
        self.waiting = meter_provider is None
        if isinstance(meter, NoOpMeter):
            self.on = self.waiting = False
        self.operation_duration = meter.create_histogram(
            MESSAGING_CLIENT_OPERATION_DURATION,
            unit="s",
            description="Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self.process_duration = meter.create_histogram(
            MESSAGING_PROCESS_DURATION,
            unit="s",
            description="Duration of processing operation.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self.delivery_latency = meter.create_histogram(
            DELIVERY_LATENCY,
            unit="s",
            description="Time from storage in the stream to delivery to the application.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self.sizes = sizes
        if sizes:
            self._body_size = meter.create_histogram(
                BODY_SIZE,
                unit="By",
                description="Size of the body of messages sent and consumed.",
                explicit_bucket_boundaries_advisory=SIZE_BUCKETS,
            )
        self._readings = _readings_of(meter_provider, meter)
        self.bounds = self._readings.bounds
        self.resolve()

    def resolve(self) -> bool:
        """Looks whether there is a meter provider by now; cheap enough for every call until there is."""
        if self.waiting:
            provider = _providers.global_meter_provider()
            if provider is not None:
                self.waiting = False
                self.on = not isinstance(provider, NoOpMeterProvider)
        return self.on

    def record_size(self, size: int, series: Series, context: Context) -> None:
        """Records the size of a body, where `sizes` are.

        Args:
            size: The size in bytes.
            series: The metrics of the operation on its message.
            context: The context with the operation's span.
        """
        if self.on or self.resolve():
            try:
                self._body_size.record(size, series.attributes, context)
            except FAULTS:
                _faults.report("recording the size of a message")

    def register(self, readings: ClientReadings, client: Any) -> None:
        """Reads a client at every collection from now on, and keeps its counts when it is gone."""
        self._readings.register(readings, client)

    def stop(self) -> None:
        """Keeps what has been counted, and reads no client any more."""
        self._readings.retire_all()


# By the provider's number, with what returns the provider while it lives: a program's own may not be hashable.
_observed: dict[int, tuple[Callable[[], Any], Readings]] = {}


def _known(provider: Any) -> Readings | None:
    alive, readings = _observed.get(id(provider), (None, None))
    return readings if alive is not None and alive() is provider else None


def _remember(provider: Any, readings: Readings) -> None:
    number = id(provider)

    def forget(gone: Any) -> None:
        if _observed.get(number, (None,))[0] is gone:  # its number may be another's by now
            del _observed[number]

    try:
        _observed[number] = ref(provider, forget), readings
    except TypeError:
        _observed[number] = partial(_itself, provider), readings  # it takes no weak reference, and stays


def _itself(provider: Any) -> Any:
    return provider


def _readings_of(meter_provider: MeterProvider | None, meter: Meter) -> Readings:
    """Returns what a provider's observable instruments are read from, the same at every call.

    An SDK that is asked for an instrument again returns the one that it has, and forgets the new callbacks: after
    `uninstrument()` and another `instrument()` it still reads what the first call gave it.
    """
    provider = metrics_api.get_meter_provider() if meter_provider is None else meter_provider
    readings = _known(provider)
    if readings is None and provider is _providers.global_meter_provider():
        # Its instruments may have been made before it was, by the proxy that stood for it.
        readings = _known(_providers.proxy_meter_provider() or provider)
    if readings is None:
        readings = Readings()
        _observe(readings, meter)
    _remember(provider, readings)
    return readings


def _observe(readings: Readings, meter: Meter) -> None:
    """Creates the instruments that are read."""
    for name, unit, description in _COUNTERS:
        meter.create_observable_counter(name, [readings.counter(name)], unit, description)
    for name, unit, description, callback in (
        (CONNECTIONS, "{connection}", "Connections by state.", readings.states),
        (SUBSCRIPTIONS, "{subscription}", "The application's subscriptions.", readings.subscriptions),
        (PENDING_MESSAGES, "{message}", "Messages waiting in subscriptions' queues.", readings.pending_messages),
        (PROCESSING, "{message}", "Messages being processed now.", readings.processing),
        (PENDING_BYTES, "By", "Bytes waiting in subscriptions' queues.", readings.pending_bytes),
    ):
        meter.create_observable_up_down_counter(name, [callback], unit, description)
    meter.create_observable_gauge(
        CONSUMER_PENDING,
        [readings.consumer_pending],
        "{message}",
        "Messages that the consumer has not been sent yet, as of its last delivery.",
    )
