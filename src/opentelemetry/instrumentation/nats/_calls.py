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
import sys
from asyncio import _get_running_loop  # pyright: ignore[reportPrivateUsage] (documented; None where the other raises)
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.context import Context

if TYPE_CHECKING:
    from opentelemetry.instrumentation.nats._attributes import Attributes
    from opentelemetry.instrumentation.nats._connection import Source


API_PREFIX = "$JS.API."
"""What the subjects of requests to JetStream begin with, unless a context has a prefix of its own."""


class Call:
    """A user's call to nats-py while it runs, and what its inner calls should know or have found out.

    Attributes:
        context: What a message published inside carries in its headers; None for nothing.
        api_prefix: Subjects under it, or under one of them, are not the user's message but requests to JetStream, or
            chunks of an object.
        source: What a subscription made inside belongs to.
        reply: Found out: the reply subject of the last message published inside.
        stored: Found out: the headers of the stored messages that were read inside, each with what its link is to say.
        refusal: Found out: why the server ended a pull request.
        task: The task that the call runs in, while it runs.
        loop: The loop of the task.
        thread: The thread of the loop.
    """

    # On the class, because few calls have them, and each one set costs every call.
    source: Source | None = None
    reply: str = ""
    stored: Sequence[tuple[Any, Attributes | None]] = ()
    refusal: str = ""
    task: asyncio.Task[Any] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    thread: int = 0

    def __init__(self, context: Context | None = None, api_prefix: str | tuple[str, ...] = API_PREFIX) -> None:
        self.context = context
        self.api_prefix = api_prefix


# `asyncio.current_task()` is written in Python before 3.12, and takes five times as long as what it looks into.
_task_of: Callable[[Any], asyncio.Task[Any] | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else cast("Any", asyncio.tasks)._current_tasks.get
)

_current: ContextVar[Call | None] = ContextVar("opentelemetry_nats_call", default=None)


def current_call() -> Call | None:
    """Returns the call that the running task is inside of, or None."""
    call = _current.get()
    if call is None or call.task is None:
        return None
    # Not the running loop, which costs a system call before Python 3.12, but that of the call: only a thread that has
    # inherited the mark may run another one, or none.
    return call if call.thread == get_ident() and call.task is _task_of(call.loop) else None


def enter(call: Call | None) -> Call | None:
    """Marks the running task as inside `call`; None marks it as outside of any, for user code that nats-py calls.

    Returns:
        What `leave` needs to restore.
    """
    previous = _current.get()
    if call is not None:
        loop = call.loop = _get_running_loop()
        if loop is not None:
            call.task = _task_of(loop)
            call.thread = get_ident()
    _current.set(call)
    return previous


def leave(call: Call | None, previous: Call | None) -> None:
    """Ends `call`, also for the tasks that inherited the mark."""
    if call is not None:
        call.task = None
    _current.set(previous)
