# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The seed of everything random, and the figures of all runs at the end."""

from __future__ import annotations

import os
import random

import pytest

from faults.harness import COLUMNS, SHOWN

SEED = "FAULTS_SEED"
"""Environment variable: a seed to run again with; without it each session has its own."""


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault(SEED, str(random.SystemRandom().randrange(2**32)))


def pytest_report_header() -> str:
    return f"{SEED}={os.environ[SEED]}"


@pytest.fixture
def seed() -> int:
    """What a test's random decisions come from."""
    return int(os.environ[SEED])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SHOWN:
        terminalreporter.section(f"figures, {SEED}={os.environ[SEED]}")
        for row in (COLUMNS, ["---"] * len(COLUMNS), *SHOWN):
            terminalreporter.write_line(f"| {' | '.join(row)} |")
