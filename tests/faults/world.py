# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a program is given: where the server is, a way to say how far it is, and what it may not import by itself."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.client import Client

PATIENCE = 30.0
"""Seconds that a program waits for an answer of a server that runs: many, for a machine that is busy."""

SIGN = "@@"
"""What a line begins with that is meant for the harness."""


class World:
    """What a program is given.

    Args:
        parameters: What its test gives it, the server's URL under `url`.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.parameters = parameters
        self.url: str | list[str] = parameters["url"]
        self.random = random.Random(parameters.get("seed", 0))
        self.check_context: Callable[[str], None] = lambda where: None
        """Checks that no context has been left behind; bare there is none."""
        self.switch: Callable[[], None] = lambda: None
        """Takes the instrumentation away and puts it back; bare there is none."""
        self.errors: list[str] = []
        """What `error_cb` was told."""

    def say(self, kind: str, **more: Any) -> None:
        """Tells the harness something, above all how far the program is."""
        print(SIGN, json.dumps({"kind": kind, **more}), flush=True)

    def figures(self, **figures: Any) -> None:
        """Tells how much this run was, and what was lost: not compared, but shown."""
        self.say("figures", **figures)

    async def hear(self, kind: str) -> None:
        """Waits until the harness has said that."""
        loop = asyncio.get_running_loop()
        while (line := await loop.run_in_executor(None, sys.stdin.readline)).strip() != kind:
            assert line, f"the harness has gone before it said {kind}"

    async def connect(self, url: str | list[str] | None = None, **options: Any) -> Client:
        """Connects a client of the program's own."""
        client = Client()
        options = {"reconnect_time_wait": 0.05, "max_reconnect_attempts": -1, "error_cb": self._error, **options}
        await client.connect(url or self.url, **options)
        return client

    async def _error(self, error: Exception) -> None:
        self.errors.append(type(error).__name__)


async def until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Waits for a condition."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while not (result := condition()):
        assert loop.time() < deadline, f"{condition} did not come true within {patience} s"
        await asyncio.sleep(0.002)
    return result


RETRIED = (nats.errors.Error, asyncio.TimeoutError, OSError)
"""What a program goes on after, when its server has gone."""


INSISTENCE = 120.0
"""Seconds that a program tries again."""


async def insist(call: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
    """Calls until it works, as a program does that must not lose anything."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + INSISTENCE
    while True:
        try:
            return await call(*args, **kwargs)
        except RETRIED:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(0.02)
