# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs a program of `programs/` in this process: `python -m faults.child NAME MODE PARAMETERS`, see `harness`.

The last line that it writes is JSON: what the program returned, and what the instrumentation did meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any

from faults.world import World

BARE, ON, ALL, PROPAGATION = "bare", "on", "all", "propagation only"
MODES = (BARE, ON, ALL, PROPAGATION)

END_TIMEOUT = 20.0


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Makes the loop that a program runs in: asyncio's, one with eager tasks, or uvloop's."""
    loop = import_module("uvloop").new_event_loop() if kind == "uvloop" else asyncio.new_event_loop()
    if kind == "eager":
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def run(program: Callable[[World], Any], world: World) -> Any:
    """Runs a program: a coroutine in a loop of its kind, what is none as it is."""
    result = program(world)
    return run_in_loop(result, world) if asyncio.iscoroutine(result) else result


def run_in_loop(coroutine: Coroutine[Any, Any, Any], world: World) -> Any:
    """Runs a coroutine in a loop of its own."""
    loop = new_loop(world.parameters.get("loop", "asyncio"))
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class Watched:
    """The instrumentation, and all that must not be: faults, spans left open, contexts left behind, secrets.

    Args:
        mode: On, with all options, or with propagation only.
        world: The program's.
    """

    def __init__(self, mode: str, world: World) -> None:
        # Not at the top: a bare run shall have nothing of it.
        from faults.options import AMBIENT, OPTIONS_OF  # noqa: PLC0415
        from faults.watching import Recorder  # noqa: PLC0415

        if mode == ALL:
            os.environ["OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"] = "logs/dup"  # what `logger_provider` is for
        self._recorder = Recorder(OPTIONS_OF[mode], AMBIENT[mode], world.parameters.get("secrets", ()))
        self._recorder.instrument()
        world.check_context = self._recorder.check_context
        world.switch = self._recorder.switch

    def report(self) -> dict[str, Any]:
        """What there was."""
        return self._recorder.report(END_TIMEOUT)


def main() -> None:
    """Runs the program that the arguments name."""
    name, mode, parameters = sys.argv[1:]
    world = World(json.loads(parameters))
    program = import_module(f"faults.programs.{name}").main
    watched = None if mode == BARE else Watched(mode, world)
    if mode == BARE:
        assert not any(module.startswith("opentelemetry.instrumentation.nats") for module in sys.modules)
    result = run(program, world)
    gc.collect()
    print(json.dumps({"result": result, "errors": Counter(world.errors), "report": watched and watched.report()}))


if __name__ == "__main__":
    main()
