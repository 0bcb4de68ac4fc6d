# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The package and its instrumentor: what is patched, when, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.resources
import sys
import sysconfig
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from wrapt import wrap_function_wrapper

import opentelemetry.instrumentation.nats as package
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation.nats import NATSInstrumentor, NatsInstrumentor, _faults
from opentelemetry.instrumentation.nats.package import _instruments, _semconv_status, _supports_metrics
from opentelemetry.instrumentation.nats.version import __version__
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from support.processes import run
from support.server import NatsServer
from support.spans import assert_span
from support.telemetry import Telemetry
from support.waiting import eventually, flush
from support.wire import Wire

Connect = Callable[..., Awaitable[Client]]
Unique = Callable[[str], str]

DISTRIBUTION = "opentelemetry-instrumentation-nats"
SCOPE = "opentelemetry.instrumentation.nats"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"


def program(text: str) -> str:
    return textwrap.dedent(text)


@pytest.fixture
def uninstrumented() -> Iterator[None]:
    """Takes away what the test instruments without `telemetry`."""
    yield
    if NatsInstrumentor().is_instrumented_by_opentelemetry:
        NatsInstrumentor().uninstrument()


def _classes() -> Iterator[type]:
    """Every class that nats-py's imported modules define, those within classes too."""
    pending: list[Any] = [module for name, module in sys.modules.items() if name.partition(".")[0] == "nats"]
    seen: set[int] = set()
    while pending:
        owner = pending.pop()
        for value in vars(owner).values():
            ours = isinstance(value, type) and value.__module__.partition(".")[0] == "nats"
            if ours and id(value) not in seen:
                seen.add(id(value))
                pending.append(value)
                yield value


def _snapshot() -> dict[Any, dict[str, Any]]:
    """All that can be patched: the names of nats-py's modules and classes, and what each is."""
    modules: list[ModuleType] = [module for name, module in sys.modules.items() if name.partition(".")[0] == "nats"]
    return {owner: dict(vars(owner)) for owner in [*modules, *_classes()]}


def _changes(before: dict[Any, dict[str, Any]], after: dict[Any, dict[str, Any]]) -> list[str]:
    return sorted(
        f"{owner.__name__}.{name}"
        for owner in before
        for name in {*before[owner], *after[owner]}
        if before[owner].get(name) is not after[owner].get(name) or (name in before[owner]) != (name in after[owner])
    )


