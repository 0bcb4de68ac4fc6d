# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What programs and environments do that nobody planned for: odd providers, many `instrument()`, lost connections."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import OutboundBufferLimitError
from nats.js import JetStreamContext

from opentelemetry import context, trace
from opentelemetry.instrumentation.nats import NatsInstrumentor
from opentelemetry.instrumentation.nats._telemetry import Telemetry as OurTelemetry
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.trace import StatusCode
from support.processes import run
from support.server import NatsServer
from support.spans import assert_span
from support.telemetry import Telemetry
from support.waiting import eventually, flush
from support.wire import Wire

Connect = Callable[..., Awaitable[Client]]
ServerFactory = Callable[..., NatsServer]
Unique = Callable[[str], str]


@dataclass
class Unhashable(MeterProvider):
    """As any plain dataclass: it has an `__eq__`, so no hash."""

    inner: Any

    def get_meter(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.get_meter(*args, **kwargs)


class Slotted:
    """Takes no weak reference."""

    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def get_meter(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.get_meter(*args, **kwargs)


class TestMeterProviders:
    @pytest.mark.parametrize("kind", [Unhashable, Slotted])
    async def test_of_any_make_are_used_and_read_on_after_another_instrument(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, kind: Callable[[Any], Any]
    ):
        reader = InMemoryMetricReader()
        provider = kind(SdkMeterProvider([reader], shutdown_on_exit=False))
        subject = unique("orders")
        for _ in range(2):
            telemetry.instrument(meter_provider=provider)
            nc = await connect()
            await nc.publish(subject)
            await nc.close()
        data = reader.get_metrics_data()
        metrics = [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]
        (sent,) = [metric for metric in metrics if metric.name == "messaging.client.sent.messages"]
        assert sum(point.value for point in sent.data.data_points) == 2


async def test_instrumenting_again_and_again_keeps_nothing(telemetry: Telemetry):
    telemetry.uninstrument()
    gc.collect()
    before = sum(isinstance(each, OurTelemetry) for each in gc.get_objects())
    for _ in range(20):
        telemetry.instrument()
        NatsInstrumentor().uninstrument()
    gc.collect()
    assert sum(isinstance(each, OurTelemetry) for each in gc.get_objects()) <= before


class TestExcludedMessagesOfABatch:
    @pytest.mark.instrument(excluded_subjects=["*.secret.>"])
    async def test_leave_no_link_no_count_and_no_latency(self, telemetry: Telemetry, nc: Client, unique: Unique):
        js = nc.jetstream()
        stream = unique("orders")
        await js.add_stream(name=stream, subjects=[f"{stream}.>"])
        with telemetry.tracer.start_as_current_span("request"):
            await js.publish(f"{stream}.secret.one", b"1")
            await js.publish(f"{stream}.open", b"2")
        sub = await js.pull_subscribe(f"{stream}.>", "worker")
        telemetry.clear()
        messages = await sub.fetch(2, timeout=5)
        assert len(messages) == 2
        (receive,) = telemetry.spans()
        assert [dict(link.attributes)["messaging.destination.name"] for link in receive.links] == [f"{stream}.open"]
        assert receive.attributes["messaging.batch.message_count"] == 1
        (latency,) = telemetry.metric("nats.jetstream.delivery.latency").values()
        assert isinstance(latency, HistogramDataPoint)
        assert latency.count == 1
        assert sum(telemetry.metric("messaging.client.consumed.messages").values()) == 1

    @pytest.mark.instrument(excluded_subjects=["*.secret.>"])
    async def test_alone_leave_nothing_at_all(self, telemetry: Telemetry, nc: Client, unique: Unique):
        js = nc.jetstream()
        stream = unique("orders")
        await js.add_stream(name=stream, subjects=[f"{stream}.>"])
        await js.publish(f"{stream}.secret.one", b"1")
        sub = await js.pull_subscribe(f"{stream}.>", "worker")
        telemetry.clear()
        (msg,) = await sub.fetch(1, timeout=5)
        await msg.ack()
        assert telemetry.spans() == []
        assert telemetry.metric("messaging.client.consumed.messages") == {}


class TestALostConnection:
    async def _fill(self, nc: Client, server: NatsServer) -> int:
        server.stop()
        await eventually(lambda: nc.is_reconnecting)
        for count in range(10_000):
            try:
                await nc.publish("orders", b"0123456789")
            except OutboundBufferLimitError:
                return count
        raise AssertionError("the buffer has no end")

    async def test_leaves_most_of_the_buffer_to_the_program(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect
    ):
        """Headers count too: with ours on every message a fifth of the messages would fit."""
        size = 20_000
        server = server_factory()
        nc = await connect(server, pending_size=size, max_reconnect_attempts=-1)
        telemetry.uninstrument()
        bare = await self._fill(nc, server)
        telemetry.instrument()
        server.start()
        other = await connect(server, pending_size=size, max_reconnect_attempts=-1)
        filled = await self._fill(other, server)
        server.start()
        await eventually(lambda: nc.is_connected and other.is_connected, 10)
        assert filled > bare / 2

    async def test_that_comes_back_carries_contexts_again(
        self, telemetry: Telemetry, server_factory: ServerFactory, connect: Connect, unique: Unique
    ):
        server = server_factory()
        nc = await connect(server, pending_size=20_000, max_reconnect_attempts=-1)
        await self._fill(nc, server)
        server.start()
        await eventually(lambda: nc.is_connected, 10)
        await flush(nc)
        subject = unique("orders")
        async with Wire(server.url) as wire:
            await wire.subscribe(subject)
            await nc.publish(subject)
            assert [line.partition(":")[0] for line in (await wire.frame()).header_lines] == ["traceparent"]


class TestErrorCodes:
    async def test_that_remotes_choose_make_no_series_without_end(
        self, telemetry: Telemetry, connect: Connect, nats_server: NatsServer, unique: Unique
    ):
        """As short-lived clients do whom a hostile service answers: each of them meets codes that nobody has met."""
        subject = unique("prices")
        number = 0

        async def answer(wire: Wire) -> None:
            nonlocal number
            while True:
                frame = await wire.frame()
                number += 1
                headers = f"Nats-Service-Error: no\r\nNats-Service-Error-Code: c{number}\r\n"
                await wire.publish(frame.reply, headers=headers.encode())

        async with Wire(nats_server.url) as wire:
            await wire.subscribe(subject)
            answering = asyncio.ensure_future(answer(wire))
            for _ in range(6):
                nc = await connect()
                for _ in range(40):
                    await nc.request(subject, timeout=5)
                await nc.close()
            answering.cancel()
        assert number == 240
        assert len(telemetry.metric("messaging.client.operation.duration")) <= 110

    async def test_are_cut(self, telemetry: Telemetry, nc: Client, nats_server: NatsServer, unique: Unique):
        subject = unique("prices")
        async with Wire(nats_server.url) as wire:
            await wire.subscribe(subject)
            request = asyncio.ensure_future(nc.request(subject, timeout=5))
            frame = await wire.frame()
            lines = f"Nats-Service-Error: {'e' * 50_000}\r\nNats-Service-Error-Code: {'c' * 50_000}\r\n"
            await wire.publish(frame.reply, headers=lines.encode())
            await request
        span = telemetry.span(f"request {subject}")
        assert_span(span, status=(span.status.status_code, span.attributes["messaging.nats.service.error"]))
        for name in ("messaging.nats.service.error", "messaging.nats.service.error_code", "error.type"):
            assert len(span.attributes[name]) == 1024


class TestAnActivatedContext:
    """The option `activate_next_msg` leaves the context of a received message current."""

    async def _receive(self, nc: Client, unique: Unique) -> None:
        sub = await nc.subscribe(unique("orders"))
        await nc.publish(sub.subject)
        await sub.next_msg(5)

    @pytest.mark.instrument(activate_next_msg=True)
    async def test_is_given_back_at_uninstrument(self, telemetry: Telemetry, nc: Client, unique: Unique):
        before = context.get_current()
        await self._receive(nc, unique)
        assert trace.get_current_span().get_span_context().is_valid
        telemetry.uninstrument()
        assert context.get_current() is before

    @pytest.mark.instrument(activate_next_msg=True)
    async def test_means_nothing_in_other_tasks_after_uninstrument(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        received, uninstrumented = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await self._receive(nc, unique)
            with telemetry.tracer.start_as_current_span("before"):
                received.set()
            await uninstrumented.wait()
            with telemetry.tracer.start_as_current_span("after"):
                pass

        working = asyncio.create_task(work())
        await received.wait()
        telemetry.uninstrument()
        uninstrumented.set()
        await working
        (receive,) = [span for span in telemetry.spans() if span.name.startswith("receive")]
        assert_span(telemetry.span("before"), parent=receive)
        assert_span(telemetry.span("after"), parent=None)

    async def test_is_given_back_by_any_later_receive(self, telemetry: Telemetry, nc: Client, unique: Unique):
        """Also by one of a later `instrument()`, and in a loop that began before it."""
        telemetry.uninstrument()
        before = context.get_current()
        sub = await nc.subscribe(unique("looped"))
        loop = aiter(sub.messages)
        telemetry.instrument(activate_next_msg=True)
        await self._receive(nc, unique)
        assert trace.get_current_span().get_span_context().is_valid
        await nc.publish(sub.subject)
        await anext(loop)
        activated = trace.get_current_span().get_span_context()
        telemetry.instrument()
        assert context.get_current() is before
        await nc.publish(sub.subject)
        await anext(loop)
        assert activated.is_valid
        assert context.get_current() is before


PROGRAM = """
import asyncio, os, sys
import nats
from opentelemetry import trace
from opentelemetry.instrumentation.nats import NatsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name + chr(10))))
NatsInstrumentor().instrument(tracer_provider=provider)

async def main():
    global nc
    nc = await nats.connect(os.environ["NATS_URL"])
    await nc.subscribe("orders")
    await nc.flush()
    await nc.jetstream().publish_async("orders", b"")

asyncio.run(main())
if sys.argv[1:]:
    del nc
"""


@pytest.mark.skipif(not hasattr(JetStreamContext, "publish_async"), reason="this nats-py has none")
class TestAnAsynchronousPublishThatNobodyAcknowledges:
    async def test_ends_when_its_client_is_let_go(
        self, telemetry: Telemetry, nats_server: NatsServer, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        await nc.subscribe(subject)
        await flush(nc)

        async def program() -> None:
            client = Client()
            await client.connect(nats_server.url)
            await client.jetstream().publish_async(subject, b"")
            await client.flush()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the socket that the program has left open
            await asyncio.to_thread(asyncio.run, program())
            gc.collect()
        (span,) = await telemetry.wait_for(f"publish {subject}")
        assert_span(span, status=(StatusCode.ERROR, "nats: connection closed"), events=[])

    @pytest.mark.parametrize("lets_go", [False, True])
    async def test_ends_with_the_program(self, nats_server: NatsServer, lets_go: bool):
        finished = await run(
            PROGRAM.replace("sys.argv[1:]", str(lets_go)), instrumented=False, env={"NATS_URL": nats_server.url}
        )
        assert finished.returncode == 0, finished.stderr
        assert "publish orders" in finished.stdout.split("\n")


class TestWithoutAnSdk:
    """A trace that others record passes through: by callback, loop, fetched list and micro service alike."""

    TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    @pytest.fixture
    async def nc(self, telemetry: Telemetry, connect: Connect) -> Client:
        telemetry.uninstrument()
        NatsInstrumentor().instrument(tracer_provider=trace.NoOpTracerProvider(), meter_provider=NoOpMeterProvider())
        return await connect()

    async def _passes(self, wire: Wire) -> None:
        assert (await wire.frame()).header_lines == [f"traceparent: {self.TRACEPARENT}"]
        assert (await wire.frame()).headers is None  # after it, and for what came without a context

    async def test_a_context_passes_a_callback_and_a_loop(
        self, telemetry: Telemetry, nc: Client, nats_server: NatsServer, unique: Unique
    ):
        called, looped, out = unique("called"), unique("looped"), unique("out")

        async def handler(_: Any) -> None:
            await nc.publish(out)

        await nc.subscribe(called, cb=handler)
        sub = await nc.subscribe(looped)
        await flush(nc)
        headers = f"traceparent: {self.TRACEPARENT}\r\n".encode()
        async with Wire(nats_server.url) as wire:
            await wire.subscribe(out)
            await wire.publish(called, headers=headers)
            await wire.publish(called)
            await self._passes(wire)
            await wire.publish(looped, headers=headers)
            async for _ in sub.messages:
                await nc.publish(out)
                break
            await nc.publish(out)
            await self._passes(wire)
        assert not trace.get_current_span().get_span_context().is_valid
        assert telemetry.spans() == []

    async def test_a_context_passes_a_fetched_list(
        self, telemetry: Telemetry, nc: Client, nats_server: NatsServer, unique: Unique
    ):
        js = nc.jetstream()
        stream, out = unique("orders"), unique("out")
        await js.add_stream(name=stream, subjects=[stream])
        async with Wire(nats_server.url) as wire:
            await wire.subscribe(out)
            await wire.publish(stream, headers=f"traceparent: {self.TRACEPARENT}\r\n".encode())
            await wire.publish(stream)
            for msg in await (await js.pull_subscribe(stream, "worker")).fetch(2, timeout=5):
                await nc.publish(out)
                await msg.ack()
            await self._passes(wire)
        assert telemetry.spans() == []

    async def test_a_context_passes_a_micro_service(
        self, telemetry: Telemetry, nc: Client, nats_server: NatsServer, unique: Unique
    ):
        micro = pytest.importorskip("nats.micro")
        name, out = unique("echo"), unique("out")

        async def handler(request: Any) -> None:
            await nc.publish(out)
            await request.respond(request.data)

        service = await micro.add_service(nc, name=name, version="1.0.0")
        await service.add_endpoint(name="echo", subject=name, handler=handler)
        await flush(nc)
        async with Wire(nats_server.url) as wire:
            await wire.subscribe(out)
            await wire.publish(name, headers=f"traceparent: {self.TRACEPARENT}\r\n".encode(), reply="answers")
            await wire.publish(name, reply="answers")
            await self._passes(wire)
        await service.stop()


# A runtime context of the program's own, which keeps under the task what the API's keeps in a context variable.
RUNTIME = """
import asyncio
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext

class ByTask(ContextVarsRuntimeContext):
    def __init__(self):
        super().__init__()
        self.contexts = {}

    def attach(self, context):
        self.contexts[asyncio.current_task()] = context

    def get_current(self):
        return self.contexts.get(asyncio.current_task(), Context())

    def detach(self, token):
        self.contexts.pop(asyncio.current_task(), None)
"""

OWN_RUNTIME = """
import asyncio, sys
import nats
from opentelemetry import context, trace
from opentelemetry.instrumentation.nats import NatsInstrumentor
from opentelemetry.sdk.trace import TracerProvider

assert type(context._RUNTIME_CONTEXT).__name__ == "ByTask"
provider = TracerProvider()
NatsInstrumentor().instrument(tracer_provider=provider)

async def main():
    nc = await nats.connect(sys.argv[1])
    handled = asyncio.Future()

    async def handle(message):
        handled.set_result(trace.get_current_span().parent)

    await nc.subscribe(sys.argv[2], cb=handle)
    with provider.get_tracer("program").start_as_current_span("around") as span:
        await nc.publish(sys.argv[2])
        await nc.flush()
        parent = await handled
    print(parent.trace_id == span.get_span_context().trace_id)
    await nc.close()

asyncio.run(main())
"""


async def test_a_runtime_context_of_the_program_is_asked_and_told(
    nats_server: NatsServer, unique: Unique, tmp_path: Path
):
    (tmp_path / "by_task.py").write_text(RUNTIME)
    (information := tmp_path / "by_task-1.dist-info").mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: by-task\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[opentelemetry_context]\nby_task = by_task:ByTask\n")
    environment = {"PYTHONPATH": str(tmp_path), "OTEL_PYTHON_CONTEXT": "by_task"}

    finished = await run(OWN_RUNTIME, nats_server.url, unique("orders"), env=environment, instrumented=False)

    assert finished.stdout == "True\n", finished.stderr
