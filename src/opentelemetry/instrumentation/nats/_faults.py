# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What happens to a fault of our own, or of a hook, sampler or propagator that we call.

A user's publish must not fail because telemetry did: a fault is logged once per place and swallowed. The test suite
sets `raise_faults`, so that the same fault fails a test.
"""

from __future__ import annotations

import sys
from asyncio import CancelledError
from logging import WARNING, getLogger
from typing import Any

from opentelemetry.instrumentation.nats import _texts

_logger = getLogger(__name__)

FAULTS = (Exception, CancelledError)
"""What a fence around plain functions keeps from the user. Nobody cancels those: one that raises `CancelledError` has
looked at a future that was."""

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
    error = sys.exc_info()[1]
    if error is None or not _logger.isEnabledFor(WARNING):
        return
    try:
        stand_in = _stand_in(error)
        record = _logger.makeRecord(
            _logger.name,
            WARNING,
            __file__,
            0,
            "nats instrumentation: %s failed; messages go on, telemetry may be missing (logged once)",
            (where,),
            (type(stand_in), stand_in, None),
        )
        record.exc_text = _texts.stack_trace(error)  # what formatters write
        _logger.handle(record)
    except FAULTS:
        pass  # a program's own filter or handler of log records


def _stand_in(error: BaseException) -> BaseException:
    """Makes what a log handler is given for an exception: of its class, and with its message as far as that may leave.

    Handlers other than a stream's write the exception themselves, with everything that it quotes.
    """
    message = _texts.message_of(error)
    cls = type(error)

    def nothing(_: Any) -> None: ...

    def say(_: Any) -> str:
        return message

    body = {"__init__": nothing, "__str__": say, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    try:
        shadow = type(cls.__name__, (cls,), body)
        return shadow.__new__(shadow)
    except FAULTS:
        return Exception(message)  # a class that wants no subclasses, or arguments


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
