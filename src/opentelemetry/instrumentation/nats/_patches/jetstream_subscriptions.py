# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.js.client`: subscribe, fetch, and the other ways in which a stream's messages come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call, own_mark
from opentelemetry.instrumentation.nats._connection import Connection
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._holding import delivery_of
from opentelemetry.instrumentation.nats._observing import Observed
from opentelemetry.instrumentation.nats._operations import Operation
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._keeping import connection_of, keep_origin, origin_of
from opentelemetry.instrumentation.nats._patches._loops import FetchedMessages
from opentelemetry.instrumentation.nats._patches._replacing import Row, Rows
from opentelemetry.instrumentation.nats._patches._running import Arguments, observing, row, steps
from opentelemetry.instrumentation.nats._patches._waiting import receiving
from opentelemetry.instrumentation.nats._patches.subscription import hear_refusal, stepping
from opentelemetry.instrumentation.nats._receiving import Fetch, before_receive
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry
from opentelemetry.instrumentation.nats._texts import clean, cut
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

_Context = _nats.find_class("nats.js.client", "JetStreamContext")
_Push = _nats.find_class("nats.js.client", "JetStreamContext.PushSubscription")
_Pull = _nats.find_class("nats.js.client", "JetStreamContext.PullSubscription")
_Ordered = _nats.find_class("nats.js.client", "JetStreamContext._JSI")

_SUBSCRIBE = Operation.client("subscribe")


# -- subscribe --------------------------------------------------------------------------------------------------------


def _start_subscribe(
    make_origin: Callable[..., Origin],
    arguments: Arguments,
    telemetry: Telemetry,
    js: Any,
    context: Context,
    /,
    *args: object,
    **kwargs: object,
) -> Call:
    get = partial(arguments.get, args, kwargs)
    subject = get("subject")
    if not isinstance(subject, str):
        return Call()
    connection = connection_of(telemetry, _nats.client_of_context(js))
    origin = make_origin(connection, get)
    prototype = connection.prototype(_SUBSCRIBE, subject)
    call = Call()
    if not prototype.excluded:
        call = Observed(context, prototype)
        call.attributes.update(_consumer_attributes(get("stream"), origin.consumer))
    call.origin = origin
    # A durable that is there already has a configuration of its own. nats-py asks for it.
    call.follows = "consumer_info"
    return call


def _start_bind(
    make_origin: Callable[..., Origin],
    arguments: Arguments,
    telemetry: Telemetry,
    js: Any,
    context: Context,
    /,
    *args: object,
    **kwargs: object,
) -> Call:
    """Binding makes no round trip, so no span; it only tells where the messages come from."""
    call = Call()
    connection = connection_of(telemetry, _nats.client_of_context(js))
    call.origin = make_origin(connection, partial(arguments.get, args, kwargs))
    return call


