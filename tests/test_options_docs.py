# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""docs/configuration.md: its programs have the spans that are drawn there, and no option is missing."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from opentelemetry.instrumentation import nats as package
from opentelemetry.instrumentation.nats import InstrumentOptions
from opentelemetry.instrumentation.nats._options import read_options
from opentelemetry.sdk.trace import ReadableSpan
from support.options import VARIABLES
from support.spans import span_context
from support.telemetry import Telemetry
from support.waiting import eventually


def default(name: str) -> str:
    """The table's words for what holds where an option is not given."""
    if name.endswith("_provider"):
        return "the global ones"
    if name == "included_subjects":
        return "all"
    options = read_options({})
    value = getattr(options, name, options.headers)  # of both of headers
    return str(value).lower() if isinstance(value, int) else "some" if value else "none"


class TestDocs:
    PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

    @classmethod
    def sections(cls) -> dict[str, str]:
        options = cls.PAGE.read_text(encoding="utf-8").split("\n## Options\n")[1].split("\n## ")[0]
        before, *sections = options.split("\n### ")
        return {"": before} | {section.split("\n", 1)[0]: section for section in sections}

    @staticmethod
    def blocks(section: str, language: str) -> list[str]:
        return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)

    @staticmethod
    def given(code: str) -> dict[str, Any]:
        """The options that a piece of code gives."""
        options: dict[str, Any] = {}
        instrumentor = SimpleNamespace(instrument=lambda **given: options.update(given))
        exec(code, {"NatsInstrumentor": lambda: instrumentor})
        return options

    @staticmethod
    def drawn(spans: list[ReadableSpan]) -> str:
        """The spans as the page draws them."""
        by_id = {span_context(span).span_id: span for span in spans}

        def lines(span: ReadableSpan, depth: int) -> list[str]:
            line = f"{'   ' * (depth - 1)}{'└─ ' if depth else ''}{span.name}"
            for link in span.links:
                if span.parent is None or link.context.span_id != span.parent.span_id:
                    line += f"  linked to {by_id[link.context.span_id].name}"
            shown = sorted(
                (key, value) for key, value in (span.attributes or {}).items() if "header" in key or "app" in key
            )
            children = [other for other in spans if other.parent and by_id[other.parent.span_id] is span]
            return [
                line,
                *(f"{'   ' * depth}  {key}: {json.dumps(value)}" for key, value in shown),
                *(line for child in children for line in lines(child, depth + 1)),
            ]

        return "\n\n".join("\n".join(lines(span, 0)) for span in spans if span.parent is None) + "\n"

    async def check(self, telemetry: Telemetry, nc: Client, options: dict[str, Any], expected: str) -> None:
        async def handle(msg: Msg) -> None:
            await nc.publish("invoices.new", b"{}")
            handled.set()

        handled = asyncio.Event()
        telemetry.instrument(**options)
        subscription = await nc.subscribe("orders.*.created", cb=handle)
        telemetry.clear()
        with telemetry.tracer.start_as_current_span("checkout"):
            headers = {"X-Tenant": "acme", "X-Internal-Id": "7", "Authorization": "Bearer abc"}
            await nc.publish("orders.8812.created", b"{}", headers=headers)
        await handled.wait()
        await eventually(lambda: not telemetry.counter.open)
        await subscription.unsubscribe()
        assert self.drawn(telemetry.spans()) == expected

    async def test_the_program_has_these_spans_without_options(self, telemetry: Telemetry, nc: Client):
        (expected,) = self.blocks(self.sections()[""], "text")
        await self.check(telemetry, nc, {}, expected)

    @pytest.mark.parametrize(
        "title",
        [
            "`use_span_links`",
            "`excluded_subjects`",
            "`included_subjects`",
            "`should_trace`",
            "`propagation_excluded_subjects`",
            "`subject_templates`",
            "`subject_names`",
            "`headers_included`, `headers_excluded`",
            "`publish_hook`, `consume_hook`",
            "`propagation_only`",
        ],
    )
    async def test_each_option_has_these_spans(self, telemetry: Telemetry, nc: Client, title: str):
        section = self.sections()[title]
        (code,), (expected,) = self.blocks(section, "python"), self.blocks(section, "text")
        options = self.given(code)
        assert {f"`{name}`" for name in options} == set(title.split(", "))
        await self.check(telemetry, nc, options, expected)

    async def test_activate_next_msg_has_these_spans(self, telemetry: Telemetry, nc: Client):
        section = self.sections()["`activate_next_msg`"]
        _, code = self.blocks(section, "python")
        for options, expected in zip(({}, self.given(code)), self.blocks(section, "text"), strict=True):
            telemetry.instrument(**options)
            subscription = await nc.subscribe("orders.*.created")
            telemetry.clear()
            await nc.publish("orders.8812.created", b"{}")

            async def poll(subscription: Any = subscription) -> None:
                await subscription.next_msg()
                await nc.publish("invoices.new", b"{}")

            await asyncio.ensure_future(poll())
            await subscription.unsubscribe()
            assert self.drawn(telemetry.spans()) == expected

    def test_the_table_has_every_option_with_its_variable_and_its_default(self):
        rows = re.findall(
            r"^\| (`\w+`(?:, `\w+`)*) \| (?:`(OTEL_\w+)` )?\| ([\w ]+) \|$", self.PAGE.read_text("utf-8"), re.M
        )
        told = {name: (variable, given) for names, variable, given in rows for name in re.findall(r"\w+", names)}
        assert told == {name: (VARIABLES.get(name, ""), default(name)) for name in InstrumentOptions.__annotations__}

    def test_the_page_has_a_section_for_every_option(self):
        sections = {name.strip("`") for title in self.sections() for name in title.split(", ")}
        assert set(InstrumentOptions.__annotations__) == sections - {""}

    def test_what_is_no_option_and_has_a_variable_is_a_switch(self):
        read = {
            variable
            for file in Path(package.__file__).parent.glob("_*.py")
            for variable in re.findall(r'"(OTEL_\w+)"', file.read_text(encoding="utf-8"))
        }
        assert read
        switches = self.PAGE.read_text(encoding="utf-8").partition("\n## OpenTelemetry's own switches\n")[2]
        assert [variable for variable in read if f"| `{variable}=" not in switches] == []
