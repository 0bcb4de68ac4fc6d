# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`record_body_sizes`: the histogram of the sizes of messages."""

from __future__ import annotations

from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js import JetStreamContext

from opentelemetry.sdk.metrics.export import HistogramDataPoint
from support.core import Unique
from support.metrics import OPT_IN, OPT_IN_ATTRIBUTES
from support.options import Give
from support.telemetry import Telemetry

NAME = "messaging.client.message.body.size"


def sizes(telemetry: Telemetry) -> dict[tuple[Any, Any], tuple[int, float]]:
    """How many bodies were recorded, and their bytes, by operation and destination."""
    found: dict[tuple[Any, Any], tuple[int, float]] = {}
    for point, value in telemetry.metric(NAME).items():
        assert isinstance(value, HistogramDataPoint)
        attributes = dict(point)
        assert attributes.pop("messaging.system") == "nats"
        assert set(attributes) <= OPT_IN_ATTRIBUTES[NAME]
        key = (attributes["messaging.operation.name"], attributes.get("messaging.destination.name"))
        found[key] = (value.count, value.sum)
    return found


async def test_each_message_is_recorded_as_it_is_sent_and_consumed(
    telemetry: Telemetry, give: Give, nc: Client, unique: Unique
):
    give(record_body_sizes=True)
    subscription = await nc.subscribe(unique())
    subject = subscription.subject
    for payload in (b"", b"x" * 100, b"x" * 5000):
        await nc.publish(subject, payload)
    await subscription.next_msg()
    seen = 0
    async for _ in subscription.messages:
        seen += 1
        if seen == 2:
            break
    with pytest.raises(NoRespondersError):
        await nc.request(f"{subject}.nobody", b"four")
    assert sizes(telemetry) == {
        ("publish", subject): (3, 5100),
        ("receive", subject): (1, 0),
        ("process", subject): (2, 5100),
        ("request", f"{subject}.nobody"): (1, 4),
    }
    metric = telemetry.metrics()[NAME]
    assert (type(metric.data).__name__, None, metric.unit) == OPT_IN[NAME]
    bounds = {tuple(point.explicit_bounds) for point in telemetry.metric(NAME).values()}  # type: ignore[union-attr]
    assert bounds == {(0, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)}


async def test_a_fetched_message_is_recorded_once(telemetry: Telemetry, js: JetStreamContext, unique: Unique):
    telemetry.instrument(record_body_sizes=True)
    stream = unique("stream")
    await js.add_stream(name=stream, subjects=[stream])
    for payload in (b"1", b"22"):
        await js.publish(stream, payload)
    for msg in await (await js.pull_subscribe(stream, durable="worker")).fetch(2):
        await msg.ack()
    assert sizes(telemetry) == {("publish", stream): (2, 3), ("receive", stream): (2, 3)}


async def test_without_the_option_there_is_no_such_metric(telemetry: Telemetry, nc: Client, unique: Unique):
    await nc.publish(unique(), b"hello")
    assert NAME not in telemetry.metrics()


async def test_excluded_subjects_have_none(telemetry: Telemetry, nc: Client, unique: Unique):
    subject = unique()
    telemetry.instrument(record_body_sizes=True, excluded_subjects=[subject])
    subscription = await nc.subscribe(subject)
    await nc.publish(subject, b"hello")
    await subscription.next_msg()
    assert sizes(telemetry) == {}
