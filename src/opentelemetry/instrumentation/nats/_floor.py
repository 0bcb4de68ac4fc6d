# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The oldest OpenTelemetry that the package runs with, and what it exports on one that is older still.

An image that pins old releases gets the package by `--no-deps`, or from a folder that somebody mounts into it. An
import that fails there would stop the program, or every instrumentor after this one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator
from contextlib import contextmanager
from importlib import import_module
from logging import getLogger
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.instrumentation.nats.package import _instruments  # pyright: ignore[reportPrivateUsage] (contrib's name)
from opentelemetry.trace import INVALID_SPAN, Span

_logger = getLogger(__name__)

# Module to distribution and its oldest release, as in pyproject.toml. What is imported counts, not what is installed: a
# mounted folder has both.
_OLDEST = {
    "opentelemetry.version": ("opentelemetry-api", (1, 30)),
    "opentelemetry.instrumentation.version": ("opentelemetry-instrumentation", (0, 51)),
    "opentelemetry.semconv.version": ("opentelemetry-semantic-conventions", (0, 51)),
}


def too_old() -> str:
    """Tells what is too old.

    Returns:
        The distribution, its version, and the one that is needed; an empty string where everything is new enough. A
        version that can't be read counts as new enough.
    """
    for module, (distribution, oldest) in _OLDEST.items():
        try:
            version = str(import_module(module).__version__)
        except (ImportError, AttributeError):
            continue
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) < oldest:
            return f"{distribution} is {version}, and {oldest[0]}.{oldest[1]} is the oldest that works"
    return ""


class _Instrumentor(BaseInstrumentor):
    """Stands in for `NatsInstrumentor`: says why nothing is instrumented, once, and does nothing else."""

    _said = False

    def instrumentation_dependencies(self) -> Collection[str]:
        return _instruments

    def instrument(self, **kwargs: Any) -> None:
        if not self._said:
            self._said = True
            _logger.warning("nats instrumentation: %s; nats-py is not instrumented (logged once)", too_old())

    def uninstrument(self, **kwargs: Any) -> None:
        pass

    def _instrument(self, **kwargs: Any) -> None:
        pass

    def _uninstrument(self, **kwargs: Any) -> None:
        pass


def _message_context(msg: Any) -> Context:
    return Context()


@contextmanager
def _process_message(msg: Any) -> Generator[Span]:
    yield INVALID_SPAN


_STAND_INS = {
    "NatsInstrumentor": _Instrumentor,
    "NATSInstrumentor": _Instrumentor,
    "message_context": _message_context,
    "process_message": _process_message,
}


def stand_in(name: str) -> Any:
    """Finds what the package exports under a name where OpenTelemetry is too old; it is the package's `__getattr__`.

    Args:
        name: The name.

    Returns:
        What does nothing. For the types of options and hooks, which annotations name, a type.

    Raises:
        AttributeError: The package exports no such name.
    """
    exported = import_module("opentelemetry.instrumentation.nats").__all__
    if name not in exported:
        raise AttributeError(name)
    return _STAND_INS.get(name, object)
