# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The customers: a load generator that buys at the shop's checkout, RATE times a second."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import suppress

import nats
import nats.errors

# Nobody has a unicorn: those orders are terminated. Mangos are sold out at first: those come twice.
ITEMS = ["apple"] * 12 + ["melon"] * 5 + ["mango"] * 2 + ["unicorn"]


async def main() -> None:
    pause = 1 / float(os.environ.get("RATE", "5"))
    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)

    nc = await nats.connect(os.environ["NATS_URL"], name="load", max_reconnect_attempts=-1)
    print("ready", flush=True)
    while not stop.is_set():
        with suppress(nats.errors.Error):  # the shop is not there yet, or not any more
            await nc.request("shop.checkout", random.choice(ITEMS).encode(), timeout=2)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
    await nc.drain()


if __name__ == "__main__":
    asyncio.run(main())
