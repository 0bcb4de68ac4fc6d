# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a subject, a stream or a bucket is called in span names and metrics, and what the user's patterns say of it.

A name that is made of ids drowns a backend, so there are only so many.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from logging import getLogger
from typing import Literal, NamedTuple

from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._learning import LearnedNames
from opentelemetry.instrumentation.nats._options import Options
from opentelemetry.instrumentation.nats._subjects import carries_context
from opentelemetry.instrumentation.nats.environment_variables import (
    OTEL_PYTHON_NATS_SUBJECT_NAMES,
    OTEL_PYTHON_NATS_SUBJECT_TEMPLATES,
)

_logger = getLogger(__name__)

Resource = Literal["stream", "bucket"]
"""What an operation is about that is about no subject."""

Name = Callable[[str], str | None]


class Destination(NamedTuple):
    """What a span is about.

    Attributes:
        name: The exact subject, stream or bucket.
        label: What stands for it in span names and metrics: its name or its template. None for an inbox, and where
            there are no names left.
        template: Its low-cardinality form, if it has one.
        inbox: Whether it is an inbox, whose name never enters a span name or a metric.
        subject: Whether `name` is a subject, which the subject options apply to.
        bucket: Whether it is a bucket.
    """

    name: str
    label: str | None = None
    template: str | None = None
    inbox: bool = False
    subject: bool = True
    bucket: bool = False


class Naming:
    """The names of one `instrument()` call.

    Args:
        options: The user's options.

    Attributes:
        by_subject: Whether a message's own subject decides about its span, besides the subscription's.
        asks: Whether the user's predicate decides about each operation.
        excludes: Whether the user excluded any subject from spans and metrics, or may do so when asked.
        withholds: Whether the user excluded any subject from propagation.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self.by_subject = options.by_subject
        self._includes = bool(options.included_subjects)
        self.asks = options.should_trace is not None
        self.excludes = bool(options.excluded_subjects) or self._includes or self.asks
        self.withholds = bool(options.propagation_excluded_subjects)
        self._subject = self._names("subjects")
        self._resources: dict[Resource, Name] = {"stream": self._names("streams"), "bucket": self._names("buckets")}
        self._group = self._names("queue groups")
        self._consumer = self._names("consumers")

    def _names(self, what: str) -> Name:
        limit = self._options.subject_names
        return LearnedNames(limit, on_full=partial(_warn, what, limit)).name

    def subject(self, subject: str, pattern: str | None) -> Destination:
        """Describes a subject that is no inbox.

        Args:
            subject: The exact subject.
            pattern: The wildcard subject of the subscription that the message came through, if any.
        """
        template = self._options.subject_templates.find(subject)
        if template is not None:
            return Destination(subject, template, template)
        label = self._subject(pattern or subject)
        return Destination(subject, label, None if label == subject and pattern is None else label)

    def resource(self, resource: Resource, name: str) -> Destination:
        """Describes a stream or a bucket."""
        label = self._resources[resource](name)
        return Destination(name, label, None if label == name else label, subject=False, bucket=resource == "bucket")

    def group(self, name: str) -> str | None:
        """Returns what stands for a queue group, or a durable consumer in its place, in metrics; see `Destination`."""
        return self._group(name)

    def consumer(self, name: str) -> str | None:
        """Returns what stands for a consumer in metrics."""
        return self._consumer(name)

    def stream(self, name: str) -> str | None:
        """Returns what stands for a stream in metrics."""
        return self._resources["stream"](name)

    def excluded(self, subject: str) -> bool:
        """Tells whether the user's patterns say that he wants no spans and no metrics of a subject."""
        return self.excludes and (
            self._options.excluded_subjects.find(subject) is not None
            or (self._includes and self._options.included_subjects.find(subject) is None)
        )

    def excluded_reply(self, subject: str, about: str) -> bool:
        """Tells the same of a reply, which belongs to what it answers.

        Args:
            subject: The reply subject.
            about: The subject of the message that is answered, where that is known.
        """
        return self._options.excluded_subjects.find(subject) is not None or (
            self.excluded(subject) and (not about or self.excluded(about))
        )

    def refuses(self, operation: str, subject: str) -> bool:
        """Asks the user's predicate, where there is one, whether an operation is to be left out.

        Args:
            operation: The operation's name.
            subject: What it is about.

        Returns:
            Whether it is; not after a fault of the predicate.
        """
        should_trace = self._options.should_trace
        if should_trace is None:
            return False
        try:
            return not should_trace(operation, subject)
        except FAULTS:
            _faults.report("should_trace")
            return False

    def leaves_out(self, operation: str, subject: str) -> bool:
        """Tells whether the user wants no spans and no metrics of an operation on a subject."""
        return self.excluded(subject) or self.refuses(operation, subject)

    def carries_context(self, subject: str) -> bool:
        """Tells whether messages on a subject may be given trace headers."""
        return carries_context(subject) and (
            not self.withholds or self._options.propagation_excluded_subjects.find(subject) is None
        )


def _warn(what: str, limit: int, position: int, first: str) -> None:
    _logger.warning(
        "nats instrumentation: too many %s to give each a name; most differ in token %d%s. Further ones share names "
        "with wildcards, or have none. Name them by patterns of yours with subject_templates (%s), or let fewer tokens "
        "of one place keep their names with subject_names (%s, %d now)",
        what,
        position,
        f" of those that begin with {first!r}" if first else "",
        OTEL_PYTHON_NATS_SUBJECT_TEMPLATES,
        OTEL_PYTHON_NATS_SUBJECT_NAMES,
        limit,
    )


def add_name(attributes: Attributes, key: str, name: str | None) -> None:
    """Adds what stands for something to metric attributes, where anything does."""
    if name is not None:
        attributes[key] = name
