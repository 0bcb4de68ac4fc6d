# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Real programs that know nothing of OpenTelemetry, in real processes under `opentelemetry-instrument`."""

from __future__ import annotations

import asyncio
import textwrap
from typing import Any

import pytest

from opentelemetry.instrumentation.nats.version import __version__
from opentelemetry.trace import SpanKind, StatusCode
from support.otlp import OtlpReceiver, ReceivedHistogram, ReceivedSpan, Scope
from support.processes import Finished, Program, run
from support.releases import EXPORTS_ADVISED_BUCKETS, EXPORTS_SCHEMA_URLS, knows_no_propagators
from support.server import NatsServer

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = Scope("opentelemetry.instrumentation.nats", __version__, SCHEMA_URL if EXPORTS_SCHEMA_URLS else "")

PUBLISHER = textwrap.dedent(
    """
    import asyncio, sys
    import nats

    async def main():
        nc = await nats.connect(sys.argv[1])
        await nc.publish("orders.8812.created", b"12345")
        answer = await nc.request("prices.get", b"123", timeout=10)
        print("answer", answer.data.decode(), answer.headers)
        await nc.close()

    asyncio.run(main())
    """
)

CONSUMER = textwrap.dedent(
    """
    import asyncio, sys
    import nats

    async def main():
        nc = await nats.connect(sys.argv[1])
        done = asyncio.Event()

        async def on_order(msg):
            await nc.publish("shipments.requested", b"1")

        async def on_price(msg):
            await msg.respond(b"12 EUR")

        async def ship():
            async for msg in shipments.messages:
                done.set()
                await nc.publish("shipments.done")
                break

        await nc.subscribe("orders.*.created", queue="workers", cb=on_order)
        await nc.subscribe("prices.get", cb=on_price)
        shipments = await nc.subscribe("shipments.requested")
        await nc.flush()
        await nc.flush()
        print("ready")
        await ship()
        await nc.drain()

    asyncio.run(main())
    """
)

SELF_CONTAINED = textwrap.dedent(
    """
    import asyncio, sys
    import nats

    async def main():
        nc = await nats.connect(sys.argv[1])
        got = asyncio.Event()
        headers = []

        async def handler(msg):
            headers.append(sorted(msg.headers or ()))
            got.set()

        await nc.subscribe("orders.*.created", cb=handler)
        await nc.publish("orders.acme.created")
        await asyncio.wait_for(got.wait(), 10)
        print(headers[0])
        await nc.close()

    asyncio.run(main())
    """
)


async def _run(text: str, nats_server: NatsServer, otlp: OtlpReceiver, **env: str) -> Finished:
    finished = await run(text, nats_server.url, env={**otlp.environment("program"), **env})
    assert finished.returncode == 0, finished.stderr
    return finished


def _span(otlp: OtlpReceiver, service: str, name: str) -> ReceivedSpan:
    (found,) = [span for span in otlp.named(name) if span.service == service]
    return found


