# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Files in an object store: one program puts a report there, another one is told and fetches it."""

import asyncio

import nats
from _harness import run
from nats.aio.msg import Msg


async def main(url: str) -> None:
    client = await nats.connect(url)
    reports = await client.jetstream().create_object_store("reports")
    fetched = asyncio.Event()

    async def on_report(msg: Msg) -> None:
        await reports.get(msg.data.decode())
        fetched.set()

    await client.subscribe("reports.ready", cb=on_report)
    await reports.put("2026-11.csv", b"article;sold\n" * 50_000)
    await client.publish("reports.ready", b"2026-11.csv")
    await fetched.wait()
    await client.drain()


if __name__ == "__main__":
    run(main)
