# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Threads, forks, the instrumentation switched under traffic, and a long run."""

from __future__ import annotations

import os

from faults.harness import check_same, run_on_server

ROUNDS = "FAULTS_ROUNDS"
"""Environment variable: how long the long run is. 1,000 rounds take about ten seconds."""


async def test_eight_threads():
    parameters = {"threads": 8, "messages": 40}
    await check_same("threads", lambda mode: run_on_server("threads", mode, parameters))


async def test_forks():
    parameters = {"forks": 3, "messages": 20}
    await check_same("forks", lambda mode: run_on_server("forking", mode, parameters))


async def test_200_times_off_and_on_under_traffic(seed: int):
    parameters = {"times": 200, "seed": seed}
    await check_same("switched under traffic", lambda mode: run_on_server("switching", mode, parameters))


async def test_a_long_run():
    parameters = {"rounds": int(os.environ.get(ROUNDS, "4000"))}
    await check_same("soak", lambda mode: run_on_server("soaking", mode, parameters))
