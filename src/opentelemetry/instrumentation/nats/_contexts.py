# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Whose context is current: that of a piece of work on a message, and what it has replaced.

A `with` block puts back what it found. A loop can't: the loop that was entered first may be left first (`zip`), and an
async generator is closed in another task than the one that has its context. So a context knows its body; a body knows
whether it is over, which task it is in, and what was current before. Whoever asks what is current skips what is over.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from opcode import opmap
from types import FrameType
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats._calls import Mark, no_task
from opentelemetry.instrumentation.nats._propagation import BODY_KEY
from opentelemetry.instrumentation.nats._providers import (
    SPAN_KEY,
    SUPPRESSING,
    attach,
    context_of_task,
    get_current,
    running_loop,
    span_of,
    task_of,
)
from opentelemetry.trace import Span

REPLY_KEY = context_api.create_key("nats-handled-reply")
"""The key by which a context keeps the reply subject of the message being handled, see `handled_reply`."""

ACTIVATION_KEY = context_api.create_key("nats-activation")
"""The key by which a context that `next_msg()` made current keeps what was current before, see `activate_next_msg`."""


def _never(_: Context) -> bool:
    return False


ordinary: Callable[[Context], bool] = (
    frozenset({*SUPPRESSING, BODY_KEY, REPLY_KEY, ACTIVATION_KEY}).isdisjoint if SUPPRESSING else _never
)
"""Tells whether nothing in a context concerns us but its span and baggage: what is suppressed, a body, a reply."""


class Body:
    """A piece of the program's work on a message, whose context is current for as long as the piece lasts.

    The body of a loop and the block of `process_message` are one. A callback is none: it ends in the task that it began
    in, and in order.

    Args:
        mark: That of the task that it begins in.
        before: The context that it replaces.
        place: Where the loop is that it is one of; None where it is a block.

    Attributes:
        mark: That of the task that it is in.
        before: The context that it has replaced.
        place: Where its loop is.
        context: The context with its message's span; until there is one, what it replaces.
        over: Whether it has ended.
    """

    __slots__ = ("before", "context", "mark", "over", "place")

    def __init__(self, mark: Mark, before: Context, place: Place | None = None) -> None:
        self.mark = mark
        self.before = before
        below = body_of(before) if before else None
        if below is not None:
            # What has ended below it is of no use to anybody. Kept, all bodies that ever were would hang on this one.
            below.before = _ended_skipped(below.before, below.mark)
        self.place = place
        self.context = before
        self.over = False

    def leave(self) -> None:
        """Ends it: what was current before is current again, where its own context still is."""
        self.over = True
        mark = self.mark
        if get_current() is self.context:
            before = self.before
            attach(_ended_skipped(before, mark) if before else before)
        # As `mark.is_ours` does but for the thread: in another one there is nothing to put back.
        if mark.task != id(task_of(mark.loop)):
            self._leave_from_elsewhere()

    def _leave_from_elsewhere(self) -> None:
        """Gives the task that it is in its context back: Python closes an async generator in a task of its own."""
        mark = self.mark
        task = mark.reference()
        # Only from the thread that runs the task. Entered from another one, its context would stop it from running.
        if task is None or task.done() or mark.loop is not running_loop():
            return
        context = context_of_task(task)
        if context is not None:
            try:
                context.run(_put_back, mark)
            except RuntimeError:
                pass  # the running task is in it, too

    def is_abandoned(self) -> bool:
        """Tells whether its loop may never step again: stepped by hand, or in a task that is done."""
        if self.place is not None and self.place.by_hand:
            return True
        mark = self.mark
        if mark.reference is no_task:
            return False
        task = mark.reference()
        return task is None or task.done()

    def __repr__(self) -> str:
        return f"<body {'that is over' if self.over else f'under {span_of(self.context)!r}'}>"


def with_span(context: Context, span: Span, body: Body | None = None) -> Context:
    """Makes the context with a span from the one that is around it.

    Args:
        context: The context around it.
        span: The span.
        body: The body that the span is of, if it is of one.
    """
    if SPAN_KEY is None:
        context = trace.set_span_in_context(span, context)
        return context if body is None else Context({**context, BODY_KEY: body})
    # As that function does: to call it would be 12 instructions of a send or a callback, and 30 of a loop's step, 1 %.
    return Context({**context, SPAN_KEY: span} if body is None else {**context, SPAN_KEY: span, BODY_KEY: body})


def with_body(context: Context, body: Body) -> Context:
    """Makes the context of another piece of the same work."""
    return Context({**context, BODY_KEY: body})


