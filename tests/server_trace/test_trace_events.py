# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Reading events: those of real servers, and what anybody could send instead."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import random
import zlib
from collections.abc import Iterator
from typing import Any

import cramjam
import pytest

from opentelemetry.instrumentation.nats.server_trace import _encodings
from opentelemetry.instrumentation.nats.server_trace._encodings import MOST_BYTES, decode
from opentelemetry.instrumentation.nats.server_trace._events import Event, Step, read_event
from opentelemetry.instrumentation.nats.server_trace._reasons import Skipped
from opentelemetry.instrumentation.nats.server_trace._times import parse_time
from support.server_trace import encode, events, sample, scenarios

TRACE = 0x7A7D81AFAFB61EEE10547113CB657B6A
PARENT = 0xF893916C2885C690
COMPRESSED = sample("compressed")


@pytest.fixture
def event() -> dict[str, Any]:
    """One message from a client to a subscriber and a queue group, as a test likes to spoil it."""
    return copy.deepcopy(COMPRESSED["event"])


def reason(data: bytes) -> str:
    """Why an event is skipped."""
    with pytest.raises(Skipped) as skipped:
        read_event(data)
    return skipped.value.reason


def strings(value: Any) -> Iterator[str]:
    """All texts in a record."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from strings(item)


class TestWhatServersSend:
    @pytest.mark.parametrize(("version", "scenario"), scenarios())
    def test_every_event_that_has_a_trace_context_is_read(self, version: str, scenario: str) -> None:
        for event in events(version, scenario):
            if "traceparent" not in event["request"]["header"]:
                assert reason(encode(event)) == "no_trace_context"
                continue
            read = read_event(encode(event))
            assert (read.server.id, read.sequence) == (event["server"]["id"], event["server"]["seq"])
            assert len(read.steps) == len(event["events"]) - 1
            assert (read.unknown_steps, read.surplus_steps) == (0, 0)

    def test_a_record_has_what_the_event_says(self, event: dict[str, Any]) -> None:
        read = read_event(encode(event))
        assert (read.trace_id, read.parent_id, read.trace_flags, read.hop, read.size) == (TRACE, PARENT, 1, None, 87)
        assert read.ingress == Step(
            0, "in", 1768469400000000000, 0, 7, "orders", "A", "orders.created", None, None, None, None, False, None
        )
        assert [(step.place, step.name, step.subscription, step.queue) for step in read.steps] == [
            (1, "billing", "orders.*", None),
            (2, "orders", "orders.created", "workers"),
        ]
        assert read.last == 1768469400000080270
        assert read.sent == 1768469400000092688

    def test_nothing_of_the_users_headers_is_kept(self, event: dict[str, Any]) -> None:
        event["request"]["header"]["Authorization"] = ["secret"]
        event["request"]["payload"] = "secret"
        assert not [text for text in strings(read_event(encode(event))) if "secret" in text]

    def test_the_local_time_of_a_server_is_read_as_what_it_is(self) -> None:
        for version in ("2.11", "2.15"):
            for event in events(version, "timezone"):
                read = read_event(encode(event))
                assert "+05:30" in event["events"][0]["ts"]
                assert read.sent is not None
                assert 0 <= read.sent - read.ingress.time < 1_000_000


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "nanoseconds"),
        [
            ("1970-01-01T00:00:00.000000001Z", 1),
            ("2026-01-15T09:30:00Z", 1768469400000000000),
            ("2026-01-15T09:30:00.1Z", 1768469400100000000),
            ("2026-01-15T15:00:00.00000012+05:30", 1768469400000000120),
            ("2026-01-15T04:30:00.000000001-05:00", 1768469400000000001),
            ("2024-02-29T00:00:00Z", 1709164800000000000),
        ],
    )
    def test_goes_times_are_read_to_the_nanosecond(self, text: str, nanoseconds: int) -> None:
        assert parse_time(text) == nanoseconds

    @pytest.mark.parametrize(
        "text",
        [
            None,
            0,
            "",
            "yesterday",
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59.9Z",
            "1970-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "2025-02-29T00:00:00Z",
            "2026-01-15T09:30:00",
            "2026-01-15T09:30:00.1234567890Z",
            "2026-01-15T09:30:00+99:00",
            "2026-01-15 09:30:00Z",
            "٢٠٢٦-01-15T09:30:00Z",
            "2026-01-15T09:30:00Z\n",
        ],
    )
    def test_what_a_span_cannot_have_is_no_time(self, text: object) -> None:
        assert parse_time(text) is None


class TestEncodings:
    @pytest.mark.parametrize("message", COMPRESSED["messages"], ids=lambda m: m["headers"]["Content-Encoding"])
    def test_what_servers_compressed_is_read(self, message: dict[str, Any]) -> None:
        data = decode(base64.b64decode(message["data"]), message["headers"]["Content-Encoding"])
        assert json.loads(data) == COMPRESSED["event"]

    @pytest.mark.parametrize(
        ("data", "encoding", "why"),
        [
            (b"{}", "br", "undecodable"),
            (b"{}", "gzip", "undecodable"),
            (gzip.compress(b"{}" * 100)[:-9], "gzip", "undecodable"),
            (b"", "gzip", "undecodable"),
            (b"{}", "snappy", "undecodable"),
            (bytes(cramjam.snappy.compress(b"{}" * 100))[:-3], "snappy", "undecodable"),
            (b" " * (MOST_BYTES + 1), None, "oversized"),
            (gzip.compress(b" " * (MOST_BYTES + 1)), "gzip", "oversized"),
            (gzip.compress(b" " * 100_000_000), "gzip", "oversized"),
            (bytes(cramjam.snappy.compress(b" " * (MOST_BYTES + 1))), "snappy", "undecodable"),
        ],
        ids=[
            "of an unknown encoding",
            "gzip that is none",
            "gzip that is cut",
            "gzip of nothing",
            "snappy that is none",
            "snappy that is cut",
            "too large",
            "too large in gzip",
            "much too large in gzip",
            "too large in snappy",
        ],
    )
    def test_what_is_broken_or_too_large_is_skipped(self, data: bytes, encoding: str | None, why: str) -> None:
        with pytest.raises(Skipped) as skipped:
            decode(data, encoding)
        assert skipped.value.reason == why

    def test_the_largest_event_is_read_in_any_encoding(self) -> None:
        data = b" " * MOST_BYTES
        assert decode(data, None) == decode(gzip.compress(data), "gzip") == data
        assert decode(bytes(cramjam.snappy.compress(data)), "Snappy") == data

    def test_without_the_package_for_it_snappy_is_skipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_encodings, "cramjam", None)
        with pytest.raises(Skipped, match="cramjam"):
            decode(b"", "snappy")


class TestWhatIsNoEvent:
    @pytest.mark.parametrize("bad", sample("bad"), ids=lambda bad: bad["name"])
    def test_is_skipped_for_its_reason(self, bad: dict[str, Any]) -> None:
        data = bad["data"].encode()
        if bad["reason"] is None:
            assert read_event(data).unknown_steps == 1
        else:
            assert reason(data) == bad["reason"]

    @pytest.mark.parametrize(
        "data",
        [
            b"\xff\xfe",
            b"[" * 1_000_000,
            b'{"a":' * 100_000,
            b'{"server": ' + b"9" * 10_000 + b"}",
            b'{"server": NaN',
        ],
        ids=["no UTF-8", "deep list", "deep object", "long integer", "cut"],
    )
    def test_what_the_parser_chokes_on_is_no_json(self, data: bytes) -> None:
        assert reason(data) == "not_json"

    @pytest.mark.parametrize(
        "change",
        [
            {"server": None},
            {"server": {"id": "N", "seq": None}},
            {"server": {"id": "N", "seq": -1}},
            {"server": {"id": "N", "seq": True}},
            {"server": {"id": "N", "seq": 2**63}},
            {"server": {"id": "", "seq": 1}},
            {"server": {"id": "N" * 129, "seq": 1}},
            {"request": []},
            {"request": {"header": None}},
            {"events": {}},
            {"events": "in"},
        ],
        ids=str,
    )
    def test_without_what_a_span_cannot_do_without_it_is_malformed(
        self, event: dict[str, Any], change: dict[str, Any]
    ) -> None:
        assert reason(encode(event | change)) == "malformed"


class TestTraceContext:
    @pytest.mark.parametrize(
        ("headers", "flags"),
        [
            ({"traceparent": [f"00-{TRACE:032x}-{PARENT:016x}-01"]}, 1),
            ({"Traceparent": [f"00-{TRACE:032x}-{PARENT:016x}-03"]}, 3),
            ({"TRACEPARENT": f"00-{TRACE:032X}-{PARENT:016X}-01"}, 1),
            ({"traceparent": [f"00-{TRACE:032x}-{PARENT:016x}-01"] * 2}, 1),
        ],
    )
    def test_is_read_in_any_case(self, event: dict[str, Any], headers: dict[str, Any], flags: int) -> None:
        event["request"]["header"] = headers
        read = read_event(encode(event))
        assert (read.trace_id, read.parent_id, read.trace_flags) == (TRACE, PARENT, flags)

    @pytest.mark.parametrize(
        ("headers", "why"),
        [
            ({}, "no_trace_context"),
            ({"b3": ["1"]}, "no_trace_context"),
            ({"traceparent": []}, "no_trace_context"),
            ({"traceparent": [1]}, "no_trace_context"),
            ({"traceparent": [f"ff-{TRACE:032x}-{PARENT:016x}-01"]}, "no_trace_context"),
            ({"traceparent": [f"00-{TRACE:032x}-{PARENT:016x}-01-x"]}, "no_trace_context"),
            ({"traceparent": [f"00-{0:032x}-{PARENT:016x}-01"]}, "no_trace_context"),
            ({"traceparent": [f"00-{TRACE:032x}-{0:016x}-01"]}, "no_trace_context"),
            ({"traceparent": [f"00-{TRACE:032x}-{PARENT:016x}-00"]}, "not_sampled"),
            ({"traceparent": [f"00-{TRACE:032x}-{PARENT:016x}-02"]}, "not_sampled"),
            (
                {"traceparent": [f"00-{TRACE:032x}-{PARENT:016x}-01", f"00-{1:032x}-{PARENT:016x}-01"]},
                "no_trace_context",
            ),
            (
                {
                    "traceparent": [f"00-{TRACE:032x}-{PARENT:016x}-01"],
                    "Traceparent": [f"00-{1:032x}-{PARENT:016x}-01"],
                },
                "no_trace_context",
            ),
        ],
        ids=str,
    )
    def test_one_that_is_none_or_contradicts_itself_is_none(
        self, event: dict[str, Any], headers: dict[str, Any], why: str
    ) -> None:
        event["request"]["header"] = headers
        assert reason(encode(event)) == why


class TestHop:
    def with_hop(self, event: dict[str, Any], kind: int, hop: Any) -> str | None:
        event["events"][0]["kind"] = kind
        event["request"]["header"]["Nats-Trace-Hop"] = hop
        return read_event(encode(event)).hop

    @pytest.mark.parametrize("kind", [1, 2, 4])
    def test_of_another_server_counts(self, event: dict[str, Any], kind: int) -> None:
        assert self.with_hop(event, kind, ["2.1"]) == "2.1"

    def test_that_a_client_copied_does_not(self, event: dict[str, Any]) -> None:
        assert self.with_hop(event, 0, ["2.1"]) is None

    @pytest.mark.parametrize("hop", [[], ["1", "2"], [1], ["x"], ["1."], ["1" * 10], [".".join("1" * 17)], ["1\n"]])
    def test_that_no_server_writes_does_not(self, event: dict[str, Any], hop: Any) -> None:
        assert self.with_hop(event, 1, hop) is None


class TestSteps:
    def test_of_a_type_to_come_are_left_out_and_the_others_keep_their_place(self, event: dict[str, Any]) -> None:
        event["events"].insert(1, {"type": "zz", "ts": "2026-01-15T09:30:00Z"})
        event["events"] += [None, 1, {}, {"type": []}, {"type": "eg"}, {"type": "eg", "ts": 1}, event["events"][0]]
        read = read_event(encode(event))
        assert [step.place for step in read.steps] == [2, 3]
        assert read.unknown_steps == 8

    def test_ten_thousand_are_cut_but_not_the_time_of_the_last(self, event: dict[str, Any]) -> None:
        delivery = event["events"][1]
        event["events"] += [delivery] * 9_997 + [delivery | {"ts": "2026-01-15T09:30:01Z"}]
        read = read_event(encode(event))
        assert len(read.steps) == 128
        assert read.surplus_steps == 10_000 - 128
        assert read.last == 1768469401000000000

    def test_to_other_servers_stay_where_there_are_too_many(self, event: dict[str, Any]) -> None:
        delivery = event["events"][1]
        hops = [delivery | {"kind": 1, "hop": str(number)} for number in range(1, 2001)]
        event["events"] += [delivery] * 500 + hops
        read = read_event(encode(event))
        assert [step.hop for step in read.steps if step.hop] == [str(number) for number in range(1, 1025)]
        assert len([step for step in read.steps if not step.hop]) == 128
        assert read.surplus_steps == 2 + 500 - 128 + 2000 - 1024


class TestHostileValues:
    def test_texts_are_cut_and_can_be_encoded(self, event: dict[str, Any]) -> None:
        event["server"] |= {"name": "\ud800", "ver": "x" * 100_000, "cluster": "ü" * 100_000, "tags": ["\udfff"] * 99}
        event["events"][0] |= {"name": "a\ud800b", "subj": "s" * 100_000, "error": "\ud83d"}
        read = read_event(encode(event))
        for text in strings(read):
            assert len(text.encode("utf-8")) <= 2 * 4096
        assert read.server.name == "?"
        assert len(read.server.tags) == 32

    @pytest.mark.parametrize("value", [-1, 2**63, 1.5, True, "7", None, [], {}, 10**400])
    def test_numbers_that_otlp_cannot_have_are_absent(self, event: dict[str, Any], value: Any) -> None:
        event["request"]["msgsize"] = value
        event["events"][0]["cid"] = value
        event["events"][1]["kind"] = value
        read = read_event(encode(event))
        assert (read.size, read.ingress.client_id, read.steps[0].kind) == (None, None, None)

    def test_a_thousand_random_changes_raise_nothing_but_skipped(self) -> None:
        values = [None, True, -1, 0, 2**70, 1e308, "", "x" * 5000, "\ud800", [], {}, [[]], {"a": {}}, [None]]
        chance = random.Random(0)
        every = [event for version, scenario in scenarios() for event in events(version, scenario)]
        read = 0
        for _ in range(1000):
            event = copy.deepcopy(chance.choice(every))
            for _ in range(chance.randint(1, 4)):
                spoil(event, chance, values)
            try:
                result = read_event(encode(event))
            except Skipped:
                continue
            read += 1
            assert isinstance(result, Event)
            for text in strings(result):
                text.encode("utf-8")
        assert read > 100

    def test_cut_and_flipped_bytes_raise_nothing_but_skipped(self, event: dict[str, Any]) -> None:
        data = encode(event)
        chance = random.Random(0)
        for encoding, packed in (
            (None, data),
            ("gzip", gzip.compress(data)),
            ("snappy", cramjam.snappy.compress(data)),
        ):
            for _ in range(500):
                broken = bytearray(packed)
                for _ in range(chance.randint(1, 3)):
                    broken[chance.randrange(len(broken))] = chance.randrange(256)
                del broken[chance.randrange(len(broken)) :]
                try:
                    read_event(decode(bytes(broken), encoding))
                except Skipped:
                    pass

    def test_a_raw_deflate_stream_is_no_gzip(self) -> None:
        with pytest.raises(Skipped):
            decode(zlib.compress(b"{}"), "gzip")


def spoil(value: Any, chance: random.Random, values: list[Any]) -> None:
    """Replaces, adds or removes something, somewhere."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(value[key], (dict, list)) and value[key] and chance.random() < 0.8:
            value = value[key]
            continue
        if chance.random() < 0.3:
            del value[key]
        else:
            value[key] = chance.choice(values)
        return
