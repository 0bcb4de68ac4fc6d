# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""An OpenTelemetry older than what the package needs: one line in the log, and the program runs as without us."""

from __future__ import annotations

import re
from importlib import metadata

import pytest

from opentelemetry.instrumentation import nats as package
from opentelemetry.instrumentation.nats import _floor
from support.processes import run

# The releases that the lines name, as far as the package can tell: their versions, without what came later.
PROGRAM = """
import logging, sys

RELEASES = {releases!r}
LATER = {later!r}

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(LATER):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

from opentelemetry import metrics, trace
import opentelemetry.instrumentation.instrumentor  # this one needs the later modules itself

for name in [name for name in sys.modules if name.startswith(LATER)]:
    del sys.modules[name]
sys.meta_path.insert(0, Without())
for module, version in RELEASES.items():
    __import__(module)
    sys.modules[module].__version__ = version

from opentelemetry.instrumentation import nats as package
from opentelemetry.instrumentation.nats import *

def old_create_histogram(self, name, unit="", description=""):
    raise AssertionError("nothing is measured")

metrics.Meter.create_histogram = old_create_histogram
logging.basicConfig(format="%(levelname)s %(message)s")
assert NATSInstrumentor is NatsInstrumentor
NatsInstrumentor().instrument(publish_hook=print, unknown=1)
NatsInstrumentor().instrument()

import nats.js.client
from nats.aio.client import Client

bare = Client.publish.__module__, nats.js.client.JetStreamContext.publish.__module__
assert bare == ("nats.aio.client", "nats.js.client"), bare

def annotated(options: InstrumentOptions, hook: PublishHook) -> OutgoingMessage: ...

with process_message(object()) as span:
    assert span is trace.INVALID_SPAN
assert message_context(object()) == {{}}
NatsInstrumentor().uninstrument()
try:
    package.no_such_name
except AttributeError:
    print(sorted(name for name in package.__all__ if getattr(package, name) is None))
"""

OLD = {
    "1.29": ({"opentelemetry.version": "1.29.0"}, ("none",)),
    "1.20": (
        {"opentelemetry.version": "1.20.0", "opentelemetry.instrumentation.version": "0.41b0"},
        ("opentelemetry.semconv.attributes", "opentelemetry.semconv._incubating"),
    ),
    "0.50b0 beside a new API": ({"opentelemetry.instrumentation.version": "0.50b0"}, ("none",)),
    "conventions 0.33b0": (
        {"opentelemetry.semconv.version": "0.33b0"},
        ("opentelemetry.semconv.attributes", "opentelemetry.semconv._incubating", "opentelemetry.semconv.schemas"),
    ),
}

FIRST = {
    "1.29": "opentelemetry-api is 1.29.0, and 1.30",
    "1.20": "opentelemetry-api is 1.20.0, and 1.30",
    "0.50b0 beside a new API": "opentelemetry-instrumentation is 0.50b0, and 0.51",
    "conventions 0.33b0": "opentelemetry-semantic-conventions is 0.33b0, and 0.51",
}


@pytest.mark.parametrize("case", OLD)
async def test_an_older_release_costs_one_line_in_the_log(case: str):
    releases, later = OLD[case]
    finished = await run(PROGRAM.format(releases=releases, later=later), instrumented=False)
    assert (finished.returncode, finished.stdout) == (0, "[]\n"), finished.stderr
    said = f"{FIRST[case]} is the oldest that works; nats-py is not instrumented (logged once)"
    assert finished.stderr == f"WARNING nats instrumentation: {said}\n"


@pytest.mark.parametrize("version", ["1.30.0", "1.30.0.dev", "2.0", "1.100.1", "main", ""])
def test_a_release_that_is_new_enough_or_unknown_is_instrumented(version: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("opentelemetry.version.__version__", version)
    assert _floor.too_old() == ""


def test_the_floor_is_what_pip_is_told():
    needed = dict(
        match.groups()
        for requirement in metadata.requires("opentelemetry-instrumentation-nats") or ()
        if "extra ==" not in requirement
        and (match := re.match(r"(opentelemetry-[\w-]+).*>=\s*(\d+\.\d+)", requirement))
    )
    assert needed == {name: f"{oldest[0]}.{oldest[1]}" for name, oldest in _floor._OLDEST.values()}


def test_every_exported_name_has_a_stand_in():
    assert [name for name in package.__all__ if _floor.stand_in(name) is None] == []
    with pytest.raises(AttributeError):
        _floor.stand_in("no_such_name")
