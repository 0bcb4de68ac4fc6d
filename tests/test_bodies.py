# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Whose context is current: bodies that are stepped in turns, left from elsewhere, or ended in another task."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.nats import process_message
from support.core import Connect, Unique
from support.jetstream import unseen
from support.spans import assert_span, span_context
from support.stores import watching
from support.telemetry import Telemetry
from support.waiting import eventually
from support.work import WorkQueue, current, in_task, let_go, traces, work_queue

Make = Callable[..., Awaitable[Any]]


@pytest.fixture
async def make_queue(js: JetStreamContext, telemetry: Telemetry, unique: Unique) -> Make:
    """Makes work queues of different names."""

    async def make() -> WorkQueue:
        return await work_queue(js, telemetry, unique("orders"))

    return make


@pytest.fixture
async def make_subscription(nc: Client, unique: Unique) -> Make:
    """Makes core subscriptions that have so many messages to loop over, each in a trace of its own."""

    async def make(count: int) -> Subscription:
        subscription = await nc.subscribe(unique("orders"))
        for _ in range(count):
            await nc.publish(subscription.subject, b"")
        await eventually(lambda: subscription.pending_msgs == count)
        return subscription

    return make


def processes(telemetry: Telemetry) -> list[Any]:
    return [span for span in telemetry.spans() if span.name.startswith("process ")]


def assert_each_in_its_own_trace(telemetry: Telemetry, count: int) -> None:
    """Checks that each process span is a child of the publish of its message, and that all have ended."""
    found = processes(telemetry)
    assert len(found) == traces(found) == count
    for process in found:
        (published,) = [
            span
            for span in telemetry.named(process.name.replace("process", "publish"))
            if span.context.trace_id == process.context.trace_id
        ]
        assert_span(process, parent=published, links=[published])


