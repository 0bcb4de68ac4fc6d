# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A later nats-py renames what is private, one name at a time: that may cost telemetry, and nothing else."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from opentelemetry.instrumentation.nats._patches import _nats
from support.patched import VERSION, rows
from support.server import NatsServer

NEWEST = (2, 16)

# Public, or only of nats-py's own concern: a release may rename them all the same.
OTHERS = (
    "Endpoint",
    "KeyWatcher",
    "ObjectWatcher",
    "PullSubscription",
    "PushSubscription",
    "StopIterSentinel",
    "_handle_info_request",
    "_handle_ping_request",
    "_handle_request",
    "_handle_stats_request",
    "_request_sub_callback",
    "watch_updates",
)

# Not renamed: `_ws`, `_io_writer` are read of a transport, which may be the user's own; the rest is not nats-py's.
NOT_OF_NATS = {"_client", "_is_application"}

PRIVATE = re.compile(r"_[a-zA-Z]\w*").fullmatch


def read_names() -> Iterator[str]:
    """Yields the private names that `_nats` reads and that the rows replace."""
    for node in ast.walk(ast.parse(Path(_nats.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from node.value.split(".")
        elif isinstance(node, ast.Attribute):
            yield node.attr
    for row in rows():
        yield row.name
        if row.owner is not None:
            yield from row.owner.__qualname__.split(".")
    yield "_error_cb"


# `_client` is both ours (`ClientView`) and nats-py's (`Msg`, `Service`).
NAMES = sorted({name for name in read_names() if PRIVATE(name)} | {*OTHERS, "_client"})


class Outcomes(dict[str, dict[str, Any]]):
    """What happened to each name, read as the programs tell it; the empty one is that of nats-py as it is.

    Args:
        programs: Each tells of some names, one a line.
    """

    def __init__(self, programs: list[tuple[subprocess.Popen[str], list[str]]]) -> None:
        super().__init__()
        self._programs = programs

    def __missing__(self, name: str) -> dict[str, Any]:
        [output] = [program.stdout for program, names in self._programs if name in names]
        assert output is not None
        while name not in self:
            outcome = json.loads(output.readline())
            self[outcome["name"]] = outcome
        return self[name]


@pytest.fixture(scope="module")
def outcomes(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """What happens to each name."""
    if VERSION < NEWEST:
        pytest.skip("the names are those of the newest nats-py")
    names = ["", *NAMES]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    # Two at a time, each with its own server: the exercises' names are the same in all of them.
    other = NatsServer()
    other.start()
    with closing(other), ExitStack() as stack:
        programs = []
        for number, server in enumerate((nats_server, other)):
            folder = str(tmp_path_factory.mktemp(f"nats{number}"))
            command = [sys.executable, "-u", "-m", "support.renaming", server.url, folder, *names[number::2]]
            program = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            programs.append((stack.enter_context(program), names[number::2]))
            stack.callback(program.kill)
        yield Outcomes(programs)


class TestWithoutAName:
    def test_everything_is_traced_where_all_names_are_there(self, outcomes: Outcomes):
        outcome = outcomes[""]
        assert "raised" not in outcome
        assert outcome["instrumented"] == outcome["bare"]
        assert outcome["log"] == []
        assert len(outcome["spans"]) > 100

    @pytest.mark.parametrize("name", NAMES)
    def test_the_program_runs_as_without_us(self, outcomes: Outcomes, name: str):
        outcome = outcomes[name]
        assert "raised" not in outcome, outcome.get("raised")
        assert outcome["instrumented"] == outcome.get("bare", outcomes[""]["bare"])

    @pytest.mark.parametrize("name", NAMES)
    def test_only_telemetry_is_lost_and_each_loss_is_logged_once(self, outcomes: Outcomes, name: str):
        outcome = outcomes[name]
        assert len(outcome["log"]) == len(set(outcome["log"])) <= 4
        assert all("this nats-py has no" in line or "function in this nats-py" in line for line in outcome["log"])
        assert len(outcome["spans"]) > 40

    @pytest.mark.parametrize("name", NAMES)
    def test_no_plumbing_shows_up(self, outcomes: Outcomes, name: str):
        def names(of: str) -> set[str]:
            return {span.split(":")[0] for span in outcomes[of]["spans"]}  # without the server's port

        # What is not known of a call leaves the operation alone as its name.
        more = names(name) - names("") - {span.split(" ")[0] for span in names("")}
        if name == "_start":
            # The spans of a fetch are named after the stream then, not after what was subscribed to.
            more = {span for span in more if "jetstream-fetch-and-ack" not in span}
        assert more == set()
