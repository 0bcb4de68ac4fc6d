# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""JetStream management: streams, consumers, and reads of stored messages."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext, JetStreamManager
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError, ServiceUnavailableError

from opentelemetry.trace import SpanKind, StatusCode
from support.core import Connect, ServerFactory, Unique
from support.jetstream import NATS_PY, manage_attributes, read_attributes, unseen
from support.spans import assert_span
from support.telemetry import Telemetry
from support.waiting import eventually

named_consumers = pytest.mark.skipif(
    "name" not in ConsumerConfig.__dataclass_fields__, reason="this nats-py can't name a consumer that is not durable"
)

Make = Callable[[JetStreamManager, str], Awaitable[Any]]


@pytest.fixture
async def stream(js: JetStreamContext, unique: Unique) -> str:
    """A stream with a message and two consumers, `worker` and `spare`."""
    name = unique("orders")
    with unseen():
        await js.add_stream(name=name, subjects=[f"{name}.>"], allow_direct=True)
        await js.publish(f"{name}.new", b"hi")
        for durable in ("worker", "spare"):
            await js.add_consumer(name, durable_name=durable, ack_policy=AckPolicy.EXPLICIT)
    return name


def call(method: str, make: Make, case: str = "", *, consumer: str | None = None, about: str | None = "{}") -> Any:
    """One way to call a method: the attributes that its span then has, `{}` standing for the stream's name."""
    missing = not hasattr(JetStreamManager, method)
    return pytest.param(
        method,
        make,
        about,
        consumer,
        id=f"{method}, {case}" if case else method,
        marks=pytest.mark.skipif(missing, reason=f"this nats-py has no {method}"),
    )


CALLS = [
    call("account_info", lambda js, s: js.account_info(), about=None),
    call("stream_info", lambda js, s: js.stream_info(s)),
    call("stream_info", lambda js, s: js.stream_info(name=s), "by name"),
    call("add_stream", lambda js, s: js.add_stream(name=f"{s}-b", subjects=[f"{s}-b"]), about="{}-b"),
    call(
        "add_stream",
        lambda js, s: js.add_stream(StreamConfig(name=f"{s}-b", subjects=[f"{s}-b"])),
        "a configuration",
        about="{}-b",
    ),
    call(
        "add_stream",
        lambda js, s: js.add_stream(config=StreamConfig(name="other"), name=f"{s}-b", subjects=[f"{s}-b"]),
        "a configuration and a name",
        about="{}-b",
    ),
    call("update_stream", lambda js, s: js.update_stream(name=s, subjects=[f"{s}.>"], max_msgs=10, allow_direct=True)),
    call("delete_stream", lambda js, s: js.delete_stream(s)),
    call("purge_stream", lambda js, s: js.purge_stream(s)),
    call("purge_stream", lambda js, s: js.purge_stream(s, subject=f"{s}.new"), "a subject"),
    call("streams_info", lambda js, s: js.streams_info(), about=None),
    call("streams_info_iterator", lambda js, s: js.streams_info_iterator(), about=None),
    call("consumer_info", lambda js, s: js.consumer_info(s, "worker"), consumer="worker"),
    call("consumer_info", lambda js, s: js.consumer_info(consumer="worker", stream=s), "by name", consumer="worker"),
    call("consumers_info", lambda js, s: js.consumers_info(s)),
    call(
        "add_consumer",
        lambda js, s: js.add_consumer(s, durable_name="new", ack_policy=AckPolicy.EXPLICIT),
        consumer="new",
    ),
    call(
        "add_consumer",
        lambda js, s: js.add_consumer(s, ConsumerConfig(durable_name="new", ack_policy=AckPolicy.EXPLICIT)),
        "a configuration",
        consumer="new",
    ),
    call("delete_consumer", lambda js, s: js.delete_consumer(s, "spare"), consumer="spare"),
    call(
        "pause_consumer",
        lambda js, s: js.pause_consumer(s, "worker", "2099-01-01T00:00:00Z"),
        consumer="worker",
    ),
    call("resume_consumer", lambda js, s: js.resume_consumer(s, "worker"), consumer="worker"),
    call("reset_consumer", lambda js, s: js.reset_consumer(s, "worker"), consumer="worker"),
    call("delete_msg", lambda js, s: js.delete_msg(s, 1)),
]


