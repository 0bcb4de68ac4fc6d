# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What goes to PyPI: the sdist, that alone builds and is tested, and the wheel that is built from it."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from readme_renderer import markdown

from opentelemetry.instrumentation.nats.version import __version__

ROOT = Path(__file__).parents[2]
NAME = f"opentelemetry_instrumentation_nats-{__version__}"

# Without a server, with one, and what compares the repository's files with each other.
PART = ("test_subjects.py", "test_client.py", "test_floor.py", "test_releases.py", "test_upstream_semconv.py")


def run(*command: str | Path, folder: Path) -> str:
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that `build` makes of it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / NAME


@pytest.fixture(scope="module")
def metadata(built: Path) -> Message:
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        return message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))


def test_pypi_takes_them(built: Path):
    # `build` leaves a .gitignore beside them.
    paths = sorted(path for path in built.iterdir() if not path.name.startswith("."))
    assert [path.name for path in paths] == [f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"]
    run(sys.executable, "-m", "twine", "check", "--strict", *paths, folder=built)


def test_the_wheel_has_the_package_its_licence_and_nothing_else(built: Path):
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
    info = {name for name in names if name.startswith(f"{NAME}.dist-info/")}
    files = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert info == {f"{NAME}.dist-info/{name}" for name in files}
    source = ROOT / "src"
    package = {
        str(path.relative_to(source)) for path in source.rglob("*") if path.suffix == ".py" or path.name == "py.typed"
    }
    assert names - info == package


def test_what_it_says_of_itself(metadata: Message):
    assert metadata["Name"] == "opentelemetry-instrumentation-nats"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata.get_all("Project-URL")
    oldest, newest = 10, 14
    versions = re.findall(r"Python :: 3\.(\d+)", "\n".join(metadata.get_all("Classifier") or ()))
    assert versions == [str(minor) for minor in range(oldest, newest + 1)]


def test_its_page_on_pypi_shows_and_promises_nothing_that_is_not_there(metadata: Message):
    text = metadata.get_payload(decode=True).decode()
    html = markdown.render(text)
    targets = set(re.findall(r'(?:href|src)="([^"]*)"', html))
    anchors = {f"#{anchor}" for anchor in re.findall(r'id="([^"]*)"', html)}  # each heading links to itself
    assert anchors < targets
    assert [target for target in targets - anchors if not target.startswith("https://")] == []
    assert "](" not in re.sub("<[^>]*>", "", html), "a link that was cut in two"
    assert re.findall("^## (.*)", text, re.M) == [
        "Use it",
        "Side by side",
        "How it works",
        "Options",
        "Requirements",
        "Documentation",
    ]
    assert "\npip install opentelemetry-instrumentation-nats " in text
    assert "clone" not in text
    assert "not on PyPI" not in text


def test_every_file_has_its_licence(unpacked: Path):
    without = [
        str(path.relative_to(unpacked))
        for path in unpacked.rglob("*.py")
        if "SPDX-License-Identifier: Apache-2.0" not in path.read_text(encoding="utf-8")[:400]
    ]
    assert without == []


def test_the_sdist_has_nothing_of_this_machine(unpacked: Path):
    kept = {path.name for path in unpacked.rglob("*")}
    assert not kept & {".git", ".venv", ".tox", "__pycache__", ".hypothesis", ".pytest_cache", "_build"}


def test_the_sdist_is_tested_by_itself(unpacked: Path, tmp_path: Path):
    run(sys.executable, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    python = next(path for path in (tmp_path / "venv").glob("*/python*") if path.stem == "python")
    run(python, "-m", "pip", "install", "-q", f"{unpacked}[test]", folder=tmp_path)
    tests = [unpacked / "tests" / name for name in PART]
    told = run(python, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests, folder=unpacked)
    assert re.search(r"\d+ passed", told)
    assert "failed" not in told
