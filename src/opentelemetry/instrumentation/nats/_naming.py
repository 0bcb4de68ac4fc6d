# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a subject, a stream or a bucket is called in span names and metrics, and what the user's patterns say of it.

A name that is made of ids drowns a backend, so there are only so many.
"""

from __future__ import annotations

from typing import NamedTuple

from opentelemetry.instrumentation.nats._options import Options
from opentelemetry.instrumentation.nats._subjects import carries_context, reduce_subject

# Subjects without a template that get names of their own. A program with more of them is naming its subjects after
# ids of a kind that no rule knows; from there on the spans are named after the operation alone.
MOST_LABELS = 1000


class Destination(NamedTuple):
    """What a span is about.

    Attributes:
        name: The exact subject, stream or bucket.
        template: Its low-cardinality form, if it has one.
        inbox: Whether it is an inbox, whose name never enters a span name or a metric.
        subject: Whether `name` is a subject, which the subject options apply to.
    """

    name: str
    template: str | None = None
    inbox: bool = False
    subject: bool = True


class Naming:
    """The names of one `instrument()` call.

    Args:
        options: The user's options.

    Attributes:
        by_subject: Whether a message's own subject decides about its span, besides the subscription's.
        excludes: Whether the user excluded any subject from spans and metrics.
        withholds: Whether the user excluded any subject from propagation.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._labels: set[str] = set()
        self.by_subject = options.by_subject
        self.excludes = bool(options.excluded_subjects)
        self.withholds = bool(options.propagation_excluded_subjects)

    def subject(self, subject: str, pattern: str | None) -> Destination:
        """Describes a subject that is no inbox.

        Args:
            subject: The exact subject.
            pattern: The wildcard subject of the subscription that the message came through, if any.
        """
        template = self._options.subject_templates.find(subject) or pattern or reduce_subject(subject)
        return Destination(subject, template)

    def resource(self, name: str) -> Destination:
        """Describes a stream or a bucket."""
        return Destination(name, reduce_subject(name), subject=False)

    def label(self, destination: Destination) -> str | None:
        """Returns what stands for a destination in span names and metrics; None when there have been too many."""
        label = destination.template or destination.name
        if label in self._labels:
            return label
        if len(self._labels) >= MOST_LABELS:
            return None
        self._labels.add(label)
        return label

    def excluded(self, subject: str) -> bool:
        """Tells whether the user wants no spans and no metrics of a subject."""
        return self.excludes and self._options.excluded_subjects.find(subject) is not None

    def carries_context(self, subject: str) -> bool:
        """Tells whether messages on a subject may be given trace headers."""
        return carries_context(subject) and (
            not self.withholds or self._options.propagation_excluded_subjects.find(subject) is None
        )
