# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Whether it is the garbage collector that runs, in this thread.

It comes in the middle of anything, also of a span processor that holds a lock. What it finalizes may not end a span.
"""

from __future__ import annotations

import gc
from threading import get_ident

_thread = 0
"""The thread that it runs in; 0 while it does not."""


def collecting() -> bool:
    """Tells whether it is the garbage collector that has called, by what it finalizes."""
    return _thread == get_ident()


def _note(phase: str, _: object) -> None:
    global _thread
    _thread = get_ident() if phase == "start" else 0


def watch_collector(watch: bool) -> None:
    """Begins, or stops, to note when the garbage collector runs.

    Args:
        watch: Which of the two.
    """
    if _note in gc.callbacks:
        gc.callbacks.remove(_note)
    if watch:
        gc.callbacks.append(_note)
