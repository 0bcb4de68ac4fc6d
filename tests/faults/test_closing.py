# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A client that ends in the midst of anything: what the program is told is the same, and no span stays open."""

from __future__ import annotations

import pytest

from faults.harness import check_same, run_on_server
from faults.loops import LOOPS


@pytest.mark.parametrize("loop", LOOPS)
async def test_closing_in_the_midst_of_anything(loop: str):
    await check_same(f"closing, {loop}", lambda mode: run_on_server("closing", mode, {"loop": loop}))
