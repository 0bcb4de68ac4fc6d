# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Traces and measures programs that use `nats-py <https://github.com/nats-io/nats.py>`_, without a changed line.

Usage
-----

Either run the program under ``opentelemetry-instrument``, which finds this package by itself, or call:

.. code:: python

    import asyncio

    import nats
    from opentelemetry.instrumentation.nats import NatsInstrumentor

    NatsInstrumentor().instrument()


    async def main():
        async with await nats.connect("nats://localhost:4222") as nc:
            await nc.publish("orders.8812.created", b"...")


    asyncio.run(main())

What is traced: connect, publish, request and reply, subscription callbacks, ``async for`` over messages, ``next_msg``;
JetStream publish, subscribe, fetch, acknowledgements and management; key-value and object stores and their watchers;
the handlers of micro services. What nats-py does inside of such a call makes no spans, and neither do flush, drain,
close, subscribe and unsubscribe of core NATS, background reconnects, and the discovery verbs of micro services.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.instrumentation.nats import _floor

__all__ = [
    "ConsumeHook",
    "InstrumentOptions",
    "NATSInstrumentor",
    "NatsConfiguration",
    "NatsInstrumentor",
    "OutgoingMessage",
    "PublishHook",
    "ResponseHook",
    "ShouldTrace",
    "message_context",
    "process_message",
]

if TYPE_CHECKING or not _floor.too_old():
    from opentelemetry.instrumentation.nats._instrumentor import (
        NATSInstrumentor,
        NatsInstrumentor,
        message_context,
        process_message,
    )
    from opentelemetry.instrumentation.nats._options import (
        ConsumeHook,
        InstrumentOptions,
        NatsConfiguration,
        OutgoingMessage,
        PublishHook,
        ResponseHook,
        ShouldTrace,
    )
else:
    __getattr__ = _floor.stand_in
