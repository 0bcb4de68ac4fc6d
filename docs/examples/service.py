# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A micro service: it answers, refuses with an error of its own, and fails."""

import nats
from _harness import run
from nats.micro import add_service
from nats.micro.request import Request


async def divide(request: Request) -> None:
    dividend, divisor = map(int, request.data.split())
    if divisor < 0:
        await request.respond_error("400", "the divisor must not be negative")
    else:
        await request.respond(str(dividend // divisor).encode())


async def main(url: str) -> None:
    client = await nats.connect(url)
    service = await add_service(client, name="calculator", version="1.0.0")
    await service.add_endpoint(name="divide", handler=divide)

    await client.request("divide", b"10 5")
    await client.request("divide", b"10 -5")
    await client.request("divide", b"10 0")

    await service.stop()
    await client.drain()


if __name__ == "__main__":
    run(main)
