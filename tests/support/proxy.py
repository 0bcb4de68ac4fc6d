# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A proxy between a client and a real server, for what no server lets a client send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
