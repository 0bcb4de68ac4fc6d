# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Subjects: their low-cardinality form, inboxes, patterns; pure functions first, then through a client."""

from __future__ import annotations

import gc
import itertools
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from nats.aio.client import Client
from nats.nuid import NUID

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats._arrived import note, note_all, note_of, noted
from opentelemetry.instrumentation.nats._headers import chosen
from opentelemetry.instrumentation.nats._learning import LearnedNames
from opentelemetry.instrumentation.nats._subjects import (
    SubjectPatterns,
    carries_context,
    has_wildcard,
    is_plumbing,
)
from opentelemetry.instrumentation.nats._tokens import looks_generated
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from support.spans import assert_span, connection_attributes
from support.telemetry import Telemetry
from support.waiting import eventually, flush

Connect = Callable[..., Awaitable[Client]]
Unique = Callable[[str], str]

MANY = 100_000
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def _random() -> random.Random:
    """The same numbers in whatever order the tests run."""
    return random.Random(20250)


def reduce_subject(subject: str) -> str | None:
    """What the rules alone make of a subject; None if that is the subject."""
    name = LearnedNames(0).name(subject)
    return None if name == subject else name


def nuids(count: int) -> Iterator[str]:
    # A NUID's first 12 characters stay for as long as its generator does: of several, some have a digit, some have not.
    generators = itertools.cycle([NUID() for _ in range(20_000)])
    return (next(generators).next().decode() for _ in range(count))


def ulids(count: int) -> Iterator[str]:
    chance = _random()
    return (f"01{''.join(chance.choices(CROCKFORD, k=24))}" for _ in range(count))


def uuids(count: int) -> Iterator[str]:
    chance = _random()
    return (str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(count))


def hexadecimal(count: int, size: int = 64) -> Iterator[str]:
    chance = _random()
    return (f"{chance.getrandbits(4 * size):0{size}x}" for _ in range(count))


def numbers(count: int) -> Iterator[str]:
    chance = _random()
    return (str(chance.getrandbits(40)) for _ in range(count))


class TestGeneratedTokens:
    @pytest.mark.parametrize(
        "token",
        [
            "0",
            "8812",
            "20250131",
            "1a2b3c4d",
            "DEADBEE5",
            "9f86d081884c7d659a2feaa0c55ad015",
            "550e8400-e29b-41d4-a716-446655440000",
            "550E8400-E29B-41D4-A716-446655440000",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "01arz3ndektsv4rrffq69g5fav",
            "QvjDx2h5aPWIvTsSHxTwqp",
            "QvjDxZhkaPWIvTsSHxTwqp",  # a NUID without a digit
            "cjld2cjxh0000qzrmn831i7rn",
            "1srOrx2ZWZBpBUvZwXKQmoEYga2",
            "order-8812",
            "2025-01-31",
        ],
    )
    def test_look_generated(self, token: str):
        assert looks_generated(token)
        assert reduce_subject(token) == "*"
        assert reduce_subject(f"orders.{token}.created") == "orders.*.created"

    @pytest.mark.parametrize(
        "token",
        [
            "",
            "orders",
            "v2",
            "V10",
            "eu-west-1",
            "us-east-1a",
            "sha256",
            "line7",
            "deadbeef",
            "1a2b3c4",  # hex, but short
            "a1b2c3d4e5f6g7h8i9j",  # base62, but of 19
            "internationalizationservice",
            "CUSTOMERNOTIFICATIONSERVICE",
            "customer_notification_service",
            "OrderConfirmationRequested",
            "orderConfirmationRequested",
            "PaymentHasBeenRefunded",
            "UserHasBeenAddedToTheTeam",
            "HTTPRequestReceivedEvent",
            "XMLHttpRequestHandlerFactory",
            "InventoryItemReservedEvent",
            "KubernetesJobWasEvicted",
            "*",
            ">",
            "$SYS",
            "_INBOX",
        ],
    )
    def test_words_and_short_versions_stay(self, token: str):
        assert not looks_generated(token)
        assert reduce_subject(token) is None
        assert reduce_subject(f"events.{token}.x") is None

    @pytest.mark.parametrize("ids", [ulids, uuids, hexadecimal, numbers])
    def test_no_id_of_a_hundred_thousand_is_overlooked(self, ids: Callable[[int], Iterator[str]]):
        assert [token for token in ids(MANY) if not looks_generated(token)] == []

    def test_hardly_a_nuid_of_a_hundred_thousand_is_overlooked(self):
        # Two in a hundred have no digit; of these, some look like words to any rule that spares CamelCase.
        overlooked = [token for token in nuids(MANY) if not looks_generated(token)]
        assert all(token.isalpha() for token in overlooked)
        assert len(overlooked) < MANY / 1000

    def test_hardly_a_short_hexadecimal_id_is_overlooked(self):
        overlooked = [token for token in hexadecimal(MANY, 8) if not looks_generated(token)]
        assert all(token.isalpha() for token in overlooked)
        assert len(overlooked) < MANY / 1000


