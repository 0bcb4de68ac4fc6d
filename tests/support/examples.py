# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The examples of the documentation, run as their readers run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape

from support.docs import DOCS

EXAMPLES = DOCS / "examples"
TIMEOUT = 60.0

QUICK = (
    "batches",
    "configuration",
    "files",
    "formats",
    "outbox",
    "queue_group",
    "request_reply",
    "service",
    "work_queue",
)
"""Those that need no more packages than the demo."""

OTHERS = ("cluster", "fastapi_app", "faststream_app", "taskiq_app", "tls")
"""Those that need more packages, or more time."""


def run_example(name: str) -> str:
    """Runs an example.

    Returns:
        Its traces as text, without times.

    Raises:
        AssertionError: It failed, or had something to say on its standard error.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--no-times"],
        env=kept | {"PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )
    assert (finished.stderr, finished.returncode) == ("", 0)
    return finished.stdout


def pictured(name: str) -> str:
    """The traces in the picture of an example, or of the demo, as text."""
    svg = (DOCS / "_static" / "traces" / f"{name.replace('_', '-')}.svg").read_text(encoding="utf-8")
    [description] = re.findall(r"<desc>(.*?)</desc>", svg, re.S)
    return unescape(description)
