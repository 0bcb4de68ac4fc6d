# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What spans an event makes: one for the server, and under it one for each step.

A function of the event alone: no clock, no memory. So two programs that read the same event make the same spans.
"""

from __future__ import annotations

from typing import NamedTuple

from opentelemetry.instrumentation.nats._attributes import JETSTREAM_DUPLICATE, JETSTREAM_STREAM, SYSTEM, Attributes
from opentelemetry.instrumentation.nats.server_trace import _attributes as names_of
from opentelemetry.instrumentation.nats.server_trace._errors import meaning
from opentelemetry.instrumentation.nats.server_trace._events import (
    CLIENT,
    EGRESS,
    EXPORT,
    GATEWAY,
    IMPORT,
    LEAFNODE,
    MAPPING,
    ROUTE,
    STORE,
    Event,
    Step,
)
from opentelemetry.instrumentation.nats.server_trace._ids import (
    hop_span_id,
    message_key,
    server_span_id,
    step_span_id,
)
from opentelemetry.instrumentation.nats.server_trace._names import Destination, Names
from opentelemetry.semconv._incubating.attributes.messaging_attributes import (
    MESSAGING_CLIENT_ID,
    MESSAGING_CONSUMER_GROUP_NAME,
    MESSAGING_DESTINATION_ANONYMOUS,
    MESSAGING_DESTINATION_NAME,
    MESSAGING_DESTINATION_TEMPLATE,
    MESSAGING_DESTINATION_TEMPORARY,
    MESSAGING_MESSAGE_ENVELOPE_SIZE,
    MESSAGING_OPERATION_NAME,
    MESSAGING_SYSTEM,
)
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

_OPERATIONS = {MAPPING: "map", EXPORT: "export", IMPORT: "import"}
_CONNECTIONS = {ROUTE: "route", GATEWAY: "gateway", LEAFNODE: "leafnode"}


class SpanRecord(NamedTuple):
    """A span that is over, before any SDK has seen it.

    Attributes:
        name: Its name.
        span_id: Its id.
        parent_id: Its parent's id.
        start: When it began, in nanoseconds since the epoch.
        end: When it ended.
        attributes: All its attributes.
        error: The server's words for what went wrong; None where nothing did.
    """

    name: str
    span_id: int
    parent_id: int
    start: int
    end: int
    attributes: Attributes
    error: str | None


def make_spans(event: Event, names: Names) -> list[SpanRecord]:
    """Makes the spans of an event.

    Args:
        event: The event.
        names: The templates of subjects.

    Returns:
        The server's own span, then those of its steps, which are its children.
    """
    message = message_key(event.trace_id, event.parent_id)
    ingress = event.ingress
    destination = names.destination(ingress.subject or "")
    span_id = server_span_id(message, event.server.id, event.sequence)
    if event.hop is None:
        # Also where another server sent it: that one does not trace this account.
        parent_id = event.parent_id
    else:
        parent_id = hop_span_id(message, event.hop, destination.inbox)
    attributes = _attributes("ingress", destination, ingress, ingress.account)
    if event.size is not None:
        attributes[MESSAGING_MESSAGE_ENVELOPE_SIZE] = event.size
    if event.hop is not None:
        attributes[names_of.HOP] = event.hop
    if event.surplus_steps:
        attributes[names_of.STEPS_DROPPED] = event.surplus_steps
    spans = [_record("ingress", destination.label, span_id, parent_id, ingress.time, event.last, attributes, ingress)]
    _add_steps(spans, event, names, message, span_id)
    return spans


def _add_steps(spans: list[SpanRecord], event: Event, names: Names, message: bytes, server_span: int) -> None:
    way = _Way(event.ingress.account, event.ingress.subject or "", names)
    time = event.ingress.time
    for step in event.steps:
        destination, account = way.follow(step)
        if step.type == STORE:
            operation, label = "store", names.stream(step.stream or "")
        else:
            operation = _OPERATIONS.get(step.type) or _CONNECTIONS.get(step.kind or CLIENT, "deliver")
            label = destination.label
        if step.hop is not None:
            span_id = hop_span_id(message, step.hop, destination.inbox)
        else:
            span_id = step_span_id(server_span, step.place)
        attributes = _attributes(operation, destination, step, account)
        start = min(time, step.time)
        spans.append(_record(operation, label, span_id, server_span, start, step.time, attributes, step))
        if step.type != STORE:  # its time is taken before it stores, and is an old one where it refuses early
            time = step.time


class _Way:
    """Where a message is on its way through one server: its account and its subject there, which steps do not repeat.

    Args:
        account: The account of its publisher.
        subject: Its subject as it came in.
        names: The templates of subjects.
    """

    def __init__(self, account: str | None, subject: str, names: Names) -> None:
        self._names = names
        self._home = (account, subject)
        self._imported: tuple[str | None, str] = (None, "")  # where an export or import led to last
        self._crossing = self._home  # on the way to other servers
        self._just_imported = False

    def follow(self, step: Step) -> tuple[Destination, str | None]:
        """Goes one step on; returns where that step takes the message to, and in which account."""
        just_imported, self._just_imported = self._just_imported, step.type in (EXPORT, IMPORT)
        if step.type == EGRESS:
            if step.hop is not None:
                account, subject = self._crossing
                return self._names.destination(subject), account
            # It says its account only where that is not the publisher's.
            elsewhere = step.account is not None and step.account == self._imported[0]
            account, subject = self._imported if elsewhere else self._home
            return self._names.delivered(subject, step.subscription or ""), step.account or account
        if step.type == STORE:
            account, subject = self._imported if just_imported else self._home
            return self._names.destination(step.subject or subject), account
        target = step.subject or ""
        if step.type == MAPPING:
            self._home = self._crossing = here = (self._home[0], target)
        else:
            self._imported = here = (step.account, target)
            if step.type == IMPORT:
                self._crossing = here
        return self._names.destination(target), here[0]


def _attributes(operation: str, destination: Destination, step: Step, account: str | None) -> Attributes:
    attributes: Attributes = {
        MESSAGING_SYSTEM: SYSTEM,
        MESSAGING_OPERATION_NAME: operation,
        MESSAGING_DESTINATION_NAME: destination.name,
    }
    if destination.inbox:
        attributes[MESSAGING_DESTINATION_TEMPORARY] = True
        attributes[MESSAGING_DESTINATION_ANONYMOUS] = True
    elif destination.template is not None:
        attributes[MESSAGING_DESTINATION_TEMPLATE] = destination.template
    if account is not None:
        attributes[names_of.ACCOUNT] = account
    if step.kind is not None:
        attributes[names_of.CONNECTION_KIND] = names_of.CONNECTION_KINDS.get(step.kind, "unknown")
        if step.kind == CLIENT and step.client_id is not None:
            attributes[MESSAGING_CLIENT_ID] = str(step.client_id)
    if step.name is not None:
        attributes[names_of.CONNECTION_NAME] = step.name
    if step.queue is not None:
        attributes[MESSAGING_CONSUMER_GROUP_NAME] = step.queue
    if step.stream is not None:
        attributes[JETSTREAM_STREAM] = step.stream
    if step.hop is not None:
        attributes[names_of.HOP] = step.hop
    if step.no_interest:
        attributes[names_of.OUTCOME] = "no_interest"
    return attributes


def _record(
    operation: str,
    label: str | None,
    span_id: int,
    parent_id: int,
    start: int,
    end: int,
    attributes: Attributes,
    step: Step,
) -> SpanRecord:
    error = step.error
    if error is not None:
        error_type, outcome = meaning(error)
        if error_type is not None:
            attributes[ERROR_TYPE] = error_type
        else:
            error = None
            if outcome == "duplicate":
                attributes[JETSTREAM_DUPLICATE] = True
            elif outcome is not None:
                attributes[names_of.OUTCOME] = outcome
    return SpanRecord(f"{operation} {label}" if label else operation, span_id, parent_id, start, end, attributes, error)
