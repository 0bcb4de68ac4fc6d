# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.js.kv` and the bucket methods of `nats.js.client`: key-value stores."""

from __future__ import annotations

from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call
from opentelemetry.instrumentation.nats._delivering import Describe
from opentelemetry.instrumentation.nats._holding import delivery_of
from opentelemetry.instrumentation.nats._incoming import single
from opentelemetry.instrumentation.nats._observing import Consumed, Observed
from opentelemetry.instrumentation.nats._operations import Operation
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._keeping import origin_of_watcher, prototype_of, prototype_of_store
from opentelemetry.instrumentation.nats._patches._replacing import Row, Rows
from opentelemetry.instrumentation.nats._patches._running import Arguments, observing, row, sending, the_result
from opentelemetry.instrumentation.nats._patches._watching import watcher_rows
from opentelemetry.instrumentation.nats._sending import Send
from opentelemetry.instrumentation.nats._telemetry import Telemetry
from opentelemetry.instrumentation.nats._texts import cut
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

_Context = _nats.find_class("nats.js.client", "JetStreamContext")
_KeyValue = _nats.find_class("nats.js.kv", "KeyValue")
_Watcher = _nats.find_class("nats.js.kv", "KeyValue.KeyWatcher")
_NO_KEY = _nats.find_errors("nats.js.errors", "KeyNotFoundError")
_NO_KEYS = _nats.find_errors("nats.js.errors", "NoKeysError")

_PUT, _DELETE, _PURGE = "put", "delete", "purge"
_OPERATIONS = {None: _PUT, "DEL": _DELETE, "PURGE": _PURGE}


# -- one key ----------------------------------------------------------------------------------------------------------


def _start_write(
    operation: Operation, telemetry: Telemetry, kv: Any, context: Context, /, key: Any, *_: object, **__: object
) -> Call:
    if telemetry.naming.excludes and telemetry.naming.leaves_out(operation.name, f"{_nats.key_prefix(kv)}{key}"):
        return Call(context)
    prototype = prototype_of_store(telemetry, kv, operation)
    attributes = prototype.attributes.copy()
    if isinstance(key, str):
        attributes[names.KV_KEY] = cut(key)
    return Send.start(prototype, attributes, context)


def _start_create(operation: Operation, telemetry: Telemetry, kv: Any, *args: Any, **kwargs: object) -> Call:
    call = _start_write(operation, telemetry, kv, *args, **kwargs)
    call.api_prefix = _nats.api_prefix(_nats.context_of(kv))  # it reads what is there when there is something
    return call


def _written(revision: Any, write: Send) -> None:
    if type(revision) is int:  # `delete` and `purge` return True, which is an int
        write.span.set_attribute(names.KV_REVISION, revision)


def _start_on_bucket(
    operation: Operation,
    telemetry: Telemetry,
    kv: Any,
    context: Context,
    /,
    key: Any = None,
    *_: object,
    keys: Any = None,
    **__: object,
) -> Call:
    """Starts what is no write: it is about a key, a pattern of keys (the first argument too), or all of them."""
    if key is None:
        key = keys
    known = isinstance(key, str)
    if telemetry.naming.excludes and telemetry.naming.leaves_out(
        operation.name, f"{_nats.key_prefix(kv)}{key if known else '>'}"
    ):
        return Call()
    prototype = prototype_of_store(telemetry, kv, operation)
    call = Observed(context, prototype)
    if known:
        call.attributes[names.KV_KEY] = cut(key)
    return call


def _got(entry: Any, call: Observed) -> None:
    attributes = call.attributes
    attributes[names.KV_OPERATION] = _PUT
    if entry.revision is not None:
        attributes[names.KV_REVISION] = entry.revision


# -- the bucket -------------------------------------------------------------------------------------------------------


def listed(describe: Describe, entries: Any, call: Observed) -> None:
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
    *args: object,
    **kwargs: object,
) -> Call:
    """Starts the methods of `JetStreamContext` that look up, make and delete a bucket, of either store."""
    bucket = arguments.get(args, kwargs, "bucket") or getattr(arguments.get(args, kwargs, "config"), "bucket", None)
    name = bucket if isinstance(bucket, str) else None
    if telemetry.naming.asks and telemetry.naming.refuses(operation.name, name or ""):
        return Call()
    return Observed(context, prototype_of(telemetry, _nats.client_of_context(js), operation, name, resource="bucket"))


# -- watchers ---------------------------------------------------------------------------------------------------------


def _origin_of(telemetry: Telemetry, watcher: Any) -> Origin:
    kv = _nats.store_of_watcher(watcher)
    bucket = _nats.bucket_of(kv) or ""
    return origin_of_watcher(telemetry, watcher, _nats.client_of_store(kv), bucket, f"{_nats.key_prefix(kv)}>")


def _operation_of(entry: Any) -> Any:
    # It is a header's value, and nats-py's `fast_parse` extra makes lists of those.
    operation: Any = single(entry.operation)
    return _OPERATIONS.get(operation, operation)


def _describe(entry: Any) -> Attributes:
    attributes: Attributes = {
        names.KV_KEY: cut(entry.key),
        names.KV_OPERATION: _operation_of(entry),
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
        Row(_KeyValue, name, sending(partial(start, _write(name, kv_operation)), _written))
        for name, (start, kv_operation) in _WRITES.items()
    ),
    Row(
        _KeyValue,
        "get",
        observing(
            partial(_start_on_bucket, Operation.read("kv.get")),
            _got,
            absent=_NO_KEY,
            links=True,
            consumed=the_result,
        ),
    ),
    *(
        Row(
            _KeyValue,
            name,
            observing(
                partial(_start_on_bucket, Operation.read(f"kv.{name}")),
                _LISTED,
                absent=_NO_KEYS,
                links=True,
                consumed=consumed,
            ),
            optional=True,
        )
        for name, consumed in _LISTS.items()
    ),
    *(
        Row(_KeyValue, name, observing(partial(_start_on_bucket, Operation.client(f"kv.{name}"))), optional=True)
        for name in _OTHERS
    ),
    *(
        each
        for name in ("key_value", "create_key_value", "delete_key_value")
        for each in row(_Context, name, observing, partial(start_on_context, Operation.client(name)))
    ),
    *watcher_rows(_Watcher, _origin_of, _describe),
]
