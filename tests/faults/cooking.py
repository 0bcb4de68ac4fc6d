# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""From a recipe to a call that can be made, and back to a server as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faults.recipes import Kitchen, Operation, Recipe
from faults.world import World
from support.server import delete_streams


@asynccontextmanager
async def cook(world: World, recipe: Recipe, name: str) -> AsyncIterator[Operation]:
    """Prepares an operation; closes its clients afterwards and deletes its streams.

    Args:
        world: The program's.
        recipe: The recipe.
        name: A name that no other operation has.
    """
    nc = await world.connect()
    kitchen = Kitchen(world, nc, name)
    try:
        yield await recipe(kitchen)
    finally:
        for client in (*kitchen.others, nc):
            await client.close()
        delete_streams(world.parameters["admin"])
