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
from pathlib import Path
from types import FrameType
from typing import Any

import nats
from limits import Counted
from measuring import ambient_context
from row import Row
from variants import BARE, NO_SDK, PAIRS, Providers, Variant

from opentelemetry.context import attach, detach
from support import waiting

_COUNT = 100
"""Messages of a run; a tenth of them in the run that is taken off, for what comes once."""

# How often these go around depends on when the server answers; both run the same in every variant.
_NOT_COUNTED = tuple(f"{Path(file).parent}{os.sep}" for file in (asyncio.__file__, nats.__file__, waiting.__file__))


async def count(row: Row, providers: Providers) -> Counted:
    """Counts a row's instructions in all variants that have a floor, and without an SDK."""
    instructions = {variant: await _per_operation(row, variant, providers) for variant in row.variants}
    bare = instructions[BARE]
    return Counted(
        (instructions[NO_SDK] - bare) / row.messages if NO_SDK in instructions else None,
        {
            variant: (instructions[variant] - bare) / (instructions[floor] - bare)
            for variant, floor in PAIRS
            if floor in instructions
        },
    )


async def _per_operation(row: Row, variant: Variant, providers: Providers) -> float:
    many = max(2, min(_COUNT // row.messages, row.operations))
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