class TestTemplates:
    @pytest.mark.parametrize(
        ("subject", "template"),
        [
            ("orders.8812.created", "orders.*.created"),
            ("8812", "*"),
            ("8812.orders", "*.orders"),
            ("orders.8812", "orders.*"),
            ("tenants.17.users.550e8400-e29b-41d4-a716-446655440000", "tenants.*.users.*"),
            ("v2.orders.8812", "v2.orders.*"),
            ("orders.created", None),
            ("v2.orders.created", None),
            ("", None),
            ("..", None),
            ("orders..8812", "orders..*"),  # no valid subject; nats-py or the server says so, not we
        ],
    )
    def test_replace_what_looks_generated(self, subject: str, template: str | None):
        assert reduce_subject(subject) == template

    def test_are_their_own_template(self):
        assert reduce_subject("orders.*.created") is None

    def test_of_a_million_subjects_are_a_handful(self):
        subjects = itertools.chain(
            (f"orders.{number}.created" for number in range(600_000)),
            (f"users.{token}" for token in uuids(MANY)),
            (f"files.{token}.parts.{number}" for number, token in enumerate(hexadecimal(MANY))),
            (f"jobs.v2.{token}" for token in ulids(MANY)),
            (f"tenants.{number % 50}.events.{number}" for number in range(MANY)),
        )
        assert {reduce_subject(subject) for subject in subjects} == {
            "orders.*.created",
            "users.*",
            "files.*.parts.*",
            "jobs.v2.*",
            "tenants.*.events.*",
        }


class TestWildcards:
    @pytest.mark.parametrize("subject", ["*", ">", "a.*", "*.a", "a.*.b", "a.>", "a.*.>"])
    def test_are_seen(self, subject: str):
        assert has_wildcard(subject)

    @pytest.mark.parametrize("subject", ["", "a", "a.b", "a*", "*a.b", "a*.b", "a.b*", "a>", "a.b>"])
    def test_stand_alone_in_their_token(self, subject: str):
        assert not has_wildcard(subject)


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "matching", "others"),
        [
            ("orders", ["orders"], ["order", "orders.a", "a.orders", "ORDERS", ""]),
            ("orders.*", ["orders.a", "orders.8812"], ["orders", "orders.a.b", "orders.", "xorders.a"]),
            ("*.created", ["orders.created"], ["created", "a.b.created"]),
            ("orders.*.created", ["orders.1.created"], ["orders.created", "orders.1.2.created"]),
            ("orders.>", ["orders.a", "orders.a.b.c"], ["orders", "orders."]),
            (">", ["a", "a.b.c"], [""]),
            ("*", ["a"], ["a.b", ""]),
            ("*.*", ["a.b"], ["a", "a.b.c"]),
            ("a+b.(c)", ["a+b.(c)"], ["aab.(c)", "a+b.c"]),  # what a regular expression would read otherwise
            ("$JS.>", ["$JS.API.INFO"], ["JS.API.INFO"]),
        ],
    )
    def test_match_as_nats_matches(self, pattern: str, matching: list[str], others: list[str]):
        patterns = SubjectPatterns([pattern])
        assert [patterns.find(subject) for subject in matching] == [pattern] * len(matching)
        assert [patterns.find(subject) for subject in others] == [None] * len(others)

    def test_the_first_that_matches_counts(self):
        patterns = SubjectPatterns(["orders.special", "orders.*", "orders.>"])
        assert patterns.find("orders.special") == "orders.special"
        assert patterns.find("orders.other") == "orders.*"
        assert patterns.find("orders.other.still") == "orders.>"

    def test_may_be_hundreds(self):
        patterns = SubjectPatterns(f"tenants.t{number}.>" for number in range(500))
        assert patterns.find("tenants.t499.a") == "tenants.t499.>"
        assert patterns.find("tenants.t500.a") is None

    def test_may_be_none(self):
        patterns = SubjectPatterns([])
        assert not patterns
        assert patterns.find("orders") is None

    @pytest.mark.parametrize(
        "pattern", ["", ".", "a.", ".a", "a..b", "a.>.b", ">.a", "a*", "*a", "a.b>", "**", "a b", "a\t", "a.\nb"]
    )
    def test_that_nats_would_refuse_are_refused(self, pattern: str):
        with pytest.raises(ValueError, match="not a NATS subject pattern"):
            SubjectPatterns(["fine.>", pattern])


