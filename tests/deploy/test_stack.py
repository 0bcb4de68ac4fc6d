# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The services of docs/deploy, run as the compose file runs them but without containers.

What it builds, with its commands and variables, on a real nats-server with its configuration, through a real collector.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.deployment import DEPLOY, ROOT, dockerfile, load, services
from support.otlp import OtlpReceiver, ReceivedSpan
from support.rotel import Rotel
from support.server import find_server

TIMEOUT = 60.0
SERVICES = DEPLOY / "services"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def eventually(condition, what: str) -> None:  # noqa: ANN001
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage `instrumented` of the Dockerfile makes: an environment with what its pip commands install."""
    folder = tmp_path_factory.mktemp("image")
    context, environment = folder / "context", folder / "venv"
    venv.create(environment, with_pip=True)
    stages = dockerfile(SERVICES / "Dockerfile")

    def run(stage: str) -> None:
        for line in stages[stage]:
            if copied := re.fullmatch(r"COPY (?!--from)(.*) (\S+)", line):
                for pattern in copied[1].split():
                    for source in ROOT.glob(pattern):
                        target = place(copied[2], stage) / (source.name if source.is_file() else "")
                        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
            elif command := re.fullmatch(r"RUN pip (.*)", line):
                text = command[1].replace("/wheels", str(folder / "wheels")).replace("--no-cache-dir ", "")
                subprocess.run(
                    f"{environment}/bin/pip --quiet --disable-pip-version-check {text}",
                    shell=True,
                    check=True,
                    cwd=context,
                    capture_output=True,
                    timeout=300,
                )

    def place(where: str, stage: str) -> Path:
        target = context if where == "./" else folder / "wheels" if where == "/wheels/" else context / where
        target = folder / "app" if stage == "instrumented" and where == "./" else target
        (target if where.endswith("/") else target.parent).mkdir(parents=True, exist_ok=True)
        return target

    context.mkdir()
    run("wheel")
    run("instrumented")
    return folder


@dataclass
class Stack:
    """The running deployment."""

    image: Path
    receiver: OtlpReceiver
    addresses: Mapping[str, str]
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def start(self, name: str, **variables: str) -> subprocess.Popen[str]:
        """Starts a service as the compose file has it, but for these variables."""
        service = services()[name]
        entrypoint = service.get("entrypoint") or re.findall(
            r'"([^"]+)"', dockerfile(SERVICES / "Dockerfile")["instrumented"][-1]
        )
        command = [*entrypoint, *service["command"]]
        command[0] = str(self.image / "venv" / "bin" / command[0])
        env = {key: self.local(value) for key, value in service["environment"].items()} | variables
        path = f"{self.image / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        process = subprocess.Popen(
            list(map(self.local, command)),
            cwd=self.image / "app",
            env={"PATH": path, "PYTHONUNBUFFERED": "1", "OTEL_BSP_SCHEDULE_DELAY": "200", **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes[name] = process
        return process

    def local(self, text: str) -> str:
        """The same with the addresses of this machine."""
        for name, here in self.addresses.items():
            text = text.replace(name, here)
        return text

    def end(self, name: str) -> tuple[str, str]:
        """Ends a service as compose does; returns what it wrote."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        return out, errors


@contextmanager
def running_server(port: int, folder: Path) -> Iterator[None]:
    """A nats-server with the configuration of the deployment."""
    variables = services()["nats"]["environment"]
    text = (DEPLOY / "nats" / "nats-server.conf").read_text(encoding="utf-8").replace('"/data"', f'"{folder}"')
    file = folder / "nats-server.conf"
    file.write_text(text, encoding="utf-8")
    command = [find_server(), "--config", str(file), "--addr", "127.0.0.1", "--port", str(port), "--http_port", "-1"]
    process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        with process.stderr:
            for line in process.stderr:
                if "Server is ready" in line:
                    break
            else:
                pytest.fail("nats-server did not start")
            yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def stack(image: Path, tmp_path: Path, otlp: OtlpReceiver) -> Iterator[Stack]:
    with ExitStack() as running:
        port = free_port()
        running.enter_context(running_server(port, tmp_path))
        collector = running.enter_context(Rotel(otlp.endpoint))
        addresses = {"@nats:4222": f"@127.0.0.1:{port}", "//nats:4222": f"//127.0.0.1:{port}"}
        made = Stack(image, otlp, {**addresses, "http://otel-collector:4318": collector.http})
        try:
            yield made
        finally:
            for process in made.processes.values():
                process.kill()
                process.communicate()


