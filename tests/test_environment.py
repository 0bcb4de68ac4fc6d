# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""That a run of tox has the releases that its name says: what pip installs last may replace what it installed first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import version

import pytest

from support.releases import tox

FACTORS = os.environ.get("TOX_ENV_NAME", "").split("-")


def pinned() -> Iterator[tuple[str, str]]:
    """Yields the distributions that this environment's name is about, each with the release that it has to be."""
    for line in tox()["testenv"]["deps"].splitlines():
        factor, _, requirement = line.partition(": ")
        match = re.fullmatch(r"([\w.-]+)==(.+)", requirement)
        if factor in FACTORS and match is not None:
            yield match[1], match[2]


# None outside of tox, or where nothing is named: then there is nothing to test.
@pytest.mark.parametrize(("distribution", "release"), list(pinned()))
def test_it_has_what_its_name_says(distribution: str, release: str):
    assert fnmatch(version(distribution), release)
