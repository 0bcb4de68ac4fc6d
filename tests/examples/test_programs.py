# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The examples that need more packages, or more time: as tests/test_examples.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.examples import EXAMPLES, OTHERS, pictured, run_example

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
    printed = run_example(name).printed
    traces, _ = printed.split("\nTraces of a single span: ")
    assert traces == TRACES[name].removeprefix("\n")
    assert printed == pictured(name)


def test_faststream_with_its_own_middleware_has_the_spans_of_both(tmp_path: Path) -> None:
    example = (EXAMPLES / "faststream_app.py").read_text(encoding="utf-8")
    example = example.replace("logger=None", "logger=None, middlewares=[NatsTelemetryMiddleware()]")
    example = example.replace("import asyncio", "import asyncio\nfrom faststream.nats.opentelemetry import *", 1)
    (tmp_path / "both.py").write_text(example, encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, str(tmp_path / "both.py"), "--no-times"],
        env=os.environ | {"PYTHONPATH": str(EXAMPLES), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (finished.stderr, finished.returncode) == ("", 0)
    spans = re.findall(r"(\S+ \S+) +(?:producer|consumer|client)$", finished.stdout, re.M)
    assert {"publish orders.*.created", "process orders.*.created", "orders.8812.created publish"} <= set(spans)
    assert "orders.8812.created process" in spans
