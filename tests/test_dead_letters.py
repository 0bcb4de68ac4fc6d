# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Messages that their consumer does not deliver again."""

from __future__ import annotations

from typing import Any

import pytest
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig

from support.core import Unique
from support.telemetry import Telemetry
from support.waiting import eventually

REACHED = "messaging.nats.jetstream.max_deliveries_reached"
NAME = "nats.jetstream.dead_letters"


async def filled(js: JetStreamContext, stream: str) -> None:
    await js.add_stream(name=stream, subjects=[stream])
    await js.publish(stream, b"1")


def counted(telemetry: Telemetry, stream: str) -> Any:
    return {
        value
        for point, value in telemetry.metric(NAME).items()
        if dict(point)["messaging.nats.jetstream.stream"] == stream
    }


def marks(spans: Any) -> list[Any]:
    return [(span.attributes or {}).get(REACHED) for span in spans]


async def test_the_last_delivery_to_a_callback_is_marked_and_counted(
    telemetry: Telemetry, js: JetStreamContext, unique: Unique
):
    stream = unique("stream")
    await filled(js, stream)

    async def refuse(msg: Any) -> None:
        await msg.nak()

    config = ConsumerConfig(max_deliver=2)
    await js.subscribe(stream, durable="worker", cb=refuse, manual_ack=True, config=config)
    await eventually(lambda: len(telemetry.named(f"process {stream}")) == 2)
    assert marks(telemetry.named(f"process {stream}")) == [None, True]
    assert counted(telemetry, stream) == {1}


@pytest.mark.parametrize("existing", [False, True])
async def test_of_a_fetch_the_link_and_the_process_span_are(
    telemetry: Telemetry, js: JetStreamContext, unique: Unique, existing: bool
):
    stream = unique("stream")
    await filled(js, stream)
    config = ConsumerConfig(durable_name="worker", max_deliver=2)
    if existing:
        await js.add_consumer(stream, config)
    subscription = await js.pull_subscribe(stream, durable="worker", config=None if existing else config)
    for _ in range(2):
        for msg in await subscription.fetch(1, timeout=5):
            await msg.nak()
    assert marks(telemetry.named(f"process {stream}")) == [None, True]
    links = [link for span in telemetry.named(f"receive {stream}") for link in span.links]
    assert marks(links) == [None, True]
    assert marks(telemetry.named(f"receive {stream}")) == [None, None]
    assert counted(telemetry, stream) == {1}


async def test_of_next_msg_the_receive_span_is(telemetry: Telemetry, js: JetStreamContext, unique: Unique):
    stream = unique("stream")
    await filled(js, stream)
    config = ConsumerConfig(max_deliver=1)
    subscription = await js.subscribe(stream, durable="worker", manual_ack=True, config=config)
    await (await subscription.next_msg(5)).ack()
    assert marks(telemetry.named(f"receive {stream}")) == [True]
    assert counted(telemetry, stream) == {1}


async def test_without_a_limit_there_is_nothing_to_tell(telemetry: Telemetry, js: JetStreamContext, unique: Unique):
    stream = unique("stream")
    await filled(js, stream)
    subscription = await js.subscribe(stream, durable="worker", manual_ack=True)
    msg = await subscription.next_msg(5)
    await msg.nak()
    await (await subscription.next_msg(5)).ack()
    assert marks(telemetry.named(f"receive {stream}")) == [None, None]
    assert counted(telemetry, stream) == set()
