# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""How a method of nats-py is replaced, and put back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

from wrapt import FunctionWrapper

from opentelemetry.instrumentation.nats._telemetry import Telemetry

Wrapper = Callable[[Telemetry, Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""A wrapper as wrapt calls it, `(wrapped, instance, args, kwargs)`, with the telemetry before."""


class Gated(NamedTuple):
    """A wrapper that is passed by as long as a gate is closed: wrapt looks at that itself, for less.

    Attributes:
        wrapper: The wrapper.
        is_open: The gate.
    """

    wrapper: Wrapper
    is_open: Callable[[Telemetry], bool]


Rows = list[tuple[Any, str, "Wrapper | Gated"]]
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
        Patch(owner, name, partial(_wrap, telemetry, wrapper))
        for owner, name, wrapper in rows
        if name in owner.__dict__
    ]


def _wrap(telemetry: Telemetry, wrapper: Wrapper | Gated, original: Any) -> Any:
    if isinstance(wrapper, Gated):
        return FunctionWrapper(
            original, partial(wrapper.wrapper, telemetry), enabled=cast("Any", partial(wrapper.is_open, telemetry))
        )
    return FunctionWrapper(original, partial(wrapper, telemetry))
