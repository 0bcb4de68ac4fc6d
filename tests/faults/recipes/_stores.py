# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.js.kv` and `nats.js.object_store`."""

from __future__ import annotations

import asyncio
from typing import Any

from nats.js import api

from faults.recipes._kitchen import Kitchen, Operation, nothing, recipe, simple
from faults.world import PATIENCE


async def _two_values(kitchen: Kitchen) -> Any:
    return await kitchen.bucket(2)


def _on_bucket(method: str, *arguments: Any, **more: Any) -> None:
    simple(f"KeyValue.{method}", _two_values, lambda _, bucket: lambda: getattr(bucket, method)(*arguments, **more))


_on_bucket("put", "key0", b"new")
_on_bucket("create", "key9", b"new")
_on_bucket("update", "key0", b"new", last=1)
_on_bucket("delete", "key0")
_on_bucket("purge", "key0")
_on_bucket("get", "key1")
_on_bucket("keys")
_on_bucket("history", "key0")
_on_bucket("status")
_on_bucket("watch", "key0")
_on_bucket("watchall")


@recipe("KeyValue.purge_deletes")
async def purge_deletes(kitchen: Kitchen) -> Operation:
    bucket = await kitchen.bucket(1)
    await bucket.delete("key0")
    return lambda: bucket.purge_deletes(olderthan=-1)


async def _bucket_there(kitchen: Kitchen) -> None:
    await kitchen.bucket(1)


simple("JetStreamContext.key_value", _bucket_there, lambda k, _: lambda: k.js.key_value(k.name))
simple(
    "JetStreamContext.create_key_value",
    nothing,
    lambda k, _: lambda: k.js.create_key_value(bucket=k.name, storage="memory"),
)
simple("JetStreamContext.delete_key_value", _bucket_there, lambda k, _: lambda: k.js.delete_key_value(k.name))


async def _kv_watcher(kitchen: Kitchen) -> Any:
    bucket = await kitchen.bucket(2)
    await bucket.delete("key0")
    return await kitchen.watching(bucket, bucket.watchall)


def _walk(watcher: Any) -> Operation:
    async def operation() -> Any:
        seen: list[Any] = []
        async for entry in watcher:
            await asyncio.sleep(0)
            if entry is None:
                break
            seen.append(getattr(entry, "key", None) or entry.name)
            if len(seen) == 2:
                break
        return seen

    return operation


simple("KeyValue.KeyWatcher.__init__", _kv_watcher, lambda _, watcher: lambda: watcher.stop())
simple("KeyValue.KeyWatcher.__aiter__", _kv_watcher, lambda _, watcher: _walk(watcher))
simple("KeyValue.KeyWatcher.__anext__", _kv_watcher, lambda _, watcher: lambda: watcher.__anext__())
simple("KeyValue.KeyWatcher.updates", _kv_watcher, lambda _, watcher: lambda: watcher.updates(PATIENCE))


_LARGE = b"x" * 300_000


async def _two_objects(kitchen: Kitchen) -> Any:
    return await kitchen.objects(2)


def _on_objects(method: str, *arguments: Any) -> None:
    simple(f"ObjectStore.{method}", _two_objects, lambda _, store: lambda: getattr(store, method)(*arguments))


_on_objects("put", "large", _LARGE)
_on_objects("delete", "object0")
_on_objects("get", "object0")
_on_objects("get_info", "object0")
_on_objects("list")
_on_objects("status")
_on_objects("seal")
_on_objects("watch")
simple(
    "ObjectStore.update_meta",
    _two_objects,
    lambda _, store: lambda: store.update_meta("object0", api.ObjectMeta(name="object0", description="new")),
)


async def _objects_there(kitchen: Kitchen) -> None:
    await kitchen.objects(1)


simple("JetStreamContext.object_store", _objects_there, lambda k, _: lambda: k.js.object_store(k.name))
simple(
    "JetStreamContext.create_object_store",
    nothing,
    lambda k, _: lambda: k.js.create_object_store(k.name, storage="memory"),
)
simple("JetStreamContext.delete_object_store", _objects_there, lambda k, _: lambda: k.js.delete_object_store(k.name))


async def _object_watcher(kitchen: Kitchen) -> Any:
    store = await kitchen.objects(2)
    return await kitchen.watching(store, store.watch)


simple("ObjectStore.ObjectWatcher.__init__", _object_watcher, lambda _, watcher: lambda: watcher.stop())
simple("ObjectStore.ObjectWatcher.__aiter__", _object_watcher, lambda _, watcher: _walk(watcher))
simple("ObjectStore.ObjectWatcher.__anext__", _object_watcher, lambda _, watcher: lambda: watcher.__anext__())
simple("ObjectStore.ObjectWatcher.updates", _object_watcher, lambda _, watcher: lambda: watcher.updates(PATIENCE))
