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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median

from core_rows import Burst, CallbackWithoutHeaders, Publish
from measuring import Cycle, Measurement
from row import Row
from variants import (
    BARE,
    METRICS,
    METRICS_FLOOR,
    NO_SDK,
    PAIRS,
    PROPAGATION,
    RECORDING,
    SAMPLED_OUT,
    SAMPLED_OUT_METRICS,
    Variant,
)

REPEATS = 5

RATIOS: Mapping[Variant, float] = {
    NO_SDK: 1.20,
    PROPAGATION: 1.20,
    SAMPLED_OUT: 1.20,
    SAMPLED_OUT_METRICS: 1.15,
    RECORDING: 1.20,
    METRICS: 1.15,
}
"""The targets of what a variant adds, over what its floor adds, on every row that has that floor."""

MICROSECONDS: Mapping[type[Row], float] = {Publish: 0.5, CallbackWithoutHeaders: 0.7}
"""The targets of what is added without an SDK, where the floor would be nothing at all."""

THROUGHPUT = 0.8
"""The target of a burst's throughput, over the floor's."""

MET, _MISSED = "met", "MISSED"

RATIO = "added time / floor's"
"""What most targets are about."""

_GROSS = 3
"""A short run says little; what takes so many times as long as it may says something all the same."""


def cpu(cycles: Sequence[Cycle], variant: Variant) -> float:
    """Median time of the event loop's thread, in us a message."""
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
            return MET
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
        return Judgement(name, variant, RATIO, limit, values, gross)

    def microseconds(variant: Variant, limit: float) -> Judgement:
        values = tuple(added(cycles, variant, BARE) for cycles in measurement)
        # On a machine of half the speed all of them are twice as long; `limits` knows in instructions.
        return Judgement(name, variant, "added us", limit, values, grossly_missed=False)

    if row is Burst:
        values = tuple(throughput(cycles, METRICS, METRICS_FLOOR) for cycles in measurement)
        gross = median(values) < THROUGHPUT / _GROSS
        yield Judgement(name, METRICS, "throughput / floor's", THROUGHPUT, values, gross, higher_is_better=True)
        return
    if row in MICROSECONDS:
        yield microseconds(NO_SDK, MICROSECONDS[row])
    for variant, floor in PAIRS:
        if variant in RATIOS and floor in row.variants:
            yield ratio(variant, floor, RATIOS[variant])
