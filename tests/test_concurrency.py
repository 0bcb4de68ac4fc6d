# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The page on concurrency: its programs run as they stand there, and each message makes the trace that is drawn."""

from __future__ import annotations

import asyncio
import re
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from opentelemetry import trace
from opentelemetry.instrumentation.nats import process_message
from support.jetstream import unseen
from support.spans import span_context, tree
from support.telemetry import Telemetry
from support.waiting import eventually

PAGE = Path(__file__).parents[1] / "docs" / "concurrency.md"
BLOCKS = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
MESSAGES = 2


def patterns() -> Iterator[Any]:
    text = PAGE.read_text(encoding="utf-8")
    for number, found in enumerate(BLOCKS.finditer(text)):
        heading = re.findall(r"^## (.+)$", text[: found.start()], re.MULTILINE)[-1]
        marks = [
            pytest.mark.skipif(
                "TaskGroup" in found[1] and sys.version_info < (3, 11), reason="task groups came with Python 3.11"
            )
        ]
        yield pytest.param(found[1], found[2], id=f"{number} {heading}", marks=marks)


def drawn(telemetry: Telemetry) -> set[str]:
    """The trees of all traces, those alike once; what starts a trace of its own beside a message's stands below it."""
    spans = [span for span in telemetry.spans() if not span.name.startswith(("subscribe", "connect"))]
    batches = {span_context(span).trace_id for span in spans if span.name == "receive orders" and not span.parent}
    texts: dict[int, str] = {}
    for span in spans:
        trace_id = span_context(span).trace_id
        if trace_id not in batches:
            of_trace = [each for each in spans if span_context(each).trace_id == trace_id]
            texts[trace_id] = textwrap.dedent(tree(of_trace).partition("\n")[2])
    return set(texts.values())


@pytest.mark.parametrize("program, expected", list(patterns()))
async def test_a_pattern_makes_the_trace_that_is_drawn(
    program: str, expected: str, nc: Client, js: JetStreamContext, telemetry: Telemetry
):
    with unseen():
        await js.add_stream(name="orders", subjects=["orders"])
    psub = await js.pull_subscribe("orders", durable="worker")
    telemetry.clear()
    for number in range(MESSAGES):
        await js.publish("orders", b"%d" % number)
    names = {
        "asyncio": asyncio,
        "js": js,
        "nc": nc,
        "psub": psub,
        "process_message": process_message,
        # By another way than fork, which would copy this process with its threads.
        "ProcessPoolExecutor": partial(ProcessPoolExecutor, mp_context=get_context("spawn")),
    }
    exec(f"async def main():\n{textwrap.indent(program, '    ')}", names)  # noqa: S102 (it is our own page)
    await names["main"]()
    del names
    await eventually(lambda: not telemetry.counter.open)
    assert not trace.get_current_span().get_span_context().is_valid

    wanted = textwrap.dedent(expected).strip().splitlines()
    # Each line at the margin starts a trace.
    starts = [number for number, line in enumerate(wanted) if not line.startswith(" ")]
    traces = {"\n".join(wanted[start:end]) for start, end in zip(starts, [*starts[1:], len(wanted)], strict=True)}
    bare = {"publish orders [PRODUCER]"}  # a message that the program left where it was
    assert drawn(telemetry) - bare == traces


def test_every_pattern_of_the_page_is_seen():
    assert len(list(patterns())) == PAGE.read_text(encoding="utf-8").count("```python") == 10
