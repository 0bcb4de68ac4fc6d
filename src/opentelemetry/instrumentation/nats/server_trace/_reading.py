# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The two ways in which events come: as messages that are gone when missed, or from a stream that keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from logging import getLogger
from typing import Any, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo
from nats.js.errors import NotFoundError

from opentelemetry.instrumentation.nats._attributes import header, parse_ack_subject
from opentelemetry.instrumentation.nats.server_trace._exporting import Export
from opentelemetry.instrumentation.nats.server_trace._health import Health
from opentelemetry.instrumentation.nats.server_trace._intake import Intake

_logger = getLogger(__package__)

_ENCODING_HEADER = "Content-Encoding"

_MOST_WAITING_MESSAGES = 65536
_MOST_WAITING_BYTES = 64 * 1024 * 1024
"""What may wait in memory while spans are exported; nats-py drops what is beyond, and says so."""

_DRAIN_TIMEOUT = 5.0

_BACKLOG_TIMEOUT = 20.0
"""Seconds that a stop waits for what has arrived: as much as may wait, at the speed of a backend that is well."""

_BATCH = 256
"""Events of a stream that are taken, exported and acknowledged together."""

_FETCH_TIMEOUT = 1.0
"""Seconds. nats-py's `fetch` swallows cancellation: a stop waits for its end."""

_ACK_WAIT = 60.0
"""Seconds until a consumer of ours delivers again: longer than an export that times out takes."""

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


class ReadError(Exception):
    """Events can't be read from where the command line says; the message is for the user."""


class Subjects:
    """Events as the servers publish them.

    Args:
        client: The connected client.
        subjects: The destinations.
        queue: A queue group, or an empty string.
        intake: What takes the events.
    """

    def __init__(self, client: Client, subjects: Sequence[str], queue: str, intake: Intake) -> None:
        self._client: Any = client  # the types of nats-py's own methods are known in part only
        self._subjects = subjects
        self._queue = queue
        self._intake = intake
        self._subscriptions: list[Subscription] = []

    async def open(self) -> str:
        """Subscribes; returns what from, for the log."""
        for subject in self._subjects:
            subscription: Subscription = await self._client.subscribe(
                subject,
                self._queue,
                cb=self._take,
                pending_msgs_limit=_MOST_WAITING_MESSAGES,
                pending_bytes_limit=_MOST_WAITING_BYTES,
            )
            self._subscriptions.append(subscription)
        await self._client.flush()
        return ", ".join(self._subjects)

    async def read(self, stop: asyncio.Event) -> None:
        """Reads until it is told to stop, and then what has arrived.

        Args:
            stop: Set when it is time.
        """
        await stop.wait()
        if self._client.is_connected:  # without a connection nothing more arrives
            try:
                drains = [subscription.drain() for subscription in self._subscriptions]
                await asyncio.wait_for(asyncio.gather(*drains), _DRAIN_TIMEOUT)
            except (Error, OSError, asyncio.TimeoutError) as error:
                _logger.debug("drain: %r", error)
        deadline = asyncio.get_running_loop().time() + _BACKLOG_TIMEOUT
        while left := sum(subscription.pending_msgs for subscription in self._subscriptions):
            if asyncio.get_running_loop().time() > deadline:
                _logger.warning("%d events that had arrived were not exported in time", left)
                return
            await asyncio.sleep(0.01)

    async def _take(self, msg: Msg) -> None:
        await self._intake.take(msg.data, header(msg.headers, _ENCODING_HEADER))


class Stream:
    """Events from a stream, acknowledged when their spans have been exported.

    Args:
        client: The connected client.
        stream: The stream's name.
        consumer: Name of a durable pull consumer; it is created if there is none.
        domain: JetStream domain of the stream.
        intake: What takes the events.
        export: Tells whether spans got out.
        health: Where the number of waiting events goes.
    """

    def __init__(
        self,
        client: Client,
        stream: str,
        consumer: str,
        domain: str | None,
        intake: Intake,
        export: Export,
        health: Health,
    ) -> None:
        # The types of nats-py's own methods are known in part only.
        self._js: Any = cast("Any", client).jetstream(**({"domain": domain} if domain else {}))
        self._stream = stream
        self._consumer = consumer
        self._intake = intake
        self._export = export
        self._health = health
        self._subscription: Any = None
        self._pause = 0.0

    async def open(self) -> str:
        """Finds or makes the consumer; returns what it reads, for the log.

        Raises:
            ReadError: There is no such stream, or the consumer is of another kind.
        """
        name = f"consumer {self._consumer} of stream {self._stream}"
        try:
            config = await self._find_or_make()
            if config.deliver_subject:
                raise ReadError(f"{name} is a push consumer; --durable needs a pull consumer")
            if config.ack_policy not in (AckPolicy.EXPLICIT, AckPolicy.EXPLICIT.value):
                raise ReadError(f"{name} does not acknowledge explicitly; --durable needs that")
            self._subscription = await self._js.pull_subscribe_bind(self._consumer, self._stream)
        except (Error, asyncio.TimeoutError) as error:
            raise ReadError(f"{name}: {error}") from error
        return name

    async def read(self, stop: asyncio.Event) -> None:
        """Reads until it is told to stop.

        Args:
            stop: Set when it is time.
        """
        while not stop.is_set():
            try:
                messages: list[Msg] = await self._subscription.fetch(_BATCH, timeout=_FETCH_TIMEOUT)
            except asyncio.TimeoutError:
                continue
            except Error as error:  # no connection, no leader: that passes
                _logger.debug("fetch: %r", error)
                await _sleep(_FIRST_PAUSE, stop)
                continue
            await self._take(messages)
            if self._pause:
                await _sleep(self._pause, stop)

    async def _take(self, messages: Sequence[Msg]) -> None:
        for msg in messages:
            delivery = parse_ack_subject(msg.reply)
            if delivery is not None:
                self._health.pending = delivery.pending
            await self._intake.take(
                msg.data, header(msg.headers, _ENCODING_HEADER), None if delivery is None else delivery.timestamp
            )
        await self._export.flush()
        exported, self._export.failed = not self._export.failed, False
        if exported:
            self._pause = 0.0
        else:
            self._intake.forget()
            self._pause = min(self._pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
            _logger.warning("%d events could not be exported; they come again", len(messages))
        try:
            for msg in messages:
                await (msg.ack() if exported else msg.nak(delay=self._pause))
        except Error as error:  # what is not acknowledged comes again, and makes the same spans
            _logger.debug("acknowledge: %r", error)

    async def _find_or_make(self) -> ConsumerConfig:
        try:
            info: ConsumerInfo = await self._js.consumer_info(self._stream, self._consumer)
        except NotFoundError:
            config = ConsumerConfig(
                durable_name=self._consumer,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=_ACK_WAIT,
                max_ack_pending=4 * _BATCH,
            )
            info = await self._js.add_consumer(self._stream, config)
            _logger.info("created consumer %s of stream %s", self._consumer, self._stream)
        return info.config


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except asyncio.TimeoutError:
        pass
