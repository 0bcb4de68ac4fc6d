# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A JetStream work queue: done, done after a while, tried again, and given up with a dead letter."""

import nats
from _harness import run
from nats.aio.msg import Msg
from nats.js.api import RetentionPolicy


async def main(url: str) -> None:
    client = await nats.connect(url)
    js = client.jetstream()
    await js.add_stream(name="jobs", subjects=["jobs.*"], retention=RetentionPolicy.WORK_QUEUE)
    await js.add_stream(name="dead", subjects=["dead.>"])
    queue = await js.pull_subscribe("jobs.*", durable="workers")

    async def work_on(msg: Msg) -> None:
        if msg.subject == "jobs.convert":
            await msg.in_progress()  # it takes longer than the server waits for an answer
            await msg.ack()
        elif msg.subject == "jobs.upload" and msg.metadata.num_delivered == 1:
            await msg.nak(delay=0.05)
        elif msg.subject == "jobs.broken":
            await js.publish(f"dead.{msg.subject}", msg.data)
            await msg.term()
        else:
            await msg.ack()

    for job in ("resize", "convert", "upload", "broken"):
        await js.publish(f"jobs.{job}", b"{}")
    worked = 0
    while worked < 5:
        for msg in await queue.fetch(1, timeout=5):
            await work_on(msg)
            worked += 1
    await client.close()


if __name__ == "__main__":
    run(main)
