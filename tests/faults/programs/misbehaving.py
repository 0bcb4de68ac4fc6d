# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A program that does something else when it is instrumented, in the way that it is told to."""

from __future__ import annotations

import sys
from typing import Any

from faults.world import World

SECRET = "secret-of-mine"


async def main(world: World) -> Any:
    """Misbehaves."""
    way = world.parameters["way"]
    nc = await world.connect()
    if "opentelemetry.instrumentation.nats" in sys.modules:
        await _misbehave(world, nc, way)
    await nc.publish("one", b"hello")
    await nc.close()
    return {"one": way == "result" and "opentelemetry.instrumentation.nats" in sys.modules}


async def _misbehave(world: World, nc: Any, way: str) -> None:
    from opentelemetry import baggage, context  # noqa: PLC0415
    from opentelemetry.instrumentation.nats import _faults  # noqa: PLC0415

    if way == "frame":
        await nc.publish("another", b"")
    elif way == "header":
        await nc.publish("one", b"", headers={"traceparent": "ours"})
    elif way == "context":
        context.attach(baggage.set_baggage("left", "behind"))
        world.check_context("here")
    elif way == "fault":
        try:
            raise ValueError("a fault")
        except ValueError:
            _faults.report("a place")
    elif way == "secret":
        await nc.publish(SECRET, b"")