def body_of(context: Context) -> Body | None:
    """Returns the innermost body that a context belongs to."""
    body: Any = context.get(BODY_KEY)
    return body


def handled_reply(context: Context) -> str | None:
    """Returns the reply subject of the message being handled, where nothing about it says that it is an inbox."""
    reply = context.get(REPLY_KEY)
    return reply if isinstance(reply, str) else None


def unended(context: Context) -> Context:
    """Returns the current context, see `ambient`.

    Args:
        context: The current context.
    """
    body: Any = context.get(BODY_KEY)
    return context if body is None or not body.over else _put_back()


def ambient() -> Context:
    """Returns the current context. Where that of a body was left behind in this task, what was before is put back."""
    context = get_current()
    return unended(context) if context else context


def _put_back(mark: Mark | None = None) -> Context:
    """Does what `ambient` says, where the current context belongs to a body.

    Args:
        mark: That of the task whose context it is; None for the running one.
    """
    current = get_current()
    body = body_of(current)
    # What a task has inherited, of a body that it was begun in, it keeps: its work belongs to that message.
    if body is None or not body.over or (body.mark is not mark and not body.mark.is_ours()):
        return current
    context = _ended_skipped(current, body.mark)
    if context is not current:
        attach(context)
    return context


# Python's own steps towards a loop; whoever calls `iter` instead may step two loops in turns.
_LOOPS = frozenset(opmap[name] for name in ("GET_ITER", "GET_AITER") if name in opmap)


class Place:
    """Where in the program a loop is, and which body it is inside of.

    Of loops that are stepped in turns none is inside of the other, though the body of one is current when the other
    begins and steps: `zip`, `heapq.merge`, two generators of the program's own.

    Args:
        frame: That of the function which the loop is in, or which has called `iter`.

    Attributes:
        by_hand: Whether it is no `for`: the program, or a library, calls `iter` and `next`.
        home: The body that the loop is inside of.
    """

    __slots__ = ("_frame", "by_hand", "home")

    def __init__(self, frame: FrameType) -> None:
        # Its number: the frame itself has all that its function has, the messages too.
        self._frame = id(frame)
        self.by_hand = frame.f_code.co_code[frame.f_lasti] not in _LOOPS
        context = get_current()
        self.home = self._find_home(context, frame) if context and BODY_KEY in context else None

    def _find_home(self, context: Context, frame: FrameType | None) -> Body | None:
        running: set[int] = set()
        while frame is not None:
            running.add(id(frame))
            frame = frame.f_back
        body = body_of(context)
        while body is not None and (place := body.place) is not None and body.mark.is_ours():
            # A generator that waits for its next step is not running, and nor is its loop's body.
            if not body.over and place._frame in running and not (self.by_hand and place.by_hand):
                break
            body = body_of(body.before)
        return body


def around(context: Context, mark: Mark, home: Body | None) -> Context:
    """Returns what is around the body of a loop that is about to begin: not the bodies of loops stepped in turns.

    Args:
        context: The current context; none of a body that is over.
        mark: That of the running task.
        home: The body that the loop is inside of.
    """
    while True:
        body = body_of(context)
        if body is None or body.mark is not mark or body is home or body.place is None:
            return context
        if span_of(context) is not span_of(body.context):
            return context  # the program has opened one of its own there
        context = _ended_skipped(body.before, mark)


def _ended_skipped(context: Context, mark: Mark) -> Context:
    """Returns the first context from here on down that does not belong to a body of that task which is over."""
    while True:
        body = body_of(context)
        if body is None or not body.over or body.mark is not mark:
            return context
        span = span_of(context)
        if span.is_recording() and span is not span_of(body.context):
            return context  # the program has opened one of its own there, and keeps it
        context = body.before


_failed: ContextVar[tuple[int, Context] | None] = ContextVar("opentelemetry_nats_failed", default=None)


def note_failure(error: BaseException, context: Context) -> None:
    """Notes in which context a handler has raised an exception, which nats-py is about to report in the same task."""
    # Its number, not the exception: that holds the handler's frames, and with them the message.
    _failed.set((id(error), context))


@contextmanager
def context_of_failure(error: object) -> Generator[None]:
    """Makes the context current that a handler has raised an exception in, if one has."""
    failed = _failed.get()
    if failed is None or failed[0] != id(error):
        yield
        return
    _failed.set(None)
    previous = get_current()
    attach(failed[1])
    try:
        yield
    finally:
        attach(previous)
