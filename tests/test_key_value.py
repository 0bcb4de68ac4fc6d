# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Key-value stores: every call, watchers, the links to the writer, and what happens on bad input."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext, errors
from nats.js.kv import KeyValue

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from support import processes
from support.otlp import OtlpReceiver
from support.server import NatsServer
from support.spans import assert_span
from support.stores import LOOP_GOES_ON, Everything, children, listed, operation_attributes, until_marker, watching
from support.telemetry import Telemetry, attribute_set
from support.waiting import eventually

Connect = Callable[..., Awaitable[Client]]
ServerFactory = Callable[..., NatsServer]
Unique = Callable[[str], str]

KEY = "messaging.nats.kv.key"
REVISION = "messaging.nats.kv.revision"
OPERATION = "messaging.nats.kv.operation"
SIZE = "messaging.message.body.size"
COUNT = "messaging.batch.message_count"

loop_goes_on = pytest.mark.skipif(not LOOP_GOES_ON, reason="this nats-py ends a watcher's loop at the marker")
validates_keys = pytest.mark.skipif(not hasattr(errors, "InvalidKeyError"), reason="this nats-py takes any key")
has_msg_ttl = pytest.mark.skipif(
    "msg_ttl" not in KeyValue.purge.__code__.co_varnames, reason="this nats-py has no msg_ttl"
)


@pytest.fixture
def bucket(unique: Unique) -> str:
    return unique("bucket")


@pytest.fixture
async def kv(js: JetStreamContext, bucket: str, telemetry: Telemetry) -> KeyValue:
    """A bucket that keeps five values of each key; the span of its creation is forgotten."""
    kv = await js.create_key_value(bucket=bucket, history=5)
    telemetry.clear()
    return kv


class TestPut:
    async def test_makes_one_span_with_the_revision(self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str):
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            assert await kv.put("greeting", b"hello") == 1

        [put, _] = telemetry.spans()[::-1]
        assert_span(
            put,
            name=f"kv.put {bucket}",
            kind=SpanKind.PRODUCER,
            attributes=operation_attributes(
                nc, "kv.put", bucket, {KEY: "greeting", OPERATION: "put", REVISION: 1}, operation_type="send"
            ),
            parent=ambient,
            links=[],
        )
        assert len(telemetry.spans()) == 2

    async def test_is_a_root_without_an_ambient_span(self, telemetry: Telemetry, kv: KeyValue, bucket: str):
        await kv.put(value=b"hello", key="greeting")
        assert_span(telemetry.span(f"kv.put {bucket}"), parent=None)

    async def test_stores_its_own_context_with_the_value(
        self, telemetry: Telemetry, js: JetStreamContext, kv: KeyValue, bucket: str
    ):
        await kv.put("greeting", b"hello")
        [put] = telemetry.spans()

        stored = await js.get_last_msg(f"KV_{bucket}", f"$KV.{bucket}.greeting")
        context = put.get_span_context()
        flags = f"{context.trace_flags:02x}"
        assert stored.headers == {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags}"}
        assert stored.data == b"hello"

    async def test_to_a_bucket_whose_stream_is_gone_is_an_error(
        self, telemetry: Telemetry, js: JetStreamContext, kv: KeyValue, bucket: str
    ):
        await js.delete_key_value(bucket)
        telemetry.clear()

        with pytest.raises(errors.NoStreamResponseError):
            await kv.put("greeting", b"hello")
        [put] = telemetry.spans()
        assert_span(put, name=f"kv.put {bucket}", status=(StatusCode.ERROR, "nats: no response from stream"))
        assert put.attributes["error.type"] == "nats.js.errors.NoStreamResponseError"

    async def test_counts_one_sent_message(self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str):
        await kv.put("greeting", b"hello")
        await kv.put("greeting", b"hello")

        common = metric_attributes(nc, "kv.put", bucket)
        assert telemetry.metric("messaging.client.sent.messages") == {attribute_set(common): 2}
        durations = telemetry.metric("messaging.client.operation.duration")
        assert durations[attribute_set({**common, "messaging.operation.type": "send"})].count == 2

    async def test_names_a_generated_bucket_by_its_template(
        self, telemetry: Telemetry, js: JetStreamContext, nc: Client
    ):
        name = "0190163d-8694-739b-aea5-966c26f8ad91"
        kv = await js.create_key_value(bucket=name)
        await kv.put("greeting", b"hello")

        span = telemetry.span("kv.put *")
        more = {KEY: "greeting", OPERATION: "put", REVISION: 1, "messaging.destination.template": "*"}
        assert_span(span, attributes=operation_attributes(nc, "kv.put", name, more, operation_type="send"))
        await js.delete_key_value(name)

    async def test_that_is_cancelled_ends_without_a_status(
        self, telemetry: Telemetry, connect: Connect, server_factory: ServerFactory, bucket: str
    ):
        server = server_factory()
        nc = await connect(server)
        kv = await nc.jetstream().create_key_value(bucket=bucket)
        server.kill()
        telemetry.clear()

        putting = asyncio.ensure_future(kv.put("greeting", b"hello"))
        await eventually(lambda: [span.name for span in telemetry.counter.open] == [f"kv.put {bucket}"])
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert_span(telemetry.span(f"kv.put {bucket}"), status=StatusCode.UNSET)


