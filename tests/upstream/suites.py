# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Whose tests can be run, and what they need."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Suite:
    """The tests of a project that uses nats-py, or is it.

    Attributes:
        name: The project's package.
        variable: The environment variable that names a checkout of the project's repository.
        arguments: What pytest is given, relative to the checkout.
        paths: What is imported from besides packages, relative to the checkout.
        serves: Whether the tests want a server at nats-py's default address; nats-py's own start theirs.
    """

    name: str
    variable: str
    arguments: tuple[str, ...]
    paths: tuple[str, ...] = ()
    serves: bool = True

    def checkout(self) -> Path | None:
        """Where the checkout is; None where the environment names none."""
        named = os.environ.get(self.variable)
        return Path(named).absolute() if named else None

    def version(self) -> str:
        """The tag that the checkout is at, which is what is imported; where it has none, the installed package's."""
        command = ["git", "-C", str(self.checkout()), "describe", "--tags"]
        described = subprocess.run(command, capture_output=True, text=True, check=False)
        return described.stdout.strip() or version(self.name)

    def expected(self) -> dict[str, str]:
        """The tests that no instrumentation can pass while it adds headers, each with what it asserts."""
        file = Path(__file__).parent / "differing" / f"{self.name}.txt"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


SUITES = {
    suite.name: suite
    for suite in (
        # Until 2.11 its tests were not below `nats`.
        Suite("nats-py", "NATS_PY_CHECKOUT", ("nats/tests",), ("nats", "."), serves=False),
        Suite("faststream", "FASTSTREAM_CHECKOUT", ("tests", "-m", "nats"), (".",)),
        Suite("taskiq-nats", "TASKIQ_NATS_CHECKOUT", ("tests",)),
    )
}
