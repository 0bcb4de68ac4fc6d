# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Under load, while a server is killed, a cluster loses its leaders, or the network is bad: nothing lost or doubled."""

from __future__ import annotations

from faults.breaking import run_on_bad_network, run_on_cluster, run_with_kills
from faults.child import ON
from faults.harness import Outcome, check_same


def check_spans(outcome: Outcome) -> None:
    """Checks that what was delivered was processed once, each time."""
    assert outcome.report is not None
    assert outcome.report["spans"]["process"] == outcome.figures["deliveries"]


async def test_three_kills_of_the_server():
    outcomes = await check_same("server killed", lambda mode: run_with_kills("load", mode, {"messages": 6000}, kills=3))
    check_spans(outcomes[ON])


async def test_leader_of_a_stream_lost_twice():
    parameters = {"messages": 3000, "replicas": 3}
    outcomes = await check_same("leader lost", lambda mode: run_on_cluster("load", mode, parameters, "load", losses=2))
    check_spans(outcomes[ON])


async def test_network_that_cuts_stalls_and_throttles(seed: int):
    outcomes = await check_same(
        "bad network", lambda mode: run_on_bad_network("load", mode, {"messages": 4000}, seed, rounds=3)
    )
    check_spans(outcomes[ON])
