# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the package patches, in the nats-py that is installed."""

from __future__ import annotations

import importlib
from typing import Any

import nats.aio.client

from opentelemetry.instrumentation.nats._patches._replacing import Rows

MODULES = (
    "client",
    "message",
    "subscription",
    "jetstream",
    "jetstream_subscriptions",
    "management",
    "key_value",
    "object_store",
    "service",
)


def rows() -> Rows:
    """The tables of all modules; of those only that this nats-py has something for."""
    found: Rows = []
    for module in MODULES:
        try:
            patches = importlib.import_module(f"opentelemetry.instrumentation.nats._patches.{module}")
        except ModuleNotFoundError as error:
            # No object store before nats-py 2.2.1, no micro services before 2.9.
            if not (error.name or "").startswith("nats."):
                raise
            continue
        found += patches.ROWS
    return found


PATCHED: list[tuple[Any, str]] = [
    (owner, name) for owner, name, *_ in rows() if owner is not None and name in owner.__dict__
]
"""Every method that is replaced: the class that defines it, its name."""

VERSION = tuple(int(part) for part in nats.aio.client.__version__.split(".")[:2])
"""Version of nats-py, `(2, 16)`."""
