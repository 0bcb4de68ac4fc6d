# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The examples that need more packages, or more time: as tests/test_examples.py."""

from __future__ import annotations

import pytest

from support.examples import OTHERS, pictured, run_example

TRACES = {
    "cluster": """
publish orders.*.created    producer
└─ process orders.*.created consumer
   └─ ack orders.*.created  client

publish orders.*.created    producer
└─ process orders.*.created consumer
   └─ ack orders.*.created  client
""",
    "fastapi_app": """
POST /orders/{number}             server
└─ publish orders.*.created       producer
   └─ process orders.*.created    consumer
      └─ publish invoices.created producer
""",
    "faststream_app": """
publish orders.*.created          producer
└─ process orders.*.created       consumer
   └─ publish invoices.created    producer
      └─ process invoices.created consumer
""",
    "taskiq_app": """
checkout                    internal
├─ publish tasks            producer
│  └─ process tasks         consumer
├─ publish tasks            producer
│  └─ process tasks         consumer
└─ publish invoices.created producer
""",
    "tls": """
request prices.*    client
└─ process prices.* consumer
   └─ reply         producer
""",
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_example_makes_the_trace_of_its_picture(name: str) -> None:
    printed = run_example(name)
    traces, _ = printed.split("\nTraces of a single span: ")
    assert traces == TRACES[name].removeprefix("\n")
    assert printed == pictured(name)
