# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The callers of the service that is measured: not instrumented, but each message has a context, as in production."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from statistics import quantiles
from time import perf_counter

import nats
from nats.js.api import StorageType
from service import HANDLERS

AT_ONCE = 32
PAYLOAD = b"x" * 200


def context(share: float) -> dict[str, str]:
    """A new trace's context, sampled as often as this share says."""
    sampled = random.random() < share
    return {"traceparent": f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-{sampled:02x}"}


async def call(url: str, seconds: int, share: float) -> None:
    """Calls the service as fast as it answers, and prints what that was."""
    nc = await nats.connect(url)
    latencies: list[float] = []

    async def caller(number: int, end: float, keep: bool) -> None:
        while (started := perf_counter()) < end:
            number += 1
            await nc.request(f"service.{number % HANDLERS}", PAYLOAD, timeout=10, headers=context(share))
            if keep:
                latencies.append(perf_counter() - started)

    for length, keep in ((seconds / 4, False), (seconds, True)):
        end = perf_counter() + length
        await asyncio.gather(*(caller(number, end, keep) for number in range(AT_ONCE)))
    percentiles = quantiles(latencies, n=100)
    print(json.dumps({"requests": len(latencies) / seconds, "p50": percentiles[49], "p99": percentiles[98]}))
    await nc.close()


async def fill(url: str, count: int, share: float) -> None:
    """Fills the stream that the worker empties."""
    nc = await nats.connect(url)
    js = nc.jetstream()
    await js.add_stream(name="WORK", subjects=["work.*"], storage=StorageType.MEMORY)
    for number in range(count):
        await nc.publish(f"work.{number % HANDLERS}", PAYLOAD, headers=context(share))
        if number % 500 == 0:
            await nc.flush()
    await nc.flush()
    while (await js.stream_info("WORK")).state.messages < count:
        await asyncio.sleep(0.01)
    await nc.close()


if __name__ == "__main__":
    asyncio.run((call if sys.argv[1] == "call" else fill)(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
