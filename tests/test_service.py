# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Micro services: handlers, groups, errors on both sides, and what is silent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach, set_value
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from support import processes
from support.otlp import OtlpReceiver
from support.server import NatsServer
from support.spans import assert_span
from support.stores import Everything, children, operation_attributes
from support.telemetry import Telemetry, attribute_set
from support.waiting import eventually, flush

micro = pytest.importorskip("nats.micro", reason="this nats-py has no micro services")
from nats.micro.request import Request, ServiceError  # noqa: E402
from nats.micro.service import EndpointConfig, GroupConfig, Service, ServiceConfig  # noqa: E402

Connect = Callable[..., Awaitable[Client]]
Unique = Callable[[str], str]
Handler = Callable[[Request], Awaitable[None]]

GROUP = "messaging.consumer.group.name"
SIZE = "messaging.message.body.size"
INBOX = "messaging.message.conversation_id"
RESPONSE = "messaging.nats.response.body.size"
SERVICE = "messaging.nats.service.name"
VERSION = "messaging.nats.service.version"
INSTANCE = "messaging.nats.service.id"
ENDPOINT = "messaging.nats.service.endpoint"
ERROR = "messaging.nats.service.error"
ERROR_CODE = "messaging.nats.service.error_code"


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("service")


@pytest.fixture
async def service(nc: Client, name: str) -> Service:
    return await micro.add_service(nc, name=name, version="1.2.3")


async def echo(request: Request) -> None:
    await request.respond(request.data)


def process_attributes(
    nc: Client, service: Service, endpoint: str, subject: str, process: ReadableSpan, size: int, **more: Any
) -> dict[str, Any]:
    """The attributes of a handler's span; the inbox is checked by who asks, the rest here."""
    attributes = {
        GROUP: "q",
        SERVICE: service._name,
        VERSION: "1.2.3",
        INSTANCE: service.id,
        ENDPOINT: endpoint,
        INBOX: process.attributes[INBOX],
        SIZE: size,
        **more,
    }
    return operation_attributes(nc, "process", subject, attributes, operation_type="process")


