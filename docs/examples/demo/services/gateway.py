# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Takes orders over HTTP and announces each one on NATS.

An order is a `POST /orders` with `{"article": "apple", "quantity": 3}`.
"""

import asyncio
import itertools
import json
import os
import re
import signal

import nats


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    nc = await nats.connect(os.environ["NATS_URL"], name="gateway")
    ids = itertools.count(1001)

    async def on_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if head.startswith(b"POST /orders ") and length:
            order = json.loads(await reader.readexactly(int(length[1])))
            order["id"] = str(next(ids))
            await nc.publish(f"orders.{order['id']}.created", json.dumps(order).encode())
            status, body = "202 Accepted", json.dumps(order).encode()
        else:
            status, body = "404 Not Found", b"{}"
        answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(answer.encode() + body)
        await writer.drain()
        writer.close()

    http = await asyncio.start_server(on_request, "127.0.0.1", int(os.environ.get("PORT", "0")))
    host, port = http.sockets[0].getsockname()
    print(f"ready on http://{host}:{port}", flush=True)

    await stop.wait()
    http.close()
    await nc.drain()


if __name__ == "__main__":
    asyncio.run(main())
