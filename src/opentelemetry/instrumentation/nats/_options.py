# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The options of `NatsInstrumentor().instrument()`: their types, and where they come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import translate
from typing import Any, NamedTuple, Protocol, TypedDict, cast

from opentelemetry.instrumentation.nats._expected import ExpectedErrors
from opentelemetry.instrumentation.nats._subjects import SubjectPatterns
from opentelemetry.instrumentation.nats._values import (
    read_count,
    read_errors,
    read_flag,
    read_hook,
    read_patterns,
    read_strings,
    warn_unknown,
)
from opentelemetry.instrumentation.nats.environment_variables import (
    OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_EXCLUDED,
    OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_INCLUDED,
    OTEL_PYTHON_NATS_ACTIVATE_NEXT_MSG,
    OTEL_PYTHON_NATS_BAGGAGE_KEYS,
    OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS,
    OTEL_PYTHON_NATS_EXPECTED_ERRORS,
    OTEL_PYTHON_NATS_INCLUDED_SUBJECTS,
    OTEL_PYTHON_NATS_PROPAGATION_EXCLUDED_SUBJECTS,
    OTEL_PYTHON_NATS_PROPAGATION_ONLY,
    OTEL_PYTHON_NATS_RECORD_BODY_SIZES,
    OTEL_PYTHON_NATS_RECORD_EXCEPTION_MESSAGES,
    OTEL_PYTHON_NATS_SUBJECT_NAMES,
    OTEL_PYTHON_NATS_SUBJECT_TEMPLATES,
    OTEL_PYTHON_NATS_USE_SPAN_LINKS,
)
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, TracerProvider

_SUBJECT_NAMES = 50

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


class ResponseHook(Protocol):
    """Called for every answer to a request, before the application sees it, with the request's span current."""

    def __call__(self, span: Span, message: Any, /) -> None:
        """Looks at the answer and may set attributes on the span.

        Args:
            span: The recording span of the request.
            message: The answer, a `nats.aio.msg.Msg`.
        """


class ShouldTrace(Protocol):
    """Asked before each operation whether it is to be traced and measured."""

    def __call__(self, operation: str, subject: str, /) -> bool:
        """Decides about one operation; what it is told no about is as an excluded subject.

        Args:
            operation: What `messaging.operation.name` would say: `publish`, `process`, `ack`, `kv.put` and so on.
            subject: The subject that it is about. Of a receive that came back empty or with several messages, the
                subscription's; of a bucket, `$KV.{bucket}.{key}` or `$O.{bucket}.>`; else the stream's name, or an
                empty string.

        Returns:
            False to leave it out.
        """
        ...


class InstrumentOptions(TypedDict, total=False):
    """The keywords of `NatsInstrumentor().instrument()`."""

    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    logger_provider: Any
    publish_hook: PublishHook | None
    consume_hook: ConsumeHook | None
    use_span_links: bool
    response_hook: ResponseHook | None
    should_trace: ShouldTrace | None
    included_subjects: Iterable[str]
    excluded_subjects: Iterable[str]
    propagation_excluded_subjects: Iterable[str]
    subject_templates: Iterable[str]
    subject_names: int
    headers_included: Iterable[str]
    headers_excluded: Iterable[str]
    baggage_keys: Iterable[str]
    activate_next_msg: bool
    record_exception_messages: bool
    expected_errors: Iterable[type[BaseException] | str]
    propagation_only: bool
    record_body_sizes: bool


@dataclass(init=False, repr=False, eq=False)  # each function that it writes takes time at import
class NatsConfiguration:
    """The options as a declarative configuration file gives them (`instrumentation/development: python: nats:`).

    None stands for "not given", so that an environment variable still counts.

    Args:
        **options: The options. One that does not exist is logged as a warning: raised, it would cost all the others.
    """

    use_span_links: bool | None = None
    included_subjects: list[str] | None = None
    excluded_subjects: list[str] | None = None
    propagation_excluded_subjects: list[str] | None = None
    subject_templates: list[str] | None = None
    subject_names: int | None = None
    headers_included: list[str] | None = None
    headers_excluded: list[str] | None = None
    baggage_keys: list[str] | None = None
    activate_next_msg: bool | None = None
    record_exception_messages: bool | None = None
    expected_errors: list[str] | None = None
    propagation_only: bool | None = None
    record_body_sizes: bool | None = None

    def __init__(self, **options: Any) -> None:
        known = {field.name for field in fields(self)}
        for name, value in options.items():
            if name in known:
                setattr(self, name, value)
            else:
                warn_unknown(name)


