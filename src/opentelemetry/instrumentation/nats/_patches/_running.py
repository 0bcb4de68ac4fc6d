# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Running one of nats-py's methods as one operation, whatever public methods it calls inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call, current_call, enter, leave
from opentelemetry.instrumentation.nats._connection import REQUEST, Channel
from opentelemetry.instrumentation.nats._patches._patching import Gated, Rows
from opentelemetry.instrumentation.nats._telemetry import ActiveOperation, Failure, Observation, Telemetry, suppressed
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

Answer = Callable[[Any, Call], "tuple[Attributes, Failure | None]"]
"""Reads the result of a call (and what was found out inside): the attributes, and a failure that is no exception."""

Consumed = Callable[[Any], Sequence[Any]]
"""Finds in the result of a call what the application has consumed by it: messages, entries, infos of objects."""


Start = Callable[[Telemetry, Any, Context, "tuple[Any, ...]", "dict[str, Any]"], Call]
"""Starts the operation of a call, given the instance, the current context and the call's arguments. Returns the
operation, or where there is nothing to record the mark alone."""


def the_result(result: Any) -> Sequence[Any]:
    """Says that it is the result itself that was consumed."""
    return (result,)


def outermost(telemetry: Telemetry) -> bool:
    """Tells whether a call is the user's own, and somebody listens."""
    return (telemetry.listening or not telemetry.idle()) and current_call() is None


def traced(telemetry: Telemetry) -> bool:
    """Tells whether a call is the user's own, and is to be traced."""
    return outermost(telemetry) and not suppressed(get_current())


def own_method(instance: Any, name: str) -> Callable[..., Any]:
    """Returns nats-py's own method, bound, from below our wrapper."""
    method = getattr(getattr(instance.__class__, name), "__wrapped__", None)
    # Somebody may have put something else on top of the wrapper, a mock for one.
    return getattr(instance, name) if method is None else method.__get__(instance)


def client_of(store: Any) -> Any:
    """Returns the client of a bucket; None where its JetStream context is a fake that has none."""
    return getattr(store._js, "_nc", None)


def api_prefix(js: Any) -> str:
    """Returns what the subjects of a context's requests to JetStream begin with."""
    return f"{getattr(js, '_prefix', '$JS.API')}."


