# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`baggage_keys`: which entries of baggage are on which spans, and how much of them."""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from support.core import Unique, carrying, process_attributes, receive_attributes, send_attributes
from support.options import Give
from support.spans import assert_span
from support.telemetry import Telemetry


def captured(attributes: Any) -> dict[str, Any]:
    return {name: value for name, value in (attributes or {}).items() if name.startswith("baggage.")}


SENT = {"tenant": "acme", "Region.Home": "eu", "other": "1"}
CAPTURED = {"baggage.tenant": "acme", "baggage.Region.Home": "eu"}


async def test_they_are_on_the_spans_of_both_sides(telemetry: Telemetry, give: Give, nc: Client, unique: Unique):
    give(baggage_keys=["tenant", "region.*"])
    subscription = await nc.subscribe(unique())
    subject = subscription.subject
    with carrying(SENT):
        await nc.publish(subject, b"hello")
        await nc.publish(subject, b"hello")
    await subscription.next_msg()
    async for _ in subscription.messages:
        break
    for name, attributes in {
        f"publish {subject}": send_attributes(nc, "publish", subject, 5, **CAPTURED),
        f"receive {subject}": receive_attributes(nc, subject, 5, **CAPTURED),
        f"process {subject}": process_attributes(nc, subject, 5, **CAPTURED),
    }.items():
        for span in await telemetry.wait_for(name):
            assert_span(span, attributes=attributes)


async def test_a_received_message_shows_its_own_and_not_what_is_current(
    telemetry: Telemetry, nc: Client, unique: Unique
):
    telemetry.instrument(baggage_keys=["*"])
    subscription = await nc.subscribe(unique())
    with carrying({"from": "sender"}):
        await nc.publish(subscription.subject)
    with telemetry.tracer.start_as_current_span("ambient"), carrying({"from": "receiver"}):
        async for _ in subscription.messages:
            break
    assert captured(telemetry.span(f"process {subscription.subject}").attributes) == {"baggage.from": "sender"}


async def test_of_requests_and_answers(telemetry: Telemetry, nc: Client, unique: Unique):
    async def answer(msg: Msg) -> None:
        await msg.respond(b"pong")

    telemetry.instrument(baggage_keys=["tenant"])
    subject = unique()
    await nc.subscribe(subject, cb=answer)
    with carrying(SENT):
        await nc.request(subject, timeout=5)
    await telemetry.wait_for(lambda spans: len(spans) == 3)
    for span in telemetry.spans():
        assert captured(span.attributes) == {"baggage.tenant": "acme"}, span.name


async def test_of_a_batch_they_are_on_the_links_and_the_process_spans(
    telemetry: Telemetry, js: JetStreamContext, unique: Unique
):
    telemetry.instrument(baggage_keys=["tenant"])
    stream = unique("stream")
    await js.add_stream(name=stream, subjects=[stream])
    with carrying(SENT):
        await js.publish(stream)
    for msg in await (await js.pull_subscribe(stream, durable="worker")).fetch(1):
        await msg.ack()
    receive = telemetry.span(f"receive {stream}")
    assert captured(receive.attributes) == {}
    assert captured(receive.links[0].attributes) == {"baggage.tenant": "acme"}
    assert captured(telemetry.span(f"process {stream}").attributes) == {"baggage.tenant": "acme"}
    assert captured(telemetry.span(f"ack {stream}").attributes) == {}


async def test_of_buckets(telemetry: Telemetry, js: JetStreamContext, unique: Unique):
    telemetry.instrument(baggage_keys=["tenant"])
    bucket = unique("bucket")
    kv = await js.create_key_value(bucket=bucket)
    with carrying(SENT):
        await kv.put("key", b"1")
    assert captured(telemetry.span(f"kv.put {bucket}").attributes) == {"baggage.tenant": "acme"}


async def test_without_the_option_none_are(telemetry: Telemetry, nc: Client, unique: Unique):
    with carrying(SENT):
        await nc.publish(unique())
    assert captured(telemetry.spans()[0].attributes) == {}


async def test_they_are_bounded_and_cleaned(telemetry: Telemetry, nc: Client, unique: Unique):
    telemetry.instrument(baggage_keys=["*"])
    sent: dict[str, Any] = {
        "session-token": "abc",
        "url": "nats://user:pass@host",
        "number": 7,
        "long": "x" * 2000,
        "k" * 200: "1",
        "messaging.system": "kafka",
        **{f"n{number}": "1" for number in range(40)},
    }
    with carrying(sent):
        await nc.publish(unique())
    (span,) = telemetry.spans()
    attributes = captured(span.attributes)
    assert len(attributes) == 32
    assert attributes["baggage.session-token"] == "[REDACTED]"
    assert attributes["baggage.url"] == "nats://host"
    assert attributes["baggage.number"] == "7"
    assert len(attributes["baggage.long"]) == 1024
    assert max(map(len, attributes)) < 200
    assert (span.attributes or {})["messaging.system"] == "nats"
