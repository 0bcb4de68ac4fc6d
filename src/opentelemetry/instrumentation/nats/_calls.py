# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The user's call that is running in this task, so that what nats-py calls below it makes no spans of its own.

`kv.put` calls `js.publish` calls `nc.request` calls `nc.publish`: four public methods, one user call. A mark in a
context variable tells the inner three. But tasks inherit context variables, and nats-py starts tasks inside such calls
that run for ever (the callback task of a subscription, for one): a plain mark would silence all that a handler does.
So the mark is an object that names the one task it is meant for, and forgets it when the call is over.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context

if TYPE_CHECKING:
    from opentelemetry.instrumentation.nats._attributes import Attributes
    from opentelemetry.instrumentation.nats._connection import Source
    from opentelemetry.instrumentation.nats._telemetry import ActiveOperation


class Call:
    """A user's call to nats-py while it runs, and what its inner calls should know or have found out.

    Attributes:
        context: What a message published inside carries in its headers; None for nothing.
        operation: The send operation whose hook sees that message.
        api_prefix: Subjects under it, or under one of them, are not the user's message but requests to JetStream, or
            chunks of an object.
        source: What a subscription made inside belongs to.
        has_id: Whether the user gave the message that is sent an id.
        reply: Found out: the reply subject of the last message published inside.
        stored: Found out: the headers of the stored messages that were read inside, each with what its link is to say.
        refusal: Found out: why the server ended a pull request.
    """

    __slots__ = ("api_prefix", "context", "has_id", "operation", "refusal", "reply", "source", "stored", "task")

    def __init__(
        self,
        context: Context | None = None,
        operation: ActiveOperation | None = None,
        api_prefix: str | tuple[str, ...] = "$JS.API.",
        source: Source | None = None,
    ) -> None:
        self.context = context
        self.operation = operation
        self.api_prefix = api_prefix
        self.source = source
        self.reply = ""
        self.has_id = False
        self.refusal = ""
        self.stored: list[tuple[Any, Attributes | None]] = []
        self.task: asyncio.Task[Any] | None = None


_current: ContextVar[Call | None] = ContextVar("opentelemetry_nats_call", default=None)


def current_call() -> Call | None:
    """Returns the call that the running task is inside of, or None."""
    call = _current.get()
    if call is None or call.task is None:
        return None
    try:
        return call if call.task is asyncio.current_task() else None
    except RuntimeError:
        return None  # a thread that has inherited the mark, and runs no task


def enter(call: Call | None) -> Call | None:
    """Marks the running task as inside `call`; None marks it as outside of any, for user code that nats-py calls.

    Returns:
        What `leave` needs to restore.
    """
    previous = _current.get()
    if call is not None:
        call.task = asyncio.current_task()
    _current.set(call)
    return previous


def leave(call: Call | None, previous: Call | None) -> None:
    """Ends `call`, also for the tasks that inherited the mark."""
    if call is not None:
        call.task = None
    _current.set(previous)
