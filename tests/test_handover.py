# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What is handed over stays what it was, and is the same message in whatever task, thread or process it gets to."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
import pickle
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

import opentelemetry.instrumentation.nats as ours
from opentelemetry import trace
from opentelemetry.instrumentation.nats import message_context, process_message
from opentelemetry.trace import INVALID_SPAN
from support.core import Connect, Unique
from support.jetstream import unseen
from support.spans import assert_span, span_context
from support.stores import listed, watching
from support.telemetry import Telemetry
from support.waiting import eventually
from support.work import WorkQueue, current, let_go, work_queue


@pytest.fixture
async def queue(js: JetStreamContext, telemetry: Telemetry, unique: Unique) -> WorkQueue:
    return await work_queue(js, telemetry, unique("orders"))


@pytest.fixture
async def bucket(js: JetStreamContext, unique: Unique) -> Any:
    with unseen():
        return await js.create_key_value(bucket=unique("bucket"))


def in_process(value: Any) -> Any:
    return type(value).__name__, value.value if hasattr(value, "value") else value


class OfNoClient:
    """What stands for the client in a message that is pickled: a client can't be."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OfNoClient)


def as_bare(value: Any) -> None:
    """Checks that nothing of ours is on or in what a program has."""
    assert not [name for name in vars(value) if "opentelemetry" in name]
    fields = {field.name for field in dataclasses.fields(value)}
    assert set(vars(value)) <= fields


class TestCopiesAndPickles:
    @pytest.mark.parametrize("door", ["callback", "loop", "next_msg", "step", "fetch", "walked"])
    async def test_a_message_has_nothing_of_ours(
        self, door: str, nc: Client, queue: WorkQueue, telemetry: Telemetry, unique: Unique
    ):
        subject = unique("subject")
        if door in ("fetch", "walked"):
            messages = await queue.fetch(1)
            msg = messages[0]
            if door == "walked":
                for _ in messages:
                    pass
        elif door == "callback":
            got: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

            async def callback(msg: Msg) -> None:
                got.set_result(msg)

            await nc.subscribe(subject, cb=callback)
            await nc.publish(subject, b"0")
            msg = await got
        else:
            subscription = await nc.subscribe(subject)
            await nc.publish(subject, b"0")
            if door == "loop":
                async for msg in subscription.messages:
                    assert msg.data == b"0"
                    break
            elif door == "step":
                msg = await subscription.messages.__anext__()
            else:
                msg = await subscription.next_msg()
        as_bare(msg)
        client = msg._client
        msg._client = OfNoClient()  # type: ignore[assignment]
        try:
            for copied in (
                copy.copy(msg),
                copy.deepcopy(msg),
                pickle.loads(pickle.dumps(msg)),
                dataclasses.replace(msg),
            ):
                assert type(copied) is Msg
                assert vars(copied) == vars(msg)
            assert b"opentelemetry" not in pickle.dumps(msg)
        finally:
            msg._client = client
        if msg.reply:
            await msg.ack()

    async def test_a_copy_can_be_acknowledged_and_the_message_let_go(self, queue: WorkQueue, telemetry: Telemetry):
        messages = await queue.fetch(1)
        for msg in messages:
            copied = copy.copy(msg)
        del msg
        messages.clear()
        await let_go()
        await copied.ack()
        (process,) = queue.ended
        ack = telemetry.span(f"ack {queue.subject}")
        assert ack.context.trace_id == process.context.trace_id

    @pytest.mark.parametrize("walked", [False, True])
    async def test_a_fetched_list_becomes_a_list(self, walked: bool, queue: WorkQueue):
        messages = await queue.fetch(2)
        if walked:
            for msg in messages:
                await msg.ack()
        client = messages[0]._client
        for msg in messages[:]:
            msg._client = OfNoClient()  # type: ignore[assignment]
        for copied in (
            copy.copy(messages),
            copy.deepcopy(messages),
            pickle.loads(pickle.dumps(messages)),
            messages[:],
            messages.copy(),
        ):
            assert type(copied) is list
            assert copied == messages[:]
        assert b"opentelemetry" not in pickle.dumps(messages)
        assert isinstance(messages, list)
        for msg in messages[:]:
            msg._client = client
            if not msg._ackd:
                with process_message(msg):
                    await msg.ack()

    async def test_copying_is_no_walk(self, queue: WorkQueue, telemetry: Telemetry):
        messages = await queue.fetch(2)
        for msg in messages[:]:
            msg._client = None  # type: ignore[assignment]
        telemetry.clear()
        copy.copy(messages), copy.deepcopy(messages), pickle.dumps(messages), messages.copy()
        assert telemetry.spans() == []
        assert telemetry.counter.open == []

    async def test_entries_of_a_watcher(self, bucket: Any, telemetry: Telemetry):
        await bucket.put("key", b"value")
        watcher = await watching(bucket)
        async for entry in watcher:
            as_bare(entry)
            assert vars(copy.copy(entry)) == vars(copy.deepcopy(entry)) == vars(entry)
            loaded = pickle.loads(pickle.dumps(entry))
            assert loaded == entry and vars(loaded) == vars(entry)
            assert b"opentelemetry" not in pickle.dumps(entry)
            break
        await watcher.stop()
        watcher = await watching(bucket)
        as_bare(await watcher.updates())
        await watcher.stop()
        assert_span(telemetry.named(f"process {bucket._name}")[0], links=[telemetry.span(f"kv.put {bucket._name}")])

    async def test_a_history(self, bucket: Any):
        await bucket.put("key", b"1")
        entries = await listed(lambda: bucket.history("key"))
        assert type(entries) is list
        for entry in entries:
            as_bare(entry)
        assert b"opentelemetry" not in pickle.dumps(entries)
        assert [entry.value for entry in pickle.loads(pickle.dumps(entries))] == [b"1"]

    async def test_infos_of_objects(self, js: JetStreamContext, unique: Unique):
        if not hasattr(js, "create_object_store"):
            pytest.skip("this nats-py has no object store")
        with unseen():
            store = await js.create_object_store(bucket=unique("bucket"))
        await store.put("name", b"data")
        infos = [await store.get_info("name")]
        watcher = await store.watch()
        async for info in watcher:
            infos.append(info)
            break
        infos += await store.list()
        await watcher.stop()
        for info in infos:
            as_bare(info)
            assert b"opentelemetry" not in pickle.dumps(info)
            assert pickle.loads(pickle.dumps(info)) == info

    async def test_an_entry_goes_into_a_process_pool(self, bucket: Any):
        await bucket.put("key", b"value")
        watcher = await watching(bucket)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            async for entry in watcher:
                done = await asyncio.get_running_loop().run_in_executor(pool, in_process, entry)
                break
        await watcher.stop()
        assert done == ("Entry", b"value")

    async def test_a_message_class_without_room_for_weak_references_is_handled(
        self, nc: Client, telemetry: Telemetry, unique: Unique, monkeypatch: pytest.MonkeyPatch
    ):
        @dataclasses.dataclass(slots=True)
        class Slim:
            subject: str
            reply: str
            data: bytes
            headers: Any
            _client: Any = None
            _ackd: bool = False

        msg = Slim("orders", "", b"", None, nc)
        with process_message(msg) as span:
            assert span.is_recording()
            assert current() is span
        assert not telemetry.counter.open
        assert not message_context(msg)

    async def test_equality_and_hash_are_as_they_were(self, queue: WorkQueue):
        first, second = await queue.fetch(2)
        assert first == dataclasses.replace(first) and first != second
        with pytest.raises(TypeError, match="unhashable"):
            hash(first)
        await first.ack()
        await second.ack()


class TestThreads:
    @pytest.fixture(autouse=True)
    def _impatient(self) -> Any:
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(before)

    async def test_a_handler_that_hands_over_to_a_thread_and_returns(
        self, nc: Client, telemetry: Telemetry, unique: Unique
    ):
        subject, count = unique("orders"), 500
        errors: Counter[str] = Counter()
        spans: list[Any] = []
        done = asyncio.Event()

        def work(msg: Msg) -> None:
            try:
                with process_message(msg) as span:
                    span.set_attribute("worker", 1)
                    spans.append(span)
            except Exception as error:
                errors[repr(error)] += 1

        with ThreadPoolExecutor(4) as pool:

            async def handler(msg: Msg) -> None:
                pool.submit(work, msg)
                if msg.data == b"last":
                    done.set()

            await nc.subscribe(subject, cb=handler)
            for number in range(count):
                await nc.publish(subject, b"last" if number == count - 1 else b"")
            await done.wait()
        await telemetry.wait_for(lambda _: not telemetry.counter.open)
        assert not errors
        assert all(span.is_recording() is False and span is not INVALID_SPAN for span in spans)
        assert len(spans) == count

    async def test_one_message_in_two_threads_is_one_span(self, nc: Client, telemetry: Telemetry, unique: Unique):
        subject, count = unique("orders"), 300
        subscription = await nc.subscribe(subject)
        loop = asyncio.get_running_loop()
        seen: list[list[Any]] = []
        with ThreadPoolExecutor(2) as pool:
            for _ in range(count):
                await nc.publish(subject, b"")
                msg = await subscription.next_msg()
                barrier = threading.Barrier(2)
                mine: list[Any] = []
                seen.append(mine)

                def both(msg: Msg = msg, barrier: threading.Barrier = barrier, mine: list[Any] = mine) -> None:
                    barrier.wait()
                    with process_message(msg) as span:
                        span.set_attribute("worker", 1)
                        mine.append(span_context(span))

                await asyncio.gather(*(loop.run_in_executor(pool, both) for _ in range(2)))
        assert not telemetry.counter.open
        processed = telemetry.named(f"process {subject}")
        # A thread may be through before the other one begins. Its work belongs to the same span all the same.
        assert [[span.context.span_id] * 2 for span in processed] == [[one.span_id for one in mine] for mine in seen]

    async def test_two_threads_that_are_in_it_at_the_same_time_end_it_once_and_after_both(
        self, nc: Client, telemetry: Telemetry, unique: Unique
    ):
        subject = unique("orders")
        subscription = await nc.subscribe(subject)
        await nc.publish(subject, b"")
        msg = await subscription.next_msg()
        inside, over = threading.Barrier(2), threading.Event()
        spans: list[Any] = []

        def quick() -> None:
            with process_message(msg) as span:
                spans.append(span)
                inside.wait(5)
            over.set()

        def slow() -> None:
            with process_message(msg) as span:
                spans.append(span)
                inside.wait(5)
                over.wait(5)
                assert span.is_recording()

        await asyncio.gather(asyncio.to_thread(quick), asyncio.to_thread(slow))
        (process,) = telemetry.named(f"process {subject}")
        assert [span_context(span) for span in spans] == [span_context(process)] * 2

    async def test_two_threads_walk_one_list(self, queue: WorkQueue):
        messages = await queue.fetch(20)
        seen: list[list[Any]] = [[], []]

        def walk(number: int) -> None:
            for _ in messages:
                seen[number].append(span_context(current()))

        await asyncio.gather(*(asyncio.to_thread(walk, number) for number in range(2)))
        assert seen[0] == seen[1]
        for msg in messages[:]:
            await msg.ack()
        assert [span_context(span) for span in queue.ended] == seen[0]

    async def test_the_callback_ends_while_a_thread_enters(
        self, nc: Client, telemetry: Telemetry, unique: Unique, monkeypatch: pytest.MonkeyPatch
    ):
        subject = unique("orders")
        entered, ended = threading.Event(), threading.Event()
        spans: list[Any] = []
        threads: list[threading.Thread] = []
        slow_down(monkeypatch, entered, ended)

        def work(msg: Msg) -> None:
            with process_message(msg) as span:
                spans.append(span)
                assert span.is_recording()

        async def handler(msg: Msg) -> None:
            threads.append(threading.Thread(target=work, args=(msg,), name="worker"))
            threads[0].start()
            await asyncio.to_thread(entered.wait, 5)

        await nc.subscribe(subject, cb=handler)
        await nc.publish(subject, b"")
        await eventually(entered.is_set)
        await nc.flush()
        await asyncio.sleep(0)
        ended.set()
        await asyncio.to_thread(threads[0].join)
        (process,) = telemetry.named(f"process {subject}")
        assert [span_context(span) for span in spans] == [span_context(process)]


def slow_down(monkeypatch: pytest.MonkeyPatch, entered: threading.Event, ended: threading.Event) -> None:
    """Lets the thread called worker lose the interpreter where it makes the message's context current."""
    modules = [module for name, module in sys.modules.items() if name.startswith(ours.__name__)]
    for module in modules:
        attach = getattr(module, "attach", None)
        if attach is None:
            continue

        def slow(made: Any, attach: Callable[[Any], Any] = attach) -> Any:
            if threading.current_thread().name == "worker" and not entered.is_set():
                entered.set()
                ended.wait(5)
            return attach(made)

        monkeypatch.setattr(module, "attach", slow)


