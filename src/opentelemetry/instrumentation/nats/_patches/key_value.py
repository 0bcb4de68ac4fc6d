# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.js.kv` and the bucket methods of `nats.js.client`: key-value stores."""

from __future__ import annotations

from functools import partial
from typing import Any

from nats.js.client import JetStreamContext
from nats.js.errors import KeyNotFoundError, NoKeysError
from nats.js.kv import KeyValue

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call
from opentelemetry.instrumentation.nats._connection import Operation, Source
from opentelemetry.instrumentation.nats._patches._handing_over import Describe
from opentelemetry.instrumentation.nats._patches._patching import Rows
from opentelemetry.instrumentation.nats._patches._running import (
    Arguments,
    Consumed,
    api_prefix,
    client_of,
    observing,
    row,
    sending,
    the_result,
)
from opentelemetry.instrumentation.nats._patches._watching import watcher_source, watcher_wrappers
from opentelemetry.instrumentation.nats._telemetry import ActiveOperation, ObservedCall, Telemetry, delivery_of
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

_PUT, _DELETE, _PURGE = "put", "delete", "purge"
_OPERATIONS = {None: _PUT, "DEL": _DELETE, "PURGE": _PURGE}


# -- one key ----------------------------------------------------------------------------------------------------------


def _start_write(
    operation: Operation, telemetry: Telemetry, kv: Any, context: Context, /, key: Any, *_: Any, **__: Any
) -> Call:
    if telemetry.excludes and telemetry.is_excluded(f"{kv._pre}{key}"):
        return Call(context)
    channel = telemetry.channel(client_of(kv), operation, kv._name, resource=True)
    attributes = channel.attributes.copy()
    if isinstance(key, str):
        attributes[names.KV_KEY] = key
    return telemetry.start_send(channel, attributes, context)


def _start_create(operation: Operation, telemetry: Telemetry, kv: Any, *args: Any, **kwargs: Any) -> Call:
    call = _start_write(operation, telemetry, kv, *args, **kwargs)
    call.api_prefix = api_prefix(kv._js)  # it reads what is there when there is something
    return call


def _written(revision: Any, write: ActiveOperation) -> None:
    if type(revision) is int:  # `delete` and `purge` return True, which is an int
        write.span.set_attribute(names.KV_REVISION, revision)


def _start_on_bucket(
    operation: Operation,
    telemetry: Telemetry,
    kv: Any,
    context: Context,
    /,
    key: Any = None,
    *_: Any,
    keys: Any = None,
    **__: Any,
) -> Call:
    """Starts what is no write: it is about a key, a pattern of keys (the first argument too), or all of them."""
    if key is None:
        key = keys
    known = isinstance(key, str)
    if telemetry.excludes and telemetry.is_excluded(f"{kv._pre}{key if known else '>'}"):
        return Call()
    channel = telemetry.channel(client_of(kv), operation, kv._name, resource=True)
    call = ObservedCall(telemetry, context, channel)
    if known:
        call.attributes[names.KV_KEY] = key
    return call


def _got(entry: Any, call: ObservedCall) -> None:
    attributes = call.attributes
    attributes[names.KV_OPERATION] = _PUT
    if entry.revision is not None:
        attributes[names.KV_REVISION] = entry.revision


# -- the bucket -------------------------------------------------------------------------------------------------------


def listed(describe: Describe, entries: Any, call: ObservedCall) -> None:
    """Reads a list of what is stored: how many, and who wrote what."""
    stored: list[tuple[Any, Attributes | None]] = []
    for entry in entries:
        delivery = delivery_of(entry)
        if delivery is not None:
            stored.append((delivery.headers, describe(entry)))
    call.stored = stored  # and not what nats-py looked up to find the list
    call.attributes[messaging.MESSAGING_BATCH_MESSAGE_COUNT] = len(entries)


def start_on_context(
    operation: Operation,
    arguments: Arguments,
    telemetry: Telemetry,
    js: Any,
    context: Context,
    /,
    *args: Any,
    **kwargs: Any,
) -> Call:
    """Starts the methods of `JetStreamContext` that look up, make and delete a bucket, of either store."""
    bucket = arguments.get(args, kwargs, "bucket") or getattr(arguments.get(args, kwargs, "config"), "bucket", None)
    name = bucket if isinstance(bucket, str) else None
    return ObservedCall(telemetry, context, telemetry.channel(js._nc, operation, name, resource=True))


# -- watchers ---------------------------------------------------------------------------------------------------------


def _source_of(telemetry: Telemetry, watcher: Any) -> Source:
    kv = watcher._js
    return watcher_source(telemetry, watcher, client_of(kv), kv._name, f"{kv._pre}>")


def _describe(entry: Any) -> Attributes:
    attributes: Attributes = {
        names.KV_KEY: entry.key,
        names.KV_OPERATION: _OPERATIONS.get(entry.operation, entry.operation),
        messaging.MESSAGING_MESSAGE_BODY_SIZE: len(entry.value or b""),
    }
    if entry.revision is not None:
        attributes[names.KV_REVISION] = entry.revision
    return attributes


_WRITES = {
    "put": (_start_write, _PUT),
    "create": (_start_create, _PUT),
    "update": (_start_write, _PUT),
    "delete": (_start_write, _DELETE),
    "purge": (_start_write, _PURGE),
}
_OTHERS = ("status", "purge_deletes", "watch", "watchall")


def _write(name: str, kv_operation: str) -> Operation:
    return Operation.send(f"kv.{name}", attributes={names.KV_OPERATION: kv_operation})


_LISTS: dict[str, Consumed | None] = {"keys": None, "history": tuple}
_LISTED = partial(listed, _describe)

ROWS: Rows = [
    *(
        (KeyValue, name, sending(partial(start, _write(name, kv_operation)), _written))
        for name, (start, kv_operation) in _WRITES.items()
    ),
    (
        KeyValue,
        "get",
        observing(
            partial(_start_on_bucket, Operation.read("kv.get")),
            _got,
            absent=(KeyNotFoundError,),
            links=True,
            consumed=the_result,
        ),
    ),
    *(
        (
            KeyValue,
            name,
            observing(
                partial(_start_on_bucket, Operation.read(f"kv.{name}")),
                _LISTED,
                absent=(NoKeysError,),
                links=True,
                consumed=consumed,
            ),
        )
        for name, consumed in _LISTS.items()
    ),
    *((KeyValue, name, observing(partial(_start_on_bucket, Operation.client(f"kv.{name}")))) for name in _OTHERS),
    *(
        each
        for name in ("key_value", "create_key_value", "delete_key_value")
        for each in row(JetStreamContext, name, observing, partial(start_on_context, Operation.client(name)))
    ),
    *((KeyValue.KeyWatcher, name, wrapper) for name, wrapper in watcher_wrappers(_source_of, _describe).items()),
]
