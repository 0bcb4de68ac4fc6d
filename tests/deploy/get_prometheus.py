# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Unpacks Debian's Prometheus into a folder, if there is none on PATH: `python get_prometheus.py FOLDER`.

The package is downloaded and unpacked, not installed: that needs no root. On other systems nothing happens; the tests
that need it then skip, and say why.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "prometheus"


def get(folder: Path) -> None:
    """Unpacks the package; its programs are in `usr/bin` of the folder.

    Args:
        folder: Made if there is none.
    """
    if (folder / "usr" / "bin" / "promtool").exists() or shutil.which("promtool") and shutil.which("prometheus"):
        return
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        print("No Prometheus on PATH, and this is no Debian: the tests that need it will skip.", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as download:
        if subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=download).returncode:
            # The lists of packages are old, or not there. This needs root, and may fail.
            subprocess.run(["apt-get", "update", "-q"])
            subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=download)
        for package in Path(download).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)


if __name__ == "__main__":
    get(Path(sys.argv[1]))
