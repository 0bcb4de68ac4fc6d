# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.aio.client`: connect, publish, request, errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter_ns, time_ns
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._calls import Call, outside, own_mark
from opentelemetry.instrumentation.nats._delivering import handled_reply
from opentelemetry.instrumentation.nats._observing import Observed
from opentelemetry.instrumentation.nats._operations import PROCESS, REQUEST, Operation
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._errors import error_type
from opentelemetry.instrumentation.nats._patches._keeping import connection_of, origin_of, prototype_of
from opentelemetry.instrumentation.nats._patches._replacing import Patch, Row, Rows
from opentelemetry.instrumentation.nats._patches._running import sending
from opentelemetry.instrumentation.nats._providers import suppressed
from opentelemetry.instrumentation.nats._sending import Send, inject, unrecorded
from opentelemetry.instrumentation.nats._series import ASYNC_ERRORS, DROPPED
from opentelemetry.instrumentation.nats._subjects import SERVICE_PREFIX
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT

_Client = _nats.find_class("nats.aio.client", "Client")
_SLOW_CONSUMER = _nats.find_errors("nats.errors", "SlowConsumerError")

_CONNECT = Operation.client("connect")


def _make_connect(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def connect(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = get_current()
        if telemetry.idle() or suppressed(context):
            return await original(self, *args, **kwargs)
        started, started_at = perf_counter_ns(), time_ns()
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            _end_connect(telemetry, self, context, started, started_at, error)
            raise
        _end_connect(telemetry, self, context, started, started_at, None)
        return result

    return connect


def _end_connect(
    telemetry: Telemetry, client: Any, context: Context, started: int, started_at: int, error: BaseException | None
) -> None:
    try:
        prototype = connection_of(telemetry, client).make(_CONNECT, None)
        address = prototype.attributes.get(SERVER_ADDRESS)
        if address is not None:
            port = prototype.attributes.get(SERVER_PORT)
            prototype.span_name = f"connect {address}" if port is None else f"connect {address}:{port}"
        failure: BaseException | Failure | None = error
        if isinstance(error, Exception):
            # A stack trace of a failed connect may quote the URL, and the URL the password.
            failure = telemetry.classify(error)._replace(expected=True)
        connect = Observed(context, prototype)
        connect.started, connect.started_at = started, started_at
        connect.end(failure)
    except Exception:
        _faults.report("recording a connect")


def _make_process_connect_init(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def _process_connect_init(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs at every connect and reconnect: the server may be another one, the client's id always is."""
        result = await original(self, *args, **kwargs)
        if not telemetry.idle():
            try:
                connection_of(telemetry, self).refresh(_nats.client_state(self))
            except Exception:
                _faults.report("reading the state of a connection")
        return result

    return _process_connect_init


def _wants_publish(telemetry: Telemetry) -> bool:
    """Tells whether a message is traced, or has at least a context to carry."""
    return not telemetry.idle() or (telemetry.enabled and bool(get_current()))


# Python itself finds the arguments, by position or keyword, as nats-py does.
def _publish_arguments(
    subject: Any, payload: Any = b"", reply: Any = "", headers: Any = None, *rest: Any, **more: Any
) -> tuple[Any, Any, Any, Any, tuple[Any, ...], dict[str, Any]]:
    return subject, payload, reply, headers, rest, more


def _make_publish(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    inner = _inner_publish(telemetry, original)

    async def publish(self: Any, *args: Any, **kwargs: Any) -> None:
        if not telemetry.listening and not _wants_publish(telemetry):
            return await original(self, *args, **kwargs)
        call = own_mark().call
        if call is not None:
            return await (
                inner(call, self, *args, **kwargs) if call.follows == "publish" else original(self, *args, **kwargs)
            )
        context = get_current()
        try:
            subject, payload, reply, headers, rest, more = _publish_arguments(*args, **kwargs)
            size = len(payload)
        except TypeError:
            return await original(self, *args, **kwargs)  # which says so in its own words
        if not isinstance(subject, str) or (context and suppressed(context)):
            return await original(self, *args, **kwargs)
        send = None
        try:
            connection = connection_of(telemetry, self)
            if not telemetry.listening:
                # Without an SDK there are no spans, but a trace that others record still passes through.
                if telemetry.naming.carries_context(subject):
                    headers = inject(telemetry.propagation, connection.room, context, size, headers)
            else:
                if context and handled_reply(context) == subject:
                    prototype = connection.reply_prototype(subject)
                else:
                    prototype = connection.publish_prototype(subject)
                if not prototype.excluded:
                    attributes = prototype.attributes.copy()
                    if reply:
                        attributes[messaging.MESSAGING_MESSAGE_CONVERSATION_ID] = reply
                    if prototype.shared:
                        attributes[messaging.MESSAGING_DESTINATION_NAME] = subject
                    send = Send.start(prototype, attributes, context, headers, payload)
                    context = send.context
                if prototype.carries_context and (send is None or send.injects):
                    headers = inject(telemetry.propagation, connection.room, context, size, headers)
                if send is not None and telemetry.options.publish_hook is not None:
                    send.show(subject, reply, headers, size)
        except Exception:
            _faults.report("preparing a message")
        try:
            await original(self, subject, payload, reply, headers, *rest, **more)
        except BaseException as error:
            if send is not None:
                send.finish(error)
            raise
        if send is not None:
            send.finish(None)

    return publish


def _inner_publish(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    withholds = telemetry.naming.withholds
    shows = telemetry.options.publish_hook is not None

    def publish(
        call: Call,
        self: Any,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: Any = None,
        *rest: Any,
        **more: Any,
    ) -> Any:
        """Publishes what one of nats-py's own methods publishes in the course of a user's call."""
        context = call.context
        if context is not None:
            call.reply = reply
            if not subject.startswith(call.api_prefix):
                try:
                    size = len(payload)
                except TypeError:
                    return original(self, subject, payload, reply, headers)  # which says so in its own words
                try:
                    # Of a bucket's messages only the user's own patterns tell one subject from another.
                    if call.injects and (not withholds or telemetry.naming.carries_context(subject)):
                        prototype = call.prototype
                        room = connection_of(telemetry, self).room if prototype is None else prototype.room
                        headers = inject(telemetry.propagation, room, context, size, headers)
                    if shows and isinstance(call, Send) and not call.shown:
                        call.shown = True
                        call.show(subject, reply, headers, size)
                except Exception:
                    _faults.report("preparing a message")
        return original(self, subject, payload, reply, headers, *rest, **more)

    return publish


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
    *_: Any,
    **__: Any,
) -> Call:
    if not isinstance(subject, str) or subject.startswith(SERVICE_PREFIX):
        return Call()
    prototype = prototype_of(telemetry, client, REQUEST, subject)
    if prototype.excluded:
        return unrecorded(prototype, context)
    # nats-py drops the headers of an old-style request.
    return Send.start(prototype, prototype.attributes.copy(), context, None if old_style else headers, payload)


def _request_answer(answer: Any, request: Send) -> Failure | None:
    span = request.span
    span.set_attribute(names.RESPONSE_BODY_SIZE, len(answer.data))
    if request.reply:
        span.set_attribute(messaging.MESSAGING_MESSAGE_CONVERSATION_ID, request.reply)
    headers = answer.headers
    code = names.header(headers, names.SERVICE_ERROR_CODE_HEADER) if headers else None
    if code is None:
        return None
    description = names.header(headers, names.SERVICE_ERROR_HEADER) or ""
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


async def _count_error(telemetry: Telemetry, client: Any, callback: Any, error: Any, *rest: Any) -> Any:
    try:
        if not telemetry.idle():
            _count(telemetry, client, error)
    except Exception:
        _faults.report("counting an error")
    # nats-py may call it from inside a call of the user's; what the callback does is the user's again.
    with outside():
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
    Row(_Client, "publish", _make_publish),
    Row(_Client, "request", sending(_start_request, _request_answer)),
]


def patch_error_callback(telemetry: Telemetry) -> Patch:
    """Patches the one attribute that is no method."""
    return Patch(_Client, "_error_cb", lambda _: ErrorCallback(telemetry))


def is_patched() -> bool:
    """Tells whether somebody else has patched nats-py before us."""
    return hasattr(getattr(_Client, "publish", None), "__wrapped__")
