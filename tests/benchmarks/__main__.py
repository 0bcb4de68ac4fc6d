# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`python tests/benchmarks`: what instrumentation adds to an operation, against the floor. See docs/benchmarks."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from itertools import chain
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))  # for `support`, which the tests share

import allocations
import instructions
import limits
import parity
from judging import REPEATS, Judgement, judge
from measuring import Bench, Cycle, run_cycle
from profiling import print_profile
from report import print_instructions, print_judgements, print_row, write_plot, write_table
from rows import ROWS
from variants import VARIANTS, Providers

from support.server import NatsServer

ROUNDS = 12
SMOKE_ROUNDS = 3


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/benchmarks", description=__doc__)
    parser.add_argument("--rows", metavar="NAME,...", help=f"only these rows, of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, help=f"rounds of each variant in a repeat (default {ROUNDS})")
    parser.add_argument("--repeats", type=int, help=f"repeats of the measurement (default {REPEATS})")
    parser.add_argument("--smoke", action="store_true", help="few rounds; only gross misses fail")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write the tables into this page")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw a plot; needs matplotlib")
    parser.add_argument("--limits", action="store_true", help="print the table of limits.py anew; nothing else")
    parser.add_argument("--profile", nargs=2, metavar=("ROW", "VARIANT"), help="say where the time goes; nothing else")
    options = parser.parse_args(arguments)
    options.rows = options.rows.split(",") if options.rows else list(ROWS)
    unknown = {*options.rows} - ROWS.keys()
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if options.profile:
        row, variant = options.profile
        if row not in ROWS or variant not in (known.name for known in VARIANTS):
            parser.error(f"rows: {', '.join(ROWS)}; variants: {', '.join(known.name for known in VARIANTS)}")
        if variant not in (known.name for known in ROWS[row].variants):
            parser.error(f"{row} has the variants {', '.join(known.name for known in ROWS[row].variants)}")
    options.rounds = options.rounds or (SMOKE_ROUNDS if options.smoke else ROUNDS)
    options.repeats = options.repeats or (1 if options.smoke else REPEATS)
    return options


async def run(options: argparse.Namespace) -> int:
    server = NatsServer()
    providers = Providers()
    try:
        server.start()
        bench = Bench(server)
        try:
            await bench.open()
            if options.profile:
                row = ROWS[options.profile[0]](bench)
                await row.open()
                variant = next(variant for variant in VARIANTS if variant.name == options.profile[1])
                await print_profile(row, variant, providers)
                return 0
            return await measure(options, bench, providers)
        finally:
            await bench.close()
    finally:
        providers.shutdown()
        server.close()


async def measure(options: argparse.Namespace, bench: Bench, providers: Providers) -> int:
    rows = [ROWS[name](bench) for name in options.rows]
    for row in rows:
        await row.open()
    if options.limits:
        print(*limits.table({row.name: await instructions.count(row, providers) for row in rows}), sep="\n")
        return 0
    problems = list(chain.from_iterable([await parity.check(row) for row in rows]))
    problems += await allocations.check(bench)
    counted = {row.name: await instructions.count(row, providers) for row in rows}
    problems += chain.from_iterable(limits.check(name, row) for name, row in counted.items())

    if options.smoke:
        for row in rows:
            row.shorten()
    measurements: dict[str, list[list[Cycle]]] = {row.name: [] for row in rows}
    gc.freeze()  # what there is by now is not searched at every cycle's end
    for repeat in range(options.repeats):
        for row in rows:
            if repeat == 0:
                await run_cycle(row, providers)  # its modules, its memory: not what is measured
            cycles = [await run_cycle(row, providers) for _ in range(max(1, options.rounds // row.rarely))]
            measurements[row.name].append(cycles)
            print(".", end="", flush=True)
    print()

    judgements: list[Judgement] = []
    for row in rows:
        print_row(row.name, list(chain.from_iterable(measurements[row.name])))
        judgements += judge(type(row), measurements[row.name])
    print_judgements(judgements)
    print_instructions(counted)
    if options.report:
        write_table(options.report, measurements, judgements, counted)
    if options.plot:
        write_plot(options.plot, measurements)
    for problem in problems:
        print(f"error: {problem}")
    missed = [judged for judged in judgements if (judged.grossly_missed if options.smoke else judged.missed)]
    for judged in missed:
        print(f"missed: {judged.row}, {judged.variant.name}, {judged.what}")
    return 1 if problems or missed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(run(parse(sys.argv[1:]))))
