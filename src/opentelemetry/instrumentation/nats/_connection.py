# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What is known of a client's connection, and the prototypes of what goes through it.

They are built once per server, subject and subscription. Every cache here is bounded.
"""

from __future__ import annotations

from sys import intern
from typing import NamedTuple

from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._naming import Destination, Resource, add_name
from opentelemetry.instrumentation.nats._operations import PROCESS, PUBLISH, REPLY, HeaderRoom, Operation, Prototype
from opentelemetry.instrumentation.nats._readings import ClientReadings
from opentelemetry.instrumentation.nats._subjects import ACK_PREFIX, INBOX_PREFIX, is_plumbing
from opentelemetry.instrumentation.nats._telemetry import Telemetry
from opentelemetry.instrumentation.nats._texts import cut
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.network_attributes import NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.trace import SpanKind

CACHED_SUBJECTS = 1024
"""Destinations of one kind that a connection or subscription remembers; past that it forgets all and begins again."""


class ClientState(NamedTuple):
    """What a client says of its connection.

    Attributes:
        address: Host of the URL that it was told to connect to.
        port: Port of that URL.
        client_id: The id that the server's monitoring shows.
        peer: Address and port of the other end of its socket.
        headers: Whether the server takes headers.
        max_payload: Bytes that the server takes in a message.
        inbox: What the subjects of its inboxes begin with, the dot included.
    """

    address: str | None = None
    port: int | None = None
    client_id: str | None = None
    peer: tuple[str, int] | None = None
    headers: bool = False
    max_payload: int = 0
    inbox: str = INBOX_PREFIX


class Membership(NamedTuple):
    """Whose messages a subscription gets, and what its spans have besides.

    Attributes:
        group: Queue group, else durable consumer.
        consumer: Name of the JetStream consumer where somebody chose it; made-up names are no metric attribute.
        attributes: The bucket's, the service's.
        excluded: Whether the user excluded what the messages come from: no spans, no metrics.
    """

    group: str | None = None
    consumer: str | None = None
    attributes: Attributes | None = None
    excluded: bool = False


class Connection:
    """A client's connection, as spans and metrics describe it.

    Args:
        telemetry: What it belongs to.
        readings: What the client counts.
        state: What the client says of its connection.

    Attributes:
        prototypes: Those of operations that `prototype()` was asked for.
        room: What headers the server takes.
        generation: How often the client has (re)connected.
    """

    __slots__ = (
        "_attributes",
        "_inbox",
        "_peer_attributes",
        "_publishing",
        "_reply",
        "_templates",
        "generation",
        "prototypes",
        "readings",
        "room",
        "telemetry",
    )

    def __init__(self, telemetry: Telemetry, readings: ClientReadings, state: ClientState) -> None:
        self.telemetry = telemetry
        self.readings = readings
        self.generation = 0
        self.room = HeaderRoom()
        self.prototypes: dict[tuple[Operation, str | None], Prototype] = {}
        self._publishing: dict[str, Prototype] = {}
        self._templates: dict[str, Prototype] = {}
        self._reply: Prototype | None = None
        self.refresh(state)

    def refresh(self, state: ClientState) -> None:
        """Follows the client; called whenever it has (re)connected: the server may be another one, its id always is."""
        server: Attributes = {messaging.MESSAGING_SYSTEM: names.SYSTEM}
        if state.address is not None:
            server[SERVER_ADDRESS] = state.address
        if state.port is not None:
            server[SERVER_PORT] = state.port
        self.readings.follow(server)
        self._attributes = dict(server)
        if state.client_id is not None:
            self._attributes[messaging.MESSAGING_CLIENT_ID] = state.client_id
        self._peer_attributes = dict(self._attributes)
        if state.peer is not None:
            self._peer_attributes[NETWORK_PEER_ADDRESS], self._peer_attributes[NETWORK_PEER_PORT] = state.peer
        self.room.refresh(state.headers, state.max_payload)
        self._inbox = state.inbox
        self._publishing.clear()
        self._templates.clear()
        self.prototypes.clear()
        self._reply = None
        self.generation += 1

    def is_inbox(self, subject: str) -> bool:
        """Tells whether a subject is an inbox of this client, another client's by default, or an acknowledgement."""
        return subject.startswith((self._inbox, INBOX_PREFIX, ACK_PREFIX))

    def destination(self, subject: str, pattern: str | None = None) -> Destination:
        """Describes a subject.

        Args:
            subject: The exact subject.
            pattern: The wildcard subject of the subscription that the message came through, if any.
        """
        if self.is_inbox(subject):
            return Destination(subject, inbox=True)
        return self.telemetry.naming.subject(subject, pattern)

    def prototype(self, operation: Operation, name: str | None, *, resource: Resource | None = None) -> Prototype:
        """Returns the prototype of an operation.

        Args:
            operation: The operation.
            name: The subject that it is about, or the stream or bucket; None for the server or the account.
            resource: What `name` is, where it is no subject.
        """
        key = (operation, name)
        prototype = self.prototypes.get(key)
        if prototype is None:
            destination = None
            if name is not None:
                destination = self.telemetry.naming.resource(resource, name) if resource else self.destination(name)
            prototype = self.make(operation, destination)
            if destination is None or not destination.inbox:
                if len(self.prototypes) >= CACHED_SUBJECTS:
                    self.prototypes.clear()
                self.prototypes[key] = prototype
        return prototype if prototype.asked is None else prototype.answered()

    def publish_prototype(self, subject: str) -> Prototype:
        """Returns the prototype of a publish; to an inbox, that is a reply.

        What a library publishes on its own account, pull requests and the like, counts as excluded.
        """
        prototype = self._publishing.get(subject)
        if prototype is None:
            if self.is_inbox(subject):
                return self.reply_prototype(subject)
            prototype = self._make_publish(subject)
            if len(self._publishing) >= CACHED_SUBJECTS:
                self._publishing.clear()
            self._publishing[subject] = prototype
        return prototype if prototype.asked is None else prototype.answered()

    def _make_publish(self, subject: str) -> Prototype:
        destination = self.destination(subject)
        naming = self.telemetry.naming
        if (
            naming.by_subject
            or naming.withholds
            or subject.startswith("$")
            or (destination.template is None and destination.label is not None)
        ):
            prototype = self.make(PUBLISH, destination)
            if is_plumbing(subject):
                prototype.excluded, prototype.asked = True, None
            return prototype
        # One for all subjects of the template, and one for all that have no name of their own any more: one for each of
        # them is garbage that the collector has to walk.
        label = destination.label or ""
        prototype = self._templates.get(label)
        if prototype is None:
            prototype = self.make(PUBLISH, destination)
            prototype.shared = True
            if len(self._templates) >= CACHED_SUBJECTS:
                self._templates.clear()
            self._templates[label] = prototype
        return prototype

    def reply_prototype(self, subject: str, about: str = "") -> Prototype:
        """Returns the prototype of a reply; where it is shared, its attributes do not have this inbox.

        Args:
            subject: The reply subject.
            about: The subject of the message that is answered, where that is known.
        """
        naming = self.telemetry.naming
        made = self._reply
        if made is None:
            made = self._reply = self.make(REPLY, Destination("", inbox=True))
            # One for all inboxes, unless an option looks at each: to make one costs 80 instructions.
            made.shared = not (naming.excludes or naming.asks or naming.withholds)
        if made.shared and not subject.startswith("$"):
            return made
        prototype = Prototype(
            self.telemetry,
            REPLY,
            made.span_name,
            made.attributes.copy(),
            made.series,
            self.room,
            self.readings.processing,
        )
        prototype.add_subject(prototype.attributes, subject)
        prototype.excluded = naming.excludes and naming.excluded_reply(subject, about)
        prototype.carries_context = naming.carries_context(subject)
        if naming.asks and not prototype.excluded:
            prototype.asked = subject
            return prototype.answered()
        return prototype

    def make(
        self, operation: Operation, destination: Destination | None, membership: Membership | None = None
    ) -> Prototype:
        """Builds a prototype; callers on a hot path keep it.

        Args:
            operation: The operation.
            destination: What it is about; None for what is about the server or the account.
            membership: Whose messages they are, where it receives some.
        """
        naming = self.telemetry.naming
        contacts_server = operation.kind is not SpanKind.CONSUMER
        attributes = {**(self._peer_attributes if contacts_server else self._attributes), **operation.attributes}
        metric = dict(self.readings.server)
        span_name = operation.name
        attributes[messaging.MESSAGING_OPERATION_NAME] = metric[messaging.MESSAGING_OPERATION_NAME] = operation.name
        if operation.type is not None:
            attributes[messaging.MESSAGING_OPERATION_TYPE] = operation.type
            if operation is not PROCESS:
                metric[messaging.MESSAGING_OPERATION_TYPE] = operation.type
        if destination is not None:
            attributes[messaging.MESSAGING_DESTINATION_NAME] = cut(destination.name)
            if destination.inbox:
                attributes[messaging.MESSAGING_DESTINATION_TEMPORARY] = True
                attributes[messaging.MESSAGING_DESTINATION_ANONYMOUS] = True
            if destination.label is not None:
                span_name = intern(f"{span_name} {cut(destination.label)}")  # each client has one like it
            if destination.template is not None:
                template = cut(destination.template)
                attributes[messaging.MESSAGING_DESTINATION_TEMPLATE] = template
                metric[messaging.MESSAGING_DESTINATION_TEMPLATE] = template
            elif destination.label is not None:
                metric[messaging.MESSAGING_DESTINATION_NAME] = cut(destination.label)
        if membership is not None:
            if membership.group:
                group = cut(membership.group)
                attributes[messaging.MESSAGING_CONSUMER_GROUP_NAME] = group
                add_name(metric, messaging.MESSAGING_CONSUMER_GROUP_NAME, naming.group(group))
            if membership.consumer:
                consumer = naming.consumer(cut(membership.consumer))
                add_name(metric, messaging.MESSAGING_DESTINATION_SUBSCRIPTION_NAME, consumer)
            if membership.attributes:
                attributes.update(membership.attributes)
        prototype = Prototype(
            self.telemetry,
            operation,
            span_name,
            attributes,
            self.readings.series(operation.counter, metric),
            self.room,
            self.readings.processing,
        )
        if destination is not None and destination.subject:
            prototype.excluded = naming.excluded(destination.name)
            prototype.carries_context = naming.carries_context(destination.name)
        elif membership is not None:
            prototype.excluded = membership.excluded
        if naming.asks and not prototype.excluded and (destination is None or not destination.bucket):
            # A bucket is asked about by its keys.
            prototype.asked = "" if destination is None else destination.name
        if operation is PROCESS and not prototype.excluded and not naming.asks:
            self.readings.processes.add(prototype.series)
        return prototype
