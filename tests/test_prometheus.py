# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The Prometheus example, scraped over HTTP; dashboard, alerts and documentation against what it exports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.metrics import ATTRIBUTES, BUCKETS, INSTRUMENTS
from support.server import NatsServer

DOCS = Path(__file__).resolve().parent.parent / "docs"
TIMEOUT = 30.0

SCRAPED_LABELS = {"job", "instance"}
EXPORTER_LABELS = {"otel_scope_name", "otel_scope_version", "otel_scope_schema_url"}


# -- what the documentation says --------------------------------------------------------------------------------------


def documented_instruments() -> dict[str, tuple[str, str, set[str]]]:
    """Kind, unit and attributes of each metric in the tables of docs/metrics.md."""
    rows = re.findall(
        r"^\| `([\w.]+)` \| (histogram|counter|up-down counter|gauge) \| (\S+) \| .* \| (.*) \|$",
        read("metrics.md"),
        re.M,
    )
    return {name: (kind, unit, set(re.findall(r"`([\w.]+)`", attributes))) for name, kind, unit, attributes in rows}


def documented_names() -> dict[str, str]:
    """The type of each metric in the table of Prometheus's names."""
    return dict(re.findall(r"^\| `([a-z_]+)` \| (histogram|counter|gauge) \|$", read("metrics.md"), re.M))


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def labels(metric: str) -> set[str]:
    """The labels that a metric can have at Prometheus."""
    [attributes] = [ATTRIBUTES[name] for name in ATTRIBUTES if metric.startswith(name.replace(".", "_"))]
    found = {"messaging_system", *(attribute.replace(".", "_") for attribute in attributes)} | SCRAPED_LABELS
    return found | {"le"} if metric.endswith("_bucket") else found


def sample_names(types: dict[str, str]) -> set[str]:
    """What can be queried of metrics of these types."""
    suffixes = {"histogram": ("_bucket", "_count", "_sum")}
    return {name + suffix for name, type_ in types.items() for suffix in suffixes.get(type_, ("",))}


