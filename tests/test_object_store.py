# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Object stores: every call, watchers, the links to the writer, bytes left alone, and what happens on bad input."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext, api, errors

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from support import processes
from support.otlp import OtlpReceiver
from support.server import NatsServer
from support.spans import assert_span
from support.stores import LOOP_GOES_ON, Everything, children, operation_attributes, until_marker
from support.telemetry import Telemetry, attribute_set
from support.waiting import eventually

pytest.importorskip("nats.js.object_store", reason="this nats-py has no object stores")

Connect = Callable[..., Awaitable[Client]]
ServerFactory = Callable[..., NatsServer]
Unique = Callable[[str], str]

NAME = "messaging.nats.object.name"
CHUNKS = "messaging.nats.object.chunks"
DIGEST = "messaging.nats.object.digest"
SIZE = "messaging.message.body.size"
COUNT = "messaging.batch.message_count"

CHUNK = 128 * 1024
LARGE = bytes(range(256)) * 1500  # two chunks and the better part of a third
NOTHING = "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="

loop_goes_on = pytest.mark.skipif(not LOOP_GOES_ON, reason="this nats-py ends a watcher's loop at the marker")


@pytest.fixture
def bucket(unique: Unique) -> str:
    return unique("objects")


@pytest.fixture
async def store(js: JetStreamContext, bucket: str, telemetry: Telemetry) -> Any:
    """An object store; the span of its creation is forgotten."""
    store = await js.create_object_store(bucket=bucket)
    telemetry.clear()
    return store


class TestPut:
    @pytest.mark.parametrize(
        ("data", "size", "chunks"),
        [
            pytest.param(b"hello", 5, 1, id="bytes"),
            pytest.param("grüße", 7, 1, id="text"),
            pytest.param(b"", 0, 0, id="empty"),
            pytest.param(bytes(CHUNK), CHUNK, 1, id="exactly one chunk"),
            pytest.param(LARGE, len(LARGE), 3, id="larger than one chunk"),
        ],
    )
    async def test_makes_one_span_however_many_chunks(
        self,
        telemetry: Telemetry,
        nc: Client,
        store: Any,
        bucket: str,
        data: Any,
        size: int,
        chunks: int,
    ):
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await store.put("report", data)
        [_, put] = telemetry.spans()
        more = {
            NAME: "report",
            SIZE: size,
            CHUNKS: chunks,
            DIGEST: digest(data.encode() if isinstance(data, str) else data),
        }
        assert_span(
            put,
            name=f"object.put {bucket}",
            kind=SpanKind.PRODUCER,
            attributes=operation_attributes(nc, "object.put", bucket, more, operation_type="send"),
            parent=ambient,
            links=[],
        )
        sent = telemetry.metric("messaging.client.sent.messages")
        assert sent == {attribute_set(metric_attributes(nc, "object.put", bucket)): 1}

    @pytest.mark.parametrize("mode", ["rb", "r"])
    async def test_streams_a_file_in_one_span(
        self, telemetry: Telemetry, nc: Client, store: Any, bucket: str, tmp_path: Path, mode: str
    ):
        path = tmp_path / "file"
        path.write_bytes(LARGE)
        options = {"encoding": "latin-1"} if mode == "r" else {}
        with path.open(mode, **options) as file:
            info = await store.put("report", file)
        assert info.size == len(LARGE)
        [put] = telemetry.spans()
        more = {NAME: "report", SIZE: len(LARGE), CHUNKS: 3, DIGEST: digest(LARGE)}
        assert_span(
            put, attributes=operation_attributes(nc, "object.put", bucket, more, operation_type="send"), parent=None
        )

    async def test_of_an_object_that_is_there_makes_one_span(
        self, telemetry: Telemetry, nc: Client, store: Any, bucket: str
    ):
        await store.put("report", LARGE)
        telemetry.clear()
        await store.put("report", b"short")
        [put] = telemetry.spans()
        more = {NAME: "report", SIZE: 5, CHUNKS: 1, DIGEST: digest(b"short")}
        assert_span(put, attributes=operation_attributes(nc, "object.put", bucket, more, operation_type="send"))

        await store.get("report")
        assert_span(telemetry.span(f"object.get {bucket}"), links=[put])

    async def test_takes_the_name_from_the_metadata_and_the_chunk_size(
        self, telemetry: Telemetry, nc: Client, store: Any, bucket: str
    ):
        meta = api.ObjectMeta(name="report", options=api.ObjectMetaOptions(max_chunk_size=2))
        await store.put(data=b"hello", meta=meta, name="")
        [put] = telemetry.spans()
        more = {NAME: "report", SIZE: 5, CHUNKS: 3, DIGEST: digest(b"hello")}
        assert_span(put, attributes=operation_attributes(nc, "object.put", bucket, more, operation_type="send"))

    async def test_of_what_is_no_data_is_nats_pys_error(self, telemetry: Telemetry, store: Any, bucket: str):
        with pytest.raises(TypeError, match="nats: invalid type for object store"):
            await store.put("report", 7)
        [put] = telemetry.spans()
        assert_span(
            put,
            name=f"object.put {bucket}",
            status=(StatusCode.ERROR, "nats: invalid type for object store"),
            events=["exception"],
        )
        assert put.attributes["error.type"] == "TypeError"
        assert put.attributes[NAME] == "report"

    async def test_into_a_sealed_store_is_an_error(self, telemetry: Telemetry, store: Any, bucket: str):
        await store.seal()
        telemetry.clear()
        with pytest.raises(errors.APIError) as raised:
            await store.put("report", b"hello")
        [put] = telemetry.spans()
        assert_span(
            put,
            name=f"object.put {bucket}",
            status=(StatusCode.ERROR, str(raised.value)),
            events=["exception"],
        )
        assert put.attributes["error.type"] == str(raised.value.err_code)


