# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the tests of buckets, object stores and services have in common."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.js import JetStreamContext, errors, kv

from opentelemetry.sdk.trace import ReadableSpan
from support.spans import AnySpan, connection_attributes, span_context
from support.telemetry import Telemetry
from support.waiting import eventually, flush

# A `None` from a watcher is a marker that its loop goes on after. In older releases of nats-py it is the loop's end.
LOOP_GOES_ON = hasattr(kv, "StopIterSentinel")


def operation_attributes(
    nc: Client, name: str, destination: str, more: dict[str, Any] | None = None, *, operation_type: str | None = None
) -> dict[str, Any]:
    """All attributes of an operation's span.

    Args:
        nc: The client, connected.
        name: `messaging.operation.name`.
        destination: `messaging.destination.name`.
        more: What the span has besides.
        operation_type: `messaging.operation.type`; None where there is none.
    """
    attributes = connection_attributes(nc, peer=operation_type != "process")
    attributes |= {"messaging.operation.name": name, "messaging.destination.name": destination}
    if operation_type is not None:
        attributes["messaging.operation.type"] = operation_type
    return attributes | (more or {})


async def watching(bucket: kv.KeyValue, keys: str = ">", **options: Any) -> Any:
    """Watches a bucket that has values already, for certain.

    Where the server's first delivery comes after its answer, nats-py takes the bucket for an empty one, and the
    watcher's first update is the marker. Seldom, but then a test would fail.
    """
    while True:
        watcher = await bucket.watch(keys, **options)
        await eventually(watcher._updates.qsize)
        if watcher._updates._queue[0] is not None:
            return watcher
        await watcher.stop()


async def listed(list_it: Callable[[], Awaitable[list[Any]]], telemetry: Telemetry | None = None) -> list[Any]:
    """Calls `keys` or `history` of what is not empty until they see it, for the reason that `watching` has.

    Args:
        list_it: Calls.
        telemetry: Where only the spans of the call that saw it are to be left.
    """
    for _ in range(10):
        if telemetry is not None:
            telemetry.clear()
        with suppress(errors.NoKeysError):
            return await list_it()
    raise AssertionError("nothing was listed")


async def until_marker(watcher: AsyncIterable[Any]) -> list[Any]:
    """Walks a watcher's loop until all that was there is seen."""
    entries: list[Any] = []
    async for entry in watcher:
        if entry is None:
            break
        entries.append(entry)
    return entries


def children(spans: Iterable[ReadableSpan], parent: AnySpan) -> list[str]:
    """The names of the spans directly under `parent`, in the order of the spans."""
    parent_id = span_context(parent).span_id
    return [span.name for span in spans if span.parent is not None and span.parent.span_id == parent_id]


class Everything:
    """A bit of all that can be done with a client, in what a user calls anywhere; `await Everything.made(nc, ...)`.

    Args:
        nc: The client.
        name: A name that nothing else in the test has.
    """

    def __init__(self, nc: Client, name: str) -> None:
        self._nc = nc
        self._js: JetStreamContext = nc.jetstream()
        self._name = name
        self._objects: Any = None

    @classmethod
    async def made(cls, nc: Client, name: str, telemetry: Telemetry) -> Everything:
        """Makes a stream, a bucket, an object store and a responder, and forgets their spans."""
        self = cls(nc, name)
        await nc.subscribe(f"{name}.echo", cb=_echo)
        await self._js.add_stream(name=name, subjects=[f"{name}.stored"])
        self._bucket = await self._js.create_key_value(bucket=f"{name}-kv")
        if hasattr(self._js, "create_object_store"):
            self._objects = await self._js.create_object_store(bucket=f"{name}-objects")
        await flush(nc)
        telemetry.clear()
        return self

    async def use(self) -> None:
        """Publishes, requests and uses the stores."""
        await self._nc.publish(f"{self._name}.plain", b"")
        await self._nc.request(f"{self._name}.echo", b"")
        await self._js.publish(f"{self._name}.stored", b"")
        await self._bucket.put("key", b"value")
        await self._bucket.get("key")
        await self._bucket.watchall()
        if self._objects:
            await self._objects.put("object", b"bytes")
            await self._objects.get("object")

    @property
    def names(self) -> list[str]:
        """The names of the spans of one `use`."""
        name = self._name
        names = [f"publish {name}.plain", f"request {name}.echo", f"publish {name}.stored"]
        names += [f"kv.{call} {name}-kv" for call in ("put", "get", "watchall")]
        if self._objects:
            names += [f"object.{call} {name}-objects" for call in ("put", "get")]
        return names


async def _echo(msg: Any) -> None:
    await msg.respond(msg.data)