class TestGet:
    @pytest.mark.parametrize("direct", [False, True])
    async def test_links_to_the_writer_and_is_no_child_of_it(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, bucket: str, direct: bool
    ):
        kv = await js.create_key_value(bucket=bucket, direct=direct)
        await kv.put("greeting", b"hello")
        put = telemetry.span(f"kv.put {bucket}")
        telemetry.clear()

        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            assert (await kv.get("greeting")).value == b"hello"

        [_, get] = telemetry.spans()
        assert_span(
            get,
            name=f"kv.get {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(
                nc, "kv.get", bucket, {KEY: "greeting", OPERATION: "put", REVISION: 1}, operation_type="receive"
            ),
            parent=ambient,
            links=[put],
        )

    async def test_is_a_root_without_an_ambient_span(self, telemetry: Telemetry, kv: KeyValue, bucket: str):
        await kv.put("greeting", b"hello")
        await kv.get(key="greeting")
        assert_span(telemetry.span(f"kv.get {bucket}"), parent=None)

    @pytest.mark.parametrize("direct", [False, True])
    async def test_by_revision_links_to_the_writer_of_that_revision(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, bucket: str, direct: bool
    ):
        kv = await js.create_key_value(bucket=bucket, history=5, direct=direct)
        for value in (b"one", b"two", b"three"):
            await kv.put("greeting", value)
        puts = telemetry.named(f"kv.put {bucket}")

        assert (await kv.get("greeting", revision=2)).value == b"two"
        assert (await kv.get("greeting")).value == b"three"
        second, last = telemetry.named(f"kv.get {bucket}")
        more = {KEY: "greeting", OPERATION: "put", REVISION: 2}
        expected = operation_attributes(nc, "kv.get", bucket, more, operation_type="receive")
        assert_span(second, attributes=expected, links=[puts[1]])
        assert_span(last, attributes={**expected, REVISION: 3}, links=[puts[2]])

    async def test_of_a_value_without_a_writers_context_has_no_link(
        self, telemetry: Telemetry, kv: KeyValue, bucket: str
    ):
        telemetry.uninstrument()
        await kv.put("greeting", b"hello")
        telemetry.instrument()

        await kv.get("greeting")
        [get] = telemetry.spans()
        assert_span(get, name=f"kv.get {bucket}", parent=None, links=[])

    async def test_is_no_delivery(self, telemetry: Telemetry, kv: KeyValue):
        await kv.put("greeting", b"hello")
        await kv.get("greeting")
        assert telemetry.metric("messaging.client.consumed.messages") == {}

    @pytest.mark.parametrize("direct", [False, True])
    @pytest.mark.parametrize("revision", [None, 7])
    async def test_of_a_missing_key_is_no_error(
        self,
        telemetry: Telemetry,
        nc: Client,
        js: JetStreamContext,
        bucket: str,
        direct: bool,
        revision: int | None,
    ):
        kv = await js.create_key_value(bucket=bucket, direct=direct)
        telemetry.clear()

        with pytest.raises(errors.KeyNotFoundError):
            await kv.get("greeting", revision)
        [get] = telemetry.spans()
        assert_span(
            get,
            name=f"kv.get {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, "kv.get", bucket, {KEY: "greeting"}, operation_type="receive"),
            parent=None,
            links=[],
        )
        duration = telemetry.metric("messaging.client.operation.duration")
        common = metric_attributes(nc, "kv.get", bucket)
        assert duration[attribute_set({**common, "messaging.operation.type": "receive"})].count == 1

    @pytest.mark.parametrize("remove", ["delete", "purge"])
    async def test_of_a_deleted_key_is_no_error_and_links_to_the_deleter(
        self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str, remove: str
    ):
        await kv.put("greeting", b"hello")
        await getattr(kv, remove)("greeting")
        remover = telemetry.span(f"kv.{remove} {bucket}")
        telemetry.clear()

        with pytest.raises(errors.KeyNotFoundError) as raised:
            await kv.get("greeting")
        assert raised.value.entry.revision == 2
        [get] = telemetry.spans()
        expected = operation_attributes(nc, "kv.get", bucket, {KEY: "greeting"}, operation_type="receive")
        assert_span(get, attributes=expected, links=[remover])

    async def test_of_another_keys_revision_is_no_error_and_links_to_nobody(
        self, telemetry: Telemetry, kv: KeyValue, bucket: str
    ):
        await kv.put("other", b"hello")
        telemetry.clear()

        with pytest.raises(errors.KeyNotFoundError, match="expected .* but got"):
            await kv.get("greeting", revision=1)
        [get] = telemetry.spans()
        assert_span(get, links=[])

    async def test_from_a_bucket_that_is_gone_is_no_error_either(
        self, telemetry: Telemetry, js: JetStreamContext, kv: KeyValue, bucket: str
    ):
        # Without direct get nats-py tells a missing bucket from a missing key by nothing.
        await js.delete_key_value(bucket)
        telemetry.clear()

        with pytest.raises(errors.KeyNotFoundError):
            await kv.get("greeting")
        assert_span(telemetry.span(f"kv.get {bucket}"))

    async def test_directly_from_a_bucket_without_direct_get_is_nats_pys_error(
        self, telemetry: Telemetry, kv: KeyValue, bucket: str
    ):
        await kv.put("greeting", b"hello")
        kv._direct = True
        telemetry.uninstrument()
        with pytest.raises(nats.errors.Error) as plain:
            await kv.get("greeting")
        telemetry.instrument()
        telemetry.clear()

        with pytest.raises(type(plain.value)):
            await kv.get("greeting")
        [get] = telemetry.spans()
        assert_span(get, name=f"kv.get {bucket}", links=[], status=StatusCode.ERROR)
        assert get.attributes["error.type"] == f"{type(plain.value).__module__}.{type(plain.value).__qualname__}"

    async def test_on_a_lost_connection_is_an_error(
        self, telemetry: Telemetry, connect: Connect, server_factory: ServerFactory, bucket: str
    ):
        server = server_factory()
        nc = await connect(server, allow_reconnect=False)
        kv = await nc.jetstream().create_key_value(bucket=bucket)
        server.kill()
        await eventually(lambda: nc.is_closed)
        telemetry.clear()

        with pytest.raises(nats.errors.ConnectionClosedError):
            await kv.get("greeting")
        [get] = telemetry.spans()
        assert_span(
            get, status=(StatusCode.ERROR, "nats: connection closed"), events=["exception"], name=f"kv.get {bucket}"
        )


class TestCreate:
    async def test_makes_one_span(self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str):
        assert await kv.create("greeting", b"hello") == 1
        [create] = telemetry.spans()
        assert_span(
            create,
            name=f"kv.create {bucket}",
            kind=SpanKind.PRODUCER,
            attributes=operation_attributes(
                nc, "kv.create", bucket, {KEY: "greeting", OPERATION: "put", REVISION: 1}, operation_type="send"
            ),
            parent=None,
            links=[],
        )

    @pytest.mark.parametrize("remove", ["delete", "purge"])
    async def test_over_a_tombstone_makes_one_span_that_the_reader_links_to(
        self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str, remove: str
    ):
        await kv.put("greeting", b"hello")
        await getattr(kv, remove)("greeting")
        telemetry.clear()

        assert await kv.create("greeting", b"again") == 3
        [create] = telemetry.spans()
        expected = {KEY: "greeting", OPERATION: "put", REVISION: 3}
        assert_span(
            create,
            name=f"kv.create {bucket}",
            attributes=operation_attributes(nc, "kv.create", bucket, expected, operation_type="send"),
            links=[],
        )
        await kv.get("greeting")
        assert_span(telemetry.span(f"kv.get {bucket}"), links=[create])
        sent = telemetry.metric("messaging.client.sent.messages")
        assert sent[attribute_set(metric_attributes(nc, "kv.create", bucket))] == 1

    async def test_of_a_key_that_exists_is_an_error(self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str):
        await kv.put("greeting", b"hello")
        telemetry.clear()

        with pytest.raises(errors.KeyWrongLastSequenceError) as raised:
            await kv.create("greeting", b"again")
        [create] = telemetry.spans()
        more = {
            KEY: "greeting",
            OPERATION: "put",
            "error.type": "nats.js.errors.KeyWrongLastSequenceError",
        }
        assert_span(
            create,
            name=f"kv.create {bucket}",
            attributes=operation_attributes(nc, "kv.create", bucket, more, operation_type="send"),
            status=(StatusCode.ERROR, str(raised.value)),
        )


