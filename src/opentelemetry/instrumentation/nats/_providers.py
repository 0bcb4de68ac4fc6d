# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What OpenTelemetry and asyncio keep to themselves: whether there are providers yet, where a context keeps its span.

The only file that reads a private name of either. They are read because each message asks, and the public ways
take longer. In a release that has such a name no more, the public way answers instead: slower, not different.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from inspect import CO_ASYNC_GENERATOR
from types import FrameType
from typing import Any, NamedTuple

from opentelemetry import context as context_api
from opentelemetry import metrics as metrics_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Span, SpanContext, Tracer, propagation

# Where the API keeps the global providers, None until there are any. Its public getters read the process environment
# until then: 1 us on every call without an SDK.
_TRACING = vars(trace)
_METRICS: Any = vars(getattr(metrics_api, "_internal", metrics_api))
_TRACER_PROVIDER = "_TRACER_PROVIDER"
_METER_PROVIDER = "_METER_PROVIDER"
_PROXY_METER_PROVIDER = "_PROXY_METER_PROVIDER"

SPAN_KEY: str | None = getattr(propagation, "_SPAN_KEY", None)
"""The key by which a context keeps its span; None where a release of the API has another name for it."""

_SUPPRESSED: str | None = getattr(context_api, "_SUPPRESS_INSTRUMENTATION_KEY", None)
_SUPPRESSED_PLAIN = "suppress_instrumentation"

SUPPRESSING: tuple[str, ...] = () if _SUPPRESSED is None else (_SUPPRESSED, _SUPPRESSED_PLAIN)
"""The keys by which a context says that it suppresses; none where a release of the API has other names for them."""

_untouched = frozenset(SUPPRESSING).isdisjoint

_runtime: Any = getattr(context_api, "_RUNTIME_CONTEXT", None)
# Of a program's own runtime context, which it may choose by OTEL_PYTHON_CONTEXT, nothing is known.
_current: ContextVar[Context] | None = (
    getattr(_runtime, "_current_context", None) if type(_runtime) is ContextVarsRuntimeContext else None
)

# No functions: each message asks, and to enter one takes as long as the question.
get_current: Callable[[], Context] = context_api.get_current if _current is None else _current.get
"""Returns the current context, as the API's function of this name does by way of two others."""

attach: Callable[[Context], object] = context_api.attach if _current is None else _current.set
"""Makes a context current."""

global_tracer_provider: Callable[[], Any] = partial(_TRACING.get, _TRACER_PROVIDER, True)
"""Returns the global tracer provider; None as long as there is none, True where that can't be told."""

global_meter_provider: Callable[[], Any] = partial(_METRICS.get, _METER_PROVIDER, True)
"""Returns the global meter provider; None as long as there is none, True where that can't be told."""


def proxy_meter_provider() -> Any:
    """Returns what stands for the global meter provider until there is one; None where that can't be told."""
    return _METRICS.get(_PROXY_METER_PROVIDER)


def suppressed(context: Context) -> bool:
    """Tells whether `suppress_instrumentation()` is in effect.

    Args:
        context: The current context.
    """
    if not SUPPRESSING:
        return not is_instrumentation_enabled()
    return not _untouched(context) and any(context.get(key) for key in SUPPRESSING)


def span_context(context: Context) -> SpanContext | None:
    """Returns the valid span context in an OpenTelemetry context, or None."""
    # Not by `get_current_span`, which asks an abstract class what the span is: 0.3 us for each message.
    span: Any = trace.get_current_span(context) if SPAN_KEY is None else context.get(SPAN_KEY)
    if span is None:
        return None
    found = span.get_span_context()
    return found if found.is_valid else None


def span_of(context: Context) -> Span:
    """Returns the span in an OpenTelemetry context; an invalid one where there is none."""
    return trace.get_current_span(context)


class Decisions(NamedTuple):
    """What a tracer is certain to do with a span: True to record it, False to drop it, None where it is to be asked.

    Attributes:
        sampled: With one below a span that is sampled.
        unsampled: With one below a span that is not.
        root: With one below none.
    """

    sampled: bool | None = None
    unsampled: bool | None = None
    root: bool | None = None


