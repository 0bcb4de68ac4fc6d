# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What is given for an option, by whatever way, and what a bad value becomes.

A keyword beats its environment variable, which beats the default. Nothing here raises: an instrumentor that raises
stops every later one from loading, so a bad value is a warning that names the option, and then the default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from logging import getLogger
from os import environ
from typing import Any

from opentelemetry.instrumentation.nats._expected import ExpectedErrors
from opentelemetry.instrumentation.nats._subjects import SubjectPatterns

_logger = getLogger(__name__)

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


def read_provider(given: Mapping[str, Any], name: str, method: str) -> Any:
    """Reads `tracer_provider` or `meter_provider`.

    Args:
        given: The keywords of `instrument()`.
        name: The keyword.
        method: What a provider must have.

    Returns:
        The provider; None, for the global one, if there is none or what was given is none.
    """
    provider = given.get(name)
    if provider is None or hasattr(provider, method):
        return provider
    _warn(name, provider, "a provider", "the global one")
    return None


def read_hook(given: Mapping[str, Any], name: str) -> Callable[..., None] | None:
    """Reads a hook: what can be called, and is no coroutine function."""
    hook = given.get(name)
    if hook is None:
        return None
    call = getattr(hook, "__call__", None)  # noqa: B004 (its type's, to see that it is no coroutine function)
    if call is None or inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(call):
        _warn(name, hook, "a plain function", "no hook")
        return None
    return hook


def _scalar(given: Mapping[str, Any], name: str, variable: str) -> tuple[str, Any]:
    """Returns where a value comes from, and the value; None if it is given nowhere."""
    value = given.get(name)
    return (name, value) if value is not None else (variable, environ.get(variable, "").strip() or None)


def read_flag(given: Mapping[str, Any], name: str, variable: str, default: bool = False) -> bool:
    """Reads a boolean, or one of the usual words for it."""
    source, value = _scalar(given, name, variable)
    if value is None or isinstance(value, bool):
        return default if value is None else value
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    _warn(source, value, "true or false", str(default).lower())
    return default


def read_count(given: Mapping[str, Any], name: str, variable: str, default: int) -> int:
    """Reads a number from 0 on."""
    source, value = _scalar(given, name, variable)
    if value is None:
        return default
    try:
        count = int(value)
    except (TypeError, ValueError, OverflowError):
        count = -1
    if count >= 0 and not isinstance(value, bool) and (count == value or isinstance(value, str)):
        return count
    _warn(source, value, "a number that is not negative", str(default))
    return default


def read_strings(given: Mapping[str, Any], name: str, variable: str) -> tuple[str, list[str]]:
    """Reads a list of strings, or one string with commas; returns where they come from, and the strings."""
    value = given.get(name)
    if value is None:
        return variable, _split(environ.get(variable, ""))
    if isinstance(value, str):
        return name, _split(value)
    try:
        strings = list(value)
    except TypeError:
        strings = [value]
    good = [item for item in strings if isinstance(item, str)]
    if len(good) != len(strings):
        _warn(name, value, "a list of strings", "what is a string in it")
    return name, good


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def read_patterns(given: Mapping[str, Any], name: str, variable: str) -> SubjectPatterns:
    """Reads NATS patterns; the good ones of them hold."""
    source, strings = read_strings(given, name, variable)
    good: list[str] = []
    for pattern in strings:
        try:
            SubjectPatterns([pattern])
        except ValueError:
            _warn(source, pattern, "a NATS subject pattern", "no such pattern")
        else:
            good.append(pattern)
    return SubjectPatterns(good)


def read_errors(given: Mapping[str, Any], name: str, variable: str) -> ExpectedErrors:
    """Reads classes of exceptions, and names; the good ones of them hold."""
    value = given.get(name)
    if value is None:
        return ExpectedErrors(_split(environ.get(variable, "")))
    if isinstance(value, str):
        return ExpectedErrors(_split(value))
    try:
        errors = [value] if isinstance(value, type) else list(value)
    except TypeError:
        errors = [value]
    good = [error for error in errors if isinstance(error, str) or _is_exception(error)]
    if len(good) != len(errors):
        _warn(name, value, "a list of classes of exceptions or their names", "what is one in it")
    return ExpectedErrors(good)


def _is_exception(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def warn_unknown(name: str) -> None:
    """Warns of an option that does not exist."""
    _logger.warning("nats instrumentation: unknown option %s is ignored", name)


def _warn(source: str, value: object, expected: str, instead: str) -> None:
    _logger.warning("nats instrumentation: %s is %r, not %s; %s is used", source, value, expected, instead)
