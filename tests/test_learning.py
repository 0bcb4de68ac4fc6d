# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Learned wildcards: what keeps its name, what becomes `*`, and that both stay so."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections.abc import Iterable, Iterator

import pytest

from opentelemetry.instrumentation.nats._learning import MOST_NAMES, LearnedNames

LETTERS = "ghijklmnopqrstuvwxyz"


def words(count: int, size: int = 4) -> list[str]:
    """Different words that no rule takes for ids."""
    return ["".join(letters) for letters in itertools.islice(itertools.product(LETTERS, repeat=size), count)]


def named(names: LearnedNames, subjects: Iterable[str]) -> list[str | None]:
    return [names.name(subject) for subject in subjects]


class TestTokens:
    def test_of_one_place_keep_their_names_up_to_the_limit(self):
        names = LearnedNames(50)
        subjects = [f"shop.orders.{word}.created" for word in words(200)]
        assert named(names, subjects) == [*subjects[:50], *["shop.orders.*.created"] * 150]
        assert len(names) == 51

    def test_of_other_places_are_no_concern_of_it(self):
        names = LearnedNames(3)
        named(names, [f"shop.orders.{word}.created" for word in words(10)])
        for subject in ("shop.health.ok", "shop.orders.gggg.paid", "other.orders.zzzz.created", "shop", "shop.orders"):
            assert names.name(subject) == subject
        assert names.name("shop.orders.zzzz.paid") == "shop.orders.*.paid"

    def test_that_look_generated_take_no_place(self):
        names = LearnedNames(2)
        assert set(named(names, [f"shop.orders.{number}.created" for number in range(100)])) == {
            "shop.orders.*.created"
        }
        assert named(names, [f"shop.orders.{word}.created" for word in ("new", "old", "other")]) == [
            "shop.orders.new.created",
            "shop.orders.old.created",
            "shop.orders.*.created",
        ]

    def test_under_a_wildcard_are_learned_as_any(self):
        names = LearnedNames(2)
        named(names, [f"{word}.a" for word in words(3)])
        assert named(names, [f"yyyy.{token}" for token in ("a", "b", "c")]) == ["*.a", "*.b", "*.*"]

    @pytest.mark.parametrize("limit", [1, 7, 49, 51, 500])
    def test_are_limited_by_the_option(self, limit: int):
        names = LearnedNames(limit)
        subjects = [f"a.{word}" for word in words(600)]
        assert named(names, subjects) == [*subjects[:limit], *["a.*"] * (600 - limit)]

    def test_of_a_wildcard_subject_are_what_they_are(self):
        names = LearnedNames(2)
        patterns = ["a.*", "a.>", "*", ">", "a.*.b.>", "a.one", "a.two"]
        assert named(names, patterns) == patterns
        assert names.name("a.three") == "a.*"
        assert names.name("a.*.>") == "a.*.>"
        assert named(names, [f"b.{word}" for word in words(3)])[-1] == "b.*"
        assert names.name("b.>") == "b.>"

    def test_that_are_generated_are_no_wildcard_subjects_name(self):
        assert LearnedNames(50).name("sessions.550e8400-e29b-41d4-a716-446655440000.>") == "sessions.*.>"

    @pytest.mark.parametrize("subject", ["", ".", "a.", "a..b", "\ud800", "a b"])
    def test_that_nats_refuses_do_no_harm(self, subject: str):
        assert LearnedNames(50).name(subject) == subject

    def test_beyond_sixteen_are_one(self):
        names = LearnedNames(50)
        long = ".".join(words(16))
        assert names.name(long) == long
        assert {names.name(f"{long}.{word}") for word in words(100)} == {f"{long}.>"}
        assert names.name(f"{long}.a.b.c") == f"{long}.>"