class TestUpdate:
    async def test_makes_one_span(self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str):
        await kv.put("greeting", b"hello")
        telemetry.clear()

        assert await kv.update("greeting", b"again", last=1) == 2
        [update] = telemetry.spans()
        assert_span(
            update,
            name=f"kv.update {bucket}",
            kind=SpanKind.PRODUCER,
            attributes=operation_attributes(
                nc, "kv.update", bucket, {KEY: "greeting", OPERATION: "put", REVISION: 2}, operation_type="send"
            ),
            parent=None,
            links=[],
        )
        await kv.get("greeting")
        assert_span(telemetry.span(f"kv.get {bucket}"), links=[update])

    async def test_with_the_wrong_revision_is_an_error(
        self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str
    ):
        await kv.put("greeting", b"hello")
        telemetry.clear()

        with pytest.raises(errors.KeyWrongLastSequenceError) as raised:
            await kv.update("greeting", b"again", last=7)
        assert str(raised.value) == "nats: wrong last sequence: 1"
        [update] = telemetry.spans()
        more = {
            KEY: "greeting",
            OPERATION: "put",
            "error.type": "nats.js.errors.KeyWrongLastSequenceError",
        }
        assert_span(
            update,
            name=f"kv.update {bucket}",
            kind=SpanKind.PRODUCER,
            attributes=operation_attributes(nc, "kv.update", bucket, more, operation_type="send"),
            status=(StatusCode.ERROR, "nats: wrong last sequence: 1"),
        )
        failed = {
            **metric_attributes(nc, "kv.update", bucket),
            "error.type": "nats.js.errors.KeyWrongLastSequenceError",
        }
        assert telemetry.metric("messaging.client.sent.messages")[attribute_set(failed)] == 1


@pytest.mark.parametrize("remove", ["delete", "purge"])
class TestDeleteAndPurge:
    async def test_makes_one_span(self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str, remove: str):
        await kv.put("greeting", b"hello")
        telemetry.clear()

        assert await getattr(kv, remove)("greeting") is True
        [span] = telemetry.spans()
        assert_span(
            span,
            name=f"kv.{remove} {bucket}",
            kind=SpanKind.PRODUCER,
            attributes=operation_attributes(
                nc, f"kv.{remove}", bucket, {KEY: "greeting", OPERATION: remove}, operation_type="send"
            ),
            parent=None,
            links=[],
        )

    async def test_of_a_missing_key_is_no_error(self, telemetry: Telemetry, kv: KeyValue, bucket: str, remove: str):
        assert await getattr(kv, remove)("greeting") is True
        assert_span(telemetry.span(f"kv.{remove} {bucket}"))


class TestDelete:
    async def test_with_the_wrong_revision_is_an_error_by_the_servers_code(
        self, telemetry: Telemetry, kv: KeyValue, bucket: str
    ):
        await kv.put("greeting", b"hello")
        telemetry.clear()

        with pytest.raises(errors.BadRequestError) as raised:
            await kv.delete("greeting", last=7)
        [delete] = telemetry.spans()
        assert_span(delete, name=f"kv.delete {bucket}", status=(StatusCode.ERROR, str(raised.value)))
        assert delete.attributes["error.type"] == str(raised.value.err_code) == "10071"


class TestKeys:
    async def test_makes_one_span_with_their_number(self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str):
        await kv.put("one", b"1")
        await kv.put("two", b"2")
        await kv.put("gone", b"3")
        await kv.delete("gone")
        telemetry.clear()

        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            assert await listed(kv.keys, telemetry) == ["one", "two"]
        [_, keys] = telemetry.spans()
        assert_span(
            keys,
            name=f"kv.keys {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, "kv.keys", bucket, {COUNT: 2}, operation_type="receive"),
            parent=ambient,
            links=[],
        )

    async def test_of_an_empty_bucket_is_no_error(self, telemetry: Telemetry, kv: KeyValue, nc: Client, bucket: str):
        with pytest.raises(errors.NoKeysError):
            await kv.keys()
        [keys] = telemetry.spans()
        assert_span(keys, attributes=operation_attributes(nc, "kv.keys", bucket, operation_type="receive"))

    @pytest.mark.skipif("filters" not in KeyValue.keys.__code__.co_varnames, reason="this nats-py has no filters")
    async def test_counts_what_passes_the_filters(self, telemetry: Telemetry, kv: KeyValue, bucket: str):
        await kv.put("a.one", b"1")
        await kv.put("b.one", b"2")
        assert await listed(lambda: kv.keys(filters=["a."]), telemetry) == ["a.one"]
        assert telemetry.span(f"kv.keys {bucket}").attributes[COUNT] == 1


class TestHistory:
    async def test_links_to_every_writer(self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str):
        await kv.put("greeting", b"one")
        await kv.update("greeting", b"two!", last=1)
        await kv.delete("greeting")
        await kv.create("greeting", b"four")
        writers = telemetry.spans()
        telemetry.clear()

        assert [entry.revision for entry in await listed(lambda: kv.history("greeting"), telemetry)] == [1, 2, 3, 4]
        [history] = telemetry.spans()
        assert_span(
            history,
            name=f"kv.history {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(
                nc, "kv.history", bucket, {KEY: "greeting", COUNT: 4}, operation_type="receive"
            ),
            parent=None,
            links=[
                (writers[0], {KEY: "greeting", REVISION: 1, OPERATION: "put", SIZE: 3}),
                (writers[1], {KEY: "greeting", REVISION: 2, OPERATION: "put", SIZE: 4}),
                (writers[2], {KEY: "greeting", REVISION: 3, OPERATION: "delete", SIZE: 0}),
                (writers[3], {KEY: "greeting", REVISION: 4, OPERATION: "put", SIZE: 4}),
            ],
        )

    async def test_of_a_missing_key_is_no_error(self, telemetry: Telemetry, kv: KeyValue, nc: Client, bucket: str):
        with pytest.raises(errors.NoKeysError):
            await kv.history("greeting")
        [history] = telemetry.spans()
        expected = operation_attributes(nc, "kv.history", bucket, {KEY: "greeting"}, operation_type="receive")
        assert_span(history, attributes=expected, links=[])


