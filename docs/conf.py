# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Sphinx configuration."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

from opentelemetry.instrumentation.nats.version import __version__

project = "opentelemetry-instrumentation-nats"
author = "OpenTelemetry Authors"
copyright = "The OpenTelemetry Authors"  # noqa: A001 (Sphinx names it so)
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "upstream"]  # the latter is written for another site
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
# A single backtick in a docstring is code, as it is in Markdown.
default_role = "code"

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_domain_indices = False

MANY_COLUMNS = 3


def fit_tables(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Lets long names break after their dots and underscores, and labels the cells of wide tables.

    The labels are for windows in which tables.css makes a card of a row.
    """
    for table in doctree.findall(nodes.table):
        for code in list(table.findall(nodes.literal)):
            parts = re.split(r"(?<=[._/(,])(?=\w)", code.astext())
            code.children = []
            for number, part in enumerate(parts):
                code += [nodes.raw("", "<wbr>", format="html")] if number else []
                code += nodes.Text(part)
        group = next(table.findall(nodes.tgroup))
        heads = [head.astext() for head in next(group.findall(nodes.thead)).findall(nodes.entry)]
        if len(heads) < MANY_COLUMNS:
            continue
        table["classes"].append("cards-early" if len(heads) > MANY_COLUMNS else "cards-late")
        for row in next(group.findall(nodes.tbody)).findall(nodes.row):
            for head, cell in zip(heads, row.findall(nodes.entry), strict=True):
                if not cell.astext():
                    cell["classes"].append("empty")
                cell.insert(0, nodes.inline("", head, classes=["cell-label"]))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("doctree-resolved", fit_tables)