class TestNames:
    def test_are_given_once_for_all(self):
        names = LearnedNames(20)
        chance = random.Random(1)
        tokens = [words(60, size) for size in (2, 3, 4)]
        subjects = [".".join(chance.choice(place) for place in tokens) for _ in range(20_000)]
        first: dict[str, str | None] = {}
        for subject in subjects:
            assert first.setdefault(subject, names.name(subject)) == names.name(subject)
        assert named(names, first) == list(first.values())
        assert len(names) <= MOST_NAMES

    @pytest.mark.parametrize("places", [1, 2, 3, 4, 12, 40])
    def test_are_at_most_a_thousand(self, places: int):
        names = LearnedNames(50)
        chance = random.Random(2)
        tokens = words(200)
        given = {names.name(".".join(chance.choices(tokens, k=places))) for _ in range(20_000)}
        assert None not in given
        assert len(given) == len(names) <= MOST_NAMES

    def test_are_left_for_where_ids_are_seen_last(self):
        names = LearnedNames(50)
        given = {names.name(f"t.{tenant}.u.{user}.done") for tenant in words(200) for user in words(200)}
        assert None not in given
        assert "t.*.u.*.done" in given
        assert names.name("t.zzzz.u.zzzz.done") == "t.*.u.*.done"

    def test_are_left_for_what_begins_alike(self):
        names = LearnedNames(50)
        tokens = words(200)
        chance = random.Random(4)
        for _ in range(20_000):
            names.name(".".join(chance.choices(tokens, k=3)))
        assert {names.name(f"{token}.zzzz.zzzz") for token in tokens} <= {
            "*.>",
            "*.*.*",
            *(f"{token}.>" for token in tokens),
        }
        assert names.name("zzzz") == "*"

    def test_of_eight_hundred_subjects_are_all_their_own(self):
        names = LearnedNames(50)
        subjects = [f"{a}.{b}" for a in words(20) for b in words(40)]
        assert named(names, subjects) == subjects

    def test_without_learning_are_the_first_thousand(self):
        names = LearnedNames(0)
        subjects = [f"a.{word}" for word in words(1500)]
        assert named(names, subjects) == [*subjects[:MOST_NAMES], *[None] * 500]
        assert names.name("a.8812") is None
        assert names.name(subjects[7]) == subjects[7]

    def test_are_made_of_a_bounded_number_of_nodes(self):
        names = LearnedNames(50)
        tokens = words(1000)
        chance = random.Random(3)
        for _ in range(5_000):
            names.name(".".join(chance.choices(tokens, k=16)))
        assert sum(1 for _ in nodes(names)) <= 4 * MOST_NAMES + 1


class TestRunningOut:
    def test_is_told_once_and_where(self):
        told: list[tuple[int, str]] = []
        names = LearnedNames(50, on_full=lambda position, first: told.append((position, first)))
        for tenant in words(17):
            named(names, [f"t.{tenant}.u.{user}" for user in words(50)])
        assert told == []
        for tenant in words(400)[100:]:
            named(names, [f"t.{tenant}.u.{user}" for user in words(50)])
        assert told == [(4, "t")]

    def test_without_learning_is_told_too(self):
        told: list[tuple[int, str]] = []
        names = LearnedNames(0, on_full=lambda position, first: told.append((position, first)))
        named(names, [f"customers.{word}" for word in words(1000)])
        assert told == []
        named(names, [f"customers.{word}" for word in words(1500)])
        assert told == [(2, "customers")]

    def test_of_one_place_is_not_told(self):
        told: list[tuple[int, str]] = []
        names = LearnedNames(50, on_full=lambda position, first: told.append((position, first)))
        named(names, [f"customers.{word}" for word in words(1500)])
        assert told == []

    def test_may_be_told_to_somebody_who_asks_for_a_name(self):
        asked: list[str | None] = []
        names = LearnedNames(0, most=2, on_full=lambda *_: asked.append(names.name("log.warning")))
        assert named(names, ["a", "b", "c"]) == ["a", "b", None]
        assert asked == [None]


class TestThreads:
    def test_learn_the_same(self):
        names = LearnedNames(50)
        tokens = words(300)
        results: list[dict[str, set[str | None]]] = []
        barrier = threading.Barrier(8)

        def learn(seed: int) -> None:
            chance = random.Random(seed)
            got: dict[str, set[str | None]] = {}
            barrier.wait()
            for _ in range(5_000):
                subject = f"shop.{chance.choice(tokens)}.{chance.choice(tokens)}"
                got.setdefault(subject, set()).add(names.name(subject))
            results.append(got)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=learn, args=(seed,)) for seed in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)

        assert len(results) == 8
        for got in results:
            for subject, given in got.items():
                assert given == {names.name(subject)}
        given = {name for got in results for some in got.values() for name in some}
        assert len(given - {None}) == len(names) <= MOST_NAMES
        assert max(node.words for node in nodes(names)) <= 50


def nodes(names: LearnedNames) -> Iterator[object]:
    """All nodes, the root too."""
    pending = [names._root]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(node.children.values())
