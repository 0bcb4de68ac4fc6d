# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The event loops that programs run in."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import pytest

LOOPS: list[Any] = [
    "asyncio",
    pytest.param("eager", marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")),
    pytest.param("uvloop", marks=pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed")),
]
"""asyncio's own, one whose tasks begin at once, and uvloop."""
