# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""nats-core, nats-jetstream and nats-key-value beside nats-py: neither disturbs the other, and the context arrives.

See docs/next-clients: their own calls are not traced.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import nats.client
import nats.jetstream
import nats.key_value
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from opentelemetry.instrumentation.nats import NatsInstrumentor
from support.core import Unique
from support.jetstream import unseen
from support.processes import run
from support.server import NatsServer
from support.spans import assert_span, traceparent
from support.telemetry import Telemetry
from support.waiting import flush

PACKAGES = ("nats.client", "nats.jetstream", "nats.key_value")


@pytest.fixture
async def new(nats_server: NatsServer) -> AsyncIterator[Any]:
    """A client of nats-core."""
    client = await nats.client.connect(nats_server.url)
    yield client
    await client.close()


def functions() -> dict[str, Any]:
    """All functions and methods of the new packages, by their places."""
    found: dict[str, Any] = {}

    def walk(owner: Any, place: str) -> None:
        for name, value in vars(owner).items():
            if inspect.isfunction(value):
                found[f"{place}.{name}"] = value
            elif inspect.isclass(value) and value.__module__.startswith(PACKAGES) and f"{place}.{name}" not in found:
                found[f"{place}.{name}"] = value
                if not isinstance(owner, type):
                    walk(value, f"{place}.{name}")

    for module in (nats.client, nats.jetstream, nats.key_value):
        assert isinstance(module, ModuleType)
        walk(module, module.__name__)
    return found


def test_their_classes_stay_as_they_are(telemetry: Telemetry):
    instrumented = functions()
    assert {"nats.client.Client.publish", "nats.jetstream.JetStream.publish"} <= set(instrumented)
    NatsInstrumentor().uninstrument()
    assert functions() == instrumented


async def test_a_message_of_nats_py_brings_its_context_to_theirs(
    telemetry: Telemetry, nc: Client, new: Any, unique: Unique
):
    subject = unique()
    subscription = await new.subscribe(subject)
    await new.flush()
    await nc.publish(subject, b"hello")
    message = await subscription.next(5)
    published = telemetry.span(f"publish {subject}")
    assert message.headers.get("traceparent") == traceparent(published)
    assert telemetry.spans() == [published]


async def test_a_message_of_theirs_makes_a_trace_that_begins_where_nats_py_gets_it(
    telemetry: Telemetry, nc: Client, new: Any, unique: Unique
):
    subject = unique()
    subscription = await nc.subscribe(subject)
    await flush(nc)
    await new.publish(subject, b"hello")
    await subscription.next_msg(5)
    assert_span(telemetry.span(f"receive {subject}"), parent=None, links=())


async def test_a_context_that_they_were_given_is_the_parent(telemetry: Telemetry, nc: Client, new: Any, unique: Unique):
    subject = unique()
    subscription = await nc.subscribe(subject)
    await flush(nc)
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    await new.publish(subject, b"hello", headers=headers)
    await subscription.next_msg(5)
    span = telemetry.span(f"receive {subject}")
    assert span.parent is not None and span.parent.span_id == 0xB7AD6B7169203331


async def test_their_request_is_answered_by_a_traced_handler(
    telemetry: Telemetry, nc: Client, new: Any, unique: Unique
):
    subject = unique()

    async def answer(msg: Any) -> None:
        await msg.respond(b"42")

    await nc.subscribe(subject, cb=answer)
    await flush(nc)
    reply = await new.request(subject, b"?")
    assert reply.data == b"42"
    [process] = await telemetry.wait_for(f"process {subject}")
    assert_span(process, parent=None, links=())
    assert_span(telemetry.span("reply"), parent=process)
    assert reply.headers.get("traceparent") == traceparent(telemetry.span("reply"))


async def test_streams_are_shared(telemetry: Telemetry, js: JetStreamContext, new: Any, unique: Unique):
    name = unique("stream")
    with unseen():
        await js.add_stream(name=name, subjects=[name])
    await js.publish(name, b"hello")
    published = telemetry.span(f"publish {name}")
    theirs = nats.jetstream.new(new)
    consumer = await theirs.create_consumer(name, name="worker", durable_name="worker")
    batch = await consumer.fetch(max_messages=1, max_wait=5)
    [message] = [message async for message in batch]
    await message.double_ack()
    assert message.headers.get("traceparent") == traceparent(published)
    assert (await theirs.publish(name, b"again")).sequence == 2
    assert telemetry.spans() == [published]


