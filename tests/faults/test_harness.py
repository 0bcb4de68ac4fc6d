# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""That a difference would be seen: what the other tests rely on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from faults.harness import Outcome, check_report, check_same, results_and_frames, run_on_server
from faults.normal import frames, headers, plain
from faults.programs.misbehaving import SECRET
from faults.stepping import cancelled_at_step, cancelled_at_turn
from support.proxy import Proxy
from support.server import NatsServer
from support.waiting import eventually
from support.wire import Wire


async def check(parameters: dict[str, Any]) -> None:
    await check_same(
        None, lambda mode: run_on_server("misbehaving", mode, parameters, records=True), results_and_frames
    )


class TestADifferenceIsSeen:
    @pytest.mark.parametrize(
        ("way", "seen"),
        [
            ("result", "on, one"),
            ("frame", "another"),
            ("header", "connection 0"),
            ("context", "contexts left"),
            ("fault", "a fault"),
            ("secret", "secrets"),
        ],
    )
    async def test_of_each_kind(self, way: str, seen: str):
        parameters = {"way": way, "secrets": [SECRET]}
        with pytest.raises(AssertionError, match=seen):
            await check(parameters)

    async def test_and_where_there_is_none_none(self):
        parameters = {"way": "none", "secrets": [SECRET]}
        await check(parameters)

    @pytest.mark.parametrize("name", ["open spans", "contexts left", "faults", "log", "secrets", "still patched"])
    def test_in_what_is_left(self, name: str):
        fine = {"open spans": [], "contexts left": {}, "faults": {}, "log": {}, "secrets": {}, "still patched": []}
        check_report(Outcome("on", None, {}, {**fine, "spans": {"publish": 1}}, ""))
        with pytest.raises(AssertionError, match=name):
            check_report(Outcome("on", None, {}, {**fine, name: ["something"]}, ""))


BLOCK = b"NATS/1.0\r\n%s\r\n"
OURS = b"traceparent: 00-1-2-01\r\nbaggage: a=1\r\n"


def hpub(lines: bytes, payload: bytes = b"hello") -> bytes:
    block = BLOCK % lines
    return b"HPUB one %d %d\r\n%s%s\r\n" % (len(block), len(block) + len(payload), block, payload)


class TestFrames:
    def test_of_a_message_with_headers_of_ours_alone_are_those_of_one_without(self):
        assert list(frames(hpub(OURS))) == list(frames(b"PUB one 5\r\nhello\r\n"))

    def test_of_a_message_with_other_headers_have_those(self):
        assert list(frames(hpub(b"Own: 1\r\n" + OURS))) == [json.dumps(["HPUB", "one", ["Own: 1"], "hello"])]

    def test_of_a_message_with_an_empty_block_are_others(self):
        assert list(frames(hpub(b""))) != list(frames(b"PUB one 5\r\nhello\r\n"))

    def test_are_alike_whatever_ids_and_times_are_in_them(self):
        one = b"PUB $JS.API.STREAM.INFO.one _INBOX.0123456789abcdefABCDEF.0123456789abcdefABCDEF12ab 0\r\n\r\n"
        other = one.replace(b"0123456789", b"9876543210")
        assert list(frames(one)) == list(frames(other))
        assert list(frames(one)) != list(frames(one.replace(b"INFO.one", b"INFO.two")))

    def test_that_lack_their_end_are_left_out_and_so_is_a_pong(self):
        assert list(frames(b"PING\r\nPONG\r\nPUB one 5\r\nhel")) == ["PING"]


class TestPlain:
    def test_values_are_without_headers_of_ours_times_and_ids(self):
        assert headers({"traceparent": "a", "Own": "1"}) == {"Own": "1"}
        assert headers({"traceparent": "a"}) is None
        assert plain(ValueError("at 127.0.0.1:4222")) == {"raised": "builtins.ValueError", "says": "at <server>"}
        assert plain([b"1", (2, None)]) == ["1", [2, None]]


class TestCancelling:
    async def test_happens_at_the_step_that_is_asked_for(self):
        seen: list[int] = []

        async def operation() -> str:
            for number in range(3):
                await asyncio.sleep(0)
                seen.append(number)
            return "done"

        for step in range(3):
            seen.clear()
            task, _ = await cancelled_at_step(operation, step)
            assert (task.cancelled(), seen) == (True, list(range(step)))
        task, steps = await cancelled_at_step(operation, 3)
        assert (task.result(), steps) == ("done", 3)

    async def test_happens_at_the_turn_that_is_asked_for(self):
        event = asyncio.Event()
        task = await cancelled_at_turn(event.wait, 5)
        assert task.cancelled()


class TestTheProxy:
    async def test_cuts_stalls_throttles_and_records(self, nats_server: NatsServer):
        async with Proxy(nats_server.url) as proxy:
            async with Wire(proxy.url) as wire:
                await wire.publish("one", b"hello")
                proxy.throttle = 1
                await wire.publish("one", b"slowly")
                proxy.stall()
                flushed = asyncio.ensure_future(wire.flush())
                await asyncio.sleep(0.05)
                assert not flushed.done()
                proxy.flow()
                await flushed
                assert proxy.connections == 1
                proxy.cut()
                await eventually(lambda: not proxy.connections)
        sent = list(frames(bytes(proxy.sent[0])))
        assert [frame for frame in sent if "one" in frame] == [
            json.dumps(["PUB", "one", [], "hello"]),
            json.dumps(["PUB", "one", [], "slowly"]),
        ]
        assert proxy.cuts == 1
