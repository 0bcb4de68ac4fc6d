# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Header values that are lists, as nats-py makes them where `fast_mail_parser` is installed (its extra `fast_parse`).

`tox -e fast` runs these, and compares programs bare and instrumented, with the parser itself; here lists are made of
what nats-py's own parser finds. The other tests are not run with it: nats-py takes some of its own headers for strings
(status messages, publish acknowledgements with errors), so that a fetch of nothing, for one, never ends.
"""

from __future__ import annotations

from typing import Any

import nats.aio.client
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext

from support.core import Inbox, Unique
from support.spans import assert_span
from support.stores import listed, watching
from support.telemetry import Telemetry

_parser = nats.aio.client.__dict__.get("parse_email")


@pytest.fixture(autouse=True)
def _lists(monkeypatch: pytest.MonkeyPatch) -> None:
    if _parser is not None:
        return
    read = Client._process_headers

    async def read_lists(self: Client, headers: Any) -> Any:
        found = await read(self, headers)
        return found and {name: value if isinstance(value, list) else [value] for name, value in found.items()}

    monkeypatch.setattr(Client, "_process_headers", read_lists)


async def test_are_what_these_tests_are_about(nc: Client, unique: Unique):
    subject = unique()
    subscription = await nc.subscribe(subject)
    await nc.publish(subject, b"", headers={"Own": "1"})
    assert (await subscription.next_msg(5)).headers["Own"] == ["1"]


class TestContexts:
    async def test_reach_a_callback(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject, inbox = unique(), Inbox()
        await nc.subscribe(subject, cb=inbox.take)
        await nc.publish(subject, b"hello")
        await inbox.next()
        await telemetry.wait_for(f"process {subject}")
        publish, process = telemetry.span(f"publish {subject}"), telemetry.span(f"process {subject}")
        assert_span(process, parent=publish, links=[publish])

    async def test_reach_a_loop(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique()
        subscription = await nc.subscribe(subject)
        await nc.publish(subject, b"hello")
        async for _ in subscription.messages:
            break
        assert_span(telemetry.span(f"process {subject}"), parent=telemetry.span(f"publish {subject}"))

    @pytest.mark.instrument(headers_included=["own"])
    async def test_beside_headers_that_are_captured(self, telemetry: Telemetry, nc: Client, unique: Unique):
        subject = unique()
        subscription = await nc.subscribe(subject)
        await nc.publish(subject, b"hello", headers={"Own": "1"})
        await subscription.next_msg(5)
        receive = telemetry.span(f"receive {subject}")
        assert_span(receive, parent=telemetry.span(f"publish {subject}"))
        assert receive.attributes["messaging.header.own"] == ("1",)

    async def test_reach_the_one_who_answers_and_his_answer_carries_his_own(
        self, telemetry: Telemetry, nc: Client, unique: Unique
    ):
        async def answer(message: Any) -> None:
            await message.respond(message.data.upper())

        subject = unique()
        await nc.subscribe(subject, cb=answer)
        assert (await nc.request(subject, b"ping", timeout=5)).data == b"PING"
        await telemetry.wait_for(f"process {subject}")
        request, process = telemetry.span(f"request {subject}"), telemetry.span(f"process {subject}")
        assert_span(process, parent=request)
        assert_span(telemetry.span("reply"), parent=process)


class TestWatchers:
    """A key that was deleted has its operation in a header: what nats-py hands out is `['DEL']`."""

    @staticmethod
    async def watch(js: JetStreamContext, name: str) -> Any:
        bucket = await js.create_key_value(bucket=name)
        await bucket.put("deleted", b"1")
        await bucket.put("purged", b"2")
        await bucket.delete("deleted")
        await bucket.purge("purged")
        await bucket.put("there", b"3")
        return await watching(bucket)

    OPERATIONS = {"deleted": "delete", "purged": "purge", "there": "put"}

    def operations(self, telemetry: Telemetry, name: str) -> dict[Any, Any]:
        return {
            span.attributes["messaging.nats.kv.key"]: span.attributes["messaging.nats.kv.operation"]
            for span in telemetry.named(name)
        }

    async def test_loop_over_deleted_keys(self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique):
        name = unique("bucket")
        watcher = await self.watch(js, name)
        keys: list[str] = []
        async for entry in watcher:
            if entry is None:
                break
            keys.append(entry.key)
        assert keys == ["deleted", "purged", "there"]
        assert self.operations(telemetry, f"process {name}") == self.OPERATIONS
        writers = {
            span.attributes["messaging.nats.kv.key"]: span
            for operation in ("put", "delete", "purge")
            for span in telemetry.named(f"kv.{operation} {name}")
        }
        for span in telemetry.named(f"process {name}"):
            assert_span(span, links=[writers[span.attributes["messaging.nats.kv.key"]]])
        await watcher.stop()

    async def test_receive_deleted_keys(self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique):
        name = unique("bucket")
        watcher = await self.watch(js, name)
        assert [(await watcher.updates(5)).key for _ in range(3)] == ["deleted", "purged", "there"]
        assert self.operations(telemetry, f"receive {name}") == self.OPERATIONS
        await watcher.stop()

    async def test_list_a_history_with_deletions(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, unique: Unique
    ):
        name = unique("bucket")
        bucket = await js.create_key_value(bucket=name, history=5)
        await bucket.put("key", b"1")
        await bucket.delete("key")
        await listed(lambda: bucket.history("key"), telemetry)
        history = telemetry.span(f"kv.history {name}")
        assert [link.attributes["messaging.nats.kv.operation"] for link in history.links] == ["put", "delete"]
