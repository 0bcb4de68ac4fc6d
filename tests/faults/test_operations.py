# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Every method that is replaced: what it returns, raises and sends; and where it can be cancelled."""

from __future__ import annotations

import pytest

from faults.harness import check_same, results_and_frames, run_on_server
from faults.loops import LOOPS
from faults.options import OPTIONS, PROPAGATION_ONLY, known
from faults.recipes import RECIPES
from support.patched import PATCHED

TURNS = 41
"""Turns of the loop at each of which an operation is cancelled: more than an answer of a server nearby takes."""

METHODS = [f"{owner.__qualname__}.{name}" for owner, name in PATCHED]


def test_every_row_has_a_recipe():
    assert set(METHODS) <= set(RECIPES), f"write a recipe in tests/faults/recipes: {set(METHODS) - set(RECIPES)}"


def test_every_option_has_a_value():
    given = {*OPTIONS, *PROPAGATION_ONLY}
    assert known() == given, f"give a value in tests/faults/options.py: {known() ^ given}"


async def test_operations_return_raise_and_send_the_same():
    await check_same(
        "every operation once",
        lambda mode: run_on_server("operations", mode, {"methods": METHODS}, records=True),
        results_and_frames,
    )


class TestCancelling:
    @pytest.mark.parametrize("loop", LOOPS)
    async def test_an_operation_at_any_step_does_the_same(self, loop: str):
        parameters = {"methods": METHODS, "loop": loop, "turns": TURNS}
        outcomes = await check_same(
            f"cancelled at every step, {loop}", lambda mode: run_on_server("cancelling", mode, parameters)
        )
        cancelled = [method for method, outcome in outcomes["bare"].result.items() if "cancelled" in outcome]
        # A call that never waits can't be cancelled: most of those that send without an answer.
        assert len(cancelled) > len(METHODS) / 2
