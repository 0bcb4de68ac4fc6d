# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Which messages the program has in hand, and what we know of each: found by the message, and gone with it.

A `Delivery` is a weak reference to its message. So nothing of ours keeps a message, nothing of ours is on it when it is
copied or pickled, and we are told when the program lets go of it.
"""

from __future__ import annotations

import contextvars
from collections import deque
from time import perf_counter_ns
from typing import Any

from opentelemetry.instrumentation.nats._collecting import collecting
from opentelemetry.instrumentation.nats._processing import Delivery
from opentelemetry.instrumentation.nats._providers import running_loop

_deliveries: dict[int, Delivery] = {}
"""What is known of each message that is alive, by the message's number."""

_let_go: deque[tuple[Delivery, int]] = deque()
"""Those whose message was let go of while the process span was open, and when, on the clock of `perf_counter_ns`."""


class _Nobody:
    """Stands for a message that can't be referred to."""


_nobody = _Nobody()


known = _deliveries.get
"""Finds what is known under a message's number, which `delivery_of` compares with the message."""


def all_deliveries() -> list[Delivery]:
    """Returns those of all messages that are alive."""
    return list(_deliveries.values())


def make_delivery(message: Any) -> Delivery:
    """Makes that of a message which has none yet."""
    try:
        delivery = Delivery(message, _released)
    except TypeError:
        # A message class of the user's that can't be referred to: acknowledging it falls back to its headers.
        return Delivery(_nobody)
    delivery.key = key = id(message)
    _deliveries[key] = delivery
    return delivery


def delivery_of(message: Any) -> Delivery | None:
    """Returns what we know of a message that was handed to the application."""
    delivery = _deliveries.get(id(message))
    # Another object may have got the number of one whose end we were not told of.
    return delivery if delivery is not None and delivery() is message else None


def _released(delivery: Any) -> None:
    """Runs when a message is let go of."""
    _deliveries.pop(delivery.key, None)
    if delivery.span is None:
        return
    if not collecting():
        delivery.release()
        return
    # The garbage collector comes in the middle of anything: a span processor of this very thread may hold a lock.
    _let_go.append((delivery, perf_counter_ns()))
    loop, own = running_loop(), delivery.loop
    try:
        if loop is not None:
            loop.call_soon(end_let_go, context=contextvars.Context())
        elif own is not None:
            own.call_soon_threadsafe(end_let_go, context=contextvars.Context())
    except RuntimeError:
        pass  # the loop is closed; the client's end, or ours, ends it


def end_let_go() -> None:
    """Ends the processing of the messages that were let go of."""
    while _let_go:
        try:
            delivery, at = _let_go.popleft()
        except IndexError:
            return  # another thread was faster
        delivery.release(at)
