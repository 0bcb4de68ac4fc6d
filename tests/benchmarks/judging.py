# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The targets, and when one counts as missed.

The whole measurement is repeated. Each repeat gives a target one value, out of the medians of its rounds. If the true
value were just at the limit, a repeat would be beyond it every second time: all of `REPEATS` are beyond it by chance
in one case out of 32. So a target is missed when it is missed in every repeat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import median

from core_rows import Burst, CallbackWithoutHeaders, Publish
from measuring import Cycle, Measurement
from row import Row
from variants import (
    BARE,
    METRICS,
    METRICS_FLOOR,
    NO_SDK,
    RECORDING,
    RECORDING_FLOOR,
    SAMPLED_OUT,
    SAMPLED_OUT_FLOOR,
    Variant,
)

REPEATS = 5

_MISSED = "MISSED"
_UNKNOWN = "too noisy to tell"

SMOKE_FACTOR = 3
"""A short run says little; beyond this many times its limit, a value says something all the same."""


def cpu(cycles: Sequence[Cycle], variant: Variant) -> float:
    """Median time of the event loop's thread, in us per operation."""
    return median(cycle[variant].cpu for cycle in cycles) / 1000


def added(cycles: Sequence[Cycle], variant: Variant) -> float:
    """Median of what a variant adds to the round without instrumentation in the same cycle, in us per operation."""
    return median(cycle[variant].cpu - cycle[BARE].cpu for cycle in cycles) / 1000


def added_ratio(cycles: Sequence[Cycle], variant: Variant, floor: Variant) -> float:
    """What a variant adds, over what its floor adds; not a number where noise has swallowed the floor."""
    least = added(cycles, floor)
    return added(cycles, variant) / least if least > 0 else nan


def slowdown(cycles: Sequence[Cycle], variant: Variant, floor: Variant) -> float:
    """Time that passes in a variant over the time that passes in its floor: the inverse of their throughputs."""
    return median(cycle[variant].wall for cycle in cycles) / median(cycle[floor].wall for cycle in cycles)


@dataclass(frozen=True)
class Judgement:
    """One target on one row.

    Attributes:
        row: The row's name.
        variant: The variant.
        what: What is compared, with its unit.
        limit: The highest value that is good; the lowest if `higher_is_better`.
        values: One value for each repeat.
        higher_is_better: Whether the limit is one from below.
    """

    row: str
    variant: Variant
    what: str
    limit: float
    values: tuple[float, ...]
    higher_is_better: bool = False

    @property
    def value(self) -> float:
        """The median of the repeats."""
        return median(self.values)

    @property
    def verdict(self) -> str:
        if any(map(isnan, self.values)):
            return _UNKNOWN
        if not self._beyond(self.value):
            return "met"
        return _MISSED if all(map(self._beyond, self.values)) else "not met, within noise"

    @property
    def missed(self) -> bool:
        return self.verdict in (_MISSED, _UNKNOWN)

    @property
    def grossly_missed(self) -> bool:
        """Whether even a short run can tell."""
        return self._beyond(self.value * SMOKE_FACTOR if self.higher_is_better else self.value / SMOKE_FACTOR)

    def _beyond(self, value: float) -> bool:
        return value < self.limit if self.higher_is_better else value > self.limit


def judge(row: type[Row], measurement: Measurement) -> Iterator[Judgement]:
    """Judges all targets of a row.

    Args:
        row: The row.
        measurement: Its cycles, one sequence for each repeat.
    """
    name = row.name

    def ratio(variant: Variant, floor: Variant, limit: float) -> Judgement:
        values = tuple(added_ratio(cycles, variant, floor) for cycles in measurement)
        return Judgement(name, variant, "added time / floor's", limit, values)

    def microseconds(variant: Variant, limit: float) -> Judgement:
        return Judgement(name, variant, "added us", limit, tuple(added(cycles, variant) for cycles in measurement))

    if row is Burst:
        values = tuple(1 / slowdown(cycles, METRICS, METRICS_FLOOR) for cycles in measurement)
        yield Judgement(name, METRICS, "throughput / floor's", 0.8, values, higher_is_better=True)
        return
    yield ratio(METRICS, METRICS_FLOOR, 1.20)
    yield ratio(RECORDING, RECORDING_FLOOR, 1.15)
    if row is Publish:
        yield ratio(SAMPLED_OUT, SAMPLED_OUT_FLOOR, 1.25)
        yield microseconds(NO_SDK, 1.0)
    if row is CallbackWithoutHeaders:
        yield microseconds(NO_SDK, 1.5)
