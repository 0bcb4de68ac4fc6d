# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The demo on a cluster, as its user runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.docs import DOCS
from support.examples import pictured
from support.otlp import OtlpReceiver, ReceivedSpan

pytest.importorskip("nats.micro", reason="the demo has a micro service, which this nats-py has not")
pytestmark = pytest.mark.skipif("NATS_SERVERS" not in os.environ, reason="takes 10 s: tox -e server-trace")

SERVERS = {"n1", "n2", "n3"}


def test_the_hops_are_in_the_trees() -> None:
    with OtlpReceiver() as backend:
        env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        finished = subprocess.run(
            [sys.executable, str(DOCS / "examples" / "demo"), "--server-trace"],
            env=env | {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
    assert (finished.stderr, finished.returncode) == ("", 0)
    by_id = {span.span_id: span for span in backend.spans}
    of_servers = [span for span in backend.spans if span.service == "nats-server"]
    assert {span.resource["nats.server.name"] for span in of_servers} == SERVERS
    assert all(span.parent_span_id in by_id for span in of_servers)

    def below(span: ReceivedSpan) -> set[str]:
        children = [child for child in backend.spans if child.parent_span_id == span.span_id]
        return {child.name for child in children} | {name for child in children for name in below(child)}

    published = backend.named("publish orders.*.created")
    assert len(published) == 3
    for span in published:
        assert {"ingress orders.*.created", "store orders", "process orders.*.created"} <= below(span)
    answered = [span for span in backend.named("request inventory.reserve")]
    assert len(answered) == 4
    for span in answered:
        hops = {"ingress inventory.reserve", "route inventory.reserve", "deliver inventory.reserve"}
        assert hops | {"process inventory.reserve", "reply", "ingress", "route", "deliver"} <= below(span)
    for name in ("nats n1", "nats n2", "nats n3"):
        assert f" {name} " in finished.stdout


def test_the_picture_shows_them() -> None:
    shown = pictured("server-trace")
    for words in ("POST /orders", "ingress orders.*.created", "route inventory.reserve", "store orders", "nats n2"):
        assert words in shown
