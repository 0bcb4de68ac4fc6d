# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs the tests of other projects with nats-py as it is, instrumented, and instrumented with headers; compares.

    NATS_PY_CHECKOUT=/path/of/nats.py python tests/upstream nats-py [arguments for pytest]

What passes as it is, and does not instrumented, is run again alone in both ways: only what then passes as it is, and
never instrumented, counts as differing. Ends with one row of the table in docs/reliability, and with exit code 1 if a
test differs that `differing/` does not list.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.server import HOST, START_TIMEOUT, find_server  # noqa: E402
from support.waiting import wait  # noqa: E402
from upstream.plugin import INSTRUMENTED, OUTCOMES, PATHS  # noqa: E402
from upstream.suites import SUITES, Suite  # noqa: E402

AGAIN = 3
"""How often a test is run again before it counts as differing."""

MODES = {
    "off": {INSTRUMENTED: "0"},
    "on": {INSTRUMENTED: "1", "OTEL_PROPAGATORS": "none"},
    "with headers": {INSTRUMENTED: "1"},
}

PORT = 4222

Outcomes = dict[str, str]


@contextmanager
def serving() -> Iterator[None]:
    """A server at nats-py's default address, with JetStream and monitoring."""
    with tempfile.TemporaryDirectory(prefix="nats-server-") as directory, Path(directory, "log").open("wb") as log:
        command = [find_server(), "-a", HOST, "-p", str(PORT), "-m", "8222", "-js", "-sd", directory]
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait(_accepts, START_TIMEOUT, f"a server at {HOST}:{PORT}")
            yield
        finally:
            server.terminate()
            server.wait()


def _accepts() -> bool:
    try:
        socket.create_connection((HOST, PORT), 1).close()
    except OSError:
        return False
    return True


def run(suite: Suite, checkout: Path, mode: str, arguments: Sequence[str]) -> Outcomes:
    """Runs tests in one way.

    Args:
        suite: Whose tests.
        checkout: Where they are.
        mode: One of `MODES`.
        arguments: What pytest is given.

    Returns:
        What became of each, by its id.
    """
    with tempfile.TemporaryDirectory(prefix="upstream-") as directory:
        file = Path(directory, "outcomes.json")
        env = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        env |= MODES[mode] | {OUTCOMES: str(file), "NATS_SERVER_VERSION": env.get("NATS_SERVER_VERSION", "main")}
        env[PATHS] = os.pathsep.join(str(checkout / path) for path in suite.paths)
        env["PYTHONPATH"] = str(Path(__file__).parents[1])
        ini = Path(__file__).with_name("pytest.ini") if suite.name == "nats-py" else checkout / "pyproject.toml"
        command = [sys.executable, "-m", "pytest", "-c", str(ini), "--rootdir", str(checkout), "-p", "upstream.plugin"]
        # pytest's own tracebacks parse the source, which after one of the tests fails in CPython 3.11.
        command += ["-q", "--tb=native", "-p", "no:cacheprovider", *arguments]
        print(f"\n===== {suite.name} {suite.version()}, {mode}", flush=True)
        with serving() if suite.serves else nullcontext():
            ended = subprocess.run(command, cwd=checkout, env=env, stdin=subprocess.DEVNULL, check=False)
        if ended.returncode not in (0, 1):  # all passed, or some failed
            raise SystemExit(f"pytest could not run the tests: exit code {ended.returncode}")
        return json.loads(file.read_text())


def differing(suite: Suite, checkout: Path, mode: str, off: Outcomes, outcomes: Outcomes) -> tuple[set[str], set[str]]:
    """Finds the tests that differ from a run without us, and those of chance.

    Returns:
        Those that pass without us and never with us; those that sometimes do, or sometimes fail without us.
    """
    suspects = {test for test, outcome in off.items() if outcome == "passed" != outcomes.get(test)}
    certain = set(suspects)
    for _ in range(AGAIN):
        if not certain:
            break
        certain -= {
            test for test, outcome in run(suite, checkout, mode, sorted(certain)).items() if outcome == "passed"
        }
    if certain:
        again = run(suite, checkout, "off", sorted(certain))
        certain = {test for test in certain if again.get(test) == "passed"}
    return certain, suspects - certain


def compare(suite: Suite, arguments: Sequence[str]) -> bool:
    """Runs a suite in all ways, prints its row and what differs.

    Returns:
        Whether only what is listed differs.
    """
    checkout = suite.checkout()
    if checkout is None or not checkout.is_dir():
        print(f"{suite.variable} has to be the path of a checkout of {suite.name}'s repository")
        return False
    chosen = list(arguments) or [*suite.arguments]
    off = run(suite, checkout, "off", chosen)
    listed = suite.expected()
    fine = bool(off)
    cells: list[str] = []
    for mode in ("on", "with headers"):
        certain, chance = differing(suite, checkout, mode, off, run(suite, checkout, mode, chosen))
        known = {test for test in certain if mode == "with headers" and short(test) in listed}
        for test in sorted(certain):
            print(
                f"differs, {mode}: {test}: {listed.get(short(test), 'NOT LISTED') if test in known else 'NOT LISTED'}"
            )
        for test in sorted(chance):
            print(f"by chance, {mode}: {test}")
        fine = fine and certain == known
        cells.append(str(len(certain)))
    passed = sum(outcome == "passed" for outcome in off.values())
    failed = sum(outcome == "failed" for outcome in off.values())
    print(f"\n| {suite.name} | {suite.version()} | {len(off)} | {passed} | {failed} | {' | '.join(cells)} |")
    return fine


def short(test: str) -> str:
    """A test's id as the lists have it: the file without its folders."""
    path, _, name = test.partition("::")
    return f"{path.rpartition('/')[2]}::{name}"


def main() -> int:
    """Runs the suite that the first argument names; the others are pytest's."""
    if len(sys.argv) < 2 or sys.argv[1] not in SUITES:
        print(f"usage: {sys.argv[0]} {'|'.join(SUITES)} [arguments for pytest]")
        return 2
    return 0 if compare(SUITES[sys.argv[1]], sys.argv[2:]) else 1


if __name__ == "__main__":
    sys.exit(main())
