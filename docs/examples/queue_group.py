# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A queue group: of two workers one gets each order, while the audit sees them all."""

import asyncio

import nats
from _harness import run
from nats.aio.msg import Msg


async def main(url: str) -> None:
    client = await nats.connect(url)
    left = asyncio.Semaphore(0)

    async def bill(msg: Msg) -> None:
        await client.publish("invoices.created", msg.data)
        left.release()

    async def audit(msg: Msg) -> None:
        left.release()

    for _ in range(2):
        await client.subscribe("orders.*.created", queue="billing", cb=bill)
    await client.subscribe("orders.>", cb=audit)

    for number in (8811, 8812):
        await client.publish(f"orders.{number}.created", b"{}")
        for _ in range(2):
            await left.acquire()
    await client.drain()


if __name__ == "__main__":
    run(main)
