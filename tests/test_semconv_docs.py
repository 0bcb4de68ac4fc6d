# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""docs/semconv.md against the code: every call in its tables is made, and every span compared with its row."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig
from test_coverage import NOT_TRACED

from support import semconv
from support.core import Connect, Inbox, ServerFactory, Unique, carrying, echo
from support.patched import PATCHED, VERSION
from support.stores import watching
from support.telemetry import Telemetry
from support.waiting import eventually

MANAGEMENT = {
    operation
    for row in semconv.spans()
    for call, span in row.calls().items()
    if call.startswith("JetStreamManager.") and row.type == ""
    for operation in [span.split()[0]]
}


class Program:
    """What a scenario works with.

    Args:
        telemetry: What its spans go to.
        nc: Its connection.
        unique: Makes its names.
    """

    def __init__(self, telemetry: Telemetry, nc: Client, unique: Unique) -> None:
        self.telemetry = telemetry
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream()
        self.unique = unique

    async def stream(self) -> str:
        name = self.unique("stream")
        await self.js.add_stream(name=name, subjects=[name, f"{name}.>"])
        return name

    async def consumer(self) -> str:
        """Makes a stream with a consumer, both of the name that is returned."""
        name = await self.stream()
        await self.js.add_consumer(name, durable_name=name, ack_policy="explicit")
        return name

    async def message(self) -> tuple[Msg, str]:
        """Makes a message of a stream, and tells its subject."""
        name = await self.stream()
        config = ConsumerConfig(max_deliver=1)
        sub = await self.js.subscribe(name, durable="worker", manual_ack=True, config=config)
        await self.js.publish(name, b"12", headers={"Nats-Msg-Id": "mine"})
        return await sub.next_msg(5), name

    async def bucket(self) -> Any:
        return await self.js.create_key_value(bucket=self.unique("bucket"), history=5)

    async def store(self) -> Any:
        store = await self.js.create_object_store(self.unique("store"))
        await store.put("object", b"12")
        return store

    async def service(self, handler: Any) -> str:
        micro = importlib.import_module("nats.micro")
        name = self.unique("service")
        self.running = await micro.add_service(self.nc, name=name, version="1.0.0")
        await self.running.add_endpoint(name="ask", subject=name, handler=handler)
        return name

    async def ask(self, subject: str) -> None:
        with suppress(Exception):
            await self.nc.request(subject, b"1", timeout=5)
        await self.telemetry.wait_for(f"process {subject}")
        if hasattr(self, "running"):
            await self.running.stop()


Scenario = Callable[[Program], Awaitable[Any]]
"""Makes a call, and returns what stands in the name of its span: a subject, stream or bucket, or nothing."""

SCENARIOS: dict[str, Scenario] = {}
"""By the name of the span with its placeholders, and the call."""


def scenario(span: str, call: str) -> Callable[[Scenario], Scenario]:
    def register(function: Scenario) -> Scenario:
        assert (key := f"{span}: {call}") not in SCENARIOS
        SCENARIOS[key] = function
        return function

    return register


NAME: Any = object()


# -- core -------------------------------------------------------------------------------------------------------------


@scenario("connect {host}:{port}", "Client.connect")
async def connect(program: Program) -> str:
    nc = await nats.connect(program.nc._current_server.uri.geturl())
    await nc.close()
    return nc._current_server.uri.netloc


@scenario("publish {subject}", "Client.publish")
async def publish(program: Program) -> str:
    name = program.unique("orders")
    await program.nc.publish(name, b"1", reply="answers", headers={"Nats-Msg-Id": "mine", "Own": "1"})
    await program.nc.publish(f"{name}.1.created", b"1")
    return name


@scenario("reply", "Client.publish")
async def publish_to_an_inbox(program: Program) -> None:
    await program.nc.publish(program.nc.new_inbox(), b"1")