class HeaderSelection:
    """Which message headers, or entries of baggage, are recorded as attributes.

    Args:
        included: Globs of names, compared without case.
        excluded: Globs that win over `included`.
    """

    __slots__ = ("_excluded", "_included")

    def __init__(self, included: Iterable[str], excluded: Iterable[str]) -> None:
        self._included = _glob_matcher(included)
        self._excluded = _glob_matcher(excluded)

    def __bool__(self) -> bool:
        return self._included is not None

    def selects(self, name: str) -> bool:
        """Tells whether what has this (lower-case) name is to be recorded."""
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
    response_hook: ResponseHook | None
    should_trace: ShouldTrace | None
    included_subjects: SubjectPatterns
    excluded_subjects: SubjectPatterns
    propagation_excluded_subjects: SubjectPatterns
    subject_templates: SubjectPatterns
    subject_names: int
    headers: HeaderSelection
    baggage_keys: HeaderSelection
    activate_next_msg: bool
    record_exception_messages: bool
    expected_errors: ExpectedErrors
    propagation_only: bool
    record_body_sizes: bool

    @property
    def by_subject(self) -> bool:
        """Whether a message's own subject decides about its span, besides the subscription's."""
        return bool(
            self.excluded_subjects or self.included_subjects or self.subject_templates or self.should_trace is not None
        )


def read_options(given: Mapping[str, Any]) -> Options:
    """Builds the options from the keywords of `instrument()` and the environment.

    Args:
        given: The keywords, of any type: they come from users and configuration files.

    Returns:
        The options; a bad value was logged as a warning and replaced by its default.
    """
    for name in given.keys() - InstrumentOptions.__annotations__.keys() - _BASE_CLASS_OPTIONS:
        warn_unknown(name)
    return Options(
        publish_hook=cast("PublishHook | None", read_hook(given, "publish_hook")),
        consume_hook=cast("ConsumeHook | None", read_hook(given, "consume_hook")),
        use_span_links=read_flag(given, "use_span_links", OTEL_PYTHON_NATS_USE_SPAN_LINKS),
        response_hook=cast("ResponseHook | None", read_hook(given, "response_hook")),
        should_trace=cast("ShouldTrace | None", read_hook(given, "should_trace")),
        included_subjects=read_patterns(given, "included_subjects", OTEL_PYTHON_NATS_INCLUDED_SUBJECTS),
        excluded_subjects=read_patterns(given, "excluded_subjects", OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS),
        propagation_excluded_subjects=read_patterns(
            given, "propagation_excluded_subjects", OTEL_PYTHON_NATS_PROPAGATION_EXCLUDED_SUBJECTS
        ),
        subject_templates=read_patterns(given, "subject_templates", OTEL_PYTHON_NATS_SUBJECT_TEMPLATES),
        subject_names=read_count(given, "subject_names", OTEL_PYTHON_NATS_SUBJECT_NAMES, _SUBJECT_NAMES),
        headers=HeaderSelection(
            read_strings(given, "headers_included", OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_INCLUDED)[1],
            read_strings(given, "headers_excluded", OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_EXCLUDED)[1],
        ),
        baggage_keys=HeaderSelection(read_strings(given, "baggage_keys", OTEL_PYTHON_NATS_BAGGAGE_KEYS)[1], ()),
        activate_next_msg=read_flag(given, "activate_next_msg", OTEL_PYTHON_NATS_ACTIVATE_NEXT_MSG),
        record_exception_messages=read_flag(
            given, "record_exception_messages", OTEL_PYTHON_NATS_RECORD_EXCEPTION_MESSAGES, default=True
        ),
        expected_errors=read_errors(given, "expected_errors", OTEL_PYTHON_NATS_EXPECTED_ERRORS),
        propagation_only=read_flag(given, "propagation_only", OTEL_PYTHON_NATS_PROPAGATION_ONLY),
        record_body_sizes=read_flag(given, "record_body_sizes", OTEL_PYTHON_NATS_RECORD_BODY_SIZES),
    )


def _glob_matcher(globs: Iterable[str]) -> Callable[[str], re.Match[str] | None] | None:
    expressions = [translate(glob.lower()) for glob in globs]
    return re.compile("|".join(expressions)).match if expressions else None
