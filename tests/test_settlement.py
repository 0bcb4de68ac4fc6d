# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""When processing is over: with its body or with the settlement of its message, whichever is later."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Awaitable, Callable
from time import time_ns
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from opentelemetry.instrumentation.nats import process_message
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import StatusCode
from support.core import Connect, Unique
from support.jetstream import delivery_attributes, process_attributes, unseen
from support.spans import assert_span, span_context
from support.telemetry import Telemetry, attribute_set
from support.waiting import eventually
from support.work import DURATION, PROCESSING, SETTLEMENT, WorkQueue, current, in_task, let_go, work_queue

SETTLE: list[Any] = [
    pytest.param("ack", lambda msg: msg.ack(), id="ack"),
    pytest.param("ack", lambda msg: msg.ack_sync(), id="ack_sync"),
    pytest.param("nak", lambda msg: msg.nak(), id="nak"),
    pytest.param("nak", lambda msg: msg.nak(delay=60), id="nak with a delay"),
    pytest.param("term", lambda msg: msg.term(), id="term"),
]

Settle = Callable[[Msg], Awaitable[Any]]


@pytest.fixture
async def queue(js: JetStreamContext, telemetry: Telemetry, unique: Unique) -> WorkQueue:
    """A work queue whose messages are acknowledged explicitly, as by default."""
    return await work_queue(js, telemetry, unique("orders"))


async def body_only(queue: WorkQueue) -> None:
    """Checks that a process span ends with its body, without a settlement."""
    fetched = await queue.fetch(2)
    for number, _ in enumerate(fetched):
        assert len(queue.ended) == number
    assert len(queue.ended) == 2
    assert queue.settlements() == [None, None]


