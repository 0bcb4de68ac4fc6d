# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Many messages at once: asynchronous publishes over a small pool of connections, and one fetch that takes them all."""

import asyncio
from itertools import cycle

import nats
from _harness import run

from opentelemetry import trace

tracer = trace.get_tracer("importer")


async def main(url: str) -> None:
    pool = [await nats.connect(url) for _ in range(2)]
    first = pool[0].jetstream()
    await first.add_stream(name="readings", subjects=["readings.*"])

    with tracer.start_as_current_span("import readings"):
        connections = cycle([client.jetstream() for client in pool])
        acknowledgements = [
            await next(connections).publish_async(f"readings.{sensor}", b"21.5")
            for sensor in ("kitchen", "cellar", "attic", "garden")
        ]
        await asyncio.gather(*acknowledgements)

    readings = await first.pull_subscribe("readings.*", durable="archive")
    for msg in await readings.fetch(4, timeout=5):
        await msg.ack()
    for client in pool:
        await client.close()


if __name__ == "__main__":
    run(main)
