# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The most of Python's instructions that each row may add, so that nothing gets slower unnoticed.

They are what was counted when this table was made, rounded up: no targets, those are in `judging`. A change that needs
fewer may lower them, one that needs more has to say why: `python tests/benchmarks --limits` prints the table anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from math import ceil
from typing import NamedTuple

from variants import METRICS, MIXED, PROPAGATION, RECORDING, SAMPLED_OUT, SAMPLED_OUT_METRICS, Variant

Ratios = Mapping[Variant, float]
"""The instructions that a variant adds, over those that its floor adds."""

COUNTED_ON = (3, 11)
"""The Python of this table. Others have other instructions, up to a seventh more: there the limits are wider."""

_WIDER = 1 if sys.version_info[:2] == COUNTED_ON else 1.15

COLUMNS = (PROPAGATION, SAMPLED_OUT, SAMPLED_OUT_METRICS, MIXED, RECORDING, METRICS)

# fmt: off
LIMITS: Mapping[str, tuple[float | None, ...]] = {
    "publish": (55, 1.45, 1.00, 1.05, 1.20, 1.20, 1.15),
    "request": (100, 1.55, 1.15, 1.10, 1.25, 1.25, 1.20),
    "callback": (450, 1.00, 1.10, 1.05, 1.10, 1.25, 1.20),
    "callback-plain": (60, 1.25, 1.30, 1.15, 1.35, 1.35, 1.20),
    "iteration": (645, 1.50, 1.25, 1.15, 1.15, 1.35, 1.25),
    "next_msg": (50, None, 1.25, 1.15, 1.20, 1.35, 1.25),
    "micro": (905, 1.25, 1.20, 1.15, 1.15, 1.25, 1.20),
    "js.publish": (145, 1.65, 1.20, 1.10, 1.25, 1.25, 1.20),
    "fetch(100)": (55, None, 1.10, 1.20, 1.20, 1.30, 1.20),
    "fetch(100)+for": (675, 1.55, 0.95, 1.05, 1.10, 1.15, 1.15),
    "worker(100)": (830, 1.80, 1.20, 1.15, 1.15, 1.25, 1.20),
    "kv.put": (195, 1.65, 1.25, 1.15, 1.30, 1.25, 1.20),
    "kv.get": (195, None, 0.85, 0.95, 1.15, 1.25, 1.20),
    "kv.watch": (815, 1.85, 1.30, 1.20, 1.20, 1.35, 1.25),
    "burst": (None, None, None, None, None, None, 1.20),
}
# fmt: on
"""Of each row: the instructions that a message adds without an SDK; then how many times the floor's, in `COLUMNS`."""


class Counted(NamedTuple):
    """What was counted of a row.

    Attributes:
        no_sdk: The instructions that a message adds without an SDK; None where that is not measured.
        ratios: How many times its floor's each variant adds.
    """

    no_sdk: float | None
    ratios: Ratios


def check(row: str, counted: Counted) -> list[str]:
    """Returns which limits a row is beyond, one a line."""
    no_sdk, *ratios = LIMITS[row]
    problems = [
        f"{row}, {variant.name}: {counted.ratios[variant]:.2f} times the floor's instructions, more than {limit:.2f}"
        for variant, limit in zip(COLUMNS, ratios, strict=True)
        if limit is not None and counted.ratios[variant] > limit * _WIDER
    ]
    if counted.no_sdk is not None and no_sdk is not None and counted.no_sdk > no_sdk * _WIDER:
        problems.append(f"{row}, no SDK: {counted.no_sdk:.0f} instructions, more than {no_sdk:.0f}")
    return problems


def table(counted: Mapping[str, Counted]) -> Iterable[str]:
    """Makes the lines of `LIMITS` anew."""
    for row, (no_sdk, ratios) in counted.items():
        cells = ["None" if no_sdk is None else f"{_up(no_sdk, no_sdk / 12, 5):.0f}"]
        ups = {variant: _up(ratio, 0.04, 0.05) for variant, ratio in ratios.items()}
        cells += (f"{ups[variant]:.2f}" if variant in ups else "None" for variant in COLUMNS)
        yield f'    "{row}": ({", ".join(cells)}),'


def _up(value: float, room: float, step: float) -> float:
    """Rounds up; with some room, because a few instructions of what waits depend on when the server answers."""
    return ceil((value + room) / step) * step
