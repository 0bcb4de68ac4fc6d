# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""How a method of nats-py is replaced, and put back.

What stands in the class is a plain function: `copy`, `pickle`, `inspect` and autospec treat it like nats-py's own. It
decides when it is called whether the call is the program's, or one that nats-py makes inside of another.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from logging import getLogger
from types import FunctionType
from typing import Any, NamedTuple

from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._telemetry import Telemetry

_logger = getLogger(__name__)

Make = Callable[[Telemetry, Callable[..., Any]], Callable[..., Any]]
"""Makes the function that runs instead of a method, given the telemetry and nats-py's own function. Its first
parameter is called `self`, as nats-py's is."""


class Row(NamedTuple):
    """One method that is replaced.

    Attributes:
        owner: The class that defines it; None where this nats-py has no such class.
        name: Its name.
        make: Makes what runs instead.
        optional: Whether some release of nats-py that we know lacks it, so that nothing is to be said.
        coroutine: Whether it is a coroutine function, rather than a plain one.
    """

    owner: Any
    name: str
    make: Make
    optional: bool = False
    coroutine: bool = True


Rows = list[Row]
"""A module's table."""

_MISSING: Any = object()

_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Patch:
    """One attribute of a class, replaced until `remove()`.

    Args:
        owner: The class that defines the attribute.
        name: The attribute's name.
        make: Makes the replacement of what is there now (or of None).
    """

    __slots__ = ("_name", "_original", "_owner", "_replacement")

    def __init__(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        self._owner = owner
        self._name = name
        self._original = owner.__dict__.get(name, _MISSING)
        self._replacement = make(None if self._original is _MISSING else self._original)
        setattr(owner, name, self._replacement)

    def remove(self) -> None:
        """Puts back what was there, unless somebody has put something on top: then ours stays below it, inert."""
        if self._owner.__dict__.get(self._name) is not self._replacement:
            return
        if self._original is _MISSING:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._original)


def apply(telemetry: Telemetry, rows: Rows, applied: list[Patch]) -> None:
    """Patches the methods of a table.

    A method that is gone, or has become another kind of function, is left alone, with one warning.

    Args:
        telemetry: The telemetry.
        rows: The table.
        applied: The patches so far, to be added to.
    """
    for row in rows:
        if row.owner is None:
            continue  # said when the class was looked for
        if row.name not in row.owner.__dict__:
            if not row.optional:
                _faults.lost(f"{row.owner.__qualname__}.{row.name}", "what goes through it is not traced")
            continue
        original = row.owner.__dict__[row.name]
        if not _is_kind(original, row.coroutine):
            kind = "coroutine" if row.coroutine else "plain"
            _logger.warning(
                "nats instrumentation: %s.%s is no %s function in this nats-py; it is not traced",
                row.owner.__qualname__,
                row.name,
                kind,
            )
            continue
        applied.append(Patch(row.owner, row.name, partial(_replace, telemetry, row.make)))


def _is_kind(original: Any, coroutine: bool) -> bool:
    function = original.__func__ if isinstance(original, staticmethod) else original
    if type(function) is not FunctionType:
        # Of what somebody else has put into the class only a function says what it is.
        return not inspect.isasyncgenfunction(function)
    # Not by the functions of `inspect`, which look through wrappers: a tenth of what `instrument()` takes.
    flags = function.__code__.co_flags
    return not flags & _GENERATORS and bool(flags & inspect.CO_COROUTINE) is coroutine


def _replace(telemetry: Telemetry, make: Make, original: Any) -> Any:
    if isinstance(original, staticmethod):
        function: Any = original.__func__
        return staticmethod(wraps(function)(make(telemetry, function)))
    function = original if type(original) is FunctionType else partial(_bind_and_call, original)
    ours = wraps(original)(make(telemetry, function))
    telemetry.originals[ours] = function
    return ours


def _bind_and_call(method: Any, instance: Any, /, *args: object, **kwargs: object) -> Any:
    """Calls what another instrumentation has put into the class before us; not being a function, it has to be bound."""
    return method.__get__(instance, type(instance))(*args, **kwargs)


def below(telemetry: Telemetry, instance: Any, name: str) -> Callable[..., Any] | None:
    """Returns nats-py's own method, bound, from below our function; None where somebody has put something on top."""
    original = own_function(telemetry, instance, name)
    return None if original is None else partial(original, instance)


def own_function(telemetry: Telemetry, instance: object, name: str) -> Callable[..., Any] | None:
    """Returns nats-py's own function from below ours; None where somebody has put something on top."""
    return telemetry.originals.get(getattr(type(instance), name, None))
