# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Connects with what the server wants, does a bit of everything, and connects with what the server refuses."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from nats.aio.client import Client

from faults.normal import plain
from faults.world import PATIENCE, World

CLOSING = 5.0
"""Seconds."""


def _error(error: Exception) -> Any:
    # Which side of a broken handshake is the first to say so is a matter of chance.
    return "OSError" if isinstance(error, OSError) else plain(error)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    options = {key: value for key, value in given.items() if key not in ("ca", "certificate", "key", "url_password")}
    if "ca" in given:
        context = ssl.create_default_context(cafile=given["ca"] or None)
        if "certificate" in given:
            context.load_cert_chain(given["certificate"], given["key"])
        options["tls"] = context
    return options


async def main(world: World) -> Any:
    """Connects, and works.

    Returns:
        What it got.
    """
    parameters = world.parameters
    nc = await world.connect(**_options(parameters["options"]))
    js = nc.jetstream(timeout=PATIENCE)

    async def answer(message: Any) -> None:
        await message.respond(message.data.upper())

    await nc.subscribe("shout", cb=answer)
    results: dict[str, Any] = {"answer": plain(await nc.request("shout", b"ping", timeout=PATIENCE))}
    await js.add_stream(name="stream", subjects=["stream.>"], storage="memory")
    results["ack"] = plain(await js.publish("stream.one", b"hello", headers={"Own": "1"}))
    subscription = await js.pull_subscribe("stream.>", durable="worker")
    [message] = await subscription.fetch(1, timeout=PATIENCE)
    results["message"] = plain(message)
    await message.ack_sync(timeout=PATIENCE)
    bucket = await js.create_key_value(bucket="bucket", storage="memory")
    await bucket.put("key", b"value")
    results["value"] = plain(await bucket.get("key"))
    await nc.drain()
    refused = Client()
    told: list[Any] = []

    async def tell(error: Exception) -> None:
        told.append(_error(error))

    options = {**_options(parameters["wrong"]), "max_reconnect_attempts": 0, "allow_reconnect": False}
    try:
        await refused.connect(parameters["wrong_url"], error_cb=tell, connect_timeout=PATIENCE, **options)
        results["refused"] = "connected"
    except Exception as error:
        results["refused"] = _error(error)
    results["told"] = [each for number, each in enumerate(told) if each not in told[:number]]
    # After a handshake that failed, nats-py may wait for ever.
    await asyncio.wait([asyncio.ensure_future(refused.close())], timeout=CLOSING)
    world.check_context("after connecting")
    world.figures(load="5 operations, 2 connects", faults="1 refusal")
    return results