def by_trace(spans: list[ReceivedSpan]) -> dict[str, set[tuple[str, str]]]:
    traces: dict[str, set[tuple[str, str]]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, set()).add((span.service, span.name))
    return traces


# What happens to an order, from the customer to the billing.
ORDER = {
    ("load", "request shop.checkout"),
    ("shop", "process shop.checkout"),
    ("shop", "publish orders.*.created"),
    ("shop", "reply"),
    ("billing", "process orders.*.created"),
    ("billing", "kv.get prices"),
}


def test_an_order_is_one_trace_through_the_whole_stack(stack: Stack):
    for name in ("billing", "shop", "load"):
        stack.start(name)

    def all_happened() -> bool:
        traces = by_trace(stack.receiver.spans).values()
        return all(any(spans >= ORDER | {("billing", f"{end} orders.*.created")} for spans in traces) for end in ENDS)

    eventually(all_happened, "a trace for each way in which an order ends")
    out = {name: stack.end(name) for name in ("load", "shop", "billing")}
    assert all(written[0] == "ready\n" for written in out.values()), out

    # Each trace begins at the customers, and all of it has the resource that the compose file gives it.
    roots = {
        span.service for span in stack.receiver.spans if span.name.startswith("request") and not span.parent_span_id
    }
    assert roots == {"load"}
    for span in stack.receiver.spans:
        assert span.resource["service.namespace"] == "shop"
        assert span.resource["deployment.environment.name"] == "compose"
        # The URL's password stays at home.
        assert "shop:shop" not in str(span)
    # The log has the trace ids, and stays readable.
    ids = set(re.findall(r"trace_id=(\w{32})", out["billing"][1]))
    assert ids and ids <= {span.trace_id for span in stack.receiver.spans}
    # Each policy of tail sampling that asks for an attribute finds spans that have it.
    for policy in load(DEPLOY / "collector" / "collector.yaml")["processors"]["tail_sampling"]["policies"]:
        settings = policy[policy["type"]]
        if "key" in settings:
            found = {span.attributes.get(settings["key"]) for span in stack.receiver.spans} - {None}
            wanted = set(settings.get("values", [])) or {value for value in found if value >= settings["min_value"]}
            assert wanted and wanted <= found, policy["name"]
    # The metrics came by the same way, and say at last that the connections are closed.
    last = {metric.resource["service.name"]: metric for metric in stack.receiver.metrics if metric.name == CONNECTIONS}
    assert {name: sum(value for _, value in metric.points) for name, metric in last.items()} == dict.fromkeys(out, 0)


CONNECTIONS = "nats.client.connections"
ENDS = ("ack", "nak", "term")


def test_the_servers_hops_are_in_the_trace(stack: Stack):
    stack.start("server-trace")
    for name in ("billing", "shop"):
        stack.start(name)
    # One message in ten makes events.
    stack.start("load", RATE="50")

    def hops() -> list[ReceivedSpan]:
        return [span for span in stack.receiver.spans if span.name == "store orders"]

    eventually(hops, "the server's span of a stored order")
    for name in ("load", "shop", "billing", "server-trace"):
        stack.end(name)
    spans = {span.span_id: span for span in stack.receiver.spans}
    for hop in hops():
        ingress = spans[hop.parent_span_id]
        publish = spans[ingress.parent_span_id]
        assert (publish.service, publish.name) == ("shop", "publish orders.*.created")
        assert {span.trace_id for span in (hop, ingress, publish)} == {hop.trace_id}
        assert ingress.resource["nats.server.name"] == "n1"


def test_the_services_wait_for_their_server(image: Path, otlp: OtlpReceiver, tmp_path: Path):
    port = free_port()
    stack = Stack(image, otlp, {"@nats:4222": f"@127.0.0.1:{port}", "http://otel-collector:4318": otlp.endpoint})
    try:
        for name in ("load", "billing", "shop"):
            stack.start(name)
        with running_server(port, tmp_path):
            eventually(lambda: any(spans >= ORDER for spans in by_trace(otlp.spans).values()), "an order")
            for name in ("load", "billing", "shop"):
                stack.end(name)
    finally:
        for process in stack.processes.values():
            process.kill()
            process.communicate()