def decisions_of(tracer: Tracer) -> Decisions:
    """Tells what a tracer is certain to do: nothing, where it or its sampler is not the SDK's own.

    Args:
        tracer: The tracer.
    """
    sdk = sys.modules.get("opentelemetry.sdk.trace")
    sampling = sys.modules.get("opentelemetry.sdk.trace.sampling")
    if sdk is None or sampling is None or type(tracer) is not sdk.Tracer:
        return Decisions()
    if "start_span" in vars(tracer) or _counts_spans(tracer):
        return Decisions()
    sampler: object = getattr(tracer, "sampler", None)
    known = {id(sampling.ALWAYS_ON): True, id(sampling.ALWAYS_OFF): False}
    if id(sampler) in known:
        return Decisions(*[known[id(sampler)]] * 3)
    if getattr(type(sampler), "should_sample", None) is not sampling.ParentBased.should_sample:
        return Decisions()

    def decision(*names: str) -> bool | None:
        found = {known.get(id(getattr(sampler, name, None))) for name in names}
        return found.pop() if len(found) == 1 else None

    return Decisions(
        decision("_remote_parent_sampled", "_local_parent_sampled"),
        decision("_remote_parent_not_sampled", "_local_parent_not_sampled"),
        decision("_root"),
    )


def _counts_spans(tracer: Tracer) -> bool:
    """Tells whether the SDK counts its own spans, those that it drops too."""
    if "opentelemetry.sdk.trace._tracer_metrics" not in sys.modules:
        return False  # a release that does not
    return type(getattr(tracer, "_tracer_metrics", None)).__name__ != "NoOpTracerMetrics"


def parts_of(propagator: TextMapPropagator) -> Sequence[TextMapPropagator]:
    """Returns the propagators that a composite one is made of; any other is the one part of itself."""
    if type(propagator) is CompositePropagator:
        return getattr(propagator, "_propagators", (propagator,))
    return (propagator,)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


running_loop: Callable[[], asyncio.AbstractEventLoop | None] = getattr(asyncio, "_get_running_loop", _running_loop)
"""Returns the running event loop, or None."""

# `asyncio.current_task()` is written in Python before 3.12, and takes five times as long as what it looks into.
_current_tasks: Any = None if sys.version_info >= (3, 12) else getattr(asyncio.tasks, "_current_tasks", None)

task_of: Callable[[Any], asyncio.Task[Any] | None] = (
    asyncio.current_task if _current_tasks is None else _current_tasks.get
)
"""Returns the task that a loop is running, or None."""


get_frame: Callable[[int], FrameType] = sys._getframe  # pyright: ignore[reportPrivateUsage] (Python documents it)
"""Returns the frame of a caller: 0 for the function that asks, 1 for the one that has called it."""


_MOST_GENERATORS = 100
"""Async generators that are looked through: of more of them the right one is not worth finding."""


def generator_of(frame: FrameType) -> AsyncGenerator[Any, Any] | None:
    """Returns the async generator that a frame is of, where the event loop tells."""
    if not frame.f_code.co_flags & CO_ASYNC_GENERATOR:
        return None
    generators: Any = getattr(running_loop(), "_asyncgens", ())
    if len(generators) > _MOST_GENERATORS:
        return None
    return next((each for each in list(generators) if each.ag_frame is frame), None)


def _held_by_somebody(_: object) -> int:
    return next(_counter)


_counter = itertools.count()

references: Callable[[object], int] = getattr(sys, "getrefcount", _held_by_somebody)
"""Counts who refers to an object; a Python that does not count answers more each time."""


def context_of_task(task: asyncio.Task[Any]) -> contextvars.Context | None:
    """Returns the context that a task runs in; None where that can't be told."""
    get_context: Callable[[], contextvars.Context] | None = getattr(task, "get_context", None)
    if get_context is not None:
        return get_context()
    # Before Python 3.12 a task does not tell. But it shows to the garbage collector what it refers to, and one that is
    # written in Python has an attribute.
    known: Any = getattr(task, "_context", None)
    found = (known, *gc.get_referents(task))
    return next((each for each in found if type(each) is contextvars.Context), None)


def exception_of(future: asyncio.Future[Any]) -> BaseException | None:
    """Returns what a future that is done, and not cancelled, has failed with, or None.

    `exception()` would mark it as retrieved, and silence asyncio's "never retrieved" where the program never looks.
    """
    try:
        return future._exception
    except AttributeError:
        return future.exception()
