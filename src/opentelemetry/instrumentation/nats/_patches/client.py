# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.aio.client`: connect, publish, request, errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._calls import Call, outside
from opentelemetry.instrumentation.nats._contexts import ambient, context_of_failure
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._hooks import run_hook
from opentelemetry.instrumentation.nats._observing import Observed
from opentelemetry.instrumentation.nats._operations import PROCESS, REQUEST, Operation
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._errors import connect_failure, error_type
from opentelemetry.instrumentation.nats._patches._keeping import connection_of, origin_of, prototype_of
from opentelemetry.instrumentation.nats._patches._publishing import make_publish
from opentelemetry.instrumentation.nats._patches._replacing import Patch, Row, Rows
from opentelemetry.instrumentation.nats._patches._running import sending
from opentelemetry.instrumentation.nats._providers import suppressed
from opentelemetry.instrumentation.nats._sending import Send, unrecorded
from opentelemetry.instrumentation.nats._series import ASYNC_ERRORS, DROPPED
from opentelemetry.instrumentation.nats._subjects import SERVICE_PREFIX
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry
from opentelemetry.instrumentation.nats._texts import clean
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT

_Client = _nats.find_class("nats.aio.client", "Client")
_SLOW_CONSUMER = _nats.find_errors("nats.errors", "SlowConsumerError")

_CONNECT = Operation.client("connect")