class TestTheBucketItself:
    async def test_purge_deletes_makes_one_span(self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str):
        await kv.put("greeting", b"hello")
        await kv.put("kept", b"hello")
        await kv.delete("greeting")
        telemetry.clear()

        assert await kv.purge_deletes(olderthan=0)
        [span] = telemetry.spans()
        assert_span(
            span,
            name=f"kv.purge_deletes {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, "kv.purge_deletes", bucket),
            parent=None,
            links=[],
        )
        assert (await kv.status()).values == 1

    async def test_status_makes_one_span(self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str):
        assert (await kv.status()).bucket == bucket
        [status] = telemetry.spans()
        assert_span(
            status,
            name=f"kv.status {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, "kv.status", bucket),
            parent=None,
            links=[],
        )

    async def test_status_of_a_bucket_that_is_gone_is_an_error(
        self, telemetry: Telemetry, js: JetStreamContext, kv: KeyValue, bucket: str
    ):
        await js.delete_key_value(bucket)
        telemetry.clear()
        with pytest.raises(errors.NotFoundError):
            await kv.status()
        [status] = telemetry.spans()
        assert_span(status, name=f"kv.status {bucket}", status=StatusCode.ERROR)
        assert status.attributes["error.type"] == "10059"

    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("create_key_value", lambda js, bucket: js.create_key_value(bucket=bucket)),
            ("create_key_value", lambda js, bucket: js.create_key_value(nats.js.api.KeyValueConfig(bucket=bucket))),
            ("key_value", lambda js, bucket: js.key_value(bucket)),
            ("key_value", lambda js, bucket: js.key_value(bucket=bucket)),
            ("delete_key_value", lambda js, bucket: js.delete_key_value(bucket)),
        ],
    )
    async def test_its_creation_lookup_and_deletion_make_one_span_each(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, bucket: str, name: str, call: Any
    ):
        if name != "create_key_value":
            await js.create_key_value(bucket=bucket)
            telemetry.clear()

        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await call(js, bucket)
        [_, span] = telemetry.spans()
        assert_span(
            span,
            name=f"{name} {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, name, bucket),
            parent=ambient,
            links=[],
        )

    async def test_looking_up_a_bucket_that_is_not_there_is_an_error(
        self, telemetry: Telemetry, js: JetStreamContext, bucket: str
    ):
        with pytest.raises(errors.BucketNotFoundError):
            await js.key_value(bucket)
        [span] = telemetry.spans()
        assert_span(span, name=f"key_value {bucket}", status=StatusCode.ERROR)
        assert span.attributes["error.type"] == "nats.js.errors.BucketNotFoundError"

    async def test_too_long_a_history_is_an_error(self, telemetry: Telemetry, js: JetStreamContext, bucket: str):
        with pytest.raises(errors.KeyHistoryTooLargeError):
            await js.create_key_value(bucket=bucket, history=65)
        [span] = telemetry.spans()
        assert_span(
            span,
            status=(StatusCode.ERROR, "nats: history limited to a max of 64"),
            events=["exception"],
        )


@pytest.mark.parametrize("method", ["watch", "watchall"])
class TestWatch:
    async def test_makes_one_span_until_it_watches(
        self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str, method: str
    ):
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            watcher = await (kv.watch("a.*") if method == "watch" else kv.watchall())
        [_, watch] = telemetry.spans()
        assert_span(
            watch,
            name=f"kv.{method} {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, f"kv.{method}", bucket, {KEY: "a.*"} if method == "watch" else None),
            parent=ambient,
            links=[],
        )
        await watcher.stop()

    async def test_of_a_bucket_that_is_gone_is_an_error(
        self, telemetry: Telemetry, js: JetStreamContext, kv: KeyValue, bucket: str, method: str
    ):
        await js.delete_key_value(bucket)
        telemetry.clear()
        # nats-py 2.2 trips over the answer.
        with pytest.raises((errors.NotFoundError, TypeError)) as raised:
            await (kv.watch("a.*") if method == "watch" else kv.watchall())
        [watch] = telemetry.spans()
        events = ["exception"] if raised.type is TypeError else []
        assert_span(watch, name=f"kv.{method} {bucket}", status=StatusCode.ERROR, events=events)


