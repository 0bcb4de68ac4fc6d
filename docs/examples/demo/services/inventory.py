# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Knows what is in stock, and answers requests to reserve some of it."""

import asyncio
import json
import os
import signal

import nats

STOCK = {"apple": 40, "pear": 25, "plum": 60}


async def reserve(article: str, quantity: int) -> dict[str, object]:
    await asyncio.sleep(0.02)  # somebody walks to the shelf
    if STOCK.get(article, 0) < quantity:
        return {"error": f"cannot reserve {quantity} {article}: {STOCK.get(article, 0)} in stock"}
    STOCK[article] -= quantity
    return {"left": STOCK[article]}


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    nc = await nats.connect(os.environ["NATS_URL"], name="inventory")
    requests = await nc.subscribe("inventory.reserve")
    await nc.flush()
    print("ready", flush=True)

    async def close_when_stopped() -> None:
        await stop.wait()
        await nc.drain()

    closing = asyncio.create_task(close_when_stopped())
    async for msg in requests.messages:
        order = json.loads(msg.data)
        answer = await reserve(order["article"], order["quantity"])
        await msg.respond(json.dumps(answer).encode())
    await closing


if __name__ == "__main__":
    asyncio.run(main())