class TestASettlementThatComesLater:
    @pytest.mark.parametrize("settlement, settle", SETTLE)
    async def test_ends_the_process_span_after_its_own(
        self, settlement: str, settle: Settle, nc: Client, queue: WorkQueue, telemetry: Telemetry
    ):
        fetched = await queue.fetch(1)
        for _ in fetched:
            pass
        assert queue.ended == []
        (opened,) = queue.open
        await settle(fetched[0])
        (process,) = queue.ended
        assert span_context(process) == span_context(opened)
        assert_span(
            process,
            attributes={
                **process_attributes(
                    nc, queue.subject, 1, delivery_attributes(queue.subject, "worker", 1), group="worker"
                ),
                SETTLEMENT: settlement,
            },
            parent=queue.published[0],
            links=[queue.published[0]],
        )
        settled = telemetry.span(f"{settlement} {queue.subject}")
        assert_span(settled, parent=process, links=[])
        assert settled.end_time <= process.end_time

    @pytest.mark.parametrize("settlement, settle", SETTLE)
    async def test_in_the_body_leaves_the_end_to_the_body(self, settlement: str, settle: Settle, queue: WorkQueue):
        for msg in await queue.fetch(2):
            await settle(msg)
            assert current().is_recording()
        assert queue.settlements() == [settlement, settlement]

    async def test_of_work_that_goes_on_is_none(self, queue: WorkQueue, telemetry: Telemetry):
        (msg,) = [msg for msg in await queue.fetch(1)]  # noqa: C416 (it is the walk that counts)
        await msg.in_progress()
        await msg.in_progress()
        assert queue.ended == []
        await msg.ack()
        assert queue.settlements() == ["ack"]
        assert all(
            span.parent.span_id == queue.ended[0].context.span_id
            for span in telemetry.named(f"in_progress {queue.subject}")
        )

    @pytest.mark.parametrize("where", ["task", "thread"])
    async def test_may_come_from_anywhere(self, where: str, queue: WorkQueue):
        (msg,) = [msg for msg in await queue.fetch(1)]  # noqa: C416
        if where == "task":
            await in_task(msg.ack)
        else:
            loop = asyncio.get_running_loop()
            await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(msg.ack(), loop).result(5))
        assert queue.settlements() == ["ack"]

    async def test_a_second_time_is_an_error_and_changes_nothing(self, queue: WorkQueue, telemetry: Telemetry):
        (msg,) = [msg for msg in await queue.fetch(1)]  # noqa: C416
        await msg.nak()
        with pytest.raises(nats.errors.MsgAlreadyAckdError):
            await msg.ack()
        assert queue.settlements() == ["nak"]
        assert_span(telemetry.span(f"ack {queue.subject}"), status=StatusCode.ERROR, parent=queue.ended[0])

    async def test_that_fails_is_none(
        self, queue: WorkQueue, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, nc: Client
    ):
        (msg,) = [msg for msg in await queue.fetch(1)]  # noqa: C416

        async def fail(*args: Any, **kwargs: Any) -> None:
            raise ConnectionError("gone")

        with monkeypatch.context() as patch:
            patch.setattr(nc, "publish", fail)
            with pytest.raises(ConnectionError):
                await msg.ack()
        assert_span(telemetry.span(f"ack {queue.subject}"), status=StatusCode.ERROR, events=["exception"])
        assert queue.ended == []
        await msg.ack()
        assert queue.settlements() == ["ack"]

    async def test_that_the_server_does_not_confirm_is_none(
        self, queue: WorkQueue, monkeypatch: pytest.MonkeyPatch, nc: Client
    ):
        (msg,) = [msg for msg in await queue.fetch(1)]  # noqa: C416
        with pytest.raises(asyncio.TimeoutError):
            await msg.ack_sync(timeout=1e-9)
        assert queue.ended == []
        await msg.term()
        assert queue.settlements() == ["term"]

    @pytest.mark.parametrize("settlement, settle", SETTLE)
    @pytest.mark.instrument(should_trace=lambda operation, _: operation not in {"ack", "nak", "term"})
    async def test_that_is_not_traced_ends_it_all_the_same(
        self, queue: WorkQueue, telemetry: Telemetry, settlement: str, settle: Callable[[Msg], Awaitable[Any]]
    ):
        (msg,) = [msg for msg in await queue.fetch(1)]  # noqa: C416
        assert queue.ended == []
        await settle(msg)
        assert queue.settlements() == [settlement]
        assert telemetry.named(f"{settlement} {queue.subject}") == []

    @pytest.mark.instrument(should_trace=lambda operation, _: operation != "ack")
    async def test_that_is_not_traced_and_fails_is_none(
        self, queue: WorkQueue, monkeypatch: pytest.MonkeyPatch, nc: Client
    ):
        (msg,) = [msg for msg in await queue.fetch(1)]  # noqa: C416
        with pytest.raises(asyncio.TimeoutError):
            await msg.ack_sync(timeout=1e-9)
        assert queue.ended == []
        await msg.ack()
        assert queue.settlements() == ["ack"]

    @pytest.mark.skipif(not hasattr(Msg, "is_acked"), reason="this nats-py does not say that a message is acknowledged")
    async def test_that_was_not_seen_is_taken_for_done_with_the_body(self, queue: WorkQueue):
        for msg in await queue.fetch(1):
            with suppress_instrumentation():
                await msg.ack()
        assert queue.settlements() == [None]

    async def test_after_the_client_closed_ends_nothing_twice(
        self, connect: Connect, telemetry: Telemetry, unique: Unique
    ):
        nc = await connect()
        queue = await work_queue(nc.jetstream(), telemetry, unique("orders"))
        (msg,) = [msg for msg in await queue.fetch(1)]  # noqa: C416
        await nc.close()
        assert queue.settlements() == [None]
        with pytest.raises(nats.errors.ConnectionClosedError):
            await msg.ack()
        assert queue.settlements() == [None]


