# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The alerts in a real Prometheus: provoked by programs in trouble, and their times on invented series."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from alert_cases import CASES

from support.prometheus import Prometheus, faster, promtool
from support.server import NatsServer

HERE = Path(__file__).resolve().parent
RULES = HERE.parent.parent / "docs" / "alerts" / "prometheus-rules.yml"
FASTER = 60
"""A minute of the rules is a second here."""
TIMEOUT = 120.0
STATE = "nats_client_connection_state"

EXPECTED = {
    ("drops", "NatsSlowConsumerDrops"),
    ("backlog", "NatsJetStreamBacklogGrowing"),
    ("stalls", "NatsJetStreamConsumerStalled"),
    ("refuses", "NatsJetStreamRedeliveries"),
    ("refuses", "NatsMessagesRefused"),
    ("exhausts", "NatsJetStreamDeadLetters"),
    ("exhausts", "NatsJetStreamRedeliveries"),
    ("exhausts", "NatsMessagesRefused"),
    ("hangs", "NatsHandlerHung"),
    ("fails", "NatsHandlerErrors"),
    ("dawdles", "NatsHandlersSlow"),
    ("dawdles", "NatsSendsSlow"),
    ("stumbles", "NatsReconnectStorm"),
    ("down", "NatsConnectionDown"),
    ("down", "NatsNotConnected"),
    ("gives-up", "NatsConnectionGivenUp"),
    ("crashes", "NatsProcessGone"),
}


def alerts() -> set[str]:
    """The names of all alerts."""
    return {rule["alert"] for rule in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]}


class Troubled:
    """One of the programs of `troubled.py`, in a process of its own."""

    def __init__(self, trouble: str, url: str, attempts: int = -1) -> None:
        command = [sys.executable, str(HERE / "troubled.py"), trouble, url, str(attempts)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def address(self) -> str:
        """Where its metrics are; waits until it is up."""
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextmanager
def server() -> Iterator[NatsServer]:
    running = NatsServer()
    running.start()
    try:
        yield running
    finally:
        running.close()


def eventually(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


class TestProvoked:
    def test_each_trouble_has_its_alerts_and_no_other(self):
        rules = faster(yaml.safe_load(RULES.read_text(encoding="utf-8")), FASTER)
        with ExitStack() as stack:
            stays, goes = stack.enter_context(server()), stack.enter_context(server())
            prometheus = stack.enter_context(Prometheus(rules))
            programs: dict[str, Troubled] = {}

            def start(job: str, trouble: str, of: NatsServer = stays, attempts: int = -1) -> None:
                programs[job] = Troubled(trouble, of.url, attempts)
                stack.callback(programs[job].kill)

            for trouble in ("healthy", "drops", "backlog", "stalls", "refuses", "fails", "dawdles", "stumbles"):
                start(trouble, trouble)
            for trouble in ("exhausts", "hangs", "closes", "ends", "leaves"):
                start(trouble, trouble)
            start("crashes", "idles")
            start("down", "idles", goes)
            start("gives-up", "idles", goes, attempts=20)
            for job, program in programs.items():
                prometheus.scrape(job, program.address())

            for job in ("crashes", "down", "gives-up", "leaves"):
                prometheus.wait_for(f'nats_client_connections{{job="{job}", {STATE}="connected"}} == 1')
            programs["crashes"].process.kill()
            goes.stop()
            # Prometheus looks at its list every five seconds: two minutes of the rules are shorter here.
            prometheus.forget("leaves")
            prometheus.wait_for('absent(up{job="leaves"})')
            programs["leaves"].process.terminate()

            eventually(lambda: prometheus.fired() >= EXPECTED, lambda: f"missing: {EXPECTED - prometheus.fired()}")
            # What closed on purpose was seen to have closed, and has ended, while all of them fired.
            assert prometheus.query('sum(nats_client_connections{job="closes"}) == 0')
            assert programs["ends"].process.wait(timeout=TIMEOUT) == 0
            # Before it gives up, a client tries.
            assert prometheus.fired() - EXPECTED <= {
                ("gives-up", "NatsConnectionDown"),
                ("gives-up", "NatsNotConnected"),
            }

            goes.start()
            prometheus.wait_for('absent(ALERTS{job="down", alertstate="firing"})')

    def test_no_alert_is_left_out(self):
        assert {name for _, name in EXPECTED} == alerts()


class TestTimes:
    def test_rules_are_rules(self):
        promtool("check", "rules", RULES)

    def test_thresholds_and_times(self, tmp_path: Path):
        tests = {"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": [case.as_test() for case in CASES]}
        file = tmp_path / "times.yml"
        file.write_text(yaml.safe_dump(tests, width=1000), encoding="utf-8")
        promtool("test", "rules", file)

    def test_each_alert_has_a_time(self):
        assert {alert for case in CASES for alerts in case.firing.values() for alert in alerts} == alerts()
