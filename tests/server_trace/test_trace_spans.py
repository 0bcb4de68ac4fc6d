# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The spans of events: their trees, and that they follow from the events alone."""

from __future__ import annotations

import asyncio
import copy
import random
import time
from typing import Any

import pytest

from opentelemetry.instrumentation.nats._options import read_options
from opentelemetry.instrumentation.nats.server_trace._errors import meaning
from opentelemetry.instrumentation.nats.server_trace._names import SUBJECT_NAMES, Names
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from support.server_trace import ServerSpans, events, sample, scenarios, server_tree
from support.spans import assert_span


async def spans_of(version: str, scenario: str) -> list[ReadableSpan]:
    return await ServerSpans().take(events(version, scenario))


def shown(spans: list[ReadableSpan]) -> dict[int, str]:
    """All that an exporter would see, by span id; two spans of one id must be equal."""
    result: dict[int, str] = {}
    for span in spans:
        text = span.to_json()
        assert result.setdefault(span.context.span_id, text) == text, "two spans have one id"
    return result


def every_event() -> list[dict[str, Any]]:
    return [event for version, scenario in scenarios() for event in events(version, scenario)]


class TestTrees:
    @pytest.mark.parametrize(("version", "scenario"), scenarios())
    async def test_every_scenario_is_connected(self, version: str, scenario: str) -> None:
        spans = await spans_of(version, scenario)
        ids = {span.context.span_id for span in spans}
        assert len(ids) == len(spans)
        publishers = {
            event["request"]["header"]["traceparent"][0].split("-")[2]
            for event in events(version, scenario)
            if "traceparent" in event["request"]["header"]
        }
        for span in spans:
            assert span.kind is SpanKind.INTERNAL
            assert span.parent is not None
            assert span.parent.span_id in ids or f"{span.parent.span_id:016x}" in publishers, span.name
            assert 0 < span.start_time <= span.end_time

    @pytest.mark.parametrize("version", ["2.11", "2.12", "2.14", "2.15"])
    async def test_a_supercluster(self, version: str) -> None:
        assert server_tree(await spans_of(version, "supercluster")) == (
            "ingress orders.created [east-1] from orders, account A\n"
            "  gateway orders.created [east-1] to west-1, hop 2, account A\n"
            "    ingress orders.created [west-1] from east-1, hop 2, account A\n"
            "      deliver orders.* [west-1] to billing-west1, account A\n"
            "      route orders.created [west-1] to west-2, hop 2.1, account A\n"
            "        ingress orders.created [west-2] from west-1, hop 2.1, account A\n"
            "          deliver orders.* [west-2] to billing-west2, account A\n"
            "  route orders.created [east-1] to east-2, hop 1, account A\n"
            "    ingress orders.created [east-2] from east-1, hop 1, account A\n"
            "      deliver orders.* [east-2] to audit-e2, account A"
        )

    async def test_a_request_over_a_service_import_and_its_answer(self) -> None:
        assert server_tree(await spans_of("2.15", "cluster-service-import")) == (
            "ingress [nats-2] from pricer, account B\n"
            "  route [nats-2] to nats-1, hop 1, account B\n"
            "    ingress [nats-1] from nats-2, hop 1, account B\n"
            "      import [nats-1], account A\n"
            "ingress ask.price [nats-1] from asker, account A\n"
            "  import price.get [nats-1], account B\n"
            "  route price.get [nats-1] to nats-2, hop 1, account B\n"
            "    ingress price.get [nats-2] from nats-1, hop 1, account B\n"
            "      deliver price.get [nats-2] to pricer, account B"
        )

    async def test_a_stream_import_into_a_stream(self) -> None:
        assert server_tree(await spans_of("2.15", "stream-import-into-jetstream")) == (
            "ingress ticker.js.x [nats-1] from asker, account A\n"
            "  deliver from-a.ticker.js.x [nats-1] to pricer, account B\n"
            "  export from-a.ticker.js.x [nats-1], account B\n"
            "  export from-a.ticker.js.x [nats-1], account B\n"
            "  store TICKS [nats-1], account B"
        )

    async def test_an_answer_over_a_gateway_with_the_context_of_its_request(self) -> None:
        # Plain nats-py sends the request's headers back: two messages of one context take the same hop, in turn.
        request, answer = events("2.15", "gateway-request")[:2], events("2.15", "gateway-request")[2:]
        for event in answer:
            event["request"]["header"]["traceparent"] = request[0]["request"]["header"]["traceparent"]
        spans = await ServerSpans().take(request + answer)
        assert len({span.context.span_id for span in spans}) == len(spans) == 8
        assert server_tree(spans) == (
            "ingress [west-1] from billing, account A\n"
            "  gateway [west-1] to east-1, hop 1, account A\n"
            "    ingress [east-1] from west-1, hop 1, account A\n"
            "      deliver [east-1] to orders, account A\n"
            "ingress svc [east-1] from orders, account A\n"
            "  gateway svc [east-1] to west-1, hop 1, account A\n"
            "    ingress svc [west-1] from east-1, hop 1, account A\n"
            "      deliver svc [west-1] to billing, account A"
        )

    @pytest.mark.parametrize("prefixes", [(), ("_MINE",)])
    async def test_an_inbox_prefix_of_the_users_own_is_the_same_at_both_ends(self, prefixes: tuple[str, ...]) -> None:
        answer = events("2.15", "gateway-request")[2:]
        for event in answer:
            for step in event["events"]:
                for key in {"subj", "sub"} & set(step):
                    step[key] = step[key].replace("_INBOX", "_MINE")
        spans = await ServerSpans(names=Names((), prefixes)).take(answer)
        label = "" if prefixes else " _MINE.*.*"
        assert server_tree(spans).splitlines()[1] == f"  gateway{label} [west-1] to east-1, hop 1, account A"
        assert len(server_tree(spans).splitlines()[3].partition("deliver")[0]) == 6

    async def test_the_remote_server_that_does_not_trace_is_told(self) -> None:
        assert server_tree(await spans_of("mixed", "old-remote")) == (
            "ingress audit [nats-1] from orders-api, account A\n"
            "  route audit [nats-1] to nats-2, hop 1, account A, outcome remote_untraced\n"
            "  route audit [nats-1] to nats-3, hop 2, account A\n"
            "    ingress audit [nats-3] from nats-1, hop 2, account A\n"
            "      deliver audit [nats-3] to audit, account A"
        )


