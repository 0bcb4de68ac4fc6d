# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Publishing without nats-py: what sends the messages must cost the measured process nothing."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit


class Sender:
    """A connection that publishes bytes prepared before.

    Args:
        url: The server.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port), 10)
        self._socket.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
        self._incoming = self._socket.makefile("rb")

    def send(self, frames: bytes) -> None:
        """Sends prepared messages; returns when the server has read them all."""
        self._socket.sendall(frames + b"PING\r\n")
        while (line := self._incoming.readline()) != b"PONG\r\n":
            if line == b"PING\r\n":
                self._socket.sendall(b"PONG\r\n")
            elif not line.startswith((b"INFO", b"PONG")):
                raise RuntimeError(f"unexpected answer of the server: {line!r}")

    def close(self) -> None:
        self._incoming.close()
        self._socket.close()


def frames(
    subject: str, payload: bytes, count: int, *, reply: str = "", headers: bool = True, sampled: int = 1
) -> bytes:
    """Makes messages as their publishers' instrumentation sends them, each in a trace of its own.

    Args:
        subject: Their subject; `{number}` in it is which of them it is.
        payload: Their payload.
        count: How many.
        reply: Their reply subject, if they have one.
        headers: Whether they have trace headers.
        sampled: One in so many of their publishers' spans was sampled; 0 for none.
    """
    subject = f"{subject} {reply}".rstrip()
    if not headers:
        return (f"PUB {subject} {len(payload)}\r\n".encode() + payload + b"\r\n") * count
    made: list[bytes] = []
    for number in range(count):
        context = traceparent(number, sampled > 0 and number % sampled == 0)
        block = f"NATS/1.0\r\ntraceparent: {context}\r\n\r\n".encode()
        to = subject.format(number=number)
        made.append(f"HPUB {to} {len(block)} {len(block) + len(payload)}\r\n".encode() + block + payload + b"\r\n")
    return b"".join(made)


def traceparent(number: int, sampled: bool = True) -> str:
    """Makes the header of the `number`th publisher."""
    return f"00-{0xA1B2C3D4E5F60718293A4B5C6D7E8F00 + number:032x}-{0x1A2B3C4D5E6F7000 + number:016x}-0{int(sampled)}"
