# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Nothing of ours reaches a program: whatever part of the telemetry raises whatever, its calls do what they did."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

import opentelemetry.instrumentation.nats as package
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.nats import NatsInstrumentor, _faults
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from support.exercises import EXERCISES, Exercise
from support.telemetry import Telemetry

Connect = Callable[..., Awaitable[Client]]
Unique = Callable[[str], str]

ERRORS = [ValueError("broken"), asyncio.CancelledError()]


@pytest.fixture(autouse=True)
def _logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a user's program: a fault is logged and swallowed, each place once."""
    monkeypatch.setattr(_faults, "raise_faults", False)
    monkeypatch.setattr(_faults, "_reported", set())


class Hostile:
    """Stands for a part of the SDK, and raises in the methods of these names; what they would return is as hostile."""

    def __init__(self, inner: Any, names: set[str], error: BaseException) -> None:
        self._inner, self._names, self._error = inner, names, error

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if name in self._names:
                raise self._error
            result = found(*args, **kwargs)
            hostile = name.startswith(("get_tracer", "get_meter", "create_"))
            return Hostile(result, self._names, self._error) if hostile else result

        return call


class HostileSpan(trace.Span):
    """A span that raises in the methods of these names."""

    def __init__(self, inner: trace.Span, names: set[str], error: BaseException) -> None:
        self._inner, self._names, self._error = inner, names, error


def _make_method(name: str) -> Callable[..., Any]:
    def method(self: HostileSpan, *args: Any, **kwargs: Any) -> Any:
        if name in self._names:
            if name == "end":
                self._inner.end()
            raise self._error
        return getattr(self._inner, name)(*args, **kwargs)

    return method


SPAN_METHODS = sorted(trace.Span.__abstractmethods__ | {"add_link"})
for _name in SPAN_METHODS:
    setattr(HostileSpan, _name, _make_method(_name))
HostileSpan.__abstractmethods__ = frozenset()


class HostileTracer(trace.Tracer):
    def __init__(self, inner: trace.Tracer, names: set[str], error: BaseException) -> None:
        self._inner, self._names, self._error = inner, names, error

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        if "start_span" in self._names:
            raise self._error
        return HostileSpan(self._inner.start_span(*args, **kwargs), self._names, self._error)

    start_as_current_span: Any = None


HostileTracer.__abstractmethods__ = frozenset()


class HostileTracerProvider(trace.TracerProvider):
    def __init__(self, inner: trace.TracerProvider, names: set[str], error: BaseException) -> None:
        self._inner, self._names, self._error = inner, names, error

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return HostileTracer(self._inner.get_tracer(*args, **kwargs), self._names, self._error)


class HostileSampler(Sampler):
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        raise self._error

    def get_description(self) -> str:
        return "hostile"


class HostilePropagator(TextMapPropagator):
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def extract(self, *_: Any, **__: Any) -> Any:
        raise self._error

    def inject(self, *_: Any, **__: Any) -> None:
        raise self._error

    @property
    def fields(self) -> set[str]:
        raise self._error


@pytest.fixture(params=EXERCISES, ids=lambda exercise: exercise.__name__)
def exercise(request: pytest.FixtureRequest) -> Exercise:
    return request.param