class TestAttributes:
    async def test_of_a_server_and_of_its_deliveries(self) -> None:
        event = sample("compressed")["event"]
        common = {"messaging.system": "nats", "messaging.nats.account": "A", "messaging.nats.connection.kind": "client"}
        common |= {"messaging.destination.name": "orders.created"}
        ingress, billing, orders = await ServerSpans().take([event])
        assert (ingress.start_time, ingress.end_time) == (1768469400000000000, 1768469400000080270)
        assert_span(
            ingress,
            name="ingress orders.created",
            kind=SpanKind.INTERNAL,
            links=[],
            attributes=common
            | {
                "messaging.operation.name": "ingress",
                "messaging.client.id": "7",
                "messaging.nats.connection.name": "orders",
                "messaging.message.envelope.size": 87,
            },
        )
        assert ingress.parent is not None
        assert (ingress.parent.trace_id, ingress.parent.span_id, ingress.parent.is_remote) == (
            0x7A7D81AFAFB61EEE10547113CB657B6A,
            0xF893916C2885C690,
            True,
        )
        assert (billing.start_time, billing.end_time) == (1768469400000000000, 1768469400000067561)
        assert_span(
            billing,
            name="deliver orders.*",
            kind=SpanKind.INTERNAL,
            parent=ingress,
            links=[],
            attributes=common
            | {
                "messaging.operation.name": "deliver",
                "messaging.destination.template": "orders.*",
                "messaging.client.id": "8",
                "messaging.nats.connection.name": "billing",
            },
        )
        assert (orders.start_time, orders.end_time) == (1768469400000067561, 1768469400000080270)
        assert_span(
            orders,
            name="deliver orders.created",
            kind=SpanKind.INTERNAL,
            parent=ingress,
            links=[],
            attributes=common
            | {
                "messaging.operation.name": "deliver",
                "messaging.client.id": "7",
                "messaging.nats.connection.name": "orders",
                "messaging.consumer.group.name": "workers",
            },
        )

    async def test_of_a_hop_at_both_ends(self) -> None:
        spans = await spans_of("2.15", "cluster-route")
        route = next(
            span for span in spans if span.name == "route audit" and span.attributes["messaging.nats.trace.hop"] == "1"
        )
        remote = next(span for span in spans if span.parent and span.parent.span_id == route.context.span_id)
        common = {"messaging.system": "nats", "messaging.nats.account": "A", "messaging.nats.connection.kind": "route"}
        common |= {"messaging.destination.name": "audit", "messaging.nats.trace.hop": "1"}
        assert_span(
            route,
            attributes=common | {"messaging.operation.name": "route", "messaging.nats.connection.name": "nats-3"},
        )
        assert_span(
            remote,
            name="ingress audit",
            attributes=common
            | {
                "messaging.operation.name": "ingress",
                "messaging.nats.connection.name": "nats-1",
                "messaging.message.envelope.size": 106,
            },
        )

    async def test_of_an_inbox(self) -> None:
        ingress = (await spans_of("2.15", "request-reply-plain-answer"))[2]
        assert_span(
            ingress,
            name="ingress",
            attributes={
                "messaging.system": "nats",
                "messaging.operation.name": "ingress",
                "messaging.destination.name": "_INBOX.8aspm4G7VmSUfOoD6V1vrO.ztys355NrAlpgsJGcDc2bha791",
                "messaging.destination.temporary": True,
                "messaging.destination.anonymous": True,
                "messaging.nats.account": "A",
                "messaging.nats.connection.kind": "client",
                "messaging.nats.connection.name": "billing",
                "messaging.client.id": "8",
                "messaging.message.envelope.size": 84,
            },
        )

    async def test_of_a_mapping_and_what_comes_after_it(self) -> None:
        ingress, mapping, delivery = await spans_of("2.15", "single-mapping")
        assert [span.name for span in (ingress, mapping, delivery)] == [
            "ingress map.one",
            "map mapped.one",
            "deliver mapped.>",
        ]
        assert_span(
            mapping,
            attributes={
                "messaging.system": "nats",
                "messaging.operation.name": "map",
                "messaging.destination.name": "mapped.one",
                "messaging.nats.account": "A",
            },
        )
        assert delivery.attributes["messaging.destination.name"] == "mapped.one"

    async def test_of_what_a_stream_stores(self) -> None:
        _, store = await spans_of("2.15", "js-store")
        assert_span(
            store,
            name="store ORDERS",
            attributes={
                "messaging.system": "nats",
                "messaging.operation.name": "store",
                "messaging.destination.name": "js.a",
                "messaging.nats.account": "A",
                "messaging.nats.jetstream.stream": "ORDERS",
            },
        )
        assert store.end_time - store.start_time == 153299

    @pytest.mark.parametrize(
        ("scenario", "span", "attribute", "value"),
        [
            ("js-duplicate", "store ORDERS", "messaging.nats.jetstream.duplicate", True),
            ("js-no-interest", "store INTEREST", "messaging.nats.trace.outcome", "no_interest"),
            ("single-no-echo", "deliver echo.x", "messaging.nats.trace.outcome", "no_echo"),
        ],
    )
    async def test_of_what_is_no_fault(self, scenario: str, span: str, attribute: str, value: object) -> None:
        (found,) = [each for each in await spans_of("2.15", scenario) if each.name == span]
        assert found.attributes[attribute] == value
        assert "error.type" not in found.attributes
        assert_span(found, status=StatusCode.UNSET)

    @pytest.mark.parametrize(
        ("scenario", "span", "error_type", "description"),
        [
            (
                "permission-denied",
                "ingress secret.x",
                "permissions_violation",
                'Permissions Violation for Publish to "secret.x"',
            ),
            ("js-full", "store FULL", "maximum_messages_exceeded", "maximum messages exceeded"),
            ("js-max-msg-size", "store ORDERS", "maximum_payload_exceeded", "maximum payload exceeded"),
            ("js-wrong-stream", "store ORDERS", "expected_stream_mismatch", "expected stream does not match"),
            ("js-wrong-last-sequence", "store ORDERS", "last_sequence_mismatch", "last sequence mismatch: 99 vs 2"),
        ],
    )
    async def test_of_what_went_wrong(self, scenario: str, span: str, error_type: str, description: str) -> None:
        (found,) = [each for each in await spans_of("2.15", scenario) if each.name == span]
        assert found.attributes["error.type"] == error_type
        assert_span(found, status=(StatusCode.ERROR, description))

    def test_every_error_of_the_samples_has_a_type(self) -> None:
        texts = {step["error"] for event in every_event() for step in event["events"] if "error" in step}
        assert len(texts) == 12
        assert "_OTHER" not in {meaning(text).error_type for text in texts}

    def test_an_error_that_nobody_knows_is_other(self) -> None:
        assert meaning("the disk is on fire") == ("_OTHER", None)

    async def test_that_were_dropped_are_counted(self) -> None:
        event = sample("compressed")["event"]
        event["events"] += [event["events"][1]] * 200
        ingress, *steps = await ServerSpans().take([event])
        assert len(steps) == 128
        assert ingress.attributes["messaging.nats.trace.steps_dropped"] == 202 - 128


