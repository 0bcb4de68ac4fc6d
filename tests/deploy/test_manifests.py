# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The files of docs/deploy, checked by the tools that know their formats."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from support.deployment import DEPLOY, RULES, load, manifests, server_configuration, services
from support.prometheus import find_tool, promtool
from support.server import find_server

CORE = ("v1", "apps/v1")
OPERATORS = ("monitoring.coreos.com/", "opentelemetry.io/")
YAML_RULES = """
extends: default
rules:
  comments: {min-spaces-from-content: 1}
  document-start: disable
  line-length: disable
"""


def run(*command: str | Path, **options: Any) -> str:
    """Runs a tool of this environment, or of PATH; fails with what it says."""
    name, *arguments = map(str, command)
    program = shutil.which(name, path=Path(sys.executable).parent) or find_tool(name)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_yaml_is_tidy(tmp_path: Path):
    rules = tmp_path / "yamllint.yaml"
    rules.write_text(YAML_RULES, encoding="utf-8")
    files = [*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml"), RULES]
    run("yamllint", "--strict", "--config-file", rules, *files)


@pytest.mark.parametrize("file", sorted(DEPLOY.rglob("Dockerfile")), ids=lambda file: file.parent.name)
def test_dockerfiles(file: Path):
    run("hadolint", file)


def test_compose_file():
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


@pytest.mark.parametrize("version", ["1.31", "1.34", None])
def test_kubernetes_own_kinds(version: str | None):
    core = [manifest for manifest in manifests() if manifest["apiVersion"] in CORE]
    assert len(core) == 6
    for manifest in core:
        kubernetes_validate.validate(manifest, version or kubernetes_validate.latest_version(), strict=True)


def validate_by_models(found: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    models = os.environ.get("KUBERNETES_MODELS", "")
    if not Path(models, "node_modules").is_dir():
        # `find_tool` skips, or fails in CI, in words of its own.
        find_tool("the schemas of the operators")
    return subprocess.run(
        [find_tool("node"), str(Path(__file__).with_name("validate.mjs"))],
        input=json.dumps(found),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_kinds_of_the_operators():
    found = [manifest for manifest in manifests() if manifest["apiVersion"].startswith(OPERATORS)]
    assert {manifest["kind"] for manifest in found} == {
        "Instrumentation",
        "OpenTelemetryCollector",
        "PrometheusRule",
        "ServiceMonitor",
    }
    done = validate_by_models(found)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(found)


def test_a_wrong_kind_of_value_is_found():
    [monitor] = [copy.deepcopy(manifest) for manifest in manifests() if manifest["kind"] == "ServiceMonitor"]
    monitor["spec"]["endpoints"][0]["honorLabels"] = "yes"
    done = validate_by_models([monitor])
    assert done.returncode != 0 and "honorLabels" in done.stderr


def test_every_manifest_is_checked_by_one_of_them():
    for manifest in manifests():
        assert manifest["apiVersion"] in CORE or manifest["apiVersion"].startswith(OPERATORS)


def test_prometheus_reads_its_configuration(tmp_path: Path):
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    [pattern] = load(DEPLOY / "prometheus" / "prometheus.yml")["rule_files"]
    file = tmp_path / "prometheus.yml"
    file.write_text(text.replace(pattern, str(RULES)), encoding="utf-8")
    assert "SUCCESS: 1 rule files found" in promtool("check", "config", file)


def test_prometheus_knows_its_options():
    known = run("prometheus", "--help")
    for option in services()["prometheus"]["command"]:
        assert option.split("=")[0] in known


@pytest.mark.parametrize("where", ["compose", "chart"])
def test_nats_server_reads_its_configuration(tmp_path: Path, where: str):
    of_compose = DEPLOY / "nats" / "nats-server.conf"
    text = of_compose.read_text(encoding="utf-8") if where == "compose" else server_configuration()[1:-1]
    file = tmp_path / "nats-server.conf"
    file.write_text(text, encoding="utf-8")
    env = services()["nats"]["environment"]
    done = subprocess.run([find_server(), "-t", "-c", str(file)], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    # It says so where a variable has no value.
    without = subprocess.run([find_server(), "-t", "-c", str(file)], env={}, capture_output=True, text=True, timeout=30)
    assert "SHOP_PASSWORD" in without.stderr and without.returncode != 0
