# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What docs/logs.md says about log lines, in a real process with opentelemetry-instrumentation-logging."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from support.otlp import OtlpReceiver
from support.processes import Finished, run
from support.server import NatsServer

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "logs.md").read_text(encoding="utf-8")
PLACES = re.findall(
    r"^\| (?!variable|where|---)(?!`OTEL)(.*?) \| (of the message|none|as before the loop) \|", PAGE, re.M
)
NONE = "0"

PROGRAM = textwrap.dedent(
    """
    import asyncio
    import logging
    import sys
    import threading

    import nats
    from opentelemetry.instrumentation.nats import process_message
    from opentelemetry import trace

    log = logging.getLogger("shop")


    async def publish(nc, js):
        for subject in ("orders.1.created", "bodies", "polled", "taken"):
            await nc.publish(subject, b"{}")
        await js.publish("stored", b"{}")


    async def main():
        nc = await nats.connect(sys.argv[1])
        js = nc.jetstream()
        await js.add_stream(name="stored", subjects=["stored"])
        loop = asyncio.get_running_loop()
        queue, done = asyncio.Queue(), asyncio.Event()

        async def work():
            msg = await queue.get()
            log.info("queue")
            with process_message(msg):
                log.info("process_message")

        async def task():
            log.info("task")

        async def handle(msg):
            log.info("callback")
            loop.call_soon(log.info, "call_soon")
            await asyncio.gather(asyncio.create_task(task()), asyncio.to_thread(log.info, "to_thread"))
            await loop.run_in_executor(None, log.info, "run_in_executor")
            thread = threading.Thread(target=log.info, args=("thread",))
            thread.start()
            thread.join()
            done.set()
            raise ValueError("no unicorns")

        async def take(msg):
            queue.put_nowait(msg)

        worker = asyncio.create_task(work())
        await nc.subscribe("orders.*.created", cb=handle)
        await nc.subscribe("taken", cb=take)
        bodies, polled = await nc.subscribe("bodies"), await nc.subscribe("polled")
        orders = await js.pull_subscribe("stored", durable="worker")
        await nc.flush()
        with trace.get_tracer("program").start_as_current_span("checkout"):
            await publish(nc, js)
            log.info("checkout")
        async for msg in bodies.messages:
            log.info("body")
            break
        log.info("after loop")
        for msg in await orders.fetch(1):
            log.info("fetched")
        await polled.next_msg()
        log.info("next_msg")
        await done.wait()
        await worker
        await nc.close()


    logging.getLogger().setLevel(logging.INFO)
    asyncio.run(main())
    """
)

# The lines that the program writes at each place of the page's table, in its order.
LINES = [
    ["callback"],
    ["body", "fetched"],
    ["task"],
    ["to_thread"],
    ["call_soon"],
    ["run_in_executor"],
    ["thread"],
    ["queue"],
    ["next_msg"],
    ["process_message"],
    ["after loop"],
    ["nats: encountered error"],
]


def ids_in_text(program: Finished) -> dict[str, str]:
    """The trace id of each line that the program wrote, by its message."""
    found = re.findall(r"trace_id=(\w+) span_id=\w+ resource\.service\.name=billing .*? - (.+)$", program.stderr, re.M)
    return {message: id_ for id_, message in found}


def check(ids: dict[str, str], trace_id: str, none: str) -> None:
    """Compares with the page."""
    assert ids["checkout"] == trace_id
    for (place, expected), lines in zip(PLACES, LINES, strict=True):
        for line in lines:
            assert ids[line] == (trace_id if expected == "of the message" else none), place


async def test_correlation_is_as_documented(nats_server: NatsServer, otlp: OtlpReceiver):
    env = {**otlp.environment("billing"), "OTEL_PYTHON_LOG_CORRELATION": "true"}
    program = await run(PROGRAM, nats_server.url, env=env)
    assert program.returncode == 0, program.stderr
    [checkout] = otlp.named("checkout")
    check(ids_in_text(program), checkout.trace_id, NONE)