async def test_buckets_are_shared(telemetry: Telemetry, js: JetStreamContext, new: Any, unique: Unique):
    bucket = unique("bucket")
    with unseen():
        ours = await js.create_key_value(bucket=bucket)
    await ours.put("key", b"1")
    theirs = await nats.key_value.key_value(nats.jetstream.new(new), bucket)
    assert (await theirs.get("key")).value == b"1"
    await theirs.put("key", b"2")
    assert (await ours.get("key")).value == b"2"
    put, get = telemetry.spans()
    assert (put.name, get.name) == (f"kv.put {bucket}", f"kv.get {bucket}")
    assert_span(get, links=())


@pytest.fixture
async def passed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """The public methods that calls of theirs pass, each with its task."""
    passed: list[tuple[str, object]] = []

    def note(owner: type, name: str) -> None:
        method = getattr(owner, name)

        async def noting(*args: Any, **kwargs: Any) -> Any:
            passed.append((f"{owner.__name__}.{name}", asyncio.current_task()))
            return await method(*args, **kwargs)

        monkeypatch.setattr(owner, name, noting)

    note(nats.key_value.KeyValue, "put")
    note(nats.jetstream.JetStream, "publish")
    note(nats.client.Client, "request")
    note(nats.client.Client, "publish")
    return passed


async def test_a_put_passes_four_public_methods_in_one_task(
    js: JetStreamContext, new: Any, unique: Unique, passed: list[tuple[str, object]]
):
    bucket = unique("bucket")
    await js.create_key_value(bucket=bucket)
    theirs = await nats.key_value.key_value(nats.jetstream.new(new), bucket)
    passed.clear()
    await theirs.put("key", b"1")
    assert [name for name, _ in passed] == ["KeyValue.put", "JetStream.publish", "Client.request", "Client.publish"]
    assert {task for _, task in passed} == {asyncio.current_task()}


async def test_a_callback_is_called_before_its_message_is_queued(new: Any, unique: Unique):
    subject = unique()
    subscription = await new.subscribe(subject)
    waiting: list[int] = []
    subscription.add_callback(lambda _: waiting.append(subscription.pending[0]))
    for _ in range(2):
        await new.publish(subject, b"hello", headers={"name": ["one", "another"]})
    await new.flush()
    message = await subscription.next(5)
    await subscription.next(5)
    assert waiting == [0, 1]
    assert message.headers.get_all("name") == ["one", "another"] and message.status is None


# Hides nats-py from the program, as if nothing had installed it: then `nats` is a namespace without code of its own.
WITHOUT_NATS_PY = """
import importlib.metadata, importlib.util, sys, types
place = importlib.util.find_spec("nats").submodule_search_locations
sys.modules["nats"] = types.ModuleType("nats")
sys.modules["nats"].__path__ = list(place)
for module in ("nats.aio", "nats.js", "nats.micro"):
    sys.modules[module] = None
real = importlib.metadata.Distribution.from_name.__func__
def from_name(cls, name):
    if name == "nats-py":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(cls, name)
importlib.metadata.Distribution.from_name = classmethod(from_name)
"""


async def test_without_nkeys_they_do_not_import():
    program = await run('import sys\nsys.modules["nkeys"] = None\nimport nats.client', instrumented=False)
    assert program.returncode == 1
    assert "nkeys" in program.stderr.splitlines()[-1]


async def test_a_program_without_nats_py_runs_and_has_the_usual_line(nats_server: NatsServer, unique: Unique):
    program = f"""
{WITHOUT_NATS_PY}
import asyncio, logging
logging.basicConfig()
from opentelemetry.instrumentation.nats import NatsInstrumentor
NatsInstrumentor().instrument()
import nats.client

async def main():
    client = await nats.client.connect({nats_server.url!r})
    subscription = await client.subscribe({unique()!r})
    await client.publish(subscription.subject, b"hello")
    message = await subscription.next(5)
    print(message.data, message.headers, NatsInstrumentor().is_instrumented_by_opentelemetry)
    await client.close()

asyncio.run(main())
"""
    finished = await run(program, instrumented=False)
    assert finished.stdout == "b'hello' None False\n", finished.stderr
    [line] = finished.stderr.splitlines()
    assert "nats-py >= 2.2, < 3" in line and "nothing can be instrumented" in line
