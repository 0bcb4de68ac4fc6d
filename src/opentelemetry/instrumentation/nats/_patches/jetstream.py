# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.js.client` and `nats.js.manager`: publish, subscribe, fetch, management."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from nats.aio.client import Client
from nats.js.client import JetStreamContext
from nats.js.manager import JetStreamManager

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call, get_mark, own_mark
from opentelemetry.instrumentation.nats._connection import PUBLISH, RECEIVE, SOURCE, Connection, Operation, Source
from opentelemetry.instrumentation.nats._patches._handing_over import FetchedMessages
from opentelemetry.instrumentation.nats._patches._patching import MakeInner, Replaced, Rows
from opentelemetry.instrumentation.nats._patches._receiving import receiving
from opentelemetry.instrumentation.nats._patches._running import (
    Arguments,
    Start,
    not_sent,
    observing,
    row,
    running,
    sending,
    the_result,
    traced,
    unrecorded,
)
from opentelemetry.instrumentation.nats._patches.subscription import make_inner_next_msg, without_wrapper
from opentelemetry.instrumentation.nats._telemetry import (
    ActiveOperation,
    Failure,
    Observation,
    ObservedCall,
    Telemetry,
    delivery_of,
)
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

_SUBSCRIBE = Operation.client("subscribe")

_PENDING = "_opentelemetry_pending"
"""The attribute of a client that keeps the operations of `publish_async` by the reply subject of their ack."""


# -- publish ----------------------------------------------------------------------------------------------------------


def _start_publish(
    telemetry: Telemetry,
    js: Any,
    context: Context,
    /,
    subject: Any,
    payload: Any = b"",
    timeout: Any = None,
    stream: Any = None,
    headers: Any = None,
    *_: Any,
    **__: Any,
) -> Call:
    """Starts the operation of `publish` or `publish_async`, see `Start`."""
    if not isinstance(subject, str):
        return Call()
    channel = telemetry.channel(js._nc, PUBLISH, subject)
    if channel.excluded:
        return unrecorded(channel, context)
    operation = telemetry.start_send(channel, channel.attributes.copy(), context, headers, payload)
    if headers and hasattr(headers, "get") and names.header(headers, names.MESSAGE_ID_HEADER) is not None:
        operation.has_id = True
    return operation


def _publish_answer(ack: Any, operation: ActiveOperation) -> None:
    attributes: Attributes = {names.JETSTREAM_STREAM: ack.stream, names.JETSTREAM_SEQUENCE: ack.seq}
    if not operation.has_id:
        attributes[messaging.MESSAGING_MESSAGE_ID] = f"{ack.stream}:{ack.seq}"
    if ack.duplicate:
        attributes[names.JETSTREAM_DUPLICATE] = True
    if ack.domain:
        attributes[names.JETSTREAM_DOMAIN] = ack.domain
    operation.span.set_attributes(attributes)


def _sent_asynchronously(operation: ActiveOperation, _: Failure | None, js: Any, future: Any) -> None:
    """The operation goes on until the future is done."""
    try:
        pending: dict[str, _Publishing] = js._nc.__dict__.setdefault(_PENDING, {})
        _Publishing(pending, operation.reply, future, operation)
    except Exception:
        _faults.report("waiting for an asynchronous publish")
        operation.end()


class _Publishing:
    """An asynchronous publish that waits for its ack."""

    __slots__ = ("_pending", "_reply", "future", "operation")

    def __init__(
        self, pending: dict[str, _Publishing], reply: str, future: asyncio.Future[Any], operation: ActiveOperation
    ) -> None:
        self._pending = pending
        self._reply = reply
        self.future = future
        self.operation = operation
        pending[reply] = self
        future.add_done_callback(self.done)

    def done(self, future: asyncio.Future[Any]) -> None:
        """Ends the operation with the future: acked, refused, or cancelled by the user."""
        self._pending.pop(self._reply, None)
        if future.cancelled():
            self.operation.end()
            return
        # `_exception`, because `exception()` would mark it as retrieved, and silence asyncio's "never retrieved".
        error = future._exception
        if error is None:
            try:
                _publish_answer(future.result(), self.operation)
            except Exception:
                _faults.report("reading an ack")
        self.operation.end(error)

    def fail(self, error: BaseException | Failure) -> None:
        """Ends the operation though nats-py leaves the future undone."""
        self._pending.pop(self._reply, None)
        self.future.remove_done_callback(self.done)
        self.operation.end(error)