@scenario("reply", "Msg.respond")
@scenario("request {subject}", "Client.request")
async def request(program: Program) -> str:
    name = program.unique("questions")
    await program.nc.subscribe(name, cb=echo)
    await program.nc.request(name, b"1", timeout=5, headers={"Nats-Msg-Id": "mine", "Own": "1"})
    await program.telemetry.wait_for(f"process {name}")
    with pytest.raises(nats.errors.NoRespondersError):
        await program.nc.request(f"{name}.nobody", b"", timeout=5)
    inbox = program.nc.new_inbox()
    await program.nc.subscribe(inbox, cb=echo)
    await program.nc.request(inbox, b"", timeout=5)
    return name


@scenario("process {subject}", "callback of a subscription")
async def callback(program: Program) -> str:
    name = program.unique("orders")
    await program.nc.subscribe(f"{name}.*", queue="workers", cb=Inbox().take)
    await program.nc.publish(f"{name}.created", b"1", headers={"Nats-Msg-Id": "mine", "Own": "1"})
    await program.telemetry.wait_for(f"process {name}.*")
    return f"{name}.*"


@scenario("process {subject}", "body of `async for msg in sub.messages`")
async def loop(program: Program) -> str:
    name = program.unique("orders")
    sub = await program.nc.subscribe(name)
    await program.nc.publish(name, b"1", reply="answers")
    async for _ in sub.messages:
        break
    return name


@scenario("receive {subject}", "Subscription.next_msg")
async def next_msg(program: Program) -> str:
    name = program.unique("orders")
    sub = await program.nc.subscribe(name, queue="workers")
    for _ in range(2):
        await program.nc.publish(name, b"1", reply="answers", headers={"Nats-Msg-Id": "mine", "Own": "1"})
    await sub.next_msg(5)
    await sub.messages.__anext__()
    inbox = program.nc.new_inbox()
    sub = await program.nc.subscribe(inbox)
    await program.nc.publish(inbox, b"1")
    await sub.next_msg(5)
    return name


# -- JetStream --------------------------------------------------------------------------------------------------------


@scenario("publish {subject}", "JetStreamContext.publish")
async def js_publish(program: Program) -> str:
    name = await program.stream()
    for _ in range(2):
        await program.js.publish(name, b"1", headers={"Nats-Msg-Id": "mine"})
    return name


@scenario("publish {subject}", "JetStreamContext.publish_async")
async def js_publish_async(program: Program) -> str:
    name = await program.stream()
    await asyncio.wait_for(await program.js.publish_async(name, b"1"), 5)
    return name


@scenario("subscribe {subject}", "JetStreamContext.subscribe")
async def js_subscribe(program: Program) -> str:
    name = await program.stream()
    await program.js.subscribe(name)
    return name


@scenario("subscribe {subject}", "JetStreamContext.pull_subscribe")
async def js_pull_subscribe(program: Program) -> str:
    name = await program.stream()
    await program.js.pull_subscribe(name, "worker")
    return name


@scenario("process {subject}", "callback of a push consumer")
async def js_callback(program: Program) -> str:
    name = await program.stream()
    await program.js.subscribe(name, durable="worker", cb=Inbox().take)
    await program.js.publish(name, b"1")
    await program.telemetry.wait_for(f"ack {name}")  # the automatic one
    return name


@scenario("process {subject}", "body of `async for msg in psub.messages`")
async def js_loop(program: Program) -> str:
    name = await program.stream()
    sub = await program.js.subscribe(name, config=ConsumerConfig(max_deliver=1))
    await program.js.publish(name, b"1")
    async for _ in sub.messages:
        break
    return name


@scenario("receive {subject}", "JetStreamContext.PushSubscription.next_msg")
async def js_next_msg(program: Program) -> str:
    return (await program.message())[1]


@scenario("receive {subject}", "JetStreamContext.PullSubscription.fetch")
@scenario("process {subject}", "body of `for msg in await psub.fetch(n)`")
async def fetch(program: Program) -> str:
    name = await program.stream()
    sub = await program.js.pull_subscribe(name, "worker")
    await program.js.publish(name, b"1")
    for _ in await sub.fetch(1, timeout=5):
        pass
    return name