class TestLoopOverAWatcher:
    async def test_its_body_is_a_process_span_in_the_writers_trace(
        self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str
    ):
        await kv.put("greeting", b"hello")
        put = telemetry.span(f"kv.put {bucket}")
        watcher = await watching(kv)
        telemetry.clear()

        async for entry in watcher:
            assert entry.value == b"hello"
            current = trace.get_current_span()
            break
        assert trace.get_current_span() is trace.INVALID_SPAN

        [process] = telemetry.spans()
        assert process.get_span_context() == current.get_span_context()
        more = {KEY: "greeting", OPERATION: "put", REVISION: 1, SIZE: 5}
        assert_span(
            process,
            name=f"process {bucket}",
            kind=SpanKind.CONSUMER,
            attributes=operation_attributes(nc, "process", bucket, more, operation_type="process"),
            parent=put,
            links=[put],
        )
        consumed = attribute_set(metric_attributes(nc, "process", bucket))
        assert telemetry.metric("messaging.client.consumed.messages") == {consumed: 1}
        assert telemetry.metric("messaging.process.duration")[consumed].count == 1

    async def test_its_body_is_a_child_of_an_ambient_span_and_links_to_the_writer(
        self, telemetry: Telemetry, kv: KeyValue, bucket: str
    ):
        await kv.put("greeting", b"hello")
        put = telemetry.span(f"kv.put {bucket}")
        watcher = await watching(kv)

        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await until_marker(watcher)
            assert trace.get_current_span() is ambient
        assert_span(telemetry.span(f"process {bucket}"), parent=ambient, links=[put])

    @pytest.mark.instrument(use_span_links=True)
    async def test_with_span_links_its_body_starts_a_trace(self, telemetry: Telemetry, kv: KeyValue, bucket: str):
        await kv.put("greeting", b"hello")
        with telemetry.tracer.start_as_current_span("ambient"):
            await until_marker(await watching(kv))
        assert_span(telemetry.span(f"process {bucket}"), parent=None, links=[telemetry.span(f"kv.put {bucket}")])

    async def test_tells_what_happened_to_the_key(self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str):
        await kv.put("deleted", b"hello")
        await kv.put("purged", b"hello")
        await kv.put("kept", b"hello")
        await kv.delete("deleted")
        await kv.purge("purged")
        writers = telemetry.spans()
        watcher = await watching(kv)
        telemetry.clear()

        await until_marker(watcher)
        expected = [
            ("kept", 3, "put", 5, writers[2]),
            ("deleted", 4, "delete", 0, writers[3]),
            ("purged", 5, "purge", 0, writers[4]),
        ]
        for span, (key, revision, operation, size, writer) in zip(telemetry.spans(), expected, strict=True):
            more = {KEY: key, REVISION: revision, OPERATION: operation, SIZE: size}
            assert_span(
                span,
                name=f"process {bucket}",
                kind=SpanKind.CONSUMER,
                attributes=operation_attributes(nc, "process", bucket, more, operation_type="process"),
                parent=writer,
                links=[writer],
            )

    async def test_sees_every_revision_with_include_history(self, telemetry: Telemetry, kv: KeyValue, bucket: str):
        for value in (b"one", b"two"):
            await kv.put("greeting", value)
        watcher = await watching(kv, "greeting", include_history=True)
        await until_marker(watcher)
        processes_, puts = telemetry.named(f"process {bucket}"), telemetry.named(f"kv.put {bucket}")
        assert [span.attributes[REVISION] for span in processes_] == [1, 2]
        for span, put in zip(processes_, puts, strict=True):
            assert_span(span, parent=put, links=[put])

    async def test_of_metadata_only_links_to_the_writer_too(self, telemetry: Telemetry, kv: KeyValue, bucket: str):
        await kv.put("greeting", b"hello")
        await until_marker(await watching(kv, meta_only=True))
        process = telemetry.span(f"process {bucket}")
        assert_span(process, links=[telemetry.span(f"kv.put {bucket}")])
        assert process.attributes[SIZE] == 0

    @has_msg_ttl
    async def test_a_purge_marker_with_a_ttl_is_processed_as_a_purge(
        self, telemetry: Telemetry, js: JetStreamContext, kv: KeyValue, bucket: str
    ):
        await kv.put("greeting", b"hello")
        await kv.purge("greeting", msg_ttl=60)
        purge = telemetry.span(f"kv.purge {bucket}")
        await until_marker(await watching(kv))
        process = telemetry.span(f"process {bucket}")
        assert_span(process, parent=purge, links=[purge])
        assert process.attributes[OPERATION] == "purge"

    @pytest.mark.skipif(
        not hasattr(errors, "KeyValueLimitMarkerTTLNotSupportedError"), reason="this nats-py knows no TTL markers"
    )
    async def test_the_servers_marker_for_an_expired_value_is_processed_as_a_purge_by_nobody(
        self, telemetry: Telemetry, js: JetStreamContext, nc: Client, bucket: str
    ):
        kv = await js.create_key_value(bucket=bucket, limit_marker_ttl=60)
        watcher = await kv.watchall()
        assert await watcher.updates() is None
        await kv.create("greeting", b"hello", msg_ttl=1)
        telemetry.clear()

        async for entry in watcher:
            if entry.operation == "PURGE":
                break
        created, expired = telemetry.named(f"process {bucket}")
        assert created.attributes[OPERATION] == "put"
        more = {KEY: "greeting", REVISION: 2, OPERATION: "purge", SIZE: 0}
        assert_span(
            expired,
            attributes=operation_attributes(nc, "process", bucket, more, operation_type="process"),
            parent=None,
            links=[],
        )

    @loop_goes_on
    async def test_markers_make_nothing_and_the_context_before_the_loop_is_current_meanwhile(
        self, telemetry: Telemetry, kv: KeyValue, bucket: str
    ):
        watcher = await kv.watchall()
        telemetry.clear()
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            async for entry in watcher:
                if entry is None:
                    assert trace.get_current_span() is ambient
                    await kv.put("greeting", b"hello")
                elif entry.key == "greeting":
                    assert trace.get_current_span() is not ambient
                    break
        assert [span.name for span in telemetry.spans()] == ["ambient", f"kv.put {bucket}", f"process {bucket}"]
        assert_span(telemetry.span(f"kv.put {bucket}"), parent=ambient)
        assert sum(telemetry.metric("messaging.client.consumed.messages").values()) == 1

    @loop_goes_on
    async def test_after_a_value_the_marker_is_outside_of_its_span(
        self, telemetry: Telemetry, kv: KeyValue, bucket: str
    ):
        await kv.put("greeting", b"hello")
        async for entry in await watching(kv):
            if entry is None:
                assert trace.get_current_span() is trace.INVALID_SPAN
                assert len(telemetry.named(f"process {bucket}")) == 1
                break

    @loop_goes_on
    async def test_stop_ends_the_loop_and_its_last_span(self, telemetry: Telemetry, kv: KeyValue, bucket: str):
        watcher = await kv.watchall()
        async for entry in watcher:
            if entry is None:
                await kv.put("greeting", b"hello")
            else:
                await watcher.stop()
        assert trace.get_current_span() is trace.INVALID_SPAN
        assert not telemetry.counter.open
        assert_span(telemetry.span(f"process {bucket}"))

    @loop_goes_on
    async def test_stop_from_elsewhere_ends_a_loop_that_waits(self, telemetry: Telemetry, kv: KeyValue, bucket: str):
        watcher = await kv.watchall()
        seen: list[Any] = []

        async def watch() -> None:
            async for entry in watcher:
                seen.append(entry)
            assert trace.get_current_span() is trace.INVALID_SPAN

        watching = asyncio.ensure_future(watch())
        await kv.put("greeting", b"hello")
        await eventually(lambda: len(seen) == 2)
        await eventually(lambda: not telemetry.counter.open, what="the body that ran last ends with the next step")
        await watcher.stop()
        await watching
        assert len(telemetry.named(f"process {bucket}")) == 1

    @pytest.mark.parametrize("leave", ["break", "return", "raise", "cancel"])
    async def test_leaving_it_ends_the_span_and_restores_the_context_at_once(
        self, telemetry: Telemetry, kv: KeyValue, bucket: str, leave: str
    ):
        await kv.put("greeting", b"hello")
        watcher = await watching(kv)
        telemetry.clear()

        async def watch() -> None:
            async for entry in watcher:
                assert entry is not None
                assert trace.get_current_span().is_recording()
                if leave == "break":
                    break
                if leave == "return":
                    return
                if leave == "raise":
                    raise KeyError("mine")
                asyncio.current_task().cancel()
                await asyncio.sleep(0)

        async def run() -> None:
            with telemetry.tracer.start_as_current_span("ambient") as ambient:
                try:
                    await watch()
                except KeyError as error:
                    assert leave == "raise"
                    assert str(error) == "'mine'"
                except asyncio.CancelledError:
                    assert leave == "cancel"
                assert trace.get_current_span() is ambient
                assert [span.name for span in telemetry.counter.open] == ["ambient"]

        gc.disable()
        try:
            await asyncio.ensure_future(run())
        finally:
            gc.enable()
        assert_span(telemetry.span(f"process {bucket}"))

    @loop_goes_on
    async def test_a_lost_connection_leaves_nothing_open(
        self, telemetry: Telemetry, connect: Connect, server_factory: ServerFactory, bucket: str
    ):
        server = server_factory()
        nc = await connect(server, allow_reconnect=False)
        kv = await nc.jetstream().create_key_value(bucket=bucket)
        watcher = await kv.watchall()
        await kv.put("greeting", b"hello")
        in_body = asyncio.Event()
        go_on = asyncio.Event()

        async def watch() -> None:
            async for entry in watcher:
                if entry is not None:
                    in_body.set()
                    await go_on.wait()

        watching = asyncio.ensure_future(watch())
        await in_body.wait()
        server.kill()
        await eventually(lambda: nc.is_closed)
        assert [span.name for span in telemetry.counter.open] == [f"process {bucket}"]
        go_on.set()
        # nats-py leaves the loop waiting for ever.
        await eventually(lambda: not telemetry.counter.open)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        assert_span(telemetry.span(f"process {bucket}"))

    @loop_goes_on
    async def test_goes_on_after_a_reconnect(
        self, telemetry: Telemetry, nc: Client, connect: Connect, kv: KeyValue, bucket: str
    ):
        writer = await (await connect()).jetstream().key_value(bucket)
        watcher = await kv.watchall()
        ids = [nc.client_id]
        async for entry in watcher:
            if entry is None:
                nc._transport._io_writer.transport.abort()
                await eventually(lambda: nc.stats["reconnects"] == 1 and nc.is_connected)
                await nc.flush()
                ids.append(nc.client_id)
                telemetry.clear()
                await writer.put("greeting", b"hello")
            else:
                break
        assert ids[0] != ids[1]
        put = telemetry.span(f"kv.put {bucket}")
        more = {KEY: "greeting", OPERATION: "put", REVISION: 1, SIZE: 5}
        assert_span(
            telemetry.span(f"process {bucket}"),
            attributes=operation_attributes(nc, "process", bucket, more, operation_type="process"),
            parent=put,
            links=[put],
        )

    async def test_two_loops_over_one_watcher_do_not_disturb_each_other(
        self, telemetry: Telemetry, kv: KeyValue, bucket: str
    ):
        await kv.put("one", b"1")
        await kv.put("two", b"2")
        watcher = await watching(kv)
        async for first in watcher:
            outer = trace.get_current_span()
            async for second in watcher:
                assert (first.key, second.key) == ("one", "two")
                assert trace.get_current_span() is not outer
                break
            assert trace.get_current_span() is outer
            break
        outer_span, inner_span = telemetry.named(f"process {bucket}")
        assert_span(inner_span, parent=outer_span, links=[telemetry.named(f"kv.put {bucket}")[1]])

    async def test_is_plain_nats_py_once_uninstrumented(self, telemetry: Telemetry, kv: KeyValue, bucket: str):
        await kv.put("one", b"1")
        await kv.put("two", b"2")
        watcher = await watching(kv)
        keys: list[str] = []
        async for entry in watcher:
            if entry is None:
                break
            keys.append(entry.key)
            if entry.key == "one":
                telemetry.uninstrument()
        assert keys == ["one", "two"]
        assert trace.get_current_span() is trace.INVALID_SPAN
        assert len(telemetry.named(f"process {bucket}")) == 1

    async def test_made_before_instrumentation_is_traced_without_the_writer(
        self, telemetry: Telemetry, kv: KeyValue, bucket: str
    ):
        await kv.put("greeting", b"hello")
        telemetry.uninstrument()
        watcher = await watching(kv)
        telemetry.instrument()
        await until_marker(watcher)
        assert_span(telemetry.span(f"process {bucket}"), parent=None, links=[])

    async def test_what_it_does_is_all_traced(
        self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str, unique: Unique
    ):
        everything = await Everything.made(nc, unique("all"), telemetry)
        await kv.put("greeting", b"hello")
        async for _ in await watching(kv):
            await everything.use()
            break
        [process] = telemetry.named(f"process {bucket}")
        assert children(telemetry.spans(), process) == everything.names

    @pytest.mark.parametrize("jetstream", [False, True])
    async def test_a_callback_that_it_subscribes_is_all_traced(
        self,
        telemetry: Telemetry,
        nc: Client,
        js: JetStreamContext,
        kv: KeyValue,
        bucket: str,
        unique: Unique,
        jetstream: bool,
    ):
        everything = await Everything.made(nc, unique("all"), telemetry)
        subject = unique("subject")
        done = asyncio.Event()
        await js.add_stream(name=subject, subjects=[subject])

        async def callback(_: Any) -> None:
            await everything.use()
            done.set()

        await kv.put("greeting", b"hello")
        async for _ in await watching(kv):
            # JetStream's makes requests, so that it is a call with a mark, which its callback's task inherits.
            await (js if jetstream else nc).subscribe(subject, cb=callback)
            break
        await nc.publish(subject, b"")
        await done.wait()
        [process] = await telemetry.wait_for(f"process {subject}")
        assert_span(process, parent=telemetry.span(f"publish {subject}"))
        acks = [f"ack {subject}"] if jetstream else []
        assert children(telemetry.spans(), process) == [*everything.names, *acks]

    async def test_a_watcher_that_it_makes_feeds_a_loop_that_is_all_traced(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, kv: KeyValue, bucket: str, unique: Unique
    ):
        everything = await Everything.made(nc, unique("all"), telemetry)
        other = await js.create_key_value(bucket=unique("other"))
        await other.put("greeting", b"hello")
        await kv.put("greeting", b"hello")
        async for _ in await watching(kv):
            inner = await watching(other)
            break
        async for _ in inner:
            await everything.use()
            break
        [process] = telemetry.named(f"process {other._name}")
        assert_span(process, parent=telemetry.span(f"kv.put {other._name}"))
        assert children(telemetry.spans(), process) == everything.names


