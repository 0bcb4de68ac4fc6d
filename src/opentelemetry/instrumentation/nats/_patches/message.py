# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.aio.msg`: answers and acknowledgements."""

from __future__ import annotations

from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call
from opentelemetry.instrumentation.nats._delivering import bound_parent
from opentelemetry.instrumentation.nats._holding import delivery_of
from opentelemetry.instrumentation.nats._messages import settlement_attributes
from opentelemetry.instrumentation.nats._observing import Observed
from opentelemetry.instrumentation.nats._operations import Operation
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._keeping import connection_of
from opentelemetry.instrumentation.nats._patches._replacing import Row, Rows
from opentelemetry.instrumentation.nats._patches._running import observing, sending
from opentelemetry.instrumentation.nats._processing import Delivery
from opentelemetry.instrumentation.nats._sending import Send, unrecorded
from opentelemetry.instrumentation.nats._subjects import SERVICE_PREFIX
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry

_Msg = _nats.find_class("nats.aio.msg", "Msg")

_ACK = Operation.settle("ack")
_SETTLE = {
    "ack": _ACK,
    "ack_sync": _ACK,
    **{name: Operation.settle(name) for name in ("nak", "term", "in_progress")},
}

_FINAL = frozenset({"ack", "nak", "term"})
"""Those after which nothing more is to come."""


def _start_respond(
    telemetry: Telemetry, message: Any, context: Context, /, data: Any = None, *_: object, **__: object
) -> Call:
    # The headers are an echo of those received: whatever context is in them, nobody chose it.
    return start_reply(telemetry, message, context, data, None)


def start_reply(
    telemetry: Telemetry,
    message: Any,
    context: Context,
    data: Any,
    headers: Any,
    attributes: Attributes | None = None,
) -> Call:
    """Starts the operation of what answers a message, see `Start`.

    Args:
        telemetry: The telemetry.
        message: The message that is answered; None where nats-py does not tell.
        context: The current context.
        data: The answer's payload.
        headers: The answer's headers, as far as the caller chose them.
        attributes: What the span has besides.
    """
    if message is None or not message.reply or message.subject.startswith(SERVICE_PREFIX):
        return Call()
    client = _nats.client_of_message(message)
    if not client:
        return Call()
    prototype = connection_of(telemetry, client).reply_prototype(message.reply, message.subject)
    parent = bound_parent(message, context)
    if prototype.excluded:
        return unrecorded(prototype, parent)
    all_attributes = prototype.attributes.copy()
    if prototype.shared:
        prototype.add_subject(all_attributes, message.reply)
    if attributes:
        all_attributes.update(attributes)
    return Send.start(prototype, all_attributes, parent, headers, data)


def _start_settle(
    operation: Operation,
    telemetry: Telemetry,
    message: Any,
    context: Context,
    /,
    *args: object,
    **kwargs: object,
) -> Call:
    delivery = delivery_of(message)
    if delivery is not None and delivery.settled:
        delivery.settled = False
        return Call()
    origin = None if delivery is None else delivery.origin
    if origin is not None:
        prototype = origin.prototype(operation, message.subject)
    else:
        prototype = connection_of(telemetry, _nats.client_of_message(message)).prototype(operation, message.subject)
    if prototype.excluded:
        return Call() if delivery is None else _Untold(delivery, operation.name)
    call = Settlement(bound_parent(message, context), prototype)
    call.delivery = delivery
    if not call.is_dropped():
        settlement_attributes(telemetry, call.attributes, message, None if delivery is None else delivery.ack)
    return call


def _start_nak(
    telemetry: Telemetry, message: Any, context: Context, /, delay: object = None, *_: object, **__: object
) -> Call:
    call = _start_settle(_SETTLE["nak"], telemetry, message, context)
    if delay and isinstance(delay, (int, float)) and isinstance(call, Settlement):
        call.attributes[names.JETSTREAM_NAK_DELAY] = float(delay)
    return call


class Settlement(Observed):
    """An acknowledgement of any kind.

    Attributes:
        delivery: What we know of the message, if anything.
    """

    delivery: Delivery | None = None

    def succeed(self, failure: BaseException | Failure | None, instance: Any = None, result: Any = None) -> None:
        """Ends it, and the processing of its message, if that waits for nothing else."""
        self.end(failure)
        if failure is None and self.delivery is not None:
            _settle(self.delivery, self.prototype.operation.name)


class _Untold(Call):
    """An acknowledgement that is not traced; what it is of may be."""

    recorded = True

    def __init__(self, delivery: Delivery, name: str) -> None:
        super().__init__()
        self._delivery = delivery
        self._name = name

    def fail(self, error: BaseException) -> None:
        """Leaves the message unsettled."""

    def succeed(self, failure: BaseException | Failure | None, instance: Any = None, result: Any = None) -> None:
        """Ends the processing of its message, if that waits for nothing else."""
        _settle(self._delivery, self._name)


def _settle(delivery: Delivery, name: str) -> None:
    if name in _FINAL:
        delivery.settle(name)


ROWS: Rows = [
    Row(_Msg, "respond", sending(_start_respond)),
    *(
        Row(_Msg, name, observing(_start_nak if name == "nak" else partial(_start_settle, operation)))
        for name, operation in _SETTLE.items()
    ),
]