def settle(method: str, *args: Any) -> Scenario:
    async def run(program: Program) -> str:
        msg, name = await program.message()
        await getattr(msg, method)(*args)
        return name

    return run


scenario("ack {subject}", "Msg.ack")(settle("ack"))
scenario("ack {subject}", "Msg.ack_sync")(settle("ack_sync"))
scenario("nak {subject}", "Msg.nak")(settle("nak", 60))
for _method in ("term", "in_progress"):
    scenario(f"{_method} {{subject}}", f"Msg.{_method}")(settle(_method))


def manage(
    method: str, make: Callable[[Program], Awaitable[str]], *args: Any, stream: bool = True, **kwargs: Any
) -> None:
    """Registers the scenario of a method of the manager; NAME among the arguments stands for what was made."""

    async def run(program: Program) -> str:
        name = await make(program)
        given = {key: name if value is NAME else value for key, value in kwargs.items()}
        await getattr(program.js, method)(*(name if arg is NAME else arg for arg in args), **given)
        return name

    scenario(f"{method} {{stream}}" if stream else method, f"JetStreamManager.{method}")(run)


async def a_message(program: Program) -> str:
    name = await program.stream()
    await program.js.publish(name, b"1", headers={"Nats-Msg-Id": "mine"})
    return name


async def a_name(program: Program) -> str:
    return program.unique("stream")


async def a_paused_consumer(program: Program) -> str:
    name = await program.consumer()
    await program.js.pause_consumer(name, name, "2099-01-01T00:00:00Z")
    return name


manage("add_stream", a_name, name=NAME, subjects=["managed.>"])
for _method in ("stream_info", "delete_stream", "purge_stream", "consumers_info"):
    manage(_method, Program.stream, NAME)
manage("update_stream", Program.stream, name=NAME, max_msgs=10)
manage("consumer_info", Program.consumer, NAME, NAME)
manage("delete_consumer", Program.consumer, NAME, NAME)
manage("pause_consumer", Program.consumer, NAME, NAME, "2099-01-01T00:00:00Z")
manage("resume_consumer", a_paused_consumer, NAME, NAME)
manage("reset_consumer", Program.consumer, NAME, NAME)
manage("add_consumer", Program.stream, NAME, durable_name=NAME)
manage("delete_msg", a_message, NAME, 1)
manage("get_msg", a_message, NAME, 1)
manage("get_last_msg", a_message, NAME, NAME)
manage("account_info", a_name, stream=False)
manage("find_stream_name_by_subject", Program.stream, NAME, stream=False)
manage("streams_info", Program.stream, stream=False)
manage("streams_info_iterator", Program.stream, stream=False)


# -- key-value stores -------------------------------------------------------------------------------------------------


def kv(method: str, *args: Any, deleted: bool = False) -> None:
    async def run(program: Program) -> str:
        bucket = await program.bucket()
        if method not in ("create",):
            await bucket.put("key", b"1")
        if deleted:
            await bucket.delete("key")
        if method in ("keys", "history"):
            # nats-py takes a bucket for an empty one if the server's first delivery is late.
            for _ in range(10):
                with suppress(nats.js.errors.NoKeysError):
                    await getattr(bucket, method)(*args)
                    break
        else:
            await getattr(bucket, method)(*args)
        return bucket._name

    scenario(f"kv.{method} {{bucket}}", f"KeyValue.{method}")(run)


kv("put", "key", b"2")
kv("create", "key", b"2")
kv("update", "key", b"2", 1)
kv("delete", "key")
kv("purge", "key")
kv("get", "key")
kv("keys")
kv("history", "key")
kv("status")
kv("purge_deletes", deleted=True)
kv("watch", "key")
kv("watchall")


@scenario("process {bucket}", "body of `async for entry in watcher`")
async def kv_loop(program: Program) -> str:
    bucket = await program.bucket()
    await bucket.put("key", b"1")
    async for _ in await watching(bucket):
        break
    return bucket._name