class TestHandler:
    async def test_has_a_process_span_with_the_service_and_its_reply_is_below(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        await service.add_endpoint(name="echo", handler=echo, subject=f"{name}.echo")
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            assert (await nc.request(f"{name}.echo", b"hello")).data == b"hello"
        await telemetry.wait_for(4)

        _, request, process, reply = telemetry.spans()
        inbox = request.attributes[INBOX]
        assert_span(
            request,
            name=f"request {name}.echo",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(
                nc, "request", f"{name}.echo", {INBOX: inbox, SIZE: 5, RESPONSE: 5}, operation_type="send"
            ),
            parent=ambient,
            links=[],
        )
        assert inbox.startswith("_INBOX.")
        assert process.attributes[INBOX] == inbox
        assert_span(
            process,
            name=f"process {name}.echo",
            kind=SpanKind.CONSUMER,
            attributes=process_attributes(nc, service, "echo", f"{name}.echo", process, 5),
            parent=request,
            links=[request],
        )
        more = {
            "messaging.destination.temporary": True,
            "messaging.destination.anonymous": True,
            INBOX: inbox,
            SIZE: 5,
        }
        assert_span(
            reply,
            name="reply",
            kind=SpanKind.PRODUCER,
            attributes=operation_attributes(nc, "reply", inbox, more, operation_type="send"),
            parent=process,
            links=[],
        )

    async def test_runs_with_the_requesters_baggage_and_not_in_the_context_of_add_endpoint(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        seen: list[Any] = []

        async def handler(request: Request) -> None:
            seen.append((baggage.get_all(), trace.get_current_span().get_span_context().trace_id))
            await request.respond()

        token = attach(baggage.set_baggage("from", "add_endpoint"))
        with telemetry.tracer.start_as_current_span("adding"):
            await service.add_endpoint(name=name, handler=handler)
        detach(token)
        token = attach(baggage.set_baggage("from", "requester"))
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await nc.request(name, b"")
        detach(token)
        await nc.request(name, b"")
        first, second = seen
        assert first == ({"from": "requester"}, ambient.get_span_context().trace_id)
        assert second[0] == {}
        await telemetry.wait_for(lambda _: len(telemetry.named(f"process {name}")) == 2)
        last = telemetry.named(f"process {name}")[1]
        assert_span(last, parent=telemetry.named(f"request {name}")[1])

    async def test_of_a_request_without_a_context_is_a_root(
        self, telemetry: Telemetry, connect: Connect, service: Service, name: str
    ):
        await service.add_endpoint(name=name, handler=echo)
        telemetry.uninstrument()
        bare = await connect()
        telemetry.instrument()
        # Instrumented anew, the handler of the old instrumentation is silent for good: add one to the new one.
        other = await micro.add_service(service._client, name=f"{name}-other", version="1.2.3")
        await other.add_endpoint(name=f"{name}-other", handler=echo)
        await flush(service._client)
        telemetry.clear()
        await request_without_context(bare, f"{name}-other")
        [process] = await telemetry.wait_for(f"process {name}-other")
        assert_span(process, parent=None, links=[])

    @pytest.mark.instrument(use_span_links=True)
    async def test_with_span_links_starts_a_trace(self, telemetry: Telemetry, nc: Client, service: Service, name: str):
        await service.add_endpoint(name=name, handler=echo)
        await nc.request(name, b"")
        [process] = await telemetry.wait_for(f"process {name}")
        assert_span(process, parent=None, links=[telemetry.span(f"request {name}")])

    async def test_of_a_published_message_has_no_inbox(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        handled = asyncio.Event()

        async def handler(request: Request) -> None:
            handled.set()

        await service.add_endpoint(name=name, handler=handler)
        await nc.publish(name, b"hello")
        await handled.wait()
        [process] = await telemetry.wait_for(f"process {name}")
        more = {
            GROUP: "q",
            SERVICE: name,
            VERSION: "1.2.3",
            INSTANCE: service.id,
            ENDPOINT: name,
            SIZE: 5,
        }
        assert_span(
            process,
            attributes=operation_attributes(nc, "process", name, more, operation_type="process"),
            parent=telemetry.span(f"publish {name}"),
        )

    @pytest.mark.parametrize("form", ["bound method", "callable object", "partial"])
    async def test_may_be_any_callable(self, telemetry: Telemetry, nc: Client, service: Service, name: str, form: str):
        class Handlers:
            async def method(self, request: Request) -> None:
                await request.respond(b"method")

            async def __call__(self, request: Request) -> None:
                await request.respond(b"call")

        async def with_more(more: bytes, request: Request) -> None:
            await request.respond(more)

        handlers = {
            "bound method": (Handlers().method, b"method"),
            "callable object": (Handlers(), b"call"),
            "partial": (partial(with_more, b"more"), b"more"),
        }
        handler, answer = handlers[form]
        await service.add_endpoint(name=name, handler=handler)
        assert (await nc.request(name, b"")).data == answer
        assert await telemetry.wait_for(f"process {name}")

    async def test_counts_one_consumed_message_and_one_duration(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        await service.add_endpoint(name=name, handler=echo)
        await nc.request(name, b"")
        await telemetry.wait_for(f"process {name}")
        uri = nc._current_server.uri
        common = attribute_set(
            {
                "messaging.system": "nats",
                "messaging.operation.name": "process",
                "messaging.destination.name": name,
                GROUP: "q",
                "server.address": uri.hostname,
                "server.port": uri.port,
            }
        )
        assert telemetry.metric("messaging.client.consumed.messages") == {common: 1}
        [(key, point)] = telemetry.metric("messaging.process.duration").items()
        assert (key, point.count) == (common, 1)

    async def test_that_is_cancelled_ends_without_a_status(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        tasks: list[Any] = []

        async def handler(request: Request) -> None:
            tasks.append(asyncio.current_task())
            await asyncio.Event().wait()

        await service.add_endpoint(name=name, handler=handler)
        await nc.publish(name, b"")
        await eventually(lambda: tasks)
        tasks[0].cancel()
        [process] = await telemetry.wait_for(f"process {name}")
        assert_span(process, status=StatusCode.UNSET)

    async def test_that_forgets_a_context_leaves_none_to_the_next_request(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        async def handler(request: Request) -> None:
            await request.respond()
            attach(set_value("suppress_instrumentation", True))

        await service.add_endpoint(name=name, handler=handler)
        await nc.request(name, b"")
        await nc.request(name, b"")
        await telemetry.wait_for(lambda _: len(telemetry.named(f"process {name}")) == 2)


class TestEndpoints:
    async def test_several_of_a_service_have_their_own_names(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        for endpoint in ("one", "two"):
            await service.add_endpoint(EndpointConfig(name=endpoint, handler=echo, subject=f"{name}.{endpoint}"))
        for endpoint in ("one", "two"):
            await nc.request(f"{name}.{endpoint}", b"")
            [process] = await telemetry.wait_for(f"process {name}.{endpoint}")
            expected = process_attributes(nc, service, endpoint, f"{name}.{endpoint}", process, 0)
            assert_span(process, attributes=expected)

    async def test_of_groups_have_the_groups_subject(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        group = service.add_group(name=name).add_group(GroupConfig(name="inner"))
        await group.add_endpoint(name="echo", handler=echo)
        await nc.request(f"{name}.inner.echo", b"")
        [process] = await telemetry.wait_for(f"process {name}.inner.echo")
        assert_span(process, attributes=process_attributes(nc, service, "echo", f"{name}.inner.echo", process, 0))

    async def test_with_a_wildcard_are_named_by_it(self, telemetry: Telemetry, nc: Client, service: Service, name: str):
        await service.add_endpoint(name="echo", handler=echo, subject=f"{name}.*.created")
        await nc.request(f"{name}.acme.created", b"")
        [process] = await telemetry.wait_for(f"process {name}.*.created")
        more = {"messaging.destination.template": f"{name}.*.created"}
        expected = process_attributes(nc, service, "echo", f"{name}.acme.created", process, 0, **more)
        assert_span(process, attributes=expected)

    @pytest.mark.parametrize("level", ["service", "group", "endpoint"])
    async def test_have_the_queue_group_of_the_nearest_level(
        self, telemetry: Telemetry, nc: Client, name: str, level: str
    ):
        service = await micro.add_service(nc, ServiceConfig(name=name, version="1.2.3", queue_group="of-service"))
        group = service.add_group(name=name, queue_group="of-group" if level != "service" else None)
        await group.add_endpoint(name="echo", handler=echo, queue_group="of-endpoint" if level == "endpoint" else None)
        await nc.request(f"{name}.echo", b"")
        [process] = await telemetry.wait_for(f"process {name}.echo")
        expected = process_attributes(nc, service, "echo", f"{name}.echo", process, 0, **{GROUP: f"of-{level}"})
        assert_span(process, attributes=expected)

    async def test_of_two_instances_share_the_requests(
        self, telemetry: Telemetry, nc: Client, connect: Connect, name: str
    ):
        clients = [nc, await connect()]
        instances = [await micro.add_service(client, name=name, version="1.2.3") for client in clients]
        for instance in instances:
            await instance.add_endpoint(name=name, handler=echo)
            await flush(instance._client)
        telemetry.clear()
        for _ in range(30):
            await nc.request(name, b"")
        await telemetry.wait_for(lambda _: len(telemetry.named(f"process {name}")) == 30)
        ids = [span.attributes[INSTANCE] for span in telemetry.named(f"process {name}")]
        assert set(ids) == {instance.id for instance in instances}
        for instance, client in zip(instances, clients, strict=True):
            process = next(
                span for span in telemetry.named(f"process {name}") if span.attributes[INSTANCE] == instance.id
            )
            assert_span(process, attributes=process_attributes(client, instance, name, name, process, 0))

    async def test_may_be_called_by_a_handler_of_another_service(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        async def front(request: Request) -> None:
            answer = await nc.request(f"{name}.back", request.data)
            await request.respond(answer.data)

        await service.add_endpoint(name="front", handler=front, subject=f"{name}.front")
        other = await micro.add_service(nc, name=f"{name}-back", version="2.0.0")
        await other.add_endpoint(name="back", handler=echo, subject=f"{name}.back")
        assert (await nc.request(f"{name}.front", b"hello")).data == b"hello"
        await telemetry.wait_for(6)
        front_span, back_span = telemetry.span(f"process {name}.front"), telemetry.span(f"process {name}.back")
        inner = telemetry.span(f"request {name}.back")
        assert_span(inner, parent=front_span)
        assert_span(back_span, parent=inner)
        assert children(telemetry.spans(), front_span) == [f"request {name}.back", "reply"]
        assert children(telemetry.spans(), back_span) == ["reply"]


class TestErrors:
    async def test_a_handlers_exception_is_on_its_span_and_the_answer_on_the_requesters(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        async def handler(request: Request) -> None:
            raise ValueError("no such order")

        await service.add_endpoint(name=name, handler=handler)
        answer = await nc.request(name, b"")
        assert answer.headers["Nats-Service-Error"] == "ValueError('no such order')"
        await telemetry.wait_for(3)

        request, process, reply = telemetry.spans()
        error = {ERROR: "ValueError('no such order')", ERROR_CODE: "500"}
        expected = process_attributes(nc, service, name, name, process, 0, **error, **{"error.type": "ValueError"})
        assert_span(
            process,
            attributes=expected,
            status=(StatusCode.ERROR, "no such order"),
            events=["exception"],
        )
        [event] = process.events
        assert event.attributes["exception.type"] == "ValueError"
        assert "raise ValueError" in event.attributes["exception.stacktrace"]
        inbox = request.attributes[INBOX]
        more = {INBOX: inbox, SIZE: 0, RESPONSE: 0, **error, "error.type": "500"}
        assert_span(
            request,
            attributes=operation_attributes(nc, "request", name, more, operation_type="send"),
            status=(StatusCode.ERROR, "ValueError('no such order')"),
        )
        more = {
            "messaging.destination.temporary": True,
            "messaging.destination.anonymous": True,
            INBOX: inbox,
            SIZE: 0,
            **error,
        }
        assert_span(
            reply,
            name="reply",
            attributes=operation_attributes(nc, "reply", inbox, more, operation_type="send"),
            parent=process,
        )

    async def test_a_service_error_is_no_surprise(self, telemetry: Telemetry, nc: Client, service: Service, name: str):
        async def handler(request: Request) -> None:
            raise ServiceError("404", "no such order")

        await service.add_endpoint(name=name, handler=handler)
        await nc.request(name, b"hello")
        await telemetry.wait_for(3)

        request, process, reply = telemetry.spans()
        error = {ERROR: "no such order", ERROR_CODE: "404"}
        expected = process_attributes(nc, service, name, name, process, 5, **error, **{"error.type": "404"})
        assert_span(process, attributes=expected, status=(StatusCode.ERROR, "no such order"))
        assert_span(request, status=(StatusCode.ERROR, "no such order"))
        assert error.items() <= request.attributes.items()
        assert request.attributes["error.type"] == "404"
        assert_span(reply, parent=process)
        assert error.items() <= reply.attributes.items()

    @pytest.mark.parametrize("by_keyword", [False, True])
    async def test_respond_error_is_on_all_three_spans_with_its_data(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str, by_keyword: bool
    ):
        async def handler(request: Request) -> None:
            if by_keyword:
                await request.respond_error(
                    data=b"details", description="no such order", code="404", headers={"order": "8812"}
                )
            else:
                await request.respond_error("404", "no such order", b"details", {"order": "8812"})

        await service.add_endpoint(name=name, handler=handler)
        answer = await nc.request(name, b"hello")
        assert answer.data == b"details"
        assert answer.headers["order"] == "8812"
        await telemetry.wait_for(3)

        request, process, reply = telemetry.spans()
        error = {ERROR: "no such order", ERROR_CODE: "404"}
        expected = process_attributes(nc, service, name, name, process, 5, **error, **{"error.type": "404"})
        assert_span(process, attributes=expected, status=(StatusCode.ERROR, "no such order"))
        inbox = request.attributes[INBOX]
        more = {INBOX: inbox, SIZE: 5, RESPONSE: 7, **error, "error.type": "404"}
        assert_span(
            request,
            attributes=operation_attributes(nc, "request", name, more, operation_type="send"),
            status=(StatusCode.ERROR, "no such order"),
        )
        more = {
            "messaging.destination.temporary": True,
            "messaging.destination.anonymous": True,
            INBOX: inbox,
            SIZE: 7,
            **error,
        }
        assert_span(
            reply, attributes=operation_attributes(nc, "reply", inbox, more, operation_type="send"), parent=process
        )

    async def test_an_exception_after_an_error_answer_is_what_the_handler_failed_with(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        async def handler(request: Request) -> None:
            await request.respond_error("404", "no such order")
            raise ValueError("and then this")

        await service.add_endpoint(name=name, handler=handler)
        await nc.request(name, b"")
        [process] = await telemetry.wait_for(f"process {name}")
        assert_span(process, status=(StatusCode.ERROR, "and then this"), events=["exception"])
        assert process.attributes["error.type"] == "ValueError"
        assert process.attributes[ERROR_CODE] == "500"
        assert_span(telemetry.span(f"request {name}"), status=(StatusCode.ERROR, "no such order"))

    async def test_an_error_is_in_the_metrics(self, telemetry: Telemetry, nc: Client, service: Service, name: str):
        async def handler(request: Request) -> None:
            raise ServiceError("404", "no such order")

        await service.add_endpoint(name=name, handler=handler)
        await nc.request(name, b"")
        await telemetry.wait_for(3)
        errors = {
            (attributes["messaging.operation.name"], attributes.get("error.type"))
            for metric in ("messaging.process.duration", "messaging.client.operation.duration")
            for attributes in map(dict, telemetry.metric(metric))
        }
        assert {("process", "404"), ("request", "404"), ("reply", None)} <= errors

    async def test_no_responders_is_the_requesters_error_alone(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        await service.add_endpoint(name=name, handler=echo)
        await service.stop()
        telemetry.clear()
        with pytest.raises(Exception, match="no responders"):
            await nc.request(name, b"")
        [request] = telemetry.spans()
        assert_span(request, name=f"request {name}", status=StatusCode.ERROR)

    async def test_respond_without_a_reply_subject_is_nats_pys_error(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        raised: list[Exception] = []

        async def handler(request: Request) -> None:
            try:
                await request.respond(b"to nobody")
            except ValueError as error:
                raised.append(error)

        await service.add_endpoint(name=name, handler=handler)
        await nc.publish(name, b"")
        [process] = await telemetry.wait_for(f"process {name}")
        assert str(raised[0]) == "no reply subject set"
        assert_span(process)
        assert children(telemetry.spans(), process) == []

    @pytest.mark.parametrize("arguments", [(), ("404",), (404, 7), ("404", "no such order", b"", {}, "more")])
    async def test_wrong_arguments_of_respond_error_are_nats_pys_error(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str, arguments: tuple[Any, ...]
    ):
        outcomes: list[Any] = []

        async def handler(request: Request) -> None:
            try:
                await request.respond_error(*arguments)
                outcomes.append(None)
            except Exception as error:
                outcomes.append((type(error), str(error)))
            await request.respond()

        for instrumented in (False, True):
            telemetry.uninstrument()
            if instrumented:
                telemetry.instrument()
            made = await micro.add_service(nc, name=f"{name}-{instrumented}", version="1.2.3")
            await made.add_endpoint(name=f"{name}-{instrumented}", handler=handler)
            await nc.request(f"{name}-{instrumented}", b"")
        assert outcomes[0] == outcomes[1]


class TestSilence:
    @pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
    async def test_the_discovery_verbs_make_no_spans_and_carry_no_context(
        self, telemetry: Telemetry, nc: Client, connect: Connect, name: str, verb: str
    ):
        seen: list[Any] = []

        async def listen(msg: Any) -> None:
            seen.append(msg.headers)

        telemetry.uninstrument()
        other = await connect()
        await other.subscribe("$SRV.>", cb=listen)
        await flush(other)
        telemetry.instrument()
        service = await micro.add_service(nc, name=name, version="1.2.3")
        before = operations(telemetry)
        with telemetry.tracer.start_as_current_span("ambient"):
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{service.id}"):
                answer = await nc.request(subject, b"")
                assert json.loads(answer.data)["name"] == name
                assert answer.headers is None
            await nc.publish(f"$SRV.{verb}", reply=nc.new_inbox())
        await eventually(lambda: len(seen) == 4)
        assert seen == [None] * 4
        assert [span.name for span in telemetry.spans()] == ["ambient"]
        assert operations(telemetry) == before
        assert telemetry.metric("messaging.client.consumed.messages") == {}
        assert telemetry.metric("messaging.process.duration") == {}

    async def test_making_and_stopping_a_service_makes_no_spans(self, telemetry: Telemetry, nc: Client, name: str):
        async with await micro.add_service(nc, name=name, version="1.2.3") as service:
            await service.add_endpoint(name=name, handler=echo)
        assert service.stopped.is_set()
        assert telemetry.spans() == []

    async def test_statistics_and_info_are_what_they_are_without_instrumentation(
        self, telemetry: Telemetry, nc: Client, name: str
    ):
        async def handler(request: Request) -> None:
            if request.data == b"raise":
                raise ValueError("mine")
            if request.data == b"error":
                raise ServiceError("404", "no such order")
            if request.data == b"answer":
                await request.respond_error("404", "no such order")
                return
            await request.respond(request.data)

        statistics: list[Any] = []
        infos: list[Any] = []
        for instrumented in (False, True):
            telemetry.uninstrument()
            if instrumented:
                telemetry.instrument()
            service = await micro.add_service(
                nc, name=name, version="1.2.3", description="mine", metadata={"a": "b"}, stats_handler=lambda _: 7
            )
            await service.add_endpoint(name=name, handler=handler, metadata={"c": "d"})
            for data in (b"fine", b"raise", b"error", b"answer", b"error"):
                await nc.request(name, data)
            [endpoint] = (service.stats()).endpoints
            assert endpoint.processing_time > 0
            values = endpoint.to_dict()
            del values["processing_time"], values["average_processing_time"]
            statistics.append(values)
            info = service.info().to_dict()
            del info["id"]
            infos.append(info)
            await service.stop()
        assert statistics[0] == statistics[1]
        assert (statistics[1]["num_requests"], statistics[1]["num_errors"]) == (5, 3)
        assert statistics[1]["last_error"] == "404:no such order"
        assert infos[0] == infos[1]

    async def test_a_handler_is_plain_once_uninstrumented(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        await service.add_endpoint(name=name, handler=echo)
        telemetry.uninstrument()
        assert (await nc.request(name, b"hello")).data == b"hello"
        assert telemetry.spans() == []

    async def test_a_handler_that_runs_while_it_is_uninstrumented_ends_its_span(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        async def handler(request: Request) -> None:
            telemetry.uninstrument()
            await request.respond(b"hello")

        await service.add_endpoint(name=name, handler=handler)
        assert (await nc.request(name, b"")).data == b"hello"
        [process] = await telemetry.wait_for(f"process {name}")
        assert_span(process)

    async def test_a_service_from_before_instrumentation_works_on(self, telemetry: Telemetry, nc: Client, name: str):
        telemetry.uninstrument()
        service = await micro.add_service(nc, name=name, version="1.2.3")
        await service.add_endpoint(name=name, handler=echo)
        telemetry.instrument()
        assert (await nc.request(name, b"hello")).data == b"hello"
        request = telemetry.span(f"request {name}")
        assert_span(request)
        [reply] = await telemetry.wait_for("reply")
        assert_span(reply, parent=request)

    @pytest.mark.instrument(excluded_subjects=["quiet.>"])
    async def test_an_excluded_subject_makes_no_spans_but_the_context_travels_through(
        self, telemetry: Telemetry, nc: Client, service: Service, unique: Unique
    ):
        subject = unique("subject")

        async def handler(request: Request) -> None:
            await nc.publish(subject, b"")
            await request.respond()

        await service.add_endpoint(name="endpoint", handler=handler, subject="quiet.endpoint")
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await nc.request("quiet.endpoint", b"")
        await telemetry.wait_for("reply")
        publish = telemetry.span(f"publish {subject}")
        assert_span(publish, parent=ambient)
        assert sorted(span.name for span in telemetry.spans()) == ["ambient", publish.name, "reply"]


class TestAnswers:
    async def test_carry_the_replys_context_in_a_copy_of_the_headers(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        headers = {"kind": "mine"}

        async def handler(request: Request) -> None:
            await request.respond(b"hello", headers)

        await service.add_endpoint(name=name, handler=handler)
        answer = await nc.request(name, b"")
        [reply] = await telemetry.wait_for("reply")
        assert headers == {"kind": "mine"}
        assert answer.headers["kind"] == "mine"
        assert f"{reply.get_span_context().span_id:016x}" in answer.headers["traceparent"]

    async def test_from_another_task_after_the_handler_are_under_its_span(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        requests: list[Request] = []

        async def handler(request: Request) -> None:
            requests.append(request)

        await service.add_endpoint(name=name, handler=handler)
        asking = asyncio.ensure_future(nc.request(name, b""))
        await eventually(lambda: requests)
        await telemetry.wait_for(f"process {name}")
        await requests[0].respond(b"late")
        assert (await asking).data == b"late"
        assert_span(telemetry.span("reply"), parent=telemetry.span(f"process {name}"))

    async def test_with_an_error_from_another_task_leave_the_handlers_span_as_it_was(
        self, telemetry: Telemetry, nc: Client, service: Service, name: str
    ):
        requests: list[Request] = []

        async def handler(request: Request) -> None:
            requests.append(request)

        await service.add_endpoint(name=name, handler=handler)
        asking = asyncio.ensure_future(nc.request(name, b""))
        await telemetry.wait_for(f"process {name}")
        await requests[0].respond_error("404", "no such order")
        await asking
        assert_span(telemetry.span(f"process {name}"))
        assert_span(telemetry.span("reply"), parent=telemetry.span(f"process {name}"))
        assert_span(telemetry.span(f"request {name}"), status=(StatusCode.ERROR, "no such order"))

    async def test_of_a_plain_subscription_with_the_error_headers_mark_the_requester_too(
        self, telemetry: Telemetry, nc: Client, name: str
    ):
        async def callback(msg: Any) -> None:
            await nc.publish(msg.reply, headers={"Nats-Service-Error": "mine", "Nats-Service-Error-Code": "7"})

        await nc.subscribe(name, cb=callback)
        await nc.request(name, b"")
        request = telemetry.span(f"request {name}")
        assert_span(request, status=(StatusCode.ERROR, "mine"))
        assert request.attributes["error.type"] == "7"


class TestWhatAHandlerDoes:
    async def test_is_all_traced(self, telemetry: Telemetry, nc: Client, service: Service, name: str, unique: Unique):
        everything = await Everything.made(nc, unique("all"), telemetry)

        async def handler(request: Request) -> None:
            await everything.use()
            await request.respond()

        await service.add_endpoint(name=name, handler=handler)
        await nc.request(name, b"", timeout=5)
        [process] = await telemetry.wait_for(f"process {name}")
        assert children(telemetry.spans(), process) == [*everything.names, "reply"]

    async def test_is_all_traced_where_the_endpoint_is_added_inside_of_a_watchers_loop(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, service: Service, name: str, unique: Unique
    ):
        everything = await Everything.made(nc, unique("all"), telemetry)
        kv = await js.create_key_value(bucket=unique("bucket"))
        watcher = await kv.watchall()
        await kv.put("greeting", b"hello")

        async def handler(request: Request) -> None:
            await everything.use()
            await request.respond()

        while await watcher.updates() is None:
            pass
        await kv.put("greeting", b"again")
        async for _ in watcher:
            await service.add_endpoint(name=name, handler=handler)
            break
        await nc.request(name, b"", timeout=5)
        [process] = await telemetry.wait_for(f"process {name}")
        assert_span(process, parent=telemetry.span(f"request {name}"))
        assert children(telemetry.spans(), process) == [*everything.names, "reply"]

    async def test_with_a_watcher_is_all_traced(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, service: Service, name: str, unique: Unique
    ):
        everything = await Everything.made(nc, unique("all"), telemetry)
        kv = await js.create_key_value(bucket=unique("bucket"))

        async def handler(request: Request) -> None:
            watcher = await kv.watchall()
            await kv.put("greeting", b"hello")
            while await watcher.updates() is None:
                pass
            await kv.put("greeting", b"again")
            async for _ in watcher:
                await everything.use()
                break
            await request.respond()

        await service.add_endpoint(name=name, handler=handler)
        await nc.request(name, b"", timeout=5)
        [process] = await telemetry.wait_for(f"process {name}")
        bucket = kv._name
        assert children(telemetry.spans(), process) == [
            f"kv.watchall {bucket}",
            f"kv.put {bucket}",
            f"receive {bucket}",
            f"kv.put {bucket}",
            f"process {bucket}",
            "reply",
        ]
        assert children(telemetry.spans(), telemetry.span(f"process {bucket}")) == everything.names


SERVICE_PROGRAM = """
import asyncio, signal, sys
import nats
import nats.micro

async def main():
    async with await nats.connect(sys.argv[1]) as nc:
        service = await nats.micro.add_service(nc, name=sys.argv[2], version="1.2.3")

        async def handler(request):
            await nc.publish(sys.argv[2] + ".seen", b"")
            raise nats.micro.service.ServiceError("404", "no such order")

        await service.add_endpoint(name=sys.argv[2], handler=handler)
        await nc.flush()
        await nc.flush()
        print("ready")
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        await service.stop()

asyncio.run(main())
"""


async def test_a_service_in_another_process_is_in_the_requesters_trace(
    telemetry: Telemetry, nc: Client, nats_server: NatsServer, otlp: OtlpReceiver, name: str
):
    environment = otlp.environment("service")
    async with processes.Program(SERVICE_PROGRAM, nats_server.url, name, env=environment) as program:
        await program.wait_for_output("ready")
        await nc.request(name, b"")
        program.terminate()
        assert (await program.wait()).returncode == 0, program.stderr
    await asyncio.to_thread(otlp.wait_for, lambda receiver: len(receiver.spans) >= 4)
    request = telemetry.span(f"request {name}")
    assert_span(request, status=(StatusCode.ERROR, "no such order"))
    [process], [publish], [reply] = (
        otlp.named(f"process {name}"),
        otlp.named(f"publish {name}.seen"),
        otlp.named("reply"),
    )
    context = request.get_span_context()
    assert (int(process.trace_id, 16), int(process.parent_span_id, 16)) == (context.trace_id, context.span_id)
    assert {publish.parent_span_id, reply.parent_span_id} == {process.span_id}
    assert process.attributes[SERVICE] == name
    assert (process.status, process.description) == (StatusCode.ERROR, "no such order")


def operations(telemetry: Telemetry) -> set[Any]:
    """What operations there are measurements of."""
    return set(telemetry.metric("messaging.client.operation.duration"))


async def request_without_context(client: Client, subject: str) -> Any:
    """A request by whoever knows of no context: straight from below the instrumentation."""
    with suppress_instrumentation():
        return await client.request(subject, b"")