class Interrupted(io.RawIOBase):
    """A reader that gives one chunk, and then something else happens."""

    def __init__(self, interruption: Callable[[], None]) -> None:
        self._interruption = interruption
        self._reads = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._reads += 1
        if self._reads > 1:
            self._interruption()
        buffer[:] = bytes(len(buffer))
        return len(buffer)


class TestPutThatIsInterrupted:
    async def test_by_the_reader_is_the_readers_error(
        self, telemetry: Telemetry, js: JetStreamContext, store: Any, bucket: str
    ):
        error = OSError("the disk is gone")

        def fail() -> None:
            raise error

        with pytest.raises(OSError) as raised:
            await store.put("report", Interrupted(fail))
        assert raised.value is error
        [put] = telemetry.spans()
        assert_span(
            put,
            name=f"object.put {bucket}",
            status=(StatusCode.ERROR, "the disk is gone"),
            events=["exception"],
        )
        assert put.attributes["error.type"] == "OSError"
        # nats-py purges what it has stored of it.
        assert (await js.stream_info(f"OBJ_{bucket}")).state.messages == 0

    async def test_by_a_cancellation_ends_without_a_status(self, telemetry: Telemetry, store: Any, bucket: str):
        reading = threading.Event()
        go_on = threading.Event()

        def wait() -> None:
            reading.set()
            assert go_on.wait(10)

        putting = asyncio.ensure_future(store.put("report", Interrupted(wait)))
        await eventually(reading.is_set)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        go_on.set()
        [put] = telemetry.spans()
        assert_span(put, name=f"object.put {bucket}", status=StatusCode.UNSET)

    async def test_by_a_lost_connection_is_nats_pys_error(
        self, telemetry: Telemetry, connect: Connect, server_factory: ServerFactory, bucket: str
    ):
        server = server_factory()
        nc = await connect(server, allow_reconnect=False)
        store = await nc.jetstream(timeout=0.5).create_object_store(bucket=bucket)
        closed = threading.Event()
        reading = threading.Event()

        def wait() -> None:
            reading.set()
            assert closed.wait(10)

        telemetry.clear()
        putting = asyncio.ensure_future(store.put("report", Interrupted(wait)))
        await eventually(reading.is_set)
        server.kill()
        await eventually(lambda: nc.is_closed)
        closed.set()
        with pytest.raises(nats.errors.ConnectionClosedError):
            await putting
        [put] = telemetry.spans()
        assert_span(put, name=f"object.put {bucket}", status=StatusCode.ERROR, events=["exception"])
        assert put.attributes["error.type"] == "nats.errors.ConnectionClosedError"


