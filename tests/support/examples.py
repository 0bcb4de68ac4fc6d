# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The examples of the documentation, run as their readers run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Run:
    """What an example left.

    Attributes:
        printed: Its traces as text, without times.
        spans: Name and attributes of each span.
    """

    printed: str
    spans: list[tuple[str, dict[str, Any]]]


@cache
def run_example(name: str) -> Run:
    """Runs an example, once however often it is asked for.

    Raises:
        AssertionError: It failed, or had something to say on its standard error.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    with tempfile.TemporaryDirectory() as folder:
        attributes = Path(folder, "attributes.json")
        finished = subprocess.run(
            [sys.executable, str(EXAMPLES / f"{name}.py"), "--no-times", "--attributes", str(attributes)],
            env=kept | {"PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT,
        )
        assert (finished.stderr, finished.returncode) == ("", 0)
        spans = [(span["name"], span["attributes"]) for span in json.loads(attributes.read_text(encoding="utf-8"))]
    return Run(finished.stdout, spans)


def pictured(name: str) -> str:
    """The traces in the picture of an example, or of the demo, as text."""
    svg = (DOCS / "_static" / "traces" / f"{name.replace('_', '-')}.svg").read_text(encoding="utf-8")
    [description] = re.findall(r"<desc>(.*?)</desc>", svg, re.S)
    return unescape(description)
