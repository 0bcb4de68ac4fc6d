# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What tests of core NATS share: whole attribute sets, and a program's usual small pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from opentelemetry import baggage, context
from support.server import NatsServer
from support.spans import connection_attributes

Connect = Callable[..., Awaitable[Client]]
ServerFactory = Callable[..., NatsServer]
Unique = Callable[[str], str]


def send_attributes(nc: Client, operation: str, subject: str, size: int, **more: Any) -> dict[str, Any]:
    """All attributes of a publish or request, `more` of them as `template="..."` or by their whole name."""
    return _attributes(nc, operation, "send", subject, size, more)


def receive_attributes(nc: Client, subject: str, size: int, **more: Any) -> dict[str, Any]:
    """All attributes of a `next_msg`."""
    return _attributes(nc, "receive", "receive", subject, size, more)


def process_attributes(nc: Client, subject: str, size: int, **more: Any) -> dict[str, Any]:
    """All attributes of a handler call or loop body, which does not contact the server."""
    return _attributes(nc, "process", "process", subject, size, more, peer=False)


def reply_attributes(nc: Client, inbox: str, size: int, **more: Any) -> dict[str, Any]:
    """All attributes of an answer."""
    return _attributes(nc, "reply", "send", inbox, size, {**more, "conversation": inbox}) | ANONYMOUS


ANONYMOUS = {"messaging.destination.temporary": True, "messaging.destination.anonymous": True}

_SHORT = {
    "template": "messaging.destination.template",
    "conversation": "messaging.message.conversation_id",
    "group": "messaging.consumer.group.name",
    "answer": "messaging.nats.response.body.size",
    "error": "error.type",
    "id": "messaging.message.id",
}


def _attributes(
    nc: Client, operation: str, type_: str, subject: str, size: int, more: dict[str, Any], *, peer: bool = True
) -> dict[str, Any]:
    return {
        **connection_attributes(nc, peer=peer),
        "messaging.operation.name": operation,
        "messaging.operation.type": type_,
        "messaging.destination.name": subject,
        "messaging.message.body.size": size,
        **{_SHORT.get(name, name): value for name, value in more.items()},
    }


class Inbox:
    """A callback that keeps the messages: `await nc.subscribe(subject, cb=inbox.take)`."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Msg] = asyncio.Queue()

    async def take(self, msg: Msg) -> None:
        self.messages.put_nowait(msg)

    async def next(self) -> Msg:
        """Waits for the next message."""
        return await asyncio.wait_for(self.messages.get(), 5)


async def echo(msg: Msg) -> None:
    """Answers with what was asked."""
    await msg.respond(msg.data)


@contextmanager
def carrying(items: Mapping[str, Any]) -> Iterator[None]:
    """Makes baggage current."""
    current = context.get_current()
    for key, value in items.items():
        current = baggage.set_baggage(key, value, current)
    token = context.attach(current)
    try:
        yield
    finally:
        context.detach(token)