async def test_sampled_out_has_the_trace_id_all_the_same(nats_server: NatsServer, otlp: OtlpReceiver):
    variables = {"OTEL_PYTHON_LOG_CORRELATION": "true", "OTEL_TRACES_SAMPLER": "always_off"}
    program = await run(PROGRAM, nats_server.url, env={**otlp.environment("billing"), **variables})
    ids = ids_in_text(program)
    check(ids, ids["checkout"], NONE)
    assert ids["checkout"] != NONE
    assert "trace_sampled=True" not in program.stderr


async def test_excluded_has_the_trace_id_all_the_same(nats_server: NatsServer, otlp: OtlpReceiver):
    variables = {"OTEL_PYTHON_LOG_CORRELATION": "true", "OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS": "orders.>"}
    program = await run(PROGRAM, nats_server.url, env={**otlp.environment("billing"), **variables})
    ids = ids_in_text(program)
    assert ids["callback"] == ids["checkout"] != NONE


async def test_records_are_as_documented(nats_server: NatsServer, otlp: OtlpReceiver):
    env = {**otlp.environment("billing"), "OTEL_LOGS_EXPORTER": "otlp"}
    program = await run(PROGRAM, nats_server.url, env=env)
    assert program.returncode == 0, program.stderr
    [checkout] = otlp.named("checkout")
    check({log.body: log.trace_id for log in otlp.logs}, checkout.trace_id, "")
    spans = {span.span_id: span.name for span in otlp.spans}
    [callback] = [log for log in otlp.logs if log.body == "callback"]
    assert spans[callback.span_id] == "process orders.*.created"
    assert (callback.severity, callback.resource) == ("INFO", checkout.resource)
    [error] = [log for log in otlp.logs if log.body == "nats: encountered error"]
    assert error.attributes["exception.type"] == "ValueError"
    assert error.scope.name == "nats.aio.client"


async def test_without_the_level_only_warnings_get_out(nats_server: NatsServer, otlp: OtlpReceiver):
    text = PROGRAM.replace("logging.getLogger().setLevel(logging.INFO)\n", "")
    assert text != PROGRAM
    await run(text, nats_server.url, env={**otlp.environment("billing"), "OTEL_LOGS_EXPORTER": "otlp"})
    assert {log.body for log in otlp.logs} == {"nats: encountered error"}


@pytest.mark.parametrize(
    ("variables", "exported"),
    [
        ({"OTEL_PYTHON_LOG_HANDLER_LEVEL": "ERROR"}, {"nats: encountered error"}),
        ({"OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION": "false"}, set()),
    ],
)
async def test_switches(nats_server: NatsServer, otlp: OtlpReceiver, variables: dict[str, str], exported: set[str]):
    env = {**otlp.environment("billing"), "OTEL_LOGS_EXPORTER": "otlp", "OTEL_PYTHON_LOG_CORRELATION": "true"}
    program = await run(PROGRAM, nats_server.url, env={**env, **variables})
    assert ids_in_text(program)["callback"] != NONE
    assert {log.body for log in otlp.logs} == exported


async def test_in_code(nats_server: NatsServer, otlp: OtlpReceiver):
    [block] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    setup = textwrap.dedent(
        """
        from opentelemetry.instrumentation.nats import NatsInstrumentor
        from opentelemetry.sdk.trace import TracerProvider

        trace.set_tracer_provider(TracerProvider())
        NatsInstrumentor().instrument()
        """
    )
    text = PROGRAM.replace("asyncio.run(main())", f"{block}{setup}asyncio.run(main())")
    program = await run(text, nats_server.url, env={**otlp.environment("billing")}, instrumented=False)
    assert program.returncode == 0, program.stderr
    ids = {log.body: log.trace_id for log in otlp.logs}
    check(ids, ids["checkout"], "")
    assert ids["checkout"]


def test_every_variable_is_one(tmp_path: Path):
    from opentelemetry.instrumentation.logging import environment_variables  # noqa: PLC0415

    named = set(re.findall(r"OTEL_PYTHON_LOG_\w+", PAGE))
    assert named and named <= set(vars(environment_variables))
