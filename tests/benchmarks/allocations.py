# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Without an SDK, nothing that is allocated for a message survives it."""

from __future__ import annotations

import gc
import tracemalloc

from core_rows import Callback, CallbackWithoutHeaders, Publish
from measuring import Bench
from row import Row
from variants import NO_SDK, Providers

MESSAGES = 2000

# Tables that grow by doubling, log lines and such.
_ALLOWED_BLOCKS = MESSAGES // 20


async def check(bench: Bench) -> list[str]:
    """Counts the memory blocks that are left after many messages.

    Returns:
        What is left of too much, one row a line.
    """
    problems: list[str] = []
    for row in (Publish(bench), Callback(bench), CallbackWithoutHeaders(bench)):
        left, where = await _left(row)
        if left > _ALLOWED_BLOCKS:
            problems.append(f"{row.name}, no SDK: {left} blocks are left of {MESSAGES} messages, most of {where}")
    return problems


async def _left(row: Row) -> tuple[int, str]:
    providers = Providers()
    try:
        with providers.entered(NO_SDK):
            # The first time fills caches.
            await _use(row)
            tracemalloc.start()
            try:
                await _use(row)
                gc.collect()
                before = tracemalloc.take_snapshot()
                await _use(row)
                gc.collect()
                after = tracemalloc.take_snapshot()
            finally:
                tracemalloc.stop()
    finally:
        providers.shutdown()
    ours = [tracemalloc.Filter(False, tracemalloc.__file__), tracemalloc.Filter(False, __file__)]
    differences = after.filter_traces(ours).compare_to(before.filter_traces(ours), "lineno")
    grown = max(differences, key=lambda difference: difference.count_diff)
    return sum(difference.count_diff for difference in differences), str(grown.traceback)


async def _use(row: Row) -> None:
    await row.prepare(MESSAGES, None, True)
    await row.run(MESSAGES, None)
    await row.clean()