def _make_auto_ack_callback(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    def _auto_ack_callback(*args: Any, **kwargs: object) -> Any:
        """Notes when a handler has settled its message itself: nats-py acknowledges it once more, drops the error."""
        if not args:
            return original(*args, **kwargs)
        *rest, callback = args

        async def handle(message: Any) -> None:
            await callback(message)
            try:
                if _nats.is_settled(message):
                    delivery = delivery_of(message)
                    if delivery is not None:
                        delivery.settled = True
            except FAULTS:
                _faults.report("reading an acknowledgement")

        return original(*rest, handle, **kwargs)

    return _auto_ack_callback


def _subscribe_answer(subscription: Any, call: Observed) -> None:
    call.attributes.update(_consumer_attributes(_nats.stream_of(subscription), _nats.consumer_of(subscription)))


def _consumer_attributes(stream: Any, consumer: Any) -> Attributes:
    attributes: Attributes = {}
    if isinstance(stream, str):
        attributes[names.JETSTREAM_STREAM] = cut(stream)
    if isinstance(consumer, str):
        attributes[names.JETSTREAM_CONSUMER] = cut(consumer)
        attributes[messaging.MESSAGING_DESTINATION_SUBSCRIPTION_NAME] = attributes[names.JETSTREAM_CONSUMER]
    return attributes


def _push_origin(connection: Connection, get: Callable[[str], Any]) -> Origin:
    config = get("config")
    queue = get("queue")
    # nats-py names the consumer after the queue; a group in the configuration has no say in that.
    durable = queue or get("durable") or getattr(config, "durable_name", None)
    return Origin(
        connection,
        get("subject"),
        group=queue or getattr(config, "deliver_group", None),
        consumer=durable,
        acknowledges=not get("ordered_consumer") and _nats.acknowledges(config),
        max_deliver=_nats.max_deliver(config),
    )


def _push_bind_origin(connection: Connection, get: Callable[[str], Any]) -> Origin:
    config = get("config")
    subject = getattr(config, "filter_subject", None)
    return Origin(
        connection,
        subject or str(get("stream")),
        group=getattr(config, "deliver_group", None),
        consumer=getattr(config, "durable_name", None),
        stream=not subject,
        acknowledges=_nats.acknowledges(config),
        max_deliver=_nats.max_deliver(config),
    )


def _pull_origin(connection: Connection, get: Callable[[str], Any]) -> Origin:
    config = get("config")
    return Origin(
        connection,
        get("subject"),
        consumer=get("durable"),
        acknowledges=_nats.acknowledges(config),
        max_deliver=_nats.max_deliver(config),
    )


def _pull_bind_origin(connection: Connection, get: Callable[[str], Any]) -> Origin:
    # nats-py takes the same three, in this order.
    consumer = get("durable") or get("name") or get("consumer")
    return Origin(connection, str(get("stream")), consumer=consumer, stream=True)


# -- fetch ------------------------------------------------------------------------------------------------------------


def _make_fetch(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def fetch(self: object, *args: object, **kwargs: object) -> Any:
        fetch = core = client = origin = mark = None
        generation = 0
        try:
            core = _nats.core_of(self) if steps(telemetry) else None
            if core is not None and not telemetry.listening and telemetry.idle():
                origin = _origin_of_pull(connection_of(telemetry, _nats.client_of_pull(self)), self, core)
            elif core is not None:  # without one it is unsubscribed: nats-py is about to say so
                client = _nats.client_of_pull(self)
                origin = _origin_of_pull(connection_of(telemetry, client), self, core)
                fetch = Fetch(origin, before_receive())
                generation = origin.connection.generation
                mark = own_mark()
                mark.call = fetch
        except FAULTS:
            _faults.report("starting a receive")
        if fetch is None or origin is None or mark is None:
            messages = await original(self, *args, **kwargs)
            # Without an SDK a loop over them makes no spans, but carries on what others record.
            return messages if origin is None or not messages else _carrying(telemetry, origin, messages)
        try:
            with stepping(telemetry, core):
                messages = await original(self, *args, **kwargs)
        except BaseException as error:
            mark.call = None
            try:
                lost = origin.connection.generation != generation or not getattr(client, "is_connected", True)
                fetch.got_nothing(_reason(telemetry, error, "connection lost" if lost else fetch.refusal))
            except FAULTS:
                _faults.report("recording a receive")
            raise
        mark.call = None
        try:
            if not messages:
                fetch.got_nothing(Failure("409", True, clean(fetch.refusal)) if fetch.refusal else None)
                return messages
            fetch.got_batch(messages)
            return FetchedMessages(telemetry, origin, messages)
        except FAULTS:
            _faults.report("recording a receive")
            return messages

    return fetch


def _carrying(telemetry: Telemetry, origin: Origin, messages: list[Any]) -> list[Any]:
    try:
        return FetchedMessages(telemetry, origin, messages)
    except FAULTS:
        _faults.report("recording a receive")
        return messages


def _reason(telemetry: Telemetry, error: BaseException, reason: str) -> BaseException | Failure | None:
    if isinstance(error, asyncio.CancelledError):
        return None
    if not isinstance(error, asyncio.TimeoutError):
        return error
    # Waiting in vain is no error. But nats-py says the same when nothing could come any more.
    failure = telemetry.classify(error)
    return failure._replace(description=clean(f"{failure.description}: {reason}")) if reason else None


def _origin_of_push(telemetry: Telemetry, subscription: Any) -> Origin:
    return origin_of(telemetry, _nats.core_of(subscription))


def _origin_of_pull(connection: Connection, subscription: Any, core: Any) -> Origin:
    origin = origin_of(connection.telemetry, core)
    if origin.attributes is None:
        stream, consumer = _nats.stream_of(subscription), _nats.consumer_of(subscription)
        if connection.is_inbox(origin.subject):  # subscribed before our time
            origin = Origin(connection, stream or "", stream=True)
            keep_origin(core, origin)
        origin.attributes = _consumer_attributes(stream, consumer)
    return origin


def _make_recreate_consumer(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def recreate_consumer(self: object, *args: object, **kwargs: object) -> Any:
        """An ordered consumer is made again in a task of nats-py's own; no user called `add_consumer`."""
        mark = None
        try:
            mark = own_mark()
            mark.call = Call()
        except FAULTS:
            _faults.report("starting an operation")
        try:
            return await original(self, *args, **kwargs)
        finally:
            if mark is not None:
                mark.call = None

    return recreate_consumer


ROWS: Rows = [
    *row(_Context, "subscribe", observing, partial(_start_subscribe, _push_origin), _subscribe_answer),
    *row(_Context, "subscribe_bind", observing, partial(_start_bind, _push_bind_origin)),
    *row(_Context, "pull_subscribe", observing, partial(_start_subscribe, _pull_origin), _subscribe_answer),
    *row(_Context, "pull_subscribe_bind", observing, partial(_start_bind, _pull_bind_origin)),
    Row(_Context, "_auto_ack_callback", _make_auto_ack_callback, coroutine=False),
    Row(
        _Push,
        "next_msg",
        receiving(_origin_of_push, followed="next_msg", inner=hear_refusal),
        optional=True,
    ),
    Row(_Pull, "fetch", _make_fetch),
    Row(_Ordered, "recreate_consumer", _make_recreate_consumer, optional=True),
]
