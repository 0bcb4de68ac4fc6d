# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Waiting for one message: `next_msg`, a watcher's `updates`, a step of an iterator taken by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns, time_ns
from typing import Any

from nats.js import kv

from opentelemetry.context import get_current
from opentelemetry.instrumentation.nats._attributes import is_status
from opentelemetry.instrumentation.nats._calls import Call, current_call, own_mark
from opentelemetry.instrumentation.nats._connection import RECEIVE, Source
from opentelemetry.instrumentation.nats._patches._handing_over import Describe
from opentelemetry.instrumentation.nats._patches._patching import MakeInner, Replaced
from opentelemetry.instrumentation.nats._telemetry import Telemetry, suppressed

# What `updates` returns once its watcher is stopped; older releases of nats-py have no such thing.
_STOPPED: Any = getattr(kv, "StopIterSentinel", ())


# By these nats-py says that there was nothing; so does a cancellation.
_NOTHING = (asyncio.TimeoutError, asyncio.CancelledError, StopAsyncIteration)


def receiving(
    source_of: Callable[[Telemetry, Any], Source],
    describe: Describe | None = None,
    *,
    marks: bool = False,
    make_inner: MakeInner | None = None,
) -> Replaced:
    """Traces a method that waits for one message; waiting in vain is no error and makes no span.

    Args:
        source_of: Finds where the message comes from.
        describe: Makes the attributes of what is no `Msg`.
        marks: Whether nats-py's method calls other public methods.
        make_inner: Makes what runs instead inside of a call that follows the method, see `Replaced`.
    """

    def make(telemetry: Telemetry, original: Callable[..., Any], find: Callable[[Any], Any]) -> Callable[..., Any]:
        async def receive(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not telemetry.listening and telemetry.idle():
                return await original(instance, *args, **kwargs)
            if current_call() is not None:
                return await find(instance)(*args, **kwargs)
            context = get_current()
            if context:
                context = telemetry.before_receive()
                if suppressed(context):
                    return await original(instance, *args, **kwargs)
            source = source_of(telemetry, instance)
            mark = None
            if marks:
                mark = own_mark()
                mark.call = Call()
            started, started_at = perf_counter_ns(), time_ns()
            try:
                message = await original(instance, *args, **kwargs)
            except BaseException as error:
                if mark is not None:
                    mark.call = None
                if isinstance(error, (Exception, *_NOTHING)):
                    failure = None if isinstance(error, _NOTHING) else error
                    channel = source.channel(RECEIVE, source.subject)
                    telemetry.nothing(channel, context, started, started_at, failure)
                raise
            if mark is not None:
                mark.call = None
            if describe is not None:
                if message is not None and not isinstance(message, _STOPPED):
                    telemetry.received(source, message, context, started, started_at, describe(message))
            elif message.data or not is_status(message.headers, 0):
                telemetry.received(source, message, context, started, started_at)
            return message

        return receive

    return Replaced(make, make_inner)
