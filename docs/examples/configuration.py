# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Configuration in a key-value bucket: a program watches it while it is updated, updated too late, and deleted."""

import nats
from _harness import run
from nats.js.errors import KeyWrongLastSequenceError


async def main(url: str) -> None:
    client = await nats.connect(url)
    js = client.jetstream()
    settings = await js.create_key_value(bucket="settings", history=5)

    revision = await settings.put("limits.rate", b"100")
    watcher = await settings.watch("limits.*")
    await settings.get("limits.rate")
    await settings.update("limits.rate", b"200", last=revision)
    try:
        await settings.update("limits.rate", b"300", last=revision)
    except KeyWrongLastSequenceError:
        pass
    await settings.delete("limits.rate")

    async for change in watcher:
        if change is None:  # everything that was there before has been seen
            continue
        await client.publish("settings.applied", change.key.encode())
        if change.operation == "DEL":
            break
    await watcher.stop()
    await client.close()


if __name__ == "__main__":
    run(main)
