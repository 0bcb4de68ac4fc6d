# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.aio.client.Client` and `nats.aio.msg.Msg`: connect, publish, request, reply, acknowledgements, errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import SlowConsumerError

from opentelemetry.context import Context, get_current
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call, current_call, get_mark, outside
from opentelemetry.instrumentation.nats._connection import REQUEST, Operation
from opentelemetry.instrumentation.nats._patches._errors import error_type
from opentelemetry.instrumentation.nats._patches._patching import Patch, Replaced, Rows
from opentelemetry.instrumentation.nats._patches._running import observing, sending, unrecorded
from opentelemetry.instrumentation.nats._propagation import write_context
from opentelemetry.instrumentation.nats._subjects import SERVICE_PREFIX
from opentelemetry.instrumentation.nats._telemetry import (
    ActiveOperation,
    Failure,
    Observation,
    ObservedCall,
    Telemetry,
    delivery_of,
    handled_reply,
    suppressed,
)
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT

_CONNECT = Operation.client("connect")
_ACK = Operation.settle("ack")
_SETTLE = {
    "ack": _ACK,
    "ack_sync": _ACK,
    **{name: Operation.settle(name) for name in ("nak", "term", "in_progress")},
}


# Python itself finds the arguments, by position or keyword, as nats-py does.
def _publish_arguments(
    subject: Any, payload: Any = b"", reply: Any = "", headers: Any = None
) -> tuple[Any, Any, Any, Any]:
    return subject, payload, reply, headers


