# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Rotel, a real OTLP collector from PyPI, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

START_TIMEOUT = 15.0
STOP_TIMEOUT = 10.0


class Rotel:
    """A collector that hands on what it gets; a context manager.

    Args:
        endpoint: The base URL of the backend that it exports to, by HTTP.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._folder = tempfile.TemporaryDirectory(prefix="rotel-")
        ports = _free_ports(2)
        self.grpc, self.http = (f"http://127.0.0.1:{port}" for port in ports)
        """Where it takes OTLP by gRPC, and by HTTP."""

    def __enter__(self) -> Rotel:
        rotel = pytest.importorskip("rotel", reason="the extra `deploy` brings rotel, where it has a wheel")
        command = [
            str(Path(rotel.__file__).with_name("rotel-agent")),
            *("start", "--otlp-grpc-endpoint", self.grpc.removeprefix("http://")),
            *("--otlp-http-endpoint", self.http.removeprefix("http://")),
            *("--exporter", "otlp", "--otlp-exporter-protocol", "http"),
            *("--otlp-exporter-endpoint", self._endpoint, "--otlp-exporter-compression", "gzip"),
            *("--batch-timeout", "100ms"),
        ]
        self._log = Path(self._folder.name, "log")
        with self._log.open("wb") as log:
            env = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "ROTEL_"))}
            self._process = subprocess.Popen(
                command, cwd=self._folder.name, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not (_listens(self.grpc) and _listens(self.http)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self.log
                self.__exit__()
                raise AssertionError(f"rotel did not start\n{log}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _listens(url: str) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) == 0
