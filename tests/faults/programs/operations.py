# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Every operation once, each over a connection of its own: what it returns or raises, and what goes over the wire."""

from __future__ import annotations

from typing import Any

from faults.cooking import cook
from faults.normal import plain
from faults.recipes import RECIPES
from faults.world import World


async def main(world: World) -> Any:
    """Runs the operations that the parameters name."""
    results: dict[str, Any] = {}
    for number, method in enumerate(world.parameters["methods"]):
        async with cook(world, RECIPES[method], f"op-{number}") as operation:
            try:
                results[method] = plain(await operation())
            except Exception as error:
                results[method] = plain(error)
            # Results are kept until here: a loop's last body must not need the garbage collector to end.
            world.check_context(method)
    world.figures(load=f"{len(results)} operations", faults="-", lost=0, doubled=0)
    return results
