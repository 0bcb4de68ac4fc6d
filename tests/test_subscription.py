# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.aio.subscription`: callbacks, `async for msg in sub.messages`, `next_msg`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from support.core import Connect, Inbox, Unique, process_attributes, receive_attributes
from support.patched import VERSION
from support.spans import assert_span, tree
from support.telemetry import Telemetry
from support.waiting import eventually, flush


class Handlers:
    """Every kind of callable that a program may have for a callback."""

    def __init__(self) -> None:
        self.inbox = Inbox()

    async def method(self, msg: Msg) -> None:
        await self.inbox.take(msg)

    @classmethod
    async def on_class(cls, inbox: Inbox, msg: Msg) -> None:
        await inbox.take(msg)

    @staticmethod
    async def static(inbox: Inbox, msg: Msg) -> None:
        await inbox.take(msg)

    def function(self) -> Any:
        async def function(msg: Msg) -> None:
            await self.inbox.take(msg)

        return function

    def decorated(self) -> Any:
        function = self.function()

        @functools.wraps(function)
        async def decorated(*args: Any, **kwargs: Any) -> None:
            await function(*args, **kwargs)

        return decorated


class CallableClass:
    def __init__(self) -> None:
        self.inbox = Inbox()

    async def __call__(self, msg: Msg) -> None:
        await self.inbox.take(msg)


GOOD: dict[str, Callable[[Handlers], Any]] = {
    "coroutine function": lambda handlers: handlers.function(),
    "bound method": lambda handlers: handlers.method,
    "partial of a function": lambda handlers: functools.partial(Handlers.static, handlers.inbox),
    "partial of a method": lambda handlers: functools.partial(handlers.method),
    "partial of a class method": lambda handlers: functools.partial(Handlers.on_class, handlers.inbox),
    "partial of a partial": lambda handlers: functools.partial(functools.partial(Handlers.static), handlers.inbox),
    "bound __call__": lambda handlers: _sharing(handlers).__call__,
    "decorated function": lambda handlers: handlers.decorated(),
}


def _sharing(handlers: Handlers) -> CallableClass:
    instance = CallableClass()
    instance.inbox = handlers.inbox
    return instance


def plain(msg: Msg) -> None:
    raise AssertionError("called")


async def generator(msg: Msg) -> Any:
    yield msg


BAD: dict[str, Any] = {
    "plain function": plain,
    "lambda that returns a coroutine": lambda msg: asyncio.sleep(0),
    "partial of a plain function": functools.partial(plain),
    "callable class": CallableClass(),
    "asynchronous generator function": generator,
    "class": CallableClass,
    "no callable": 5,
    "builtin": print,
}


