# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The files that a release needs, as far as that can be seen without making one: `tox -e release` does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"


def workflow() -> dict[str, Any]:
    return yaml.safe_load((GITHUB / "workflows" / "release.yml").read_text(encoding="utf-8"))


def test_publishing_needs_no_secret():
    text = (GITHUB / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert "secrets." not in text
    assert not any("with" in step for step in workflow()["jobs"]["publish"]["steps"][1:])


def test_only_the_job_that_publishes_may_identify_itself():
    jobs = workflow()["jobs"]
    assert workflow()["permissions"] == {"contents": "read"}
    assert {name: job.get("permissions") for name, job in jobs.items()} == {
        "build": None,
        "publish": {"id-token": "write"},
    }
    assert (jobs["publish"]["needs"], jobs["publish"]["environment"]) == ("build", "pypi")


def test_it_is_tested_before_it_is_published():
    jobs = workflow()["jobs"]
    steps = [step.get("run", step.get("uses", "")) for step in jobs["build"]["steps"]]
    assert steps.index("bash .ci/run") < steps.index("python -m build")
    assert "\ntests release\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [step["uses"].partition("@")[0] for step in jobs["publish"]["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]


@pytest.mark.parametrize("name", ["SECURITY.md", "CONTRIBUTING.md"])
def test_pages_for_github_lead_somewhere(name: str):
    text = (GITHUB / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links
    assert [link for link in links if not (GITHUB / link).exists()] == []
