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
from opentelemetry.instrumentation.nats._calls import API_PREFIX, Call, current_call, own_mark
from opentelemetry.instrumentation.nats._connection import REQUEST, Channel
from opentelemetry.instrumentation.nats._patches._patching import MakeInner, Replaced, Rows
from opentelemetry.instrumentation.nats._telemetry import ActiveOperation, Failure, ObservedCall, Telemetry, suppressed
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

Answer = Callable[[Any, Any], "Failure | None"]
"""Given the result of a call and the operation, writes what they tell (and what was found out inside) into the span of
an `ActiveOperation` or the attributes of an `ObservedCall`; returns a failure that is no exception."""

Consumed = Callable[[Any], Sequence[Any]]
"""Finds in the result of a call what the application has consumed by it: messages, entries, infos of objects."""

Start = Callable[..., Call]
"""Starts the operation of a call, given the telemetry, the instance, the current context, and the call's arguments as
they were given. Returns the operation, or where there is nothing to record the mark alone."""


def the_result(result: Any) -> Sequence[Any]:
    """Says that it is the result itself that was consumed."""
    return (result,)


def traced(telemetry: Telemetry) -> bool:
    """Tells whether a call is the user's own, and is to be traced."""
    return (telemetry.listening or not telemetry.idle()) and current_call() is None and not suppressed(get_current())


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
    prefix = getattr(js, "_prefix", "$JS.API")
    return API_PREFIX if prefix == "$JS.API" else f"{prefix}."


def unrecorded(channel: Channel, context: Context) -> Call:
    """Returns the mark of a send that the user excluded: its message carries the context on, where its subject may."""
    return Call(context if channel.carries_context else None)


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


def row(owner: Any, name: str, wrapper: Callable[..., Replaced], start: Callable[..., Call], *rest: Any) -> Rows:
    """Makes the row of a method whose `Start` reads its arguments by name.

    Args:
        owner: The class that defines the method.
        name: The method's name.
        wrapper: `sending`, `observing`, or another function that takes a `Start`.
        start: The `Start`; called with the `Arguments` in front.
        rest: The wrapper's other arguments.

    Returns:
        The row; no row where this version of nats-py lacks the method.
    """
    method = owner.__dict__.get(name)
    return [] if method is None else [(owner, name, wrapper(partial(start, Arguments(method)), *rest))]


Succeeded = Callable[[Any, "Failure | None", Any, Any], None]
"""Records that an operation is over, given the operation, the failure that its answer told, the instance and the
result."""

Failed = Callable[[Any, BaseException], None]
"""Records what an operation has failed with."""


def running(
    start: Start,
    failed: Failed,
    succeeded: Succeeded | None = None,
    answer: Answer | None = None,
    make_inner: MakeInner | None = None,
) -> Replaced:
    """Runs a method as a user's call.

    Args:
        start: Starts the operation; called when the coroutine is awaited, which may be later than it is made.
        failed: Records the exception.
        succeeded: Records that it is over; None to end the operation.
        answer: Reads the result.
        make_inner: Makes what runs instead inside of a call that follows the method, see `Replaced`.
    """

    def make(telemetry: Telemetry, original: Callable[..., Any], find: Callable[[Any], Any]) -> Callable[..., Any]:
        async def run(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
            context = get_current()
            if (not telemetry.listening and telemetry.idle()) or (context and suppressed(context)):
                return await original(instance, *args, **kwargs)
            mark = own_mark()
            if mark.call is not None:
                return await find(instance)(*args, **kwargs)
            try:
                call: Any = start(telemetry, instance, context, *args, **kwargs)
            except Exception as error:
                call = _not_started(error, original, instance, args, kwargs)
            mark.call = call
            try:
                result = await original(instance, *args, **kwargs)
            except BaseException as error:
                mark.call = None
                if call.recorded:
                    failed(call, error)
                raise
            mark.call = None
            if call.recorded:
                failure = None
                if answer is not None:
                    try:
                        failure = answer(result, call)
                    except Exception:
                        _faults.report("reading an answer")
                if succeeded is None:
                    # As `call.end` does, without the time that calling it takes.
                    telemetry.end(call.channel, call.span, call.context, call.started, failure)
                else:
                    succeeded(call, failure, instance, result)
            return result

        return run

    return Replaced(make, make_inner)


def sending(start: Start, answer: Answer | None = None) -> Replaced:
    """Traces a method that sends the user's message somewhere inside.

    Args:
        start: Starts the operation.
        answer: Reads the result.
    """
    return running(start, not_sent, None, answer)


def not_sent(operation: ActiveOperation, error: BaseException) -> None:
    """Records what a send has failed with."""
    # Also where no answer came: it finds the other half of a request that timed out.
    if operation.reply and operation.channel.operation is REQUEST:
        operation.span.set_attribute(messaging.MESSAGING_MESSAGE_CONVERSATION_ID, operation.reply)
    operation.end(error)


def observing(
    start: Start,
    answer: Answer | None = None,
    *,
    absent: tuple[type[BaseException], ...] = (),
    links: bool = False,
    consumed: Consumed | None = None,
    make_inner: MakeInner | None = None,
) -> Replaced:
    """Traces a method whose span is made when it is over.

    Args:
        start: Starts the operation; not started where the call makes no span.
        answer: Reads the result.
        absent: The exceptions that say that what was looked for does not exist.
        links: Whether to link to the writers of what is read inside.
        consumed: Finds what the consume hook is to see.
        make_inner: Makes what runs instead inside of a call that follows the method, see `Replaced`.
    """

    def observed(
        call: ObservedCall, failure: BaseException | Failure | None, _: Any = None, result: Any = None
    ) -> None:
        telemetry = call.telemetry
        writers = telemetry.stored_links(call.stored) if links and call.stored else ()
        messages = () if consumed is None or result is None else consumed(result)
        # As `call.end` does, without the time that calling it takes.
        telemetry.observed(
            call.channel, call.attributes, writers, call.parent, call.started, call.started_at, failure, messages
        )

    def failed(call: ObservedCall, error: BaseException) -> None:
        none = isinstance(error, absent)
        if none and getattr(error, "entry", None) is None:
            call.stored = ()  # nats-py has found something, but not what it was asked for
        observed(call, None if none else error)

    return running(start, failed, observed, answer, make_inner)


def _not_started(
    error: Exception, original: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Call:
    """Returns the mark alone, where an operation could not be started, and reports why.

    Args:
        error: Why.
        original: nats-py's own function. Where it takes no such arguments either, it will say so in its own words.
        instance: What it is a method of.
        args: Its arguments.
        kwargs: Its arguments.
    """
    if not isinstance(error, TypeError) or _takes(original, instance, *args, **kwargs):
        _faults.report("starting an operation")
    return Call()


def _takes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True