class TestCallback:
    @pytest.mark.parametrize("kind", GOOD)
    async def test_of_any_kind_that_nats_py_takes_is_traced(
        self, telemetry: Telemetry, nc: Client, unique: Unique, kind: str
    ):
        subject = unique("orders")
        handlers = Handlers()
        await nc.subscribe(subject, cb=GOOD[kind](handlers))
        await nc.publish(subject, b"12345")
        assert (await handlers.inbox.next()).data == b"12345"
        await telemetry.wait_for(2)
        publish, process = telemetry.spans()
        assert_span(
            process,
            name=f"process {subject}",
            kind=SpanKind.CONSUMER,
            attributes=process_attributes(nc, subject, 5),
            parent=publish,
            links=[(publish, {})],
        )

    @pytest.mark.parametrize("kind", BAD)
    async def test_that_nats_py_refuses_is_refused_in_the_same_words(
        self, telemetry: Telemetry, nc: Client, unique: Unique, kind: str
    ):
        async def outcome() -> Any:
            try:
                await nc.subscribe(unique("orders"), cb=BAD[kind])
            except Exception as error:
                return type(error), str(error)
            return "accepted"

        traced = await outcome()
        telemetry.uninstrument()
        assert traced == await outcome()
        assert traced != "accepted"

    async def test_arguments_of_subscribe_come_by_position_and_by_keyword(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject, group = unique("orders"), unique("group")
        inbox = Inbox()
        await nc.subscribe(subject, group, inbox.take)
        await nc.subscribe(cb=inbox.take, queue=group, subject=f"{subject}.more")
        await nc.publish(subject, b"")
        await nc.publish(f"{subject}.more", b"")
        await inbox.next(), await inbox.next()
        for name in (subject, f"{subject}.more"):
            await telemetry.wait_for(f"process {name}")
            assert_span(
                telemetry.span(f"process {name}"),
                attributes=process_attributes(nc, name, 0, group=group),
            )

    async def test_on_a_wildcard_is_named_after_it(self, telemetry: Telemetry, nc: Client, unique: Unique):
        word = unique("orders")
        inbox = Inbox()
        await nc.subscribe(f"{word}.*.created", cb=inbox.take)
        await nc.subscribe(f"{word}.eu.>", cb=inbox.take)
        await nc.publish(f"{word}.tea.created", b"")
        await nc.publish(f"{word}.eu.tea", b"1")
        await inbox.next(), await inbox.next()
        await telemetry.wait_for(4)
        star, full = f"{word}.*.created", f"{word}.eu.>"
        assert_span(
            telemetry.span(f"process {star}"),
            attributes=process_attributes(nc, f"{word}.tea.created", 0, template=star),
            parent=telemetry.span(f"publish {word}.tea.created"),
        )
        assert_span(
            telemetry.span(f"process {full}"),
            attributes=process_attributes(nc, f"{word}.eu.tea", 1, template=full),
        )

    async def test_on_everything_sees_inboxes_without_a_name(self, telemetry: Telemetry, nc: Client):
        got = Inbox()
        await nc.subscribe(">", cb=got.take)
        inbox = nc.new_inbox()
        await nc.publish(inbox, b"")
        await got.next()
        await telemetry.wait_for(2)
        span = telemetry.span("process")
        assert span.attributes["messaging.destination.name"] == inbox
        assert span.attributes["messaging.destination.anonymous"] is True
        assert "messaging.destination.template" not in span.attributes

    async def test_of_one_queue_group_gets_each_message_once(
        self, telemetry: Telemetry, nc: Client, connect: Connect, unique: Unique
    ):
        subject, group = unique("orders"), unique("workers")
        inbox = Inbox()
        for client in (nc, await connect(), await connect()):
            await client.subscribe(subject, queue=group, cb=inbox.take)
            await flush(client)
        telemetry.clear()
        for _ in range(12):
            await nc.publish(subject, b"")
        await telemetry.wait_for(24)
        published = {span.context.span_id for span in telemetry.named(f"publish {subject}")}
        processed = telemetry.named(f"process {subject}")
        assert {span.parent.span_id for span in processed} == published
        assert len(processed) == 12
        assert {span.attributes["messaging.consumer.group.name"] for span in processed} == {group}

    async def test_of_several_subscriptions_gets_a_span_each(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        inbox = Inbox()
        for _ in range(3):
            await nc.subscribe(subject, cb=inbox.take)
        await nc.publish(subject, b"")
        await telemetry.wait_for(4)
        publish, *processes = telemetry.spans()
        for process in processes:
            assert_span(process, name=f"process {subject}", parent=publish, links=[publish])

    async def test_with_a_limit_ends_after_the_last_message(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        inbox = Inbox()
        sub = await nc.subscribe(subject, cb=inbox.take)
        await sub.unsubscribe(limit=2)
        limited = await nc.subscribe(f"{subject}.max", cb=inbox.take, max_msgs=1)
        await limited.unsubscribe(limit=1)
        for name in (subject, f"{subject}.max"):
            for _ in range(4):
                await nc.publish(name, b"")
        for _ in range(3):
            await inbox.next()
        await flush(nc)
        await telemetry.wait_for(8 + 3)
        assert inbox.messages.empty()
        assert len(telemetry.named(f"process {subject}")) == 2
        assert len(telemetry.named(f"process {subject}.max")) == 1

    async def test_is_drained_with_its_subscription(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        seen: list[bytes] = []
        gate = asyncio.Event()

        async def slow(msg: Msg) -> None:
            await gate.wait()
            seen.append(msg.data)

        sub = await nc.subscribe(subject, cb=slow)
        for number in range(5):
            await nc.publish(subject, b"%d" % number)
        draining = asyncio.create_task(sub.drain())
        gate.set()
        await draining
        assert seen == [b"0", b"1", b"2", b"3", b"4"]
        assert len(telemetry.named(f"process {subject}")) == 5
        assert len(telemetry.spans()) == 10

    async def test_is_drained_with_its_connection(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        seen: list[bytes] = []

        async def handler(msg: Msg) -> None:
            await nc.publish(f"{subject}.done", msg.data)  # draining lets publishes pass until the last
            seen.append(msg.data)

        await nc.subscribe(subject, cb=handler)
        for number in range(5):
            await nc.publish(subject, b"%d" % number)
        await nc.drain()
        assert nc.is_closed
        assert len(seen) == 5
        processes = {span.context.span_id for span in telemetry.named(f"process {subject}")}
        assert {span.parent.span_id for span in telemetry.named(f"publish {subject}.done")} == processes
        assert len(processes) == 5
        assert len(telemetry.spans()) == 15

    async def test_that_raises_marks_its_span_and_reaches_error_cb(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        errors: list[Exception] = []

        async def error_cb(error: Exception) -> None:
            errors.append(error)

        nc = await connect(error_cb=error_cb)
        telemetry.clear()
        subject = unique("orders")
        refusal = LookupError("no such order")

        async def refuse(msg: Msg) -> None:
            raise refusal

        await nc.subscribe(subject, cb=refuse)
        await nc.publish(subject, b"")
        await nc.publish(subject, b"")
        await eventually(lambda: len(errors) == 2)
        assert errors == [refusal, refusal]
        for process in telemetry.named(f"process {subject}"):
            assert_span(
                process,
                kind=SpanKind.CONSUMER,
                attributes=process_attributes(nc, subject, 0, error="LookupError"),
                status=(StatusCode.ERROR, "no such order"),
                events=["exception"],
            )
            [event] = process.events
            assert event.attributes["exception.type"] == "LookupError"
            assert event.attributes["exception.message"] == "no such order"
            assert "raise refusal" in event.attributes["exception.stacktrace"]
        assert len(telemetry.spans()) == 4

    async def test_that_raises_an_error_of_its_own_has_its_whole_name(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        class OrderError(Exception):
            def __str__(self) -> str:
                raise RuntimeError("can't even say it")

        raised = asyncio.Event()

        async def error_cb(error: Exception) -> None:
            raised.set()

        async def refuse(msg: Msg) -> None:
            raise OrderError

        nc = await connect(error_cb=error_cb)
        subject = unique("orders")
        await nc.subscribe(subject, cb=refuse)
        await nc.publish(subject, b"")
        await raised.wait()
        name = f"{__name__}.{OrderError.__qualname__}"
        span = telemetry.span(f"process {subject}")
        assert span.attributes["error.type"] == name
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, name)

    async def test_that_meets_a_timeout_has_no_stack_trace(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        raised = asyncio.Event()

        async def error_cb(error: Exception) -> None:
            raised.set()

        nc = await connect(error_cb=error_cb)
        subject = unique("orders")

        async def ask(msg: Msg) -> None:
            await nc.request(f"{subject}.nobody", b"", timeout=5)

        await nc.subscribe(subject, cb=ask)
        await nc.publish(subject, b"")
        await raised.wait()
        no_responders = (StatusCode.ERROR, "nats: no responders available for request")
        assert_span(telemetry.span(f"process {subject}"), status=no_responders)
        assert_span(
            telemetry.span(f"request {subject}.nobody"),
            parent=telemetry.span(f"process {subject}"),
            status=no_responders,
        )

    @pytest.mark.parametrize("how", ["unsubscribe", "close"])
    async def test_that_is_cancelled_ends_its_span_without_a_status(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, how: str
    ):
        nc = await connect()
        subject = unique("orders")
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def endless(msg: Msg) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        sub = await nc.subscribe(subject, cb=endless)
        await nc.publish(subject, b"")
        await started.wait()
        attributes = process_attributes(nc, subject, 0)
        await (sub.unsubscribe() if how == "unsubscribe" else nc.close())
        await cancelled.wait()
        await telemetry.wait_for(f"process {subject}")
        assert_span(telemetry.span(f"process {subject}"), attributes=attributes, status=StatusCode.UNSET)

    async def test_that_cancels_itself_stops_its_subscription_as_before(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        calls: list[Msg] = []

        async def quit_(msg: Msg) -> None:
            calls.append(msg)
            raise asyncio.CancelledError

        sub = await nc.subscribe(subject, cb=quit_)
        await nc.publish(subject, b"")
        await nc.publish(subject, b"")
        await eventually(lambda: sub._wait_for_msgs_task.done())
        assert len(calls) == 1
        assert_span(telemetry.span(f"process {subject}"), status=StatusCode.UNSET)

    async def test_gets_messages_one_after_the_other(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        running = 0
        most = 0
        done = asyncio.Event()

        async def handler(msg: Msg) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            if msg.data == b"last":
                done.set()

        await nc.subscribe(subject, cb=handler)
        for data in (b"", b"", b"last"):
            await nc.publish(subject, data)
        await done.wait()
        assert most == 1

    async def test_of_the_programs_inbox_is_not_called_for_status_messages_with_a_span(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        inbox, got = nc.new_inbox(), Inbox()
        await nc.subscribe(inbox, cb=got.take)
        await nc.publish(unique("nobody"), b"", reply=inbox)
        assert (await got.next()).headers["Status"] == "503"
        assert [span.name.split()[0] for span in telemetry.spans()] == ["publish"]

    async def test_is_the_programs_own_when_someone_looks(self, telemetry: Telemetry, nc: Client, unique: Unique):
        seen = Inbox()
        sub = await nc.subscribe(unique("orders"), cb=seen.take)
        assert isinstance(sub, Subscription)
        assert bool(sub._cb)
        if VERSION >= (2, 6):
            with pytest.raises(nats.errors.Error, match="cannot be used in async subscriptions"):
                await sub.next_msg()
        with pytest.raises(nats.errors.Error, match="non iteration subscription type"):
            _ = sub.messages

    async def test_with_a_future_gets_the_message_without_a_span(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        future: asyncio.Future[Msg] = asyncio.Future()
        await nc.subscribe(subject, future=future)
        await nc.publish(subject, b"1")
        assert (await asyncio.wait_for(future, 5)).data == b"1"
        assert [span.name for span in telemetry.spans()] == [f"publish {subject}"]


async def publish_numbers(nc: Client, subject: str, count: int) -> None:
    for number in range(count):
        await nc.publish(subject, b"%d" % number)


def current() -> trace.SpanContext:
    return trace.get_current_span().get_span_context()


class TestMessages:
    async def test_make_a_process_span_around_each_body(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject, queue="workers")
        await publish_numbers(nc, subject, 3)
        bodies = []
        async for msg in sub.messages:
            bodies.append(current())
            await nc.publish(f"{subject}.audit", msg.data)
            if msg.data == b"2":
                break
        assert not current().is_valid
        publishes = telemetry.named(f"publish {subject}")
        processes = telemetry.named(f"process {subject}")
        audits = telemetry.named(f"publish {subject}.audit")
        assert [process.context for process in processes] == bodies
        for publish, process, audit in zip(publishes, processes, audits, strict=True):
            assert_span(
                process,
                kind=SpanKind.CONSUMER,
                attributes=process_attributes(nc, subject, 1, group="workers"),
                parent=publish,
                links=[publish],
            )
            assert_span(audit, parent=process)
            assert process.start_time <= audit.start_time <= audit.end_time <= process.end_time
        assert len(telemetry.spans()) == 9

    async def test_end_one_body_before_the_next_begins(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await publish_numbers(nc, subject, 3)
        finished: list[int] = []
        async for msg in sub.messages:
            finished.append(len(telemetry.named(f"process {subject}")))
            if msg.data == b"2":
                break
        assert finished == [0, 1, 2]
        assert len(telemetry.named(f"process {subject}")) == 3

    async def test_wait_for_the_next_one_outside_of_the_last_body(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"0")

        async def loop() -> None:
            async for _ in sub.messages:
                pass

        task = asyncio.create_task(loop())
        # The loop waits for a second message now: the first one's span must not last until it comes.
        await telemetry.wait_for(f"process {subject}")
        await sub.unsubscribe()
        await task
        assert_span(telemetry.span(f"process {subject}"), status=StatusCode.UNSET)

    @pytest.mark.parametrize("how", ["break", "return", "exception", "limit", "unsubscribe", "cancel", "close"])
    async def test_leave_nothing_behind_however_the_loop_is_left(
        self, telemetry: Telemetry, connect: Connect, unique: Unique, how: str
    ):
        nc = await connect()
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        if how == "limit":
            await sub.unsubscribe(limit=1)
        await nc.publish(subject, b"0")
        telemetry.clear()
        after: list[Any] = []
        body = asyncio.Event()

        async def walk() -> None:
            async for _ in sub.messages:
                body.set()
                if how == "break":
                    break
                if how == "return":
                    return
                if how == "exception":
                    raise LookupError("no such order")
                if how == "unsubscribe":
                    await sub.unsubscribe()
                if how == "close":
                    await nc.close()
                if how == "cancel":
                    await asyncio.Event().wait()

        async def run() -> None:
            with telemetry.tracer.start_as_current_span("ambient") as ambient:
                try:
                    await walk()
                except (LookupError, asyncio.CancelledError):
                    pass
                after.append((current(), ambient.get_span_context()))
            after.append(len(telemetry.named(f"process {subject}")))

        task = asyncio.create_task(run())
        await body.wait()
        if how == "cancel":
            task.cancel()
        await asyncio.wait_for(task, 5)
        (current_after, ambient), ended = after
        assert current_after == ambient
        assert ended == 1
        assert_span(telemetry.span(f"process {subject}"), parent=ambient, status=StatusCode.UNSET)

    async def test_are_left_before_the_line_after_break(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"0")
        async for _ in sub.messages:
            assert current().is_valid
            break
        assert not current().is_valid
        assert len(telemetry.named(f"process {subject}")) == 1
        await nc.publish(f"{subject}.after", b"")
        assert_span(telemetry.span(f"publish {subject}.after"), parent=None)

    async def test_are_left_in_an_except_clause_too(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"0")
        try:
            async for _ in sub.messages:
                raise LookupError
        except LookupError:
            assert not current().is_valid
            await nc.publish(f"{subject}.failed", b"")
        assert_span(telemetry.span(f"publish {subject}.failed"), parent=None)

    async def test_keep_an_exception_of_the_body_as_it_was(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"0")
        refusal = LookupError("no such order")
        with pytest.raises(LookupError) as raised:
            async for _ in sub.messages:
                raise refusal
        assert raised.value is refusal
        assert raised.value.__context__ is None

    async def test_can_be_walked_again_where_the_last_loop_stopped(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await publish_numbers(nc, subject, 4)
        seen: list[bytes] = []
        for _ in range(2):
            async for msg in sub.messages:
                seen.append(msg.data)
                if len(seen) % 2 == 0:
                    break
        assert seen == [b"0", b"1", b"2", b"3"]
        assert len(telemetry.named(f"process {subject}")) == 4

    async def test_of_a_nested_loop_are_under_the_outer_body(self, telemetry: Telemetry, nc: Client, unique: Unique):
        outer, inner = unique("orders"), unique("items")
        orders, items = await nc.subscribe(outer), await nc.subscribe(inner)
        await nc.publish(outer, b"")
        await nc.publish(inner, b"")
        async for _ in orders.messages:
            order = current()
            async for _ in items.messages:
                assert current() != order
                break
            assert current() == order
            await nc.publish(f"{outer}.done", b"")
            break
        assert not current().is_valid
        assert_span(telemetry.span(f"process {outer}"), parent=telemetry.span(f"publish {outer}"))
        assert_span(
            telemetry.span(f"process {inner}"),
            parent=telemetry.span(f"process {outer}"),
            links=[telemetry.span(f"publish {inner}")],
        )
        assert_span(telemetry.span(f"publish {outer}.done"), parent=telemetry.span(f"process {outer}"))

    async def test_can_be_shared_by_two_tasks(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        bodies: list[tuple[str, trace.SpanContext]] = []

        async def work(name: str) -> None:
            async for msg in sub.messages:
                mine = current()
                bodies.append((name, mine))
                await nc.publish(f"{subject}.{name}", b"")
                await asyncio.sleep(0)
                assert current() == mine
                if msg.data == b"5":
                    await sub.unsubscribe()
            assert not current().is_valid

        tasks = [asyncio.create_task(work(name)) for name in ("left", "right")]
        await publish_numbers(nc, subject, 6)
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert {name for name, _ in bodies} == {"left", "right"}
        assert len({body.span_id for _, body in bodies}) == 6
        for name in ("left", "right"):
            mine = {body.span_id for owner, body in bodies if owner == name}
            assert {span.parent.span_id for span in telemetry.named(f"publish {subject}.{name}")} == mine

    async def test_of_a_comprehension_are_processed_too(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await sub.unsubscribe(limit=3)
        await publish_numbers(nc, subject, 3)
        assert [msg.data async for msg in sub.messages] == [b"0", b"1", b"2"]
        assert not current().is_valid
        assert len(telemetry.named(f"process {subject}")) == 3

    async def test_through_a_generator_of_the_programs_are_processed_too(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await sub.unsubscribe(limit=3)
        await publish_numbers(nc, subject, 3)

        async def numbers() -> Any:
            async for msg in sub.messages:
                yield int(msg.data)

        async for number in numbers():
            await nc.publish(f"{subject}.{'abc'[number]}", b"")
        assert not current().is_valid
        processes = telemetry.named(f"process {subject}")
        for process, letter in zip(processes, "abc", strict=True):
            assert_span(telemetry.span(f"publish {subject}.{letter}"), parent=process)

    async def test_taken_one_by_one_are_received(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"12")
        msg = await asyncio.wait_for(sub.messages.__anext__(), 5)
        assert msg.data == b"12"
        assert not current().is_valid
        publish = telemetry.span(f"publish {subject}")
        assert_span(
            telemetry.span(f"receive {subject}"),
            kind=SpanKind.CLIENT,
            attributes=receive_attributes(nc, subject, 2),
            parent=publish,
            links=[publish],
        )

    async def test_may_be_stepped_in_a_task_of_their_own(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await publish_numbers(nc, subject, 2)
        steps = sub.messages.__aiter__()
        for number in range(2):
            msg = await asyncio.create_task(steps.__anext__())
            assert msg.data == b"%d" % number
            # What a task makes current is not current outside of it.
            assert not current().is_valid
        del steps
        assert len(telemetry.named(f"process {subject}")) == 2

    async def test_end_with_the_event_loop(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        started = asyncio.Event()

        async def work() -> None:
            async for _ in sub.messages:
                started.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await started.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert_span(telemetry.span(f"process {subject}"), status=StatusCode.UNSET)


class TestNextMsg:
    async def test_makes_a_receive_span(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(f"{subject}.*", queue="workers")
        await nc.publish(f"{subject}.tea", b"123", reply="answers")
        msg = await sub.next_msg(timeout=5)
        assert msg.data == b"123"
        publish = telemetry.span(f"publish {subject}.tea")
        assert_span(
            telemetry.span(f"receive {subject}.*"),
            kind=SpanKind.CLIENT,
            attributes=receive_attributes(
                nc, f"{subject}.tea", 3, template=f"{subject}.*", group="workers", conversation="answers"
            ),
            parent=publish,
            links=[publish],
        )
        assert len(telemetry.spans()) == 2
        assert not current().is_valid

    @pytest.mark.parametrize("timeout", [(0.01,), {"timeout": 0.01}], ids=["by position", "by keyword"])
    async def test_that_finds_nothing_makes_no_span_and_raises_what_nats_py_raises(
        self, telemetry: Telemetry, nc: Client, unique: Unique, timeout: Any
    ):
        sub = await nc.subscribe(unique("orders"))
        with pytest.raises(nats.errors.TimeoutError):
            await (sub.next_msg(*timeout) if isinstance(timeout, tuple) else sub.next_msg(**timeout))
        assert not telemetry.spans()
        [(attributes, duration)] = [
            (dict(attributes), duration)
            for attributes, duration in telemetry.metric("messaging.client.operation.duration").items()
            if ("messaging.operation.name", "receive") in attributes
        ]
        assert "error.type" not in attributes
        assert duration.count == 1

    async def test_covers_the_time_of_waiting_under_an_ambient_span(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        with telemetry.tracer.start_as_current_span("ambient"):
            waiting = asyncio.create_task(sub.next_msg(timeout=5))
        await flush(nc)
        await nc.publish(subject, b"")
        await waiting
        publish, receive = telemetry.span(f"publish {subject}"), telemetry.span(f"receive {subject}")
        assert receive.start_time < publish.start_time < receive.end_time

    async def test_that_is_cancelled_makes_no_span(self, telemetry: Telemetry, nc: Client, unique: Unique):
        sub = await nc.subscribe(unique("orders"))
        task = asyncio.create_task(sub.next_msg(timeout=60))
        await eventually(lambda: sub._pending_queue._getters)
        task.cancel()
        # nats-py 2.2 makes a timeout of it.
        with pytest.raises((asyncio.CancelledError, nats.errors.TimeoutError)):
            await task
        assert not telemetry.spans()

    @pytest.mark.skipif(VERSION < (2, 6), reason="this nats-py waits for a message all the same")
    async def test_on_a_closed_connection_is_an_error(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        await nc.close()
        with pytest.raises(nats.errors.ConnectionClosedError):
            await sub.next_msg()
        [span] = telemetry.spans()
        assert_span(
            span,
            name=f"receive {subject}",
            kind=SpanKind.CLIENT,
            status=(StatusCode.ERROR, "nats: connection closed"),
            events=["exception"],
        )

    async def test_gets_a_status_message_without_a_span(self, telemetry: Telemetry, nc: Client, unique: Unique):
        inbox = nc.new_inbox()
        sub = await nc.subscribe(inbox)
        await nc.publish(unique("nobody"), b"", reply=inbox)
        assert (await sub.next_msg()).headers["Status"] == "503"
        assert [span.name.split()[0] for span in telemetry.spans()] == ["publish"]

    async def test_of_a_worker_makes_a_span_a_message(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique("orders")
        sub = await nc.subscribe(subject)
        seen: list[bytes] = []

        async def work() -> None:
            while len(seen) < 5:
                try:
                    msg = await sub.next_msg(timeout=0.01)
                except nats.errors.TimeoutError:
                    continue
                seen.append(msg.data)
                await nc.publish(f"{subject}.done", msg.data)

        worker = asyncio.create_task(work())
        await publish_numbers(nc, subject, 5)
        await asyncio.wait_for(worker, 5)
        receives = telemetry.named(f"receive {subject}")
        assert [receive.parent.span_id for receive in receives] == [
            publish.context.span_id for publish in telemetry.named(f"publish {subject}")
        ]
        # The work after next_msg() is nobody's: process_message() or activate_next_msg says whose it is.
        for done in telemetry.named(f"publish {subject}.done"):
            assert_span(done, parent=None)
        assert len(telemetry.spans()) == 15, tree(telemetry.spans())
