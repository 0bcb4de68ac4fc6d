# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.js.client`: publish, and what becomes of an asynchronous one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._abandoning import end_of_client
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._operations import PUBLISH
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._keeping import connection_of, prototype_of
from opentelemetry.instrumentation.nats._patches._replacing import Row, Rows
from opentelemetry.instrumentation.nats._patches._running import running, sending
from opentelemetry.instrumentation.nats._providers import exception_of
from opentelemetry.instrumentation.nats._sending import Send, unrecorded
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry
from opentelemetry.instrumentation.nats._unacked import CLOSED, Sends, watch
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging

_Client = _nats.find_class("nats.aio.client", "Client")
_Context = _nats.find_class("nats.js.client", "JetStreamContext")

_PENDING = "_opentelemetry_pending"
"""The attribute of a client that keeps the operations of `publish_async` by the reply subject of their ack."""


def _start_publish(
    telemetry: Telemetry,
    js: Any,
    context: Context,
    /,
    subject: Any,
    payload: Any = b"",
    timeout: Any = None,
    stream: Any = None,
    headers: Any = None,
    *_: object,
    **__: object,
) -> Call:
    """Starts the operation of `publish` or `publish_async`, see `Start`."""
    if not isinstance(subject, str):
        return Call()
    prototype = prototype_of(telemetry, _nats.client_of_context(js), PUBLISH, subject)
    if prototype.excluded:
        return unrecorded(prototype, context, headers)
    send = Send.start(prototype, prototype.attributes.copy(), context, headers, payload)
    if headers and hasattr(headers, "get") and names.header(headers, names.MESSAGE_ID_HEADER) is not None:
        send.has_id = True
    return send


def _publish_answer(ack: Any, send: Send) -> None:
    if not send.span.is_recording():
        return
    attributes: Attributes = {names.JETSTREAM_STREAM: ack.stream, names.JETSTREAM_SEQUENCE: ack.seq}
    if not send.has_id:
        attributes[messaging.MESSAGING_MESSAGE_ID] = f"{ack.stream}:{ack.seq}"
    if ack.duplicate:
        attributes[names.JETSTREAM_DUPLICATE] = True
    if ack.domain:
        attributes[names.JETSTREAM_DOMAIN] = ack.domain
    send.span.set_attributes(attributes)


def _sent_asynchronously(send: Send, _: Failure | None, js: Any, future: Any) -> None:
    """The send goes on until the future is done."""
    try:
        client = _nats.client_of_context(js)
        # Where nats-py does not tell the client, a refusal and the client's end are not noticed.
        pending = _Pending({}) if client is None else client.__dict__.get(_PENDING)
        if pending is None:
            pending = client.__dict__[_PENDING] = _Pending(watch(client))
        _Publishing(pending, send.reply, future, send)
    except FAULTS:
        _faults.report("waiting for an asynchronous publish")
        send.finish(None)


class _Pending(dict[str, "_Publishing"]):
    """The asynchronous publishes of a client that wait, by the reply subject of their ack.

    Args:
        sends: Their sends, which end when the client is let go.
    """

    __slots__ = ("sends",)

    def __init__(self, sends: Sends) -> None:
        super().__init__()
        self.sends = sends


class _Publishing:
    """An asynchronous publish that waits for its ack."""

    __slots__ = ("_pending", "_reply", "future", "send")

    def __init__(self, pending: _Pending, reply: str, future: asyncio.Future[Any], send: Send) -> None:
        self._pending = pending
        self._reply = reply
        self.future = future
        self.send = send
        pending[reply] = self
        pending.sends[reply] = send
        future.add_done_callback(self.done)

    def done(self, future: asyncio.Future[Any]) -> None:
        """Ends the send with the future: acked, refused, or cancelled by the user."""
        if not self._is_over():
            return
        if future.cancelled():
            self.send.finish(None)
            return
        error = exception_of(future)
        if error is None:
            try:
                _publish_answer(future.result(), self.send)
            except FAULTS:
                _faults.report("reading an ack")
        self.send.finish(error)

    def fail(self, error: BaseException | Failure) -> None:
        """Ends the send though nats-py leaves the future undone."""
        if self._is_over():
            self.future.remove_done_callback(self.done)
            self.send.finish(error)

    def _is_over(self) -> bool:
        """Forgets the publish; tells whether it waited until now."""
        self._pending.pop(self._reply, None)
        return self._pending.sends.pop(self._reply, None) is not None


def _make_handle_async_reply(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def _handle_async_reply(self: object, *args: object, **kwargs: object) -> None:
        """Up to 2.16 nats-py raises a refusal here instead of giving it to the future."""
        try:
            await original(self, *args, **kwargs)
        except Exception as error:
            try:
                message = args[0] if args else kwargs.get("msg")
                pending = _pending_of(_nats.client_of_context(self))
                waiting = pending.get(getattr(message, "subject", ""))
                if waiting is not None and not waiting.future.done():
                    waiting.fail(error)
            except FAULTS:
                _faults.report("reading an ack")
            raise

    return _handle_async_reply


def _make_close(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def _close(self: _nats.Client, *args: object, **kwargs: object) -> Any:
        """Ends what waits for the client.

        Acks that have not come when it closes never come, and nats-py never finishes their futures.
        """
        try:
            return await original(self, *args, **kwargs)
        finally:
            try:
                if self.is_closed:
                    for waiting in list(_pending_of(self).values()):
                        waiting.fail(CLOSED)
                    end_of_client(connection_of(telemetry, self))
            except FAULTS:
                _faults.report("closing a client")

    return _close


def _pending_of(client: Any) -> dict[str, _Publishing]:
    return getattr(client, "__dict__", {}).get(_PENDING, {})


ROWS: Rows = [
    Row(_Context, "publish", sending(_start_publish, _publish_answer)),
    Row(
        _Context,
        "publish_async",
        running(_start_publish, succeeded=_sent_asynchronously),
        optional=True,
    ),
    Row(_Context, "_handle_async_reply", _make_handle_async_reply, optional=True),
    Row(_Client, "_close", _make_close),
]
