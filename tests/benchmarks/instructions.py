# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""How many of Python's instructions each operation adds: what no other load on the machine can change.

An instruction is no unit of time, but floor and instrumentation consist of the same kinds of them, so the ratio comes
near that of the times, and can be compared from one day to the next.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import nats
from measuring import ambient_context
from row import Row
from variants import (
    BARE,
    METRICS,
    MIXED,
    NO_SDK,
    NO_SDK_FLOOR,
    PAIRS,
    RECORDING,
    SAMPLED_OUT,
    SAMPLED_OUT_METRICS,
    Providers,
    Variant,
)

from opentelemetry.context import attach, detach
from support import waiting

LIMITS: Mapping[Variant, float] = {
    NO_SDK: 1.15,
    SAMPLED_OUT: 1.90,
    SAMPLED_OUT_METRICS: 1.45,
    MIXED: 1.40,
    RECORDING: 1.27,
    METRICS: 1.20,
}
"""The highest ratios that pass. The targets are those of the times; these tell, on any machine, that calls do much more
than they did. They leave room for an SDK that does less."""

_COUNT = 100
"""Operations of a run; a tenth of them in the run that is taken off, for what comes once."""

# How often these go around depends on when the server answers; both run the same in every variant.
_NOT_COUNTED = tuple(f"{Path(file).parent}{os.sep}" for file in (asyncio.__file__, nats.__file__, waiting.__file__))

Ratios = Mapping[Variant, float]
"""The instructions that a variant adds, over those that its floor adds."""


async def count(row: Row, providers: Providers) -> Ratios:
    """Counts a row's instructions in all variants that have a floor."""
    instructions = {variant: await _per_operation(row, variant, providers) for variant in row.variants}
    bare = instructions[BARE]
    return {
        variant: (instructions[variant] - bare) / (instructions[floor] - bare)
        for variant, floor in (*PAIRS, (NO_SDK, NO_SDK_FLOOR))
        if floor in instructions
    }


def check(row: str, ratios: Ratios) -> list[str]:
    """Returns which limits a row is beyond, one a line."""
    return [
        f"{row}, {variant.name}: {ratios[variant]:.2f} times the floor's instructions, more than {limit:.2f}"
        for variant, limit in LIMITS.items()
        if ratios.get(variant, 0) > limit
    ]


async def _per_operation(row: Row, variant: Variant, providers: Providers) -> float:
    many = max(2, min(_COUNT, row.operations))
    few = max(1, many // 10)
    with providers.entered(variant) as floor:
        await row.prepare(many + 2 * few, floor, variant.sampled)
        token = attach(ambient_context(row, variant))
        try:
            await row.run(few, floor)
            counters = _Counter(), _Counter()
            for counter, operations in zip(counters, (few, many), strict=True):
                sys.settrace(counter.call)
                await row.run(operations, floor)
                sys.settrace(None)
        finally:
            sys.settrace(None)
            detach(token)
        await row.clean()
    providers.flush()
    return (counters[1].instructions - counters[0].instructions) / (many - few)


class _Counter:
    def __init__(self) -> None:
        self.instructions = 0

    def call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename.startswith(_NOT_COUNTED):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.instructions += 1
        return self._step