def _make_connect(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def connect(self: object, *args: object, **kwargs: object) -> Any:
        connect = None
        try:
            context = ambient()
            if not telemetry.idle() and not suppressed(context) and not telemetry.naming.refuses(_CONNECT.name, ""):
                connect = Observed(context)
        except FAULTS:
            _faults.report("starting an operation")
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            if connect is not None:
                _end_connect(telemetry, self, connect, error)
            raise
        if connect is not None:
            _end_connect(telemetry, self, connect, None)
        return result

    return connect


def _end_connect(telemetry: Telemetry, client: Any, connect: Observed, error: BaseException | None) -> None:
    try:
        prototype = connection_of(telemetry, client).make(_CONNECT, None)
        address = prototype.attributes.get(SERVER_ADDRESS)
        if address is not None:
            port = prototype.attributes.get(SERVER_PORT)
            prototype.span_name = f"connect {address}" if port is None else f"connect {address}:{port}"
        failure: BaseException | Failure | None = error
        if isinstance(error, Exception):
            failure = connect_failure(telemetry.classify(error), error)
        connect.be(prototype)
        connect.end(failure)
    except FAULTS:
        _faults.report("recording a connect")


def _make_process_connect_init(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def _process_connect_init(self: _nats.Client, *args: object, **kwargs: object) -> Any:
        """Runs at every connect and reconnect: the server may be another one, the client's id always is."""
        result = await original(self, *args, **kwargs)
        try:
            if not telemetry.idle():
                connection_of(telemetry, self).refresh(_nats.client_state(self))
        except FAULTS:
            _faults.report("reading the state of a connection")
        return result

    return _process_connect_init


def _make_lost(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def lost(self: object, *args: object, **kwargs: object) -> Any:
        """Runs when the connection is lost: what the program publishes waits in a buffer, where headers count too."""
        try:
            if telemetry.enabled:
                connection_of(telemetry, self).room.wait(partial(_is_crowded, ref(self)))
        except FAULTS:
            _faults.report("reading the state of a connection")
        return await original(self, *args, **kwargs)

    return lost


def _is_crowded(client: Callable[[], Any]) -> bool:
    waiting = client()
    return waiting is not None and _nats.buffer_is_crowded(waiting)


def _start_request(
    telemetry: Telemetry,
    client: Any,
    context: Context,
    /,
    subject: Any,
    payload: Any = b"",
    timeout: Any = None,
    old_style: Any = False,
    headers: Any = None,
    *_: object,
    **__: object,
) -> Call:
    if not isinstance(subject, str) or subject.startswith(SERVICE_PREFIX):
        return Call()
    prototype = prototype_of(telemetry, client, REQUEST, subject)
    if prototype.excluded:
        return unrecorded(prototype, context, None if old_style else headers)
    # nats-py drops the headers of an old-style request.
    return Send.start(prototype, prototype.attributes.copy(), context, None if old_style else headers, payload)


def _request_answer(answer: Any, request: Send) -> Failure | None:
    span = request.span
    if span.is_recording():
        span.set_attribute(names.RESPONSE_BODY_SIZE, len(answer.data))
        if request.reply:
            span.set_attribute(messaging.MESSAGING_MESSAGE_CONVERSATION_ID, request.reply)
        hook = request.prototype.telemetry.options.response_hook
        if hook is not None:
            run_hook("the response hook", hook, span, request.context, answer)
    headers = answer.headers
    code = names.header(headers, names.SERVICE_ERROR_CODE_HEADER) if headers else None
    if code is None:
        return None
    description = clean(names.header(headers, names.SERVICE_ERROR_HEADER) or "")
    span.set_attribute(names.SERVICE_ERROR_CODE, code)
    if request.prototype.telemetry.records_texts:
        span.set_attribute(names.SERVICE_ERROR, description)
    return Failure(code, True, description)


class ErrorCallback:
    """The attribute `Client._error_cb`: what nats-py finds there counts the error, then calls the user's callback.

    Args:
        telemetry: The telemetry.
    """

    _NAME = "_error_cb"

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def __get__(self, client: Any, owner: Any) -> Any:
        if client is None:
            return self
        try:
            callback = client.__dict__[self._NAME]
        except KeyError:
            raise AttributeError(self._NAME) from None
        if callback is None or not self._telemetry.enabled:
            return callback
        # Idle or not: a subscription keeps what it finds here for as long as it lives.
        return partial(_count_error, self._telemetry, client, callback)

    def __set__(self, client: Any, callback: Any) -> None:
        # nats-py's own attribute, so that the client is whole when this descriptor is gone.
        client.__dict__[self._NAME] = callback.args[2] if _is_ours(callback) else callback


def _is_ours(callback: Any) -> bool:
    return isinstance(callback, partial) and callback.func is _count_error


async def _count_error(telemetry: Telemetry, client: Any, callback: Any, error: Any, *rest: object) -> Any:
    try:
        if not telemetry.idle():
            _count(telemetry, client, error)
    except FAULTS:
        _faults.report("counting an error")
    # nats-py may call it from inside a call of the user's; what the callback does is the user's again.
    with outside(), context_of_failure(error):
        return await callback(error, *rest)


def _count(telemetry: Telemetry, client: Any, error: Any) -> None:
    readings = connection_of(telemetry, client).readings
    counted_type = telemetry.metrics.bounds.error_type(error_type(error))
    readings.count(ASYNC_ERRORS, {**readings.server, ERROR_TYPE: counted_type})
    if isinstance(error, _SLOW_CONSUMER):
        slow: Any = error
        origin = origin_of(telemetry, slow.sub)
        prototype = origin.prototype(PROCESS, origin.subject)
        if not prototype.excluded:
            attributes = prototype.series.attributes.copy()
            del attributes[messaging.MESSAGING_OPERATION_NAME]
            readings.count(DROPPED, attributes)


ROWS: Rows = [
    Row(_Client, "connect", _make_connect),
    Row(_Client, "_process_connect_init", _make_process_connect_init),
    Row(_Client, "_process_op_err", _make_lost, optional=True),
    Row(_Client, "_attempt_reconnect", _make_lost, optional=True),
    Row(_Client, "publish", make_publish),
    Row(_Client, "request", sending(_start_request, _request_answer)),
]


def patch_error_callback(telemetry: Telemetry) -> Patch:
    """Patches the one attribute that is no method."""
    return Patch(_Client, "_error_cb", lambda _: ErrorCallback(telemetry))


def is_patched() -> bool:
    """Tells whether somebody else has patched nats-py before us."""
    return hasattr(getattr(_Client, "publish", None), "__wrapped__")
