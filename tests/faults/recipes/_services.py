# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.micro`."""

from __future__ import annotations

import asyncio
from typing import Any

from faults.recipes._kitchen import Kitchen, Operation, recipe, simple
from faults.world import PATIENCE


@recipe("Endpoint._start")
async def endpoint(kitchen: Kitchen) -> Operation:
    async def answer(request: Any) -> None:
        await asyncio.sleep(0)
        await request.respond(request.data.upper(), headers={"Own": "1"})

    async def operation() -> Any:
        service = await kitchen.service(answer)
        response = await kitchen.nc.request(kitchen.name, b"ping", timeout=PATIENCE)
        await service.stop()
        return response

    return operation


simple("Request.respond", Kitchen.request_in_hand, lambda _, request: lambda: request.respond(b"answer"))
simple(
    "Request.respond_error",
    Kitchen.request_in_hand,
    lambda _, request: lambda: request.respond_error("500", "refused", b"why"),
)
