# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A micro service that knows what is in stock, and answers requests to reserve some of it."""

import asyncio
import json
import os
import signal

import nats
from nats.micro import add_service
from nats.micro.request import Request

STOCK = {"apple": 40, "plum": 5}


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    nc = await nats.connect(os.environ["NATS_URL"], name="inventory")

    async def reserve(request: Request) -> None:
        order = json.loads(request.data)
        article, quantity = order["article"], order["quantity"]
        await asyncio.sleep(0.02)  # somebody walks to the shelf
        if article not in STOCK:
            await request.respond_error("404", f"nobody sells a {article}")
        elif STOCK[article] < quantity:
            await request.respond_error("503", f"{STOCK[article]} {article} left, more will come")
            STOCK[article] += 100
        else:
            STOCK[article] -= quantity
            await request.respond(json.dumps({"left": STOCK[article]}).encode())

    service = await add_service(nc, name="inventory", version="1.0.0")
    await service.add_group(name="inventory").add_endpoint(name="reserve", handler=reserve)
    await nc.flush()
    print("ready", flush=True)

    await stop.wait()
    await service.stop()
    await nc.drain()


if __name__ == "__main__":
    asyncio.run(main())
