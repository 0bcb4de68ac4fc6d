# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs a program bare, instrumented, with all options on and with propagation only, each in a process, and compares.

What instrumented runs do must be something that bare runs do as well. Where a program's outcome is a matter of chance
(which of two things comes first), bare runs are repeated until one of them has done the same; so a difference that is
the instrumentation's is always found, and one of chance does not fail a test.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import Any

from faults.child import ALL, BARE, MODES, ON, PROPAGATION
from faults.normal import frames
from faults.world import SIGN
from support.proxy import Proxy
from support.server import NatsServer

TIMEOUT = 600.0
"""Seconds before a program is killed: many, it only ends a run that hangs."""

ATTEMPTS = 6
"""How many bare runs may be needed until one has done what an instrumented one did."""

INSTRUMENTED = (ON, ALL, PROPAGATION)

SERVER_NAME = "faults"


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        mode: How it ran.
        result: What the program returned.
        errors: What its `error_cb` was told, by kind.
        report: What the instrumentation did meanwhile; None of a bare run.
        stderr: What it wrote there.
        figures: How much this run was, and what was lost: not compared.
        sent: What it sent, for each connection, where a proxy recorded it.
    """

    mode: str
    result: Any
    errors: dict[str, int]
    report: dict[str, Any] | None
    stderr: str
    figures: dict[str, Any] = field(default_factory=dict)
    sent: list[bytes] = field(default_factory=list)


class Child:
    """A program that runs.

    Args:
        process: Its process.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._lines: list[str] = []
        self._figures: dict[str, Any] = {}
        self._stderr = bytearray()
        self._readers = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._read_errors())]

    async def said(self, kind: str) -> dict[str, Any]:
        """Waits until the program has said something of a kind; what it said before that is dropped.

        Raises:
            AssertionError: It ended before.
        """
        while True:
            message = await asyncio.wait_for(self._said.get(), TIMEOUT)
            assert message is not None, f"the program ended before it said {kind}\n{self.output}"
            if message["kind"] == kind:
                return message

    def tell(self, kind: str) -> None:
        """Tells the program something that it waits for."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind}\n".encode())

    @property
    def output(self) -> str:
        """What it has written, for a failure."""
        errors = self._stderr.decode(errors="replace")
        # Where a program fails its loop may end in the midst of anything, of which Python tells at length.
        shown = errors if len(errors) < 8000 else f"{errors[:6000]}\n...\n{errors[-2000:]}"
        return "\n".join([*self._lines[-20:], shown])

    async def ended(self, mode: str) -> Outcome:
        """Waits for its end.

        Raises:
            AssertionError: It failed, or did not end.
        """
        _, running = await asyncio.wait(self._readers, timeout=TIMEOUT)
        assert not running, f"the {mode} run did not end within {TIMEOUT} s\n{self.output}"
        await self._process.wait()
        assert self._process.returncode == 0, f"the {mode} run failed\n{self.output}"
        last = json.loads(self._lines[-1])
        stderr = self._stderr.decode(errors="replace")
        return Outcome(mode, last["result"], last["errors"], last["report"], stderr, self._figures)

    async def stop(self) -> None:
        """Kills it if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode().rstrip("\n")
            if text.startswith(SIGN):
                said = json.loads(text.removeprefix(SIGN))
                if said["kind"] == "figures":
                    self._figures |= said
                else:
                    self._said.put_nowait(said)
            else:
                self._lines.append(text)
        self._said.put_nowait(None)

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(65536):
            self._stderr += data


