# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""docs/upstream: the model of the NATS conventions against the code, and its page against the model."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from test_semconv_docs import CALLS, SCENARIOS, Program, exists

from opentelemetry.instrumentation.nats import _attributes
from opentelemetry.sdk.trace import ReadableSpan
from support import semconv
from support.core import Unique
from support.metrics import ATTRIBUTES, INSTRUMENTS
from support.patched import VERSION
from support.scripts import load_script
from support.telemetry import Telemetry

semconv_model = load_script("semconv_model")
render_semconv = load_script("render_semconv")

MODEL = semconv_model.Model()

OF_THE_CONVENTIONS = {
    "messaging.client.operation.duration",
    "messaging.process.duration",
    "messaging.client.sent.messages",
    "messaging.client.consumed.messages",
}

NOT_MET = {
    # Only a server with a JetStream domain names it: test_semconv_docs has one.
    ("send.producer", "messaging.nats.jetstream.domain"),
    ("send.client", "messaging.nats.jetstream.domain"),
}
"""Spans of the model, without the prefix, and attributes of theirs that no call in these tests has."""

INSTRUMENT_KINDS = {
    "counter": ("Sum", True),
    "updowncounter": ("Sum", False),
    "gauge": ("Gauge", None),
    "histogram": ("Histogram", None),
}


def signal_of(span: ReadableSpan) -> str:
    """The id of the span in the model."""
    assert span.attributes is not None
    return f"span.messaging.nats.{span.attributes.get('messaging.operation.type', 'manage')}.{span.kind.name.lower()}"


def value_type(value: Any) -> str:
    """The model's word for the type of an attribute's value."""
    if isinstance(value, tuple):
        return f"{value_type(value[0])}[]"
    return {str: "string", int: "int", bool: "boolean", float: "double"}[type(value)]


class TestPage:
    def test_is_what_the_model_says(self):
        page = render_semconv.PAGE.read_text(encoding="utf-8")
        assert render_semconv.render_page(page, MODEL) == page, "python docs/upstream/render_semconv.py"

    def test_has_a_place_for_every_span_and_metric(self):
        page = render_semconv.PAGE.read_text(encoding="utf-8")
        assert re.findall(r"<!-- semconv (\S+) -->", page) == list(MODEL.signals)

    def test_goes_into_a_checkout_of_the_conventions(self, tmp_path: Any):
        (tmp_path / "model" / "messaging").mkdir(parents=True)
        (tmp_path / "docs" / "messaging").mkdir(parents=True)
        registry = tmp_path / "model" / "messaging" / "registry.yaml"
        registry.write_text("members:\n            - id: rabbitmq\n              value: 'rabbitmq'\n")
        page = render_semconv.PAGE.read_text(encoding="utf-8")
        for _ in range(2):  # a second time changes nothing
            render_semconv.put_into(tmp_path, page)
            assert registry.read_text().count("value: 'nats'") == 1
            there = {path.name for path in registry.parent.iterdir()}
            assert there == {"registry.yaml", "nats.yaml", "nats-metrics.yaml", "nats-registry.yaml"}
            text = (tmp_path / "docs" / "messaging" / "nats.md").read_text(encoding="utf-8")
            assert "[Messaging Semantic Conventions](README.md)" in text
            assert "(/docs/registry/attributes/messaging.md)" in text
            assert "(https://opentelemetry.io/docs/specs/semconv/" not in re.sub(r"\[Requirement Level\]\S+", "", text)


class TestModel:
    def test_defines_the_attributes_that_the_code_has_names_for(self):
        names = {
            value
            for value in vars(_attributes).values()
            if isinstance(value, str) and value.startswith(("messaging.nats.", "nats."))
        }
        assert set(MODEL.attributes) == names | {"messaging.header"}

    def test_has_the_attributes_of_our_tables(self):
        documented = {name.replace("messaging.header.<name>", "messaging.header") for name in semconv.attributes()}
        documented.remove("baggage.<key>")  # nothing of NATS or of messaging: no page on NATS is to define it
        used = {name for span in MODEL.spans() for name in span.attributes}
        assert used == documented

    def test_uses_every_attribute_that_it_defines(self):
        used = {name for signal in MODEL.signals.values() for name in signal.attributes}
        assert set(MODEL.attributes) <= used

    def test_has_the_metrics_of_the_code(self):
        metrics = MODEL.metrics()
        assert {name: (*INSTRUMENT_KINDS[metric.kind], metric.unit) for name, metric in metrics.items()} == {
            name: told for name, told in INSTRUMENTS.items() if name not in OF_THE_CONVENTIONS
        }
        for name, metric in metrics.items():
            assert set(metric.attributes) == {"messaging.system", *ATTRIBUTES[name]}, name


async def use_what_the_tables_do_not(program: Program) -> None:
    """Calls that fail, that choose a context of their own, and on subjects that have a template."""
    nc, js = program.nc, program.js
    chosen = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Nats-Msg-Id": "mine"}
    stream = await program.stream()
    for _ in range(2):
        await js.publish(f"{stream}.8812", b"", headers=chosen)
    message = await (await js.subscribe(f"{stream}.*", durable="worker", manual_ack=True)).next_msg(5)
    await message.ack()
    await js.add_stream(name="8812", subjects=[program.unique("numbered")])
    await nc.close()
    for failing in (message.in_progress(), nc.publish(stream, b""), js.stream_info(stream), js.get_msg(stream, 1)):
        with pytest.raises(nats.errors.Error):
            await failing


class TestSpans:
    @pytest.mark.instrument(headers_included=["own"])
    async def test_have_the_attributes_of_the_model(self, telemetry: Telemetry, nc: Client, unique: Unique):
        for key, (_, call, _) in CALLS.items():
            if exists(call):
                await SCENARIOS[key](Program(telemetry, nc, unique))
        await use_what_the_tables_do_not(Program(telemetry, nc, unique))
        await telemetry.check_ended()
        seen: dict[str, set[str]] = defaultdict(set)
        for span in telemetry.spans():
            assert span.attributes is not None
            signal = MODEL.signals[signal_of(span)]
            found = {re.sub(r"^messaging\.header\..+", "messaging.header", name) for name in span.attributes}
            seen[signal.id] |= found
            assert found <= set(signal.attributes), (span.name, signal.id)
            required = {name for name, attribute in signal.attributes.items() if attribute.level == "required"}
            assert required <= found, (span.name, signal.id)
            for name, value in span.attributes.items():
                attribute = signal.attributes.get(name)
                if attribute is None:
                    continue
                assert value_type(value) == attribute.type, (span.name, name)
                if attribute.members:
                    assert value in dict(attribute.members), (span.name, name)
        if VERSION >= (2, 16):
            never = {
                (signal.id.removeprefix("span.messaging.nats."), name)
                for signal in MODEL.spans()
                for name in set(signal.attributes) - seen[signal.id]
            }
            assert never == NOT_MET
