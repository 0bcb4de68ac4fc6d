# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The user's call that is running in this task, so that what nats-py calls below it makes no spans of its own.

`kv.put` calls `js.publish` calls `nc.request` calls `nc.publish`: four public methods, one user call. A mark in a
context variable tells the inner three. But tasks inherit context variables, and nats-py starts tasks inside such calls
that run for ever (the callback task of a subscription, for one): a plain mark would silence all that a handler does.
So the mark names the one task that it is meant for, and is taken back when the call is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import get_ident
from typing import Any
from weakref import ref

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._operations import Prototype
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._providers import running_loop, task_of

API_PREFIX = "$JS.API."
"""What the subjects of requests to JetStream begin with, unless a context has a prefix of its own."""


class Call:
    """A user's call to nats-py while it runs, and what its inner calls should know or have found out.

    Attributes:
        recorded: Whether it is an operation, of which spans and metrics tell, and not the mark alone.
        prototype: Of an operation: what it is about.
        context: What a message published inside carries in its headers; None for nothing.
        injects: Whether it does; not when its sender chose another context, or its subject shall carry none.
        has_id: Whether the user gave the message that is sent an id.
        api_prefix: Subjects under it, or under one of them, are not the user's message but requests to JetStream, or
            chunks of an object.
        follows: The name of the one method of nats-py's whose calls inside are noted, or changed, on its behalf.
        origin: Where the messages of a subscription made inside come from.
        reply: Found out: the reply subject of the last message published inside.
        stored: Found out: the headers of the stored messages that were read inside, each with what its link is to say.
        refusal: Found out: why the server ended a pull request.
    """

    # On the class, because few calls have them, and each one set costs every call.
    recorded: bool = False
    prototype: Prototype | None = None
    context: Context | None = None
    injects: bool = True
    has_id: bool = False
    api_prefix: str | tuple[str, ...] = API_PREFIX
    follows: str = ""
    origin: Origin | None = None
    reply: str = ""
    stored: Sequence[tuple[Any, Attributes | None]] = ()
    refusal: str = ""

    def __init__(self, context: Context | None = None, api_prefix: str | tuple[str, ...] = API_PREFIX) -> None:
        self.context = context
        self.api_prefix = api_prefix
        if context is not None:
            self.follows = "publish"


# Stands for the loop where none is running.
_NO_LOOP: Any = object()


def no_task() -> None:
    """Finds the task of what runs in none."""


class Mark:
    """What one task is inside of. It serves all calls of the task, because to set a context variable takes longer.

    Attributes:
        call: The call that is running, or None.
        loop: The task's event loop.
        task: The task's number.
        reference: Finds the task, as long as it is there; None where there is none.
    """

    __slots__ = ("call", "loop", "reference", "task", "thread")

    def __init__(self) -> None:
        self.call: Call | None = None
        self.thread = get_ident()
        self.loop = running_loop() or _NO_LOOP
        # Its number, because the task has the context that has us. Another task may get the same number, once this
        # one is gone, and with it its calls.
        task = task_of(self.loop)
        self.task = id(task)
        self.reference: Callable[[], asyncio.Task[Any] | None] = no_task if task is None else ref(task)

    def is_ours(self) -> bool:
        """Tells whether it is that of the running task, and not of one that the context was inherited from."""
        # Not the running loop, which costs a system call before Python 3.12, but that of the mark: only a thread that
        # has inherited it may run another one, or none.
        return self.thread == get_ident() and self.task == id(task_of(self.loop))


_mark: ContextVar[Mark | None] = ContextVar("opentelemetry_nats_mark", default=None)

get_mark = _mark.get
"""Returns the mark of the running task, or of one that the context was inherited from, or None."""


def current_call() -> Call | None:
    """Returns the call that the running task is inside of, or None."""
    mark = get_mark()
    return mark.call if mark is not None and mark.call is not None and mark.is_ours() else None


def own_mark() -> Mark:
    """Returns the mark of the running task. Who sets its `call` also sets it to None again, when the call is over."""
    mark = get_mark()
    # As `mark.is_ours` does: to call it would be 12 instructions for each method that a call goes through, 1.5 % of a
    # recorded `kv.get`.
    if mark is None or mark.thread != get_ident() or mark.task != id(task_of(mark.loop)):
        mark = Mark()
        _mark.set(mark)
    return mark


@contextmanager
def outside() -> Generator[None]:
    """Lets the user's code, which nats-py or we run in the middle of a call, be outside of it."""
    mark = own_mark()
    call = mark.call
    mark.call = None
    try:
        yield
    finally:
        mark.call = call
