# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Where delivered messages come from: a subscription, a watcher or a service's endpoint."""

from __future__ import annotations

from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._connection import CACHED_SUBJECTS, Connection, Membership
from opentelemetry.instrumentation.nats._operations import PROCESS, Operation, Prototype
from opentelemetry.instrumentation.nats._subjects import has_wildcard


class Origin:
    """Where delivered messages come from.

    Args:
        connection: The connection that it belongs to.
        subject: The subject that the user subscribed to, or the stream or bucket where there is none; empty where
            nats-py does not say.
        group: Queue group, else durable consumer.
        consumer: Name of the JetStream consumer where somebody chose it; made-up names are no metric attribute.
        attributes: What the spans of its messages have besides: the bucket's, the service's.
        bucket: Whether `subject` is a bucket, which is the destination of all its messages.
        stream: Whether `subject` is a stream, because the subject is not known.
        internal: Whether nats-py made the subscription for itself.
        excluded: Whether the user excluded the bucket: no spans, no metrics.
        acknowledges: Whether each message of its consumer is to be acknowledged; None where that is not known (yet).
        max_deliver: How often its consumer delivers a message at most; 0 where that is not known, or without end.
        asked: Of a bucket: what the user's predicate is to be asked about, if there is one.
    """

    __slots__ = (
        "_generation",
        "_pattern",
        "_prototypes",
        "_shared",
        "acknowledges",
        "asked",
        "attributes",
        "bucket",
        "connection",
        "consumer",
        "excluded",
        "group",
        "internal",
        "max_deliver",
        "stream",
        "subject",
    )

    def __init__(
        self,
        connection: Connection,
        subject: str,
        *,
        group: str | None = None,
        consumer: str | None = None,
        attributes: Attributes | None = None,
        bucket: bool = False,
        stream: bool = False,
        internal: bool = False,
        excluded: bool = False,
        acknowledges: bool | None = None,
        max_deliver: int = 0,
        asked: str | None = None,
    ) -> None:
        self.connection = connection
        self.subject = subject
        self.group = group or consumer
        self.consumer = consumer
        self.attributes = attributes
        self.bucket = bucket
        self.stream = stream
        self.internal = internal
        self.excluded = excluded
        self.acknowledges = acknowledges
        self.max_deliver = max_deliver
        self.asked = asked
        self._generation = connection.generation
        self._pattern = subject if not (bucket or stream) and has_wildcard(subject) else None
        # All messages share a prototype, unless their own subject decides: by an option, or by being an inbox.
        self._shared = bucket or (
            self._pattern is not None and subject[0] not in "*>" and not connection.telemetry.naming.by_subject
        )
        self._prototypes: dict[tuple[Operation, str], Prototype] = {}

    def __repr__(self) -> str:
        what = "bucket" if self.bucket else "stream" if self.stream else "subject"
        return f"<messages of {what} {self.subject!r}{f' for {self.group!r}' if self.group else ''}>"

    def prototype(self, operation: Operation, subject: str) -> Prototype:
        """Returns the prototype of an operation on a message with this subject."""
        connection = self.connection
        if self._generation != connection.generation:
            self._prototypes.clear()
            self._generation = connection.generation
        if self._shared:
            subject = self.subject
        key = (operation, subject)
        prototype = self._prototypes.get(key)
        if prototype is None:
            if len(self._prototypes) >= CACHED_SUBJECTS:
                self._prototypes.clear()
            destination = None
            if self.bucket or (self.stream and subject == self.subject):
                kind = "bucket" if self.bucket else "stream"
                destination = connection.telemetry.naming.resource(kind, subject) if subject else None
            elif subject:
                destination = connection.destination(subject, self._pattern)
            membership = Membership(self.group, self.consumer, self.attributes, self.excluded)
            prototype = self._prototypes[key] = connection.make(operation, destination, membership)
            if self.asked is not None and not prototype.excluded:
                prototype.asked = self.asked
        if prototype.asked is not None:
            prototype = prototype.answered()
            if operation is PROCESS and not prototype.excluded:
                connection.readings.processes.add(prototype.series)
        return prototype