@scenario("receive {bucket}", "KeyValue.KeyWatcher.updates")
async def kv_updates(program: Program) -> str:
    bucket = await program.bucket()
    await bucket.put("key", b"1")
    await (await watching(bucket)).updates()
    return bucket._name


def bucket_call(method: str, kind: str) -> None:
    async def run(program: Program) -> str:
        name = program.unique("bucket")
        create = program.js.create_key_value if kind == "key_value" else program.js.create_object_store
        if not method.startswith("create"):
            await create(bucket=name)
        await getattr(program.js, method)(bucket=name)
        return name

    scenario(f"{method} {{bucket}}", f"JetStreamContext.{method}")(run)


for _kind in ("key_value", "object_store"):
    for _method in (_kind, f"create_{_kind}", f"delete_{_kind}"):
        bucket_call(_method, _kind)


# -- object stores ----------------------------------------------------------------------------------------------------


def objects(method: str, *args: Any) -> None:
    async def run(program: Program) -> str:
        store = await program.store()
        arguments = [await store.get_info("object") if arg is NAME else arg for arg in args]
        await getattr(store, method)(
            *(argument.meta if hasattr(argument, "meta") else argument for argument in arguments)
        )
        return store._name

    scenario(f"object.{method} {{bucket}}", f"ObjectStore.{method}")(run)


objects("put", "another", b"12")
objects("delete", "object")
objects("get", "object")
objects("get_info", "object")
objects("list")
objects("status")
objects("seal")
objects("watch")


@scenario("object.update_meta {bucket}", "ObjectStore.update_meta")
async def update_meta(program: Program) -> str:
    api = importlib.import_module("nats.js.api")
    store = await program.store()
    await store.update_meta("object", api.ObjectMeta(name="object", description="new"))
    return store._name


async def watching_store(store: Any) -> Any:
    watcher = await store.watch()
    await eventually(watcher._updates.qsize)
    return watcher


@scenario("process {bucket}", "body of `async for info in watcher`")
async def object_loop(program: Program) -> str:
    store = await program.store()
    async for info in await watching_store(store):
        if info is not None:
            break
    return store._name


@scenario("receive {bucket}", "ObjectStore.ObjectWatcher.updates")
async def object_updates(program: Program) -> str:
    store = await program.store()
    watcher = await watching_store(store)
    while await watcher.updates() is None:
        pass
    return store._name


# -- services ---------------------------------------------------------------------------------------------------------


@scenario("process {subject}", "handler of an endpoint")
@scenario("reply", "Request.respond")
async def respond(program: Program) -> str:
    async def handler(request: Any) -> None:
        await request.respond(b"1")

    name = await program.service(handler)
    await program.ask(name)
    return name


@scenario("reply", "Request.respond_error")
async def respond_error(program: Program) -> None:
    async def handler(request: Any) -> None:
        await request.respond_error("404", "no such order")

    await program.ask(await program.service(handler))


# -- the page ---------------------------------------------------------------------------------------------------------

ROWS = semconv.spans()
CALLS = {f"{span}: {call}": (row, call, span) for row in ROWS for call, span in row.calls().items()}


def exists(call: str) -> bool:
    """Tells whether this nats-py has a method; prose is true if what it is about is there."""
    if call == "body of `async for info in watcher`":
        return exists("ObjectStore.put")
    if call == "handler of an endpoint":
        return exists("Request.respond")
    if "." not in call or " " in call:
        return True
    return call in PATCHED_NAMES


PATCHED_NAMES = {f"{owner.__qualname__}.{name}" for owner, name in PATCHED}