class TestBytes:
    async def test_no_header_is_added_to_chunks_but_to_the_metadata(
        self, telemetry: Telemetry, js: JetStreamContext, store: Any, bucket: str
    ):
        await store.put("report", LARGE)
        [put] = telemetry.spans()
        telemetry.uninstrument()

        *chunks, meta = await stored(js, bucket)
        assert [chunk.headers for chunk in chunks] == [None, None, None]
        assert b"".join(chunk.data for chunk in chunks) == LARGE
        context = put.get_span_context()
        traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        assert meta.headers == {"Nats-Rollup": "sub", "traceparent": traceparent}

    async def test_are_the_same_with_and_without_instrumentation(
        self, telemetry: Telemetry, js: JetStreamContext, store: Any, bucket: str
    ):
        for instrumented in (False, True):
            telemetry.uninstrument()
            if instrumented:
                telemetry.instrument()
            await store.put(f"report-{instrumented}", LARGE)
        telemetry.uninstrument()

        raw = await stored(js, bucket)
        plain, traced = raw[:4], raw[4:]
        for one, other in zip(plain[:-1], traced[:-1], strict=True):
            assert (one.data, one.headers) == (other.data, other.headers)
        infos = [json.loads(meta.data) for meta in (plain[-1], traced[-1])]
        for info in infos:
            for own in ("name", "nuid", "mtime"):
                assert info.pop(own)
        assert infos[0] == infos[1]
        for name in ("report-False", "report-True"):
            assert (await store.get(name)).data == LARGE

    async def test_read_the_same_whoever_wrote_them(self, telemetry: Telemetry, store: Any):
        for writer_instrumented in (False, True):
            for reader_instrumented in (False, True):
                telemetry.uninstrument()
                if writer_instrumented:
                    telemetry.instrument()
                await store.put("report", LARGE)
                telemetry.uninstrument()
                if reader_instrumented:
                    telemetry.instrument()
                assert (await store.get("report")).data == LARGE

    @pytest.mark.instrument(propagation_excluded_subjects=["$O.bare.>"])
    async def test_nothing_is_added_with_propagation_excluded(self, telemetry: Telemetry, js: JetStreamContext):
        store = await js.create_object_store(bucket="bare")
        await store.put("report", b"hello")
        assert telemetry.span("object.put bare")
        telemetry.uninstrument()
        _, meta = await stored(js, "bare")
        assert meta.headers == {"Nats-Rollup": "sub"}


