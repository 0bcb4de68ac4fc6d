# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Sends that wait for an acknowledgement that never comes: their client was let go, or the program ends.

A client that is closed tells us. One whose event loop has ended without that is only let go, by the garbage collector,
and that comes in the middle of anything, also of a span processor that holds a lock: nothing may be ended there.
"""

from __future__ import annotations

import atexit
from _thread import start_new_thread
from typing import Any
from weakref import finalize

from opentelemetry.instrumentation.nats._sending import Send
from opentelemetry.instrumentation.nats._telemetry import Failure

CLOSED = Failure("nats.errors.ConnectionClosedError", True, "nats: connection closed")
"""What a send fails with whose acknowledgement can't come any more."""

Sends = dict[str, Send]
"""The sends through one client that wait, by the reply subject that their acknowledgement comes to."""

_all: dict[int, Sends] = {}


def watch(client: Any) -> Sends:
    """Returns where the sends of a client are to be put; they end when it is let go, and when the program ends."""
    sends: Sends = {}
    if not _all:
        atexit.unregister(_end_all)
        # After the SDK's own function, so it runs before that one: functions run in turn from the last one.
        atexit.register(_end_all)
    _all[id(sends)] = sends
    # It must not know the client by what it is given, or the client would never be let go.
    finalize(client, _let_go, sends).atexit = False
    return sends


def _let_go(sends: Sends) -> None:
    _all.pop(id(sends), None)
    if sends:
        try:
            start_new_thread(_end, (sends,))
        except RuntimeError:  # the interpreter ends
            _end(sends)


def _end_all() -> None:
    for sends in list(_all.values()):
        _end(sends)


def _end(sends: Sends) -> None:
    while sends:
        _, send = sends.popitem()
        send.finish(CLOSED)
