# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The Prometheus example, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "docs" / "examples" / "prometheus"
TIMEOUT = 30.0


class Shop:
    """The example; a context manager that kills it if it still runs.

    Args:
        env: Variables for it. Without `NATS_URL` it brings its server.
    """

    def __init__(self, **env: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "NATS_"))}
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLE)],
            env={**kept, "OTEL_EXPORTER_PROMETHEUS_PORT": "0", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = ""
        """Where its metrics are, once it is entered."""

    def __enter__(self) -> Shop:
        self.url = self.process.stdout.readline().split()[-1]
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            # Not killed at once: it would leave its server behind.
            self.process.terminate()
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()

    def scrape(self) -> str:
        """What it shows now."""
        with urlopen(self.url, timeout=5) as response:
            return response.read().decode()

    def wait_for(self, condition: Callable[[str], Any]) -> str:
        """Scrapes until something is to be seen; returns that."""
        deadline = time.monotonic() + TIMEOUT
        while not condition(text := self.scrape()):
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        return text

    def end(self, signal_: signal.Signals) -> None:
        """Ends it by a signal, and checks that it ends well."""
        self.process.send_signal(signal_)
        _, errors = self.process.communicate(timeout=10)
        # asyncio's debug mode (PYTHONASYNCIODEBUG) tells of each step that took long, on a busy machine any.
        errors = [line for line in errors.splitlines() if not line.startswith("Executing <")]
        assert (self.process.returncode, errors) == (0, [])


def value(text: str, name: str, **having: str) -> float:
    """The sum of a metric's samples that have these labels.

    Args:
        text: What a program shows at /metrics.
        name: The name of the samples.
        having: Labels and their values.
    """
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and having.items() <= sample.labels.items()
    )