class TestGet:
    async def test_links_to_the_writer_and_is_no_child_of_it(
        self, telemetry: Telemetry, nc: Client, store: Any, bucket: str
    ):
        await store.put("report", LARGE)
        put = telemetry.span(f"object.put {bucket}")
        telemetry.clear()

        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            assert (await store.get("report")).data == LARGE
        [_, get] = telemetry.spans()
        more = {NAME: "report", SIZE: len(LARGE), CHUNKS: 3, DIGEST: digest(LARGE)}
        assert_span(
            get,
            name=f"object.get {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, "object.get", bucket, more, operation_type="receive"),
            parent=ambient,
            links=[put],
        )
        assert telemetry.metric("messaging.client.consumed.messages") == {}

    async def test_is_a_root_without_an_ambient_span(self, telemetry: Telemetry, store: Any, bucket: str):
        await store.put("report", b"hello")
        await store.get(name="report")
        assert_span(telemetry.span(f"object.get {bucket}"), parent=None)

    async def test_of_an_empty_object(self, telemetry: Telemetry, nc: Client, store: Any, bucket: str):
        await store.put("report", b"")
        put = telemetry.span(f"object.put {bucket}")
        telemetry.clear()
        assert (await store.get("report")).data == b""
        [get] = telemetry.spans()
        more = {NAME: "report", SIZE: 0, CHUNKS: 0, DIGEST: NOTHING}
        expected = operation_attributes(nc, "object.get", bucket, more, operation_type="receive")
        assert_span(get, attributes=expected, links=[put])

    @pytest.mark.parametrize("mode", ["wb", "w"])
    async def test_into_a_file(
        self, telemetry: Telemetry, nc: Client, store: Any, bucket: str, tmp_path: Path, mode: str
    ):
        await store.put("report", LARGE)
        put = telemetry.span(f"object.put {bucket}")
        telemetry.clear()
        path = tmp_path / "file"
        with path.open(mode) as file:
            await store.get("report", writeinto=file)
        assert path.read_bytes() == LARGE
        [get] = telemetry.spans()
        more = {NAME: "report", SIZE: len(LARGE), CHUNKS: 3, DIGEST: digest(LARGE)}
        expected = operation_attributes(nc, "object.get", bucket, more, operation_type="receive")
        assert_span(get, attributes=expected, links=[put])

    async def test_into_a_file_that_fails_is_the_files_error(self, telemetry: Telemetry, store: Any, bucket: str):
        class Full(io.BytesIO):
            def write(self, _: Any) -> int:
                raise OSError("no space left")

        await store.put("report", b"hello")
        with pytest.raises(OSError, match="no space left"):
            await store.get("report", writeinto=Full())
        get = telemetry.span(f"object.get {bucket}")
        assert_span(get, status=(StatusCode.ERROR, "no space left"), events=["exception"])

    @pytest.mark.parametrize("call", ["get", "get_info", "delete"])
    async def test_of_a_missing_object_is_an_error(
        self, telemetry: Telemetry, nc: Client, store: Any, bucket: str, call: str
    ):
        with pytest.raises(errors.ObjectNotFoundError) as raised:
            await getattr(store, call)("report")
        [span] = telemetry.spans()
        more = {NAME: "report", "error.type": "nats.js.errors.ObjectNotFoundError"}
        operation_type = "send" if call == "delete" else "receive"
        assert_span(
            span,
            name=f"object.{call} {bucket}",
            attributes=operation_attributes(nc, f"object.{call}", bucket, more, operation_type=operation_type),
            parent=None,
            links=[],
            status=(StatusCode.ERROR, str(raised.value)),
        )

    async def test_of_a_deleted_object_is_an_error(self, telemetry: Telemetry, store: Any, bucket: str):
        await store.put("report", b"hello")
        await store.delete("report")
        with pytest.raises(errors.ObjectNotFoundError):
            await store.get("report")
        assert_span(telemetry.span(f"object.get {bucket}"), status=StatusCode.ERROR)

    async def test_with_another_digest_is_an_error_that_links_to_the_writer(
        self, telemetry: Telemetry, js: JetStreamContext, store: Any, bucket: str
    ):
        info = await store.put("report", b"hello")
        info.digest = digest(b"something else")
        subject = f"$O.{bucket}.M.{base64.urlsafe_b64encode(b'report').decode()}"
        with telemetry.tracer.start_as_current_span("forger"):
            await js.publish(subject, json.dumps(info.as_dict()).encode(), headers={"Nats-Rollup": "sub"})
        publish = telemetry.spans()[-1]
        telemetry.clear()

        with pytest.raises(errors.DigestMismatchError) as raised:
            await store.get("report")
        [get] = telemetry.spans()
        assert_span(
            get,
            name=f"object.get {bucket}",
            links=[publish],
            status=(StatusCode.ERROR, str(raised.value)),
            events=["exception"],
        )
        assert get.attributes["error.type"] == "nats.js.errors.DigestMismatchError"

    async def test_of_unreadable_metadata_is_an_error(
        self, telemetry: Telemetry, js: JetStreamContext, store: Any, bucket: str
    ):
        await js.publish(f"$O.{bucket}.M.{base64.urlsafe_b64encode(b'report').decode()}", b"no JSON")
        with pytest.raises(errors.BadObjectMetaError):
            await store.get("report")
        assert_span(telemetry.span(f"object.get {bucket}"), status=StatusCode.ERROR, events=["exception"])

    async def test_that_is_cancelled_ends_without_a_status(self, telemetry: Telemetry, store: Any, bucket: str):
        writing = threading.Event()
        go_on = threading.Event()

        class Slow(io.BytesIO):
            def write(self, _: Any) -> int:
                writing.set()
                assert go_on.wait(10)
                return 0

        await store.put("report", b"hello")
        getting = asyncio.ensure_future(store.get("report", writeinto=Slow()))
        await eventually(writing.is_set)
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting
        go_on.set()
        assert_span(telemetry.span(f"object.get {bucket}"), status=StatusCode.UNSET)


