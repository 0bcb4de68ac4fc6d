# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The connection that events come by: nats-py, used as it is, for as long as the program runs."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import ssl
from logging import getLogger
from typing import Any

from nats.aio.client import Client
from nats.errors import SlowConsumerError

from opentelemetry.instrumentation.nats.server_trace._arguments import Arguments
from opentelemetry.instrumentation.nats.server_trace._health import Health
from opentelemetry.instrumentation.nats.server_trace._reasons import SLOW_CONSUMER

_logger = getLogger(__package__)

_RECONNECT_WAIT = 1
"""Seconds between two attempts at one server."""

_PING_INTERVAL = 20
"""Seconds: a server that vanished without a word is missed after two of them."""

_CANCEL_INTERVAL = 0.05

_MOST_LOGGED = 100
"""Kinds of errors that are logged, once each: the text of one may have anything in it."""


class Connection:
    """A client that never gives up on its servers.

    Args:
        arguments: Where to connect to, and as whom.
        health: Where messages are counted that came too fast.

    Attributes:
        client: The client of nats-py.
        closed: Is done when the client has closed for good, by itself or by `close`.
        denied: What the server does not allow this program to subscribe to, in its words.
    """

    def __init__(self, arguments: Arguments, health: Health) -> None:
        self.client = Client()
        self.closed = asyncio.Event()
        self.denied: str | None = None
        self._arguments = arguments
        self._health = health
        self._logged: set[str] = set()

    @property
    def address(self) -> str:
        """Host and port of the server, without what else its URL may have in it."""
        url = self.client.connected_url
        return f"{url.hostname}:{url.port}" if url else "no server"

    async def connect(self, stop: asyncio.Event) -> bool:
        """Connects; tries for as long as it takes, or until it is told to stop.

        Args:
            stop: Set when it is time.

        Returns:
            Whether it is connected.

        Raises:
            OSError: A file with keys can't be read.
            ValueError: What is in it is no key, or this nats-py can't do what the command line asks for.
            ImportError: Signing needs the package nkeys.
        """
        connecting = asyncio.ensure_future(self.client.connect(self._arguments.server, **self._options()))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((connecting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not connecting.done():
            while not connecting.done():  # nats-py's clean-up after a failed attempt swallows a cancellation
                connecting.cancel()
                await asyncio.wait((connecting,), timeout=_CANCEL_INTERVAL)
            return False
        connecting.result()
        self._logged.clear()
        return True

    async def close(self) -> None:
        """Closes the connection, once all is written."""
        with contextlib.suppress(AssertionError):  # old releases insist that there was one
            await self.client.close()

    def _options(self) -> dict[str, Any]:
        arguments = self._arguments
        if arguments.tls_first and "tls_handshake_first" not in inspect.signature(Client.connect).parameters:
            raise ValueError("--tls-first needs nats-py 2.6 or newer")
        options: dict[str, Any] = {
            "name": arguments.name,
            "user": arguments.user,
            "password": arguments.password,
            "token": arguments.token,
            "user_credentials": arguments.creds,
            "nkeys_seed": arguments.nkey,
            "tls": _tls(arguments),
            "tls_hostname": arguments.tls_hostname,
            "tls_handshake_first": arguments.tls_first,
        }
        # An option that old releases of nats-py do not know is only passed where it is asked for.
        return {name: value for name, value in options.items() if value} | {
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": _RECONNECT_WAIT,
            "ping_interval": _PING_INTERVAL,
            "error_cb": self._on_error,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
        }

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, SlowConsumerError):
            self._health.skip(SLOW_CONSUMER)
            return
        text = str(error) or type(error).__name__
        if "permissions violation for subscription" in text.lower():
            self.denied = text
            self.closed.set()
            return
        if text not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(text)
            _logger.warning("connection: %s", text)

    async def _on_reconnected(self) -> None:
        self._logged.clear()
        _logger.info("reconnected to %s", self.address)

    async def _on_closed(self) -> None:
        self.closed.set()


def _tls(arguments: Arguments) -> ssl.SSLContext | None:
    if not (arguments.tls_ca or arguments.tls_cert or arguments.tls_hostname or arguments.tls_first):
        return None  # nats-py makes one of its own for a URL that begins with tls://
    context = ssl.create_default_context(cafile=arguments.tls_ca)
    if arguments.tls_cert:
        context.load_cert_chain(arguments.tls_cert, arguments.tls_key)
    return context
