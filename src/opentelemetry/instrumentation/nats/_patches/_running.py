# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Running one of nats-py's methods as one operation, whatever public methods it calls inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._calls import Call, current_call, own_mark
from opentelemetry.instrumentation.nats._contexts import ordinary, unended
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._observing import Consumed, Reading
from opentelemetry.instrumentation.nats._patches._replacing import Make, Row, Rows
from opentelemetry.instrumentation.nats._providers import get_current, suppressed
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry

Answer = Callable[[Any, Any], "Failure | None"]
"""Given the result of a call and the operation, writes what they tell (and what was found out inside) into the span of
a `Send` or the attributes of an `Observed`; returns a failure that is no exception."""

Start = Callable[..., Call]
"""Starts the operation of a call, given the telemetry, the instance, the current context, and the call's arguments as
they were given. Returns the operation, or where there is nothing to record the mark alone."""

Inner = Callable[..., Any]
"""What runs where nats-py calls a method inside of a call that follows it: given that call, nats-py's own function, the
instance and the arguments, it returns what is to be awaited."""

Succeeded = Callable[[Any, "Failure | None", Any, Any], None]
"""Records that an operation is over, given the operation, the failure that its answer told, the instance and the
result."""


def the_result(result: Any) -> Sequence[Any]:
    """Says that it is the result itself that was consumed."""
    return (result,)


def traced(telemetry: Telemetry) -> bool:
    """Tells whether a call is the user's own, and is to be traced."""
    return (telemetry.listening or not telemetry.idle()) and current_call() is None and not suppressed(get_current())


def steps(telemetry: Telemetry) -> bool:
    """Tells whether a loop is the user's own: traced, or without an SDK at least carrying on what others record."""
    return telemetry.enabled and current_call() is None and not suppressed(get_current())


class Arguments:
    """Reads arguments by name however they were given.

    Args:
        function: The function that they are given to.
    """

    __slots__ = ("_function", "_positions")

    def __init__(self, function: Any) -> None:
        self._function = function
        # Read at the first call: 50 signatures are a tenth of what `instrument()` takes.
        self._positions: dict[str, int] | None = None

    def get(self, args: tuple[object, ...], kwargs: dict[str, object], name: str) -> Any:
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


def row(
    owner: Any,
    name: str,
    wrapper: Callable[..., Make],
    start: Callable[..., Call],
    *rest: object,
    optional: bool = False,
) -> Rows:
    """Makes the row of a method whose `Start` reads its arguments by name.

    Args:
        owner: The class that defines the method; None where this nats-py has no such class.
        name: The method's name.
        wrapper: `sending`, `observing`, or another function that takes a `Start`.
        start: The `Start`; called with the `Arguments` in front.
        rest: The wrapper's other arguments.
        optional: Whether some release of nats-py that we know lacks the method.
    """
    method = None if owner is None else owner.__dict__.get(name)
    return [Row(owner, name, wrapper(partial(start, Arguments(method)), *rest), optional)]


def running(
    start: Start,
    answer: Answer | None = None,
    *,
    succeeded: Succeeded | None = None,
    reading: Reading | None = None,
    followed: str = "",
    inner: Inner | None = None,
) -> Make:
    """Runs a method as a user's call.

    Args:
        start: Starts the operation; called when the coroutine is awaited, which may be later than it is made.
        answer: Reads the result.
        succeeded: Records that it is over; None to let the operation end itself.
        reading: What is told of what the method reads.
        followed: The name by which calls follow the method.
        inner: What runs instead inside of a call that follows it.
    """

    def make(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
        async def run(self: object, *args: object, **kwargs: object) -> Any:
            if not telemetry.listening and telemetry.idle():
                return await original(self, *args, **kwargs)
            mark = own_mark()
            call: Any = mark.call
            if call is not None:  # it is nats-py that calls
                if inner is not None and call.follows == followed:
                    return await inner(call, original, self, *args, **kwargs)
                return await original(self, *args, **kwargs)
            context = get_current()
            plain = ordinary(context)
            if not plain and suppressed(context):
                return await original(self, *args, **kwargs)
            try:
                if not plain:
                    context = unended(context)
                call = start(telemetry, self, context, *args, **kwargs)
                if reading is not None:
                    call.reading = reading
            except FAULTS as error:
                call = _not_started(error, original, self, args, kwargs)
            mark.call = call
            try:
                result = await original(self, *args, **kwargs)
            except BaseException as error:
                mark.call = None
                if call.recorded:
                    try:
                        call.fail(error)
                    except FAULTS:
                        _faults.report("recording an operation")
                raise
            mark.call = None
            if call.recorded:
                failure = None
                if answer is not None:
                    try:
                        failure = answer(result, call)
                    except FAULTS:
                        _faults.report("reading an answer")
                try:
                    if succeeded is None:
                        call.succeed(failure, self, result)
                    else:
                        succeeded(call, failure, self, result)
                except FAULTS:
                    _faults.report("recording an operation")
            return result

        return run

    return make


def sending(start: Start, answer: Answer | None = None) -> Make:
    """Traces a method that sends the user's message somewhere inside.

    Args:
        start: Starts the operation, a `Send`.
        answer: Reads the result.
    """
    return running(start, answer)


def observing(
    start: Start,
    answer: Answer | None = None,
    *,
    absent: tuple[type[BaseException], ...] = (),
    links: bool = False,
    consumed: Consumed | None = None,
    followed: str = "",
    inner: Inner | None = None,
) -> Make:
    """Traces a method whose span is made when it is over.

    Args:
        start: Starts the operation, an `Observed`; not started where the call makes no span.
        answer: Reads the result.
        absent: The exceptions that say that what was looked for does not exist.
        links: Whether to link to the writers of what is read inside.
        consumed: Finds what the consume hook is to see.
        followed: The name by which calls follow the method.
        inner: What runs instead inside of a call that follows it.
    """
    reading = Reading(absent, links, consumed) if absent or links or consumed else None
    return running(start, answer, reading=reading, followed=followed, inner=inner)


def _not_started(
    error: BaseException,
    original: Callable[..., Any],
    instance: Any,
    args: tuple[object, ...],
    kwargs: dict[str, object],
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


def _takes(function: Callable[..., Any], *args: object, **kwargs: object) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True
