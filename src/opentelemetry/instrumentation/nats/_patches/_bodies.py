# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Handing messages to callbacks and to the handlers of services: a body that ends with its coroutine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import is_status
from opentelemetry.instrumentation.nats._contexts import note_failure, ordinary
from opentelemetry.instrumentation.nats._delivering import show, start_process
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._processing import Delivery
from opentelemetry.instrumentation.nats._propagation import extract
from opentelemetry.instrumentation.nats._providers import (
    attach,
    get_current,
    references,
    suppressed,
)
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry

_NO_CONTEXT = Context()

Handler = Callable[[Any], Awaitable[Any]]
"""A callback, or the handler of a service's endpoint."""

Explain = Callable[[Delivery, BaseException], "BaseException | Failure"]
"""Says what a handler has failed with, given the exception that it raised."""


def _itself(argument: Any) -> Any:
    return argument


def _raised(_: Delivery, error: BaseException) -> BaseException:
    return error


def trace_handler(
    telemetry: Telemetry,
    origin: Origin,
    handler: Handler,
    message_of: Callable[[Any], Any] = _itself,
    explain: Explain = _raised,
) -> Handler:
    """Makes the process span around a subscription's callback, or the handler of a service's endpoint.

    Args:
        telemetry: The telemetry.
        origin: The subscription, or the endpoint.
        handler: The user's coroutine function, which nats-py has accepted.
        message_of: Finds the message in what the handler is called with.
        explain: Says what an exception of the handler means.

    Returns:
        What nats-py is to call instead.
    """
    # Where contexts are all that we are for, a message without one must not be taken for that of its `subscribe()`.
    carries_nothing = telemetry.options.propagation_only

    async def traced(argument: Any) -> Any:
        message = argument if message_of is _itself else message_of(argument)
        if message is None:
            return await handler(argument)
        if not telemetry.listening and telemetry.idle():
            if telemetry.enabled and (message.headers or carries_nothing):
                return await _carry(handler, argument, message.headers)
            return await handler(argument)
        previous = get_current()
        if (not ordinary(previous) and suppressed(previous)) or (not message.data and is_status(message.headers, 0)):
            return await handler(argument)
        delivery = start_process(origin, message)
        if delivery is None:
            return await handler(argument)
        if telemetry.options.consume_hook is not None:
            show(delivery, message)
        held = delivery.awaits and references(message)
        context = delivery.context
        attach(context)
        try:
            result = await handler(argument)
        except BaseException as error:
            try:
                note_failure(error, context)
                # What nats-py gets is nobody's to settle any more.
                delivery.leave(None, explain(delivery, error), True)
            except FAULTS:
                _faults.report("ending a process span")
            raise
        finally:
            # Not only if ours is still current: the task goes on to the next message, and nothing that a handler
            # forgot to put back may be current there.
            attach(previous)
        try:
            # nats-py holds the message until the next one comes. If nobody else does, the program has let go of it.
            delivery.leave(None, delivery.failure, held is not False and references(message) <= held)
        except FAULTS:
            _faults.report("ending a process span")
        return result

    return traced


async def _carry(handler: Handler, argument: Any, headers: Any) -> Any:
    """Without an SDK there are no spans, but a trace that others record still passes through."""
    previous = get_current()
    if not ordinary(previous) and suppressed(previous):
        return await handler(argument)
    try:
        attach(extract(headers, _NO_CONTEXT) if headers else _NO_CONTEXT)
    except FAULTS:
        _faults.report("reading the context of a message")
    try:
        return await handler(argument)
    finally:
        attach(previous)