class TestUpdates:
    async def test_is_a_receive_span_in_the_writers_trace(
        self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str
    ):
        await kv.put("greeting", b"hello")
        put = telemetry.span(f"kv.put {bucket}")
        watcher = await watching(kv)
        telemetry.clear()

        assert (await watcher.updates()).value == b"hello"
        [receive] = telemetry.spans()
        more = {KEY: "greeting", OPERATION: "put", REVISION: 1, SIZE: 5}
        assert_span(
            receive,
            name=f"receive {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, "receive", bucket, more, operation_type="receive"),
            parent=put,
            links=[put],
        )
        consumed = attribute_set(metric_attributes(nc, "receive", bucket))
        assert telemetry.metric("messaging.client.consumed.messages") == {consumed: 1}

    async def test_is_a_child_of_an_ambient_span(self, telemetry: Telemetry, kv: KeyValue, bucket: str):
        await kv.put("greeting", b"hello")
        watcher = await watching(kv)
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await watcher.updates()
            assert trace.get_current_span() is ambient
        receive = telemetry.span(f"receive {bucket}")
        assert_span(receive, parent=ambient, links=[telemetry.span(f"kv.put {bucket}")])

    async def test_of_a_marker_makes_nothing(self, telemetry: Telemetry, kv: KeyValue):
        watcher = await kv.watchall()
        telemetry.clear()
        assert await watcher.updates() is None
        assert telemetry.spans() == []
        assert telemetry.metric("messaging.client.consumed.messages") == {}

    async def test_in_vain_makes_no_span_and_no_error(
        self, telemetry: Telemetry, nc: Client, kv: KeyValue, bucket: str
    ):
        watcher = await kv.watchall()
        await watcher.updates()
        telemetry.clear()
        with pytest.raises(nats.errors.TimeoutError):
            await watcher.updates(timeout=0.01)
        assert telemetry.spans() == []
        duration = telemetry.metric("messaging.client.operation.duration")
        common = {**metric_attributes(nc, "receive", bucket), "messaging.operation.type": "receive"}
        assert duration[attribute_set(common)].count == 1

    async def test_that_is_cancelled_makes_no_span(self, telemetry: Telemetry, kv: KeyValue):
        watcher = await kv.watchall()
        await watcher.updates()
        telemetry.clear()
        receiving = asyncio.ensure_future(watcher.updates())
        await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert telemetry.spans() == []

    async def test_after_stop_gives_what_nats_py_gives(self, telemetry: Telemetry, kv: KeyValue):
        results: list[Any] = []
        for instrumented in (False, True):
            telemetry.uninstrument()
            if instrumented:
                telemetry.instrument()
            watcher = await kv.watchall()
            assert await watcher.updates() is None
            await watcher.stop()
            telemetry.clear()
            try:
                results.append(type(await watcher.updates(timeout=0.01)))
            except nats.errors.TimeoutError as error:  # older releases of nats-py
                results.append(type(error))
        assert results[0] is results[1]
        assert telemetry.spans() == []

    @pytest.mark.instrument(activate_next_msg=True)
    async def test_keeps_its_context_until_the_next_one_with_the_option(
        self, telemetry: Telemetry, nc: Client, kv: KeyValue, unique: Unique, bucket: str
    ):
        subject = unique("subject")
        await kv.put("greeting", b"hello")
        watcher = await watching(kv)
        await watcher.updates()
        await nc.publish(subject, b"")
        assert_span(telemetry.span(f"publish {subject}"), parent=telemetry.span(f"receive {bucket}"))
        assert await watcher.updates() is None
        assert trace.get_current_span() is trace.INVALID_SPAN

    async def test_what_is_done_after_it_is_all_traced(
        self, telemetry: Telemetry, nc: Client, kv: KeyValue, unique: Unique
    ):
        everything = await Everything.made(nc, unique("all"), telemetry)
        await kv.put("greeting", b"hello")
        watcher = await watching(kv)
        await watcher.updates()
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await everything.use()
        assert children(telemetry.spans(), ambient) == everything.names


