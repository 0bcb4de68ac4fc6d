# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""TLS and credentials: spans name the server, and nothing of what opens it."""

import logging
import ssl
import tempfile
from functools import partial
from pathlib import Path

import nats
from _credentials import Secrets, make_secrets
from _harness import run
from nats.aio.msg import Msg

logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of how nats-py ends a TLS connection


async def main(secrets: Secrets, url: str) -> None:
    client = await nats.connect(
        url,
        tls=ssl.create_default_context(cafile=secrets.authority),
        user_credentials=str(secrets.credentials),
    )

    async def price(msg: Msg) -> None:
        await msg.respond(b"9.90")

    await client.subscribe("prices.*", cb=price)
    await client.request("prices.8812", b"")
    await client.drain()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        secrets = make_secrets(Path(folder))
        run(partial(main, secrets), config=secrets.config)
