# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Takes prices and orders over HTTP: the prices go into a key-value bucket, each order into a stream.

`PUT /prices` with `{"apple": 30}`, `POST /orders` with `{"article": "apple", "quantity": 3}`.
"""

import asyncio
import itertools
import json
import os
import signal

import nats
from aiohttp import web


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    nc = await nats.connect(os.environ["NATS_URL"], name="gateway")
    js = nc.jetstream()
    await js.add_stream(name="orders", subjects=["orders.*.created"])
    prices = await js.create_key_value(bucket="prices")
    ids = itertools.count(1001)

    async def put_prices(request: web.Request) -> web.Response:
        for article, price in (await request.json()).items():
            await prices.put(article, str(price).encode())
        return web.Response(status=204)

    async def post_order(request: web.Request) -> web.Response:
        order = {"id": str(next(ids)), **await request.json()}
        await js.publish(f"orders.{order['id']}.created", json.dumps(order).encode())
        return web.json_response(order, status=202)

    app = web.Application()
    app.add_routes([web.put("/prices", put_prices), web.post("/orders", post_order)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ.get("PORT", "0"))).start()
    host, port = runner.addresses[0][:2]
    print(f"ready on http://{host}:{port}", flush=True)

    await stop.wait()
    await runner.cleanup()
    await nc.drain()


if __name__ == "__main__":
    asyncio.run(main())
