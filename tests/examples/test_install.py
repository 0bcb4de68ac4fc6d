# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The quick start on a machine that has nothing but Python: its installation too is typed."""

from __future__ import annotations

from pathlib import Path

from support.otlp import OtlpReceiver
from support.shell import Collector, type_quick_start


def names(receiver: OtlpReceiver) -> list[str]:
    return [span.name for span in sorted(receiver.spans, key=lambda span: span.start)]


def test_the_quick_start_from_an_empty_directory(tmp_path: Path) -> None:
    with Collector() as collector:
        typed = type_quick_start(tmp_path, collector.endpoint, install=True)
    assert (tmp_path / ".venv").is_dir()
    assert '"name": "publish orders.*.created"' in typed["console"].stdout
    once = ["publish orders.*.created", "process orders.*.created", "request prices.*", "process prices.*", "reply"]
    assert [name for name in names(collector) if not name.startswith("connect ")] == once * 2
    assert [record.body.string_value for record in collector.records] == ["orders.8812.created costs 9.90"]
    assert collector.faults == []