class TestACallGetsWhatItGetsWithoutTelemetry:
    async def _outcome(self, exercise: Exercise, connect: Connect, name: str) -> Any:
        errors: list[Exception] = []

        async def error_cb(error: Exception) -> None:
            errors.append(error)

        return await exercise(await connect(error_cb=error_cb), name), errors

    async def test_whatever_a_span_or_a_tracer_raises(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, exercise: Exercise
    ):
        telemetry.uninstrument()
        expected = await self._outcome(exercise, connect, unique("name"))
        hostile = [({name}, ERRORS[0]) for name in (*SPAN_METHODS, "start_span")]
        hostile += [(set(SPAN_METHODS) - {"get_span_context"}, error) for error in ERRORS]
        hostile += [({*SPAN_METHODS, "start_span"}, ERRORS[1])]
        for names, error in hostile:
            telemetry.instrument(tracer_provider=HostileTracerProvider(telemetry.tracer_provider, names, error))
            assert await self._outcome(exercise, connect, unique("name")) == expected, names

    @pytest.mark.parametrize("error", ERRORS, ids=repr)
    async def test_whatever_a_sampler_a_meter_or_a_propagator_raises(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, exercise: Exercise, error: BaseException
    ):
        telemetry.uninstrument()
        expected = await self._outcome(exercise, connect, unique("name"))
        telemetry.instrument(tracer_provider=TracerProvider(sampler=HostileSampler(error), shutdown_on_exit=False))
        assert await self._outcome(exercise, connect, unique("name")) == expected
        telemetry.instrument(meter_provider=Hostile(telemetry.meter_provider, {"record", "add"}, error))
        assert await self._outcome(exercise, connect, unique("name")) == expected
        telemetry.instrument()
        before = propagate.get_global_textmap()
        propagate.set_global_textmap(HostilePropagator(error))
        try:
            assert await self._outcome(exercise, connect, unique("name")) == expected
        finally:
            propagate.set_global_textmap(before)

    @pytest.mark.parametrize("error", ERRORS, ids=repr)
    async def test_whatever_the_making_of_a_tracer_or_a_meter_raises(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, error: BaseException
    ):
        for provider in ("tracer_provider", "meter_provider"):
            telemetry.uninstrument()
            inner = getattr(telemetry, provider)
            hostile = Hostile(inner, {"get_tracer", "get_meter"}, error)
            NatsInstrumentor().instrument(**{provider: hostile})
            nc = await connect()
            await nc.publish(unique("orders"))
            await nc.flush()


# What runs around a program's calls may only call these outside of a fence: nats-py's own and the program's functions.
THEIRS = {"original", "inner", "handler", "callback", "put", "_step", "found"}

# ... and these of ours, each a fence of its own, or nothing that can fail.
FENCED = {
    "idle",
    "carry",
    "own_mark",
    "get_current",
    "ordinary",
    "suppressed",
    "report",
    "lost",
    "finish",
    "got_nothing",
    "isinstance",
    "_end_connect",
    "_trace_callback",
    "_not_started",
    "_not_prepared",
    "_carry",
    "_carrying",
    "stepping",
    "attach",
    "message_of",
    "is_status",
    "start_process",
    "show",
    "references",
    "leave",
    "step",
}

ROOT = Path(package.__file__).parent / "_patches"


def _around(tree: ast.AST) -> Iterator[ast.AsyncFunctionDef | ast.FunctionDef]:
    """Yields the functions that call nats-py's own function, or the program's."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.AsyncFunctionDef, ast.FunctionDef)):
            if any(_name(call) in ("original", "handler", "_step") for call in _calls(node)) and node.name != "make":
                yield node


def _calls(function: ast.AST) -> Iterator[ast.Call]:
    """Yields the calls in a function, without those in functions that it defines."""
    for child in ast.iter_child_nodes(function):
        if isinstance(child, (ast.AsyncFunctionDef, ast.FunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from _calls(child)


def _unfenced(statements: list[ast.stmt]) -> Iterator[ast.Call]:
    for statement in statements:
        if isinstance(statement, (ast.AsyncFunctionDef, ast.FunctionDef)):
            continue
        if isinstance(statement, ast.Try):
            fenced = any("FAULTS" in ast.unparse(handler.type) for handler in statement.handlers if handler.type)
            if not fenced:
                yield from _unfenced(statement.body)
            for handler in statement.handlers:
                yield from _unfenced(handler.body)
            yield from _unfenced([*statement.orelse, *statement.finalbody])
        elif isinstance(statement, (ast.If, ast.With, ast.AsyncWith, ast.For, ast.While)):
            heads = [getattr(statement, "test", None), *(item.context_expr for item in getattr(statement, "items", ()))]
            for head in heads:
                if head is not None:
                    yield from _calls(ast.Expr(head))
            yield from _unfenced([*statement.body, *getattr(statement, "orelse", ())])
        else:
            yield from _calls(statement)


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "?")


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.stem)
def test_what_runs_around_a_call_is_inside_of_the_fence(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in _around(tree):
        outside = {f"{_name(call)} in line {call.lineno}" for call in _unfenced(function.body)}
        outside = {call for call in outside if call.partition(" ")[0] not in THEIRS | FENCED}
        assert not outside, f"{function.name}"
