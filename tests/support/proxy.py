# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Proxies between a client and a real server: for what no server sends, and for networks that are slow or break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from support.server import HOST


@asynccontextmanager
async def rewriting_proxy(url: str, old: str, new: str) -> AsyncIterator[str]:
    """Runs a proxy that writes `new` for `old` in every line that the server sends.

    Args:
        url: The server's URL.
        old: A text that is in one line.
        new: What the client gets in its place.

    Yields:
        The proxy's URL.
    """
    tasks: list[asyncio.Task[None]] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rewrites: bool) -> None:
        while line := await reader.readline():
            writer.write(line.replace(old.encode(), new.encode()) if rewrites else line)
            await writer.drain()

    async def connected(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(HOST, urlsplit(url).port)
        directions = (relay(from_client, to_server, False), relay(from_server, to_client, True))
        relays = [asyncio.ensure_future(direction) for direction in directions]
        try:
            await asyncio.wait(relays, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in relays:
                task.cancel()
            for writer in (to_client, to_server):
                writer.close()
            await asyncio.gather(*relays, to_client.wait_closed(), to_server.wait_closed(), return_exceptions=True)

    def accept(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(connected(from_client, to_client)))

    proxy = await asyncio.start_server(accept, HOST, 0)
    try:
        yield f"nats://{HOST}:{proxy.sockets[0].getsockname()[1]}"
    finally:
        proxy.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


CHUNK = 65536


class Proxy:
    """A proxy that records what clients send, and can be a bad network; use it as an async context manager.

    Args:
        url: The server's URL. The server need not run.
    """

    def __init__(self, url: str) -> None:
        self._port = urlsplit(url).port
        self._connections: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.url = ""
        """Where clients connect to."""
        self.sent: list[bytearray] = []
        """What clients have sent, for each connection in the order in which they connected."""
        self.throttle = 0
        """How many bytes are passed on at a time; 0 for as many as there are."""
        self.cuts = 0
        """How many connections were cut."""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.url = f"nats://{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._connections)

    def cut(self) -> None:
        """Breaks every connection: what is under way is lost."""
        self.cuts += len(self._connections)
        for connection in self._connections:
            connection.cancel()

    def stall(self) -> None:
        """Passes nothing on, in either direction, until `flow`; connections stay."""
        self._flows.clear()

    def flow(self) -> None:
        """Ends a stall."""
        self._flows.set()

    def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        connection = asyncio.ensure_future(self._connect(from_client, to_client))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        record = bytearray()
        self.sent.append(record)
        writers = [to_client]
        relays: list[asyncio.Future[None]] = []
        broken = True
        # What is cut or refused ends here: to the client it is a broken connection.
        with suppress(OSError, asyncio.CancelledError):
            from_server, to_server = await asyncio.open_connection(HOST, self._port)
            writers.append(to_server)
            for reader, writer, to in ((from_client, to_server, record), (from_server, to_client, None)):
                relays.append(asyncio.ensure_future(self._relay(reader, writer, to)))
            await asyncio.wait(relays, return_when=asyncio.FIRST_COMPLETED)
            broken = False
        for relay in relays:
            relay.cancel()
        for writer in writers:
            if broken:
                writer.transport.abort()
            else:
                writer.close()  # after what is still to be written
        await asyncio.gather(*relays, return_exceptions=True)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray | None
    ) -> None:
        while data := await reader.read(CHUNK):
            if record is not None:
                record += data
            size = self.throttle or len(data)
            for start in range(0, len(data), size):
                await self._flows.wait()
                writer.write(data[start : start + size])
                await writer.drain()
                await asyncio.sleep(0)