@asynccontextmanager
async def started(
    program: str, mode: str, parameters: Mapping[str, Any], env: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """Starts a program; kills it at the end of the block if it still runs.

    Args:
        program: Its module in `programs`.
        mode: One of `MODES`.
        parameters: What the program is given.
        env: Variables for it, over those of this process.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), inherited.get("PYTHONPATH"))))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "faults.child", program, mode, json.dumps(parameters)),
        env={**inherited, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(env or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**27,
    )
    child = Child(process)
    try:
        yield child
    finally:
        await child.stop()


Run = Callable[[str], Awaitable[Outcome]]
"""Runs a program in the mode given."""


async def run_plainly(program: str, mode: str, parameters: Mapping[str, Any], **more: Any) -> Outcome:
    """Runs a program to its end, with nothing done to it."""
    async with started(program, mode, parameters, **more) as child:
        return await child.ended(mode)


async def run_on_server(
    program: str, mode: str, parameters: Mapping[str, Any], config: str = "", *, records: bool = False
) -> Outcome:
    """Runs a program on a server of its own.

    Args:
        program: Its module.
        mode: One of `MODES`.
        parameters: What it is given besides the server's `url`, and `admin`, the same without a proxy.
        config: The server's configuration.
        records: Whether a proxy records what it sends.
    """
    async with serving(config) as server:
        if not records:
            return await run_plainly(program, mode, {"url": server.url, "admin": server.url, **parameters})
        async with Proxy(server.url) as proxy:
            outcome = await run_plainly(program, mode, {"url": proxy.url, "admin": server.url, **parameters})
        outcome.sent = [bytes(each) for each in proxy.sent]
        return outcome


@asynccontextmanager
async def serving(config: str = "", **options: Any) -> AsyncIterator[NatsServer]:
    """A server of a run's own."""
    # Answers of JetStream name the server.
    server = NatsServer(f"server_name: {SERVER_NAME}\n{config}", **options)
    try:
        await asyncio.to_thread(server.start)
        yield server
    finally:
        await asyncio.to_thread(server.close)


async def run_modes(run: Run) -> dict[str, Outcome]:
    """Runs a program in all modes, two at a time: there is a core for each."""
    gate = asyncio.Semaphore(2)

    async def one(mode: str) -> Outcome:
        async with gate:
            return await run(mode)

    tasks = [asyncio.ensure_future(one(mode)) for mode in MODES]
    try:
        return dict(zip(MODES, await asyncio.gather(*tasks), strict=True))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


Parts = Callable[[Outcome], Mapping[str, Any]]
"""Takes an outcome apart into what is compared, each by a name."""


def results_and_frames(outcome: Outcome) -> Mapping[str, Any]:
    """That, and the frames of each connection in their order."""
    wire = {f"connection {number}": list(frames(sent)) for number, sent in enumerate(outcome.sent)}
    return {**result_parts(outcome), **wire, "errors": outcome.errors}


def result_parts(outcome: Outcome) -> Mapping[str, Any]:
    """What the program returned, compared entry by entry."""
    return outcome.result if isinstance(outcome.result, Mapping) else {"result": outcome.result}


SHOWN: list[list[str]] = []
"""The figures of each run, to be shown at the end: see `COLUMNS`."""

COLUMNS = ("scenario", "run", "load", "faults", "lost", "doubled", "open spans", "contexts left", "secrets found")


def _show(scenario: str, outcome: Outcome) -> None:
    report = outcome.report or {}
    counts = ["-" if outcome.report is None else str(len(report[name])) for name in ("open spans", "contexts left")]
    secrets = str(len(report["secrets"])) if report else "-"
    told = [str(outcome.figures.get(name, "-")) for name in ("load", "faults", "lost", "doubled")]
    SHOWN.append([scenario, outcome.mode, *told, *counts, secrets])


async def check_same(scenario: str | None, run: Run, parts: Parts = result_parts) -> dict[str, Outcome]:
    """Runs a program in all modes and compares, see the module.

    Args:
        scenario: What it is, for the figures; None for none.
        run: Runs it.
        parts: Takes an outcome apart.

    Returns:
        The outcome of each mode, of the first runs.

    Raises:
        AssertionError: An instrumented run did what no bare one did; or the instrumentation left something behind.
    """
    outcomes = await run_modes(run)
    for outcome in outcomes.values():
        if scenario is not None:
            _show(scenario, outcome)
    for mode in INSTRUMENTED:
        check_report(outcomes[mode])
    seen: dict[str, list[Any]] = {name: [part] for name, part in parts(outcomes[BARE]).items()}
    for attempt in range(ATTEMPTS):
        differences = _differences(outcomes, parts, seen)
        if not differences or attempt == ATTEMPTS - 1:
            break
        for name, part in parts(await run(BARE)).items():
            seen.setdefault(name, []).append(part)
    assert not differences, "\n".join([f"not as bare, in {ATTEMPTS} bare runs:", *differences])
    return outcomes


def _differences(outcomes: Mapping[str, Outcome], parts: Parts, seen: Mapping[str, list[Any]]) -> list[str]:
    differences: list[str] = []
    for mode in INSTRUMENTED:
        these = parts(outcomes[mode])
        for name in sorted({*these, *seen}):
            part = these.get(name, "nothing")
            if part not in seen.get(name, []):
                bare = json.dumps(seen.get(name, ["nothing"])[-1], indent=1)
                differences.append(f"{mode}, {name}:\n{_lines(json.dumps(part, indent=1), bare)}")
    return differences


def _lines(actual: str, expected: str) -> str:
    lines = list(unified_diff(expected.splitlines(), actual.splitlines(), "bare", "instrumented", lineterm="", n=2))
    return "\n".join(lines[:60])


def check_report(outcome: Outcome) -> None:
    """Checks that the instrumentation left nothing behind, and had no fault.

    Raises:
        AssertionError: It did, or had.
    """
    report = outcome.report
    assert report is not None
    wrong = {name: found for name, found in report.items() if name != "spans" and found}
    assert not wrong, f"{outcome.mode}: {json.dumps(wrong, indent=1)}\n{outcome.stderr[-4000:]}"