class TestSubjectsOfTheServer:
    @pytest.mark.parametrize(
        "subject",
        [
            "$JS.API.STREAM.INFO.x",
            "$JS.ACK.s.c.1.2.3.4.5",
            "$JS.FC.s.c.x",
            "$JS.hub.API.CONSUMER.MSG.NEXT.s.c",
            "$SRV.PING",
            "$SRV.INFO.name.id",
            "$SYS.REQ.SERVER.PING",
            "$O.bucket.C.QvjDx2h5aPWIvTsSHxTwqp",
        ],
    )
    def test_carry_no_context(self, subject: str):
        assert not carries_context(subject)

    @pytest.mark.parametrize(
        "subject", ["orders", "JS.API", "$KV.bucket.key", "$O.bucket.M.bmFtZQ==", "$JSX", "$SRVX.PING", "$", "_INBOX.x"]
    )
    def test_are_not_those_of_the_application(self, subject: str):
        assert carries_context(subject)

    def test_pull_requests_flow_control_and_discovery_are_plumbing(self):
        assert is_plumbing("$JS.API.CONSUMER.MSG.NEXT.stream.consumer")
        assert is_plumbing("$JS.hub.API.CONSUMER.MSG.NEXT.stream.consumer")
        assert is_plumbing("$JS.FC.stream.consumer.x")
        assert is_plumbing("$SRV.PING.prices")
        assert not is_plumbing("$JS.API.STREAM.INFO.stream")
        assert not is_plumbing("orders.CONSUMER.MSG.NEXT.x")


