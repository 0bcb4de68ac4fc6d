# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The quick start, typed into a shell: what its page says, in the order in which the page says it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.docs import DOCS, ROOT, blocks
from support.processes import told

PAGE = DOCS / "quickstart.md"


@dataclass(frozen=True)
class Typed:
    """What a block of commands printed.

    Attributes:
        stdout: On its standard output.
        stderr: On its standard error.
    """

    stdout: str
    stderr: str


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def type_quick_start(
    folder: Path,
    endpoint: str,
    *,
    install: bool = False,
    only: set[str] | None = None,
    edit: Callable[[str], str] = str,
    **env: str,
) -> dict[str, Typed]:
    """Types the quick start's blocks into one shell.

    Literally, but for the ports, which other programs may have, and the checkout's path.

    Args:
        folder: An empty directory.
        endpoint: In place of `http://localhost:4318`.
        install: Whether to make the virtual environment too; without, the tests' own packages are used.
        only: The blocks of commands to run by their marks; all of them when None.
        edit: Changes a block.
        env: More environment variables.

    Returns:
        What each block printed, by its mark.

    Raises:
        AssertionError: A command failed; the message ends with what was printed.
    """
    nats_port = free_port()
    script = ["set -eu", f"cd {folder}"]
    names: list[str] = []
    for block in blocks(PAGE):
        kind, _, name = block.mark.partition(": ")
        text = edit(block.text).replace("4222", str(nats_port)).replace("http://localhost:4318", endpoint)
        text = re.sub(r"^CHECKOUT=.*$", f"CHECKOUT={ROOT}", text, flags=re.M)
        if kind == "file":
            script.append(f"cat > {name} <<'END OF FILE'\n{text}END OF FILE")
        elif kind == "run" and (install or not name.startswith("install")) and (only is None or name in only):
            script.append(f"{{\n{text}}} >'out {name}' 2>'err {name}'")
            names.append(name)
            if name == "server":  # a person takes longer than this to type what comes next
                script.append("trap 'kill %1; wait' EXIT")
                script.append(f"until (exec 3<>/dev/tcp/127.0.0.1/{nats_port}) 2>/dev/null; do sleep 0.02; done")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "VIRTUAL_ENV", "PYTHON"))}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    shell = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        env=kept | {"no_proxy": "localhost,127.0.0.1"} | env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    typed = {
        name: Typed((folder / f"out {name}").read_text(), told((folder / f"err {name}").read_text()))
        for name in names
        if (folder / f"err {name}").exists()
    }
    assert shell.returncode == 0, f"{shell.stderr}\n{typed}"
    return typed
