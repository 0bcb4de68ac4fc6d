# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""JSON and protobuf on one subject, told apart by a header; the context travels beside the payload."""

import asyncio
import json

import nats
from _harness import run
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from nats.aio.msg import Msg


def encode(order: dict[str, float], content_type: str) -> bytes:
    if content_type == "application/json":
        return json.dumps(order).encode()
    message = Struct()
    message.update(order)
    return message.SerializeToString()


def decode(msg: Msg) -> dict[str, float]:
    if msg.headers["Content-Type"] == "application/json":
        return json.loads(msg.data)
    return MessageToDict(Struct.FromString(msg.data))


async def main(url: str) -> None:
    client = await nats.connect(url)
    orders: asyncio.Queue[dict[str, float]] = asyncio.Queue()

    async def on_order(msg: Msg) -> None:
        orders.put_nowait(decode(msg))

    await client.subscribe("orders.created", cb=on_order)
    order = {"id": 8812.0, "quantity": 3.0}
    for content_type in ("application/json", "application/protobuf"):
        await client.publish("orders.created", encode(order, content_type), headers={"Content-Type": content_type})
        assert await orders.get() == order
    await client.drain()


if __name__ == "__main__":
    run(main, headers_included=["content-type"])