class Arguments:
    """Reads arguments by name however they were given.

    Args:
        function: The function that they are given to.
    """

    __slots__ = ("_function", "_positions")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        # Read at the first call: 50 signatures are a tenth of what `instrument()` takes.
        self._positions: dict[str, int] | None = None

    def get(self, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        """Returns the argument, or None when it was not given (or does not exist in this version of nats-py)."""
        if name in kwargs:
            return kwargs[name]
        if not args:
            return None
        if self._positions is None:
            names = list(inspect.signature(self._function).parameters)[1:]
            self._positions = {name: position for position, name in enumerate(names)}
        position = self._positions.get(name)
        return args[position] if position is not None and position < len(args) else None


def rows_with_arguments(owner: Any, name: str, wrapper: Callable[..., Any], *before: Any) -> list[tuple[Any, str, Any]]:
    """Makes the row of a wrapper that reads its arguments by name.

    Args:
        owner: The class that defines the method.
        name: The method's name.
        wrapper: The wrapper; called with `before`, the `Arguments`, then as all wrappers are.
        before: What the wrapper is told besides.

    Returns:
        The row; no row where this version of nats-py lacks the method.
    """
    method = owner.__dict__.get(name)
    return [] if method is None else [(owner, name, partial(wrapper, *before, Arguments(method)))]


def traced_rows(owner: Any, name: str, wrapper: Callable[..., Any], *before: Any) -> Rows:
    """Makes the same row for a wrapper that is to be passed by where nothing is traced."""
    return [
        (owner, name, Gated(wrap, traced)) for owner, name, wrap in rows_with_arguments(owner, name, wrapper, *before)
    ]


def send_rows(owner: Any, name: str, start: Callable[..., Call], answer: Answer | None = None, *before: Any) -> Rows:
    """Makes the row of a method that sends, see `send_wrapper`, whose `Start` reads its arguments by name.

    Args:
        owner: The class that defines the method.
        name: The method's name.
        start: The `Start`; called with `before` and the `Arguments` in front.
        answer: Reads the result.
        before: What the `Start` is told besides.

    Returns:
        The row; no row where this version of nats-py lacks the method.
    """
    return [
        (owner, name, send_wrapper(bound, answer))
        for owner, name, bound in rows_with_arguments(owner, name, start, *before)
    ]


async def run_quietly(call: Call, wrapped: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs a call that is not traced, nor anything in it, under a mark."""
    previous = enter(call)
    try:
        return await wrapped(*args, **kwargs)
    finally:
        leave(call, previous)


def send_wrapper(start: Start, answer: Answer | None = None) -> Gated:
    """Makes the wrapper of a method that sends the user's message somewhere inside.

    Args:
        start: Starts the operation; called when the coroutine is awaited, which may be later than it is made.
        answer: Reads the result.
    """
    return Gated(partial(run_send, start, answer), outermost)


async def run_send(
    start: Start,
    answer: Answer | None,
    telemetry: Telemetry,
    wrapped: Callable[..., Any],
    instance: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Runs a call that sends the user's message somewhere inside.

    Args:
        start: Starts the operation.
        answer: Reads the result.
        telemetry: The telemetry.
        wrapped: nats-py's method.
        instance: What it is a method of.
        args: Its arguments.
        kwargs: Its arguments.

    Returns:
        What the method returns.
    """
    context = get_current()
    if context and suppressed(context):
        return await wrapped(*args, **kwargs)
    try:
        call = start(telemetry, instance, context, args, kwargs)
    except Exception:
        _faults.report("starting an operation")
        call = Call()
    operation = call if isinstance(call, ActiveOperation) else None
    previous = enter(call)
    try:
        result = await wrapped(*args, **kwargs)
    except BaseException as error:
        leave(call, previous)
        if operation is not None:
            if operation.channel.operation is REQUEST and call.reply:
                # Also where no answer came: it finds the other half of a request that timed out.
                operation.set({messaging.MESSAGING_MESSAGE_CONVERSATION_ID: call.reply})
            operation.end(error)
        raise
    leave(call, previous)
    if operation is not None:
        failure = None
        if answer is not None:
            try:
                attributes, failure = answer(result, call)
                operation.set(attributes)
            except Exception:
                _faults.report("reading an answer")
        operation.end(failure)
    return result


async def run_observed(
    telemetry: Telemetry,
    channel: Channel,
    attributes: Attributes | None,
    wrapped: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    answer: Answer | None = None,
    *,
    parent: Context | None = None,
    call: Call | None = None,
    absent: tuple[type[BaseException], ...] = (),
    links: bool = False,
    consumed: Consumed | None = None,
) -> Any:
    """Runs a call whose span is made when it is over.

    Args:
        telemetry: The telemetry.
        channel: The operation and what it is about.
        attributes: The span's attributes that are known before, in a dictionary that nobody else has.
        wrapped: nats-py's method.
        args: Its arguments.
        kwargs: Its arguments.
        answer: Reads the result.
        parent: The context that holds the parent; the current one by default.
        call: The mark for what is inside.
        absent: Exceptions by which nats-py says "there is none", which is an answer and no failure.
        links: Whether to link to the writers of the stored messages that were read inside.
        consumed: Finds in the result what was consumed, to be shown to the user's hook.

    Returns:
        What the method returns.
    """
    call = call or Call()
    observation = Observation(telemetry, get_current() if parent is None else parent)
    previous = enter(call)
    try:
        result = await wrapped(*args, **kwargs)
    except BaseException as error:
        leave(call, previous)
        none = isinstance(error, absent)
        if none and getattr(error, "entry", None) is None:
            call.stored = ()  # nats-py has found something, but not what it was asked for
        _finish(telemetry, observation, channel, attributes, call, links, None if none else error)
        raise
    leave(call, previous)
    failure = None
    if answer is not None:
        try:
            found, failure = answer(result, call)
            if attributes:
                attributes.update(found)
            else:
                attributes = found
        except Exception:
            _faults.report("reading an answer")
    _finish(telemetry, observation, channel, attributes, call, links, failure, consumed(result) if consumed else ())
    return result


def _finish(
    telemetry: Telemetry,
    observation: Observation,
    channel: Channel,
    attributes: Attributes | None,
    call: Call,
    links: bool,
    error: BaseException | Failure | None,
    messages: Sequence[Any] = (),
) -> None:
    all_attributes = {**channel.attributes, **attributes} if attributes else channel.attributes
    writers = telemetry.stored_links(call.stored) if links else ()
    observation.end(channel, all_attributes, writers, error, messages)
