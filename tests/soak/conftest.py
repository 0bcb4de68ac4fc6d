# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Fixtures of the long runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.soaking import Providers, in_production


@pytest.fixture
def providers() -> Iterator[Providers]:
    with in_production() as found:
        yield found
