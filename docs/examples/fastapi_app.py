# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""FastAPI to NATS to a worker: the HTTP request, the message and the work on it are one trace."""

import asyncio
from http.client import HTTPConnection

import nats
import uvicorn
from _harness import run
from fastapi import FastAPI
from nats.aio.msg import Msg

from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor


def shop(client: nats.NATS) -> FastAPI:
    app = FastAPI()

    @app.post("/orders/{number}")
    async def post_order(number: int) -> dict[str, int]:
        await client.publish(f"orders.{number}.created", b"{}")
        return {"order": number}

    return app


async def main(url: str) -> None:
    client = await nats.connect(url)
    billed = asyncio.Event()

    async def bill(msg: Msg) -> None:
        await client.publish("invoices.created", msg.data)
        billed.set()

    await client.subscribe("orders.*.created", queue="billing", cb=bill)

    app = shop(client)
    FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    address = server.servers[0].sockets[0].getsockname()
    await asyncio.to_thread(HTTPConnection(*address).request, "POST", "/orders/8812")
    await billed.wait()
    server.should_exit = True
    await serving
    await client.drain()


if __name__ == "__main__":
    run(main)
