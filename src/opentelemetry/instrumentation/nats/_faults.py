# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What happens to a fault of our own, or of a hook, sampler or propagator that we call.

A user's publish must not fail because telemetry did: a fault is logged once per place and swallowed. The test suite
sets `raise_faults`, so that the same fault fails a test.
"""

from __future__ import annotations

from logging import getLogger

_logger = getLogger(__name__)

raise_faults = False
"""Whether `report` raises what it is told of; only the test suite sets it."""

_reported: set[str] = set()


def report(where: str) -> None:
    """Logs the exception being handled, the first time that one comes from `where`.

    Must be called from an `except` block.

    Args:
        where: The place in the words of a user, "the publish hook" for one. From a fixed set: it is remembered.

    Raises:
        Exception: The exception being handled, when `raise_faults` is set.
    """
    if raise_faults:
        raise  # noqa: PLE0704 (there is one: we are called from an except block)
    if where in _reported:
        return
    _reported.add(where)
    _logger.warning(
        "nats instrumentation: %s failed; messages go on, telemetry may be missing (logged once)", where, exc_info=True
    )


def lost(name: str, costs: str) -> None:
    """Logs, the first time, that a name which we read of nats-py is not there: a later release has renamed it.

    Args:
        name: The name, with its class.
        costs: What is missing without it, in the words of a user.

    Raises:
        LookupError: When `raise_faults` is set.
    """
    if raise_faults:
        raise LookupError(f"nats-py has no {name}")
    if name in _reported:
        return
    _reported.add(name)
    _logger.warning("nats instrumentation: this nats-py has no %s; without it %s (logged once)", name, costs)
