# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""One recipe for each method that the instrumentation replaces: what must be there before, and the call itself.

The names are those of the tables of rows (`_patches/*`, `ROWS`); `test_every_row_has_a_recipe` compares. A recipe that
this release of nats-py has no method for is left out by who cooks.
"""

from __future__ import annotations

from faults.recipes import _core, _jetstream, _management, _services, _stores
from faults.recipes._kitchen import RECIPES, Kitchen, Operation, Recipe

MODULES = (_core, _jetstream, _management, _services, _stores)
"""Where they are."""

__all__ = ["MODULES", "RECIPES", "Kitchen", "Operation", "Recipe"]