class TestTwoProcesses:
    @pytest.fixture
    async def received(self, nats_server: NatsServer, otlp: OtlpReceiver) -> OtlpReceiver:
        async with Program(CONSUMER, nats_server.url, env=otlp.environment("consumer")) as consumer:
            await consumer.wait_for_output("ready")
            publisher = await run(PUBLISHER, nats_server.url, env=otlp.environment("publisher"))
            consumed = await consumer.wait()
        assert (publisher.stdout.split()[:3], publisher.stderr) == (["answer", "12", "EUR"], "")
        assert consumed.returncode == 0 and consumed.stderr == ""
        await asyncio.to_thread(otlp.wait_for, lambda _: len(otlp.spans) >= 9)
        assert otlp.faults == []
        return otlp

    async def test_make_one_connected_trace_for_each_message(self, received: OtlpReceiver, nats_server: NatsServer):
        publish = _span(received, "publisher", "publish orders.*.created")
        process = _span(received, "consumer", "process orders.*.created")
        onward = _span(received, "consumer", "publish shipments.requested")
        looped = _span(received, "consumer", "process shipments.requested")
        done = _span(received, "consumer", "publish shipments.done")
        request = _span(received, "publisher", "request prices.get")
        answering = _span(received, "consumer", "process prices.get")
        reply = _span(received, "consumer", "reply")

        def parents(*spans: ReceivedSpan) -> None:
            assert len({span.trace_id for span in spans}) == 1
            assert [span.parent_span_id for span in spans] == ["", *(span.span_id for span in spans[:-1])]

        parents(publish, process, onward, looped, done)
        parents(request, answering, reply)
        assert publish.trace_id != request.trace_id
        for consumer, producer in ((process, publish), (looped, onward), (answering, request)):
            assert [(link.trace_id, link.span_id) for link in consumer.links] == [(producer.trace_id, producer.span_id)]
        for span in (publish, onward, done, request, reply):
            assert span.links == []
        assert [span.kind for span in (publish, process, onward, looped, done, request, answering, reply)] == [
            SpanKind.PRODUCER,
            SpanKind.CONSUMER,
            SpanKind.PRODUCER,
            SpanKind.CONSUMER,
            SpanKind.PRODUCER,
            SpanKind.CLIENT,
            SpanKind.CONSUMER,
            SpanKind.PRODUCER,
        ]
        for span in received.spans:
            assert span.scope == SCOPE
            assert span.status is StatusCode.UNSET
            assert span.events == []
            assert span.start < span.end
        # One span for each call, and none for what nats-py does inside.
        connects = received.named(f"connect 127.0.0.1:{nats_server.port}")
        assert sorted(span.service for span in connects) == ["consumer", "publisher"]
        assert len(received.spans) == 10

        client = publish.attributes["messaging.client.id"]
        assert publish.attributes == {
            "messaging.system": "nats",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": "orders.8812.created",
            "messaging.destination.template": "orders.*.created",
            "messaging.message.body.size": 5,
            "messaging.client.id": client,
            "server.address": "127.0.0.1",
            "server.port": nats_server.port,
            "network.peer.address": "127.0.0.1",
            "network.peer.port": nats_server.port,
        }
        assert client.isdigit()
        client = process.attributes["messaging.client.id"]
        assert process.attributes == {
            "messaging.system": "nats",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "orders.8812.created",
            "messaging.destination.template": "orders.*.created",
            "messaging.consumer.group.name": "workers",
            "messaging.message.body.size": 5,
            "messaging.client.id": client,
            "server.address": "127.0.0.1",
            "server.port": nats_server.port,
        }
        assert client.isdigit() and client != publish.attributes["messaging.client.id"]

        # The last export of each process: its metrics since its start.
        latest = {
            (metric.resource["service.name"], metric.name): metric
            for metric in received.metrics
            if metric.scope.name == SCOPE.name
        }
        assert {metric.scope for metric in latest.values()} == {SCOPE}

        def points(service: str, name: str) -> dict[str, Any]:
            return {
                f"{attributes['messaging.operation.name']} "
                f"{attributes.get('messaging.destination.template') or attributes.get('messaging.destination.name')}": (
                    value.count if isinstance(value, ReceivedHistogram) else value
                )
                for attributes, value in latest[service, name].points
            }

        assert points("publisher", "messaging.client.sent.messages") == {
            "publish orders.*.created": 1,
            "request prices.get": 1,
        }
        assert points("consumer", "messaging.client.consumed.messages") == {
            "process orders.*.created": 1,
            "process prices.get": 1,
            "process shipments.requested": 1,
        }
        assert points("consumer", "messaging.process.duration") == {
            "process orders.*.created": 1,
            "process prices.get": 1,
            "process shipments.requested": 1,
        }
        durations = latest["publisher", "messaging.client.operation.duration"]
        assert (durations.kind, durations.unit) == ("histogram", "s")
        assert points("publisher", durations.name) == {
            "connect None": 1,
            "publish orders.*.created": 1,
            "request prices.get": 1,
        }
        for _, value in durations.points:
            assert isinstance(value, ReceivedHistogram)
            if EXPORTS_ADVISED_BUCKETS:
                assert value.bounds == [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]


