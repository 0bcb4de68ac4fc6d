# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A program whose NATS metrics Prometheus can scrape; a bit of everything goes wrong, so that there is much to see.

Run it from the root of the repository, beside a nats-server with JetStream::

    python3 -m venv .venv && .venv/bin/pip install -q . nats-py opentelemetry-exporter-prometheus
    .venv/bin/python docs/examples/prometheus

The metrics are at http://127.0.0.1:9464/metrics until Ctrl-C. `NATS_URL` and `OTEL_EXPORTER_PROMETHEUS_PORT` change the
server and the port.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

import nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from prometheus_client import start_http_server

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.nats import NatsInstrumentor
from opentelemetry.sdk.metrics import MeterProvider

HOST = "127.0.0.1"
PORT = int(os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "9464"))
NATS_URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
PAUSE = 0.2


async def work_on_orders(js: JetStreamContext, stop: asyncio.Event) -> None:
    """Takes orders from the stream; every fifth is refused at first and comes again."""
    orders = await js.pull_subscribe("orders.*.created", durable="billing")
    while not stop.is_set():
        try:
            batch = await orders.fetch(5, timeout=1)
        except asyncio.TimeoutError:
            continue
        for msg in batch:
            first = msg.metadata.num_delivered == 1
            await (msg.nak() if first and msg.metadata.sequence.stream % 5 == 0 else msg.ack())


async def answer(msg: Msg) -> None:
    """Prices everything but unicorns."""
    if msg.data == b"unicorn":
        raise ValueError("no unicorns in stock")
    await msg.respond(b"42")


async def ignore(_: Exception) -> None:
    """The slow consumer and the missing unicorns are meant."""


async def main() -> None:
    NatsInstrumentor().instrument(meter_provider=MeterProvider([PrometheusMetricReader()]))
    server, _ = start_http_server(PORT, HOST)
    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)

    nc = await nats.connect(NATS_URL, error_cb=ignore)
    js = nc.jetstream()
    await js.add_stream(name="orders", subjects=["orders.>"], max_msgs=1000)
    await nc.subscribe("prices", "pricing", cb=answer)
    # Nobody takes these: a queue of five is soon full, and what comes then is dropped.
    await nc.subscribe("heartbeats", pending_msgs_limit=5)
    working = asyncio.ensure_future(work_on_orders(js, stop))
    print(f"metrics on http://{HOST}:{server.server_port}/metrics", flush=True)

    number = 0
    while not stop.is_set():
        number += 1
        await js.publish(f"orders.{number}.created", b"apple")
        await nc.publish("heartbeats", b"alive")
        await nc.request("prices", b"apple", timeout=1)
        if number % 5 == 0:
            await nc.publish("prices", b"unicorn")
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), PAUSE)

    await working
    await nc.close()
    server.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
