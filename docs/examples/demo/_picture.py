# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a console shows, as an SVG picture that needs nothing from elsewhere."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"


def save_picture(console: Console, path: Path, title: str, description: str) -> None:
    """Writes what the console has recorded.

    Args:
        console: one with `record=True`.
        path: of the file to write.
        title: the window's title, and the picture's for who can't see it.
        description: the picture's content as text.
    """
    # Rich's own loads a font from the network, which a picture in a page may not do.
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.S).replace("Fira Code", FONTS)
    words = escape(description).replace("{", "{{").replace("}", "}}")
    form = re.sub(r"<!--.*?-->", f"<title>{escape(title)}</title>\n    <desc>{words}</desc>", form, count=1)
    svg = console.export_svg(title=title, code_format=form, unique_id=path.stem)
    path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")
