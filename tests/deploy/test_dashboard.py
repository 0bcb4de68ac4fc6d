# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Each panel of the dashboard over the example's data, in a real Prometheus."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from dashboard import lines, panels, shop_under_prometheus

from support.prometheus import Prometheus

PANELS = [panel for panel in panels() if panel["type"] != "row"]
SECONDS = 15


@pytest.fixture(scope="module")
def prometheus() -> Iterator[tuple[Prometheus, float, float]]:
    """A Prometheus that has seen the example lose its server, and the time from when to when."""
    with shop_under_prometheus() as (running, server):
        running.wait_for("rate(nats_jetstream_redeliveries_total[10s]) > 0")
        start = time.time()
        server.stop()
        running.wait_for('nats_client_connections{nats_client_connection_state="reconnecting"} > 0')
        server.start()
        running.wait_for("nats_client_reconnects_total > 0")
        running.wait_for(f"vector(time() - {start}) > {SECONDS}")
        yield running, start, time.time()


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_shows_data(panel: dict[str, Any], prometheus: tuple[Prometheus, float, float]):
    running, start, end = prometheus
    names: list[str] = []
    for target in panel["targets"]:
        found = lines(running, target, start, end, step=1)
        values = [value for line in found for _, value in line.points if not math.isnan(value)]
        assert values and max(values) > 0, target["expr"]
        assert min(values) >= 0, target["expr"]
        if is_share(panel):
            assert max(values) <= 1, target["expr"]
        names += [line.name for line in found]
    assert len(names) == len(set(names)), "two lines of one name"
    assert all(names)


def is_share(panel: dict[str, Any]) -> bool:
    return panel["fieldConfig"]["defaults"].get("unit") == "percentunit"
