# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The billing: a worker that takes orders from their stream, at its own pace, and acknowledges each."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import nats
import nats.errors
from nats.aio.msg import Msg
from nats.js.errors import KeyNotFoundError, NotFoundError
from nats.js.kv import KeyValue

log = logging.getLogger("billing")


async def bill(msg: Msg, prices: KeyValue) -> None:
    item = msg.data.decode()
    try:
        price = await prices.get(item)
    except KeyNotFoundError:
        # Nobody will ever know what it costs: not to be delivered again.
        log.warning("no price of %s", item)
        await msg.term()
        return
    if item == "mango" and msg.metadata.num_delivered == 1:
        # Sold out for now.
        await msg.nak(delay=0.5)
        return
    log.info("billed %s for %s", item, price.value)
    await msg.ack()


async def main() -> None:
    logging.basicConfig(level=logging.INFO)
    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)

    nc = await nats.connect(os.environ["NATS_URL"], name="billing", max_reconnect_attempts=-1)
    js = nc.jetstream()
    orders = prices = None
    print("ready", flush=True)
    while not stop.is_set():
        try:
            # The shop makes both; it may start later.
            prices = prices or await js.key_value("prices")
            orders = orders or await js.pull_subscribe("orders.*.created", durable="billing")
            for msg in await orders.fetch(10, timeout=1):
                await bill(msg, prices)
        except asyncio.TimeoutError:
            pass  # nothing to do
        except (NotFoundError, nats.errors.Error):
            log.warning("no orders to be had", exc_info=True)
            await asyncio.sleep(1)
    # Nothing is under way. drain() would wait half a minute for the consumer's last "no messages" to be read.
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main())
