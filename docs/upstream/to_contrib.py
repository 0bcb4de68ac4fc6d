# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Puts the package into a checkout of opentelemetry-python-contrib, in that repository's layout.

Usage:
    python docs/upstream/to_contrib.py CHECKOUT [--owner GITHUB_NAME]

A second run brings the checkout up to date, and changes nothing where it is. What is left to do by hand is in
docs/upstream/contrib.md. Needs Python 3.11.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from string import Template

import tomllib

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NAME = "opentelemetry-instrumentation-nats"
FOLDER = f"instrumentation/{NAME}"
PACKAGE = Path("src/opentelemetry/instrumentation/nats")

OLDEST = "nats-py==2.2.0"
NEWEST = "nats-py==2.16.0"

# Our own CI, packaging, long runs and documentation: what reads their files, by itself or through what it imports,
# stays here.
_STAYS = re.compile(r"/ \"docs\"|README\.md|CHANGELOG\.md|tox\.ini|\.ci/|\.github|pyproject\.toml")
_IMPORTS = re.compile(r"^ *from support import ([\w, ]+)$|^ *from (?:support\.)?(\w+) import|^ *import (\w+)$", re.M)

_TOX_ENVIRONMENTS = """\
    ; {name}
    py3{{10,11,12,13,14}}-test-instrumentation-nats-{{oldest,latest}}
    lint-instrumentation-nats

"""
_TOX_DEPENDENCIES = """\
  nats: {{[testenv]test_deps}}
  nats-oldest: -r {{toxinidir}}/{folder}/test-requirements-oldest.txt
  nats-latest: -r {{toxinidir}}/{folder}/test-requirements-latest.txt
  lint-instrumentation-nats: -r {{toxinidir}}/{folder}/test-requirements-latest.txt

"""
_TOX_COMMANDS = """\
  test-instrumentation-nats: pytest {{toxinidir}}/{folder}/tests {{posargs}}
  lint-instrumentation-nats: sh -c "cd instrumentation && pylint --rcfile ../.pylintrc {name}"

"""
_CHANGE = f"`{NAME}`: Add instrumentation of nats-py: core NATS, JetStream, key-value and object stores, services\n"


