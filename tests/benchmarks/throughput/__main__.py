# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`python tests/benchmarks/throughput`: a service and a worker at full speed, bare, with this package, and with others.

Ten handlers answer 32 callers at a time, then a worker empties a stream by `fetch(100)`. The server, the callers and a
receiver of OTLP are processes of their own, on the same cores, in every way alike. Peers are installed from PyPI into
environments of their own; one that can't be is in the table with the reason.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path.insert(1, str(HERE.parents[1]))  # for `support`, which the tests share

from support.server import NatsServer  # noqa: E402

_EXPORTER = "opentelemetry-exporter-otlp-proto-http"
# Not its extra: that also wants instrumentations of three other libraries, whose releases pip can't reconcile.
_NEEDED_BY_NUCLIADB = (
    "nats-py[nkeys]",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-propagator-b3",
    "opentelemetry-sdk",
    "opentelemetry-semantic-conventions>=0.50b0",
)
_PLACE = re.compile(
    r"(?<=<!-- throughput: written by tests/benchmarks/throughput -->\n).*?(?=<!-- /throughput -->)", re.S
)


@dataclass
class Way:
    """One way to run the service.

    Attributes:
        title: What the table calls it.
        name: Its name in `service.py`.
        share: Which share of the callers' traces is sampled.
        base: The title of what it is compared with; an empty string for what others are compared with.
        packages: What its environment needs; nothing for this one.
        results: What each round gave.
        error: Why it did not run.
    """

    title: str
    name: str
    share: float
    base: str = "nats-py"
    packages: tuple[str, ...] = ()
    results: list[dict[str, float]] = field(default_factory=list)
    error: str = ""


def ways() -> list[Way]:
    faststream = ("faststream[nats,otel]==0.7.8", _EXPORTER)
    return [
        Way("nats-py", "bare", 1, ""),
        Way("this package, 1 % sampled, metrics", "ours", 0.01),
        Way("this package, all recorded, metrics", "ours", 1),
        Way(
            "otel-instrumentation-nats 0.1.5, all recorded",
            "otel-instrumentation-nats",
            1,
            packages=("otel-instrumentation-nats[instruments]==0.1.5", _EXPORTER),
        ),
        Way(
            "nucliadb-telemetry 7.2.0, all recorded, metrics",
            "nucliadb-telemetry",
            1,
            packages=("nucliadb-telemetry==7.2.0.post7403", *_NEEDED_BY_NUCLIADB, _EXPORTER),
        ),
        Way("FastStream 0.7.8", "faststream", 1, "", faststream),
        Way(
            "FastStream, this package, all recorded, metrics",
            "faststream-ours",
            1,
            "FastStream 0.7.8",
            (*faststream, str(ROOT)),
        ),
        Way(
            "FastStream, its middleware, all recorded, metrics",
            "faststream-middleware",
            1,
            "FastStream 0.7.8",
            faststream,
        ),
    ]


def install(way: Way, folder: Path) -> str:
    """Returns the Python that a way runs with; notes why there is none."""
    if not way.packages:
        return sys.executable
    place = folder / way.name
    python = str(place / "bin" / "python")
    if not place.exists():
        venv.create(place, with_pip=True)
        command = [python, "-m", "pip", "install", "-q", "nats-py>=2.12,<3", *way.packages]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            way.error = (finished.stderr.strip().splitlines() or ["not installed"])[-1]
    return python


@contextmanager
def receiver() -> Iterator[str]:
    """A receiver of OTLP that takes everything and reads nothing."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "receiver.py")], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


def run_load(*arguments: object) -> str:
    command = [sys.executable, str(HERE / "load.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout


def run(way: Way, python: str, endpoint: str, seconds: int, count: int) -> dict[str, float]:
    """Runs a way once.

    Raises:
        RuntimeError: It did not run; its own words.
    """
    server = NatsServer()
    server.start()
    command = [python, str(HERE / "service.py"), way.name, server.url, endpoint, str(way.share), str(count)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as service:
        assert service.stdin is not None and service.stdout is not None and service.stderr is not None
        try:
            if service.stdout.readline() != "ready\n":
                raise RuntimeError((service.stderr.read().strip().splitlines() or ["it ended at once"])[-1])
            called: dict[str, float] = json.loads(run_load("call", server.url, seconds, way.share))
            run_load("fill", server.url, count, way.share)
            service.stdin.write("work\n")
            service.stdin.flush()
            answered: dict[str, Any] = json.loads(service.stdout.readline() or "null") or {}
            if not answered:
                raise RuntimeError((service.stderr.read().strip().splitlines() or ["it ended at work"])[-1])
            return {**called, "messages": count / answered["work"]}
        except subprocess.CalledProcessError as error:
            raise RuntimeError((error.stderr.strip().splitlines() or ["no answer"])[-1]) from None
        finally:
            service.kill()
            server.close()


def table(found: list[Way]) -> str:
    """Writes the results as Markdown."""
    lines = [
        "| | requests/s | p50 ms | p99 ms | worker, messages/s |",
        "|---|---|---|---|---|",
    ]
    bases = {way.title: way for way in found}
    for way in found:
        if way.error or not way.results:
            lines.append(f"| {way.title} | did not run: {way.error} | | | |")
            continue

        def share(what: str, way: Way = way) -> str:
            value = median(result[what] for result in way.results)
            base = bases.get(way.base)
            if base is None or not base.results:
                return f"{value:,.0f}"
            return f"{value:,.0f} ({value / median(result[what] for result in base.results):.2f})"

        p50, p99 = (f"{median(result[what] for result in way.results) * 1000:.1f}" for what in ("p50", "p99"))
        lines.append(f"| {way.title} | {share('requests')} | {p50} | {p99} | {share('messages')} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python tests/benchmarks/throughput", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is run, in turns")
    parser.add_argument("--seconds", type=int, default=4, help="for how long callers call")
    parser.add_argument("--messages", type=int, default=20_000, help="how many the worker takes")
    parser.add_argument("--environments", type=Path, help="folder for the peers' environments, to be kept")
    parser.add_argument("--only-ours", action="store_true", help="without what has to be installed")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write the table into this page")
    options = parser.parse_args(arguments)
    chosen = [way for way in ways() if not (options.only_ours and way.packages)]
    with tempfile.TemporaryDirectory() as temporary, receiver() as endpoint:
        folder: Path = options.environments or Path(temporary)
        pythons = [install(way, folder) for way in chosen]
        for _ in range(options.rounds):
            for way, python in zip(chosen, pythons, strict=True):
                if way.error:
                    continue
                try:
                    way.results.append(run(way, python, endpoint, options.seconds, options.messages))
                except RuntimeError as error:
                    way.error = str(error)
                print(".", end="", file=sys.stderr, flush=True)
    text = table(chosen)
    print(f"\n{text}", end="")
    if options.report:
        page = options.report.read_text(encoding="utf-8")
        options.report.write_text(_PLACE.sub(lambda _: f"\n{text}\n", page), encoding="utf-8")
    return 1 if any(way.error and not way.packages for way in chosen) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