async def _handle_async_reply(
    telemetry: Telemetry, wrapped: Callable[..., Any], js: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Up to 2.16 nats-py raises a refusal here instead of giving it to the future."""
    try:
        await wrapped(*args, **kwargs)
    except Exception as error:
        message = args[0] if args else kwargs.get("msg")
        waiting = js._nc.__dict__.get(_PENDING, {}).get(getattr(message, "subject", None))
        if waiting is not None and not waiting.future.done():
            waiting.fail(error)
        raise


async def _close(
    telemetry: Telemetry, wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Acks that have not come when the client closes never come, and nats-py never finishes their futures."""
    try:
        return await wrapped(*args, **kwargs)
    finally:
        if client.is_closed:
            for waiting in list(client.__dict__.get(_PENDING, {}).values()):
                waiting.fail(_CLOSED)


_CLOSED = Failure("nats.errors.ConnectionClosedError", True, "nats: connection closed")


# -- subscribe --------------------------------------------------------------------------------------------------------


def _start_subscribe(
    make_source: Callable[..., Source],
    arguments: Arguments,
    telemetry: Telemetry,
    js: Any,
    context: Context,
    /,
    *args: Any,
    **kwargs: Any,
) -> Call:
    get = partial(arguments.get, args, kwargs)
    subject = get("subject")
    if not isinstance(subject, str):
        return Call()
    connection = telemetry.connection(js._nc)
    source = make_source(connection, get)
    channel = connection.channel(_SUBSCRIBE, subject)
    call = Call()
    if not channel.excluded:
        call = ObservedCall(telemetry, context, channel)
        call.attributes.update(_consumer_attributes(get("stream"), source.consumer))
    call.source = source
    return call


def _start_bind(
    make_source: Callable[..., Source],
    arguments: Arguments,
    telemetry: Telemetry,
    js: Any,
    context: Context,
    /,
    *args: Any,
    **kwargs: Any,
) -> Call:
    """Binding makes no round trip, so no span; it only tells where the messages come from."""
    call = Call()
    call.source = make_source(telemetry.connection(js._nc), partial(arguments.get, args, kwargs))
    return call


def _auto_ack_callback(
    telemetry: Telemetry, wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Notes when a handler has settled its message itself: nats-py acknowledges it once more, and drops the error."""
    if not args:
        return wrapped(*args, **kwargs)
    callback = args[0]

    async def handle(message: Any) -> None:
        await callback(message)
        if message._ackd:
            delivery = delivery_of(message)
            if delivery is not None:
                delivery.settled = True

    return wrapped(handle)


def _subscribe_answer(subscription: Any, call: ObservedCall) -> None:
    call.attributes.update(_consumer_attributes(subscription._stream, subscription._consumer))


def _consumer_attributes(stream: Any, consumer: Any) -> Attributes:
    attributes: Attributes = {}
    if isinstance(stream, str):
        attributes[names.JETSTREAM_STREAM] = stream
    if isinstance(consumer, str):
        attributes[names.JETSTREAM_CONSUMER] = consumer
        attributes[messaging.MESSAGING_DESTINATION_SUBSCRIPTION_NAME] = consumer
    return attributes


def _push_source(connection: Any, get: Callable[[str], Any]) -> Source:
    config = get("config")
    queue = get("queue")
    # nats-py names the consumer after the queue; a group in the configuration has no say in that.
    durable = queue or get("durable") or getattr(config, "durable_name", None)
    return Source(connection, get("subject"), group=queue or getattr(config, "deliver_group", None), consumer=durable)


def _push_bind_source(connection: Any, get: Callable[[str], Any]) -> Source:
    config = get("config")
    subject = getattr(config, "filter_subject", None)
    return Source(
        connection,
        subject or str(get("stream")),
        group=getattr(config, "deliver_group", None),
        consumer=getattr(config, "durable_name", None),
        stream=not subject,
    )


def _pull_source(connection: Any, get: Callable[[str], Any]) -> Source:
    return Source(connection, get("subject"), consumer=get("durable"))


def _pull_bind_source(connection: Any, get: Callable[[str], Any]) -> Source:
    # nats-py takes the same three, in this order.
    consumer = get("durable") or get("name") or get("consumer")
    return Source(connection, str(get("stream")), consumer=consumer, stream=True)


# -- fetch ------------------------------------------------------------------------------------------------------------


def _make_fetch(telemetry: Telemetry, original: Callable[..., Any], _: Any) -> Callable[..., Any]:
    async def fetch(subscription: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not traced(telemetry) or subscription._sub is None:
            return await original(subscription, *args, **kwargs)
        connection = telemetry.connection(subscription._nc)
        source = _source_of(connection, subscription)
        generation = connection.generation
        mark = own_mark()
        call = mark.call = Observation(telemetry, telemetry.before_receive())
        try:
            with without_wrapper(subscription._sub):
                messages = await original(subscription, *args, **kwargs)
        except BaseException as error:
            mark.call = None
            failure = None if isinstance(error, asyncio.CancelledError) else error
            if isinstance(error, asyncio.TimeoutError):
                # Waiting in vain is no error. But nats-py says the same when nothing could come any more.
                lost = connection.generation != generation or not getattr(subscription._nc, "is_connected", True)
                reason = "connection lost" if lost else call.refusal
                failure = telemetry.classify(error)
                failure = failure._replace(description=f"{failure.description}: {reason}") if reason else None
            call.nothing(source.channel(RECEIVE, source.subject), failure)
            raise
        mark.call = None
        if not messages:
            failure = Failure("409", True, call.refusal) if call.refusal else None
            call.nothing(source.channel(RECEIVE, source.subject), failure)
            return messages
        telemetry.received_batch(call, source, messages)
        return FetchedMessages(telemetry, source, messages)

    return fetch


def _source_of_core(telemetry: Telemetry, subscription: Any) -> Source:
    return telemetry.source(subscription._sub)


def _source_of(connection: Connection, subscription: Any) -> Source:
    source = connection.source(subscription)
    if source.attributes is None:
        if connection.is_inbox(source.subject):  # subscribed before our time
            source = subscription._sub.__dict__[SOURCE] = Source(connection, subscription._stream, stream=True)
        source.attributes = _consumer_attributes(subscription._stream, subscription._consumer)
    return source


# -- management -------------------------------------------------------------------------------------------------------


def _start_manage(
    operation: Operation,
    arguments: Arguments,
    telemetry: Telemetry,
    manager: Any,
    context: Context,
    /,
    *args: Any,
    **kwargs: Any,
) -> Call:
    get = partial(arguments.get, args, kwargs)
    stream = get("stream") or get("name") or get("stream_name") or getattr(get("config"), "name", None)
    consumer = get("consumer")
    if operation.name == "add_consumer":
        config = get("config")
        stream = get("stream")
        consumer = next(
            filter(
                None,
                (kwargs.get("name"), kwargs.get("durable_name"), *_names_of(config, "name", "durable_name")),
            ),
            None,
        )
    call = _on_stream(operation, telemetry, manager, context, stream)
    if isinstance(consumer, str):
        call.attributes[names.JETSTREAM_CONSUMER] = consumer
    return call


def _on_stream(operation: Operation, telemetry: Telemetry, manager: Any, context: Context, stream: Any) -> ObservedCall:
    known = isinstance(stream, str)
    channel = telemetry.channel(manager._nc, operation, stream if known else None, resource=True)
    call = ObservedCall(telemetry, context, channel)
    if known:
        call.attributes[names.JETSTREAM_STREAM] = stream
    return call


def _names_of(config: Any, *fields: str) -> list[Any]:
    return [getattr(config, field, None) for field in fields]


def _start_stored(
    operation: Operation,
    telemetry: Telemetry,
    manager: Any,
    context: Context,
    /,
    stream_name: Any,
    *_: Any,
    **__: Any,
) -> Call:
    return _on_stream(operation, telemetry, manager, context, stream_name)


def _make_inner_get_msg(_: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def get_msg(manager: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Notes what is read inside of another call, for a link to its writer."""
        message = await original(manager, *args, **kwargs)
        mark = get_mark()
        if mark is not None and (call := mark.call) is not None:
            call.stored = (*call.stored, (message.headers, None))
        return message

    return get_msg


def _stored_answer(message: Any, call: ObservedCall) -> None:
    if not call.stored:  # by `get_last_msg`
        call.stored = ((message.headers, None),)
    attributes = call.attributes
    attributes[messaging.MESSAGING_MESSAGE_BODY_SIZE] = len(message.data or b"")
    if message.seq:
        attributes[names.JETSTREAM_SEQUENCE] = message.seq
    message_id = names.header(message.headers, names.MESSAGE_ID_HEADER)
    if message_id:
        attributes[messaging.MESSAGING_MESSAGE_ID] = message_id


def _added_consumer(info: Any, call: ObservedCall) -> None:
    call.attributes[names.JETSTREAM_CONSUMER] = info.name


def _found_stream(name: Any, call: ObservedCall) -> None:
    call.attributes[names.JETSTREAM_STREAM] = name


_MANAGEMENT_ANSWERS = {"add_consumer": _added_consumer, "find_stream_name_by_subject": _found_stream}

_MANAGEMENT = (
    "account_info",
    "find_stream_name_by_subject",
    "stream_info",
    "add_stream",
    "update_stream",
    "delete_stream",
    "purge_stream",
    "consumer_info",
    "streams_info",
    "streams_info_iterator",
    "add_consumer",
    "delete_consumer",
    "pause_consumer",
    "resume_consumer",
    "reset_consumer",
    "consumers_info",
    "delete_msg",
)


def _reading(start: Start, make_inner: MakeInner | None = None) -> Replaced:
    return observing(start, _stored_answer, links=True, consumed=the_result, make_inner=make_inner)


async def _recreate_consumer(
    telemetry: Telemetry, wrapped: Callable[..., Any], jsi: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """An ordered consumer is made again in a task of nats-py's own; no user called `add_consumer`."""
    mark = own_mark()
    mark.call = Call()
    try:
        return await wrapped(*args, **kwargs)
    finally:
        mark.call = None


ROWS: Rows = [
    (JetStreamContext, "publish", sending(_start_publish, _publish_answer)),
    (JetStreamContext, "publish_async", running(_start_publish, not_sent, _sent_asynchronously)),
    (JetStreamContext, "_handle_async_reply", _handle_async_reply),
    (Client, "_close", _close),
    *row(JetStreamContext, "subscribe", observing, partial(_start_subscribe, _push_source), _subscribe_answer),
    *row(JetStreamContext, "subscribe_bind", observing, partial(_start_bind, _push_bind_source)),
    *row(JetStreamContext, "pull_subscribe", observing, partial(_start_subscribe, _pull_source), _subscribe_answer),
    *row(JetStreamContext, "pull_subscribe_bind", observing, partial(_start_bind, _pull_bind_source)),
    (JetStreamContext, "_auto_ack_callback", _auto_ack_callback),
    (
        JetStreamContext.PushSubscription,
        "next_msg",
        receiving(_source_of_core, marks=True, make_inner=make_inner_next_msg),
    ),
    (JetStreamContext.PullSubscription, "fetch", Replaced(_make_fetch)),
    (JetStreamContext._JSI, "recreate_consumer", _recreate_consumer),  # pyright: ignore[reportPrivateUsage]
    *(
        each
        for name in _MANAGEMENT
        for each in row(
            JetStreamManager,
            name,
            observing,
            partial(_start_manage, Operation.client(name)),
            _MANAGEMENT_ANSWERS.get(name),
        )
    ),
    (JetStreamManager, "get_msg", _reading(partial(_start_stored, Operation.read("get_msg")), _make_inner_get_msg)),
    (JetStreamManager, "get_last_msg", _reading(partial(_start_stored, Operation.read("get_last_msg")))),
]
