# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Faults of the instrumentation: what a user would find in the log must fail a test."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

FAULTS_MODULE = "opentelemetry.instrumentation.nats._faults"


class Faults:
    """The value of the package's `raise_faults` during the tests: true, and remembers what is raised because of it.

    True alone is not enough. nats-py hands what is raised in a callback to `error_cb`, micro swallows it, Python only
    prints what a finalizer raises: the test would pass.
    """

    def __init__(self) -> None:
        self.raised: list[BaseException | None] = []

    def __bool__(self) -> bool:
        self.raised.append(sys.exc_info()[1])
        return True

    @contextmanager
    def none(self) -> Iterator[None]:
        """Fails if the instrumentation had a fault within the block.

        Raises:
            AssertionError: It had; the first fault is the cause.
        """
        self.raised.clear()
        yield
        if self.raised:
            first = self.raised[0]
            raise AssertionError("a fault of the instrumentation, which a user would find in the log") from first


@contextmanager
def raise_faults() -> Iterator[Faults]:
    """Turns the package's switch on; a package that does not exist yet has none."""
    faults = Faults()
    with pytest.MonkeyPatch.context() as patch:
        try:
            patch.setattr(importlib.import_module(FAULTS_MODULE), "raise_faults", faults)
        except ModuleNotFoundError as error:
            if error.name is None or not FAULTS_MODULE.startswith(error.name):
                raise
        yield faults
