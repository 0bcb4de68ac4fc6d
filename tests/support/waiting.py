# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Waiting for a condition, which is the only kind of waiting that the tests do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client

FIRST_PAUSE = 0.001
LONGEST_PAUSE = 0.02


async def eventually(condition: Callable[[], Any], timeout: float = 5.0, what: str = "the condition") -> Any:
    """Waits until `condition` returns something true.

    Args:
        condition: Called again and again, in the task that waits.
        timeout: Seconds before giving up.
        what: What is waited for, for the failure.

    Returns:
        What `condition` returned.

    Raises:
        AssertionError: The time is up.
    """
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout} s")
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
    return result


def wait(condition: Callable[[], Any], timeout: float = 5.0, what: str = "the condition") -> Any:
    """Waits as `eventually` does, where there is no event loop."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout} s")
        time.sleep(LONGEST_PAUSE)
    return result


async def flush(nc: Client) -> None:
    """Waits until the server has taken in all that a client sent: its subscriptions, above all.

    `nc.flush()` once is not enough: nats-py writes its PING before what still waits to be written.
    """
    await nc.flush()
    await nc.flush()
