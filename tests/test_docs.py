# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The documentation as a whole: links lead somewhere, code can be read by what it is for, the API page is complete."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path

import promql_parser as promql
import pytest
import yaml

import opentelemetry.instrumentation.nats as package
from support.docs import DOCS, ROOT, Block, blocks, pages, toctree

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}:{block.line}") for page in pages() for block in blocks(page)
]
OTHER_LANGUAGES = {"text", "console", "diff", "dockerfile", "http", "ini", "nats", "toml"}
MARKS = re.compile(r"(demo|test)-command|(run|not run|file|output|example|trace|config): .+|")


def prose(page: Path) -> str:
    """A page without its code, in which nothing is a link."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^( *)(`{3,}|~{3,}).*?^ *\2$", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", lambda code: re.sub(r"[\[\]()<>]", "x", code[0]), text)


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page can have after its #, by GitHub's rule, which MyST follows."""
    text = re.sub(r"^( *)(`{3,}|~{3,}).*?^ *\2$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*)$", text, re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        repeated = (f"{slug}-{number}" for number in range(1, 100))
        found.add(slug if slug not in found else next(each for each in repeated if each not in found))
    return found


class TestLinks:
    @pytest.mark.parametrize("page", PAGES)
    def test_lead_to_files_and_headings_that_exist(self, page: Path) -> None:
        for target in re.findall(r"\]\(<?([^)>\s]+)>?\)|\{download\}`[^<]*<([^>]+)>`", prose(page)):
            path, _, anchor = "".join(target).partition("#")
            if re.match(r"[a-z]+:", path):
                assert path.startswith("https://"), f"{path} in {page.name}"
                continue
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{path} in {page.name}"
            assert ROOT in [file, *file.parents], f"{path} in {page.name} is outside of the repository"
            if anchor:
                assert anchor in anchors(file), f"#{anchor} in {page.name}"

    def test_the_index_leads_to_every_page(self) -> None:
        linked: set[Path] = set()
        todo = [DOCS / "index.md"]
        while todo:
            page = todo.pop()
            if page in linked:
                continue
            linked.add(page)
            todo += toctree(page)
            todo += [
                (page.parent / target).resolve()
                for target in re.findall(r"\]\(([^)#\s]+\.md)(?:#[^)]*)?\)", prose(page))
            ]
        assert {page for page in pages() if DOCS in page.parents} <= linked


class TestCode:
    @pytest.mark.parametrize("block", BLOCKS)
    def test_is_what_it_says_it_is(self, block: Block) -> None:
        assert MARKS.fullmatch(block.mark), block.mark
        language, text = block.language, block.text
        if language == "python":
            compile(text, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        elif language in ("sh", "bash"):
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        elif language in ("yaml", "yml"):
            list(yaml.safe_load_all(text))
        elif language == "json":
            json.loads(text)
        elif language == "promql":
            promql.parse(text)
        else:
            # Trees and output, directives of MyST, and what no parser here reads.
            assert language.startswith("{") or language in OTHER_LANGUAGES, language


class TestPictures:
    @pytest.mark.parametrize("page", PAGES)
    def test_have_texts_for_who_can_not_see_them(self, page: Path) -> None:
        for words in re.findall(r"!\[([^\]]*)\]\((?!https:)", prose(page)):
            assert len(words) > 20, f"![{words}] in {page.name}"
        for tag in re.findall(r"<img[^>]*>", prose(page)):
            assert re.search(r'alt="[^"]{20,}"', tag), f"{tag} in {page.name}"


class TestReadme:
    def test_lists_every_option_with_its_variable_and_its_default(self) -> None:
        def options(page: Path) -> list[tuple[str, str, str]]:
            row = r"^\| `(\w+)` \| `(OTEL_\w+)` \| ([^|]*) \|"
            return re.findall(row, page.read_text(encoding="utf-8"), re.M)

        documented = options(DOCS / "configuration.md")
        assert len(documented) > 5
        assert options(ROOT / "README.md") == documented

    def test_requires_what_the_package_requires(self) -> None:
        text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Requirements")[2]
        package = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        [api] = re.findall(r'"opentelemetry-api >= ([\d.]+),', package)
        [beta] = re.findall(r'"opentelemetry-instrumentation >= (\w+\.\w+)"', package)
        [python] = re.findall(r'requires-python = ">=([\d.]+)"', package)
        [client] = re.findall(r'instruments = \["nats-py >= ([\d.]+), < 3"\]', package)
        assert f"Python {python} to " in text
        assert f"nats-py {client} or newer, below 3" in text
        assert f"OpenTelemetry {api} / {beta} or newer" in text


class TestApiPage:
    text = (DOCS / "api.md").read_text(encoding="utf-8")

    def test_lists_all_that_is_exported(self) -> None:
        table = re.findall(r"^\| (.*?) \|", self.text, re.M)
        assert sorted(name for row in table for name in re.findall(r"`(\w+)`", row)) == sorted(package.__all__)

    def test_documents_all_that_is_exported(self) -> None:
        [members] = re.findall(r"instrumentation\.nats\n +:members: (.*)", self.text)
        assert sorted(members.split(", ")) == sorted(package.__all__)


def test_the_page_on_the_next_clients_names_every_room() -> None:
    rooms = {path.stem for path in Path(package.__file__).parent.glob("**/_*.py") if "server_trace" not in path.parts}
    table = (DOCS / "next-clients.md").read_text(encoding="utf-8").partition("## What would carry over")[2]
    assert rooms - {"__init__"} <= set(re.findall(r"`(?:_patches/)?(\w+)`", table))
