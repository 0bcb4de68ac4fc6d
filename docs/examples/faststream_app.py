# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""FastStream, unchanged: its handlers are callbacks of nats-py, so it is traced without its own middleware."""

import asyncio

from _harness import run
from faststream.nats import NatsBroker


async def main(url: str) -> None:
    broker = NatsBroker(url, logger=None)
    billed = asyncio.Event()

    @broker.subscriber("orders.*.created", queue="billing")
    @broker.publisher("invoices.created")
    async def bill(order: str) -> str:
        return f"invoice of {order}"

    @broker.subscriber("invoices.created")
    async def send(invoice: str) -> None:
        billed.set()

    await broker.start()
    await broker.publish("8812", "orders.8812.created")
    await billed.wait()
    await broker.stop()


if __name__ == "__main__":
    run(main)
