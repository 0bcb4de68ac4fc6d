# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A pytest plugin that runs nats-py's own tests instrumented: `tox -e upstream`, see docs/design.md.

A test also fails when the instrumentation has had a fault in it, or has left a span open. The tests in `deselect.txt`
are left out where trace headers are injected.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from opentelemetry.propagate import get_global_textmap
from support.faults import Faults, raise_faults
from support.telemetry import Telemetry

CHECKOUT = "NATS_PY_CHECKOUT"


def pytest_configure() -> None:
    checkout = Path(os.environ.get(CHECKOUT) or "").absolute()
    if not os.environ.get(CHECKOUT) or not checkout.is_dir():
        raise pytest.UsageError(f"{CHECKOUT} has to be the path of a checkout of nats-py's repository")
    # The tests import `tests.utils`; until 2.11 they were not below `nats`. Servers' configurations name certificates
    # relative to the checkout.
    sys.path[:0] = [str(checkout / "nats"), str(checkout)]
    os.chdir(checkout)
    os.environ.setdefault("NATS_SERVER_VERSION", "main")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not get_global_textmap().fields:
        return
    lines = Path(__file__).with_name("deselect.txt").read_text().splitlines()
    names = {line.split()[0] for line in lines if line and not line.startswith("#")}
    deselected = [item for item in items if f"{item.path.name}::{item.nodeid.partition('::')[2]}" in names]
    items[:] = [item for item in items if item not in deselected]
    config.hook.pytest_deselected(items=deselected)


@pytest.fixture(scope="session", autouse=True)
def _faults() -> Iterator[Faults]:
    with raise_faults() as faults:
        yield faults


@pytest.fixture(scope="session", autouse=True)
def _telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    telemetry.instrument()
    yield telemetry
    telemetry.uninstrument()
    telemetry.shutdown()


@pytest.fixture(autouse=True)
def _complete(_telemetry: Telemetry, _faults: Faults) -> Iterator[None]:
    _telemetry.clear()
    with _faults.none():
        yield
        _telemetry.metrics()
    if _telemetry.counter.open:
        gc.collect()  # a loop that was left ends its last body when it is collected
    assert not _telemetry.counter.open, f"spans that never ended: {[span.name for span in _telemetry.counter.open]}"
