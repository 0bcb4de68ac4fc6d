# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A client that speaks the NATS protocol itself: what other clients send, and what nats-py really sends."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

TIMEOUT = 5.0


@dataclass(frozen=True)
class Frame:
    """A message as the server delivered it.

    Attributes:
        subject: Its subject.
        reply: Its reply subject, or an empty string.
        headers: Its header block, byte for byte; None for a message without one.
        payload: Its payload.
    """

    subject: str
    reply: str
    headers: bytes | None
    payload: bytes

    @property
    def header_lines(self) -> list[str]:
        """The headers as they were written, `name: value` each; none for a message without a header block."""
        return [] if self.headers is None else self.headers.decode().split("\r\n")[1:-2]


class Wire:
    """A connection to a server; use it as an async context manager.

    Args:
        url: The server's URL.
    """

    def __init__(self, url: str) -> None:
        self._host, _, port = url.rpartition("/")[2].rpartition(":")
        self._port = int(port)
        self._frames: asyncio.Queue[Frame] = asyncio.Queue()
        self._pongs: asyncio.Queue[None] = asyncio.Queue()
        self._subscriptions = 0

    async def __aenter__(self) -> Wire:
        self._incoming, self._outgoing = await asyncio.open_connection(self._host, self._port)
        info = json.loads((await self._incoming.readline()).removeprefix(b"INFO "))
        options = {"verbose": False, "headers": info.get("headers", False), "echo": True}
        self._outgoing.write(f"CONNECT {json.dumps(options)}\r\n".encode())
        self._reader = asyncio.ensure_future(self._read())
        await self.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        self._outgoing.close()
        await asyncio.gather(self._reader, self._outgoing.wait_closed(), return_exceptions=True)

    async def flush(self) -> None:
        """Waits until the server has taken in all that was sent."""
        self._outgoing.write(b"PING\r\n")
        await asyncio.wait_for(self._pongs.get(), TIMEOUT)

    async def subscribe(self, *subjects: str) -> None:
        """Subscribes; the server knows when this returns."""
        for subject in subjects:
            self._subscriptions += 1
            self._outgoing.write(f"SUB {subject} {self._subscriptions}\r\n".encode())
        await self.flush()

    async def publish(
        self, subject: str, payload: bytes = b"", *, headers: bytes | None = None, reply: str = ""
    ) -> None:
        """Publishes; the server has the message when this returns.

        Args:
            subject: The subject.
            payload: The payload.
            headers: The lines of the header block, each with its CRLF; None for a message without one.
            reply: The reply subject.
        """
        target = f"{subject} {reply}".strip()
        if headers is None:
            self._outgoing.write(f"PUB {target} {len(payload)}\r\n".encode() + payload + b"\r\n")
        else:
            block = b"NATS/1.0\r\n" + headers + b"\r\n"
            sizes = f"{len(block)} {len(block) + len(payload)}"
            self._outgoing.write(f"HPUB {target} {sizes}\r\n".encode() + block + payload + b"\r\n")
        await self.flush()

    async def send(self, frames: bytes) -> None:
        """Sends protocol text as it is; the server has it when this returns."""
        self._outgoing.write(frames)
        await self.flush()

    async def frame(self) -> Frame:
        """Returns the next message that was delivered.

        Raises:
            asyncio.TimeoutError: None came.
        """
        return await asyncio.wait_for(self._frames.get(), TIMEOUT)

    async def frames(self) -> list[Frame]:
        """Returns what has been delivered by now: of all that the server had before this was called."""
        await self.flush()
        return [self._frames.get_nowait() for _ in range(self._frames.qsize())]

    async def _read(self) -> None:
        while line := await self._incoming.readline():
            verb, *arguments = line.decode().split()
            if verb == "PING":
                self._outgoing.write(b"PONG\r\n")
            elif verb == "PONG":
                self._pongs.put_nowait(None)
            elif verb in ("MSG", "HMSG"):
                sizes = 1 if verb == "MSG" else 2
                subject, _, *reply = arguments[:-sizes]
                numbers = [int(size) for size in arguments[-sizes:]]
                data = (await self._incoming.readexactly(numbers[-1] + len(b"\r\n")))[:-2]
                block = None if verb == "MSG" else data[: numbers[0]]
                self._frames.put_nowait(
                    Frame(subject, reply[0] if reply else "", block, data[numbers[0] :] if block else data)
                )
