# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A pytest plugin that runs somebody else's tests, with nats-py instrumented or not: see `tests/upstream/__main__.py`.

Instrumented, a test also fails when the instrumentation has had a fault in it, or has left a span open.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

INSTRUMENTED = "UPSTREAM_INSTRUMENTED"
"""Environment variable: whether nats-py is instrumented."""

OUTCOMES = "UPSTREAM_OUTCOMES"
"""Environment variable: the file that the outcome of each test is written to, as JSON by the test's id."""

PATHS = "UPSTREAM_PATHS"
"""Environment variable: what the tests import from, besides the packages that are installed."""

_RANK = ("passed", "skipped", "failed")


def _instrumented() -> bool:
    return os.environ.get(INSTRUMENTED) == "1"


class _Outcomes:
    """What became of each test: the worst of its setup, call and teardown."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome not in _RANK:  # "rerun", by a plugin: another outcome follows
            return
        before = self._outcomes.get(report.nodeid, "passed")
        self._outcomes[report.nodeid] = max(before, report.outcome, key=_RANK.index)

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(json.dumps(self._outcomes, indent=1), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    sys.path[:0] = [path for path in os.environ.get(PATHS, "").split(os.pathsep) if path]
    if file := os.environ.get(OUTCOMES):
        config.pluginmanager.register(_Outcomes(Path(file)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    # One of nats-py's tests starts it and never stops it: every later test would take several times as long.
    tracemalloc.stop()


@pytest.fixture(scope="session", autouse=True)
def _telemetry() -> Iterator[tuple[object, object] | None]:
    if not _instrumented():
        yield None
        return
    # Not at the top: a run that is not instrumented shall have nothing of ours in it.
    from support.faults import raise_faults  # noqa: PLC0415
    from support.telemetry import Telemetry  # noqa: PLC0415

    telemetry = Telemetry()
    with raise_faults() as faults:
        telemetry.instrument()
        yield telemetry, faults
        telemetry.uninstrument()
    telemetry.shutdown()


@pytest.fixture(autouse=True)
def _complete(_telemetry: tuple[object, object] | None) -> Iterator[None]:
    if _telemetry is None:
        yield
        return
    telemetry, faults = _telemetry
    before = set(telemetry.counter.open)
    telemetry.clear()
    with ExitStack() as stack:
        stack.enter_context(faults.none())
        yield
        telemetry.metrics()
    if set(telemetry.counter.open) - before:
        gc.collect()  # a loop that was left ends its last body when it is collected
    left = [span.name for span in telemetry.counter.open if span not in before]
    assert not left, f"spans that never ended: {left}"