class TestLoopsInTurns:
    async def test_zip_of_two_fetched_lists(self, make_queue: Make, telemetry: Telemetry):
        first, second = await make_queue(), await make_queue()
        for one, other in zip(await first.fetch(3), await second.fetch(3), strict=True):
            assert current().is_recording()
            await one.ack()
            await other.ack()
        assert current() is None
        assert_each_in_its_own_trace(telemetry, 6)

    @pytest.mark.parametrize("length", [(1, 3), (3, 1), (2, 0), (0, 2)])
    async def test_zip_of_lists_of_different_lengths(
        self, length: tuple[int, int], make_queue: Make, telemetry: Telemetry
    ):
        lists = []
        queues = await make_queue(), await make_queue()
        for queue, count in zip(queues, length, strict=True):
            lists.append(await queue.fetch(count or 1))
            if not count:
                await lists[-1].pop().ack()
        for msgs in zip(*lists, strict=False):
            for msg in msgs:
                await msg.ack()
        assert current() is None
        for msg in [msg for fetched in lists for msg in fetched[:]]:
            if not msg._ackd:
                await msg.ack()
        assert_each_in_its_own_trace(telemetry, len(processes(telemetry)))

    async def test_merge_of_two_fetched_lists(self, make_queue: Make, telemetry: Telemetry):
        first, second = await make_queue(), await make_queue()
        lists = await first.fetch(3), await second.fetch(3)
        for msg in heapq.merge(*lists, key=lambda msg: msg.data):
            await msg.ack()
        assert current() is None
        assert_each_in_its_own_trace(telemetry, 6)

    async def test_two_iterators_by_hand(self, make_subscription: Make, telemetry: Telemetry):
        one, other = aiter((await make_subscription(2)).messages), aiter((await make_subscription(2)).messages)
        for _ in range(2):
            await anext(one)
            await anext(other)
        assert current().is_recording()
        del one, other
        assert current() is None
        assert_each_in_its_own_trace(telemetry, 4)

    @pytest.mark.parametrize("order", ["first", "last"])
    async def test_the_one_that_goes_on_stays_current(
        self, order: str, make_subscription: Make, nc: Client, telemetry: Telemetry
    ):
        iterators = [aiter((await make_subscription(1)).messages) for _ in range(2)]
        await anext(iterators[0])
        await anext(iterators[1])
        second = current()
        iterators.pop(0 if order == "first" else 1)
        await nc.publish("work", b"")
        work = telemetry.span("publish work")
        if order == "first":
            assert_span(work, parent=second)
        else:
            (first,) = telemetry.counter.open
            assert_span(work, parent=first)
        iterators.clear()
        assert current() is None

    async def test_ambient_is_what_was_around_all_of_them(self, make_queue: Make, telemetry: Telemetry):
        first, second = await make_queue(), await make_queue()
        lists = await first.fetch(2), await second.fetch(2)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            for msgs in zip(*lists, strict=True):
                for msg in msgs:
                    await msg.ack()
            assert current() is ambient
        for process in processes(telemetry):
            assert_span(process, parent=ambient)
        assert len(processes(telemetry)) == 4

    async def test_or_the_body_that_they_are_nested_in(
        self, make_queue: Make, make_subscription: Make, telemetry: Telemetry
    ):
        lists = [await (await make_queue()).fetch(2) for _ in range(2)]
        async for _ in (await make_subscription(1)).messages:
            outer = current()
            for msgs in zip(*lists, strict=True):
                for msg in msgs:
                    await msg.ack()
            assert current() is outer
            break
        assert current() is None
        outer, *inner = processes(telemetry)
        assert len(inner) == 4
        for process in inner:
            assert_span(process, parent=outer)

    async def test_a_span_of_the_programs_own_is_ambient(self, make_subscription: Make, telemetry: Telemetry):
        one, other = aiter((await make_subscription(1)).messages), aiter((await make_subscription(1)).messages)
        await anext(one)
        body = current()
        with telemetry.tracer.start_as_current_span("own") as own:
            await anext(other)
            del other
            assert current() is own
        assert current() is body
        del one
        assert current() is None
        first, second = processes(telemetry)
        assert_span(telemetry.span("own"), parent=first)
        assert_span(second, parent=own)

    async def test_they_leave_nothing_behind_however_long_they_go_on(self, nc: Client, make_subscription: Make):
        """Bodies know what they replaced; a chain of all that ever was would be a leak."""
        count = 300
        subscriptions = [await make_subscription(count) for _ in range(2)]
        iterators = [aiter(subscription.messages) for subscription in subscriptions]
        sizes = []
        for number in range(count):
            for iterator in iterators:
                await anext(iterator)
            if number in (count // 3, count - 1):
                gc.collect()
                sizes.append(sum(isinstance(each, context.Context) for each in gc.get_objects()))
        iterators.clear()
        assert sizes[1] <= sizes[0] + 5


class TestNestedLoops:
    @pytest.mark.parametrize("inner", ["subscription", "fetched"])
    async def test_the_inner_bodies_are_under_the_outer_one(
        self, inner: str, make_subscription: Make, make_queue: Make, telemetry: Telemetry
    ):
        queue = await make_queue()
        subscription = await make_subscription(2)
        outer_subscription = await make_subscription(2)
        telemetry.clear()
        seen = 0
        async for _ in outer_subscription.messages:
            outer = current()
            if inner == "fetched":
                for msg in await queue.fetch(2):
                    assert current() is not outer
                    await msg.ack()
            else:
                async for _ in subscription.messages:
                    assert current() is not outer
                    break
            assert current() is outer
            seen += 1
            if seen == 2:
                break
        assert current() is None
        name = queue.subject if inner == "fetched" else subscription.subject
        outers = telemetry.named(f"process {outer_subscription.subject}")
        inners = telemetry.named(f"process {name}")
        per_outer = len(inners) // 2
        for number, process in enumerate(inners):
            assert_span(process, parent=outers[number // per_outer])

    async def test_an_iterator_that_is_walked_anew_in_a_body_is_nested_in_it(
        self, make_subscription: Make, telemetry: Telemetry
    ):
        kept = aiter((inner := await make_subscription(2)).messages)
        async for _ in (await make_subscription(1)).messages:
            async for _ in kept:
                break
            break
        del kept
        (process,) = telemetry.named(f"process {inner.subject}")
        assert_span(process, parent=processes(telemetry)[0])
        assert current() is None


# uvloop keeps its generators to itself: only their end, a little later, tells that nobody holds them any more.
LATER = os.environ.get("TESTS_LOOP") == "uvloop"


class TestAProgramsOwnGenerator:
    @staticmethod
    async def decoded(subscription: Any) -> AsyncIterator[Any]:
        async for msg in subscription.messages:
            yield msg.data

    async def leave(self, how: str, subscription: Any) -> None:
        if how == "break":
            async for _ in self.decoded(subscription):
                assert current().is_recording()
                break
        elif how == "return":

            async def first() -> Any:
                async for data in self.decoded(subscription):
                    return data

            await first()
        elif how == "exception":
            with contextlib.suppress(LookupError):
                async for _ in self.decoded(subscription):
                    raise LookupError
        elif how == "aclose":
            generator = self.decoded(subscription)
            async for _ in generator:
                break
            await generator.aclose()
        elif how == "aclosing":
            async with contextlib.aclosing(self.decoded(subscription)) as generator:
                async for _ in generator:
                    break
        elif how == "by hand":
            await anext(self.decoded(subscription))
        elif how == "athrow":
            generator = self.decoded(subscription)
            await anext(generator)
            with contextlib.suppress(LookupError):
                await generator.athrow(LookupError())

    HOW = ["break", "return", "exception", "aclose", "aclosing", "by hand", "athrow"]

    @pytest.mark.parametrize("how", HOW)
    async def test_leaves_nothing_current(self, how: str, make_subscription: Make, nc: Client, telemetry: Telemetry):
        await self.leave(how, await make_subscription(2))
        assert current() is None or LATER
        # Python closes the generator in a task of its own, a little later.
        await eventually(lambda: not telemetry.counter.open)
        assert current() is None
        await nc.publish("later", b"")
        assert_span(telemetry.span("publish later"), parent=None)
        assert len(processes(telemetry)) == 1

    @pytest.mark.parametrize("how", HOW)
    async def test_gives_an_ambient_span_back(
        self, how: str, make_subscription: Make, nc: Client, telemetry: Telemetry
    ):
        subscription = await make_subscription(2)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await self.leave(how, subscription)
            assert current() is ambient or LATER
            await eventually(lambda: {span.name for span in telemetry.counter.open} == {"ambient"})
            assert current() is ambient
            await nc.publish("later", b"")
        assert_span(telemetry.span("publish later"), parent=ambient)

    @pytest.mark.skipif(LATER, reason="uvloop does not tell of generators")
    async def test_the_very_next_call_is_no_more_the_messages(
        self, make_subscription: Make, nc: Client, telemetry: Telemetry
    ):
        """The span ends when Python closes the generator, which is soon and not at once; the context is given back."""
        subscription = await make_subscription(3)
        for _ in range(3):
            async for _ in self.decoded(subscription):
                break
            await nc.publish("work", b"")
        await eventually(lambda: not telemetry.counter.open)
        assert_each_in_its_own_trace(telemetry, 3)
        for work in telemetry.named("publish work"):
            assert_span(work, parent=None)
        assert current() is None

    async def test_around_fetched_lists(self, make_queue: Make, nc: Client, telemetry: Telemetry):
        queue = await make_queue()
        for _ in range(4):
            await queue.js.publish(queue.subject, b"")

        async def jobs() -> AsyncIterator[Msg]:
            while True:
                for msg in await queue.subscription.fetch(2):
                    yield msg

        async for msg in jobs():
            await msg.ack()
            break
        await eventually(lambda: not telemetry.counter.open)
        await nc.publish("later", b"")
        assert_span(telemetry.span("publish later"), parent=None)
        assert current() is None
        assert_each_in_its_own_trace(telemetry, 1)

    async def test_around_fetched_lists_in_a_plain_generator(self, make_queue: Make, telemetry: Telemetry):
        queue = await make_queue()

        def decoded(messages: list[Msg]) -> Iterator[Msg]:
            for msg in messages:
                yield msg

        messages = await queue.fetch(2)
        for msg in decoded(messages):
            await msg.ack()
            break
        assert current() is None
        assert_each_in_its_own_trace(telemetry, 1)

    async def test_that_steps_two_subscriptions(self, make_subscription: Make, telemetry: Telemetry, nc: Client):
        async def zipped(*subscriptions: Subscription) -> AsyncIterator[Any]:
            iterators = [aiter(subscription.messages) for subscription in subscriptions]
            while True:
                yield [await anext(iterator) for iterator in iterators]

        generator = zipped(await make_subscription(2), await make_subscription(2))
        async for _ in generator:
            break
        await generator.aclose()
        assert current() is None
        assert_each_in_its_own_trace(telemetry, 2)

    async def test_with_a_span_of_its_own_around_the_yield(
        self, make_subscription: Make, nc: Client, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
    ):
        subscription = await make_subscription(1)

        async def decoded() -> AsyncIterator[Any]:
            async for msg in subscription.messages:
                with telemetry.tracer.start_as_current_span("decode"):
                    yield msg

        async for _ in decoded():
            break
        await eventually(lambda: not telemetry.counter.open)
        await nc.publish("later", b"")
        assert_span(telemetry.span("publish later"), parent=None)
        assert current() is None
        caplog.clear()  # OpenTelemetry's own word about the program's own span

    async def test_with_process_message_around_the_yield(self, nc: Client, telemetry: Telemetry, unique: Unique):
        subscription = await nc.subscribe(unique("orders"))
        await nc.publish(subscription.subject, b"")

        async def jobs() -> AsyncIterator[Any]:
            msg = await subscription.next_msg()
            with process_message(msg):
                yield msg

        async for _ in jobs():
            assert current().is_recording()
            break
        await eventually(lambda: not telemetry.counter.open)
        assert current() is None
        await nc.publish("later", b"")
        assert_span(telemetry.span("publish later"), parent=None)

    async def test_closed_in_another_task_while_this_one_works_on(
        self, make_subscription: Make, nc: Client, telemetry: Telemetry
    ):
        generator = self.decoded(await make_subscription(1))
        await anext(generator)
        await in_task(generator.aclose)
        assert current() is None
        await nc.publish("later", b"")
        assert_span(telemetry.span("publish later"), parent=None)

    async def test_closed_in_a_task_with_a_context_of_its_own(
        self, make_subscription: Make, nc: Client, telemetry: Telemetry
    ):
        generator = self.decoded(await make_subscription(1))
        await anext(generator)
        with telemetry.tracer.start_as_current_span("own") as own:
            task = asyncio.ensure_future(self.close_under(generator))
            assert await task is own
        assert not [span for span in telemetry.counter.open]
        assert_span(telemetry.span("own"), parent=processes(telemetry)[0])
        await nc.publish("later", b"")
        assert_span(telemetry.span("publish later"), parent=None)

    @staticmethod
    async def close_under(generator: Any) -> Any:
        await generator.aclose()
        return current()


class TestKeptIterators:
    @pytest.mark.parametrize("how", ["close", "drain"])
    async def test_end_with_the_client(self, how: str, connect: Connect, telemetry: Telemetry, unique: Unique):
        nc = await connect()
        subscription = await nc.subscribe(unique("orders"))
        await nc.publish(subscription.subject, b"")
        kept = aiter(subscription.messages)
        await in_task(lambda: anext(kept))
        assert len(telemetry.counter.open) == 1
        await getattr(nc, how)()
        assert len(telemetry.named(f"process {subscription.subject}")) == 1
        assert kept is not None

    @pytest.mark.parametrize("how", ["unsubscribe", "drain"])
    async def test_end_with_their_subscription(self, how: str, make_subscription: Make, telemetry: Telemetry):
        subscription = await make_subscription(1)
        kept = aiter(subscription.messages)
        await in_task(lambda: anext(kept))
        await getattr(subscription, how)()
        assert len(telemetry.named(f"process {subscription.subject}")) == 1
        assert kept is not None

    async def test_in_the_task_that_closes_the_client(self, connect: Connect, telemetry: Telemetry, unique: Unique):
        nc = await connect()
        subscription = await nc.subscribe(unique("orders"))
        await nc.publish(subscription.subject, b"")
        kept = aiter(subscription.messages)
        await anext(kept)
        await nc.close()
        assert len(telemetry.named(f"process {subscription.subject}")) == 1
        assert current() is None
        assert kept is not None

    async def test_of_fetched_lists_end_with_the_client(self, connect: Connect, telemetry: Telemetry, unique: Unique):
        nc = await connect()
        queue = await work_queue(nc.jetstream(), telemetry, unique("orders"))
        kept = iter(await queue.fetch(2))
        next(kept)
        assert current().is_recording()
        await nc.close()
        assert len(queue.ended) == 1
        assert current() is None
        assert kept is not None

    async def test_that_another_task_steps_on(self, make_subscription: Make, nc: Client, telemetry: Telemetry):
        kept = aiter((await make_subscription(2)).messages)
        await anext(kept)
        await in_task(kept.__anext__)
        # Its first body is over, and whatever task it was in has its context back.
        assert current() is None
        await nc.publish("later", b"")
        assert_span(telemetry.span("publish later"), parent=None)
        del kept
        assert_each_in_its_own_trace(telemetry, 2)

    @pytest.mark.parametrize("who", ["another task", "the garbage collector", "another thread"])
    async def test_that_are_finalized_elsewhere(
        self, who: str, make_subscription: Make, nc: Client, telemetry: Telemetry
    ):
        held = [aiter((await make_subscription(1)).messages)]
        await anext(held[0])
        if who == "another task":

            async def drop() -> None:
                held.clear()

            await in_task(drop)
        elif who == "another thread":
            thread = threading.Thread(target=held.clear)
            thread.start()
            thread.join()
        else:
            held.append(held)  # type: ignore[arg-type]
            del held
            gc.collect()
        assert len(processes(telemetry)) == 1
        await nc.publish("later", b"")
        assert_span(telemetry.span("publish later"), parent=None)
        assert current() is None


class TestASubscriptionThatIsLeftInABody:
    async def test_the_rest_of_the_body_is_still_the_messages(
        self, make_subscription: Make, nc: Client, telemetry: Telemetry
    ):
        subscription = await make_subscription(1)
        async for _ in subscription.messages:
            await subscription.unsubscribe()
            await nc.publish("work", b"")
        assert current() is None
        assert_span(telemetry.span("publish work"), parent=processes(telemetry)[0])

    async def test_so_is_the_body_of_a_worker_that_is_being_stopped(
        self, make_subscription: Make, nc: Client, telemetry: Telemetry
    ):
        subscription = await make_subscription(1)
        started, go = asyncio.Event(), asyncio.Event()

        async def worker() -> None:
            async for _ in subscription.messages:
                started.set()
                await go.wait()
                assert current().is_recording()
                await nc.publish("work", b"")
            assert current() is None

        task = asyncio.create_task(worker())
        await started.wait()
        await subscription.unsubscribe()
        go.set()
        await task
        assert_span(telemetry.span("publish work"), parent=processes(telemetry)[0])
        assert telemetry.span("publish work").end_time <= processes(telemetry)[0].end_time


class TestTasks:
    async def test_a_task_that_outlives_its_body_goes_on_under_it(
        self, make_subscription: Make, nc: Client, telemetry: Telemetry
    ):
        go = asyncio.Event()
        tasks: list[asyncio.Task[Any]] = []

        async def work() -> None:
            await go.wait()
            await nc.publish("work", b"")

        async for _ in (await make_subscription(1)).messages:
            tasks.append(asyncio.create_task(work()))
            break
        assert current() is None
        go.set()
        await asyncio.gather(*tasks)
        assert_span(telemetry.span("publish work"), parent=processes(telemetry)[0])

    async def test_and_its_own_loops_give_it_back(self, make_subscription: Make, nc: Client, telemetry: Telemetry):
        go = asyncio.Event()
        tasks: list[asyncio.Task[Any]] = []
        inner = await make_subscription(1)

        async def work() -> None:
            inherited = current()
            await go.wait()
            async for _ in inner.messages:
                assert current() is not inherited
                break
            assert current() is inherited
            await nc.publish("work", b"")

        async for _ in (await make_subscription(1)).messages:
            tasks.append(asyncio.create_task(work()))
            break
        go.set()
        await asyncio.gather(*tasks)
        outer = processes(telemetry)[0]
        assert_span(telemetry.span(f"process {inner.subject}"), parent=outer)
        assert_span(telemetry.span("publish work"), parent=outer)

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="task groups came with Python 3.11")
    async def test_a_group_in_a_loop(self, make_queue: Make, nc: Client, telemetry: Telemetry):
        queue = await make_queue()
        go = asyncio.Event()

        async def handle(msg: Msg) -> None:
            await go.wait()
            await nc.publish("work", b"")
            await msg.ack()

        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined]
            for msg in await queue.fetch(3):
                group.create_task(handle(msg))
            go.set()
        assert current() is None
        assert queue.settlements() == ["ack"] * 3
        for process, work in zip(queue.ended, telemetry.named("publish work"), strict=True):
            assert_span(work, parent=process)

    async def test_two_tasks_over_one_list_and_one_subscription(
        self, make_queue: Make, make_subscription: Make, telemetry: Telemetry
    ):
        subscription = await make_subscription(4)

        async def loop() -> None:
            count = 0
            async for _ in subscription.messages:
                mine = current()
                await asyncio.sleep(0)
                assert current() is mine
                count += 1
                if count == 2:
                    break
            assert current() is None

        await asyncio.gather(loop(), loop())
        assert_each_in_its_own_trace(telemetry, 4)

    @pytest.mark.parametrize("steps", range(0, 12, 2))
    async def test_cancelled_at_any_moment(self, steps: int, make_subscription: Make, nc: Client, telemetry: Telemetry):
        subscription = await make_subscription(2)

        async def work() -> None:
            before = context.get_current()
            try:
                async for _ in subscription.messages:
                    await nc.publish("work", b"")
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                assert context.get_current() is before
                raise

        task = asyncio.create_task(work())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert not telemetry.counter.open
        assert_each_in_its_own_trace(telemetry, len(processes(telemetry)))

    async def test_a_body_in_a_context_that_the_program_made(self, make_subscription: Make, telemetry: Telemetry):
        """A context of the program's own that a task is given, by `create_task(context=...)` on Python 3.11."""
        subscription = await make_subscription(1)
        own = copy_context()
        kept = aiter(subscription.messages)

        loop = asyncio.get_running_loop()
        task = own.run(loop.create_task, kept.__anext__())
        await task
        del kept
        assert current() is None
        assert_each_in_its_own_trace(telemetry, 1)


class TestWatchers:
    async def test_in_turns(self, js: JetStreamContext, telemetry: Telemetry, unique: Unique):
        watchers = []
        for _ in range(2):
            with unseen():
                bucket = await js.create_key_value(bucket=unique("bucket"))
            await bucket.put("a", b"1")
            await bucket.put("b", b"2")
            with unseen():
                watchers.append(await watching(bucket))
        iterators = [aiter(watcher) for watcher in watchers]
        for _ in range(2):
            for iterator in iterators:
                await anext(iterator)
        del iterator
        iterators.clear()
        assert current() is None
        found = processes(telemetry)
        assert len(found) == traces(found) == 4
        for watcher in watchers:
            await watcher.stop()

    async def test_kept_ends_with_the_client(self, connect: Connect, telemetry: Telemetry, unique: Unique):
        nc = await connect()
        with unseen():
            bucket = await nc.jetstream().create_key_value(bucket=unique("bucket"))
            await bucket.put("a", b"1")
            watcher = await watching(bucket)
        kept = aiter(watcher)
        await in_task(lambda: anext(kept))
        assert len(telemetry.counter.open) == 1
        await nc.close()
        assert len(processes(telemetry)) == 1
        assert kept is not None


class TestThreads:
    async def test_a_list_walked_in_a_thread(self, make_queue: Make, telemetry: Telemetry):
        queue = await make_queue()
        messages = await queue.fetch(3)
        loop = asyncio.get_running_loop()
        seen: list[Any] = []

        def work() -> None:
            for msg in messages:
                seen.append(span_context(current()))
                asyncio.run_coroutine_threadsafe(msg.ack(), loop).result(5)
            seen.append(current())

        await asyncio.to_thread(work)
        assert [span_context(span) for span in queue.ended] == seen[:-1]
        assert seen[-1] is None
        assert queue.settlements() == ["ack"] * 3
        assert_each_in_its_own_trace(telemetry, 3)


class TestTheWholeContext:
    async def test_is_given_back_baggage_and_all(self, make_queue: Make, telemetry: Telemetry):
        queue = await make_queue()
        messages = await queue.fetch(2), await queue.fetch(2)
        token = context.attach(baggage.set_baggage("mine", "own"))
        before = context.get_current()
        for pair in zip(*messages, strict=True):
            assert baggage.get_baggage("mine") == "own"
            for msg in pair:
                await msg.ack()
        assert context.get_current() is before
        context.detach(token)
        assert_each_in_its_own_trace(telemetry, 4)

    async def test_a_message_is_itself_to_work_that_was_begun_in_it(
        self, nc: Client, make_subscription: Make, telemetry: Telemetry
    ):
        """A span that the program keeps open beyond a body is its own choice."""
        subscription = await make_subscription(1)
        stack = contextlib.ExitStack()
        async for _ in subscription.messages:
            stack.enter_context(telemetry.tracer.start_as_current_span("own"))
            break
        assert current().name == "own"
        await nc.publish("later", b"")
        assert_span(telemetry.span("publish later"), parent=current())
        stack.close()
        await nc.publish("afterwards", b"")
        assert_span(telemetry.span("publish afterwards"), parent=None)
        assert current() is None


class TestEmptyWalks:
    async def test_change_nothing(self, make_queue: Make, telemetry: Telemetry):
        queue = await make_queue()
        messages = await queue.fetch(1)
        await messages.pop().ack()
        before = context.get_current()
        for _ in messages:
            raise AssertionError
        assert context.get_current() is before
        assert trace.get_current_span() is trace.INVALID_SPAN
        await let_go()
        assert queue.ended == []
