# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Takes orders from the stream: done, tried again later, or put aside as a dead letter."""

import asyncio
import json
import os
import signal

import nats
from nats.aio.msg import Msg


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    nc = await nats.connect(os.environ["NATS_URL"], name="worker")
    js = nc.jetstream()
    await js.add_stream(name="orders", subjects=["orders.*.created"])  # none the worse if the gateway made it
    await js.add_stream(name="dead-letters", subjects=["dead.>"])
    orders = await js.pull_subscribe("orders.*.created", durable="worker")
    prices = await js.create_key_value(bucket="prices")

    async def work_on(msg: Msg) -> None:
        order = json.loads(msg.data)
        price = await prices.get(order["article"])
        reply = await nc.request("inventory.reserve", msg.data, timeout=2)
        error = (reply.headers or {}).get("Nats-Service-Error-Code")
        if error == "503":
            await msg.nak(delay=0.3)
        elif error:
            await js.publish(f"dead.{msg.subject}", msg.data)
            await msg.term()
        else:
            print(f"order {order['id']}: {int(price.value) * order['quantity']}")
            await msg.ack()

    print("ready", flush=True)
    while True:
        try:
            for msg in await orders.fetch(1, timeout=0.5):
                await work_on(msg)
        except nats.errors.TimeoutError:
            if stop.is_set():
                left = await orders.consumer_info()
                if not left.num_pending and not left.num_ack_pending:
                    break
    await nc.close()  # drain() of a pull subscription waits for messages that fetch() took already, for 30 s


if __name__ == "__main__":
    asyncio.run(main())