WRITER = """
import asyncio, sys
import nats

async def main():
    async with await nats.connect(sys.argv[1]) as nc:
        kv = await nc.jetstream().create_key_value(bucket=sys.argv[2], history=5)
        await kv.put("greeting", b"hello")
        await kv.put("greeting", b"again")

asyncio.run(main())
"""


class TestTheWriter:
    async def test_is_another_client_of_the_same_process(
        self, telemetry: Telemetry, connect: Connect, kv: KeyValue, bucket: str
    ):
        await kv.put("greeting", b"hello")
        put = telemetry.span(f"kv.put {bucket}")
        reader = await (await connect()).jetstream().key_value(bucket)
        await reader.get("greeting")
        assert_span(telemetry.span(f"kv.get {bucket}"), parent=None, links=[put])

    async def test_is_found_from_another_process_and_after_a_restart_of_the_server(
        self,
        telemetry: Telemetry,
        connect: Connect,
        server_factory: ServerFactory,
        otlp: OtlpReceiver,
        bucket: str,
    ):
        server = server_factory()
        program = await processes.run(WRITER, server.url, bucket, env=otlp.environment("writer"))
        assert program.returncode == 0, program.stderr
        await asyncio.to_thread(otlp.wait_for, lambda receiver: len(receiver.named(f"kv.put {bucket}")) == 2)
        first, second = (
            (int(put.trace_id, 16), int(put.span_id, 16))
            for put in sorted(otlp.named(f"kv.put {bucket}"), key=lambda span: span.start)
        )

        server.restart()
        kv = await (await connect(server)).jetstream().key_value(bucket)
        await listed(lambda: kv.history("greeting"), telemetry)
        history = telemetry.span(f"kv.history {bucket}")
        await until_marker(await watching(kv))
        await kv.get("greeting")
        await kv.get("greeting", revision=1)

        get, get_first = telemetry.named(f"kv.get {bucket}")
        process = telemetry.span(f"process {bucket}")
        assert linked(get) == [second]
        assert linked(get_first) == [first]
        assert linked(history) == [first, second]
        assert linked(process) == [second]
        assert (process.parent.trace_id, process.parent.span_id) == second
        assert get.parent is None


