# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A shop whose NATS metrics Prometheus can scrape; a bit of everything goes wrong, so that there is much to see.

Run it from the root of the repository::

    python3 -m venv .venv && .venv/bin/pip install -q '.[demo]' opentelemetry-exporter-prometheus
    .venv/bin/python docs/examples/prometheus

The metrics are at http://127.0.0.1:9464/metrics until Ctrl-C or SIGTERM. It starts a nats-server of its own; with
`NATS_URL` it uses that one. `OTEL_EXPORTER_PROMETHEUS_PORT` and `OTEL_SERVICE_NAME` change the port and the name. Stop
the server and start it again: the shop goes on.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import nullcontext, suppress

import nats
import nats.errors
import nats.js.errors
from _server import nats_server
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig
from prometheus_client import start_http_server

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.nats import NatsInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import SERVICE_NAME, Resource

HOST = "127.0.0.1"
PORT = int(os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "9464"))
PAUSE = 0.2

TWICE = ConsumerConfig(max_deliver=2)

# What a call raises while the server is away, or when it came back without its streams.
LOST = (nats.errors.Error, asyncio.TimeoutError, OSError)


async def answer(msg: Msg) -> None:
    """Prices everything but unicorns."""
    await asyncio.sleep(random.uniform(0.001, 0.03))
    if msg.data == b"unicorn":
        raise ValueError("no unicorns in stock")
    await msg.respond(b"42")


async def bill(js: JetStreamContext, stop: asyncio.Event) -> None:
    """Takes orders from the stream; every fifth is refused at first and comes again, every fiftieth in vain."""
    orders = None
    while not stop.is_set():
        try:
            orders = orders or await js.pull_subscribe("orders.*.created", durable="billing", config=TWICE)
            for msg in await orders.fetch(5, timeout=1):
                await asyncio.sleep(random.uniform(0.01, 0.06))
                first, number = msg.metadata.num_delivered == 1, msg.metadata.sequence.stream
                await (msg.nak() if number % 50 == 0 or (first and number % 5 == 0) else msg.ack())
        except LOST:
            # Nothing to do, usually. But a server that came back without its streams has no such consumer either.
            orders = None if orders is None or await is_lost(orders) else orders
            await asyncio.sleep(PAUSE)


async def is_lost(orders: JetStreamContext.PullSubscription) -> bool:
    try:
        await orders.consumer_info()
    except nats.js.errors.NotFoundError:
        return True
    except LOST:
        pass
    return False


async def sell(nc: Client, js: JetStreamContext, stop: asyncio.Event) -> None:
    """Asks for prices, and publishes orders and heartbeats."""
    number = 0
    while not stop.is_set():
        number += 1
        try:
            if number % 5 == 0:
                await nc.publish("prices", b"unicorn")
            await nc.publish("heartbeats", b"alive")
            await nc.request("prices", b"apple", timeout=1)
            # Now and then many come at once: a backlog.
            for item in range(40 if number % 25 == 0 else 1):
                await js.publish(f"orders.{number + item}.created", b"apple")
            if number % 7 == 0:
                await nc.request("discounts", b"apple", timeout=1)
        except nats.js.errors.NoStreamResponseError:
            await open_stream(js)  # the server came back without it
        except LOST:
            pass  # that nobody gives discounts is meant as well
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), PAUSE)


async def open_stream(js: JetStreamContext) -> None:
    with suppress(*LOST):
        await js.add_stream(name="orders", subjects=["orders.>"], max_msgs=1000)


async def ignore(_: Exception) -> None:
    """The slow consumer, the missing unicorns and the lost server are meant."""


async def keep_shop(url: str, stop: asyncio.Event) -> None:
    # -1: without an end, also for the first connection.
    connecting = asyncio.ensure_future(nats.connect(url, error_cb=ignore, max_reconnect_attempts=-1))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not connecting.done():
        connecting.cancel()
        return
    nc = connecting.result()
    js = nc.jetstream(timeout=1)
    await open_stream(js)
    await nc.subscribe("prices", "pricing", cb=answer)
    # Nobody takes these: a queue of five is soon full, and what comes then is dropped.
    await nc.subscribe("heartbeats", pending_msgs_limit=5)
    await asyncio.gather(bill(js, stop), sell(nc, js, stop))
    # nats-py writes what still waits, and to a socket that is gone asyncio says TypeError on Python 3.13.0.
    with suppress(*LOST, TypeError):
        await nc.close()


async def main(url: str) -> None:
    resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "shop")})
    provider = MeterProvider([PrometheusMetricReader()], resource=resource)
    NatsInstrumentor().instrument(meter_provider=provider)
    scraped, _ = start_http_server(PORT, HOST)
    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    print(f"metrics on http://{HOST}:{scraped.server_port}/metrics", flush=True)
    await keep_shop(url, stop)
    scraped.shutdown()


if __name__ == "__main__":
    with nullcontext(os.environ["NATS_URL"]) if "NATS_URL" in os.environ else nats_server() as server:
        asyncio.run(main(server))
