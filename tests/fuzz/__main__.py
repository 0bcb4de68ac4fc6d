# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Tries the properties of `tests/test_properties.py` on what a fuzzer makes up, guided by the lines that it reaches.

Usage: python tests/fuzz [name of a test, default all in turns] [options of libFuzzer, `-max_total_time=3600` ...]
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["opentelemetry.instrumentation.nats"]):
    import test_properties


def main() -> None:
    """Chooses what to try, and tries it until something fails or the time is up."""
    logging.disable(logging.CRITICAL)
    tests = {name: test for name, test in vars(test_properties).items() if name.startswith("test_")}
    chosen = [argument for argument in sys.argv[1:] if argument in tests] or list(tests)
    targets = [tests[name].hypothesis.fuzz_one_input for name in chosen]

    def one_input(data: bytes) -> None:
        if data:
            targets[data[0] % len(targets)](data[1:])

    atheris.Setup([argument for argument in sys.argv if argument not in tests], one_input)
    atheris.Fuzz()


main()
