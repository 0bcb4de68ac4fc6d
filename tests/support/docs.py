# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The documentation as data: its pages, their code blocks, what they export."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Block:
    """A fenced block of a Markdown page.

    Attributes:
        mark: What the HTML comment on the line above the block says; empty where there is none.
        language: The word after the fence.
        text: The lines between the fences.
        line: The number of the opening fence's line.
    """

    mark: str
    language: str
    text: str
    line: int


def pages() -> list[Path]:
    """Every Markdown page that is written by hand."""
    found = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    return [page for page in found if not {"_build", "upstream"} & set(page.relative_to(ROOT).parts)]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in their order.

    Args:
        page: The page's path.

    Yields:
        Each block.

    Raises:
        AssertionError: A fence is not closed.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines):
        fence = re.fullmatch(r" *(`{3,}|~{3,})(.*)", line)
        if opened is None and fence:
            opened = number, fence[1], fence[2].strip()
        elif opened is not None and fence and fence[1] == opened[1] and not fence[2]:
            begin, _, language = opened
            mark = re.fullmatch(r"<!-- (.*) -->", lines[begin - 1].strip()) if begin else None
            yield Block(mark[1] if mark else "", language, "\n".join(lines[begin + 1 : number]) + "\n", begin + 1)
            opened = None
    assert opened is None, f"{page}: the block of line {opened and opened[0] + 1} is not closed"


def toctree(page: Path) -> list[Path]:
    """The pages that a page has in its table of contents."""
    entries = [line for block in blocks(page) if block.language == "{toctree}" for line in block.text.split()]
    return [page.parent / f"{entry}.md" for entry in entries if not entry.startswith(":")]


def marked(page: Path, mark: str) -> str:
    """The text of the one block with that mark.

    Raises:
        AssertionError: There is none, or more than one.
    """
    found = [block.text for block in blocks(page) if block.mark == mark]
    assert len(found) == 1, f"{page} has {len(found)} blocks under <!-- {mark} -->"
    return found[0]
