# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The outcomes that the user calls expected: their spans are no errors."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.instrumentation.nats._texts import name_of_class


class ExpectedErrors:
    """Which failures are expected.

    Args:
        errors: Classes of exceptions; names of such, with or without their module; or values of `error.type`.
    """

    __slots__ = ("_classes", "_names")

    def __init__(self, errors: Iterable[type[BaseException] | str] = ()) -> None:
        given = tuple(errors)
        self._classes = tuple(error for error in given if not isinstance(error, str))
        self._names = frozenset(error for error in given if isinstance(error, str))

    def __bool__(self) -> bool:
        return bool(self._classes or self._names)

    def have(self, error_type: str, error: BaseException | None = None) -> bool:
        """Tells whether a failure is one of them.

        Args:
            error_type: Its `error.type`.
            error: The exception, where it is one.
        """
        names = self._names
        if error_type in names:
            return True
        if error is None:
            return False
        cls = type(error)
        return issubclass(cls, self._classes) or (
            bool(names) and any(base.__name__ in names or name_of_class(base) in names for base in cls.__mro__)
        )

    def __repr__(self) -> str:
        return f"ExpectedErrors({[*self._classes, *sorted(self._names)]!r})"
