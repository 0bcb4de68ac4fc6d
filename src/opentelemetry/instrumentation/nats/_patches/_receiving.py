# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Waiting for one message: `next_msg`, a watcher's `updates`, a step of an iterator taken by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nats.js import kv

from opentelemetry.instrumentation.nats._attributes import is_status
from opentelemetry.instrumentation.nats._calls import Call, enter, leave
from opentelemetry.instrumentation.nats._connection import RECEIVE, Source
from opentelemetry.instrumentation.nats._patches._handing_over import Describe
from opentelemetry.instrumentation.nats._telemetry import Observation, Telemetry, suppressed

# What `updates` returns once its watcher is stopped; older releases of nats-py have no such thing.
_STOPPED: Any = getattr(kv, "StopIterSentinel", ())


# By these nats-py says that there was nothing; so does a cancellation.
_NOTHING = (asyncio.TimeoutError, asyncio.CancelledError, StopAsyncIteration)


async def run_receive(
    telemetry: Telemetry,
    source: Source,
    wrapped: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    describe: Describe | None = None,
    call: Call | None = None,
) -> Any:
    """Runs a call that waits for one message; waiting in vain is no error and makes no span.

    Args:
        telemetry: The telemetry.
        source: Where the message comes from.
        wrapped: nats-py's method.
        args: Its arguments.
        kwargs: Its arguments.
        describe: Makes the attributes of what is no `Msg`.
        call: The mark for what is inside, where nats-py's method calls other public methods.

    Returns:
        What the method returns.
    """
    context = telemetry.before_receive()
    if context and suppressed(context):
        return await wrapped(*args, **kwargs)
    observation = Observation(telemetry, context)
    previous = None if call is None else enter(call)
    try:
        message = await wrapped(*args, **kwargs)
    except BaseException as error:
        if call is not None:
            leave(call, previous)
        if isinstance(error, (Exception, *_NOTHING)):
            failure = None if isinstance(error, _NOTHING) else error
            observation.nothing(source.channel(RECEIVE, source.subject), failure)
        raise
    if call is not None:
        leave(call, previous)
    if describe is not None:
        if message is not None and not isinstance(message, _STOPPED):
            telemetry.received(observation, source, message, describe(message))
    elif message.data or not is_status(message.headers, 0):
        telemetry.received(observation, source, message)
    return message
