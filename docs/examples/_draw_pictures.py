# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Draws the pictures of the documentation anew: every example and the demo, run with `--svg`.

Run it from the root of the repository with the packages of the extras `demo` and `examples`::

    python docs/examples/_draw_pictures.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PICTURES = HERE.parent / "_static" / "traces"


def main() -> None:
    """Runs them one after the other.

    Raises:
        CalledProcessError: one failed.
    """
    PICTURES.mkdir(parents=True, exist_ok=True)
    for example in [HERE / "demo", *sorted(HERE.glob("[a-z]*.py"))]:
        picture = PICTURES / f"{example.stem.replace('_', '-')}.svg"
        subprocess.run([sys.executable, str(example), "--svg", str(picture)], check=True, stdout=subprocess.DEVNULL)
        print(picture)
    picture = PICTURES / "server-trace.svg"
    command = [sys.executable, str(HERE / "demo"), "--server-trace", "--svg", str(picture)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(picture)


if __name__ == "__main__":
    main()
