# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""How fast the machine is at the moment: others may use it as well."""

from __future__ import annotations

from time import thread_time


def yardstick() -> float:
    """Does a piece of work that never changes; returns the time of this thread that it took, in seconds."""
    started = thread_time()
    attributes = {f"attribute.{number}": number for number in range(12)}
    for number in range(1000):
        copied = attributes.copy()
        copied[f"other.{number}"] = number
    return thread_time() - started
