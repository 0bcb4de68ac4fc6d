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

from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call
from opentelemetry.instrumentation.nats._connection import Operation, Source
from opentelemetry.instrumentation.nats._patches._patching import Rows
from opentelemetry.instrumentation.nats._patches._running import (
    Arguments,
    api_prefix,
    client_of,
    observing,
    row,
    sending,
)
from opentelemetry.instrumentation.nats._patches._watching import watcher_source, watcher_wrappers
from opentelemetry.instrumentation.nats._patches.key_value import listed, start_on_context
from opentelemetry.instrumentation.nats._telemetry import ActiveOperation, ObservedCall, Telemetry
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging


def _all(store: Any) -> str:
    """Returns the subject of all that is in a store; chunks and object names in base64 are nobody's patterns."""
    return f"$O.{store._name}.M.>"


def _describe(info: Any) -> Attributes:
    attributes: Attributes = {names.OBJECT_NAME: info.name, messaging.MESSAGING_MESSAGE_BODY_SIZE: info.size or 0}
    if info.chunks is not None:
        attributes[names.OBJECT_CHUNKS] = info.chunks
    if info.digest:
        attributes[names.OBJECT_DIGEST] = info.digest
    return attributes


def _written(info: Any, write: ActiveOperation) -> None:
    if info is not None:  # `delete` and `update_meta` return nothing
        write.span.set_attributes(_describe(info))


def _read(result: Any, call: ObservedCall) -> None:
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
    *args: Any,
    **kwargs: Any,
) -> Call:
    name = arguments.get(args, kwargs, "name") or getattr(arguments.get(args, kwargs, "meta"), "name", None)
    if telemetry.is_excluded(_all(store)):
        return Call(context, _not_messages(store))
    channel = telemetry.channel(client_of(store), kind, store._name, resource=True)
    attributes = channel.attributes.copy()
    if isinstance(name, str):
        attributes[names.OBJECT_NAME] = name
    operation = telemetry.start_send(channel, attributes, context)
    operation.api_prefix = _not_messages(store)
    return operation


def _not_messages(store: Any) -> tuple[str, str]:
    """Returns what the subjects of a write begin with that are not the message: its requests, and the chunks."""
    return api_prefix(store._js), f"$O.{store._name}.C."


def _start_on_store(
    operation: Operation,
    arguments: Arguments,
    telemetry: Telemetry,
    store: Any,
    context: Context,
    /,
    *args: Any,
    **kwargs: Any,
) -> Call:
    """Starts what is no write."""
    if telemetry.is_excluded(_all(store)):
        return Call()
    name = arguments.get(args, kwargs, "name")
    channel = telemetry.channel(client_of(store), operation, store._name, resource=True)
    call = ObservedCall(telemetry, context, channel)
    if isinstance(name, str):
        call.attributes[names.OBJECT_NAME] = name
    return call


def _source_of(telemetry: Telemetry, watcher: Any) -> Source:
    store = watcher._js
    return watcher_source(telemetry, watcher, client_of(store), store._name, _all(store))


_WRITES = ("put", "delete", "update_meta")
_OTHERS = ("status", "seal", "watch")

_reading = partial(observing, answer=_read, links=True, consumed=_infos)
_listing = partial(observing, answer=partial(listed, _describe), absent=(NotFoundError,), links=True, consumed=_infos)

ROWS: Rows = [
    *(
        each
        for name in _WRITES
        for each in row(ObjectStore, name, sending, partial(_start_write, Operation.send(f"object.{name}")), _written)
    ),
    *(
        each
        for name, wrapper in (("get", _reading), ("get_info", _reading), ("list", _listing))
        for each in row(ObjectStore, name, wrapper, partial(_start_on_store, Operation.read(f"object.{name}")))
    ),
    *(
        each
        for name in _OTHERS
        for each in row(ObjectStore, name, observing, partial(_start_on_store, Operation.client(f"object.{name}")))
    ),
    *(
        each
        for name in ("object_store", "create_object_store", "delete_object_store")
        for each in row(JetStreamContext, name, observing, partial(start_on_context, Operation.client(name)))
    ),
    *((ObjectStore.ObjectWatcher, name, wrapper) for name, wrapper in watcher_wrappers(_source_of, _describe).items()),
]