class TestSpansOfManySubjects:
    async def test_publish_to_thousands_makes_a_handful_of_names(self, telemetry: Telemetry, nc: Client):
        subjects = [f"orders.{number}.created" for number in range(3000)]
        subjects += [f"users.{token}" for token in uuids(1000)]
        for subject in subjects:
            await nc.publish(subject)
        spans = telemetry.spans()
        assert [span.attributes["messaging.destination.name"] for span in spans] == subjects
        assert {(span.name, span.attributes["messaging.destination.template"]) for span in spans} == {
            ("publish orders.*.created", "orders.*.created"),
            ("publish users.*", "users.*"),
        }
        sent = telemetry.metric("messaging.client.sent.messages")
        assert sorted(
            (dict(attributes)["messaging.destination.template"], value) for attributes, value in sent.items()
        ) == [("orders.*.created", 3000), ("users.*", 1000)]

    async def test_a_wildcard_subscription_names_all_that_it_gets(self, telemetry: Telemetry, nc: Client):
        got: list[str] = []

        async def handler(msg: Any) -> None:
            got.append(msg.subject)

        await nc.subscribe("customers.*.name.>", cb=handler)
        words = ["".join(letters) for letters in itertools.product(LETTERS, repeat=2)]
        subjects = [f"customers.{word}.name.{word}" for word in words]
        for subject in subjects:
            await nc.publish(subject)
        await eventually(lambda: len(got) == len(subjects))
        assert got == subjects
        processed = [span for span in telemetry.spans() if span.kind is SpanKind.CONSUMER]
        assert [span.attributes["messaging.destination.name"] for span in processed] == subjects
        assert {(span.name, span.attributes["messaging.destination.template"]) for span in processed} == {
            ("process customers.*.name.>", "customers.*.name.>")
        }
        consumed = telemetry.metric("messaging.client.consumed.messages")
        assert list(consumed.values()) == [len(subjects)]

    async def test_requests_make_no_name_or_series_with_their_inbox(self, telemetry: Telemetry, nc: Client):
        async def handler(msg: Any) -> None:
            await msg.respond(b"")

        await nc.subscribe("prices.*", cb=handler)
        for number in range(200):
            await nc.request(f"prices.{number}", timeout=5)
        await telemetry.wait_for(600)
        assert {span.name for span in telemetry.spans()} == {"request prices.*", "process prices.*", "reply"}
        for metric in telemetry.metrics().values():
            for point in metric.data.data_points:
                assert not any("_INBOX" in str(value) for value in point.attributes.values())
            assert len(list(metric.data.data_points)) <= 5, metric.name

    async def test_names_that_no_rule_reduces_end_in_a_wildcard(self, telemetry: Telemetry, nc: Client):
        words = ["".join(letters) for letters in itertools.product(LETTERS, repeat=3)][:1500]
        for word in words:
            await nc.publish(f"customers.{word}")
        spans = telemetry.spans()
        assert [span.attributes["messaging.destination.name"] for span in spans] == [f"customers.{w}" for w in words]
        names = [span.name for span in spans]
        assert names[:50] == [f"publish customers.{word}" for word in words[:50]]
        assert set(names[50:]) == {"publish customers.*"}
        series = telemetry.metric("messaging.client.sent.messages")
        assert len(series) == 51
        assert sum(series.values()) == 1500

    @pytest.mark.instrument(subject_names=0)
    async def test_names_that_no_rule_reduces_end_in_the_operation_alone(self, telemetry: Telemetry, nc: Client):
        words = ["".join(letters) for letters in itertools.product(LETTERS, repeat=3)][:1500]
        for word in words:
            await nc.publish(f"customers.{word}")
        spans = telemetry.spans()
        assert [span.attributes["messaging.destination.name"] for span in spans] == [f"customers.{w}" for w in words]
        names = [span.name for span in spans]
        assert names[:1000] == [f"publish customers.{word}" for word in words[:1000]]
        assert set(names[1000:]) == {"publish"}
        series = telemetry.metric("messaging.client.sent.messages")
        assert len(series) == 1001
        assert sum(series.values()) == 1500  # those without a name share one series, and none is lost

    async def test_what_is_remembered_of_them_is_bounded(self, telemetry: Telemetry, nc: Client):
        got = 0

        async def handler(msg: Any) -> None:
            nonlocal got
            got += 1

        await nc.subscribe("a.>", cb=handler)
        await nc.subscribe("b.>", cb=handler)
        words = itertools.islice(itertools.product(LETTERS, repeat=4), 2500)
        for number, letters in enumerate(words):
            word = "".join(letters)
            for subject in (f"a.{word}", f"b.{number}", f"c.{word}", f"d.{number}"):
                await nc.publish(subject)
        await eventually(lambda: got == 5000, 30)
        size, what = _largest(nc)
        assert 500 <= size <= 1100, what  # the lower bound shows that something was found


