# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`python tests/benchmarks/cardinality.py`: what ids in subjects cost, scheme by scheme. See docs/cardinality.

Each scheme runs in a process of its own: it publishes to 100,000 subjects with an id in them, and then counts the names
of the spans, and scrapes the metrics as Prometheus does. `--before FOLDER` does the same with the package's source in
that folder, `src` of an older checkout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import thread_time

sys.path.insert(1, str(Path(__file__).parents[1]))  # for `support`, which the tests share

from support.schemes import MOSTLY_KNOWN, SCHEMES, UNKNOWN
from support.server import NatsServer

ALL = {**SCHEMES, **MOSTLY_KNOWN, **UNKNOWN}
SUBJECTS = 100_000
CHUNK = 1_000

BEGIN, END = "<!-- results: written by tests/benchmarks/cardinality.py -->\n", "<!-- end of results -->\n"


async def measure(name: str, subjects: int, url: str) -> dict[str, float]:
    """Publishes to subjects of a scheme."""
    # Imported here, so that the other process finds the other source.
    import nats  # noqa: PLC0415
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    from opentelemetry.exporter.prometheus import PrometheusMetricReader  # noqa: PLC0415
    from opentelemetry.instrumentation.nats import NatsInstrumentor  # noqa: PLC0415
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider  # noqa: PLC0415

    names: set[str] = set()

    class Names(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            names.add(span.name)

    reader = PrometheusMetricReader()
    registry = CollectorRegistry()
    registry.register(reader._collector)
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(Names())
    NatsInstrumentor().instrument(tracer_provider=tracer_provider, meter_provider=MeterProvider([reader]))
    nc = await nats.connect(url)
    scheme, times = ALL[name], list[float]()
    for _ in range(subjects // CHUNK):
        chunk = [f"shop.orders.{scheme()}.created" for _ in range(CHUNK)]
        started = thread_time()
        for subject in chunk:
            await nc.publish(subject, b"x")
        times.append((thread_time() - started) / CHUNK * 1e6)
        await nc.flush()
    scrape = generate_latest(registry)
    await nc.close()
    return {
        "names": len({name for name in names if name.startswith("publish")}),
        "series": sum(not line.startswith(b"#") for line in scrape.splitlines()),
        "bytes": len(scrape),
        "time": median(times),
    }


def run(name: str, subjects: int, url: str, source: Path | None) -> dict[str, float]:
    """Measures in another process."""
    environment = {**os.environ, **({} if source is None else {"PYTHONPATH": str(source.resolve())})}
    arguments = [sys.executable, __file__, "--measure", name, "--subjects", str(subjects), "--url", url]
    finished = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout)


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """The results as a table."""
    columns = ("names", "series", "KiB a scrape", "us a message")
    versions = ("before", "now") if all(len(each) > 1 for each in results.values()) else ("now",)
    head = ["scheme", *(f"{column}, {version}" for column in columns for version in versions)]
    rows = [head, ["---", *["--:"] * (len(head) - 1)]]
    for name, each in results.items():
        cells = [
            *(f"{result['names']:,}" for result in each),
            *(f"{result['series']:,}" for result in each),
            *(f"{result['bytes'] / 1024:,.0f}" for result in each),
            *(f"{result['time']:.1f}" for result in each),
        ]
        rows.append([f"{name} (`{ALL[name]()}`)", *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=SUBJECTS, help="subjects of each scheme")
    parser.add_argument("--schemes", metavar="NAME,...", help=f"only these, of: {', '.join(ALL)}")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="compare with the package's source there")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write the table into this page")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(asyncio.run(measure(options.measure, options.subjects, options.url))))
        return
    server = NatsServer()
    server.start()
    try:
        results: dict[str, list[dict[str, float]]] = {}
        for name in options.schemes.split(",") if options.schemes else ALL:
            sources = [options.before, None] if options.before else [None]
            results[name] = [run(name, options.subjects, server.url, source) for source in sources]
            print(name, *results[name], flush=True)
    finally:
        server.close()
    text = table(results)
    print(text)
    if options.report:
        page = options.report.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        options.report.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