class TestLinksBetweenObjects:
    async def test_getting_one_links_to_who_made_the_link_and_who_wrote_the_object(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, store: Any, bucket: str, unique: Unique
    ):
        target = await js.create_object_store(bucket=unique("target"))
        await target.put("report", LARGE)
        await store.put("shortcut", b"", meta=link_to(target._name, "report"))
        put_target, put_link = telemetry.spans()[1:]
        telemetry.clear()

        result = await store.get("shortcut")
        assert (result.info.name, result.data) == ("report", LARGE)
        [get] = telemetry.spans()
        more = {NAME: "shortcut", SIZE: len(LARGE), CHUNKS: 3, DIGEST: digest(LARGE)}
        assert_span(
            get,
            name=f"object.get {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, "object.get", bucket, more, operation_type="receive"),
            parent=None,
            links=[put_link, put_target],
        )

    async def test_making_one_is_a_put(self, telemetry: Telemetry, nc: Client, store: Any, bucket: str):
        await store.put("shortcut", b"", meta=link_to(bucket, "report"))
        [put] = telemetry.spans()
        more = {NAME: "shortcut", SIZE: 0, CHUNKS: 0, DIGEST: NOTHING}
        assert_span(put, attributes=operation_attributes(nc, "object.put", bucket, more, operation_type="send"))

    async def test_one_to_a_missing_object_is_an_error(self, telemetry: Telemetry, store: Any, bucket: str):
        await store.put("shortcut", b"", meta=link_to(bucket, "report"))
        with pytest.raises(errors.ObjectNotFoundError):
            await store.get("shortcut")
        get = telemetry.span(f"object.get {bucket}")
        assert_span(get, links=[telemetry.span(f"object.put {bucket}")], status=StatusCode.ERROR)
        assert get.attributes[NAME] == "shortcut"

    async def test_one_to_a_whole_store_is_an_error(self, telemetry: Telemetry, store: Any, bucket: str):
        await store.put("shortcut", b"", meta=link_to(bucket, None))
        with pytest.raises(errors.LinkIsABucketError):
            await store.get("shortcut")
        assert_span(telemetry.span(f"object.get {bucket}"), status=StatusCode.ERROR, events=["exception"])


class TestGetInfo:
    async def test_links_to_the_writer(self, telemetry: Telemetry, nc: Client, store: Any, bucket: str):
        await store.put("report", LARGE)
        put = telemetry.span(f"object.put {bucket}")
        telemetry.clear()
        await store.get_info("report")
        [info] = telemetry.spans()
        more = {NAME: "report", SIZE: len(LARGE), CHUNKS: 3, DIGEST: digest(LARGE)}
        assert_span(
            info,
            name=f"object.get_info {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, "object.get_info", bucket, more, operation_type="receive"),
            parent=None,
            links=[put],
        )


class TestUpdateMeta:
    async def test_makes_one_span_that_the_reader_links_to(
        self, telemetry: Telemetry, nc: Client, store: Any, bucket: str
    ):
        await store.put("report", b"hello")
        telemetry.clear()
        await store.update_meta("report", api.ObjectMeta(name="report", description="of the year"))
        [update] = telemetry.spans()
        assert_span(
            update,
            name=f"object.update_meta {bucket}",
            kind=SpanKind.PRODUCER,
            attributes=operation_attributes(nc, "object.update_meta", bucket, {NAME: "report"}, operation_type="send"),
            parent=None,
            links=[],
        )
        assert (await store.get("report")).info.description == "of the year"
        assert_span(telemetry.span(f"object.get {bucket}"), links=[update])

    async def test_of_a_missing_object_is_an_error(self, telemetry: Telemetry, store: Any, bucket: str):
        with pytest.raises(errors.ObjectDeletedError):
            await store.update_meta("report", api.ObjectMeta(name="report"))
        [update] = telemetry.spans()
        assert_span(update, name=f"object.update_meta {bucket}", status=StatusCode.ERROR)
        assert update.attributes["error.type"] == "nats.js.errors.ObjectDeletedError"

    async def test_to_a_name_that_is_taken_is_an_error(self, telemetry: Telemetry, store: Any, bucket: str):
        await store.put("report", b"hello")
        with pytest.raises(errors.ObjectAlreadyExists):
            await store.update_meta("report", api.ObjectMeta(name="other"))
        update = telemetry.span(f"object.update_meta {bucket}")
        assert_span(update, status=StatusCode.ERROR, events=["exception"])
        assert update.attributes[NAME] == "report"


class TestDelete:
    async def test_makes_one_span(self, telemetry: Telemetry, nc: Client, store: Any, bucket: str):
        await store.put("report", LARGE)
        telemetry.clear()
        await store.delete("report")
        [delete] = telemetry.spans()
        assert_span(
            delete,
            name=f"object.delete {bucket}",
            kind=SpanKind.PRODUCER,
            attributes=operation_attributes(nc, "object.delete", bucket, {NAME: "report"}, operation_type="send"),
            parent=None,
            links=[],
        )


