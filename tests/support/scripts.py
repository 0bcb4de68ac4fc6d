# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The programs in docs/upstream, to be tested like the rest."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "upstream"


def load_script(name: str) -> Any:
    """Imports a script as a module, and what it imports from beside it."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
