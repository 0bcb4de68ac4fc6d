# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What docs/deploy says, read as data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "docs" / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
RULES = ROOT / "docs" / "alerts" / "prometheus-rules.yml"


def load(file: Path) -> Any:
    """Reads a YAML file of one document."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def compose() -> dict[str, Any]:
    """The compose file, with the defaults of its variables."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(re.sub(r"\$\{\w+:-(\w+)\}", r"\1", text))


def services() -> dict[str, dict[str, Any]]:
    """The services of the compose file."""
    return compose()["services"]


def manifests() -> list[dict[str, Any]]:
    """The manifests that the kustomization lists."""
    return [load(KUBERNETES / name) for name in load(KUBERNETES / "kustomization.yaml")["resources"]]


def dockerfile(file: Path) -> dict[str, list[str]]:
    """The instructions of each stage of a Dockerfile, by the stage's name, without comments and with lines joined."""
    stages: dict[str, list[str]] = {}
    name = ""
    text = re.sub(r"^#.*\n", "", file.read_text(encoding="utf-8"), flags=re.M).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        if match := re.fullmatch(r"FROM (\S+)(?: AS (\S+))?", line):
            name = match[2] or "last"
        stages.setdefault(name, []).append(line)
    return stages


def server_configuration() -> str:
    """The chart's values for the server's configuration, in the server's format, with $VARIABLES unquoted."""
    merged = load(KUBERNETES / "nats-values.yaml")["config"]["merge"]
    return re.sub(r'"<< (\$\w+) >>"', r"\1", _as_nats(merged))


def _as_nats(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + "\n".join(f"{key}: {_as_nats(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_nats, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
