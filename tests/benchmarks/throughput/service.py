# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The program that is measured: ten handlers of requests, then a pull worker, in one of the ways of `WAYS`.

It runs in environments that have nothing of ours as well, so it imports nothing but nats-py and what its way needs. It
says `ready` when it listens, takes `work` as the word that the stream is filled, and tells how long that took.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import nats

HANDLERS = 10
BATCH = 100

Handler = Callable[[Any], Awaitable[None]]


def providers(endpoint: str, share: float) -> tuple[Any, Any]:
    """Returns a tracer provider that exports the recorded ones, and a meter provider, both by OTLP."""
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    tracers = TracerProvider(sampler=ParentBasedTraceIdRatio(share))
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=f"{endpoint}/v1/metrics"), 1000)
    meters = MeterProvider([reader])
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    return tracers, meters


async def answer(msg: Any) -> None:
    await msg.respond(msg.data)


async def acknowledge(msg: Any) -> None:
    await msg.ack()


class Bare:
    """nats-py by itself."""

    def __init__(self, endpoint: str, share: float) -> None:
        pass

    async def open(self, url: str) -> None:
        self.nc = self.client = await nats.connect(url)
        for number in range(HANDLERS):
            await self.client.subscribe(f"service.{number}", cb=answer)
        await self.nc.flush()

    async def work(self, count: int) -> None:
        worker = await self.nc.jetstream().pull_subscribe("work.*", durable="worker")
        done = 0
        while done < count:
            for msg in await worker.fetch(min(BATCH, count - done), timeout=5):
                await self.process(msg)
                done += 1
        await self.nc.flush()

    async def process(self, msg: Any) -> None:
        await acknowledge(msg)

    async def close(self) -> None:
        await self.nc.close()


class Ours(Bare):
    """This package."""

    def __init__(self, endpoint: str, share: float) -> None:
        from opentelemetry.instrumentation.nats import NatsInstrumentor

        providers(endpoint, share)
        NatsInstrumentor().instrument()


class OtelInstrumentationNats(Bare):
    """PyPI's otel-instrumentation-nats."""

    def __init__(self, endpoint: str, share: float) -> None:
        from otel_instrumentation_nats import NatsInstrumentor

        providers(endpoint, share)
        NatsInstrumentor().instrument()


class Nucliadb(Bare):
    """nucliadb-telemetry, whose wrappers a program calls."""

    def __init__(self, endpoint: str, share: float) -> None:
        self._tracers, _ = providers(endpoint, share)

    async def open(self, url: str) -> None:
        from nucliadb_telemetry.jetstream import JetStreamContextTelemetry, NatsClientTelemetry

        self.nc = await nats.connect(url)
        client = NatsClientTelemetry(self.nc, "service", self._tracers)
        self._js = JetStreamContextTelemetry(self.nc.jetstream(), "service", self._tracers)
        for number in range(HANDLERS):
            await client.subscribe(f"service.{number}", cb=answer)
        await self.nc.flush()

    async def process(self, msg: Any) -> None:
        await self._js.trace_pull_subscriber_message(acknowledge, msg)


class FastStream:
    """FastStream, without telemetry."""

    def __init__(self, endpoint: str, share: float) -> None:
        pass

    def middlewares(self) -> tuple[Any, ...]:
        return ()

    async def open(self, url: str) -> None:
        from faststream.nats import NatsBroker

        self._broker = NatsBroker(url, middlewares=self.middlewares(), logger=None)
        for number in range(HANDLERS):
            self._broker.subscriber(f"service.{number}")(_echo)
        await self._broker.start()
        self.nc = self._broker.config.broker_config.connection_state.connection

    async def work(self, count: int) -> None:
        from faststream.nats import PullSub

        done = asyncio.Event()
        seen = 0

        async def process(body: bytes) -> None:
            nonlocal seen
            seen += 1
            if seen == count:
                done.set()

        subscriber = self._broker.subscriber(
            "work.*", durable="worker", stream="WORK", pull_sub=PullSub(batch_size=BATCH, timeout=1.0)
        )
        subscriber(process)
        await subscriber.start()
        await done.wait()

    async def close(self) -> None:
        await self._broker.stop()


async def _echo(body: bytes) -> bytes:
    return body


class FastStreamMiddleware(FastStream):
    """FastStream with its own middleware."""

    def __init__(self, endpoint: str, share: float) -> None:
        self._providers = providers(endpoint, share)

    def middlewares(self) -> tuple[Any, ...]:
        from faststream.nats.opentelemetry import NatsTelemetryMiddleware

        tracers, meters = self._providers
        return (NatsTelemetryMiddleware(tracer_provider=tracers, meter_provider=meters),)


class FastStreamOurs(FastStream, Ours):
    """FastStream with this package."""

    __init__ = Ours.__init__  # pyright: ignore


WAYS: dict[str, Callable[[str, float], Any]] = {
    "bare": Bare,
    "ours": Ours,
    "otel-instrumentation-nats": OtelInstrumentationNats,
    "nucliadb-telemetry": Nucliadb,
    "faststream": FastStream,
    "faststream-middleware": FastStreamMiddleware,
    "faststream-ours": FastStreamOurs,
}


async def main(way: str, url: str, endpoint: str, share: float, count: int) -> None:
    service = WAYS[way](endpoint, share)
    await service.open(url)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    started = perf_counter()
    await service.work(count)
    print(json.dumps({"work": perf_counter() - started}), flush=True)
    await service.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5])))