class TestList:
    async def test_links_to_every_writer(self, telemetry: Telemetry, nc: Client, store: Any, bucket: str):
        await store.put("large", LARGE)
        await store.put("small", b"hello")
        await store.put("gone", b"hello")
        await store.delete("gone")
        large, small, _, delete = telemetry.spans()
        telemetry.clear()

        assert [info.name for info in await store.list()] == ["large", "small", "gone"]
        [listing] = telemetry.spans()
        assert_span(
            listing,
            name=f"object.list {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, "object.list", bucket, {COUNT: 3}, operation_type="receive"),
            parent=None,
            links=[
                (large, {NAME: "large", SIZE: len(LARGE), CHUNKS: 3, DIGEST: digest(LARGE)}),
                (small, {NAME: "small", SIZE: 5, CHUNKS: 1, DIGEST: digest(b"hello")}),
                (delete, {NAME: "gone", SIZE: 0, CHUNKS: 0}),
            ],
        )

    async def test_of_an_empty_store_is_no_error(self, telemetry: Telemetry, nc: Client, store: Any, bucket: str):
        with pytest.raises(errors.NotFoundError):
            await store.list()
        [listing] = telemetry.spans()
        expected = operation_attributes(nc, "object.list", bucket, operation_type="receive")
        assert_span(listing, attributes=expected, links=[])

    async def test_of_a_store_of_deleted_objects_links_to_nobody(self, telemetry: Telemetry, store: Any, bucket: str):
        await store.put("report", b"hello")
        await store.delete("report")
        with pytest.raises(errors.NotFoundError):
            await store.list(ignore_deletes=True)
        assert_span(telemetry.span(f"object.list {bucket}"), links=[])


class TestTheStoreItself:
    async def test_status_and_seal_make_one_span_each(self, telemetry: Telemetry, nc: Client, store: Any, bucket: str):
        await store.seal()
        assert (await store.status()).sealed
        for span, name in zip(telemetry.spans(), ("object.seal", "object.status"), strict=True):
            assert_span(
                span,
                name=f"{name} {bucket}",
                kind=SpanKind.CLIENT,
                attributes=operation_attributes(nc, name, bucket),
                parent=None,
                links=[],
            )

    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("create_object_store", lambda js, bucket: js.create_object_store(bucket)),
            (
                "create_object_store",
                lambda js, bucket: js.create_object_store(bucket, config=api.ObjectStoreConfig(description="mine")),
            ),
            ("object_store", lambda js, bucket: js.object_store(bucket=bucket)),
            ("delete_object_store", lambda js, bucket: js.delete_object_store(bucket)),
        ],
    )
    async def test_its_creation_lookup_and_deletion_make_one_span_each(
        self, telemetry: Telemetry, nc: Client, js: JetStreamContext, bucket: str, name: str, call: Any
    ):
        if name != "create_object_store":
            await js.create_object_store(bucket)
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

    async def test_looking_up_a_store_that_is_not_there_is_an_error(
        self, telemetry: Telemetry, js: JetStreamContext, bucket: str
    ):
        with pytest.raises(errors.BucketNotFoundError):
            await js.object_store(bucket)
        [span] = telemetry.spans()
        assert_span(span, name=f"object_store {bucket}", status=StatusCode.ERROR)

    async def test_an_invalid_name_is_nats_pys_error(self, telemetry: Telemetry, js: JetStreamContext):
        with pytest.raises(errors.InvalidBucketNameError):
            await js.create_object_store("two words")
        [span] = telemetry.spans()
        assert_span(span, name="create_object_store two words", status=StatusCode.ERROR, events=["exception"])


class TestWatch:
    async def test_makes_one_span_until_it_watches(self, telemetry: Telemetry, nc: Client, store: Any, bucket: str):
        await store.put("report", b"hello")
        telemetry.clear()
        watcher = await store.watch()
        [watch] = telemetry.spans()
        assert_span(
            watch,
            name=f"object.watch {bucket}",
            kind=SpanKind.CLIENT,
            attributes=operation_attributes(nc, "object.watch", bucket),
            parent=None,
            links=[],
        )
        await watcher.stop()


