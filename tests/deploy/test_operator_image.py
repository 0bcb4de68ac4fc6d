# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The image layer of docs/deploy/kubernetes, used as the OpenTelemetry operator uses its image, without containers.

A program that has nothing but nats-py is started with the operator's variables, and a folder with what the image has.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from support.deployment import KUBERNETES, ROOT, dockerfile, manifests
from support.deployment_facts import (
    OPERATOR_DEFAULTS,
    OPERATOR_FOLDERS,
    OPERATOR_MOUNT,
    OPERATOR_PYTHONPATH,
    OPERATOR_REQUIREMENTS,
)
from support.otlp import OtlpReceiver
from support.server import NatsServer

PROGRAM = """
import asyncio
import importlib.metadata
import sys

import nats


async def main():
    nc = await nats.connect(sys.argv[1])
    done = asyncio.Event()

    async def handle(msg):
        done.set()

    await nc.subscribe("orders.*.created", cb=handle)
    await nc.publish("orders.8812.created")
    await done.wait()
    await nc.close()
    print("done")


asyncio.run(main())
"""


def pip(python: Path, *arguments: str | Path) -> None:
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a container: with nats-py and nothing of OpenTelemetry."""
    folder = tmp_path_factory.mktemp("program")
    venv.create(folder, with_pip=True)
    pip(folder / "bin" / "python", "install", "nats-py==2.16.0")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def mounted(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The volume that the operator mounts: its image's folder with our layer."""
    folder, layer = tmp_path_factory.mktemp("image") / "autoinstrumentation", tmp_path_factory.mktemp("layer")
    pip(program, "install", "--target", folder, *OPERATOR_REQUIREMENTS)
    stages = dockerfile(KUBERNETES / "instrumentation" / "Dockerfile")
    [command] = [re.fullmatch(r"RUN pip (.*) && chmod .*", line) for line in stages["layer"] if "pip" in line]
    arguments = command[1].replace("/layer", str(layer)).replace("--no-cache-dir ", "").split()
    pip(program, *(str(ROOT) if argument == "." else argument for argument in arguments))
    assert f"COPY --from=layer /layer {OPERATOR_FOLDERS[0]}" in stages["last"]
    shutil.copytree(layer, folder, dirs_exist_ok=True)
    return folder


def test_an_injected_program_is_traced_and_measured(
    program: Path, mounted: Path, nats_server: NatsServer, otlp: OtlpReceiver
):
    [instrumentation] = [manifest for manifest in manifests() if manifest["kind"] == "Instrumentation"]
    spec = instrumentation["spec"]
    variables = {each["name"]: each["value"] for each in spec["python"]["env"]}
    done = subprocess.run(
        [program, "-c", PROGRAM, nats_server.url],
        env={
            **OPERATOR_DEFAULTS,
            **variables,
            "PYTHONPATH": OPERATOR_PYTHONPATH.replace(OPERATOR_MOUNT, str(mounted)),
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.endpoint,
            "OTEL_PROPAGATORS": ",".join(spec["propagators"]),
            "OTEL_TRACES_SAMPLER": spec["sampler"]["type"],
            "OTEL_SERVICE_NAME": "shop",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    [publish], [process] = otlp.named("publish orders.*.created"), otlp.named("process orders.*.created")
    assert (process.trace_id, process.parent_span_id) == (publish.trace_id, publish.span_id)
    assert publish.service == "shop"
    assert "messaging.client.sent.messages" in {metric.name for metric in otlp.metrics}


def test_without_the_layer_it_is_not(program: Path):
    names = subprocess.run([program, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    assert "opentelemetry" not in names
