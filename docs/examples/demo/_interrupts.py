# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Ctrl-C and its like: one line and the exit code that shells expect, whatever the demo is doing at that moment.

Importing this module is enough until there is something to clean up. From then on `raised()` makes an exception of the
signal, and `held_back()` keeps it away from what must not be left half done.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class _Interrupted(BaseException):
    """A signal has come; not an `Exception`, so that nothing on the way takes it for a fault."""


_raise = False
_held = False
_number = 0


@contextmanager
def raised() -> Iterator[None]:
    """Lets a signal leave the block as an exception, so that what was started in it is stopped before the end."""
    global _raise
    _raise = True
    try:
        yield
    finally:
        _raise = False


@contextmanager
def held_back() -> Iterator[None]:
    """Lets the block end before a signal is raised: a process that is started is also remembered."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False
        if _number:
            raise _Interrupted


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _number
    if _number:  # the first one is being answered
        return
    if not _raise:
        _end(number)
    _number = number
    if not _held:
        raise _Interrupted


def _on_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if kind is _Interrupted:
        _end(_number)
    sys.__excepthook__(kind, error, traceback)


def _end(number: int) -> None:
    os.write(2, f"Interrupted by {signal.Signals(number).name}.\n".encode())
    os._exit(128 + number)


sys.excepthook = _on_exception
for _each in SIGNALS:
    if signal.getsignal(_each) is not signal.SIG_IGN:  # under nohup, or in the background of a shell script
        signal.signal(_each, _on_signal)
