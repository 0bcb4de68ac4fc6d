# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""docs/upstream/deviations.md names every difference between our model and the conventions' own, and no other."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import semconv
from support.metrics import ATTRIBUTES, INSTRUMENTS, OPT_IN
from support.scripts import load_script

semconv_model = load_script("semconv_model")

CONVENTIONS = Path(__file__).parent / "support" / "conventions"
THEIRS = semconv_model.Model(CONVENTIONS / "spans")
OURS = semconv_model.Model()
PAGE = (Path(semconv_model.FOLDER).parent / "deviations.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert len(found) == 1, title
    return found[0]


def names(text: str) -> set[str]:
    return {name for name in re.findall(r"`([^`]+)`", text) if re.fullmatch(r"[a-z_.]+", name)}


def rows(title: str) -> list[list[str]]:
    lines = [line.strip("|").split("|") for line in section(title).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line] for line in lines]


def pairs() -> Iterator[tuple[str, Any, Any]]:
    """Each of our spans that refines one of theirs: its id without the prefix, and both."""
    for span in OURS.spans():
        if span.base:
            yield span.base.removeprefix("messaging."), span, THEIRS.signals[f"span.{span.base}"]


def their_groups() -> dict[str, dict[str, Any]]:
    files = [yaml.safe_load((CONVENTIONS / name).read_text("utf-8")) for name in ("common.yaml", "metrics.yaml")]
    return {group["id"]: group for file in files for group in file["groups"]}


def their_metrics() -> dict[str, tuple[dict[str, Any], set[str]]]:
    """Each of their metrics, and its attributes."""
    groups = their_groups()

    def attributes(group: dict[str, Any]) -> set[str]:
        inherited = attributes(groups[group["extends"]]) if "extends" in group else set()
        return inherited | {each["ref"] for each in group.get("attributes", ())}

    return {group["metric_name"]: (group, attributes(group)) for group in groups.values() if group["type"] == "metric"}


class TestAttributes:
    def test_that_the_conventions_lack_are_named(self):
        [registry] = yaml.safe_load((CONVENTIONS / "registry.yaml").read_text("utf-8"))["groups"][:1]
        known = {each["id"] for each in registry["attributes"]}
        assert not set(OURS.attributes) & known
        used = {name for signal in OURS.signals.values() for name in signal.attributes if name.startswith("messaging.")}
        assert used <= known | set(OURS.attributes)
        # Only with options: a span has `messaging.header.<name>` and `baggage.<key>`.
        assert names(section("Attributes that the conventions lack")) == {
            *OURS.attributes,
            "messaging.header",
            "baggage",
        }

    def test_on_spans_without_them_are_named(self):
        found: dict[str, set[str]] = defaultdict(set)
        for kind, ours, theirs in pairs():
            for name in set(ours.attributes) - set(theirs.attributes) - set(OURS.attributes):
                found[name].add(kind)
        named = {
            name.strip("`"): names(spans)
            for name, spans, _ in rows("Attributes on spans that the conventions have without them")
        }
        assert named == found

    def test_of_another_level_are_named(self):
        found = {
            (name, theirs.attributes[name].level, attribute.level)
            for _, ours, theirs in pairs()
            for name, attribute in ours.attributes.items()
            if name in theirs.attributes and theirs.attributes[name].level != attribute.level
        }
        assert {(name.strip("`"), before, here) for name, before, here, _ in rows("Levels of requirement")} == found

    def test_that_samplers_may_read_are_the_same(self):
        for kind, ours, theirs in pairs():
            relevant = {name for name, each in theirs.attributes.items() if each.sampling_relevant} & set(
                ours.attributes
            )
            assert relevant == {name for name, each in ours.attributes.items() if each.sampling_relevant}, kind

    def test_that_are_never_set_are_named(self):
        found: dict[str, set[str]] = defaultdict(set)
        for kind, ours, theirs in pairs():
            for name in set(theirs.attributes) - set(ours.attributes):
                found[name].add(kind)
        assert {name.strip("`"): names(spans) for name, spans, _ in rows("Attributes that are never set")} == found


class TestSpans:
    def test_of_another_kind_are_named(self):
        """The conventions have a kind for each type; a client's send has its context from another span."""
        kinds = {"send": "producer", "receive": "client", "process": "consumer", "settle": "client"}
        odd = {row.name.split()[0] for row in semconv.spans() if row.kind != kinds.get(row.type, "client")}
        assert odd == {"request"}
        assert "| kind of `request` |" in section("How work is told")

    def test_without_a_type_are_named(self):
        assert [span.id for span in OURS.spans() if not span.base] == ["span.messaging.nats.manage.client"]
        assert "| calls without a type |" in section("How work is told")

    @pytest.mark.parametrize("span", OURS.spans(), ids=lambda span: span.id)
    def test_keep_the_body_size_opt_in_in_the_model(self, span: Any):
        """The model is for everybody; that this package sets it by default is on the page."""
        size = span.attributes.get("messaging.message.body.size")
        assert size is None or size.level == "opt_in"
        assert "| body size | opt-in | set by default |" in section("How work is told")


class TestMetrics:
    def test_that_the_conventions_lack_are_named(self):
        found = {*INSTRUMENTS, *OPT_IN} - set(their_metrics())
        assert names(section("Metrics that the conventions lack")) == found

    def test_of_the_conventions_are_theirs(self):
        kinds = {("Histogram", None): "histogram", ("Sum", True): "counter"}
        for name, (group, _) in their_metrics().items():
            data, rises, unit = INSTRUMENTS[name]
            assert (kinds[data, rises], unit) == (group["instrument"], group["unit"]), name

    def test_with_other_attributes_are_named(self):
        found = set()
        for name, (_, theirs) in their_metrics().items():
            ours = ATTRIBUTES[name] | {"messaging.system"}
            found |= {(name, each, "added") for each in ours - theirs}
            found |= {(name, each, "never set") for each in theirs - ours}
        named = {
            (metric.strip("`"), name.strip("`"), here)
            for metric, name, here, _ in rows("Attributes of the conventions' metrics")
        }
        assert named == found
