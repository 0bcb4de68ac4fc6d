# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The options of `NatsInstrumentor().instrument()`: their types, where they come from, and what a bad one becomes.

A keyword beats its environment variable, which beats the default. Nothing here raises: an instrumentor that raises
stops every later one from loading, so a bad value is a warning that names the option, and then the default.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import translate
from logging import getLogger
from os import environ
from typing import Any, NamedTuple, Protocol, TypedDict, cast

from opentelemetry.instrumentation.nats._subjects import SubjectPatterns
from opentelemetry.instrumentation.nats.environment_variables import (
    OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_EXCLUDED,
    OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_INCLUDED,
    OTEL_PYTHON_NATS_ACTIVATE_NEXT_MSG,
    OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS,
    OTEL_PYTHON_NATS_PROPAGATION_EXCLUDED_SUBJECTS,
    OTEL_PYTHON_NATS_RECORD_EXCEPTION_MESSAGES,
    OTEL_PYTHON_NATS_SUBJECT_NAMES,
    OTEL_PYTHON_NATS_SUBJECT_TEMPLATES,
    OTEL_PYTHON_NATS_USE_SPAN_LINKS,
)
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, TracerProvider

_logger = getLogger(__name__)

_SUBJECT_NAMES = 50

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})

# Keywords of `BaseInstrumentor.instrument()` itself. Its releases 0.51b0 and 0.52b0 pass the first one on to us.
_BASE_CLASS_OPTIONS = frozenset({"raise_exception_on_conflict", "skip_dep_check"})


class OutgoingMessage(NamedTuple):
    """A message about to be sent, as a publish hook sees it.

    Attributes:
        subject: The subject it goes to.
        reply: The reply subject, or an empty string.
        headers: The headers as they will be sent, with the trace headers; None if there are none. Read only: for
            nats-py's benefit this may be the caller's own mapping.
        size: The payload's size in bytes; None when the payload has no length.
    """

    subject: str
    reply: str
    headers: Mapping[str, Any] | None
    size: int | None


class PublishHook(Protocol):
    """Called for every message sent, before it is handed to the connection, with its span current."""

    def __call__(self, span: Span, message: OutgoingMessage, /) -> None:
        """Looks at the message and may set attributes on the span.

        Args:
            span: The recording send span.
            message: What is about to be sent.
        """


class ConsumeHook(Protocol):
    """Called for every message received or processed, before the application sees it, with its span current."""

    def __call__(self, span: Span, message: Any, /) -> None:
        """Looks at the message and may set attributes on the span.

        Args:
            span: The recording process or receive span.
            message: The `nats.aio.msg.Msg`, the KV entry, the object's info, or the stored message.
        """


class InstrumentOptions(TypedDict, total=False):
    """The keywords of `NatsInstrumentor().instrument()`."""

    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    publish_hook: PublishHook | None
    consume_hook: ConsumeHook | None
    use_span_links: bool
    excluded_subjects: Iterable[str]
    propagation_excluded_subjects: Iterable[str]
    subject_templates: Iterable[str]
    subject_names: int
    headers_included: Iterable[str]
    headers_excluded: Iterable[str]
    activate_next_msg: bool
    record_exception_messages: bool


@dataclass(init=False)
class NatsConfiguration:
    """The options as a declarative configuration file gives them (`instrumentation/development: python: nats:`).

    None stands for "not given", so that an environment variable still counts.

    Args:
        **options: The options. One that does not exist is logged as a warning: raised, it would cost all the others.
    """

    use_span_links: bool | None = None
    excluded_subjects: list[str] | None = None
    propagation_excluded_subjects: list[str] | None = None
    subject_templates: list[str] | None = None
    subject_names: int | None = None
    headers_included: list[str] | None = None
    headers_excluded: list[str] | None = None
    activate_next_msg: bool | None = None
    record_exception_messages: bool | None = None

    def __init__(self, **options: Any) -> None:
        known = {field.name for field in fields(self)}
        for name, value in options.items():
            if name in known:
                setattr(self, name, value)
            else:
                _warn_unknown(name)