class TestInvalidKeys:
    @validates_keys
    @pytest.mark.parametrize("key", ["", ".greeting", "two words", "greeting.", "a>b"])
    @pytest.mark.parametrize("call", ["put", "create", "update", "delete", "get"])
    async def test_are_nats_pys_error(self, telemetry: Telemetry, kv: KeyValue, bucket: str, call: str, key: str):
        arguments = [b"value"] if call in ("put", "create", "update") else []
        with pytest.raises(errors.InvalidKeyError) as raised:
            await getattr(kv, call)(key, *arguments)
        [span] = telemetry.spans()
        assert_span(
            span,
            name=f"kv.{call} {bucket}",
            status=(StatusCode.ERROR, str(raised.value)),
            events=["exception"],
        )
        assert span.attributes["error.type"] == "nats.js.errors.InvalidKeyError"
        assert span.attributes[KEY] == key

    async def test_that_are_no_strings_do_what_they_do_without_instrumentation(
        self, telemetry: Telemetry, kv: KeyValue
    ):
        outcomes: list[Any] = []
        for instrumented in (False, True):
            telemetry.uninstrument()
            if instrumented:
                telemetry.instrument()
            for key in (None, 7, b"bytes"):
                try:
                    outcomes.append(type(await kv.put(key, b"value")))
                except Exception as error:
                    outcomes.append((type(error), str(error)))
        assert outcomes[:3] == outcomes[3:]

    @pytest.mark.parametrize("value", [None, "text", 7])
    async def test_nor_do_values_of_other_types(self, telemetry: Telemetry, kv: KeyValue, value: Any):
        outcomes: list[Any] = []
        for instrumented in (False, True):
            telemetry.uninstrument()
            if instrumented:
                telemetry.instrument()
            try:
                outcomes.append(type(await kv.put("greeting", value)))
            except Exception as error:
                outcomes.append((type(error), str(error)))
        assert outcomes[0] == outcomes[1]

    @pytest.mark.parametrize("call", ["put", "get", "keys", "watch"])
    async def test_missing_arguments_are_pythons_error(self, telemetry: Telemetry, kv: KeyValue, call: str):
        arguments = {"keys": [[], "too", "many", "really"]}.get(call, [])
        telemetry.uninstrument()
        with pytest.raises(TypeError) as plain:
            await getattr(kv, call)(*arguments)
        telemetry.instrument()
        with pytest.raises(TypeError) as traced:
            await getattr(kv, call)(*arguments)
        assert str(traced.value) == str(plain.value)


class TestValueAtTheSizeLimit:
    LIMIT = 128
    HEADER = 82  # as docs/configuration says

    async def test_works_uninstrumented(self, telemetry: Telemetry, js: JetStreamContext, bucket: str):
        telemetry.uninstrument()
        kv = await js.create_key_value(bucket=bucket, max_value_size=self.LIMIT)
        await kv.put("greeting", bytes(self.LIMIT))

    async def test_fails_by_default_because_the_server_counts_the_header(
        self, telemetry: Telemetry, js: JetStreamContext, bucket: str
    ):
        kv = await js.create_key_value(bucket=bucket, max_value_size=self.LIMIT)
        telemetry.clear()
        with pytest.raises(errors.APIError, match="message size exceeds maximum allowed"):
            await kv.put("greeting", bytes(self.LIMIT))
        [put] = telemetry.spans()
        assert_span(put, name=f"kv.put {bucket}", status=StatusCode.ERROR, events=["exception"])
        assert put.attributes["error.type"] == "10054"

    async def test_works_with_room_for_the_header(self, telemetry: Telemetry, js: JetStreamContext, bucket: str):
        kv = await js.create_key_value(bucket=bucket, max_value_size=self.LIMIT)
        assert await kv.put("greeting", bytes(self.LIMIT - self.HEADER)) == 1
        with pytest.raises(errors.APIError, match="message size exceeds maximum allowed"):
            await kv.put("greeting", bytes(self.LIMIT - self.HEADER + 1))

    @pytest.mark.instrument(propagation_excluded_subjects=["$KV.limited.>"])
    async def test_works_with_propagation_excluded(self, telemetry: Telemetry, nc: Client, js: JetStreamContext):
        kv = await js.create_key_value(bucket="limited", max_value_size=self.LIMIT)
        telemetry.clear()
        assert await kv.put("greeting", bytes(self.LIMIT)) == 1
        assert (await kv.get("greeting")).value == bytes(self.LIMIT)
        put, get = telemetry.spans()
        more = {KEY: "greeting", OPERATION: "put", REVISION: 1}
        assert_span(put, attributes=operation_attributes(nc, "kv.put", "limited", more, operation_type="send"))
        assert_span(get, links=[])
        assert (await js.get_last_msg("KV_limited", "$KV.limited.greeting")).headers is None


class TestExcludedSubjects:
    @pytest.mark.instrument(excluded_subjects=["$KV.quiet.>"])
    async def test_of_a_whole_bucket_silence_everything_and_the_current_context_still_travels(
        self, telemetry: Telemetry, js: JetStreamContext
    ):
        kv = await js.create_key_value(bucket="quiet", history=5)
        telemetry.clear()
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await kv.put("greeting", b"hello")
            await kv.update("greeting", b"again", last=1)
            await kv.get("greeting")
            await listed(kv.keys, telemetry)
            await listed(lambda: kv.history("greeting"), telemetry)
            await kv.status()
            async for _ in await watching(kv):
                assert trace.get_current_span() is ambient
                break
            await (await watching(kv)).updates()
            await kv.delete("greeting")
            await kv.create("greeting", b"hello")
            await kv.purge("greeting")
        assert [span.name for span in telemetry.spans()] == ["ambient"]
        for metric in ("messaging.client.sent.messages", "messaging.client.consumed.messages"):
            assert telemetry.metric(metric) == {}
        assert telemetry.metric("messaging.process.duration") == {}
        stored = await js.get_last_msg("KV_quiet", "$KV.quiet.greeting")
        assert f"{ambient.get_span_context().span_id:016x}" in stored.headers["traceparent"]

    @pytest.mark.instrument(excluded_subjects=["$KV.quiet.>"])
    async def test_the_context_of_the_writer_is_current_in_a_loop_all_the_same(
        self, telemetry: Telemetry, js: JetStreamContext, nc: Client, unique: Unique
    ):
        subject = unique("subject")
        kv = await js.create_key_value(bucket="quiet")
        with telemetry.tracer.start_as_current_span("writer") as writer:
            await kv.put("greeting", b"hello")
        async for _ in await watching(kv):
            await nc.publish(subject, b"")
            break
        assert_span(telemetry.span(f"publish {subject}"), parent=writer)
        assert trace.get_current_span() is trace.INVALID_SPAN

    @pytest.mark.instrument(excluded_subjects=["$KV.*.noisy"])
    async def test_of_one_key_silence_what_is_done_with_it(self, telemetry: Telemetry, kv: KeyValue, bucket: str):
        for key in ("noisy", "other"):
            await kv.put(key, b"hello")
            await kv.get(key)
            await kv.delete(key)
            with suppress(errors.NoKeysError):
                await kv.history(key)
        names = [f"kv.{call} {bucket}" for call in ("put", "get", "delete", "history")]
        assert [span.name for span in telemetry.spans()] == names
        assert {span.attributes[KEY] for span in telemetry.spans()} == {"other"}


def metric_attributes(nc: Client, operation: str, bucket: str) -> dict[str, Any]:
    uri = nc._current_server.uri
    return {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.destination.name": bucket,
        "server.address": uri.hostname,
        "server.port": uri.port,
    }


def linked(span: Any) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]