class TestThePackage:
    def test_is_found_by_its_entry_point(self):
        (entry_point,) = importlib.metadata.entry_points(group="opentelemetry_instrumentor", name="nats")
        assert entry_point.value == "opentelemetry.instrumentation.nats:NatsInstrumentor"
        assert entry_point.load() is NatsInstrumentor
        assert entry_point.dist is not None and entry_point.dist.name == DISTRIBUTION

    def test_has_the_other_spelling_as_an_alias(self):
        assert NATSInstrumentor is NatsInstrumentor

    def test_says_the_same_versions_of_nats_everywhere(self):
        (of_the_extra,) = [
            requirement.partition(";")[0].strip()
            for requirement in importlib.metadata.requires(DISTRIBUTION) or ()
            if 'extra == "instruments"' in requirement.replace("'", '"')
        ]
        assert sorted(of_the_extra.removeprefix("nats-py").strip().split(",")) == ["<3", ">=2.2"]
        assert _instruments == ("nats-py >= 2.2, < 3",)
        assert NatsInstrumentor().instrumentation_dependencies() == _instruments

    def test_tells_contrib_tooling_of_itself(self):
        assert _supports_metrics is True
        assert _semconv_status == "development"

    def test_is_typed_and_exports_what_it_documents(self):
        assert importlib.resources.files(package).joinpath("py.typed").is_file()
        assert all(getattr(package, name).__doc__ or name.endswith("Hook") for name in package.__all__)

    def test_has_one_version(self):
        assert importlib.metadata.version(DISTRIBUTION) == __version__

    async def test_names_itself_and_the_schema_as_the_scope_of_all_it_emits(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        await nc.publish(unique("orders"))
        (span,) = telemetry.spans()
        scope = span.instrumentation_scope
        assert (scope.name, scope.version, scope.schema_url) == (SCOPE, __version__, SCHEMA_URL)
        data = telemetry._reader.get_metrics_data()
        scopes = {
            (metrics.scope.name, metrics.scope.version, metrics.schema_url)
            for resource in data.resource_metrics
            for metrics in resource.scope_metrics
        }
        assert scopes == {(SCOPE, __version__, SCHEMA_URL)}


class TestInstrumenting:
    def test_twice_is_warned_about_and_changes_nothing(self, uninstrumented: None, caplog: pytest.LogCaptureFixture):
        NatsInstrumentor().instrument()
        once = _snapshot()
        assert caplog.messages == []
        NatsInstrumentor().instrument(use_span_links=True)
        assert caplog.messages == ["Attempting to instrument while already instrumented"]
        assert _changes(once, _snapshot()) == []

    def test_that_never_happened_is_not_undone(self, caplog: pytest.LogCaptureFixture):
        before = _snapshot()
        NatsInstrumentor().uninstrument()
        assert caplog.messages == ["Attempting to uninstrument while already uninstrumented"]
        assert _changes(before, _snapshot()) == []

    def test_is_undone_without_a_trace(self, uninstrumented: None):
        before = _snapshot()
        for _ in range(2):
            NatsInstrumentor().instrument()
            patched = _changes(before, _snapshot())
            # Methods of classes, and nothing that somebody may have imported by its name.
            assert "Client.publish" in patched and "Subscription._start" in patched
            assert not any(name.startswith("nats.") for name in patched)
            NatsInstrumentor().uninstrument()
            assert _changes(before, _snapshot()) == []

    async def test_again_starts_anew(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        telemetry.uninstrument()
        await nc.publish(subject)
        assert telemetry.spans() == []
        telemetry.instrument(use_span_links=True)
        got = asyncio.Event()

        async def handler(msg: Any) -> None:
            got.set()

        await nc.subscribe(subject, cb=handler)
        await nc.publish(subject)
        await asyncio.wait_for(got.wait(), 5)
        (process,) = await telemetry.wait_for(f"process {subject}")
        publish = telemetry.span(f"publish {subject}")
        assert_span(publish, parent=None, links=[])
        assert_span(process, parent=None, links=[publish])  # the new option counts

    async def test_silences_all_that_still_lives_when_it_is_undone(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique
    ):
        called, looped, taken, stored, onward = (unique(w) for w in ("called", "looped", "taken", "stored", "onward"))
        got: list[tuple[str, SpanContext]] = []

        go_on, closing = asyncio.Event(), asyncio.Event()

        def note(door: str) -> None:
            got.append((door, trace.get_current_span().get_span_context()))

        async def handler(msg: Any) -> None:
            note("callback")
            await publish(onward)

        async def loop() -> None:
            async for _ in (await nc.subscribe(looped)).messages:
                note("loop")
                await go_on.wait()
                if closing.is_set():
                    break
                closing.set()

        await js.add_stream(name=stored, subjects=[stored])
        await nc.subscribe(called, cb=handler)
        looping = asyncio.ensure_future(loop())
        by_hand = await nc.subscribe(taken)
        waiting = asyncio.ensure_future(by_hand.next_msg(5))
        psub = await js.pull_subscribe(stored, "worker")
        for _ in range(2):
            await js.publish(stored)
        fetched = await psub.fetch(2, timeout=5)
        publish, request, js_publish = nc.publish, nc.request, js.publish
        settle = fetched[0].ack
        await eventually(lambda: len(nc._subs) >= 4)
        await nc.publish(looped)
        await eventually(lambda: got)
        (open_before,) = telemetry.counter.open
        assert open_before.name == f"process {looped}"
        telemetry.uninstrument()
        telemetry.clear()
        got.clear()
        go_on.set()
        await publish(called)
        await publish(looped)
        await publish(taken)
        await js_publish(stored)
        with pytest.raises(Exception, match="no responders"):
            await request(unique("nobody"))
        for _ in fetched:
            note("fetched")
        await settle()
        assert (await waiting).data == b""
        await asyncio.wait_for(looping, 5)
        await eventually(lambda: len(got) == 4)
        assert sorted(door for door, _ in got) == ["callback", "fetched", "fetched", "loop"]
        assert not any(found.is_valid for _, found in got)
        # What had begun before has ended, and nothing else has begun.
        assert sorted(span.name for span in telemetry.spans()) == [f"process {looped}", f"receive {taken}"]

    async def test_of_what_another_instrumentation_patched_is_warned_about_once(
        self, telemetry: Telemetry, nc: Client, unique: Unique, caplog: pytest.LogCaptureFixture
    ):
        seen: list[str] = []

        async def other(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            seen.append(args[0])
            return await wrapped(*args, **kwargs)

        telemetry.uninstrument()
        own = Client.__dict__["publish"]
        subject = unique("orders")
        try:
            wrap_function_wrapper("nats.aio.client", "Client.publish", other)
            others = Client.__dict__["publish"]
            telemetry.instrument()
            assert caplog.messages == [
                "nats-py is already patched by another instrumentation: its spans will appear twice"
            ]
            await nc.publish(subject)
            telemetry.uninstrument()
            assert Client.__dict__["publish"] is others
        finally:
            Client.publish = own  # type: ignore[method-assign]
        assert seen == [subject]
        assert [span.name for span in telemetry.spans()] == [f"publish {subject}"]

    async def test_leaves_what_another_put_on_top(
        self, telemetry: Telemetry, nc: Client, unique: Unique, caplog: pytest.LogCaptureFixture
    ):
        seen: list[str] = []

        async def other(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            seen.append(args[0])
            return await wrapped(*args, **kwargs)

        own = Client.__dict__["publish"].__wrapped__
        subject = unique("orders")
        try:
            wrap_function_wrapper("nats.aio.client", "Client.publish", other)
            others = Client.__dict__["publish"]
            telemetry.uninstrument()
            assert Client.__dict__["publish"] is others
            await nc.publish(subject)
        finally:
            Client.publish = own  # type: ignore[method-assign]
        assert seen == [subject]
        assert telemetry.spans() == []
        assert caplog.messages == []


class TestWithoutProviders:
    REMOTE = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True, TraceFlags(1))
    LINE = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def test_a_trace_passes_through(
        self, uninstrumented: None, nats_server: NatsServer, connect: Connect, unique: Unique
    ):
        nc = await connect()
        js = nc.jetstream()
        subject, onward, stored = unique("orders"), unique("onward"), unique("stored")
        await js.add_stream(name=stored, subjects=[stored])
        NatsInstrumentor().instrument()

        async def handler(msg: Any) -> None:
            assert trace.get_current_span().get_span_context() == self.REMOTE
            await nc.publish(onward, headers={"X-Tenant": "a"})
            await js.publish(stored)
            await msg.respond(b"")

        async with Wire(nats_server.url) as wire:
            await wire.subscribe(onward, stored, "answers.x")
            await nc.subscribe(subject, cb=handler)
            await flush(nc)
            await wire.publish(subject, headers=f"{self.LINE}\r\n".encode(), reply="answers.x")
            first, second, answer = [await wire.frame() for _ in range(3)]
            assert first.header_lines == ["X-Tenant: a", self.LINE]
            assert second.header_lines == [self.LINE]
            assert answer.header_lines == [self.LINE]

    async def test_nothing_is_added_to_a_message_without_one(
        self, uninstrumented: None, nats_server: NatsServer, connect: Connect, unique: Unique
    ):
        NatsInstrumentor().instrument()
        nc = await connect()
        subject, onward = unique("orders"), unique("onward")

        async def handler(msg: Any) -> None:
            assert not trace.get_current_span().get_span_context().is_valid
            await nc.publish(onward)

        async with Wire(nats_server.url) as wire:
            await wire.subscribe(onward)
            await nc.subscribe(subject, cb=handler)
            await nc.publish(subject)
            assert (await wire.frame()).headers is None

    async def test_the_current_context_travels(
        self, uninstrumented: None, nats_server: NatsServer, connect: Connect, unique: Unique
    ):
        NatsInstrumentor().instrument()
        nc = await connect()
        subject = unique("orders")
        async with Wire(nats_server.url) as wire:
            await wire.subscribe(subject)
            with trace.use_span(NonRecordingSpan(self.REMOTE)):
                await nc.publish(subject)
            assert (await wire.frame()).header_lines == [self.LINE]

    async def test_so_does_baggage_alone(
        self, uninstrumented: None, nats_server: NatsServer, connect: Connect, unique: Unique
    ):
        NatsInstrumentor().instrument()
        nc = await connect()
        subject = unique("orders")
        async with Wire(nats_server.url) as wire:
            await wire.subscribe(subject)
            before = context.get_current()
            context.attach(baggage.set_baggage("tenant", "a"))
            await nc.publish(subject)
            context.attach(before)
            assert (await wire.frame()).header_lines == ["baggage: tenant=a"]

    async def test_those_that_are_set_later_count(self, nats_server: NatsServer):
        finished = await run(
            program(
                """
                import asyncio, sys
                import nats
                from opentelemetry import metrics, trace
                from opentelemetry.instrumentation.nats import NatsInstrumentor
                from opentelemetry.sdk.metrics import MeterProvider
                from opentelemetry.sdk.metrics.export import InMemoryMetricReader
                from opentelemetry.sdk.trace import TracerProvider
                from opentelemetry.sdk.trace.export import SimpleSpanProcessor
                from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

                NatsInstrumentor().instrument()
                exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()

                async def main():
                    nc = await nats.connect(sys.argv[1])
                    await nc.publish("before")
                    provider = TracerProvider()
                    provider.add_span_processor(SimpleSpanProcessor(exporter))
                    trace.set_tracer_provider(provider)
                    await nc.publish("traced")
                    metrics.set_meter_provider(MeterProvider([reader]))
                    await nc.publish("measured")
                    publish = nc.publish
                    NatsInstrumentor().uninstrument()
                    await publish("afterwards")
                    await nc.close()

                asyncio.run(main())
                spans = exporter.get_finished_spans()
                print([span.name for span in spans])
                print({(span.instrumentation_scope.name, span.instrumentation_scope.schema_url) for span in spans})
                print(sorted(
                    point.attributes["messaging.destination.name"]
                    for resource in reader.get_metrics_data().resource_metrics
                    for scope in resource.scope_metrics
                    for metric in scope.metrics
                    if metric.name == "messaging.client.operation.duration"
                    for point in metric.data.data_points
                ))
                """
            ),
            nats_server.url,
            instrumented=False,
        )
        assert finished.stderr == ""
        assert finished.stdout.splitlines() == [
            "['publish traced', 'publish measured']",
            f"{{('{SCOPE}', '{SCHEMA_URL}')}}",
            "['measured']",
        ]


class TestImports:
    async def test_are_only_those_of_the_program(self):
        finished = await run(
            program(
                """
                import sys
                import nats
                before = {name for name in sys.modules if name.startswith("nats")}
                from opentelemetry.instrumentation.nats import NatsInstrumentor
                NatsInstrumentor().instrument()
                print(sorted({name for name in sys.modules if name.startswith("nats")} - before))
                """
            ),
            instrumented=False,
        )
        assert (finished.stdout, finished.stderr) == ("[]\n", "")

    async def test_of_micro_services_that_come_later_are_patched_and_restored(self):
        pytest.importorskip("nats.micro", reason="this nats-py has no micro services")
        finished = await run(
            program(
                """
                from opentelemetry.instrumentation.nats import NatsInstrumentor
                NatsInstrumentor().instrument()
                from nats.micro.service import Endpoint
                from nats.micro.request import Request
                methods = [(Endpoint, "_start"), (Request, "respond"), (Request, "respond_error")]
                print([hasattr(owner.__dict__[name], "__wrapped__") for owner, name in methods])
                NatsInstrumentor().uninstrument()
                print([hasattr(owner.__dict__[name], "__wrapped__") for owner, name in methods])
                NatsInstrumentor().instrument()
                print([hasattr(owner.__dict__[name], "__wrapped__") for owner, name in methods])
                """
            ),
            instrumented=False,
        )
        assert finished.stderr == ""
        assert finished.stdout.splitlines() == [str([True] * 3), str([False] * 3), str([True] * 3)]

    async def test_of_micro_services_after_the_end_are_left_alone(self):
        pytest.importorskip("nats.micro", reason="this nats-py has no micro services")
        finished = await run(
            program(
                """
                from opentelemetry.instrumentation.nats import NatsInstrumentor
                NatsInstrumentor().instrument()
                NatsInstrumentor().uninstrument()
                from nats.micro.service import Endpoint
                print(hasattr(Endpoint.__dict__["_start"], "__wrapped__"))
                """
            ),
            instrumented=False,
        )
        assert (finished.stdout, finished.stderr) == ("False\n", "")


class TestEnvironmentsWithoutIt:
    """nats-py is not there, or one that nobody knows."""

    PROGRAM = program(
        """
        import logging
        logging.basicConfig(format="%(levelname)s %(message)s")
        import os
        os.environ.setdefault("PYTHONPATH", "")  # opentelemetry-instrument sets it
        import opentelemetry.instrumentation.auto_instrumentation.sitecustomize
        from opentelemetry.instrumentation.nats import NatsInstrumentor, message_context
        NatsInstrumentor().instrument()
        print(NatsInstrumentor().is_instrumented_by_opentelemetry)
        """
    )

    async def test_do_not_break_where_the_namespace_holds_something_else(self, tmp_path: Path):
        (tmp_path / "nats" / "client").mkdir(parents=True)
        (tmp_path / "nats" / "client" / "__init__.py").write_text("")
        finished = await self._run(tmp_path, "import nats.client\n" + self.PROGRAM)
        assert "Traceback" not in finished.stderr
        # Loaded automatically it says nothing, called by hand it does.
        assert finished.stderr.count("nats-py >= 2.2, < 3") == finished.stderr.count("\n") == 1
        assert (finished.stdout, finished.returncode) == ("False\n", 0)

    async def test_are_told_of_a_version_that_is_not_known(self, tmp_path: Path):
        metadata = tmp_path / "nats_py-1.9.0.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text("Metadata-Version: 2.1\nName: nats-py\nVersion: 1.9.0\n")
        finished = await self._run(tmp_path, self.PROGRAM)
        assert "Traceback" not in finished.stderr
        assert "nats-py >= 2.2, < 3" in finished.stderr
        # Loaded automatically the newest releases of OpenTelemetry say so as well.
        assert finished.stderr.count("nats-py 1.9.0") == finished.stderr.count("\n") in (1, 2)
        assert (finished.stdout, finished.returncode) == ("False\n", 0)

    async def _run(self, directory: Path, text: str) -> Any:
        """Runs a program where all is installed that is here, but for nats-py, and besides what is in `directory`."""
        for name in ("purelib", "platlib"):
            for entry in Path(sysconfig.get_path(name)).iterdir():
                if entry.name != "nats" and not entry.name.startswith("nats_py-") and entry.suffix != ".pth":
                    link = directory / entry.name
                    if not link.exists():
                        link.symlink_to(entry)
        path = [str(directory)]
        home = Path(package.__file__).parents[3]
        if home != Path(sysconfig.get_path("purelib")):
            path.append(str(home))  # of an editable installation; the namespace has parts in both places
        isolated = f"import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + {path!r}\n"
        silent = dict.fromkeys(("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"), "none")
        return await run(isolated + text, env=silent, instrumented=False)


class _RaisingExporter(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        raise RuntimeError("broken exporter")


class _RaisingPropagator(type(propagate.get_global_textmap())):  # type: ignore[misc]
    def inject(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("broken propagator")


class TestFaultsOfTelemetry:
    """What else may raise, and in which calls, is in test_hooks."""

    async def test_of_an_exporter_stay_with_the_sdk(
        self, telemetry: Telemetry, nc: Client, unique: Unique, caplog: pytest.LogCaptureFixture
    ):
        telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(_RaisingExporter()))
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"12")
        assert (await sub.next_msg(5)).data == b"12"
        assert not [record for record in caplog.records if record.name.startswith(SCOPE)]

    async def test_are_logged_once_and_cost_no_message(
        self,
        telemetry: Telemetry,
        nc: Client,
        unique: Unique,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ):
        monkeypatch.setattr(_faults, "raise_faults", False)
        monkeypatch.setattr(_faults, "_reported", set())
        before = propagate.get_global_textmap()
        propagate.set_global_textmap(_RaisingPropagator([]))
        try:
            subject = unique("orders")
            sub = await nc.subscribe(subject)
            for number in range(3):
                await nc.publish(subject, str(number).encode())
            assert [(await sub.next_msg(5)).data for _ in range(3)] == [b"0", b"1", b"2"]
        finally:
            propagate.set_global_textmap(before)
        (record,) = [record for record in caplog.records if record.name.startswith(SCOPE)]
        assert record.levelname == "WARNING"
        assert "writing the context of a message failed; messages go on" in record.getMessage()
        assert record.exc_info and isinstance(record.exc_info[1], RuntimeError)
        assert [span.name for span in telemetry.spans()].count(f"publish {subject}") == 3


def test_the_snapshot_sees_what_is_patched():
    assert len(list(_classes())) > 50
    before = _snapshot()
    original = Client.__dict__["publish"]
    Client.publish = lambda self: None  # type: ignore[method-assign]
    try:
        assert _changes(before, _snapshot()) == ["Client.publish"]
    finally:
        Client.publish = original  # type: ignore[method-assign]