class TestTheErrorCallback:
    async def test_is_in_the_context_of_the_message(self, connect: Connect, telemetry: Telemetry, unique: Unique):
        subject = unique("orders")
        done = asyncio.Event()
        seen: list[Any] = []

        async def error_cb(error: Exception) -> None:
            seen.append((type(error), current()))
            await nc.publish("alert", b"")
            done.set()

        async def callback(_: Msg) -> None:
            raise LookupError("no stock")

        with telemetry.tracer.start_as_current_span("startup"):
            nc = await connect(error_cb=error_cb)
            await nc.subscribe(subject, cb=callback)
        await nc.publish(subject, b"")
        await asyncio.wait_for(done.wait(), 5)
        process = telemetry.span(f"process {subject}")
        assert_span(await_alert(telemetry), parent=process)
        ((error, span),) = seen
        assert error is LookupError
        assert span_context(span) == span_context(process)

    async def test_leaves_nothing_for_the_next_message(self, connect: Connect, telemetry: Telemetry, unique: Unique):
        subject = unique("orders")
        seen: list[Any] = []

        async def error_cb(_: Exception) -> None:
            pass

        async def callback(msg: Msg) -> None:
            if not msg.data:
                raise LookupError
            seen.append(span_context(current()))

        nc = await connect(error_cb=error_cb)
        await nc.subscribe(subject, cb=callback)
        await nc.publish(subject, b"")
        await nc.publish(subject, b"1")
        await eventually(lambda: seen)
        first, second = await telemetry.wait_for(lambda _: len(telemetry.named(f"process {subject}")) == 2) and (
            telemetry.named(f"process {subject}")
        )
        assert seen == [span_context(second)]
        assert first.context.trace_id != second.context.trace_id

    async def test_whose_own_exception_leaves_the_context_too(
        self, connect: Connect, telemetry: Telemetry, unique: Unique
    ):
        """nats-py lets it end the subscription's task."""
        subject = unique("orders")

        async def error_cb(_: Exception) -> None:
            raise RuntimeError("worse")

        async def callback(_: Msg) -> None:
            raise LookupError

        nc = await connect(error_cb=error_cb)
        subscription = await nc.subscribe(subject, cb=callback)
        await nc.publish(subject, b"")
        await telemetry.wait_for(f"process {subject}")
        task = subscription._wait_for_msgs_task
        await asyncio.wait([task], timeout=5)
        assert isinstance(task.exception(), RuntimeError)

    async def test_of_nats_py_itself_logs_in_it(
        self, nc: Client, telemetry: Telemetry, unique: Unique, caplog: pytest.LogCaptureFixture
    ):
        subject = unique("orders")
        seen: list[Any] = []

        class Note(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                seen.append(trace.get_current_span().get_span_context())

        async def callback(_: Msg) -> None:
            raise LookupError("no stock")

        handler = Note()
        logging.getLogger("nats").addHandler(handler)
        try:
            await nc.subscribe(subject, cb=callback)
            await nc.publish(subject, b"")
            await eventually(lambda: seen)
        finally:
            logging.getLogger("nats").removeHandler(handler)
        assert seen == [span_context(telemetry.span(f"process {subject}"))]


def await_alert(telemetry: Telemetry) -> Any:
    return telemetry.span("publish alert")


class TestNextMsg:
    @pytest.mark.parametrize("ambient", [False, True], ids=["alone", "ambient"])
    async def test_begins_where_its_parent_does_not_come_later(
        self, ambient: bool, nc: Client, telemetry: Telemetry, unique: Unique
    ):
        subject = unique("orders")
        subscription = await nc.subscribe(subject)
        pause = 0.1

        async def receive() -> Any:
            if not ambient:
                return await subscription.next_msg(5)
            with telemetry.tracer.start_as_current_span("ambient"):
                return await subscription.next_msg(5)

        task = asyncio.ensure_future(receive())
        await asyncio.sleep(pause)
        await nc.publish(subject, b"")
        await task
        published, received = telemetry.span(f"publish {subject}"), telemetry.span(f"receive {subject}")
        if ambient:
            assert received.start_time < published.start_time
            assert received.end_time - received.start_time >= pause / 2 * 1e9
            assert_span(received, parent=telemetry.span("ambient"), links=[published])
        else:
            assert received.start_time >= published.start_time
            assert_span(received, parent=published, links=[published])
        (waited,) = [
            point
            for attributes, point in telemetry.metric("messaging.client.operation.duration").items()
            if ("messaging.operation.name", "receive") in attributes
        ]
        assert waited.sum >= pause / 2  # it began after the pause did

    async def test_so_does_an_update(self, bucket: Any, telemetry: Telemetry):
        with unseen():
            watcher = await bucket.watchall()
            assert await watcher.updates() is None
        task = asyncio.ensure_future(watcher.updates())
        await asyncio.sleep(0.05)
        await bucket.put("key", b"value")
        await task
        await watcher.stop()
        received, put = telemetry.span(f"receive {bucket._name}"), telemetry.span(f"kv.put {bucket._name}")
        assert received.start_time >= put.start_time
        assert received.end_time >= received.start_time
        assert_span(received, parent=put, links=[put])

    async def test_so_does_a_step_by_hand(self, nc: Client, telemetry: Telemetry, unique: Unique):
        subject = unique("orders")
        subscription = await nc.subscribe(subject)
        task = asyncio.ensure_future(subscription.messages.__anext__())
        await asyncio.sleep(0.05)
        await nc.publish(subject, b"")
        await task
        received, published = telemetry.span(f"receive {subject}"), telemetry.span(f"publish {subject}")
        assert received.start_time >= published.start_time
