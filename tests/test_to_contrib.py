# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""docs/upstream/to_contrib.py on a checkout of the right form, and on what is none; docs/upstream/contrib.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from opentelemetry.instrumentation.nats.package import _instruments
from support.scripts import FOLDER, load_script

tomllib = pytest.importorskip("tomllib", reason="the script needs Python 3.11")
to_contrib = load_script("to_contrib")

PACKAGE = "instrumentation/opentelemetry-instrumentation-nats"

# Of each file that the package has to be named in, the lines around its place.
FILES = {
    "opentelemetry-instrumentation/src/opentelemetry/instrumentation/version.py": '__version__ = "0.66b0.dev"\n',
    "opentelemetry-instrumentation/src/opentelemetry/instrumentation/bootstrap_gen.py": """\
libraries = [
    {"library": "openai >= 1", "instrumentation": "opentelemetry-instrumentation-openai-v2"},
    {"library": "aio_pika >= 7", "instrumentation": "opentelemetry-instrumentation-aio-pika==0.66b0.dev"},
    {"library": "mysqlclient < 3", "instrumentation": "opentelemetry-instrumentation-mysqlclient==0.66b0.dev"},
    {"library": "pika >= 0.12.0", "instrumentation": "opentelemetry-instrumentation-pika==0.66b0.dev"},
]
""",
    "opentelemetry-contrib-instrumentations/pyproject.toml": """\
dependencies = [
    "opentelemetry-instrumentation-mysqlclient==0.66b0.dev",
    "opentelemetry-instrumentation-pika==0.66b0.dev",
]
""",
    "instrumentation/README.md": """\
| Instrumentation | Supported Packages | Metrics support | Semconv status |
| --------------- | ------------------ | --------------- | -------------- |
| [opentelemetry-instrumentation-flask](./opentelemetry-instrumentation-flask) | flask >= 1.0 | Yes | migration
| [opentelemetry-instrumentation-pika](./opentelemetry-instrumentation-pika) | pika >= 0.12.0 | No | development
""",
    "docs-requirements.txt": """\
sphinx==7.1.2

# Required by instrumentation and exporter packages
mysqlclient~=2.1.1
openai >= 1.26.0
""",
    "pyproject.toml": """\
dependencies = [
  "opentelemetry-instrumentation-mysqlclient[instruments]",
  "opentelemetry-instrumentation-pika[instruments]",
]
[tool.uv.sources]
opentelemetry-instrumentation-mysqlclient = { workspace = true }
opentelemetry-instrumentation-pika = { workspace = true }
[tool.pyright]
include = [
  "instrumentation/opentelemetry-instrumentation-httpx",
  "instrumentation/opentelemetry-instrumentation-threading",
]
exclude = [
  "instrumentation/opentelemetry-instrumentation-threading/tests/**",
]
""",
    "tox.ini": """\
envlist =
    ; opentelemetry-instrumentation-kafka-python
    py3{10,11}-test-instrumentation-kafka-python-{oldest,latest}
deps =
  kafka-python: {[testenv]test_deps}
commands =
  test-instrumentation-kafka-python: pytest {toxinidir}/instrumentation
[testenv:typecheck]
deps =
  {toxinidir}/instrumentation/opentelemetry-instrumentation-aiokafka[instruments]
""",
    ".github/component_owners.yml": """\
components:

  instrumentation/opentelemetry-instrumentation-pymssql:
    - guillaumep
""",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def added(checkout: Path, name: str) -> list[str]:
    """The lines that a file has got, each with the one before it."""
    before, after = FILES[name].splitlines(), read(checkout / name).splitlines()
    assert [line for line in after if line in before] == before
    return [f"{after[at - 1]}\n{line}" for at, line in enumerate(after) if line not in before]


class TestPutting:
    def test_brings_the_package(self, checkout: Path):
        to_contrib.put_into(checkout, "somebody")
        source = checkout / PACKAGE / "src"
        ours = {str(path.relative_to(to_contrib.ROOT / "src")) for path in (to_contrib.ROOT / "src").rglob("*.py")}
        assert {str(path.relative_to(source)) for path in source.rglob("*.py")} == ours
        assert (source / "opentelemetry/instrumentation/nats/py.typed").is_file()
        assert '__version__ = "0.66b0.dev"' in read(source / "opentelemetry/instrumentation/nats/version.py")
        assert read(checkout / "docs/instrumentation/nats/nats.rst").count("opentelemetry.instrumentation.nats") == 1
        assert (checkout / ".changelog/PULL_REQUEST.added").is_file()

    def test_has_the_version_and_the_requirements_of_the_checkout(self, checkout: Path):
        to_contrib.put_into(checkout, "somebody")
        project: Any = tomllib.loads(read(checkout / PACKAGE / "pyproject.toml"))
        assert project["project"]["dependencies"] == [
            "opentelemetry-api ~= 1.30",
            "opentelemetry-instrumentation == 0.66b0.dev",
            "opentelemetry-semantic-conventions == 0.66b0.dev",
            "wrapt >= 1.14, < 3",
        ]
        assert project["project"]["optional-dependencies"]["instruments"] == list(_instruments)
        ours = tomllib.loads(read(to_contrib.ROOT / "pyproject.toml"))
        for same in ("entry-points", "scripts", "requires-python"):
            assert project["project"][same] == ours["project"][same]
        assert project["tool"]["pytest"] == ours["tool"]["pytest"]
        for name, release in (("oldest", to_contrib.OLDEST), ("latest", to_contrib.NEWEST)):
            lines = read(checkout / PACKAGE / f"test-requirements-{name}.txt").splitlines()
            assert lines[0] == release and lines[-1] == f"-e {PACKAGE}"

    def test_tests_come_with_all_that_they_import(self, checkout: Path):
        to_contrib.put_into(checkout, "somebody")
        tests = checkout / PACKAGE / "tests"
        there = {path.stem for path in tests.rglob("*.py")}
        assert {"test_client", "test_service", "conftest", "telemetry"} <= there
        assert not {"test_docs", "test_releases", "test_demo", "test_semconv_docs", "test_upstream_semconv"} & there
        for path in tests.rglob("*.py"):
            missing = re.findall(r"^ *from support\.(\w+) import", read(path), re.M)
            assert set(missing) <= there, path

    def test_names_it_everywhere(self, checkout: Path):
        to_contrib.put_into(checkout, "somebody")
        name = "opentelemetry-instrumentation-nats"
        library = '"library": "nats-py >= 2.2, < 3"'
        [line] = added(checkout, "opentelemetry-instrumentation/src/opentelemetry/instrumentation/bootstrap_gen.py")
        assert "mysqlclient < 3" in line.split("\n")[0]
        assert line.split("\n")[1] == f'    {{{library}, "instrumentation": "{name}==0.66b0.dev"}},'
        [line] = added(checkout, "opentelemetry-contrib-instrumentations/pyproject.toml")
        assert line.endswith(f'mysqlclient==0.66b0.dev",\n    "{name}==0.66b0.dev",')
        [line] = added(checkout, "instrumentation/README.md")
        assert line.endswith(f"\n| [{name}](./{name}) | nats-py >= 2.2, < 3 | Yes | development")
        [line] = added(checkout, "docs-requirements.txt")
        assert line == "mysqlclient~=2.1.1\nnats-py~=2.16"
        assert [line.split("\n")[1] for line in added(checkout, "pyproject.toml")] == [
            f'  "{name}[instruments]",',
            f"{name} = {{ workspace = true }}",
            f'  "{PACKAGE}",',
            f'  "{PACKAGE}/tests/**/*.py",',
        ]
        tox = [line.split("\n")[1].strip() for line in added(checkout, "tox.ini")]
        assert [line for line in tox if line] == [
            f"; {name}",
            "py3{10,11,12,13,14}-test-instrumentation-nats-{oldest,latest}",
            "lint-instrumentation-nats",
            "nats: {[testenv]test_deps}",
            f"nats-oldest: -r {{toxinidir}}/{PACKAGE}/test-requirements-oldest.txt",
            f"nats-latest: -r {{toxinidir}}/{PACKAGE}/test-requirements-latest.txt",
            f"lint-instrumentation-nats: -r {{toxinidir}}/{PACKAGE}/test-requirements-latest.txt",
            f"test-instrumentation-nats: pytest {{toxinidir}}/{PACKAGE}/tests {{posargs}}",
            f'lint-instrumentation-nats: sh -c "cd instrumentation && pylint --rcfile ../.pylintrc {name}"',
            f"{{toxinidir}}/{PACKAGE}[instruments]",
        ]
        assert f"  {PACKAGE}:\n    - somebody\n" in read(checkout / ".github/component_owners.yml")

    def test_again_changes_nothing_and_takes_away_what_is_no_more(self, checkout: Path):
        assert to_contrib.put_into(checkout, "somebody")
        assert to_contrib.put_into(checkout, "somebody") == []
        old = checkout / PACKAGE / "tests" / "old" / "test_old.py"
        old.parent.mkdir()
        old.write_text("")
        assert to_contrib.put_into(checkout, "somebody") == [f"{PACKAGE}/tests/old/test_old.py"]
        assert not old.exists()

    def test_again_after_a_new_release_there_replaces_what_is_named(self, checkout: Path):
        to_contrib.put_into(checkout, "somebody")
        place = checkout / "opentelemetry-instrumentation/src/opentelemetry/instrumentation/version.py"
        place.write_text('__version__ = "0.67b0.dev"\n')
        readme = checkout / "instrumentation/README.md"
        readme.write_text(read(readme).replace("nats-py >= 2.2", "nats-py >= 2.1"))
        to_contrib.put_into(checkout, "somebody")
        for name in FILES:
            text = read(checkout / name)
            assert not re.search(r"nats(-py >= 2\.1|==0\.66b0)", text), name
        for name in ("opentelemetry-contrib-instrumentations/pyproject.toml", "instrumentation/README.md"):
            assert len(added(checkout, name)) == 1

    def test_again_leaves_the_note_under_its_number(self, checkout: Path):
        to_contrib.put_into(checkout, "somebody")
        notes = checkout / ".changelog"
        (notes / "PULL_REQUEST.added").rename(notes / "5000.added")
        assert to_contrib.put_into(checkout, "somebody") == []
        assert [path.name for path in notes.iterdir()] == ["5000.added"]

    @pytest.mark.parametrize("name", FILES)
    def test_into_what_lacks_a_file_says_so(self, checkout: Path, name: str):
        (checkout / name).unlink()
        with pytest.raises(to_contrib.UnknownLayout, match=name):
            to_contrib.put_into(checkout, "somebody")
        assert {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()} == set(FILES) - {
            name
        }

    @pytest.mark.parametrize("name", FILES)
    def test_into_what_lacks_a_place_says_so(self, checkout: Path, name: str):
        (checkout / name).write_text("nothing of the kind\n")
        with pytest.raises(to_contrib.UnknownLayout):
            to_contrib.put_into(checkout, "somebody")
        assert not (checkout / PACKAGE).exists()

    def test_as_a_command(self, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        to_contrib.main([str(checkout), "--owner", "somebody"])
        assert f"{PACKAGE}/pyproject.toml" in capsys.readouterr().out.splitlines()
        to_contrib.main([str(checkout)])
        assert capsys.readouterr().out == "nothing to change\n"
        with pytest.raises(SystemExit, match="there is no opentelemetry-instrumentation"):
            to_contrib.main([str(tmp_path / "elsewhere")])
        with pytest.raises(SystemExit, match="there is no opentelemetry-instrumentation"):
            to_contrib.main([str(checkout / "tox.ini")])


def test_the_page_lists_what_the_script_does():
    page = read(FOLDER / "contrib.md")
    for name in FILES:
        if name.endswith(("bootstrap_gen.py", "README.md", "requirements.txt", ".yml", "tox.ini")):
            assert name.rpartition("/")[2] in page
