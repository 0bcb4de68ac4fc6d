# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.js.manager`: streams, consumers, stored messages."""

from __future__ import annotations

from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._calls import Call
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._observing import Observed, note_writer
from opentelemetry.instrumentation.nats._operations import Operation
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._keeping import prototype_of
from opentelemetry.instrumentation.nats._patches._replacing import Make, Row, Rows
from opentelemetry.instrumentation.nats._patches._running import Arguments, Inner, Start, observing, row, the_result
from opentelemetry.instrumentation.nats._telemetry import Telemetry
from opentelemetry.instrumentation.nats._texts import cut
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

_Manager = _nats.find_class("nats.js.manager", "JetStreamManager")


def _start_manage(
    operation: Operation,
    arguments: Arguments,
    telemetry: Telemetry,
    manager: Any,
    context: Context,
    /,
    *args: object,
    **kwargs: object,
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
    if isinstance(call, Observed) and isinstance(consumer, str):
        call.attributes[names.JETSTREAM_CONSUMER] = cut(consumer)
    return call


def _on_stream(operation: Operation, telemetry: Telemetry, manager: Any, context: Context, stream: Any) -> Call:
    known = isinstance(stream, str)
    client = _nats.client_of_context(manager)
    prototype = prototype_of(telemetry, client, operation, stream if known else None, resource="stream")
    if prototype.excluded:
        return Call()
    call = Observed(context, prototype)
    if known:
        call.attributes[names.JETSTREAM_STREAM] = cut(stream)
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
    *_: object,
    **__: object,
) -> Call:
    return _on_stream(operation, telemetry, manager, context, stream_name)


async def _note_stored(call: Call, original: Any, self: object, /, *args: object, **kwargs: object) -> Any:
    """Runs `get_msg` inside of another read: notes what it reads, for a link to its writer."""
    message = await original(self, *args, **kwargs)
    try:
        call.stored = (*call.stored, (message.headers, None))
    except FAULTS:
        _faults.report("reading a stored message")
    return message


async def _note_policy(call: Call, original: Any, self: object, /, *args: object, **kwargs: object) -> Any:
    """Runs `consumer_info` inside of a subscribe: notes how its messages are acknowledged, how often delivered."""
    info = await original(self, *args, **kwargs)
    try:
        if call.origin is not None:
            call.origin.acknowledges = _nats.acknowledges(info.config)
            call.origin.max_deliver = _nats.max_deliver(info.config)
    except FAULTS:
        _faults.report("reading a consumer's configuration")
    return info


def _stored_answer(message: Any, call: Observed) -> None:
    note_writer(message.headers)
    if not call.stored:  # by `get_last_msg`
        call.stored = ((message.headers, None),)
    attributes = call.attributes
    attributes[messaging.MESSAGING_MESSAGE_BODY_SIZE] = len(message.data or b"")
    if message.seq:
        attributes[names.JETSTREAM_SEQUENCE] = message.seq
    message_id = names.header(message.headers, names.MESSAGE_ID_HEADER)
    if message_id:
        attributes[messaging.MESSAGING_MESSAGE_ID] = message_id


def _added_consumer(info: Any, call: Observed) -> None:
    call.attributes[names.JETSTREAM_CONSUMER] = info.name


def _found_stream(name: Any, call: Observed) -> None:
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


# What came after nats-py 2.2.
_LATER = ("streams_info_iterator", "pause_consumer", "resume_consumer", "reset_consumer", "get_last_msg", "get_msg")


def _reading(start: Start, followed: str = "", inner: Inner | None = None) -> Make:
    return observing(start, _stored_answer, links=True, consumed=the_result, followed=followed, inner=inner)


ROWS: Rows = [
    *(
        each
        for name in _MANAGEMENT
        for each in row(
            _Manager,
            name,
            partial(observing, followed=name, inner=_note_policy) if name == "consumer_info" else observing,
            partial(_start_manage, Operation.client(name)),
            _MANAGEMENT_ANSWERS.get(name),
            optional=name in _LATER,
        )
    ),
    Row(
        _Manager,
        "get_msg",
        _reading(partial(_start_stored, Operation.read("get_msg")), "get_msg", _note_stored),
        optional=True,
    ),
    Row(_Manager, "get_last_msg", _reading(partial(_start_stored, Operation.read("get_last_msg"))), optional=True),
]
