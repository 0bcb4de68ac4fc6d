# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Waiting for one message: `next_msg`, a watcher's `updates`, a step of an iterator taken by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import is_status
from opentelemetry.instrumentation.nats._calls import own_mark
from opentelemetry.instrumentation.nats._contexts import ordinary
from opentelemetry.instrumentation.nats._delivering import Describe
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._replacing import Make
from opentelemetry.instrumentation.nats._patches._running import Inner
from opentelemetry.instrumentation.nats._providers import get_current, suppressed
from opentelemetry.instrumentation.nats._receiving import Receive, before_receive
from opentelemetry.instrumentation.nats._telemetry import Telemetry

# What `updates` returns once its watcher is stopped; older releases of nats-py have no such thing.
_STOPPED: Any = _nats.find_class("nats.js.kv", "StopIterSentinel", optional=True) or ()

# By these nats-py says that there was nothing; so does a cancellation.
_NOTHING = (asyncio.TimeoutError, asyncio.CancelledError, StopAsyncIteration)


def receiving(
    origin_of: Callable[[Telemetry, Any], Origin],
    describe: Describe | None = None,
    *,
    followed: str = "",
    inner: Inner | None = None,
) -> Make:
    """Traces a method that waits for one message; waiting in vain is no error and makes no span.

    Args:
        origin_of: Finds where the message comes from.
        describe: Makes the attributes of what is no `Msg`.
        followed: The name by which calls follow the method.
        inner: What runs instead inside of a call that follows it.
    """

    def make(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
        async def receive(self: object, *args: object, **kwargs: object) -> Any:
            if not telemetry.listening and telemetry.idle():
                return await original(self, *args, **kwargs)
            mark = own_mark()
            call = mark.call
            if call is not None:  # it is nats-py that calls
                if inner is not None and call.follows == followed:
                    return await inner(call, original, self, *args, **kwargs)
                return await original(self, *args, **kwargs)
            context = get_current()
            plain = ordinary(context)
            if not plain and suppressed(context):
                return await original(self, *args, **kwargs)
            try:
                receive = Receive(origin_of(telemetry, self), context if plain else before_receive())
            except FAULTS:
                _faults.report("starting a receive")
                return await original(self, *args, **kwargs)
            mark.call = receive
            try:
                message = await original(self, *args, **kwargs)
            except BaseException as error:
                mark.call = None
                if isinstance(error, (Exception, *_NOTHING)):
                    receive.got_nothing(None if isinstance(error, _NOTHING) else error)
                raise
            mark.call = None
            try:
                if describe is not None:
                    if message is not None and not isinstance(message, _STOPPED):
                        receive.got(message, describe)
                elif message.data or not is_status(message.headers, 0, message.reply):
                    receive.got(message)
            except FAULTS:
                _faults.report("recording a receive")
            return message

        return receive

    return make
