# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The examples make the traces that the documentation's pictures show."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from support.docs import DOCS, blocks
from support.examples import EXAMPLES, OTHERS, QUICK, pictured, run_example

try:
    import nats.micro
except ImportError:  # before nats-py 2.9
    HAS_SERVICES = False
else:
    HAS_SERVICES = bool(nats.micro)

LACKING = {
    "batches": not hasattr(JetStreamContext, "publish_async"),
    "configuration": not hasattr(KeyValue.KeyWatcher, "STOP_ITER"),  # its loop ended at the first None
    "files": not hasattr(JetStreamContext, "create_object_store"),
    "service": not HAS_SERVICES,
}
TRACES = {
    "batches": """
import readings             internal
├─ publish readings.kitchen producer
│  └─ process readings.*    consumer
│     └─ ack readings.*     client
├─ publish readings.cellar  producer
│  └─ process readings.*    consumer
│     └─ ack readings.*     client
├─ publish readings.attic   producer
│  └─ process readings.*    consumer
│     └─ ack readings.*     client
└─ publish readings.garden  producer
   └─ process readings.*    consumer
      └─ ack readings.*     client

receive readings.* client
   ↪ links to publish readings.attic of another trace
   ↪ links to publish readings.cellar of another trace
   ↪ links to publish readings.garden of another trace
   ↪ links to publish readings.kitchen of another trace
""",
    "configuration": """
kv.put settings                producer
└─ process settings            consumer
   └─ publish settings.applied producer

kv.update settings             producer
└─ process settings            consumer
   └─ publish settings.applied producer

kv.delete settings             producer
└─ process settings            consumer
   └─ publish settings.applied producer

kv.get settings client
   ↪ links to kv.put settings of another trace

kv.update settings producer
   ✗ nats.js.errors.KeyWrongLastSequenceError: nats: wrong last sequence: 2
""",
    "files": """
publish reports.ready    producer
└─ process reports.ready consumer
   └─ object.get reports client
         ↪ links to object.put reports of another trace
""",
    "formats": """
publish orders.created    producer
└─ process orders.created consumer

publish orders.created    producer
└─ process orders.created consumer
""",
    "outbox": """
checkout                       internal
└─ process orders.>            consumer
   ├─ publish invoices.created producer
   └─ ack orders.>             client

publish orders.*.created client
   ↪ links to checkout of another trace
""",
    "queue_group": """
publish orders.*.created       producer
├─ process orders.>            consumer
└─ process orders.*.created    consumer
   └─ publish invoices.created producer

publish orders.*.created       producer
├─ process orders.>            consumer
└─ process orders.*.created    consumer
   └─ publish invoices.created producer
""",
    "request_reply": """
request prices.*         client
└─ process prices.*      consumer
   ├─ request taxes.de   client
   │  └─ process taxes.* consumer
   │     └─ reply        producer
   └─ reply              producer

request weather.today client
   ✗ nats.errors.NoRespondersError: nats: no responders available for request
""",
    "service": """
request divide    client
└─ process divide consumer
   └─ reply       producer

request divide    client
│  ✗ 400: the divisor must not be negative
└─ process divide consumer
   │  ✗ 400: the divisor must not be negative
   └─ reply       producer

request divide    client
│  ✗ 500: ZeroDivisionError('integer division or modulo by zero')
└─ process divide consumer
   │  ✗ ZeroDivisionError: integer division or modulo by zero
   └─ reply       producer
""",
    "work_queue": """
publish jobs.resize producer
└─ process jobs.*   consumer
   └─ ack jobs.*    client

publish jobs.convert     producer
└─ process jobs.*        consumer
   ├─ in_progress jobs.* client
   └─ ack jobs.*         client

publish jobs.upload producer
├─ process jobs.*   consumer
│  └─ nak jobs.*    client
└─ process jobs.*   consumer
   └─ ack jobs.*    client

publish jobs.broken            producer
└─ process jobs.*              consumer
   ├─ publish dead.jobs.broken producer
   └─ term jobs.*              client

receive jobs.* client
   ↪ links to publish jobs.resize of another trace
""",
}


@pytest.mark.parametrize("name", QUICK)
def test_the_example_makes_the_trace_of_its_picture(name: str):
    if LACKING.get(name):
        pytest.skip("this nats-py has not what the example uses")
    printed = run_example(name).printed
    traces, _ = printed.split("\nTraces of a single span: ")
    assert traces == TRACES[name].removeprefix("\n")
    assert printed == pictured(name)


class TestPage:
    def test_shows_every_example_with_its_command_and_its_picture(self):
        programs = {path.stem for path in EXAMPLES.glob("[a-z]*.py")}
        assert programs == {*QUICK, *OTHERS}
        page = EXAMPLES / "index.md"
        commands = {block.mark: block.text for block in blocks(page)}
        text = page.read_text(encoding="utf-8")
        for name in programs:
            assert commands[f"example: {name}"] == f".venv/bin/python docs/examples/{name}.py\n"
        pictures = re.findall(r"^!\[([^\]]{30,})\]\(\.\./_static/traces/([\w-]+)\.svg\)$", text, re.M)
        assert {picture for _, picture in pictures} == {name.replace("_", "-") for name in programs | {"demo"}}

    @pytest.mark.parametrize("picture", sorted((DOCS / "_static").rglob("*.svg")), ids=lambda path: path.stem)
    def test_pictures_are_whole_and_load_nothing(self, picture):
        root = ElementTree.parse(picture).getroot()
        names = {"svg": "http://www.w3.org/2000/svg"}
        assert root.findtext("svg:title", namespaces=names)
        assert len(root.findtext("svg:desc", namespaces=names)) > 50
        assert not re.search(r"url\((?!#)|href=|@import|<script", picture.read_text(encoding="utf-8"))


class TestAttributes:
    rows = re.findall(
        r"^\| `([\w.<>]+)` \| `(.*?)` \| `([^`]+)`(.*?) \|$", (DOCS / "attributes.md").read_text(encoding="utf-8"), re.M
    )

    def test_are_all_that_the_conventions_page_has(self):
        conventions = (DOCS / "semconv.md").read_text(encoding="utf-8")
        documented: list[str] = []
        for first, others in re.findall(
            r"^\| `([a-z]+\.[a-z_.<>]+)`((?:, `[a-z_.]+`)*) \| (?:all|`)", conventions, re.M
        ):
            documented.append(first)
            for other in re.findall(r"`([a-z_.]+)`", others):
                documented.append(first.rpartition(".")[0] + other if other.startswith(".") else other)
        assert len(documented) > 30
        assert {name for name, *_ in self.rows} == set(documented)

    def test_have_the_values_that_they_have_in_the_examples(self):
        if any(LACKING.values()):
            pytest.skip("this nats-py has not what some examples use")
        seen: dict[tuple[str, str], list[str]] = {}
        for example in QUICK:
            for span, attributes in run_example(example).spans:
                for name, value in attributes.items():
                    seen.setdefault((span, name), []).append(self.of_any_run(json.dumps(value)))
        for name, value, span, condition in self.rows:
            json.loads(value)
            if condition:  # nothing that an example does
                continue
            name = name.replace("<name>", "content-type")
            value = json.dumps(json.loads(value))
            if name.endswith((".port", "client.id")):
                assert seen[span, name]
            else:
                assert self.of_any_run(value) in seen[span, name], f"{name} of {span}"

    @staticmethod
    def of_any_run(value: str) -> str:
        return re.sub(r"[A-Za-z0-9]{22,}", "ID", value)
