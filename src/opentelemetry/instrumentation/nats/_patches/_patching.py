# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""How a method of nats-py is replaced, and put back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from threading import get_ident
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from wrapt import FunctionWrapper

from opentelemetry.instrumentation.nats._calls import get_mark, task_of
from opentelemetry.instrumentation.nats._telemetry import Telemetry

Wrapper = Callable[[Telemetry, Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""A wrapper as wrapt calls it, `(wrapped, instance, args, kwargs)`, with the telemetry before."""


Make = Callable[[Telemetry, Callable[..., Any], Callable[[Any], Callable[..., Any]]], Callable[..., Any]]
"""Makes the coroutine function that runs instead of a method, with the same arguments. Given are the telemetry,
nats-py's own function, and how to find what nats-py would find: to be asked inside of another call."""


MakeInner = Callable[[Telemetry, Callable[..., Any]], Callable[..., Any]]
"""Makes what runs instead of a method inside of a call of the user's that follows it, with the same arguments. Given
are the telemetry and nats-py's own function."""


def _listens(telemetry: Telemetry) -> bool:
    return not telemetry.idle()


class Replaced(NamedTuple):
    """A coroutine method that runs as a user's call.

    Attributes:
        make: Makes what runs instead.
        make_inner: Makes what runs instead inside of a call of the user's that follows the method; None where no call
            does.
        wanted: Tells whether ours is to run although nobody listens at the moment.
    """

    make: Make
    make_inner: MakeInner | None = None
    wanted: Callable[[Telemetry], bool] = _listens


Rows = list[tuple[Any, str, "Wrapper | Replaced"]]
"""A module's table: the class that defines the method, the method's name, the wrapper."""

_MISSING: Any = object()


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


def apply(telemetry: Telemetry, rows: Rows) -> list[Patch]:
    """Patches the methods of a table; the ones that this version of nats-py does not have are passed over."""
    return [
        Patch(owner, name, partial(_wrap, telemetry, name, wrapper))
        for owner, name, wrapper in rows
        if name in owner.__dict__
    ]


def _wrap(telemetry: Telemetry, name: str, wrapper: Wrapper | Replaced, original: Any) -> Any:
    if isinstance(wrapper, Replaced):
        return _method(telemetry, name, wrapper, original)
    return FunctionWrapper(original, partial(wrapper, telemetry))


def _bind_and_call(method: Any, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Calls what another instrumentation has put into the class before us; not being a function, it has to be bound."""
    return method.__get__(instance, type(instance))(*args, **kwargs)


_FunctionWrapper: Any = FunctionWrapper


def _method(telemetry: Telemetry, name: str, replaced: Replaced, original: Any) -> Any:
    """Makes what stands in the class for a coroutine method of nats-py's; wrapt makes it look like the original.

    Looked up on an instance, it is one of several plain methods, which costs half of wrapt's bound wrapper: ours for
    the user; inside of a user's call, where it is nats-py that looks, nats-py's own. So a call passes one wrapper only,
    through however many of nats-py's methods it goes.
    """

    def find(instance: Any) -> Any:
        return method.__get__(instance)

    function = original if type(original) is FunctionType else partial(_bind_and_call, original)
    inner = function if replaced.make_inner is None else replaced.make_inner(telemetry, function)
    followed = None if replaced.make_inner is None else name
    ours = wraps(original)(replaced.make(telemetry, function, find))
    wanted = replaced.wanted

    # A class for each method, because wrapt's objects take five times as long as a closure to find what they have.
    class Method(_FunctionWrapper):
        def __get__(self, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return _FunctionWrapper.__get__(self, instance, owner)
            mark = get_mark()
            if (
                mark is not None
                and (call := mark.call) is not None
                # As `mark.is_ours` does, without the time that calling it takes: each inner call comes here.
                and mark.thread == get_ident()
                and mark.task == id(task_of(mark.loop))
            ):
                return MethodType(inner if call.follows == followed else function, instance)
            return MethodType(ours if telemetry.listening or wanted(telemetry) else function, instance)

    def call_unbound(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if instance is None:
            instance, args = args[0], args[1:]
        return find(instance)(*args, **kwargs)

    method: Any = Method(original, call_unbound)
    return method
