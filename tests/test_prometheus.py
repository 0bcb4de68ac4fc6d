# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The Prometheus example, scraped over HTTP; dashboard, alerts and documentation against what it exports."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.metrics import ATTRIBUTES, BUCKETS, INSTRUMENTS, OPT_IN, OPT_IN_ATTRIBUTES
from support.server import NatsServer
from support.shop import Shop, value

DOCS = Path(__file__).resolve().parent.parent / "docs"

SCRAPED_LABELS = {"job", "instance"}
OF_PROMETHEUS = {"up"}  # Prometheus writes it for each scraped target
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
    if metric in OF_PROMETHEUS:
        return SCRAPED_LABELS
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
    awaited = [*(f"\n{name}{{" for name in sample_names(documented_names())), 'error_type="ValueError"', "NoResponders"]
    with Shop() as example:
        # These series are there, with 0, from a consumer's first delivery on.
        rising = ("nats_jetstream_redeliveries_total", "nats_jetstream_dead_letters_total")
        yield example.wait_for(
            lambda text: all(each in text for each in awaited) and all(value(text, name) for name in rising)
        )
        example.end(signal.SIGINT)


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
        assert value(scraped, "nats_client_connections", nats_client_connection_state="connected") == 1
        assert value(scraped, "nats_client_connections") == 1
        assert value(scraped, "nats_client_active_subscriptions") == 3
        assert value(scraped, "nats_client_pending_messages") == 5
        assert value(scraped, "nats_client_pending_bytes") == 5 * len(b"alive")
        # The program goes on while it is scraped: what is read later may have one more.
        drops = value(scraped, "nats_client_messages_dropped_total", messaging_destination_name="heartbeats")
        assert drops == value(scraped, "nats_client_messages_dropped_total")
        assert 0 < drops <= value(scraped, "nats_client_async_errors_total", error_type="nats.errors.SlowConsumerError")
        assert value(scraped, "nats_client_async_errors_total", error_type="ValueError") > 0
        assert value(scraped, "messaging_process_duration_seconds_count", error_type="ValueError") > 0
        assert value(scraped, "nats_jetstream_redeliveries_total", messaging_nats_jetstream_consumer="billing") > 0
        assert value(scraped, "nats_jetstream_dead_letters_total", messaging_nats_jetstream_consumer="billing") > 0
        refused = {"error_type": "nats.errors.NoRespondersError", "messaging_destination_name": "discounts"}
        assert value(scraped, "messaging_client_operation_duration_seconds_count", **refused) > 0

    def test_has_a_service_name(self, scraped: str):
        assert value(scraped, "target_info", service_name="shop") == 1

    def test_survives_the_loss_of_its_server_and_of_what_was_stored(self):
        server = NatsServer()
        server.start()
        try:
            with Shop(NATS_URL=server.url, OTEL_SERVICE_NAME="other") as example:
                text = example.wait_for(lambda text: delivered(text) > 3)
                assert value(text, "target_info", service_name="other") == 1
                server.kill()
                example.wait_for(lambda text: connected(text) == 0)
                server.start()
                example.wait_for(connected)
                server.delete_streams()
                before = delivered(example.scrape())
                example.wait_for(lambda text: delivered(text) > before + 5)
                server.kill()
                example.wait_for(lambda text: connected(text) == 0)
                example.end(signal.SIGTERM)
        finally:
            server.close()

    def test_ends_although_it_never_found_its_server(self):
        with Shop(NATS_URL="nats://127.0.0.1:1") as example:
            example.wait_for(lambda text: value(text, "target_info"))
            example.end(signal.SIGTERM)


def connected(text: str) -> float:
    return value(text, "nats_client_connections", nats_client_connection_state="connected")


def delivered(text: str) -> float:
    return value(text, "nats_jetstream_delivery_latency_seconds_count")


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
            name: (kinds[data, rises], unit) for name, (data, rises, unit) in {**INSTRUMENTS, **OPT_IN}.items()
        }

    def test_lists_the_attributes_of_each(self):
        assert {name: attributes for name, (_, _, attributes) in documented_instruments().items()} == {
            **ATTRIBUTES,
            **OPT_IN_ATTRIBUTES,
        }

    def test_lists_the_buckets(self):
        [text] = re.findall(r"\*\*Buckets\.\*\* .*?: (.*?) seconds\.", read("metrics.md"), re.S)
        assert [float(bound) for bound in re.split(r",\s+| and ", text)] == list(BUCKETS)

    def test_lists_every_alert_with_its_runbook(self):
        listed = re.findall(r"^\| `(Nats\w+)` \| [^|]+ \| (.*) \|$", read("alerts/index.md"), re.M)
        assert listed == [(rule["alert"], rule["annotations"]["runbook"]) for rule in rules()]

    @pytest.mark.parametrize("page", ["metrics.md", "alerts/index.md"])
    def test_downloads_exist(self, page: str):
        links = re.findall(r"\{download\}`[^<]*<([^>]+)>`", read(page))
        assert links and all((DOCS / page).parent.joinpath(link).is_file() for link in links)

    def test_is_linked_from_the_index(self):
        assert "(metrics.md)" in read("index.md")


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
        assert query.metrics <= sample_names(documented_names()) | OF_PROMETHEUS
        texts = [*rule["annotations"].values(), *rule["labels"].values()]
        for text in texts:
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= query.result, text
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}

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

    def test_picture_is_of_these_panels(self):
        drawn = re.findall(r">([^<>]+)</text>", read("dashboards/dashboard.svg"))
        for panel in self.dashboard["panels"]:
            assert panel["title"] in drawn, "`tox -e dashboard` draws it again"
