# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Request and reply: an answer, one that needs another service, and a question that nobody listens to."""

import nats
from _harness import run
from nats.aio.msg import Msg
from nats.errors import NoRespondersError


async def main(url: str) -> None:
    client = await nats.connect(url)

    async def tax(msg: Msg) -> None:
        await msg.respond(b"0.19")

    async def price(msg: Msg) -> None:
        rate = await client.request("taxes.de", b"")
        await msg.respond(str(10 * (1 + float(rate.data))).encode())

    await client.subscribe("taxes.*", cb=tax)
    await client.subscribe("prices.*", cb=price)

    await client.request("prices.8812", b"")
    try:
        await client.request("weather.today", b"")
    except NoRespondersError:
        pass
    await client.drain()


if __name__ == "__main__":
    run(main)
