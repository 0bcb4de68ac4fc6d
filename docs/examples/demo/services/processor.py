# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Works on every new order: reserves the goods, notes the outcome. Several share the work: they are one queue group."""

import asyncio
import json
import os
import signal

import nats
from nats.aio.msg import Msg


class ReservationError(Exception):
    """The inventory has refused the order."""


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    nc = await nats.connect(os.environ["NATS_URL"], name="processor")
    outcomes = await nc.jetstream().create_key_value(bucket="outcomes")

    async def on_order(msg: Msg) -> None:
        order = json.loads(msg.data)
        reply = await nc.request("inventory.reserve", msg.data, timeout=2)
        answer = json.loads(reply.data)
        if "error" in answer:
            raise ReservationError(answer["error"])
        await outcomes.put(order["id"], b"reserved")

    orders = await nc.subscribe("orders.*.created", queue="processors", cb=on_order)
    await nc.flush()
    print("ready", flush=True)

    await stop.wait()
    # Draining the connection at once would end the subscription that the requests of on_order get their replies by.
    await orders.drain()
    await nc.drain()


if __name__ == "__main__":
    asyncio.run(main())
