# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Gets what PyPI does not have for the deployment's tests into a folder: `python get_tools.py FOLDER`.

Prometheus is Debian's, downloaded and unpacked, not installed: that needs no root. The schemas of the operators' kinds
come from npm. Where there is no Debian or no npm nothing happens; the tests that need them then skip, and say why.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TIMEOUT = 180.0
MODELS = ["@kubernetes-models/prometheus-operator@6", "@kubernetes-models/opentelemetry-operator@2"]


def get_prometheus(folder: Path) -> None:
    """Unpacks Debian's package, if there is no Prometheus on PATH; its programs are in `usr/bin` of the folder."""
    if (folder / "usr" / "bin" / "promtool").exists() or shutil.which("promtool") and shutil.which("prometheus"):
        return
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        print("No Prometheus on PATH, and this is no Debian: the tests that need it will skip.", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as download:
        if subprocess.run(["apt-get", "download", "-q", "prometheus"], cwd=download).returncode:
            # The lists of packages are old, or not there. This needs root, and may fail.
            subprocess.run(["apt-get", "update", "-q"])
            subprocess.run(["apt-get", "download", "-q", "prometheus"], cwd=download)
        folder.mkdir(parents=True, exist_ok=True)
        for package in Path(download).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)


def get_models(folder: Path) -> None:
    """Installs the schemas of the operators' kinds."""
    if (folder / "node_modules").exists():
        return
    npm = shutil.which("npm")
    if npm is None:
        print("No npm on PATH: the test of the operators' kinds will skip.", file=sys.stderr)
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *MODELS]
    subprocess.run(command, check=True, timeout=TIMEOUT)


if __name__ == "__main__":
    get_prometheus(Path(sys.argv[1], "prometheus"))
    get_models(Path(sys.argv[1], "npm"))