async def _connect(
    telemetry: Telemetry, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    context = get_current()
    if telemetry.idle() or suppressed(context):
        return await wrapped(*args, **kwargs)
    observation = Observation(telemetry, context)
    try:
        await wrapped(*args, **kwargs)
    except BaseException as error:
        _end_connect(telemetry, observation, client, error)
        raise
    _end_connect(telemetry, observation, client, None)


def _end_connect(telemetry: Telemetry, observation: Observation, client: Any, error: BaseException | None) -> None:
    try:
        channel = telemetry.connection(client).make_channel(_CONNECT, None)
        address = channel.attributes.get(SERVER_ADDRESS)
        if address is not None:
            port = channel.attributes.get(SERVER_PORT)
            channel.span_name = f"connect {address}" if port is None else f"connect {address}:{port}"
        failure: BaseException | Failure | None = error
        if isinstance(error, Exception):
            # A stack trace of a failed connect may quote the URL, and the URL the password.
            failure = telemetry.classify(error)._replace(expected=True)
        observation.end(channel, channel.attributes, error=failure)
    except Exception:
        _faults.report("recording a connect")


async def _process_connect_init(
    telemetry: Telemetry, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Runs at every connect and reconnect: the server may be another one, the client's id always is."""
    result = await wrapped(*args, **kwargs)
    if not telemetry.idle():
        try:
            telemetry.connection(client).refresh(client)
        except Exception:
            _faults.report("reading the state of a connection")
    return result


def _wants_publish(telemetry: Telemetry) -> bool:
    """Tells whether a message is traced, or has at least a context to carry."""
    return not telemetry.idle() or (telemetry.enabled and bool(get_current()))


def _make_publish(telemetry: Telemetry, original: Callable[..., Any], find: Callable[[Any], Any]) -> Callable[..., Any]:
    async def publish(client: Any, /, *args: Any, **kwargs: Any) -> None:
        if not telemetry.listening and not _wants_publish(telemetry):
            return await original(client, *args, **kwargs)
        if current_call() is not None:
            return await find(client)(*args, **kwargs)
        context = get_current()
        try:
            subject, payload, reply, headers = _publish_arguments(*args, **kwargs)
            size = len(payload)
        except TypeError:
            return await original(client, *args, **kwargs)  # which says so in its own words
        if not isinstance(subject, str) or (context and suppressed(context)):
            return await original(client, *args, **kwargs)
        if not telemetry.listening:
            # Without an SDK there are no spans, but a trace that others record still passes through.
            if telemetry.carries_context(subject):
                headers = telemetry.inject(telemetry.connection(client), context, size, headers)
            return await original(client, subject, payload, reply, headers)
        operation = None
        try:
            connection = telemetry.connection(client)
            if context and handled_reply(context) == subject:
                channel = connection.reply_channel(subject)
            else:
                channel = connection.publish_channel(subject)
            if not channel.excluded:
                attributes = channel.attributes.copy()
                if reply:
                    attributes[messaging.MESSAGING_MESSAGE_CONVERSATION_ID] = reply
                if channel.shared:
                    attributes[messaging.MESSAGING_DESTINATION_NAME] = subject
                operation = telemetry.start_send(channel, attributes, context, headers, payload)
                context = operation.context
            if channel.carries_context and (operation is None or operation.injects):
                headers = telemetry.inject(connection, context, size, headers)
            if operation is not None and telemetry.options.publish_hook is not None:
                telemetry.show(operation, subject, reply, headers, size)
        except Exception:
            _faults.report("preparing a message")
        try:
            await original(client, subject, payload, reply, headers)
        except BaseException as error:
            if operation is not None:
                operation.end(error)
            raise
        if operation is not None:
            operation.end()

    return publish


def _make_inner_publish(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    by_subject = bool(telemetry.options.propagation_excluded_subjects)
    shows = telemetry.options.publish_hook is not None

    def publish(
        client: Any,
        /,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: Any = None,
        *rest: Any,
        **more: Any,
    ) -> Any:
        """Publishes what one of nats-py's own methods publishes in the course of a user's call."""
        mark = get_mark()
        call = None if mark is None else mark.call
        if call is not None and (context := call.context) is not None:
            call.reply = reply
            if not subject.startswith(call.api_prefix):
                try:
                    size = len(payload)
                except TypeError:
                    return original(client, subject, payload, reply, headers)  # which says so in its own words
                try:
                    # Of a bucket's messages only the user's own patterns tell one subject from another.
                    if call.injects and (not by_subject or telemetry.carries_context(subject)):
                        connection = telemetry.connection(client) if call.channel is None else call.channel.connection
                        if headers is None and size <= connection.ample:
                            # As `inject` does, without the time that calling it takes: most messages come here.
                            headers = write_context(context) or None
                        else:
                            headers = telemetry.inject(connection, context, size, headers)
                    if shows and isinstance(call, ActiveOperation) and not call.shown:
                        call.shown = True
                        telemetry.show(call, subject, reply, headers, size)
                except Exception:
                    _faults.report("preparing a message")
        if rest or more:
            return original(client, subject, payload, reply, headers, *rest, **more)
        return original(client, subject, payload, reply, headers)

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
    channel = telemetry.channel(client, REQUEST, subject)
    if channel.excluded:
        return unrecorded(channel, context)
    # nats-py drops the headers of an old-style request.
    return telemetry.start_send(channel, channel.attributes.copy(), context, None if old_style else headers, payload)


def _request_answer(answer: Any, request: ActiveOperation) -> Failure | None:
    span = request.span
    span.set_attribute(names.RESPONSE_BODY_SIZE, len(answer.data))
    if request.reply:
        span.set_attribute(messaging.MESSAGING_MESSAGE_CONVERSATION_ID, request.reply)
    headers = answer.headers
    code = names.header(headers, names.SERVICE_ERROR_CODE_HEADER) if headers else None
    if code is None:
        return None
    description = names.header(headers, names.SERVICE_ERROR_HEADER) or ""
    span.set_attributes({names.SERVICE_ERROR: description, names.SERVICE_ERROR_CODE: code})
    return Failure(code, True, description)


def _start_respond(
    telemetry: Telemetry, message: Any, context: Context, /, data: Any = None, *_: Any, **__: Any
) -> Call:
    # The headers are an echo of those received: whatever context is in them, nobody chose it.
    return start_reply(telemetry, message, data, None)


def start_reply(
    telemetry: Telemetry, message: Any, data: Any, headers: Any, attributes: Attributes | None = None
) -> Call:
    """Starts the operation of what answers a message, see `Start`.

    Args:
        telemetry: The telemetry.
        message: The message that is answered.
        data: The answer's payload.
        headers: The answer's headers, as far as the caller chose them.
        attributes: What the span has besides.
    """
    if not message.reply or not message._client or message.subject.startswith(SERVICE_PREFIX):
        return Call()
    channel = telemetry.connection(message._client).reply_channel(message.reply)
    parent = telemetry.bound_parent(message)
    if channel.excluded:
        return unrecorded(channel, parent)
    all_attributes = channel.attributes.copy()
    if attributes:
        all_attributes.update(attributes)
    return telemetry.start_send(channel, all_attributes, parent, headers, data)


def _start_settle(
    operation: Operation,
    telemetry: Telemetry,
    message: Any,
    context: Context,
    /,
    *args: Any,
    **kwargs: Any,
) -> Call:
    delivery = delivery_of(message)
    if delivery is not None and delivery.settled:
        delivery.settled = False
        return Call()
    source = None if delivery is None else delivery.source
    channel = (source or telemetry.connection(message._client)).channel(operation, message.subject)
    if channel.excluded:
        return Call()
    call = ObservedCall(telemetry, telemetry.bound_parent(message), channel)
    telemetry.message_attributes(call.attributes, message)
    # They tell of the delivery, not of its settlement.
    for name in _NOT_OF_SETTLEMENT:
        call.attributes.pop(name, None)
    return call


_NOT_OF_SETTLEMENT = (
    messaging.MESSAGING_MESSAGE_BODY_SIZE,
    messaging.MESSAGING_MESSAGE_CONVERSATION_ID,
    names.JETSTREAM_CONSUMER_SEQUENCE,
    names.JETSTREAM_DELIVERY_COUNT,
    names.JETSTREAM_PENDING,
)


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
            dropped_from = error.sub if isinstance(error, SlowConsumerError) else None
            telemetry.connection(client).count_error(error_type(error), dropped_from)
    except Exception:
        _faults.report("counting an error")
    # nats-py may call it from inside a call of the user's; what the callback does is the user's again.
    with outside():
        return await callback(error, *rest)


ROWS: Rows = [
    (Client, "connect", _connect),
    (Client, "_process_connect_init", _process_connect_init),
    (Client, "publish", Replaced(_make_publish, _make_inner_publish, _wants_publish)),
    (Client, "request", sending(_start_request, _request_answer)),
    (Msg, "respond", sending(_start_respond)),
    *((Msg, name, observing(partial(_start_settle, operation))) for name, operation in _SETTLE.items()),
]


def patch_error_callback(telemetry: Telemetry) -> Patch:
    """Patches the one attribute that is no method."""
    return Patch(Client, "_error_cb", lambda _: ErrorCallback(telemetry))
