# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What one `instrument()` call has set up, and whether anybody listens.

It does nothing by itself: operations take from it what they need.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._logs import ExceptionLogs
from opentelemetry.instrumentation.nats._metrics import Metrics
from opentelemetry.instrumentation.nats._naming import Naming
from opentelemetry.instrumentation.nats._options import Options
from opentelemetry.instrumentation.nats._providers import global_meter_provider, global_tracer_provider
from opentelemetry.instrumentation.nats._sampling import Sampling
from opentelemetry.instrumentation.nats.version import __version__
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.trace import TracerProvider

SCOPE = "opentelemetry.instrumentation.nats"
"""Name of the instrumentation scope."""

# As text: the member of `Schemas` came with 0.66b0, and a package that only knows older ones would fail to import.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"


# Each of the methods that a call goes through asks; where contexts are all that we are for, the answer does not change.
_always: Callable[[], bool] = partial(bool, True)


class Failure(NamedTuple):
    """What an exception means to telemetry.

    Attributes:
        error_type: `error.type`.
        expected: Whether it is an outcome that the protocol provides for: no stack trace is recorded.
        description: The span status's description.
        accepted: Whether the user calls it expected: the span is not marked as failed.
    """

    error_type: str
    expected: bool
    description: str
    accepted: bool = False


class Telemetry:
    """All that belongs to one `instrument()` call.

    Args:
        tracer_provider: The provider; None for the global one, which may be set later.
        meter_provider: The same for metrics.
        options: The options.
        classify: Says what an exception means; raised by nats-py, it has to be a module that imports it.
        logger_provider: As the others, for exceptions as log records.

    Attributes:
        enabled: Whether nats-py is still instrumented.
        listening: Whether somebody is known to listen to spans or metrics; ask `idle()` where it is False.
        options: The options.
        naming: The names of destinations.
        metrics: The instruments.
        tracer: The tracer.
        sampling: What is known of its sampler.
        classify: Says what an exception means.
        exceptions: Where exceptions are recorded.
        captures_headers: Whether the user wants headers recorded.
        captures_baggage: Whether he wants baggage recorded.
        records_texts: Whether spans have the texts of exceptions and error answers, besides their types.
        originals: What nats-py itself has in the place of each of our functions.
        nowhere: The connection of what only stands for a client, once there is one.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        options: Options,
        classify: Callable[[BaseException], Failure],
        logger_provider: Any = None,
    ) -> None:
        self.enabled = True
        self.options = options
        self.captures_headers = bool(options.headers)
        self.captures_baggage = bool(options.baggage_keys)
        self.records_texts = options.record_exception_messages
        self.classify = self._classify if options.expected_errors else classify
        self._classified = classify
        self.naming = Naming(options)
        if options.propagation_only:
            # As without an SDK: nobody ever listens.
            tracer_provider, meter_provider = trace.NoOpTracerProvider(), NoOpMeterProvider()
        self.metrics = Metrics(meter_provider, SCOPE, __version__, SCHEMA_URL, options.record_body_sizes)
        self.tracer = trace.get_tracer(SCOPE, __version__, tracer_provider, schema_url=SCHEMA_URL)
        self.sampling = Sampling(self.tracer)
        self.exceptions = ExceptionLogs(logger_provider, SCOPE, __version__, SCHEMA_URL)
        self.originals: dict[Any, Any] = {}
        self.nowhere: object = None
        if options.propagation_only:
            self.idle = _always
        self._tracing = not isinstance(self.tracer, trace.ProxyTracer | trace.NoOpTracer)
        self._tracing_later = isinstance(self.tracer, trace.ProxyTracer)
        self.listening = self._tracing or self.metrics.on

    def _classify(self, error: BaseException) -> Failure:
        failure = self._classified(error)
        return failure._replace(accepted=self.options.expected_errors.have(failure.error_type, error))

    def idle(self) -> bool:
        """Tells whether nobody listens: no tracer or meter provider is set (yet), or we are uninstrumented."""
        if self.listening:
            return False
        no_tracing = global_tracer_provider() is None
        if (no_tracing and global_meter_provider() is None) or not self.enabled:
            return True
        if self._tracing_later and not no_tracing:  # set after us
            self._tracing_later = False
            try:
                self.tracer = trace.get_tracer(SCOPE, __version__, schema_url=SCHEMA_URL)
                self._tracing = not isinstance(self.tracer, trace.NoOpTracer)
                self.sampling = Sampling(self.tracer)
            except FAULTS:
                _faults.report("getting a tracer")
        self.listening = self.metrics.resolve() or self._tracing
        return not self.listening

    def silence(self) -> None:
        """Stops for good: what still lives of us (subscriptions, loops, captured methods) does nothing from now on."""
        self.enabled = False
        self.listening = False
        self.metrics.stop()
