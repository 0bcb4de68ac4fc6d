# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a row of the table is."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from variants import VARIANTS, Floor

from support.spans import connection_attributes

if TYPE_CHECKING:
    from measuring import Bench

PAYLOAD = b"x" * 64


class Row:
    """One operation of nats-py, and its floor.

    Attributes:
        name: Its name in the report's details.
        title: What it is, for a reader who knows nats-py.
        messages: How many messages an operation is about; times are told of one.
        operations: How many are timed in a round; few, see `measuring`.
        warm_up: How many are run before those, in the same round; 0 for as many.
        rarely: It is run in one of so many cycles.
        sends: Whether its spans are children of the span that is current, and not of a message's publisher.
        variants: What it is run in.
    """

    name: str
    title: str
    messages = 1
    operations: int
    warm_up = 0
    rarely = 1
    sends = False
    variants = VARIANTS

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.nc = bench.nc
        self.warm_up = self.warm_up or self.operations

    def shorten(self) -> None:
        """Makes its rounds short, for a run that only looks for gross misses."""
        self.operations = max(2, self.operations // 4)
        self.warm_up = max(2, self.warm_up // 4)

    async def open(self) -> None:
        """Prepares what all rounds share; nats-py is not instrumented."""

    async def prepare(self, count: int, floor: Floor | None, sampled: int) -> None:
        """Prepares a round, with its variant in effect; not timed.

        Args:
            count: How many operations the round will run.
            floor: What the floor needs, for rounds of the floor.
            sampled: One in so many of the messages to receive comes from a sampled publisher; 0 for none.
        """

    async def run(self, count: int, floor: Floor | None) -> None:
        """Runs `count` operations; this is what is timed.

        Args:
            count: How many.
            floor: What the floor needs; None to run nats-py's method as it is, instrumented or not.
        """
        raise NotImplementedError

    async def clean(self) -> None:
        """Ends a round; not timed."""


class RoundTrips(Row):
    """A row whose operations wait for an answer.

    Many of them wait at the same time, as in a server: a thread that falls asleep and wakes up for each single answer
    spends more time on that than on the operation, and not the same time in every round.
    """

    operations = 200

    _CONCURRENT = 25

    async def run(self, count: int, floor: Floor | None) -> None:
        concurrent = min(self._CONCURRENT, count)
        shares = [count // concurrent + (number < count % concurrent) for number in range(concurrent)]
        run = self.run_bare if floor is None else partial(self.run_floor, floor=floor)
        await asyncio.gather(*map(run, shares))

    async def run_bare(self, count: int) -> None:
        """Runs `count` operations one after the other, instrumented or not."""
        raise NotImplementedError

    async def run_floor(self, count: int, floor: Floor) -> None:
        """Runs `count` operations of the floor one after the other, with what `prepare` has made for all of them."""
        raise NotImplementedError


def span_attributes(
    nc: Client, name: str, operation_type: str, destination: str, *, peer: bool = True
) -> dict[str, Any]:
    """What the spans of an operation have in common.

    Args:
        nc: The client, connected.
        name: The operation's name.
        operation_type: Its type.
        destination: The subject or bucket.
        peer: Whether it contacts the server.
    """
    return {
        **connection_attributes(nc, peer=peer),
        "messaging.operation.name": name,
        "messaging.operation.type": operation_type,
        "messaging.destination.name": destination,
    }


def metric_attributes(attributes: dict[str, Any], *, operation_type: bool = True) -> dict[str, Any]:
    """The attributes of an operation's histogram, out of those of its span.

    Args:
        attributes: The span's.
        operation_type: Whether the operation's type is among them; of what is processed it is not.
    """
    names = [
        "messaging.system",
        "server.address",
        "server.port",
        "messaging.operation.name",
        "messaging.destination.name",
        "messaging.consumer.group.name",
        "messaging.destination.subscription.name",
    ]
    if operation_type:
        names.append("messaging.operation.type")
    return {name: attributes[name] for name in names if name in attributes}
