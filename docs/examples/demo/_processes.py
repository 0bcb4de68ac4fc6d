# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The demo's child processes: found, started, waited for and stopped, whatever happens in between."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


class DemoError(Exception):
    """Something that the demo needs does not work; the message is for the user."""


def find(program: str) -> str | None:
    """Path of a program beside this Python (a virtual environment that is not activated) or on PATH."""
    return shutil.which(program, path=Path(sys.executable).parent) or shutil.which(program)


class Child:
    """A child process that writes its output into a file.

    Args:
        name: what the user knows it as.
        command: program and arguments.
        folder: where the process runs and its output is kept.
        env: its environment; this process's own when None.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.folder = folder
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C would otherwise reach all children at once, and with nats-server gone none could end well.
                start_new_session=True,
            )

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until(self, look: Callable[[Child], T | None]) -> T:
        """Waits until `look` finds something.

        Returns:
            What it found.

        Raises:
            DemoError: the process ended first, or `START_TIMEOUT` seconds have passed.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while (found := look(self)) is None:
            if (code := self.process.poll()) is not None:
                raise DemoError(f"{self.name} ended at its start with exit code {code}:\n{self.output()}")
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name} was not ready after {START_TIMEOUT:.0f} s:\n{self.output()}")
            time.sleep(0.02)
        return found

    def stop(self) -> None:
        """Asks the process to end, and kills it when it has not after `STOP_TIMEOUT` seconds.

        Raises:
            DemoError: the process failed or had to be killed, so that spans may be missing.
        """
        self.process.terminate()
        try:
            code = self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DemoError(f"{self.name} did not stop in {STOP_TIMEOUT:.0f} s:\n{self.output()}") from None
        if code != 0:
            raise DemoError(f"{self.name} failed with exit code {code}:\n{self.output()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def start_nats_server(binary: str, folder: Path, *options: str) -> Child:
    """Starts a server with JetStream on a free loopback port, all its files in `folder`."""
    command = [binary, "--addr", "127.0.0.1", "--port", "-1", "--jetstream", "--store_dir", str(folder / "jetstream")]
    return Child("nats-server", [*command, "--ports_file_dir", str(folder), *options], folder)


def nats_url(server: Child) -> str | None:
    """The URL of a server of `start_nats_server`; None until it listens."""
    for ports in server.folder.glob(f"*_{server.process.pid}.ports"):
        try:
            return json.loads(ports.read_text())["nats"][0]
        except ValueError:  # half written
            return None
    return None


def ready_line(service: Child) -> str | None:
    """The line in which a service says that it is ready; None until it does."""
    lines = service.output().splitlines(keepends=True)
    return next((line.strip() for line in lines if line.startswith("ready") and line.endswith("\n")), None)
