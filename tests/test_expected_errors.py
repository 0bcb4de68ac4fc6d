# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`expected_errors`: outcomes that the program calls none of its errors."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error, NoRespondersError, NoServersError
from nats.js import JetStreamContext
from nats.js.errors import BadRequestError, NotFoundError

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from support.core import Unique
from support.options import Give
from support.telemetry import Telemetry

needs_micro = pytest.mark.skipif(importlib.util.find_spec("nats.micro") is None, reason="this nats-py has no micro")


class Refused(ValueError):
    """What a handler of the program raises."""


async def ignore(error: Exception) -> None:
    pass


async def refuse(msg: Msg) -> None:
    raise Refused("not on Sundays")


def is_accepted(span: ReadableSpan, error_type: str) -> bool:
    """Whether a span tells of the error, but not as of a failure."""
    assert span.attributes is not None and span.attributes["error.type"] == error_type
    if span.status.status_code is StatusCode.ERROR:
        return False
    assert (span.status.status_code, span.status.description, span.events) == (StatusCode.UNSET, None, ())
    return True


def error_types(telemetry: Telemetry, metric: str) -> set[Any]:
    return {dict(point).get("error.type") for point in telemetry.metric(metric)}


NO_RESPONDERS = "nats.errors.NoRespondersError"


@pytest.mark.parametrize("expected", [["NoRespondersError"], [NO_RESPONDERS], ["Other", "Error"]])
async def test_by_name_an_exception_and_its_subclasses_are_expected(
    telemetry: Telemetry, give: Give, nc: Client, unique: Unique, expected: list[str]
):
    give(expected_errors=expected)
    subject = unique()
    with pytest.raises(NoRespondersError):
        await nc.request(subject)
    assert is_accepted(telemetry.span(f"request {subject}"), NO_RESPONDERS)
    assert NO_RESPONDERS in error_types(telemetry, "messaging.client.operation.duration")
    assert NO_RESPONDERS in error_types(telemetry, "messaging.client.sent.messages")


@pytest.mark.parametrize("expected", [[NoRespondersError], (Error,), NoRespondersError, "NoRespondersError,x"])
async def test_by_class_too_and_in_any_iterable(telemetry: Telemetry, nc: Client, unique: Unique, expected: Any):
    telemetry.instrument(expected_errors=expected)
    subject = unique()
    with pytest.raises(NoRespondersError):
        await nc.request(subject)
    assert is_accepted(telemetry.span(f"request {subject}"), NO_RESPONDERS)


@pytest.mark.parametrize("expected", [[], ["NoResponders"], ["errors.NoRespondersError"], [NoServersError]])
async def test_others_fail_as_ever(telemetry: Telemetry, nc: Client, unique: Unique, expected: Any):
    telemetry.instrument(expected_errors=expected)
    subject = unique()
    with pytest.raises(NoRespondersError):
        await nc.request(subject)
    assert not is_accepted(telemetry.span(f"request {subject}"), NO_RESPONDERS)


@pytest.mark.parametrize("expected", [[ValueError], [Refused], ["Refused"], ["ValueError"]])
async def test_what_a_handler_raises_can_be_expected(telemetry: Telemetry, nc: Client, unique: Unique, expected: Any):
    telemetry.instrument(expected_errors=expected)
    nc._error_cb = ignore
    subject = unique()
    await nc.subscribe(subject, cb=refuse)
    await nc.publish(subject)
    (process,) = await telemetry.wait_for(f"process {subject}")
    error_type = f"{__name__}.Refused"
    assert is_accepted(process, error_type)
    assert error_types(telemetry, "messaging.process.duration") == {error_type}


@pytest.mark.parametrize("expected", [["10059"], ["NotFoundError"], [NotFoundError]])
async def test_a_servers_code_or_its_exception(
    telemetry: Telemetry, js: JetStreamContext, unique: Unique, expected: Any
):
    telemetry.instrument(expected_errors=expected)
    stream = unique("stream")
    with pytest.raises(NotFoundError):
        await js.stream_info(stream)
    assert is_accepted(telemetry.span(f"stream_info {stream}"), "10059")
    await js.add_stream(name=stream, subjects=[stream])
    with pytest.raises(BadRequestError):
        await js.publish(stream, headers={"Nats-Expected-Last-Sequence": "9"})
    assert not is_accepted(telemetry.span(f"publish {stream}"), "10071")


async def test_a_connect_can_be_expected_to_fail(telemetry: Telemetry, unique: Unique):
    telemetry.instrument(expected_errors=[NoServersError, OSError])
    with pytest.raises(Exception):  # noqa: B017 (the system's or nats-py's)
        await Client().connect(
            "nats://127.0.0.1:1", reconnect_time_wait=0.01, max_reconnect_attempts=1, connect_timeout=1, error_cb=ignore
        )
    (connect,) = telemetry.spans()
    assert (connect.attributes or {})["error.type"]
    assert connect.status.status_code is StatusCode.UNSET


@needs_micro
@pytest.mark.parametrize("by_class", [True, False])
async def test_a_services_error_can_be_expected_on_both_sides(
    telemetry: Telemetry, nc: Client, unique: Unique, by_class: bool
):
    micro = importlib.import_module("nats.micro")
    ServiceError = importlib.import_module("nats.micro.request").ServiceError
    telemetry.instrument(expected_errors=[ServiceError if by_class else "404"])

    async def handler(request: Any) -> None:
        raise ServiceError("404", "no such order")

    word = unique()
    service = await micro.add_service(nc, name=word, version="1.0.0")
    await service.add_endpoint(name="find", subject=f"{word}.find", handler=handler)
    await nc.request(f"{word}.find", timeout=5)
    (process,) = await telemetry.wait_for(f"process {word}.find")
    await service.stop()
    assert is_accepted(process, "404")
    assert is_accepted(telemetry.span(f"request {word}.find"), "404") is not by_class


@pytest.mark.parametrize("expected", [42, [42, "NoRespondersError"], [int, NoRespondersError]])
async def test_what_is_no_exception_is_warned_about_and_the_others_hold(
    telemetry: Telemetry, nc: Client, unique: Unique, caplog: pytest.LogCaptureFixture, expected: Any
):
    telemetry.instrument(expected_errors=expected)
    assert [record.getMessage() for record in caplog.records] == [
        f"nats instrumentation: expected_errors is {expected!r}, not a list of classes of exceptions or their names;"
        " what is one in it is used"
    ]
    subject = unique()
    with pytest.raises(NoRespondersError):
        await nc.request(subject)
    assert is_accepted(telemetry.span(f"request {subject}"), NO_RESPONDERS) is (expected != 42)