class TestSwitches:
    @pytest.mark.parametrize(
        "variables",
        [
            {"OTEL_SDK_DISABLED": "true"},
            {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "nats"},
            {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "requests, nats"},
        ],
        ids=repr,
    )
    async def test_turn_all_off(self, nats_server: NatsServer, otlp: OtlpReceiver, variables: dict[str, str]):
        finished = await _run(SELF_CONTAINED, nats_server, otlp, **variables)
        assert (finished.stdout, finished.stderr) == ("[]\n", "")
        assert otlp.spans == []
        assert [metric.name for metric in otlp.metrics if metric.scope.name == SCOPE.name] == []

    @knows_no_propagators
    async def test_of_the_propagators_count(self, nats_server: NatsServer, otlp: OtlpReceiver):
        finished = await _run(SELF_CONTAINED, nats_server, otlp, OTEL_PROPAGATORS="none")
        assert (finished.stdout, finished.stderr) == ("[]\n", "")
        assert len({span.trace_id for span in otlp.named("publish orders.acme.created")}) == 1
        (process,) = otlp.named("process orders.*.created")
        assert (process.parent_span_id, process.links) == ("", [])

    async def test_of_the_sampler_count(self, nats_server: NatsServer, otlp: OtlpReceiver):
        finished = await _run(SELF_CONTAINED, nats_server, otlp, OTEL_TRACES_SAMPLER="always_off")
        assert (finished.stdout, finished.stderr) == ("['traceparent']\n", "")
        assert otlp.spans == []
        assert "messaging.client.sent.messages" in {metric.name for metric in otlp.metrics}


class TestVariables:
    async def test_are_the_options(self, nats_server: NatsServer, otlp: OtlpReceiver):
        text = textwrap.dedent(
            """
            import asyncio, sys
            import nats

            async def main():
                nc = await nats.connect(sys.argv[1])
                headers = {}

                async def handler(msg):
                    headers[msg.subject] = sorted(msg.headers or ())

                await nc.subscribe("*.*", cb=handler)
                await nc.publish("health.check")
                await nc.publish("legacy.orders", headers={"X-Tenant": "a", "X-Secret": "b"})
                await nc.publish("customers.acme")
                while len(headers) < 3:
                    await asyncio.sleep(0.001)
                print(sorted(headers.items()))
                sub = await nc.subscribe("taken.a.b")
                await nc.publish("taken.a.b")
                await sub.next_msg(10)
                await nc.publish("after.the.message")
                await nc.close()

            asyncio.run(main())
            """
        )
        finished = await _run(
            text,
            nats_server,
            otlp,
            OTEL_PYTHON_NATS_USE_SPAN_LINKS="true",
            OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS="health.*, other.>",
            OTEL_PYTHON_NATS_PROPAGATION_EXCLUDED_SUBJECTS="legacy.>",
            OTEL_PYTHON_NATS_SUBJECT_TEMPLATES="customers.*",
            OTEL_PYTHON_NATS_ACTIVATE_NEXT_MSG="1",
            OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_INCLUDED="x-*",
            OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_EXCLUDED="x-s*",
        )
        assert finished.stderr == ""
        # Nothing was current that could have travelled with the excluded one.
        assert finished.stdout == (
            "[('customers.acme', ['traceparent']), ('health.check', []), ('legacy.orders', ['X-Secret', 'X-Tenant'])]\n"
        )
        assert not [span for span in otlp.spans if span.attributes.get("messaging.destination.name") == "health.check"]
        (publish,) = otlp.named("publish customers.*")
        (process,) = otlp.named("process customers.*")
        assert (process.parent_span_id, [link.span_id for link in process.links]) == ("", [publish.span_id])
        (legacy,) = otlp.named("publish legacy.orders")
        captured = {name: value for name, value in legacy.attributes.items() if "header" in name}
        assert captured == {"messaging.header.x-tenant": ["a"]}
        (receive,) = otlp.named("receive taken.a.b")
        (after,) = otlp.named("publish after.the.message")
        assert after.parent_span_id == receive.span_id

    async def test_that_make_no_sense_are_warned_about(self, nats_server: NatsServer, otlp: OtlpReceiver):
        finished = await _run(
            SELF_CONTAINED,
            nats_server,
            otlp,
            OTEL_PYTHON_NATS_USE_SPAN_LINKS="perhaps",
            OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS="a..b",
        )
        assert "OTEL_PYTHON_NATS_USE_SPAN_LINKS is 'perhaps'" in finished.stderr
        assert "OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS is 'a..b'" in finished.stderr
        assert finished.stdout == "['traceparent']\n"
        (publish,) = otlp.named("publish orders.acme.created")
        (process,) = otlp.named("process orders.*.created")
        assert process.parent_span_id == publish.span_id