class HeaderSelection:
    """Which message headers are recorded as attributes.

    Args:
        included: Globs of header names, compared without case.
        excluded: Globs that win over `included`.
    """

    __slots__ = ("_excluded", "_included")

    def __init__(self, included: Iterable[str], excluded: Iterable[str]) -> None:
        self._included = _glob_matcher(included)
        self._excluded = _glob_matcher(excluded)

    def __bool__(self) -> bool:
        return self._included is not None

    def selects(self, name: str) -> bool:
        """Tells whether the header of this (lower-case) name is to be recorded."""
        return (
            self._included is not None
            and self._included(name) is not None
            and (self._excluded is None or self._excluded(name) is None)
        )


class Options(NamedTuple):
    """The options, validated."""

    publish_hook: PublishHook | None
    consume_hook: ConsumeHook | None
    use_span_links: bool
    excluded_subjects: SubjectPatterns
    propagation_excluded_subjects: SubjectPatterns
    subject_templates: SubjectPatterns
    subject_names: int
    headers: HeaderSelection
    activate_next_msg: bool
    record_exception_messages: bool

    @property
    def by_subject(self) -> bool:
        """Whether a message's own subject decides about its span, besides the subscription's."""
        return bool(self.excluded_subjects or self.subject_templates)


def read_options(given: Mapping[str, Any]) -> Options:
    """Builds the options from the keywords of `instrument()` and the environment.

    Args:
        given: The keywords, of any type: they come from users and configuration files.

    Returns:
        The options; a bad value was logged as a warning and replaced by its default.
    """
    for name in given.keys() - InstrumentOptions.__annotations__.keys() - _BASE_CLASS_OPTIONS:
        _warn_unknown(name)
    return Options(
        publish_hook=cast("PublishHook | None", _hook(given, "publish_hook")),
        consume_hook=cast("ConsumeHook | None", _hook(given, "consume_hook")),
        use_span_links=_flag(given, "use_span_links", OTEL_PYTHON_NATS_USE_SPAN_LINKS),
        excluded_subjects=_patterns(given, "excluded_subjects", OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS),
        propagation_excluded_subjects=_patterns(
            given, "propagation_excluded_subjects", OTEL_PYTHON_NATS_PROPAGATION_EXCLUDED_SUBJECTS
        ),
        subject_templates=_patterns(given, "subject_templates", OTEL_PYTHON_NATS_SUBJECT_TEMPLATES),
        subject_names=_count(given, "subject_names", OTEL_PYTHON_NATS_SUBJECT_NAMES, _SUBJECT_NAMES),
        headers=HeaderSelection(
            _strings(given, "headers_included", OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_INCLUDED)[1],
            _strings(given, "headers_excluded", OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_EXCLUDED)[1],
        ),
        activate_next_msg=_flag(given, "activate_next_msg", OTEL_PYTHON_NATS_ACTIVATE_NEXT_MSG),
        record_exception_messages=_flag(
            given, "record_exception_messages", OTEL_PYTHON_NATS_RECORD_EXCEPTION_MESSAGES, default=True
        ),
    )


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


def _hook(given: Mapping[str, Any], name: str) -> Callable[..., None] | None:
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


def _flag(given: Mapping[str, Any], name: str, variable: str, default: bool = False) -> bool:
    source, value = _scalar(given, name, variable)
    if value is None or isinstance(value, bool):
        return default if value is None else value
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    _warn(source, value, "true or false", str(default).lower())
    return default


def _count(given: Mapping[str, Any], name: str, variable: str, default: int) -> int:
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


def _strings(given: Mapping[str, Any], name: str, variable: str) -> tuple[str, list[str]]:
    """Returns where the strings come from, and the strings."""
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


def _patterns(given: Mapping[str, Any], name: str, variable: str) -> SubjectPatterns:
    source, strings = _strings(given, name, variable)
    good: list[str] = []
    for pattern in strings:
        try:
            SubjectPatterns([pattern])
        except ValueError:
            _warn(source, pattern, "a NATS subject pattern", "no such pattern")
        else:
            good.append(pattern)
    return SubjectPatterns(good)


def _glob_matcher(globs: Iterable[str]) -> Callable[[str], re.Match[str] | None] | None:
    expressions = [translate(glob.lower()) for glob in globs]
    return re.compile("|".join(expressions)).match if expressions else None


def _warn_unknown(name: str) -> None:
    _logger.warning("nats instrumentation: unknown option %s is ignored", name)


def _warn(source: str, value: object, expected: str, instead: str) -> None:
    _logger.warning("nats instrumentation: %s is %r, not %s; %s is used", source, value, expected, instead)