class TestAMessageThatIsNeverSettled:
    async def test_ends_its_span_when_the_program_lets_go_of_it(self, queue: WorkQueue):
        fetched = await queue.fetch(2)
        for _ in fetched:
            pass
        del _
        await let_go()
        assert len(queue.open) == 2
        fetched.pop()
        await let_go()
        assert len(queue.open) == 1
        del fetched
        await let_go()
        assert queue.settlements() == [None, None]

    async def test_or_when_the_garbage_collector_does(self, queue: WorkQueue):
        class Job:
            def __init__(self, msg: Msg) -> None:
                self.msg = msg
                self.me = self

        for msg in await queue.fetch(2):
            Job(msg)
        del msg
        await let_go()
        assert queue.settlements() == [None, None]

    async def test_or_another_thread(self, queue: WorkQueue):
        (msg,) = [msg for msg in await queue.fetch(1)]  # noqa: C416
        held, go = [msg], threading.Event()
        del msg

        def drop() -> None:
            go.wait(5)
            held.clear()

        thread = threading.Thread(target=drop)
        thread.start()
        assert len(queue.open) == 1
        go.set()
        await asyncio.to_thread(thread.join)
        await eventually(lambda: queue.ended)
        assert queue.settlements() == [None]

    async def test_though_a_task_that_was_begun_with_it_lives_on(self, queue: WorkQueue):
        """The context that a task inherits has the span, and must not have the message."""
        go = asyncio.Event()
        tasks: list[asyncio.Task[Any]] = []
        for _ in await queue.fetch(1):
            tasks.append(asyncio.create_task(go.wait()))
        del _
        await let_go()
        assert queue.settlements() == [None]
        go.set()
        await asyncio.gather(*tasks)

    async def test_though_a_body_still_runs_ends_with_the_body(self, queue: WorkQueue):
        fetched = await queue.fetch(1)
        with process_message(fetched.pop()) as span:
            await let_go()
            assert span.is_recording()
        assert queue.settlements() == [None]

    async def test_in_the_block_of_process_message_ends_with_that(self, queue: WorkQueue):
        fetched = await queue.fetch(1)
        await asyncio.sleep(0)  # until then asyncio itself holds it
        with process_message(fetched.pop()):
            pass
        assert queue.settlements() == [None]

    async def test_or_when_its_subscription_is_left(self, queue: WorkQueue):
        fetched = await queue.fetch(2)
        for _ in fetched:
            pass
        assert len(queue.open) == 2
        await queue.subscription.unsubscribe()
        assert queue.settlements() == [None, None]
        assert len(fetched) == 2

    async def test_or_when_its_subscription_is_drained(
        self, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        subject = unique("orders")
        with unseen():
            await js.add_stream(name=subject, subjects=[subject])
        subscription = await js.subscribe(subject, durable="worker", manual_ack=True)
        queue = WorkQueue(js, telemetry, subject, subscription)
        await js.publish(subject, b"")
        async for msg in subscription.messages:
            assert msg.data == b""
            break
        assert len(queue.open) == 1
        await subscription.drain()
        assert queue.settlements() == [None]
        assert not msg._ackd

    async def test_but_not_when_another_subscription_is_left(
        self, js: JetStreamContext, queue: WorkQueue, telemetry: Telemetry, unique: Unique
    ):
        other = await work_queue(js, telemetry, unique("parcels"))
        fetched = await queue.fetch(1), await other.fetch(1)
        for messages in fetched:
            for _ in messages:
                pass
        await other.subscription.unsubscribe()
        assert (len(queue.open), len(other.open)) == (1, 0)
        await fetched[0][0].ack()
        assert queue.settlements() == ["ack"]

    @pytest.mark.parametrize("how", ["close", "drain"])
    async def test_or_when_its_client_is_closed(self, how: str, connect: Connect, telemetry: Telemetry, unique: Unique):
        nc = await connect()
        queue = await work_queue(nc.jetstream(), telemetry, unique("orders"))
        fetched = await queue.fetch(2)
        for _ in fetched:
            pass
        assert len(queue.open) == 2
        await getattr(nc, how)()
        assert queue.settlements() == [None, None]
        assert len(fetched) == 2

    async def test_or_when_instrumentation_ends(self, queue: WorkQueue, telemetry: Telemetry):
        fetched = await queue.fetch(2)
        for _ in fetched:
            pass
        telemetry.uninstrument()
        assert queue.settlements() == [None, None]
        await fetched[0].ack()
        del fetched
        await let_go()
        assert queue.settlements() == [None, None]

    async def test_holds_up_nothing_else(self, queue: WorkQueue):
        """An open span is held by its message, and holds neither it nor the list."""
        fetched = await queue.fetch(1)
        for _ in fetched:
            pass
        del _
        ours = [each for each in gc.get_referrers(fetched[0]) if type(each).__module__.startswith("opentelemetry")]
        assert ours == [fetched]


class TestACallback:
    async def subscribe(self, queue: WorkQueue, callback: Any, **options: Any) -> Any:
        subscription = await queue.js.subscribe(queue.subject, durable="pushed", cb=callback, **options)
        queue.telemetry.clear()
        return subscription

    async def test_ends_with_the_automatic_ack(self, queue: WorkQueue, telemetry: Telemetry):
        async def callback(msg: Msg) -> None:
            assert current().is_recording()

        await self.subscribe(queue, callback)
        await queue.js.publish(queue.subject, b"")
        await telemetry.wait_for(f"process {queue.subject}")
        assert queue.settlements() == ["ack"]

    async def test_that_fills_a_queue_ends_with_the_worker(self, queue: WorkQueue, telemetry: Telemetry):
        jobs: asyncio.Queue[Msg] = asyncio.Queue()

        async def callback(msg: Msg) -> None:
            jobs.put_nowait(msg)

        await self.subscribe(queue, callback, manual_ack=True)
        for _ in range(3):
            await queue.js.publish(queue.subject, b"")
        messages = [await jobs.get() for _ in range(3)]
        assert (len(queue.open), queue.ended) == (3, [])
        for msg in reversed(messages):
            with process_message(msg) as span:
                assert span_context(span) in [span_context(opened) for opened in queue.open]
                await queue.js._nc.publish("work", b"")
                await msg.ack()
        assert queue.settlements() == ["ack"] * 3
        parents = [span.parent.span_id for span in telemetry.named("publish work")]
        assert parents == [span.context.span_id for span in reversed(queue.ended)]

    async def test_that_returns_without_an_ack_has_let_go_of_its_message(self, queue: WorkQueue, telemetry: Telemetry):
        """nats-py holds the message until the next one comes; that is not the program's doing."""

        async def callback(msg: Msg) -> None:
            pass

        await self.subscribe(queue, callback, manual_ack=True)
        await queue.js.publish(queue.subject, b"")
        await telemetry.wait_for(f"process {queue.subject}")
        assert queue.settlements() == [None]

    async def test_that_raises_ends_at_once(self, connect: Connect, telemetry: Telemetry, unique: Unique):
        errors: list[Exception] = []

        async def error_cb(error: Exception) -> None:
            errors.append(error)  # whose traceback holds the frame, and that the message

        async def callback(msg: Msg) -> None:
            raise LookupError("no stock")

        nc = await connect(error_cb=error_cb)
        queue = await work_queue(nc.jetstream(), telemetry, unique("orders"))
        await self.subscribe(queue, callback)
        await queue.js.publish(queue.subject, b"")
        await eventually(lambda: errors)
        assert queue.settlements() == [None]
        assert_span(queue.ended[0], status=(StatusCode.ERROR, "no stock"), events=["exception"])

    async def test_that_naks_and_raises_tells_both(self, connect: Connect, telemetry: Telemetry, unique: Unique):
        async def error_cb(error: Exception) -> None:
            pass

        async def callback(msg: Msg) -> None:
            await msg.nak(delay=60)
            raise LookupError("no stock")

        nc = await connect(error_cb=error_cb)
        queue = await work_queue(nc.jetstream(), telemetry, unique("orders"))
        await self.subscribe(queue, callback)
        await queue.js.publish(queue.subject, b"")
        await telemetry.wait_for(f"process {queue.subject}")
        assert queue.settlements() == ["nak"]
        assert_span(queue.ended[0], status=(StatusCode.ERROR, "no stock"), events=["exception"])

    async def test_that_is_cancelled_ends(self, connect: Connect, telemetry: Telemetry, unique: Unique):
        nc = await connect()
        queue = await work_queue(nc.jetstream(), telemetry, unique("orders"))
        started = asyncio.Event()

        async def callback(msg: Msg) -> None:
            started.set()
            await asyncio.Event().wait()

        await self.subscribe(queue, callback, manual_ack=True)
        await queue.js.publish(queue.subject, b"")
        await started.wait()
        await nc.close()
        await eventually(lambda: queue.ended)
        assert queue.settlements() == [None]


class TestWhoAcknowledges:
    @pytest.mark.parametrize("policy", [AckPolicy.NONE, AckPolicy.ALL])
    async def test_a_consumer_that_does_not_explicitly_has_bodies_only(
        self, policy: AckPolicy, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        await body_only(await work_queue(js, telemetry, unique("orders"), ConsumerConfig(ack_policy=policy)))

    async def test_an_ack_in_the_body_of_such_a_consumer_is_told(
        self, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        queue = await work_queue(js, telemetry, unique("orders"), ConsumerConfig(ack_policy=AckPolicy.ALL))
        for number, msg in enumerate(await queue.fetch(2)):
            if number == 1:
                await msg.ack()
        assert queue.settlements() == [None, "ack"]

    @pytest.mark.parametrize("policy", [AckPolicy.NONE, AckPolicy.EXPLICIT])
    async def test_it_is_read_from_a_durable_that_is_there_already(
        self, policy: AckPolicy, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        queue = await work_queue(js, telemetry, unique("orders"), ConsumerConfig(ack_policy=policy))
        with unseen():
            await queue.subscription.unsubscribe()
        queue.subscription = await js.pull_subscribe(queue.subject, durable="worker")
        if policy is AckPolicy.NONE:
            await body_only(queue)
        else:
            fetched = await queue.fetch(1)
            for _ in fetched:
                pass
            assert len(queue.open) == 1
            await fetched[0].nak()
            assert queue.settlements() == ["nak"]

    async def test_where_nobody_knows_either_end_is_right(
        self, js: JetStreamContext, telemetry: Telemetry, unique: Unique
    ):
        """A consumer that is bound by its name: the first settlement tells, and no end is later than it was."""
        if not hasattr(js, "pull_subscribe_bind"):
            pytest.skip("this nats-py has no pull_subscribe_bind")
        queue = await work_queue(js, telemetry, unique("orders"))
        queue.subscription = await js.pull_subscribe_bind("worker", stream=queue.subject)
        fetched = await queue.fetch(1)
        for _ in fetched:
            pass
        ended_before = time_ns()
        await asyncio.sleep(0.01)
        assert len(queue.open) == 1
        del fetched, _
        await let_go()
        assert queue.settlements() == [None]
        assert queue.ended[0].end_time <= ended_before
        (duration,) = telemetry.metric(DURATION).values()
        assert duration.sum == pytest.approx((queue.ended[0].end_time - queue.ended[0].start_time) / 1e9, abs=1e-3)

        fetched = await queue.fetch(2)
        for _ in fetched:
            pass
        await fetched[0].ack()
        ended_after = time_ns()
        del fetched, _
        await let_go()
        assert queue.settlements() == [None, "ack", None]
        assert queue.ended[2].end_time >= ended_after

    async def test_an_ordered_consumer_has_bodies_only(
        self, js: JetStreamContext, queue: WorkQueue, telemetry: Telemetry
    ):
        subscription = await js.subscribe(queue.subject, ordered_consumer=True)
        await js.publish(queue.subject, b"")
        async for msg in subscription.messages:
            assert msg.data == b""
            break
        assert queue.settlements() == [None]

    async def test_core_nats_has_bodies_only(self, nc: Client, telemetry: Telemetry, unique: Unique):
        subject = unique("orders")
        subscription = await nc.subscribe(subject)
        await nc.publish(subject, b"", reply="answers")
        async for _ in subscription.messages:
            break
        assert len(telemetry.named(f"process {subject}")) == 1
        assert _.reply == "answers"

    @pytest.mark.instrument(excluded_subjects=["excluded.>"])
    async def test_an_excluded_subject_has_no_span_at_all(self, js: JetStreamContext, telemetry: Telemetry):
        with unseen():
            await js.add_stream(name="excluded", subjects=["excluded.>"])
        subscription = await js.pull_subscribe("excluded.orders", durable="worker")
        queue = WorkQueue(js, telemetry, "excluded.orders", subscription)
        telemetry.clear()
        for msg in await queue.fetch(1):
            await msg.ack()
        assert not [span for span in telemetry.spans() if "orders" in span.name]
        assert not telemetry.metric(PROCESSING)


def unpacked(messages: list[Msg]) -> tuple[Msg, Msg]:
    first, second = messages
    return first, second


class TestOneSpanForAMessage:
    async def test_a_second_walk_is_under_it(self, nc: Client, queue: WorkQueue, telemetry: Telemetry):
        messages = await queue.fetch(3)
        assert [msg.subject for msg in messages] == [queue.subject] * 3
        for msg in messages:
            await nc.publish("work", b"")
            await msg.ack()
        assert current() is None
        assert queue.settlements() == ["ack"] * 3
        for process, work in zip(queue.ended, telemetry.named("publish work"), strict=True):
            assert_span(work, parent=process)
        for published, process in zip(queue.published, queue.ended, strict=True):
            assert_span(process, parent=published, links=[published])

    @pytest.mark.parametrize(
        "look",
        [
            list,
            tuple,
            lambda msgs: sorted(msgs, key=lambda msg: msg.data),
            lambda msgs: dict(enumerate(msgs)),
            lambda msgs: [*msgs],
            unpacked,
        ],
    )
    async def test_however_the_list_was_looked_through(
        self, look: Callable[[Any], Any], queue: WorkQueue, telemetry: Telemetry
    ):
        messages = await queue.fetch(2)
        look(messages)
        opened = [span_context(span) for span in queue.open]
        assert len(opened) == 2
        assert current() is None
        for msg, process in zip(messages[:], opened, strict=True):
            with process_message(msg) as span:
                assert span_context(span) == process
            await msg.ack()
        assert queue.settlements() == ["ack", "ack"]

    async def test_two_walks_at_a_time_share_it(self, queue: WorkQueue):
        messages = await queue.fetch(3)

        async def walk() -> list[Any]:
            seen = []
            for _ in messages:
                seen.append(span_context(current()))
                await asyncio.sleep(0)
            return seen

        first, second = await asyncio.gather(walk(), walk())
        assert first == second
        assert len({one.span_id for one in first}) == 3
        for msg in messages[:]:
            await msg.ack()
        assert [span_context(span) for span in queue.ended] == first

    async def test_process_message_reopens_it_in_any_task(self, nc: Client, queue: WorkQueue, telemetry: Telemetry):
        async def handle(msg: Msg) -> None:
            with process_message(msg):
                await asyncio.sleep(0)
                await nc.publish("work", msg.data)
                await msg.ack()

        await asyncio.gather(*(handle(msg) for msg in await queue.fetch(4)))
        assert queue.settlements() == ["ack"] * 4
        assert [span_context(span) for span in queue.ended] == [
            span.parent
            for span in sorted(telemetry.named("publish work"), key=lambda span: queue_position(queue, span))
        ]

    async def test_ends_after_the_last_of_its_bodies(self, queue: WorkQueue):
        fetched = await queue.fetch(1)
        with process_message(fetched[0]) as span:
            for msg in fetched:
                await msg.ack()
            assert span.is_recording()
        assert queue.settlements() == ["ack"]

    async def test_a_body_that_fails_marks_it_and_a_later_nak_ends_it(self, queue: WorkQueue):
        (msg,) = await queue.fetch(1)
        with contextlib.suppress(LookupError):
            with process_message(msg):
                raise LookupError("no stock")
        assert queue.ended == []
        await msg.nak(delay=60)
        assert queue.settlements() == ["nak"]
        assert_span(queue.ended[0], status=(StatusCode.ERROR, "no stock"), events=["exception"])

    async def test_once_it_has_ended_walks_make_no_other(self, queue: WorkQueue):
        messages = await queue.fetch(1)
        for msg in messages:
            await msg.ack()
        for _ in messages:
            assert current() is None
        assert len(queue.ended) == 1

    async def test_without_an_own_walk_acks_are_in_the_messages_trace(self, queue: WorkQueue, telemetry: Telemetry):
        async def handle(msg: Msg) -> None:
            await msg.ack()

        await asyncio.gather(*map(handle, await queue.fetch(3)))
        assert queue.settlements() == ["ack"] * 3
        acks = telemetry.named(f"ack {queue.subject}")
        assert [ack.parent for ack in acks] == [span_context(span) for span in queue.ended]


def queue_position(queue: WorkQueue, span: Any) -> int:
    return [published.context.trace_id for published in queue.published].index(span.context.trace_id)


class TestMetrics:
    async def test_the_duration_is_the_spans_and_has_the_settlement(
        self, nc: Client, queue: WorkQueue, telemetry: Telemetry
    ):
        messages = [msg for msg in await queue.fetch(4)]  # noqa: C416
        await asyncio.sleep(0.02)
        await messages[0].ack()
        await messages[1].nak(delay=60)
        await messages[2].term()
        messages.clear()
        await let_go()
        uri = nc._current_server.uri
        attributes = {
            "messaging.system": "nats",
            "messaging.operation.name": "process",
            "messaging.destination.name": queue.subject,
            "messaging.consumer.group.name": "worker",
            "messaging.destination.subscription.name": "worker",
            "server.address": uri.hostname,
            "server.port": uri.port,
        }
        points = telemetry.metric(DURATION)
        assert set(points) == {
            attribute_set({**attributes, **({SETTLEMENT: how} if how else {})}) for how in ("ack", "nak", "term", None)
        }
        assert all(point.count == 1 and point.sum >= 0.02 for point in points.values())

    async def test_a_failed_body_has_both_reasons(self, queue: WorkQueue, telemetry: Telemetry):
        (msg,) = await queue.fetch(1)
        with contextlib.suppress(LookupError):
            with process_message(msg):
                raise LookupError
        await msg.nak()
        (attributes,) = telemetry.metric(DURATION)
        assert {("error.type", "LookupError"), (SETTLEMENT, "nak")} <= attributes

    async def test_what_is_being_processed_can_be_seen(self, nc: Client, queue: WorkQueue, telemetry: Telemetry):
        assert not any(telemetry.metric(PROCESSING).values())
        messages = [msg for msg in await queue.fetch(3)]  # noqa: C416
        uri = nc._current_server.uri
        attributes = attribute_set(
            {
                "messaging.system": "nats",
                "messaging.destination.name": queue.subject,
                "messaging.consumer.group.name": "worker",
                "messaging.destination.subscription.name": "worker",
                "server.address": uri.hostname,
                "server.port": uri.port,
            }
        )
        assert telemetry.metric(PROCESSING) == {attributes: 3}
        metric = telemetry.metrics()[PROCESSING]
        assert metric.unit == "{message}"
        assert not metric.data.is_monotonic
        await messages[0].ack()
        with process_message(messages[1]):
            await messages[1].ack()
            assert telemetry.metric(PROCESSING) == {attributes: 2}
        assert telemetry.metric(PROCESSING) == {attributes: 1}
        messages.clear()
        await let_go()
        assert telemetry.metric(PROCESSING) == {attributes: 0}

    async def test_a_hung_handler_shows(self, nc: Client, telemetry: Telemetry, unique: Unique):
        subject = unique("orders")
        go = asyncio.Event()

        async def hang(_: Msg) -> None:
            await go.wait()

        await nc.subscribe(subject, cb=hang)
        await nc.publish(subject)
        await eventually(lambda: list(telemetry.metric(PROCESSING).values()) == [1])
        go.set()
        await telemetry.wait_for(f"process {subject}")
        assert list(telemetry.metric(PROCESSING).values()) == [0]

    async def test_it_shows_without_traces_too(self, connect: Connect, telemetry: Telemetry, unique: Unique):
        from opentelemetry.trace import NoOpTracerProvider  # noqa: PLC0415

        telemetry.instrument(tracer_provider=NoOpTracerProvider())
        nc = await connect()
        subject = unique("orders")
        subscription = await nc.subscribe(f"{subject}.*")
        await nc.publish(f"{subject}.new")
        async for _ in subscription.messages:
            ((attributes, value),) = telemetry.metric(PROCESSING).items()
            assert ("messaging.destination.template", f"{subject}.*") in attributes
            assert value == 1
            break
        assert list(telemetry.metric(PROCESSING).values()) == [0]

    async def test_a_client_that_is_gone_processes_nothing(
        self, connect: Connect, telemetry: Telemetry, unique: Unique
    ):
        nc = await connect()
        queue = await work_queue(nc.jetstream(), telemetry, unique("orders"))
        messages = [msg for msg in await queue.fetch(1)]  # noqa: C416
        assert list(telemetry.metric(PROCESSING).values()) == [1]
        await nc.close()
        assert list(telemetry.metric(PROCESSING).values()) == [0]
        assert messages
