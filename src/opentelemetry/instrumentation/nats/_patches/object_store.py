# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.js.object_store` and the bucket methods of `nats.js.client`: object stores.

An object is hundreds of messages; a call on it is one span. The context travels with the object's meta message only:
the chunks stay as they are, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call
from opentelemetry.instrumentation.nats._observing import Observed
from opentelemetry.instrumentation.nats._operations import Operation
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._keeping import origin_of_watcher, prototype_of_store
from opentelemetry.instrumentation.nats._patches._replacing import Rows
from opentelemetry.instrumentation.nats._patches._running import Arguments, observing, row, sending
from opentelemetry.instrumentation.nats._patches._watching import watcher_rows
from opentelemetry.instrumentation.nats._patches.key_value import listed, start_on_context
from opentelemetry.instrumentation.nats._sending import Send
from opentelemetry.instrumentation.nats._telemetry import Telemetry
from opentelemetry.instrumentation.nats._texts import cut
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

_Context = _nats.find_class("nats.js.client", "JetStreamContext")
_ObjectStore = _nats.find_class("nats.js.object_store", "ObjectStore")
_Watcher = _nats.find_class("nats.js.object_store", "ObjectStore.ObjectWatcher", optional=True)
_NOT_FOUND = _nats.find_errors("nats.js.errors", "NotFoundError")


def _all(store: Any) -> str:
    """Returns the subject of all that is in a store; chunks and object names in base64 are nobody's patterns."""
    return f"$O.{_nats.bucket_of(store)}.M.>"


def _describe(info: Any) -> Attributes:
    attributes: Attributes = {names.OBJECT_NAME: cut(info.name), messaging.MESSAGING_MESSAGE_BODY_SIZE: info.size or 0}
    if info.chunks is not None:
        attributes[names.OBJECT_CHUNKS] = info.chunks
    if info.digest:
        attributes[names.OBJECT_DIGEST] = info.digest
    return attributes


def _written(info: Any, write: Send) -> None:
    if info is not None:  # `delete` and `update_meta` return nothing
        write.span.set_attributes(_describe(info))


def _read(result: Any, call: Observed) -> None:
    described = _describe(getattr(result, "info", result))  # `get_info` returns the info, `get` a result that has it
    del described[names.OBJECT_NAME]  # behind a link it is another one than the call's, even in another store
    call.attributes.update(described)


def _infos(result: Any) -> Sequence[Any]:
    return cast("list[Any]", result) if isinstance(result, list) else (getattr(result, "info", result),)


def _start_write(
    kind: Operation,
    arguments: Arguments,
    telemetry: Telemetry,
    store: Any,
    context: Context,
    /,
    *args: object,
    **kwargs: object,
) -> Call:
    name = arguments.get(args, kwargs, "name") or getattr(arguments.get(args, kwargs, "meta"), "name", None)
    if telemetry.naming.leaves_out(kind.name, _all(store)):
        return Call(context, _not_messages(store))
    prototype = prototype_of_store(telemetry, store, kind)
    attributes = prototype.attributes.copy()
    if isinstance(name, str):
        attributes[names.OBJECT_NAME] = cut(name)
    send = Send.start(prototype, attributes, context)
    send.api_prefix = _not_messages(store)
    return send


def _not_messages(store: Any) -> tuple[str, str]:
    """Returns what the subjects of a write begin with that are not the message: its requests, and the chunks."""
    return _nats.api_prefix(_nats.context_of(store)), f"$O.{_nats.bucket_of(store)}.C."


def _start_on_store(
    operation: Operation,
    arguments: Arguments,
    telemetry: Telemetry,
    store: Any,
    context: Context,
    /,
    *args: object,
    **kwargs: object,
) -> Call:
    """Starts what is no write."""
    if telemetry.naming.leaves_out(operation.name, _all(store)):
        return Call()
    name = arguments.get(args, kwargs, "name")
    prototype = prototype_of_store(telemetry, store, operation)
    call = Observed(context, prototype)
    if isinstance(name, str):
        call.attributes[names.OBJECT_NAME] = cut(name)
    return call


def _origin_of(telemetry: Telemetry, watcher: Any) -> Origin:
    store = _nats.store_of_watcher(watcher)
    client = _nats.client_of_store(store)
    return origin_of_watcher(telemetry, watcher, client, _nats.bucket_of(store) or "", _all(store))


_WRITES = ("put", "delete", "update_meta")
_OTHERS = ("status", "seal", "watch")

_reading = partial(observing, answer=_read, links=True, consumed=_infos)
_listing = partial(observing, answer=partial(listed, _describe), absent=_NOT_FOUND, links=True, consumed=_infos)

ROWS: Rows = [
    *(
        each
        for name in _WRITES
        for each in row(
            _ObjectStore,
            name,
            sending,
            partial(_start_write, Operation.send(f"object.{name}")),
            _written,
            optional=True,
        )
    ),
    *(
        each
        for name, wrapper in (("get", _reading), ("get_info", _reading), ("list", _listing))
        for each in row(
            _ObjectStore, name, wrapper, partial(_start_on_store, Operation.read(f"object.{name}")), optional=True
        )
    ),
    *(
        each
        for name in _OTHERS
        for each in row(
            _ObjectStore, name, observing, partial(_start_on_store, Operation.client(f"object.{name}")), optional=True
        )
    ),
    *(
        each
        for name in ("object_store", "create_object_store", "delete_object_store")
        for each in row(_Context, name, observing, partial(start_on_context, Operation.client(name)), optional=True)
    ),
    *watcher_rows(_Watcher, _origin_of, _describe),
]
