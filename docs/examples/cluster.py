# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A cluster of three servers, one of which fails: what comes after it is traced as what came before."""

import asyncio

import nats
from _harness import Servers, run
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from opentelemetry.instrumentation.utils import suppress_instrumentation


async def ignore(_: Exception) -> None:
    """The connection that is lost here is meant to be."""


async def ready(js: JetStreamContext) -> None:
    """Waits until the stream has a leader; its attempts make no spans."""
    with suppress_instrumentation():
        while True:
            try:
                await js.add_stream(name="orders", subjects=["orders.>"], num_replicas=3)
                await js.publish("orders.0.ready", b"")
                return
            except (nats.errors.Error, nats.js.errors.Error):
                await asyncio.sleep(0.1)


async def main(servers: Servers) -> None:
    client = await nats.connect(list(servers), reconnect_time_wait=0.1, error_cb=ignore)
    js = client.jetstream(timeout=1)
    await ready(js)
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def on_order(msg: Msg) -> None:
        seen.put_nowait(msg.subject)

    await js.subscribe("orders.*.created", durable="billing", cb=on_order)
    await js.publish("orders.8811.created", b"{}")
    await seen.get()

    # The server that the client is connected to ends at once, as in a crash.
    lost = client.connected_url.netloc
    servers[f"nats://{lost}"].kill()
    await ready(js)
    assert client.connected_url.netloc != lost

    await js.publish("orders.8812.created", b"{}")
    await seen.get()
    await client.close()


if __name__ == "__main__":
    run(main, nodes=3)
