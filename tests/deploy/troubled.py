# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Programs in trouble, for the alerts to see: `python troubled.py TROUBLE URL ATTEMPTS`, the attempts to reconnect.

Each prints where its metrics are, and goes on until it is killed, if its trouble does not end it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig
from prometheus_client import start_http_server

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.nats import NatsInstrumentor
from opentelemetry.sdk.metrics import MeterProvider

# How long a scrape and the rules' shortest `for` take together, in the test.
SEEN = 4.0


async def quiet(_: Exception) -> None:
    """The troubles are meant."""


async def healthy(nc: Client) -> None:
    """Publishes, asks, and acknowledges."""
    js = nc.jetstream()
    await js.add_stream(name="healthy", subjects=["healthy.orders"])
    orders = await js.pull_subscribe("healthy.orders", durable="healthy")
    await nc.subscribe("healthy.prices", cb=answer)
    while True:
        with suppress(nats.errors.TimeoutError):  # of a busy machine
            await js.publish("healthy.orders")
            await nc.request("healthy.prices", timeout=5)
            for msg in await orders.fetch(1):
                await msg.ack()
        await asyncio.sleep(0.1)


async def answer(msg: Msg) -> None:
    await msg.respond(b"")


async def drops(nc: Client) -> None:
    """Takes nothing from its queue."""
    await nc.subscribe("drops.*", pending_msgs_limit=1)
    for _ in range(3):
        await nc.publish("drops.some")
    await asyncio.sleep(3600)


async def backlog(nc: Client) -> None:
    """Publishes more than it takes."""
    js = nc.jetstream()
    await js.add_stream(name="backlog", subjects=["backlog.*"])
    for _ in range(1200):
        await nc.publish("backlog.some")
    orders = await js.pull_subscribe("backlog.*", durable="worker")
    while True:
        for _ in range(10):
            await nc.publish("backlog.some")
        with suppress(nats.errors.TimeoutError):
            for msg in await orders.fetch(1):
                await msg.ack()
        await asyncio.sleep(0.05)


async def stalls(nc: Client) -> None:
    """Takes one message, and never comes back for the rest."""
    js = nc.jetstream()
    await js.add_stream(name="stalls", subjects=["stalls.*"])
    for _ in range(5):
        await js.publish("stalls.some")
    orders = await js.pull_subscribe("stalls.*", durable="worker")
    await orders.fetch(1)
    await asyncio.sleep(3600)


async def refuses(nc: Client) -> None:
    """Gives every second message back."""
    js = nc.jetstream()
    await js.add_stream(name="refuses", subjects=["refuses.*"])
    orders = await js.pull_subscribe("refuses.*", durable="worker")
    while True:
        await js.publish("refuses.some")
        with suppress(nats.errors.TimeoutError):
            for msg in await orders.fetch(2, timeout=0.2):
                await (msg.ack() if msg.metadata.num_delivered > 1 else msg.nak())


async def exhausts(nc: Client) -> None:
    """Gives every message back, as often as it comes."""
    js = nc.jetstream()
    await js.add_stream(name="exhausts", subjects=["exhausts.*"])
    orders = await js.pull_subscribe("exhausts.*", durable="worker", config=ConsumerConfig(max_deliver=2))
    while True:
        await js.publish("exhausts.some")
        with suppress(nats.errors.TimeoutError):
            for msg in await orders.fetch(2, timeout=0.2):
                await msg.nak()


async def hangs(nc: Client) -> None:
    """Never comes back from its handler."""

    async def handle(_: Msg) -> None:
        await asyncio.Event().wait()

    await nc.subscribe("hangs.*", cb=handle)
    await nc.publish("hangs.some")
    await asyncio.sleep(3600)


async def fails(nc: Client) -> None:
    """Raises in its handler, every third time."""
    count = 0

    async def handle(_: Msg) -> None:
        nonlocal count
        count += 1
        if count % 3 == 0:
            raise ValueError

    await nc.subscribe("fails.*", cb=handle)
    while True:
        await nc.publish("fails.some")
        await asyncio.sleep(0.1)


async def dawdles(nc: Client) -> None:
    """Takes its time in its handler, and lets those wait who ask."""

    async def handle(msg: Msg) -> None:
        await asyncio.sleep(1.2)
        await msg.respond(b"")

    await nc.subscribe("dawdles.*", cb=handle)
    while True:
        with suppress(nats.errors.TimeoutError):
            await nc.request("dawdles.some", timeout=5)


async def stumbles(nc: Client) -> None:
    """Loses its connection again and again."""
    while True:
        await asyncio.sleep(0.3)
        if nc.is_connected:
            nc._transport.close()


async def idles(nc: Client) -> None:
    """Does nothing. What happens to its server is its trouble."""
    await asyncio.sleep(3600)


async def close_later(nc: Client) -> None:
    await asyncio.sleep(SEEN)
    await nc.close()


async def closes(nc: Client) -> None:
    """Closes its client on purpose, and lives on."""
    await close_later(nc)
    await asyncio.sleep(3600)


async def ends(nc: Client) -> None:
    """Closes its client on purpose, is scraped once more, and ends."""
    await close_later(nc)
    await asyncio.sleep(SEEN)


async def leaves(nc: Client) -> None:
    """Ends with its client open, on SIGTERM: its target is taken away with it."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


TROUBLES = {
    each.__name__: each
    for each in (
        healthy,
        drops,
        backlog,
        stalls,
        refuses,
        exhausts,
        hangs,
        fails,
        dawdles,
        stumbles,
        idles,
        closes,
        ends,
        leaves,
    )
}


async def main(trouble: str, url: str, attempts: int) -> None:
    NatsInstrumentor().instrument(meter_provider=MeterProvider([PrometheusMetricReader()]))
    nc = await nats.connect(url, error_cb=quiet, reconnect_time_wait=0.1, max_reconnect_attempts=attempts)
    server, _ = start_http_server(0, "127.0.0.1")
    print(f"127.0.0.1:{server.server_port}", flush=True)
    await TROUBLES[trouble](nc)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
