# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A shop: a service that takes orders at its checkout, and publishes them for the billing."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal

import nats
import nats.micro
from nats.micro.request import Request

PRICES = {"apple": b"0.50", "melon": b"3.20", "mango": b"1.90"}


async def main() -> None:
    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)

    nc = await nats.connect(os.environ["NATS_URL"], name="shop", max_reconnect_attempts=-1)
    js = nc.jetstream()
    await js.add_stream(name="orders", subjects=["orders.>"], max_age=3600)
    prices = await js.create_key_value(bucket="prices")
    for item, price in PRICES.items():
        await prices.put(item, price)
    numbers = itertools.count(1)

    async def checkout(request: Request) -> None:
        number = next(numbers)
        await js.publish(f"orders.{number}.created", request.data)
        await request.respond(str(number).encode())

    service = await nats.micro.add_service(nc, name="shop", version="1.0.0")
    await service.add_endpoint(name="checkout", subject="shop.checkout", handler=checkout)
    print("ready", flush=True)

    await stop.wait()
    # In this order: no new requests, then what is under way, then the connection. A client that is closed before the
    # process ends is not missed by the alert NatsProcessGone.
    await service.stop()
    await nc.drain()


if __name__ == "__main__":
    asyncio.run(main())
