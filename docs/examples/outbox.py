# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""An outbox: events are stored with the order they belong to, and published later by a relay.

The stored headers carry the context of the transaction. The relay's publish span keeps out of the way: it links to that
context, and the consumer's span is under it.
"""

import asyncio
import json
import sqlite3

import nats
from _harness import run
from nats.aio.msg import Msg

from opentelemetry import propagate, trace

tracer = trace.get_tracer("shop")


def order(database: sqlite3.Connection) -> None:
    with tracer.start_as_current_span("checkout"), database:
        headers: dict[str, str] = {}
        propagate.inject(headers)
        event = ("orders.8812.created", json.dumps(headers), b"{}")
        database.execute("INSERT INTO outbox (subject, headers, payload) VALUES (?, ?, ?)", event)


async def relay(database: sqlite3.Connection, client: nats.NATS) -> None:
    js = client.jetstream()
    for number, subject, headers, payload in database.execute("SELECT rowid, * FROM outbox").fetchall():
        # A row that is relayed twice is stored once.
        await js.publish(subject, payload, headers={**json.loads(headers), "Nats-Msg-Id": str(number)})
        with database:
            database.execute("DELETE FROM outbox WHERE rowid = ?", (number,))


async def main(url: str) -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE outbox (subject TEXT, headers TEXT, payload BLOB)")
    client = await nats.connect(url)
    js = client.jetstream()
    await js.add_stream(name="orders", subjects=["orders.>"])
    processed = asyncio.Event()

    async def on_order(msg: Msg) -> None:
        await client.publish("invoices.created", msg.data)
        processed.set()

    await js.subscribe("orders.>", durable="billing", cb=on_order)
    order(database)
    await relay(database, client)
    await processed.wait()
    await client.drain()


if __name__ == "__main__":
    run(main)
