# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A program that answers requests: `responder.py URL SUBJECT`. Without nats-py, to be quick and not traced."""

from __future__ import annotations

import socket
import sys
from urllib.parse import urlsplit

ANSWER = b"in stock"


def main(url: str, subject: str) -> None:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port))
    incoming = connection.makefile("rb")
    connection.sendall(f'CONNECT {{"verbose":false,"headers":true}}\r\nSUB {subject} 1\r\nPING\r\n'.encode())
    while line := incoming.readline():
        command, *fields = line.split()
        if command in (b"MSG", b"HMSG"):
            # MSG subject sid [reply] size; HMSG subject sid [reply] header size
            reply = fields[2]
            incoming.read(int(fields[-1]) + len(b"\r\n"))
            connection.sendall(b"PUB %b %d\r\n%b\r\n" % (reply, len(ANSWER), ANSWER))
        elif command == b"PING":
            connection.sendall(b"PONG\r\n")
        elif command == b"PONG":
            print("ready", flush=True)


main(*sys.argv[1:])