class TestRememberedContexts:
    """What a task received last is remembered as numbers, because a context lives as long as its longest task."""

    def test_are_bounded_whatever_a_message_has(self):
        headers = {f"x-{number}": "v" * 1000 for number in range(10_000)}
        headers |= {"traceparent": f"00-{1:032x}-{2:016x}-01", "baggage": "a=" + "b" * 8000}
        context = SpanContext(1, 2, is_remote=True)
        for made in (note_of(headers, context), note_of({"traceparent": "x"}, context), note_of(None, None)):
            marks = made if isinstance(made, frozenset) else {made}
            assert all(mark is None or isinstance(mark, int) for mark in marks)
            assert len(marks) <= 300

    def test_are_those_of_the_last_message_and_of_a_batch_of_all(self):
        headers = {"traceparent": f"00-{1:032x}-{2:016x}-01"}
        chosen_context = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))
        before = noted()
        note(2)
        assert chosen(headers, Context()) is None
        note(3)
        assert chosen(headers, Context()) == chosen_context
        note_all([3, frozenset({2, hash(("baggage", "a=1"))}), None])
        assert chosen(headers, Context()) is None
        note(before)


class TestInboxes:
    @pytest.mark.parametrize("prefix", [None, "_mine"])
    async def test_are_anonymous_and_temporary(self, telemetry: Telemetry, connect: Connect, prefix: str | None):
        nc = await connect(**({"inbox_prefix": prefix} if prefix else {}))
        telemetry.clear()
        inbox = nc.new_inbox()
        assert inbox.startswith(f"{prefix or '_INBOX'}.")
        await nc.publish(inbox, b"12")
        assert_span(
            telemetry.span("reply"),
            name="reply",
            kind=SpanKind.PRODUCER,
            attributes={
                **connection_attributes(nc),
                "messaging.operation.name": "reply",
                "messaging.operation.type": "send",
                "messaging.destination.name": inbox,
                "messaging.destination.temporary": True,
                "messaging.destination.anonymous": True,
                "messaging.message.conversation_id": inbox,
                "messaging.message.body.size": 2,
            },
            parent=None,
            links=[],
        )

    async def test_of_a_client_with_a_prefix_of_its_own_are_known_while_its_message_is_handled(
        self, telemetry: Telemetry, connect: Connect, unique: Unique
    ):
        subject = unique("prices")
        server, requester = await connect(), await connect(inbox_prefix="_mine")

        async def handler(msg: Any) -> None:
            assert msg.reply.startswith("_mine.")
            await server.publish(msg.reply, b"12")

        await server.subscribe(subject, cb=handler)
        await flush(server)
        telemetry.clear()
        assert (await requester.request(subject)).data == b"12"
        await telemetry.wait_for(3)
        process = telemetry.span(f"process {subject}")
        assert_span(
            telemetry.span("reply"),
            kind=SpanKind.PRODUCER,
            attributes={
                **connection_attributes(server),
                "messaging.operation.name": "reply",
                "messaging.operation.type": "send",
                "messaging.destination.name": process.attributes["messaging.message.conversation_id"],
                "messaging.destination.temporary": True,
                "messaging.destination.anonymous": True,
                "messaging.message.conversation_id": process.attributes["messaging.message.conversation_id"],
                "messaging.message.body.size": 2,
            },
            parent=process,
            links=[],
        )


def _largest(root: Any, of: type | None = None) -> tuple[int, Any]:
    """Finds the largest collection that belongs to the instrumentation, below an object of nats-py's or its own.

    Without `of`, collections of numbers do not count: those are the remembered contexts.
    """
    found: tuple[int, Any] = (0, None)
    pending, seen = [root], {id(root)}
    while pending:
        item = pending.pop()
        if (
            isinstance(item, (dict, set, list, tuple, deque))
            and len(item) > found[0]
            and isinstance(next(iter(item)), int) is (of is int)
        ):
            found = (len(item), f"{type(item).__name__} of {len(item)}, with {next(iter(item))!r}")
        for below in gc.get_referents(item):
            ours = type(below).__module__.startswith("opentelemetry.instrumentation.nats")
            theirs = type(below).__module__.startswith("nats.")
            if id(below) not in seen and (ours or theirs or isinstance(below, (dict, set, list, tuple, deque))):
                if isinstance(below, dict) and "__name__" in below:
                    continue  # a module's or class's
                seen.add(id(below))
                pending.append(below)
    return found