class TestTables:
    def test_have_a_scenario_for_every_call_and_no_other(self):
        assert set(CALLS) == set(SCENARIOS)

    def test_tell_of_every_method_that_is_patched_and_public(self):
        told = {call for row in ROWS for call in row.methods} | set(semconv.silent())
        public = {name for name in PATCHED_NAMES if not any(part.startswith("_") for part in name.split("."))}
        assert public <= told
        if VERSION >= (2, 16):
            assert {call for row in ROWS for call in row.methods} <= public

    def test_tell_of_every_method_that_is_left_alone(self):
        silent = set(semconv.silent())
        binding = {"JetStreamContext.subscribe_bind", "JetStreamContext.pull_subscribe_bind"}
        untold = {name for name in NOT_TRACED if name.rpartition(".")[2].startswith("__")} | {
            "EndpointManager.add_endpoint"  # abstract
        }
        assert silent == (set(NOT_TRACED) - untold) | binding

    def test_name_no_kind_and_no_type_that_there_is_not(self):
        assert {row.kind for row in ROWS} == {"client", "producer", "consumer"}
        assert {row.type for row in ROWS} == {"", "send", "receive", "process", "settle"}


class TestSpans:
    @pytest.mark.parametrize("key", CALLS)
    async def test_are_those_of_the_tables(self, telemetry: Telemetry, nc: Client, unique: Unique, key: str):
        row, call, span_name = CALLS[key]
        if not exists(call):
            pytest.skip("this nats-py does not have it")
        name = await SCENARIOS[key](Program(telemetry, nc, unique))
        expected = span_name.split("{")[0] + name if "{" in span_name else span_name
        await telemetry.wait_for(expected)
        for span in telemetry.named(expected):
            assert span.kind.name.lower() == row.kind
            assert span.attributes.get("messaging.operation.type", "") == row.type
            assert span.attributes["messaging.operation.name"] == expected.split()[0]


def on(operation: str, operations: list[str]) -> bool:
    """Tells whether an operation is among those that a table names."""
    if operations == ["all"]:
        return True
    groups = {"management": operation in MANAGEMENT}
    return any(groups.get(name, fnmatchcase(operation, name)) for name in operations)


def in_tables(attribute: str) -> str:
    """The name under which the tables have an attribute."""
    for family, one in (("messaging.header.", "<name>"), ("baggage.", "<key>")):
        if attribute.startswith(family):
            return family + one
    return attribute


class TestAttributes:
    @pytest.mark.instrument(headers_included=["own"], baggage_keys=["tenant"])
    async def test_are_those_of_the_tables(self, telemetry: Telemetry, nc: Client, unique: Unique):
        """Every attribute of every span is in a table for its operation, and what is in a table occurs."""
        for key, (_, call, _) in CALLS.items():
            if exists(call):
                with carrying({"tenant": "acme"}):
                    await SCENARIOS[key](Program(telemetry, nc, unique))
        await telemetry.check_ended()
        spans = telemetry.spans()
        documented = semconv.attributes()
        seen: set[tuple[str, str]] = set()
        undocumented: set[tuple[str, str]] = set()
        for span in spans:
            operation = span.attributes["messaging.operation.name"]
            for attribute in span.attributes:
                attribute = in_tables(attribute)
                seen.add((operation, attribute))
                if attribute not in documented or not on(operation, documented[attribute]):
                    undocumented.add((operation, attribute))
        assert not undocumented

        operations = {operation for operation, _ in seen}
        if VERSION >= (2, 16):
            assert operations == {span.split()[0] for _, _, span in CALLS.values()}
            never = {
                (attribute, name)
                for attribute, names in documented.items()
                for name in names
                if not any(on(operation, [name]) for operation, found in seen if found == attribute)
            }
            assert never == {("messaging.nats.jetstream.domain", "publish")}  # the next test's
        common = {"messaging.system", "messaging.client.id", "server.address", "server.port"}
        for span in spans:
            assert common <= set(span.attributes)
            process = span.attributes["messaging.operation.name"] == "process"
            assert ("network.peer.address" in span.attributes) is not process

    async def test_have_the_domain_of_an_ack(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect, unique: Unique
    ):
        nc = await connect(server_factory("jetstream { domain: hub }"))
        name = await Program(telemetry, nc, unique).stream()
        await nc.jetstream().publish(name, b"")
        assert telemetry.span(f"publish {name}").attributes["messaging.nats.jetstream.domain"] == "hub"
