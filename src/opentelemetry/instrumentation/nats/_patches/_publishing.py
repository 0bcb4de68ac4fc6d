# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`Client.publish`, which everything outgoing passes: the program's own messages, and what nats-py publishes inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from opentelemetry.instrumentation.nats import _faults, _subjects
from opentelemetry.instrumentation.nats._calls import Call, current_call, own_mark
from opentelemetry.instrumentation.nats._contexts import handled_reply, ordinary, unended
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._headers import chosen
from opentelemetry.instrumentation.nats._patches._keeping import connection_of
from opentelemetry.instrumentation.nats._providers import get_current, suppressed
from opentelemetry.instrumentation.nats._sending import Send, inject
from opentelemetry.instrumentation.nats._telemetry import Telemetry
from opentelemetry.instrumentation.nats._texts import cut
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging


# Python itself finds the arguments, by position or keyword, as nats-py does.
def _publish_arguments(
    subject: Any, payload: Any = b"", reply: Any = "", headers: Any = None, *rest: object, **more: object
) -> tuple[Any, Any, Any, Any, tuple[Any, ...], dict[str, Any]]:
    return subject, payload, reply, headers, rest, more


def _are_arguments(*args: object, **kwargs: object) -> bool:
    """Tells whether nats-py takes these arguments too, so that a `TypeError` is ours."""
    try:
        len(_publish_arguments(*args, **kwargs)[1])
    except Exception:
        return False
    return True


def _not_prepared(error: BaseException, *args: object, **kwargs: object) -> None:
    """Reports why a message could not be prepared; where nats-py takes no such arguments either, it will say so."""
    if not isinstance(error, TypeError) or _are_arguments(*args, **kwargs):
        _faults.report("preparing a message")


def make_publish(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    """Makes what runs instead of `Client.publish`, see `Make`."""
    inner = _inner_publish(telemetry, original)
    carry = _carrying_publish(telemetry, original)

    async def publish(self: object, *args: object, **kwargs: object) -> Any:
        if not telemetry.listening and telemetry.idle():
            if telemetry.enabled and get_current():
                return await carry(self, *args, **kwargs)
            return await original(self, *args, **kwargs)
        call = own_mark().call
        if call is not None:
            return await (
                inner(call, self, *args, **kwargs) if call.follows == "publish" else original(self, *args, **kwargs)
            )
        context = get_current()
        plain = ordinary(context)
        if not plain and suppressed(context):
            return await original(self, *args, **kwargs)
        send = None
        try:
            if not plain:
                context = unended(context)
            subject, payload, reply, headers, rest, more = _publish_arguments(*args, **kwargs)
            if isinstance(subject, str) and isinstance(reply, str):
                size = len(payload)
                connection = connection_of(telemetry, self)
                if not plain and handled_reply(context) == subject:
                    prototype = connection.reply_prototype(subject)
                else:
                    prototype = connection.publish_prototype(subject)
                carries = prototype.carries_context
                if not prototype.excluded:
                    attributes = prototype.attributes.copy()
                    if prototype.shared:
                        prototype.add_subject(attributes, subject)
                    if reply:
                        attributes[messaging.MESSAGING_MESSAGE_CONVERSATION_ID] = cut(reply)
                    send = Send.start(prototype, attributes, context, headers, payload)
                    context = send.context
                    carries = send.injects
                elif carries and headers:
                    carries = chosen(headers, context) is None
                if carries:
                    headers = inject(connection.room, context, size, headers, subject, reply)
                if send is not None and telemetry.options.publish_hook is not None:
                    send.show(subject, reply, headers, size)
                args, kwargs = (subject, payload, reply, headers, *rest), more
        except FAULTS as error:
            _not_prepared(error, *args, **kwargs)
        if send is None:
            return await original(self, *args, **kwargs)
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            send.finish(error)
            raise
        send.finish(None)
        return result

    return publish


def _carrying_publish(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    """Makes what publishes where there is no SDK: there are no spans, but a trace that others record passes through."""
    carries_context = telemetry.naming.carries_context if telemetry.naming.withholds else _subjects.carries_context

    @wraps(original)  # its name is in Python's own complaint about arguments that it can't tell apart
    def publish(
        self: object,
        subject: Any,
        payload: Any = b"",
        reply: Any = "",
        headers: Any = None,
        *rest: object,
        **more: object,
    ) -> Any:
        try:
            # The subject first: most of what a worker publishes are acknowledgements.
            if isinstance(subject, str) and isinstance(reply, str) and carries_context(subject):
                size = len(payload)
                context = get_current()
                plain = ordinary(context)
                if (plain or not suppressed(context)) and current_call() is None:
                    if not plain:
                        context = unended(context)
                    if not headers or chosen(headers, context) is None:
                        headers = inject(connection_of(telemetry, self).room, context, size, headers, subject, reply)
        except FAULTS as error:
            _not_prepared(error, subject, payload)
        return original(self, subject, payload, reply, headers, *rest, **more)

    return publish


def _inner_publish(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    withholds = telemetry.naming.withholds
    shows = telemetry.options.publish_hook is not None

    def publish(
        call: Call,
        self: object,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: Any = None,
        *rest: object,
        **more: object,
    ) -> Any:
        """Publishes what one of nats-py's own methods publishes in the course of a user's call."""
        context = call.context
        if context is not None:
            try:
                call.reply = reply
                if not subject.startswith(call.api_prefix):
                    size = len(payload)
                    # Of a bucket's messages only the user's own patterns tell one subject from another.
                    if call.injects and (not withholds or telemetry.naming.carries_context(subject)):
                        prototype = call.prototype
                        room = connection_of(telemetry, self).room if prototype is None else prototype.room
                        headers = inject(room, context, size, headers, subject, reply)
                    if shows and isinstance(call, Send) and not call.shown:
                        call.shown = True
                        call.show(subject, reply, headers, size)
            except FAULTS as error:
                _not_prepared(error, subject, payload)
        return original(self, subject, payload, reply, headers, *rest, **more)

    return publish
