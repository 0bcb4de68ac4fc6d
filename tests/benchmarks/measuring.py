# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Rounds: each variant's turn at a row, again and again, so that what disturbs the machine disturbs them all.

Others use the machine as well, and for seconds at a time it may be half as fast. So rounds are short and many: in most
cycles all variants meet the same machine.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns, thread_time_ns
from typing import NamedTuple

from nats.aio.client import Client
from row import Row
from sender import Sender
from variants import Providers, Variant

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from support.server import NatsServer


class Sample(NamedTuple):
    """One round.

    Attributes:
        cpu: Time of the thread that runs the event loop, in nanoseconds per message.
        wall: Time that passed, in nanoseconds per message.
    """

    cpu: float
    wall: float


Cycle = dict[Variant, Sample]
"""One round of every variant."""

Measurement = Sequence[Sequence[Cycle]]
"""The cycles of every repeat."""


class Bench:
    """The server, and the connections to it that all rows share.

    Args:
        server: The server.
    """

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.nc = Client()
        self.sender = Sender(server.url)
        self._responder: asyncio.subprocess.Process | None = None

    async def open(self) -> None:
        await self.nc.connect(self.server.url)

    async def responder(self) -> str:
        """Starts the process that answers requests.

        Returns:
            The subject that it answers on.
        """
        subject = "benchmark.inventory.check"
        if self._responder is None:
            program = str(Path(__file__).with_name("responder.py"))
            self._responder = await asyncio.create_subprocess_exec(
                sys.executable, program, self.server.url, subject, stdout=asyncio.subprocess.PIPE
            )
            assert self._responder.stdout is not None
            await self._responder.stdout.readline()
        return subject

    async def close(self) -> None:
        if self._responder is not None:
            self._responder.terminate()
            await self._responder.wait()
        self.sender.close()
        await self.nc.close()


async def run_round(row: Row, variant: Variant, providers: Providers) -> Sample:
    """Times a row once in one variant."""
    operations = row.operations
    with providers.entered(variant) as floor:
        await row.prepare(row.warm_up + operations, floor, variant.sampled)
        token = attach(ambient_context(row, variant))
        try:
            # What `instrument()` made anew is filled, and Python has seen often enough what the code works with.
            await row.run(row.warm_up, floor)
            providers.flush()
            gc.disable()
            wall, cpu = perf_counter_ns(), thread_time_ns()
            await row.run(operations, floor)
            cpu, wall = thread_time_ns() - cpu, perf_counter_ns() - wall
        finally:
            gc.enable()
            detach(token)
        await row.clean()
    providers.flush()
    messages = operations * row.messages
    return Sample(cpu / messages, wall / messages)


async def run_cycle(row: Row, providers: Providers) -> Cycle:
    """Times a row once in every variant, in an order that changes from cycle to cycle."""
    cycle: Cycle = {}
    for variant in random.sample(row.variants, len(row.variants)):
        cycle[variant] = await run_round(row, variant, providers)
    gc.collect()
    return cycle


def ambient_context(row: Row, variant: Variant) -> Context:
    """What is current around the operations: nothing, or a caller's span, not sampled or none of NATS."""
    if not row.sends or (variant.sampled and not variant.propagation_only):
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if variant.sampled else TraceFlags.DEFAULT)
    parent = SpanContext(0xA1B2C3D4E5F60718293A4B5C6D7E8F90, 0x1A2B3C4D5E6F7081, True, flags)
    return set_span_in_context(NonRecordingSpan(parent), Context())
