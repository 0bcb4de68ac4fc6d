# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A program over nearly all calls of nats-py, run on copies of nats-py in which one name is another.

Run as `python -m support.renaming SERVER_URL FOLDER NAME...`; prints what happened as JSON, one object for each name.
Each copy runs in a process of its own, forked after the imports that take long.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import logging
import os
import re
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import opentelemetry.instrumentation.nats  # noqa: F401 (takes long; imports no nats)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


def copy_of_nats(folder: Path, name: str) -> Path:
    """Copies the installed nats-py, every occurrence of the name followed by `_renamed`."""
    spec = importlib.util.find_spec("nats")
    assert spec is not None and spec.origin is not None
    target = folder / (name or "nothing")
    shutil.copytree(Path(spec.origin).parent, target / "nats", ignore=shutil.ignore_patterns("__pycache__"))
    if name:
        for file in (target / "nats").rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            file.write_text(re.sub(rf"\b{name}\b", f"{name}_renamed", text), encoding="utf-8")
    return target


OWN_RUN = ("", "_updates")
"""The names with a bare run of their own; `_updates` is one that the exercises themselves look at."""


async def run_exercises(url: str) -> list[str]:
    """Runs all exercises, each with its own name; returns what each got, or what it raised."""
    nats = importlib.import_module("nats")
    exercises = importlib.import_module("support.exercises")
    got: list[str] = []
    errors: list[str] = []

    async def note(error: Exception) -> None:
        errors.append(repr(error))

    for exercise in exercises.EXERCISES:
        nc = await nats.connect(url, error_cb=note)
        name = exercise.__name__.replace("_", "-")
        try:
            got.append(f"{name}: {await asyncio.wait_for(exercise(nc, name), 10)!r}")
        except Exception as error:
            got.append(f"{name}: raised {error!r}")
        for stream in await nc.jetstream().streams_info():
            await nc.jetstream().delete_stream(stream.config.name)
        await nc.close()
    return got + errors


class Lines(logging.Handler):
    """Keeps what the package logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage() + (f" {record.exc_info[1]!r}" if record.exc_info else ""))


def run(url: str, bare: bool) -> dict[str, Any]:
    """Runs the program instrumented, and before that bare if asked to: no name changes what nats-py itself does."""
    outcome = {"bare": asyncio.run(run_exercises(url))} if bare else {}
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    log = Lines()
    logging.getLogger("opentelemetry.instrumentation.nats").addHandler(log)
    instrumentor = importlib.import_module("opentelemetry.instrumentation.nats").NatsInstrumentor()
    instrumentor.instrument(tracer_provider=provider, meter_provider=meters)
    instrumented = asyncio.run(run_exercises(url))
    meters.force_flush()
    instrumentor.uninstrument()
    spans = [span.name for span in exporter.get_finished_spans()]
    return {**outcome, "instrumented": instrumented, "log": log.lines, "spans": spans}


def run_in_child(folder: Path, url: str, name: str) -> dict[str, Any]:
    """Runs the program on a copy of nats-py, in a process of its own."""
    target = copy_of_nats(folder, name)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sys.path.insert(0, str(target))
            result: dict[str, Any] = run(url, bare=name in OWN_RUN)
            nats = importlib.import_module("nats")
            assert str(target) in str(nats.__file__), nats.__file__
        except BaseException:
            result = {"raised": traceback.format_exc()}
        with os.fdopen(writer, "w") as out:
            json.dump(result, out)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as source:
        result = json.load(source)
    os.waitpid(child, 0)
    shutil.rmtree(target)
    return {"name": name, **result}


if __name__ == "__main__":
    url, folder, *names = sys.argv[1:]
    for each in names:
        print(json.dumps(run_in_child(Path(folder), url, each)), flush=True)