class TestNames:
    @pytest.mark.parametrize(
        ("subject", "label"),
        [
            ("orders.created", "orders.created"),
            ("orders.8812.created", "orders.*.created"),
            ("_INBOX.8aspm4G7VmSUfOoD6V1vrO.x", None),
            ("_R_.SAxoUG.mviX3E", None),
            ("_GR_.36IaNN.y76M9j._INBOX.a.b", None),
            ("_GR_.36IaNN.y76M9j._R_.a.b", None),
            ("$JS.ACK.S.C.1.2.3.4.5", None),
            ("$KV.prices.eur.usd", "$KV.prices.>"),
            ("$O.files.M.cmVhZG1l", "$O.files.M.>"),
            ("$KV.prices", "$KV.prices"),
            ("", ""),
        ],
    )
    def test_have_no_ids_in_them(self, subject: str, label: str | None) -> None:
        assert Names().destination(subject).label == label

    def test_are_the_users_own_templates_first(self) -> None:
        names = Names(["customers.*.>"])
        assert names.destination("customers.alice.orders").label == "customers.*.>"
        assert names.delivered("customers.alice.orders", "customers.alice.*").label == "customers.*.>"

    def test_are_as_many_as_clients_give_by_default(self) -> None:
        assert read_options({}).subject_names == SUBJECT_NAMES

    def test_what_is_too_long_has_none(self) -> None:
        names = Names()
        long = "a-b-" * 1024
        begin = time.perf_counter()
        assert names.destination(long).label is None
        assert names.delivered("orders.created", ".".join(["*"] * 2048)).label == "orders.created"
        assert names.delivered(".".join("a" * 2048), ".".join(["*"] * 2048)).label is None
        assert names.stream(long) is None
        assert time.perf_counter() - begin < 1

    def test_are_few_however_many_subjects_there_are(self, caplog: pytest.LogCaptureFixture) -> None:
        names = Names(limit=5)
        words = ["".join(chr(ord("g") + int(digit)) for digit in str(number)) for number in range(20_000)]
        assert len({names.destination(f"customers.{word}.orders").label for word in words}) == 6
        assert len({names.delivered(f"a.{word}", f"*.{word}").label for word in words}) == 6
        assert len({names.destination(f"$KV.{word}.key").label for word in words}) == 6
        assert len({names.stream(word) for word in words}) == 6
        assert caplog.messages == []
        every = Names(limit=0)
        assert len({every.destination(word).label for word in words}) == 1001
        assert len({every.stream(word) for word in words}) == 1001
        assert [message.partition(";")[0] for message in caplog.messages] == [
            "too many subjects to give each a name",
            "too many streams to give each a name",
        ]

    def test_of_a_delivery_is_the_subscription_that_matches(self) -> None:
        assert Names().delivered("orders.created", "orders.>").label == "orders.>"
        assert Names().delivered("orders.created", "ticker.>").label == "orders.created"
        for subscription in (">", "*.>", "orders.*", "*.created", "*.*", "orders.>"):
            assert Names().delivered("orders.created", subscription).label == subscription
        for subscription in ("*", "orders.created.>", "*.*.*", "*.*.>", "sales.*"):
            assert Names().delivered("orders.created", subscription).label == "orders.created"
        assert Names().delivered("orders.created", "a..*").label == "orders.created"
        assert Names().delivered("_INBOX.a.b", "_INBOX.a.*").label is None


