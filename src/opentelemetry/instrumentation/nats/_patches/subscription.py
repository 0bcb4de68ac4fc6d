# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.aio.subscription`: callbacks, `next_msg`, `async for msg in sub.messages`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._abandoning import end_of_subscription
from opentelemetry.instrumentation.nats._attributes import STATUS_HEADER, header, is_status
from opentelemetry.instrumentation.nats._calls import Call, current_call
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._bodies import trace_handler
from opentelemetry.instrumentation.nats._patches._keeping import keep_origin, kept_origin, origin_of
from opentelemetry.instrumentation.nats._patches._loops import MessageLoop
from opentelemetry.instrumentation.nats._patches._replacing import Row, Rows, own_function
from opentelemetry.instrumentation.nats._patches._running import steps
from opentelemetry.instrumentation.nats._patches._waiting import receiving
from opentelemetry.instrumentation.nats._patches._watching import Feeder
from opentelemetry.instrumentation.nats._telemetry import Telemetry

_Subscription = _nats.find_class("nats.aio.subscription", "Subscription")
_Iterator = _nats.find_class("nats.aio.subscription", "_SubscriptionMessageIterator")

# The status by which the server ends a pull request for good: the consumer is deleted, or the server shuts down.
_CONFLICT = "409"
_DESCRIPTION_HEADER = "Description"

_WATCHER_MODULES = ("nats.js.kv", "nats.js.object_store")

# What takes the requests of a micro service's endpoint; their handlers are traced instead, see service.py.
_ENDPOINT_CALLBACK = ("nats.micro.service", "_handle_request")


def _make_start(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    def _start(self: object, *args: object, **kwargs: object) -> Any:
        # nats-py looks at the user's own callback and refuses what is no coroutine function. Only then is it ours; the
        # task that it has made for it has not run yet.
        result = original(self, *args, **kwargs)
        if telemetry.enabled:
            try:
                _trace_callback(telemetry, self)
            except FAULTS:
                _faults.report("tracing a subscription")
        return result

    return _start


def _trace_callback(telemetry: Telemetry, subscription: Any) -> None:
    call = current_call()
    known = None if call is None else call.origin
    if known is not None:
        keep_origin(subscription, known)
    origin = origin_of(telemetry, subscription)
    callback = _nats.callback_of(subscription)
    if callback is None:
        return
    if known is not None or not _nats.is_own(callback):
        _nats.set_callback(subscription, trace_handler(telemetry, origin, callback))
        return
    # The replies to requests and to asynchronous publishes, the watchers' feeders, the verbs and endpoints of micro
    # services. A watcher is the application's subscription, and so is an endpoint; the rest is plumbing.
    module = callback.__module__
    origin.internal = module not in _WATCHER_MODULES and (module, callback.__name__) != _ENDPOINT_CALLBACK
    if module in _WATCHER_MODULES:
        _nats.set_callback(subscription, Feeder(callback))


async def hear_refusal(
    call: Call | None, original: Callable[..., Any], self: object, /, *args: object, **kwargs: object
) -> Any:
    """Runs `next_msg` inside of a fetch: notes why it gets nothing, where the server says so."""
    message = await original(self, *args, **kwargs)
    try:
        if not is_status(message.headers, len(message.data), message.reply):
            own: dict[str, Any] = self.__dict__
            if isinstance(own.get("next_msg"), _Step):
                # The fetch has got something, so there is nothing to hear any more; that takes 1 us for each message.
                own["next_msg"] = _Step(original, self)
        elif header(message.headers, STATUS_HEADER) == _CONFLICT:
            call = call or current_call()  # two fetches at a time use the method that one of them has put there
            if call is not None:
                call.refusal = header(message.headers, _DESCRIPTION_HEADER) or _CONFLICT
    except FAULTS:
        _faults.report("reading a status")
    return message


class _Step(partial[Any]):
    """`next_msg` of a core subscription, as a fetch finds it."""

    __slots__ = ()


@contextmanager
def stepping(telemetry: Telemetry, subscription: Any) -> Generator[None]:
    """Lets a fetch find a `next_msg` that goes past ours.

    A fetch takes message by message with it, and for each one to find out whose call it is costs as much as all that is
    recorded of it. Of two fetches at a time on one subscription the server's word reaches either; which of them is
    chance.
    """
    own: dict[str, Any] | None = None
    try:
        original = own_function(telemetry, subscription, "next_msg")
        if "next_msg" not in subscription.__dict__ and original is not None:
            # Otherwise another fetch is doing the same, or it is somebody's mock.
            own = subscription.__dict__
            subscription.__dict__["next_msg"] = _Step(hear_refusal, None, original, subscription)
    except FAULTS:
        _faults.report("starting a receive")
    try:
        yield
    finally:
        if own is not None:
            own.pop("next_msg", None)


def _make_aiter(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    def __aiter__(self: object) -> Any:
        try:
            if steps(telemetry):
                return MessageLoop(telemetry, _origin_of_iterator(telemetry, self), self)
        except FAULTS:
            _faults.report("tracing a loop")
        return original(self)

    return __aiter__


def _make_stop_processing(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    def _stop_processing(self: object, *args: object, **kwargs: object) -> Any:
        """Runs when a subscription gets no more messages: unsubscribed, drained, or all received that it wanted."""
        result = original(self, *args, **kwargs)
        try:
            origin = kept_origin(self)
            if telemetry.enabled and origin is not None:
                end_of_subscription(origin)
        except FAULTS:
            _faults.report("ending what a subscription has left open")
        return result

    return _stop_processing


def _origin_of_iterator(telemetry: Telemetry, iterator: Any) -> Origin:
    return origin_of(telemetry, _nats.core_of_iterator(iterator))


ROWS: Rows = [
    Row(_Subscription, "_start", _make_start, coroutine=False),
    Row(_Subscription, "_stop_processing", _make_stop_processing, coroutine=False),
    Row(_Subscription, "next_msg", receiving(origin_of, followed="next_msg", inner=hear_refusal)),
    Row(_Iterator, "__aiter__", _make_aiter, coroutine=False),
    Row(_Iterator, "__anext__", receiving(_origin_of_iterator)),  # a step by hand; loops step past it
]