# -- the example ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scraped() -> Iterator[str]:
    """What the example shows once everything in it has happened."""
    server = NatsServer()
    server.start()
    env = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    example = subprocess.Popen(
        [sys.executable, str(DOCS / "examples" / "prometheus")],
        env={**env, "NATS_URL": server.url, "OTEL_EXPORTER_PROMETHEUS_PORT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = example.stdout.readline().split()[-1]
        text = scrape(url)
        deadline = time.monotonic() + TIMEOUT
        awaited = [*(f"\n{name}{{" for name in sample_names(documented_names())), 'error_type="ValueError"']
        while not all(each in text for each in awaited):
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
            text = scrape(url)
        yield text
        example.send_signal(signal.SIGINT)
        _, errors = example.communicate(timeout=10)
        assert (example.returncode, errors) == (0, "")
    finally:
        if example.poll() is None:
            example.kill()
            example.communicate()
        server.close()


def scrape(url: str) -> str:
    with urlopen(url, timeout=5) as response:
        return response.read().decode()


class TestExample:
    def test_shows_the_documented_names_with_their_types(self, scraped: str):
        types = dict(re.findall(r"^# TYPE ((?:nats|messaging)_\w+) (\w+)$", scraped, re.M))
        assert types == documented_names()

    def test_shows_documented_labels_only(self, scraped: str):
        for family in text_string_to_metric_families(scraped):
            for sample in family.samples:
                if family.name.startswith(("nats_", "messaging_")):
                    assert set(sample.labels) <= labels(sample.name) | EXPORTER_LABELS, sample.name

    def test_shows_the_buckets_of_the_conventions(self, scraped: str):
        bounds = set(re.findall(r'_seconds_bucket\{.*\ble="([^"]+)"', scraped))
        assert bounds == {*(str(bound) for bound in BUCKETS), "+Inf"}

    def test_makes_all_of_it_happen(self, scraped: str):
        def value(name: str, **having: str) -> float:
            return sum(
                sample.value
                for family in text_string_to_metric_families(scraped)
                for sample in family.samples
                if sample.name == name and having.items() <= sample.labels.items()
            )

        assert value("nats_client_connections", nats_client_connection_state="connected") == 1
        assert value("nats_client_connections") == 1
        assert value("nats_client_active_subscriptions") == 3
        assert value("nats_client_pending_messages") == 5
        assert value("nats_client_pending_bytes") == 5 * len(b"alive")
        # The program goes on while it is scraped: what is read later may have one more.
        drops = value("nats_client_messages_dropped_total", messaging_destination_name="heartbeats")
        assert drops == value("nats_client_messages_dropped_total")
        assert 0 < drops <= value("nats_client_async_errors_total", error_type="nats.errors.SlowConsumerError")
        assert value("nats_client_async_errors_total", error_type="ValueError") > 0
        assert value("messaging_process_duration_seconds_count", error_type="ValueError") > 0
        assert value("nats_jetstream_redeliveries_total", messaging_nats_jetstream_consumer="billing") > 0


# -- the documentation ------------------------------------------------------------------------------------------------


class TestDocumentation:
    def test_lists_every_instrument_with_kind_and_unit(self):
        kinds = {
            ("Histogram", None): "histogram",
            ("Sum", True): "counter",
            ("Sum", False): "up-down counter",
            ("Gauge", None): "gauge",
        }
        assert {name: (kind, unit) for name, (kind, unit, _) in documented_instruments().items()} == {
            name: (kinds[data, rises], unit) for name, (data, rises, unit) in INSTRUMENTS.items()
        }

    def test_lists_the_attributes_of_each(self):
        assert {name: attributes for name, (_, _, attributes) in documented_instruments().items()} == ATTRIBUTES

    def test_lists_the_buckets(self):
        [text] = re.findall(r"\*\*Buckets\.\*\* .*?: (.*?) seconds\.", read("metrics.md"), re.S)
        assert [float(bound) for bound in re.split(r",\s+| and ", text)] == list(BUCKETS)

    def test_lists_every_alert(self):
        listed = re.findall(r"^\| `(Nats\w+)` \|", read("metrics.md"), re.M)
        assert listed == [rule["alert"] for rule in rules()]

    def test_is_linked_from_the_index(self):
        assert "(metrics.md)" in read("index.md")
        for link in re.findall(r"\{download\}`[^<]*<([^>]+)>`", read("metrics.md")):
            assert (DOCS / link).is_file()


# -- queries ----------------------------------------------------------------------------------------------------------


class Query:
    """A query, parsed by Prometheus's grammar: the metrics and labels that it uses.

    Args:
        text: The query; Grafana's variables are replaced first.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.metrics: set[str] = set()
        self.result = self._walk(promql.parse(text.replace("$__rate_interval", "5m")))

    def _walk(self, node: Any) -> set[str]:
        """Checks a part of the query; returns the labels that its result has."""
        if isinstance(node, promql.VectorSelector):
            assert node.name, f"no metric: {self.text}"
            self.metrics.add(node.name)
            known = labels(node.name)
            self._check({matcher.name for matcher in node.matchers.matchers}, known)
            return known
        if isinstance(node, promql.MatrixSelector):
            return self._walk(node.vector_selector)
        if isinstance(node, promql.ParenExpr):
            return self._walk(node.expr)
        if isinstance(node, promql.AggregateExpr):
            inner = self._walk(node.expr)
            by = set(node.modifier.labels) if node.modifier else set()
            assert not node.modifier or node.modifier.type == promql.AggModifierType.By
            self._check(by, inner)
            return by
        if isinstance(node, promql.Call):
            results = [self._walk(argument) for argument in node.args]
            [found] = [result for result in results if result] or [set()]
            if node.func.name == "histogram_quantile":
                assert "le" in found, f"a histogram without its buckets: {self.text}"
                return found - {"le"}
            return found
        if isinstance(node, promql.BinaryExpr):
            left, right = self._walk(node.lhs), self._walk(node.rhs)
            if left and right:
                assert left == right, f"sides that never match: {self.text}"
            return left or right
        assert isinstance(node, promql.NumberLiteral), f"{type(node)} in {self.text}"
        return set()

    def _check(self, used: set[str], known: set[str]) -> None:
        assert used <= known, f"{used - known} is no label in {self.text}"


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(read("alerts/prometheus-rules.yml"))["groups"]
    return group["rules"]


class TestAlerts:
    @pytest.mark.parametrize("rule", rules(), ids=[rule["alert"] for rule in rules()])
    def test_ask_for_what_is_exported(self, rule: dict[str, Any]):
        query = Query(rule["expr"])
        assert query.metrics <= sample_names(documented_names())
        texts = [*rule["annotations"].values(), *rule["labels"].values()]
        for text in texts:
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= query.result, text
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}

    def test_of_messaging_metrics_are_about_nats_only(self):
        for rule in rules():
            for selector in re.findall(r"\bmessaging_\w+_seconds_\w+(\{[^}]*\})?", rule["expr"]):
                assert 'messaging_system="nats"' in selector, rule["alert"]


class TestDashboard:
    dashboard = json.loads(read("dashboards/grafana.json"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]

    @pytest.mark.parametrize("panel", panels, ids=[panel["title"] for panel in panels])
    def test_panels_ask_for_what_is_exported(self, panel: dict[str, Any]):
        for target in panel["targets"]:
            query = Query(target["expr"])
            assert query.metrics <= sample_names(documented_names())
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == query.result, target["expr"]

    def test_shows_every_metric(self):
        used = set().union(*(Query(target["expr"]).metrics for panel in self.panels for target in panel["targets"]))
        for name in documented_names():
            assert any(metric.startswith(name) for metric in used), name

    def test_variables_come_from_what_is_exported(self):
        data_source, *variables = self.dashboard["templating"]["list"]
        assert (data_source["type"], data_source["name"]) == ("datasource", "datasource")
        for variable in variables:
            query, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
            assert label == variable["name"]
            assert label in Query(query).result
            assert variable["query"]["query"] == variable["definition"]
        defined = {variable["name"] for variable in self.dashboard["templating"]["list"]} | {"__rate_interval"}
        assert set(re.findall(r"\$\{?(\w+)", json.dumps(self.dashboard["panels"]))) <= defined

    def test_can_be_imported(self):
        assert self.dashboard["id"] is None
        assert self.dashboard["title"] and self.dashboard["uid"] and self.dashboard["schemaVersion"]
        ids = [panel["id"] for panel in self.dashboard["panels"]]
        assert len(ids) == len(set(ids))
        for panel in self.panels:
            sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
            assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)

    def test_panels_do_not_overlap(self):
        taken: set[tuple[int, int]] = set()
        for panel in self.dashboard["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken, panel["title"]
            assert all(x < 24 for x, _ in cells)
            taken |= cells
