# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the rounds say, the targets, and when one counts as missed.

A variant is compared with what ran in the same cycle, within less than a second. The machine may be half as fast in the
next cycle, but not often within one, and the median of all cycles does not hear of those in which it was.

The whole measurement is repeated. Each repeat gives a target one value, out of the medians of its rounds. If the true
value were just at the limit, a repeat would be beyond it every second time: all of `REPEATS` are beyond it by chance
in one case out of 32. So a target is missed when it is missed in every repeat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median

from core_rows import Burst, Callback, CallbackWithoutHeaders, Publish
from measuring import Cycle, Measurement
from row import Row
from variants import (
    BARE,
    METRICS,
    METRICS_FLOOR,
    NO_SDK,
    NO_SDK_FLOOR,
    RECORDING,
    RECORDING_FLOOR,
    SAMPLED_OUT,
    SAMPLED_OUT_FLOOR,
    SAMPLED_OUT_METRICS,
    SAMPLED_OUT_METRICS_FLOOR,
    Variant,
)

REPEATS = 5

_MISSED = "MISSED"

_GROSS = 2
"""A short run says little; what takes so many times as long as it may says something all the same."""


def cpu(cycles: Sequence[Cycle], variant: Variant) -> float:
    """Median time of the event loop's thread, in us per operation."""
    return median(cycle[variant].cpu for cycle in cycles) / 1000


def relative(cycles: Sequence[Cycle], variant: Variant, reference: Variant) -> float:
    """Time of an operation in one variant over that in another, of which it is known that it takes some."""
    return median(cycle[variant].cpu / cycle[reference].cpu for cycle in cycles)


def added(cycles: Sequence[Cycle], variant: Variant, reference: Variant) -> float:
    """What a variant adds to an operation without instrumentation, in us.

    Args:
        cycles: The cycles.
        variant: The variant.
        reference: What it and the operation without instrumentation are compared with in each cycle.
    """
    return (relative(cycles, variant, reference) - relative(cycles, BARE, reference)) * cpu(cycles, reference)


def added_ratio(cycles: Sequence[Cycle], variant: Variant, floor: Variant) -> float:
    """What a variant adds, over what its floor adds."""
    return added(cycles, variant, floor) / added(cycles, floor, floor)


def throughput(cycles: Sequence[Cycle], variant: Variant, floor: Variant) -> float:
    """Operations in a time that passes, over those of the floor."""
    return median(cycle[floor].wall / cycle[variant].wall for cycle in cycles)


@dataclass(frozen=True)
class Judgement:
    """One target on one row.

    Attributes:
        row: The row's name.
        variant: The variant.
        what: What is compared, with its unit.
        limit: The highest value that is good; the lowest if `higher_is_better`.
        values: One value for each repeat.
        grossly_missed: Whether even a short run can tell that it is missed.
        higher_is_better: Whether the limit is one from below.
    """

    row: str
    variant: Variant
    what: str
    limit: float
    values: tuple[float, ...]
    grossly_missed: bool
    higher_is_better: bool = False

    @property
    def value(self) -> float:
        """The median of the repeats."""
        return median(self.values)

    @property
    def verdict(self) -> str:
        if not self._beyond(self.value):
            return "met"
        return _MISSED if all(map(self._beyond, self.values)) else "not met, within noise"

    @property
    def missed(self) -> bool:
        return self.verdict == _MISSED

    def _beyond(self, value: float) -> bool:
        return value < self.limit if self.higher_is_better else value > self.limit


def judge(row: type[Row], measurement: Measurement) -> Iterator[Judgement]:
    """Judges all targets of a row.

    Args:
        row: The row.
        measurement: Its cycles, one sequence for each repeat.
    """
    name = row.name
    every = list(chain.from_iterable(measurement))

    def ratio(variant: Variant, floor: Variant, limit: float) -> Judgement:
        values = tuple(added_ratio(cycles, variant, floor) for cycles in measurement)
        # The operation as a whole: of what is added to it, the noise of a short run may be more than half.
        gross = relative(every, variant, floor) > _GROSS
        return Judgement(name, variant, "added time / floor's", limit, values, gross)

    def microseconds(variant: Variant, limit: float) -> Judgement:
        values = tuple(added(cycles, variant, BARE) for cycles in measurement)
        return Judgement(name, variant, "added us", limit, values, median(values) > limit * _GROSS)

    if row is Burst:
        values = tuple(throughput(cycles, METRICS, METRICS_FLOOR) for cycles in measurement)
        limit = 0.8
        gross = median(values) < limit / _GROSS
        yield Judgement(name, METRICS, "throughput / floor's", limit, values, gross, higher_is_better=True)
        return
    yield ratio(METRICS, METRICS_FLOOR, 1.15)
    yield ratio(RECORDING, RECORDING_FLOOR, 1.20)
    yield ratio(SAMPLED_OUT_METRICS, SAMPLED_OUT_METRICS_FLOOR, 1.15)
    yield ratio(SAMPLED_OUT, SAMPLED_OUT_FLOOR, 1.20)
    if row is Publish:
        yield microseconds(NO_SDK, 0.5)
    if row is Callback:
        yield ratio(NO_SDK, NO_SDK_FLOOR, 1.20)
    if row is CallbackWithoutHeaders:
        yield microseconds(NO_SDK, 0.7)
