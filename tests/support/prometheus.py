# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A real Prometheus in a process of its own, and its tool.

Both come with Debian's package `prometheus`; `tox -e deploy` gets it. Nothing else needs them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
POLL_INTERVAL = 0.1

Series = tuple[dict[str, str], list[tuple[float, float]]]
"""The labels of a series, and its values with their times in seconds since the epoch."""


def find_tool(name: str) -> str:
    """Path of a program that the test needs; skips the test where there is none, but fails it in CI.

    Args:
        name: Its name on PATH.
    """
    found = shutil.which(name)
    if found is None:
        reason = f"no {name} on PATH; `tox -e deploy` gets what the deployment's tests need"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def promtool(*arguments: str | Path) -> str:
    """Runs promtool.

    Args:
        arguments: What to check: `check rules FILE`, `check config FILE`, `test rules FILE`.

    Returns:
        What it says.

    Raises:
        AssertionError: It is not content.
    """
    command = [find_tool("promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Prometheus:
    """A Prometheus that scrapes processes of this machine; a context manager.

    Args:
        rules: Rules in Prometheus's format, if any.
        interval: Seconds between two scrapes, and between two evaluations of the rules.
    """

    def __init__(self, rules: Mapping[str, Any] | None = None, *, interval: float = 0.5) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
        self._targets: dict[str, str] = {}
        self._targets_file = self._folder / "targets.json"
        self._write_targets()
        every = f"{round(interval * 1000)}ms"
        config: dict[str, Any] = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "scrape_configs": [
                {
                    "job_name": "file",
                    "file_sd_configs": [{"files": [str(self._targets_file)], "refresh_interval": "1s"}],
                }
            ],
        }
        if rules is not None:
            file = self._folder / "rules.yml"
            file.write_text(yaml.safe_dump(rules), encoding="utf-8")
            config["rule_files"] = [str(file)]
        self._config = self._folder / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(config), encoding="utf-8")

    def __enter__(self) -> Prometheus:
        log = self._folder / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    find_tool("prometheus"),
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.url = self._wait_for_url(log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def scrape(self, job: str, address: str) -> None:
        """Scrapes one more target, from soon on.

        Args:
            job: Its job.
            address: Its host and port; /metrics is its path.
        """
        self._targets[job] = address
        self._write_targets()

    def forget(self, job: str) -> None:
        """Has a target no more, as after service discovery took it away."""
        del self._targets[job]
        self._write_targets()

    def query(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values of a query now."""
        result = self._get("query", query=query)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def query_range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        """The series of a query from `start` to `end`, in seconds since the epoch."""
        result = self._get("query_range", query=query, start=start, end=end, step=step)["result"]
        return [(one["metric"], [(float(at), float(value)) for at, value in one["values"]]) for one in result]

    def fired(self) -> set[tuple[str, str]]:
        """Job and name of each alert that has fired so far."""
        labels = [series for series, _ in self.query('count_over_time(ALERTS{alertstate="firing"}[1h])')]
        return {(each["job"], each["alertname"]) for each in labels}

    def wait_for(self, query: str, timeout: float = 30.0) -> None:
        """Waits until a query has a result."""
        deadline = time.monotonic() + timeout
        while not self.query(query):
            assert time.monotonic() < deadline, f"no result of {query}"
            time.sleep(POLL_INTERVAL)

    def _wait_for_url(self, log: Path) -> str:
        deadline = time.monotonic() + START_TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline:
            found = re.search(r'msg="Listening on" address=(\S+)', log.read_text(errors="replace"))
            if found and self._is_ready(f"http://{found[1]}"):
                return f"http://{found[1]}"
            time.sleep(POLL_INTERVAL)
        raise AssertionError(f"prometheus did not start\n{log.read_text(errors='replace')}")

    def _is_ready(self, url: str) -> bool:
        try:
            with urlopen(f"{url}/-/ready", timeout=5):
                return True
        except URLError:
            return False

    def _write_targets(self) -> None:
        groups = [{"targets": [address], "labels": {"job": job}} for job, address in self._targets.items()]
        new = self._targets_file.with_suffix(".new")
        new.write_text(json.dumps(groups), encoding="utf-8")
        new.replace(self._targets_file)

    def _get(self, what: str, **parameters: Any) -> dict[str, Any]:
        with urlopen(f"{self.url}/api/v1/{what}?{urlencode(parameters)}", timeout=10) as response:
            return json.loads(response.read())["data"]


def faster(rules: Mapping[str, Any], times: float) -> dict[str, Any]:
    """Rules in which each duration is so many times shorter: for alerts that a test has no hours to wait for.

    Args:
        rules: Rules in Prometheus's format.
        times: How many times.
    """

    def shorter(match: re.Match[str]) -> str:
        seconds = int(match[2]) * {"s": 1, "m": 60, "h": 3600}[match[3]]
        return f"{match[1]}{round(seconds * 1000 / times)}ms"

    def changed(rule: Mapping[str, Any]) -> dict[str, Any]:
        new = {**rule, "expr": re.sub(r"(\[|offset )(\d+)([smh])\b", shorter, rule["expr"])}
        if "for" in rule:
            new["for"] = re.sub(r"()(\d+)([smh])", shorter, rule["for"])
        return new

    return {"groups": [{**group, "rules": list(map(changed, group["rules"]))} for group in _groups(rules)]}


def _groups(rules: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return rules["groups"]
