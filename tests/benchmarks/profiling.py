# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Where the time of one row in one variant goes, by function. The profiler's own cost is in it: look at the order."""

from __future__ import annotations

import cProfile
import pstats
from pathlib import Path

from measuring import ambient_context
from row import Row
from variants import Providers, Variant

from opentelemetry.context import attach, detach

_SHOWN = 60


async def print_profile(row: Row, variant: Variant, providers: Providers) -> None:
    """Runs a row under the profiler and prints its functions, the most expensive first."""
    profile = cProfile.Profile()
    operations = row.operations
    with providers.entered(variant) as floor:
        await row.prepare(row.warm_up + operations, floor, variant.sampled)
        token = attach(ambient_context(row, variant))
        try:
            await row.run(row.warm_up, floor)
            profile.enable()
            await row.run(operations, floor)
            profile.disable()
        finally:
            detach(token)
        await row.clean()
    print(f"{'self':>8} {'with callees':>12} {'calls':>8}   each per operation, times in us")
    functions = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined] (typeshed does not know it)
    by_time = sorted(functions, key=lambda function: function[1][2], reverse=True)
    for (file, line, name), (_, calls, own, cumulative, _) in by_time[:_SHOWN]:
        own, cumulative, calls = own / operations * 1e6, cumulative / operations * 1e6, calls / operations
        print(f"{own:8.2f} {cumulative:12.2f} {calls:8.2f}   {name} ({'/'.join(Path(file).parts[-2:])}:{line})")