class TestStatelessness:
    async def test_shuffled_doubled_or_read_by_two_the_spans_are_the_same(self) -> None:
        every = every_event()
        expected = shown(await ServerSpans().take(every))
        assert len(expected) == 498
        chance = random.Random(0)
        for _ in range(5):
            shuffled = chance.sample(every, len(every))
            assert shown(await ServerSpans().take(shuffled)) == expected
            doubled = await ServerSpans().take(shuffled + chance.sample(every, len(every)))
            assert shown(doubled) == expected
            assert len(doubled) == len(expected), "a repeated event is taken once"
            cut = chance.randrange(len(every))
            first, second = ServerSpans(), ServerSpans()
            halves = await first.take(shuffled[:cut]) + await second.take(shuffled[cut - 20 :])
            assert shown(halves) == expected

    async def test_two_readers_at_the_same_time_take_an_event_once_each(self) -> None:
        every = every_event()
        exporter = ServerSpans()
        await asyncio.gather(exporter.take(every[::2]), exporter.take(every[1::2]), exporter.take(every))
        assert len(shown(exporter.spans)) == len(exporter.spans) == 498
        assert exporter.health.skipped["duplicate"] == 234

    async def test_clocks_apart_by_an_hour_change_times_only(self) -> None:
        plain = events("2.15", "cluster-route")
        skewed = copy.deepcopy(plain)
        for step in skewed[0]["events"]:
            step["ts"] = step["ts"].replace("09:30", "10:30")
        before, after = await ServerSpans().take(plain), await ServerSpans().take(skewed)
        assert server_tree(before) == server_tree(after)
        moved = [later.start_time - earlier.start_time for earlier, later in zip(before, after, strict=True)]
        assert set(moved) == {0, 3600 * 10**9}

    async def test_ids_do_not_collide_between_servers_sequences_messages_and_steps(self) -> None:
        event = sample("compressed")["event"]
        exporter = ServerSpans()
        for server in ("NA", "NB"):
            for sequence in range(100):
                for parent in ("f893916c2885c690", "f893916c2885c691"):
                    event["server"] |= {"id": server, "seq": sequence}
                    context = f"00-7a7d81afafb61eee10547113cb657b6a-{parent}-01"
                    event["request"]["header"]["traceparent"] = [context]
                    await exporter.take([event])
        assert len({span.context.span_id for span in exporter.spans}) == 2 * 100 * 2 * 3

    async def test_several_messages_of_one_context_over_one_route_share_a_hop(self) -> None:
        """The limit that the documentation names."""
        route = events("2.15", "cluster-route")
        again = copy.deepcopy(route)
        for event in again:
            event["server"]["seq"] += 1
        spans = await ServerSpans().take(route + again)
        assert len(spans) - len({span.context.span_id for span in spans}) == 2
        assert {span.name for span in spans if span.name.startswith("route")} == {"route audit"}