class TestLoopOverAWatcher:
    async def test_its_body_is_a_process_span_in_the_writers_trace(
        self, telemetry: Telemetry, nc: Client, store: Any, bucket: str
    ):
        await store.put("report", LARGE)
        put = telemetry.span(f"object.put {bucket}")
        watcher = await store.watch()
        telemetry.clear()

        async for info in watcher:
            assert info.name == "report"
            assert trace.get_current_span().is_recording()
            break
        assert trace.get_current_span() is trace.INVALID_SPAN
        [process] = telemetry.spans()
        more = {NAME: "report", SIZE: len(LARGE), CHUNKS: 3, DIGEST: digest(LARGE)}
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

    async def test_its_body_is_a_child_of_an_ambient_span_and_links_to_the_writer(
        self, telemetry: Telemetry, store: Any, bucket: str
    ):
        await store.put("report", b"hello")
        watcher = await store.watch()
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await until_marker(watcher)
            assert trace.get_current_span() is ambient
        process = telemetry.span(f"process {bucket}")
        assert_span(process, parent=ambient, links=[telemetry.span(f"object.put {bucket}")])

    async def test_objects_own_headers_are_no_context(self, telemetry: Telemetry, store: Any, bucket: str):
        meta = api.ObjectMeta(name="report", headers={"traceparent": [f"00-{7:032x}-{7:016x}-01"]})
        await store.put("report", b"hello", meta=meta)
        put = telemetry.span(f"object.put {bucket}")
        await until_marker(await store.watch())
        assert_span(telemetry.span(f"process {bucket}"), parent=put, links=[put])

        telemetry.uninstrument()
        watcher = await store.watch()
        telemetry.instrument()
        telemetry.clear()
        await until_marker(watcher)
        assert_span(telemetry.span(f"process {bucket}"), parent=None, links=[])

    async def test_a_deleted_object_is_processed_in_the_deleters_trace(
        self, telemetry: Telemetry, nc: Client, store: Any, bucket: str
    ):
        await store.put("report", b"hello")
        await store.delete("report")
        delete = telemetry.span(f"object.delete {bucket}")
        await until_marker(await store.watch())
        more = {NAME: "report", SIZE: 0, CHUNKS: 0}
        assert_span(
            telemetry.span(f"process {bucket}"),
            attributes=operation_attributes(nc, "process", bucket, more, operation_type="process"),
            parent=delete,
            links=[delete],
        )

    @loop_goes_on
    async def test_markers_make_nothing(self, telemetry: Telemetry, store: Any, bucket: str):
        watcher = await store.watch()
        telemetry.clear()
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            async for info in watcher:
                if info is not None:
                    break
                assert trace.get_current_span() is ambient
                await store.put("report", b"hello")
        assert [span.name for span in telemetry.spans()] == [
            "ambient",
            f"object.put {bucket}",
            f"process {bucket}",
        ]

    @loop_goes_on
    async def test_stop_within_ends_the_span_with_the_next_step(self, telemetry: Telemetry, store: Any, bucket: str):
        watcher = await store.watch()
        await store.put("report", b"hello")

        async def watch() -> None:
            async for info in watcher:
                if info is not None:
                    await watcher.stop()

        # nats-py leaves the loop waiting for ever.
        watching = asyncio.ensure_future(watch())
        await telemetry.wait_for(f"process {bucket}")
        assert not telemetry.counter.open
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    @pytest.mark.parametrize("leave", ["break", "return", "raise", "cancel"])
    async def test_leaving_it_ends_the_span_and_restores_the_context_at_once(
        self, telemetry: Telemetry, store: Any, bucket: str, leave: str
    ):
        await store.put("report", b"hello")
        watcher = await store.watch()

        async def watch() -> None:
            async for info in watcher:
                assert info is not None
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
                except (KeyError, asyncio.CancelledError):
                    assert leave in ("raise", "cancel")
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
        store = await nc.jetstream().create_object_store(bucket)
        watcher = await store.watch()
        await store.put("report", b"hello")
        in_body = asyncio.Event()
        go_on = asyncio.Event()

        async def watch() -> None:
            async for info in watcher:
                if info is not None:
                    in_body.set()
                    await go_on.wait()

        watching = asyncio.ensure_future(watch())
        await in_body.wait()
        server.kill()
        await eventually(lambda: nc.is_closed)
        go_on.set()
        await eventually(lambda: not telemetry.counter.open)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        assert_span(telemetry.span(f"process {bucket}"))

    async def test_what_it_does_is_all_traced(
        self, telemetry: Telemetry, nc: Client, store: Any, bucket: str, unique: Unique
    ):
        everything = await Everything.made(nc, unique("all"), telemetry)
        await store.put("report", b"hello")
        async for _ in await store.watch():
            await everything.use()
            break
        process = telemetry.span(f"process {bucket}")
        assert children(telemetry.spans(), process) == everything.names

    async def test_it_reads_the_object_that_it_is_told_of(self, telemetry: Telemetry, store: Any, bucket: str):
        await store.put("report", LARGE)
        async for info in await store.watch():
            assert (await store.get(info.name)).data == LARGE
            break
        get = telemetry.span(f"object.get {bucket}")
        assert_span(get, parent=telemetry.span(f"process {bucket}"), links=[telemetry.span(f"object.put {bucket}")])