class TestEveryMethod:
    @pytest.mark.parametrize("method, make, about, consumer", CALLS)
    @pytest.mark.parametrize("through", ["jetstream", "jsm"])
    async def test_it_is_one_span(
        self,
        through: str,
        method: str,
        make: Make,
        about: str | None,
        consumer: str | None,
        nc: Client,
        telemetry: Telemetry,
        stream: str,
    ):
        about = about.format(stream) if about else None
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await make(getattr(nc, through)(), stream)
        _, *spans = telemetry.spans()
        assert len(spans) == 1
        assert_span(
            spans[0],
            name=f"{method} {about}" if about else method,
            kind=SpanKind.CLIENT,
            attributes=manage_attributes(nc, method, about, **({"consumer": consumer} if consumer else {})),
            parent=ambient,
            links=[],
        )

    async def test_the_stream_that_is_found_by_a_subject_is_told(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        assert await js.find_stream_name_by_subject(f"{stream}.new") == stream
        assert_span(
            telemetry.span("find_stream_name_by_subject"),
            kind=SpanKind.CLIENT,
            attributes=manage_attributes(nc, "find_stream_name_by_subject", None)
            | {"messaging.nats.jetstream.stream": stream},
        )

    async def test_a_consumer_that_the_server_names_is_told_and_in_no_name(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        info = await js.add_consumer(stream, ConsumerConfig(ack_policy=AckPolicy.EXPLICIT))
        assert_span(
            telemetry.span(f"add_consumer {stream}"),
            attributes=manage_attributes(nc, "add_consumer", stream, consumer=info.name),
        )

    async def test_a_subscriptions_consumer_info_is_the_managers(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        push = await js.subscribe(f"{stream}.new", durable="pushed")
        pull = await js.pull_subscribe(f"{stream}.new", "worker-b")
        telemetry.clear()
        await push.consumer_info()
        await pull.consumer_info()
        first, second = telemetry.spans()
        assert_span(
            first,
            name=f"consumer_info {stream}",
            attributes=manage_attributes(nc, "consumer_info", stream, consumer="pushed"),
        )
        assert_span(
            second,
            name=f"consumer_info {stream}",
            attributes=manage_attributes(nc, "consumer_info", stream, consumer="worker-b"),
        )

    def test_no_method_is_forgotten_here(self):
        called = {case.values[0] for case in CALLS}
        public = {
            name
            for name, method in vars(JetStreamManager).items()
            if not name.startswith("_") and inspect.iscoroutinefunction(inspect.unwrap(method))
        }
        assert public - called == {"find_stream_name_by_subject", "get_msg", "get_last_msg"}


class TestMethodsThatFail:
    @pytest.mark.parametrize(
        "method, arguments, code",
        [
            ("stream_info", ["missing"], 10059),
            ("delete_stream", ["missing"], 10059),
            ("purge_stream", ["missing"], 10059),
            ("consumers_info", ["missing"], 10059),
            ("consumer_info", ["missing", "worker"], 10059),
            ("get_msg", ["missing", 1], 10059),
            ("get_last_msg", ["missing", "orders"], 10059),
        ],
    )
    async def test_an_unknown_stream_is_an_error_with_the_servers_code(
        self, method: str, arguments: list[Any], code: int, js: JetStreamContext, telemetry: Telemetry
    ):
        with pytest.raises(NotFoundError) as raised:
            await getattr(js, method)(*arguments)
        assert raised.value.err_code == code
        span = telemetry.span(f"{method} missing")
        assert_span(span, kind=SpanKind.CLIENT, links=[], status=(StatusCode.ERROR, str(raised.value)))
        assert span.attributes["error.type"] == str(code)
        assert span.attributes["messaging.nats.jetstream.stream"] == "missing"

    @pytest.mark.parametrize("method", ["consumer_info", "delete_consumer"])
    async def test_an_unknown_consumer_is_one_too(
        self, method: str, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        with pytest.raises(NotFoundError) as raised:
            await getattr(js, method)(stream, "missing")
        assert_span(
            telemetry.span(f"{method} {stream}"),
            attributes=manage_attributes(nc, method, stream, consumer="missing", error="10014"),
            status=(StatusCode.ERROR, str(raised.value)),
        )

    @pytest.mark.skipif(NATS_PY < (2, 6), reason="this nats-py stumbles over it")
    async def test_a_subject_of_no_stream_is_not_found(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        with pytest.raises(NotFoundError) as raised:
            await js.find_stream_name_by_subject(unique("nowhere"))
        assert_span(
            telemetry.span("find_stream_name_by_subject"),
            attributes=manage_attributes(nc, "find_stream_name_by_subject", None, error="nats.js.errors.NotFoundError"),
            status=(StatusCode.ERROR, str(raised.value)),
        )

    async def test_what_the_server_refuses_otherwise_is_recorded_with_its_stack_trace(
        self, nc: Client, js: JetStreamContext, telemetry: Telemetry, stream: str
    ):
        with pytest.raises(BadRequestError) as raised:
            await js.add_stream(name=stream, subjects=[f"{stream}.other"])
        assert_span(
            telemetry.span(f"add_stream {stream}"),
            attributes=manage_attributes(nc, "add_stream", stream, error=str(raised.value.err_code)),
            status=(StatusCode.ERROR, str(raised.value)),
            events=["exception"],
        )

    @pytest.mark.parametrize(
        "how",
        [
            lambda js: js.add_consumer("missing", durable_name="worker"),
            lambda js: js.add_consumer(stream="missing", config=ConsumerConfig(durable_name="worker")),
            lambda js: js.add_consumer("missing", ConsumerConfig(durable_name="other"), durable_name="worker"),
            pytest.param(lambda js: js.add_consumer("missing", name="worker"), marks=named_consumers),
            pytest.param(lambda js: js.add_consumer("missing", ConsumerConfig(name="worker")), marks=named_consumers),
        ],
        ids=["durable", "durable of a configuration", "both", "name", "name of a configuration"],
    )
    async def test_a_failed_add_consumer_tells_whose(
        self, how: Callable[[JetStreamContext], Awaitable[Any]], nc: Client, js: JetStreamContext, telemetry: Telemetry
    ):
        with pytest.raises(APIError) as raised:
            await how(js)
        assert_span(
            telemetry.span("add_consumer missing"),
            attributes=manage_attributes(nc, "add_consumer", "missing", consumer="worker", error="10059"),
            status=(StatusCode.ERROR, str(raised.value)),
        )

    @pytest.mark.parametrize(
        "make, name",
        [
            (lambda js: js.account_info(), "account_info"),
            (lambda js: js.stream_info("orders"), "stream_info orders"),
            (lambda js: js.add_stream(name="orders"), "add_stream orders"),
            (lambda js: js.get_msg("orders", 1), "get_msg orders"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_without_jetstream_it_is_unavailable(
        self,
        make: Callable[[JetStreamContext], Awaitable[Any]],
        name: str,
        server_factory: ServerFactory,
        connect: Connect,
        telemetry: Telemetry,
    ):
        nc = await connect(server_factory(jetstream=False))
        with pytest.raises(ServiceUnavailableError) as raised:
            await make(nc.jetstream())
        span = telemetry.span(name)
        assert_span(span, status=(StatusCode.ERROR, str(raised.value)))
        assert span.attributes["error.type"] == "nats.js.errors.ServiceUnavailableError"

    @pytest.mark.skipif(NATS_PY < (2, 15), reason="this nats-py does not look at names")
    @pytest.mark.parametrize("name", ["", "with.dot", "with space", None])
    async def test_a_name_that_nats_py_refuses_is_an_error_of_its_own(
        self, name: str | None, js: JetStreamContext, telemetry: Telemetry
    ):
        with pytest.raises(Exception) as raised:
            await js.stream_info(name)  # type: ignore[arg-type]
        (span,) = telemetry.spans()
        assert_span(span, status=(StatusCode.ERROR, str(raised.value)), events=["exception"])
        telemetry.uninstrument()
        with pytest.raises(type(raised.value)) as plain:
            await js.stream_info(name)  # type: ignore[arg-type]
        assert str(plain.value) == str(raised.value)

    @pytest.mark.parametrize("method", ["stream_info", "add_consumer", "get_msg"])
    async def test_missing_arguments_get_what_python_says(
        self, method: str, js: JetStreamContext, telemetry: Telemetry
    ):
        with pytest.raises(TypeError) as raised:
            await getattr(js, method)()
        telemetry.uninstrument()
        with pytest.raises(TypeError) as plain:
            await getattr(js, method)()
        assert str(raised.value) == str(plain.value)


READS = [
    pytest.param("get_msg", lambda js, s: js.get_msg(s, 1), id="get_msg by sequence"),
    pytest.param("get_msg", lambda js, s: js.get_msg(stream_name=s, seq=1), id="get_msg by keyword"),
    pytest.param("get_msg", lambda js, s: js.get_msg(s, subject=f"{s}.new"), id="get_msg by subject"),
    pytest.param("get_msg", lambda js, s: js.get_msg(s, 1, direct=True), id="get_msg, direct"),
    pytest.param("get_msg", lambda js, s: js.get_msg(s, subject=f"{s}.new", direct=True), id="get_msg, direct last"),
    pytest.param("get_msg", lambda js, s: js.get_msg(s, seq=1, subject=f"{s}.*", next=True), id="get_msg, the next"),
    pytest.param("get_last_msg", lambda js, s: js.get_last_msg(s, f"{s}.new"), id="get_last_msg"),
    pytest.param("get_last_msg", lambda js, s: js.get_last_msg(s, f"{s}.new", direct=True), id="get_last_msg, direct"),
]


class TestReadingStoredMessages:
    @pytest.fixture
    async def empty(self, js: JetStreamContext, unique: Unique) -> str:
        name = unique("orders")
        with unseen():
            await js.add_stream(name=name, subjects=[f"{name}.>"], allow_direct=True)
        return name

    @pytest.mark.parametrize("method, read", READS)
    async def test_it_links_to_the_writer_and_has_no_other_part_in_its_trace(
        self, method: str, read: Make, nc: Client, js: JetStreamContext, telemetry: Telemetry, empty: str
    ):
        await js.publish(f"{empty}.new", b"hi")
        published = telemetry.span(f"publish {empty}.new")
        await read(js, empty)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            assert (await read(js, empty)).data == b"hi"
        alone, within = telemetry.named(f"{method} {empty}")
        attributes = read_attributes(nc, method, empty, size=2, sequence=1)
        assert_span(alone, kind=SpanKind.CLIENT, attributes=attributes, parent=None, links=[(published, {})])
        assert_span(within, kind=SpanKind.CLIENT, attributes=attributes, parent=ambient, links=[published])
        assert len(telemetry.spans()) == 4

    @pytest.mark.parametrize("method, read", READS)
    async def test_a_message_without_a_context_has_no_link(
        self, method: str, read: Make, nc: Client, js: JetStreamContext, telemetry: Telemetry, empty: str
    ):
        with unseen():
            await js.publish(f"{empty}.new", b"", headers={"Nats-Msg-Id": "order-1"})
        await read(js, empty)
        assert_span(
            telemetry.span(f"{method} {empty}"),
            attributes=read_attributes(nc, method, empty, size=0, sequence=1, id="order-1"),
            parent=None,
            links=[],
        )

    @pytest.mark.parametrize("direct", [False, True])
    async def test_a_message_that_is_not_there_is_an_error(
        self, direct: bool, nc: Client, js: JetStreamContext, telemetry: Telemetry, empty: str
    ):
        with pytest.raises(NotFoundError) as raised:
            await js.get_msg(empty, 7, direct=direct)
        code = str(raised.value.err_code) if raised.value.err_code else "nats.js.errors.NotFoundError"
        assert_span(
            telemetry.span(f"get_msg {empty}"),
            attributes=read_attributes(nc, "get_msg", empty, error=code),
            links=[],
            status=(StatusCode.ERROR, str(raised.value)),
        )

    async def test_what_is_read_and_published_again_is_the_new_publishers(
        self, js: JetStreamContext, telemetry: Telemetry, empty: str
    ):
        await js.publish(f"{empty}.new", b"hi")
        stored = await js.get_msg(empty, 1)
        telemetry.clear()
        await js.publish(f"{empty}.again", stored.data, headers=stored.headers)
        await js.get_msg(empty, 2)
        again = telemetry.span(f"publish {empty}.again")
        assert_span(again, kind=SpanKind.PRODUCER, parent=None, links=[])
        assert_span(telemetry.span(f"get_msg {empty}"), links=[again])

    @pytest.mark.parametrize("end", ["restart", "kill"])
    async def test_the_link_outlives_the_server_and_the_program(
        self, end: str, server_factory: ServerFactory, connect: Connect, telemetry: Telemetry
    ):
        server = server_factory()
        nc = await connect(server)
        js = nc.jetstream()
        with unseen():
            await js.add_stream(name="orders", subjects=["orders"], allow_direct=True)
        await js.publish("orders", b"hi")
        published = telemetry.span("publish orders")
        if end == "kill":
            await nc.close()
            server.kill()
            server.start()
            nc = await connect(server)
        else:
            server.restart()
            await eventually(lambda: nc.stats["reconnects"] and nc.is_connected)
        # As in another process, which knows nothing of the publish.
        telemetry.instrument()
        telemetry.clear()
        js = nc.jetstream()
        for read in (
            js.get_msg("orders", 1),
            js.get_msg("orders", 1, direct=True),
            js.get_last_msg("orders", "orders"),
        ):
            await read
        spans = telemetry.spans()
        assert len(spans) == 3
        for span in spans:
            operation = str(span.attributes["messaging.operation.name"])
            attributes = read_attributes(nc, operation, "orders", size=2, sequence=1)
            assert_span(span, attributes=attributes, parent=None, links=[published])