class UnknownLayout(Exception):
    """The checkout has not the form that this script knows."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description="Puts the package into a checkout of opentelemetry-python-contrib.")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--owner", default="TODO", help="GitHub name of who answers for the component")
    options = parser.parse_args(arguments)
    try:
        changed = put_into(options.checkout, options.owner)
    except UnknownLayout as error:
        sys.exit(f"{options.checkout}: {error}")
    print(*changed or ["nothing to change"], sep="\n")


def put_into(checkout: Path, owner: str) -> list[str]:
    """Puts the package into a checkout.

    Args:
        checkout: The checkout's folder.
        owner: The GitHub name of the component's owner.

    Returns:
        The files that were changed, relative to the checkout.

    Raises:
        UnknownLayout: The checkout lacks a file, or a place in one, that the package has to be named in. Nothing is
            changed then.
    """
    contrib = _Checkout(checkout)
    version = contrib.version()
    files = _package_files(version)
    for path, text in files.items():
        contrib.write(f"{FOLDER}/{path}", text)
    contrib.remove_others(FOLDER, set(files))
    contrib.write("docs/instrumentation/nats/nats.rst", (HERE / "contrib/nats.rst").read_text(encoding="utf-8"))
    if not contrib.has_note(_CHANGE):  # under the number of its pull request, perhaps
        contrib.write(".changelog/PULL_REQUEST.added", _CHANGE)
    [instruments] = _our_project()["optional-dependencies"]["instruments"]
    _name_everywhere(contrib, version, instruments, owner)
    return contrib.save()


def _name_everywhere(contrib: _Checkout, version: str, instruments: str, owner: str) -> None:
    row = f"| [{NAME}](./{NAME}) | {instruments} | Yes | development"
    contrib.insert_sorted("instrumentation/README.md", row, r"\| \[opentelemetry-instrumentation-.*")
    contrib.insert_sorted("docs-requirements.txt", "nats-py~=2.16", r"[a-z].*", after="# Required by instrumentation")
    metapackage = "opentelemetry-contrib-instrumentations/pyproject.toml"
    contrib.insert_sorted(metapackage, f'    "{NAME}=={version}",', r'    "opentelemetry-instrumentation-.*')
    bootstrap = "opentelemetry-instrumentation/src/opentelemetry/instrumentation/bootstrap_gen.py"
    library = f'    {{"library": "{instruments}", "instrumentation": "{NAME}=={version}"}},'
    key = r'"instrumentation": "([\w-]+)'
    first = "opentelemetry-instrumentation-aio-pika"  # those of its own, in order, come after others
    contrib.insert_sorted(bootstrap, library, r'    \{"library".*', key=key, after=first)

    contrib.insert_sorted("pyproject.toml", f'  "{NAME}[instruments]",', r'  "opentelemetry-instrumentation-.*\],?",?')
    contrib.insert_sorted(
        "pyproject.toml", f"{NAME} = {{ workspace = true }}", r"opentelemetry-instrumentation-.* = .*"
    )
    contrib.insert_before(
        "pyproject.toml", f'  "{FOLDER}",\n', '  "instrumentation/opentelemetry-instrumentation-threading",\n'
    )
    tests = f'  "{FOLDER}/tests/**/*.py",\n'
    contrib.insert_before(
        "pyproject.toml", tests, '  "instrumentation/opentelemetry-instrumentation-threading/tests/**",\n'
    )

    names = {"name": NAME, "folder": FOLDER}
    contrib.insert_before(
        "tox.ini", _TOX_ENVIRONMENTS.format(**names), "    ; opentelemetry-instrumentation-kafka-python\n"
    )
    contrib.insert_before("tox.ini", _TOX_DEPENDENCIES.format(**names), "  kafka-python: {[testenv]test_deps}\n")
    contrib.insert_before("tox.ini", _TOX_COMMANDS.format(**names), "  test-instrumentation-kafka-python: pytest ")
    typed = "  {{toxinidir}}/instrumentation/opentelemetry-instrumentation-{}[instruments]\n".format
    contrib.insert_before("tox.ini", typed("nats"), typed("aiokafka"))
    contrib.insert_before(
        ".github/component_owners.yml",
        f"  {FOLDER}:\n    - {owner}\n\n",
        "  instrumentation/opentelemetry-instrumentation-pymssql:\n",
        unless=f"  {FOLDER}:\n",
    )


# -- the package ------------------------------------------------------------------------------------------------------


def _package_files(version: str) -> dict[str, str]:
    """The files of the package, by their paths in its folder there."""
    files = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "src").rglob("*"))
        if path.suffix == ".py" or path.name == "py.typed"
    }
    place = str(PACKAGE / "version.py")
    files[place] = re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', files[place])
    files |= _tests()
    files["LICENSE"] = (ROOT / "LICENSE").read_text(encoding="utf-8")
    files["README.rst"] = (HERE / "contrib/README.rst").read_text(encoding="utf-8")
    files["pyproject.toml"] = _pyproject(version)
    for name, release in (("oldest", OLDEST), ("latest", NEWEST)):
        files[f"test-requirements-{name}.txt"] = _requirements(release)
    return files


def _tests() -> dict[str, str]:
    folder = ROOT / "tests"
    modules = {path.stem: path for path in [*folder.glob("*.py"), *folder.glob("support/*.py")]}
    texts = {name: path.read_text(encoding="utf-8") for name, path in modules.items()}
    staying = {name for name, text in texts.items() if _STAYS.search(text)}
    while True:
        found = {name for name, text in texts.items() if name != "conftest" and _imported(text) & staying} - staying
        if not found:
            break
        staying |= found
    files = {str(path.relative_to(ROOT)): texts[name] for name, path in modules.items() if name not in staying}
    return files


def _imported(text: str) -> set[str]:
    return {name.strip() for found in _IMPORTS.findall(text) for part in found for name in part.split(",")} - {""}


def _our_pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _our_project() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads(_our_pyproject())["project"]


def _pyproject(version: str) -> str:
    pytest = re.search(r"^\[tool\.pytest\.ini_options\]\n.*?(?=^\[)", _our_pyproject(), re.M | re.S)
    assert pytest is not None
    extras = _our_project()["optional-dependencies"]
    server_trace = [re.sub(r"(distro) >= .*", rf"\1 == {version}", each) for each in extras["server-trace"]]
    template = Template((HERE / "contrib/pyproject.toml.template").read_text(encoding="utf-8"))
    return template.substitute(
        version=version,
        instruments=extras["instruments"][0],
        server_trace="\n".join(f'  "{each}",' for each in server_trace),
        pytest=pytest[0].strip(),
    )


def _requirements(release: str) -> str:
    extras = _our_project()["optional-dependencies"]
    ours = [*extras["demo"], *extras["server-trace"], *extras["test-any-otel"]]
    # What contrib has itself is installed from there, and what core has by tox.
    needed = {each for each in ours if not each.startswith(("nats-py", "opentelemetry-"))}
    needed |= {each for each in ours if re.match(r"opentelemetry-(exporter|propagator-(b3|jaeger))", each)}
    local = ("opentelemetry-instrumentation", "opentelemetry-distro", "util/opentelemetry-util-http")
    packages = ("propagator/opentelemetry-propagator-ot-trace", *_siblings(ours), FOLDER)
    return "\n".join([release, *sorted(needed), *(f"-e {each}" for each in (*local, *packages))]) + "\n"


def _siblings(requirements: list[str]) -> list[str]:
    names = {each.split()[0] for each in requirements if each.startswith("opentelemetry-instrumentation-")}
    return sorted(f"instrumentation/{name}" for name in names if not name.startswith(NAME))


# -- the checkout -----------------------------------------------------------------------------------------------------


class _Checkout:
    """A checkout, and what is to be changed in it: it stays as it is until `save`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts: dict[str, str] = {}
        self._removed: list[str] = []

    def save(self) -> list[str]:
        """Makes the changes, and returns the files that are changed."""
        for path, text in self._texts.items():
            target = self._folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        for path in self._removed:
            (self._folder / path).unlink()
        return [*self._texts, *self._removed]

    def version(self) -> str:
        """The version that all packages of the checkout have."""
        text = self._read("opentelemetry-instrumentation/src/opentelemetry/instrumentation/version.py")
        found = re.search(r'__version__ = "(.+)"', text)
        if found is None:
            raise UnknownLayout("opentelemetry-instrumentation has no __version__")
        return found[1]

    def write(self, path: str, text: str) -> None:
        """Writes a file, if it is not that already."""
        target = self._folder / path
        if target.exists() and target.read_text(encoding="utf-8") == text:
            self._texts.pop(path, None)
        else:
            self._texts[path] = text

    def has_note(self, text: str) -> bool:
        """Whether a note of changes has this text."""
        return any(path.read_text(encoding="utf-8") == text for path in self._folder.glob(".changelog/*.added"))

    def remove_others(self, folder: str, paths: set[str]) -> None:
        """Removes the modules that an earlier run has put into a folder and that are not among these paths any more."""
        root = self._folder / folder
        for path in sorted([*root.glob("src/**/*.py"), *root.glob("tests/**/*.py")]):
            relative = path.relative_to(root).as_posix()
            if relative not in paths:
                self._removed.append(f"{folder}/{relative}")

    def insert_sorted(self, path: str, line: str, like: str, *, key: str = r"([\w-]+)", after: str = "") -> None:
        """Inserts a line among those that are like it, by the order of their keys, instead of one with the same key."""

        def order(text: str) -> str:
            found = re.search(key, text)
            return found[1].lower() if found else ""

        text = self._read(path)
        lines = text.splitlines()
        start = next((at for at, each in enumerate(lines) if after in each), len(lines))
        alike = [at for at in range(start, len(lines)) if re.fullmatch(like, lines[at])]
        if not alike:
            raise UnknownLayout(f"{path} has no line like {line!r}")
        old = next((at for at in alike if order(lines[at]) == order(line)), None)
        if old is not None:
            lines[old] = line
        else:
            lines.insert(next((at for at in alike if order(lines[at]) > order(line)), alike[-1] + 1), line)
        self.write(path, "\n".join(lines) + ("\n" if text.endswith("\n") else ""))

    def insert_before(self, path: str, block: str, place: str, *, unless: str = "") -> None:
        """Inserts a block before another, if it is not there yet."""
        text = self._read(path)
        if (unless or block) in text:
            return
        if text.count(place) != 1:
            raise UnknownLayout(f"{path} has {text.count(place)} places like {place!r}")
        self.write(path, text.replace(place, block + place))

    def _read(self, path: str) -> str:
        if path in self._texts:
            return self._texts[path]
        try:
            return (self._folder / path).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise UnknownLayout(f"there is no {path}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