class TestUpdates:
    async def test_is_a_receive_span_in_the_writers_trace(
        self, telemetry: Telemetry, nc: Client, store: Any, bucket: str
    ):
        await store.put("report", b"hello")
        put = telemetry.span(f"object.put {bucket}")
        watcher = await store.watch()
        telemetry.clear()
        assert (await watcher.updates()).name == "report"
        assert await watcher.updates() is None
        with pytest.raises(nats.errors.TimeoutError):
            await watcher.updates(timeout=0.01)
        [receive] = telemetry.spans()
        more = {NAME: "report", SIZE: 5, CHUNKS: 1, DIGEST: digest(b"hello")}
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

    async def test_is_a_child_of_an_ambient_span(self, telemetry: Telemetry, store: Any, bucket: str):
        await store.put("report", b"hello")
        watcher = await store.watch()
        with telemetry.tracer.start_as_current_span("ambient") as ambient:
            await watcher.updates()
        receive = telemetry.span(f"receive {bucket}")
        assert_span(receive, parent=ambient, links=[telemetry.span(f"object.put {bucket}")])


WRITER = """
import asyncio, sys
import nats

async def main():
    async with await nats.connect(sys.argv[1]) as nc:
        store = await nc.jetstream().create_object_store(bucket=sys.argv[2])
        await store.put("report", b"hello" * 50_000)

asyncio.run(main())
"""


class TestTheWriter:
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
        await asyncio.to_thread(otlp.wait_for, lambda receiver: receiver.named(f"object.put {bucket}"))
        [put] = otlp.named(f"object.put {bucket}")
        writer = (int(put.trace_id, 16), int(put.span_id, 16))
        assert (put.attributes[CHUNKS], put.attributes[SIZE]) == (2, 250_000)

        server.restart()
        store = await (await connect(server)).jetstream().object_store(bucket)
        assert (await store.get("report")).data == b"hello" * 50_000
        await store.get_info("report")
        await store.list()
        await until_marker(await store.watch())
        for name in ("object.get", "object.get_info", "object.list", "process"):
            [link] = telemetry.span(f"{name} {bucket}").links
            assert (link.context.trace_id, link.context.span_id) == writer
        process = telemetry.span(f"process {bucket}")
        assert (process.parent.trace_id, process.parent.span_id) == writer


@pytest.mark.instrument(excluded_subjects=["$O.quiet.>"])
async def test_an_excluded_store_is_silent_and_the_current_context_still_travels(
    telemetry: Telemetry, js: JetStreamContext
):
    store = await js.create_object_store("quiet")
    telemetry.clear()
    with telemetry.tracer.start_as_current_span("ambient") as ambient:
        await store.put("report", LARGE)
        await store.get("report")
        await store.get_info("report")
        await store.list()
        await store.status()
        async for _ in await store.watch():
            assert trace.get_current_span() is ambient
            break
        await (await store.watch()).updates()
        await store.update_meta("report", api.ObjectMeta(name="report"))
    assert [span.name for span in telemetry.spans()] == ["ambient"]
    assert telemetry.metric("messaging.client.consumed.messages") == {}
    telemetry.uninstrument()
    *chunks, meta = await stored(js, "quiet")
    assert all(chunk.headers is None for chunk in chunks)
    assert f"{ambient.get_span_context().span_id:016x}" in meta.headers["traceparent"]
    await store.delete("report")


def digest(data: bytes) -> str:
    return "SHA-256=" + base64.urlsafe_b64encode(sha256(data).digest()).decode()


def link_to(bucket: str, name: str | None) -> api.ObjectMeta:
    # The chunk size is nats-py's wish, though there is nothing to cut.
    link = api.ObjectLink(bucket=bucket, name=name)
    return api.ObjectMeta(options=api.ObjectMetaOptions(link=link, max_chunk_size=CHUNK))


async def stored(js: JetStreamContext, bucket: str) -> list[Any]:
    """Every message of an object store's stream."""
    state = (await js.stream_info(f"OBJ_{bucket}")).state
    messages: list[Any] = []
    for seq in range(state.first_seq, state.last_seq + 1):
        with suppress(errors.NotFoundError):  # metadata that is replaced leaves a hole
            messages.append(await js.get_msg(f"OBJ_{bucket}", seq=seq))
    return messages


def metric_attributes(nc: Client, operation: str, bucket: str) -> dict[str, Any]:
    uri = nc._current_server.uri
    return {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.destination.name": bucket,
        "server.address": uri.hostname,
        "server.port": uri.port,
    }
