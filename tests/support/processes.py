# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Python programs in real processes, under `opentelemetry-instrument`."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.waiting import eventually

TIMEOUT = 30.0

# On Python 3.12 no thread can be started any more when `logging` ends, and OpenTelemetry's own handler starts one.
_OF_THE_HANDLER = re.compile(
    r"^Exception ignored in atexit callback: <function shutdown at .*?^"
    r"RuntimeError: can't create new thread at interpreter shutdown\n",
    re.M | re.S,
)


def told(stderr: str) -> str:
    """Returns what a program has said on its standard error, without what is said on Python 3.12 in any case."""
    return _OF_THE_HANDLER.sub("", stderr) if sys.version_info[:2] == (3, 12) else stderr


@dataclass(frozen=True)
class Finished:
    """How a program ended.

    Attributes:
        stdout: What it wrote to its standard output.
        stderr: What it wrote to its standard error.
        returncode: Its exit code; minus the signal's number, if a signal ended it.
    """

    stdout: str
    stderr: str
    returncode: int


class Program:
    """A running program; an async context manager that kills what still runs when it is left.

    The program gets this process's environment without its `OTEL_` variables, so that it runs alike everywhere.

    Args:
        text: The program.
        arguments: Its arguments.
        env: Variables for it, over those of this process.
        instrumented: Whether to run it under `opentelemetry-instrument`.
    """

    def __init__(
        self, text: str, *arguments: str, env: Mapping[str, str] | None = None, instrumented: bool = True
    ) -> None:
        self._text = text
        self._arguments = arguments
        self._env = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        # What it does not share with the tests: the other instrumentations and exporters warn, and asyncio's debug mode
        # tells of a slow machine.
        for name in ("PYTHONWARNINGS", "PYTHONASYNCIODEBUG"):
            self._env.pop(name, None)
        self._env |= {"PYTHONUNBUFFERED": "1", **(env or {})}
        self._instrumented = instrumented
        self._stdout = bytearray()
        self._stderr = bytearray()

    @property
    def stdout(self) -> str:
        """What it has written to its standard output so far."""
        return self._stdout.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has written to its standard error so far."""
        return told(self._stderr.decode(errors="replace"))

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    async def __aenter__(self) -> Program:
        self._directory = tempfile.TemporaryDirectory(prefix="program-")
        file = Path(self._directory.name, "program.py")
        file.write_text(self._text, encoding="utf-8")
        command = [sys.executable, str(file), *self._arguments]
        if self._instrumented:
            command.insert(0, _opentelemetry_instrument())
        self._process = await asyncio.create_subprocess_exec(
            *command,
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._readers = [
            asyncio.ensure_future(_read(self._process.stdout, self._stdout)),
            asyncio.ensure_future(_read(self._process.stderr, self._stderr)),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self._directory.cleanup()

    async def wait_for_output(self, text: str, timeout: float = TIMEOUT) -> None:
        """Waits until the program has written `text` to its standard output: that it is ready, for one.

        Args:
            text: What to wait for.
            timeout: Seconds before giving up.

        Raises:
            AssertionError: The program ended before, or the time is up; the message ends with its output.
        """

        def written_or_ended() -> bool:
            return text in self.stdout or all(reader.done() for reader in self._readers)

        try:
            await eventually(written_or_ended, timeout, f"{text!r} in the program's output")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._output()}") from None
        assert text in self.stdout, f"the program ended without writing {text!r}\n{self._output()}"

    def terminate(self) -> None:
        """Asks the program to end, as a container runtime would."""
        self._process.terminate()

    async def wait(self, timeout: float = TIMEOUT) -> Finished:
        """Waits for the program's end.

        Args:
            timeout: Seconds before it is killed.

        Returns:
            How it ended.

        Raises:
            AssertionError: It was killed; the message ends with its output.
        """
        try:
            await asyncio.wait_for(asyncio.gather(self._process.wait(), *self._readers), timeout)
        except asyncio.TimeoutError:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
            raise AssertionError(f"the program had not ended after {timeout} s\n{self._output()}") from None
        assert self._process.returncode is not None
        return Finished(self.stdout, self.stderr, self._process.returncode)

    def _output(self) -> str:
        return f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


async def run(
    text: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    instrumented: bool = True,
) -> Finished:
    """Runs a program to its end.

    Args:
        text: The program.
        arguments: Its arguments.
        env: Variables for it, over those of this process.
        timeout: Seconds before it is killed.
        instrumented: Whether to run it under `opentelemetry-instrument`.

    Returns:
        How it ended.

    Raises:
        AssertionError: It was killed; the message ends with its output.
    """
    async with Program(text, *arguments, env=env, instrumented=instrumented) as program:
        return await program.wait(timeout)


def _opentelemetry_instrument() -> str:
    directory = os.path.dirname(sys.executable)
    found = shutil.which("opentelemetry-instrument", path=directory)
    assert found, f"no opentelemetry-instrument in {directory}; `pip install opentelemetry-instrumentation` brings it"
    return found


async def _read(stream: asyncio.StreamReader | None, into: bytearray) -> None:
    assert stream is not None
    while chunk := await stream.read(65536):
        into += chunk
