# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Sphinx configuration."""

from opentelemetry.instrumentation.nats.version import __version__

project = "opentelemetry-instrumentation-nats"
author = "OpenTelemetry Authors"
copyright = "The OpenTelemetry Authors"  # noqa: A001 (Sphinx names it so)
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
# A single backtick in a docstring is code, as it is in Markdown.
default_role = "code"

html_theme = "furo"
html_title = project
