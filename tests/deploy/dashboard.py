# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Draws the dashboard as Grafana would show it over the example's data: `python tests/deploy/dashboard.py [SECONDS]`.

The example runs under a real Prometheus, and for a while without its server. Each panel's queries are run, and plotted.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from support.prometheus import Prometheus, Series
from support.server import NatsServer
from support.shop import Shop

DASHBOARDS = Path(__file__).resolve().parent.parent.parent / "docs" / "dashboards"
PICTURE = DASHBOARDS / "dashboard.svg"
JOB = "shop"
SCRAPE_INTERVAL = 1.0
STEP = 2
"""Seconds between two points."""
RATE_INTERVAL = 10
"""Seconds, what Grafana makes of `$__rate_interval`."""
UNITS = {"Bps": "B/s", "cps": "per second", "s": "seconds"}
LONGEST_LEGEND = 6


@dataclass(frozen=True)
class Line:
    """A series under its name in the legend."""

    name: str
    points: list[tuple[float, float]]


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard, rows too."""
    return json.loads((DASHBOARDS / "grafana.json").read_text(encoding="utf-8"))["panels"]


@contextmanager
def shop_under_prometheus() -> Iterator[tuple[Prometheus, NatsServer]]:
    """The Prometheus example, scraped, and its server."""
    server = NatsServer()
    server.start()
    try:
        with Prometheus(interval=SCRAPE_INTERVAL) as prometheus, Shop(NATS_URL=server.url) as shop:
            prometheus.scrape(JOB, urlsplit(shop.url).netloc)
            prometheus.wait_for("nats_client_connections")
            yield prometheus, server
    finally:
        server.close()


def lines(prometheus: Prometheus, target: dict[str, Any], start: float, end: float, step: float = STEP) -> list[Line]:
    """Runs a target of a panel.

    Args:
        prometheus: Where.
        target: A query, and the form of its legend.
        start: Seconds since the epoch.
        end: Likewise.
        step: Seconds between two points.
    """
    query = target["expr"].replace("$__rate_interval", f"{RATE_INTERVAL}s")
    query = query.replace("$job", JOB).replace("$instance", ".*")
    return [_line(target["legendFormat"], series) for series in prometheus.query_range(query, start, end, step)]


def _line(legend: str, series: Series) -> Line:
    labels, points = series
    name = re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend)
    return Line(" ".join(name.split()), points)


def draw(data: dict[int, list[Line]], start: float, end: float) -> None:
    """Writes the picture.

    Args:
        data: The lines of each panel, by its id.
        start: Seconds since the epoch.
        end: Likewise.
    """
    from matplotlib import pyplot, rcParams  # noqa: PLC0415 (the tests do not draw)

    rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "dashboard", "font.sans-serif": ["DejaVu Sans", "Verdana"]}
    )
    # Simplified harder than by default: half the size, and no difference to the eye.
    rcParams.update({"path.simplify_threshold": 0.5})
    rcParams.update({"font.size": 7, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True})
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels())
    figure = pyplot.figure(figsize=(14, height * 0.28))
    figure.suptitle("NATS clients", x=0.01, y=0.995, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.text(0.11, 0.9935, f"Job: {JOB}   Instance: All", va="top", fontsize=8, color="#444444")

    for panel in panels():
        at = panel["gridPos"]
        left, top = at["x"] / 24, 0.985 - 0.985 * at["y"] / height
        if panel["type"] == "row":
            figure.text(left + 0.01, top - 0.012, panel["title"], fontsize=10, fontweight="bold", color="#444444")
            continue
        tall = 0.985 * at["h"] / height
        axes = figure.add_axes((left + 0.035, top - tall * 0.68, at["w"] / 24 - 0.05, tall * 0.54))
        _plot(axes, panel, data[panel["id"]], start, end)
    figure.savefig(PICTURE, metadata={"Date": None, "Title": "The dashboard over the data of the Prometheus example"})
    # Lines that end in blanks would show up in every review.
    text = "\n".join(line.rstrip() for line in PICTURE.read_text(encoding="utf-8").splitlines())
    # A hundredth of a point is finer than any screen.
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    PICTURE.write_text(f"{text}\n", encoding="utf-8")


def _plot(axes: Any, panel: dict[str, Any], found: list[Line], start: float, end: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    times = range(0, int(end - start) + 1, STEP)
    # A gap stays a gap: Grafana connects no points over it.
    values = [[dict(line.points).get(start + at, math.nan) for at in times] for line in found]
    names = [line.name for line in found]
    if defaults["custom"]["stacking"]["mode"] == "normal":
        zeros = [[0 if math.isnan(value) else value for value in each] for each in values]
        axes.stackplot(times, *zeros, labels=names, alpha=0.5)
    else:
        for name, each in zip(names, values, strict=True):
            axes.plot(times, each, lw=1, label=name)
    axes.set_title(panel["title"], loc="left", fontsize=8, fontweight="bold")
    axes.set_xlim(0, end - start)
    axes.set_ylim(bottom=0)
    axes.tick_params(length=2, labelsize=6)
    axes.xaxis.set_major_formatter(lambda seconds, _: f"{int(seconds) // 60}:{int(seconds) % 60:02}")
    if defaults["unit"] == "percentunit":
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    else:
        axes.set_ylabel(UNITS.get(defaults["unit"], ""), fontsize=6)
    axes.grid(axis="y", lw=0.3)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > LONGEST_LEGEND:
        handles, names = handles[:LONGEST_LEGEND], [*names[: LONGEST_LEGEND - 1], f"... {len(names)} in all"]
    columns = 1 if max(map(len, names), default=0) > 34 else 2
    axes.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(-0.08, -0.12),
        ncols=columns,
        frameon=False,
        fontsize=6,
        labelspacing=0.25,
        borderpad=0,
        handlelength=1.2,
    )


def main(seconds: float) -> None:
    """Lets the example run, with a quarter of the time without its server, and draws."""
    with shop_under_prometheus() as (prometheus, server):
        time.sleep(RATE_INTERVAL)
        start = math.ceil(time.time())
        time.sleep(seconds / 2)
        server.stop()
        time.sleep(seconds / 8)
        server.start()
        time.sleep(seconds * 3 / 8)
        end = start + seconds
        shown = [panel for panel in panels() if panel["type"] != "row"]
        data = {
            panel["id"]: [line for target in panel["targets"] for line in lines(prometheus, target, start, end)]
            for panel in shown
        }
    draw(data, start, end)
    print(PICTURE)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 180.0)
