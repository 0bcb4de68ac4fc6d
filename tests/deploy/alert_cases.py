# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""When each alert fires, and when not, on invented series with one value a minute, as promtool writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

JOB = 'job="shop", instance="a"'
STREAM = f'{JOB}, messaging_nats_jetstream_stream="orders", messaging_nats_jetstream_consumer="billing"'
PROCESS = (
    f'messaging_process_duration_seconds_%s{{{JOB}, messaging_system="nats", messaging_destination_name="orders"%s}}'
)
SEND = (
    f"messaging_client_operation_duration_seconds_bucket{{{JOB}, "
    'messaging_system="nats", messaging_operation_type="send", messaging_operation_name="request", le="%s"}'
)
DELIVERIES = f"nats_jetstream_delivery_latency_seconds_count{{{STREAM}}}"
PENDING = f"nats_jetstream_consumer_pending{{{STREAM}}}"
PROCESSING = f'nats_client_processing_messages{{{JOB}, messaging_destination_name="orders"}}'
DROPPED = f'nats_client_messages_dropped_total{{{JOB}, messaging_destination_name="orders"}}'


def connections(state: str, server: str = "n1") -> str:
    return f'nats_client_connections{{{JOB}, server_address="{server}", nats_client_connection_state="{state}"}}'


def reconnects(server: str = "n1") -> str:
    return f'nats_client_reconnects_total{{{JOB}, server_address="{server}"}}'


@dataclass(frozen=True)
class Case:
    """Series, and the alerts that fire at some times.

    Attributes:
        what: What happens.
        series: Values of each series, in promtool's notation.
        firing: The names of all alerts that fire, by time.
    """

    what: str
    series: dict[str, str]
    firing: dict[str, set[str]]

    def as_test(self) -> dict[str, Any]:
        """As promtool takes it."""
        return {
            "name": self.what,
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in self.series.items()],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": time,
                    "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)],
                }
                for time, names in self.firing.items()
            ],
        }


CASES = [
    Case(
        "the only connection is lost, and comes back",
        {connections("connected"): "1x4 0x20 1x20", connections("reconnecting"): "0x4 1x20 0x20"},
        {
            "5m": set(),
            "6m": {"NatsConnectionDown"},
            "7m": {"NatsConnectionDown", "NatsNotConnected"},
            "27m": set(),
        },
    ),
    Case(
        "one connection of two is lost",
        {connections("connected"): "2x4 1x20", connections("reconnecting"): "0x4 1x20"},
        {"20m": {"NatsConnectionDown"}},
    ),
    Case(
        "the program closes its client and lives on",
        {connections("connected"): "1x4 0x90", connections("reconnecting"): "0x95", reconnects(): "0x95"},
        {"6m": set(), "10m": set(), "60m": set()},
    ),
    Case(
        "a client gives up",
        {connections("connected"): "1x4 0x90", connections("reconnecting"): "0x4 1 0x90", reconnects(): "0x95"},
        {"6m": set(), "7m": {"NatsConnectionGivenUp"}, "60m": {"NatsConnectionGivenUp"}, "70m": set()},
    ),
    Case(
        "a client reconnects, and is closed",
        {
            connections("connected"): "1x4 0 1x4 0x60",
            connections("reconnecting"): "0x4 1 0x65",
            reconnects(): "0x5 1x65",
        },
        {"12m": set(), "30m": set()},
    ),
    Case(
        "a client reconnects to another server, and is closed",
        {
            connections("connected"): "1x4 0x70",
            connections("connected", "n2"): "_x6 1x4 0x60",
            connections("reconnecting"): "0x4 1 0x65",
            reconnects(): "0x70",
            reconnects("n2"): "_x6 1x65",
        },
        {"12m": set(), "30m": set()},
    ),
    Case(
        "a scraped process crashes",
        {connections("connected"): "1x4 stale", f"up{{{JOB}}}": "1x4 0x90"},
        {"6m": set(), "7m": {"NatsProcessGone"}, "60m": {"NatsProcessGone"}, "70m": set()},
    ),
    Case(
        "a process that pushes crashes",
        {connections("connected"): "1x4 stale"},
        {"6m": set(), "7m": {"NatsProcessGone"}},
    ),
    Case(
        "a process closes its client, and ends",
        {connections("connected"): "1x4 0 stale"},
        {"10m": set(), "30m": set()},
    ),
    Case(
        "a process ends, and its target is taken away a minute later",
        {connections("connected"): "1x4 stale", f"up{{{JOB}}}": "1x4 0 stale"},
        {"7m": set(), "10m": set(), "30m": set()},
    ),
    Case(
        "six reconnects in ten minutes",
        {reconnects(): "0 1+1x5 6x30"},
        {"4m": set(), "7m": {"NatsReconnectStorm"}, "20m": set()},
    ),
    Case("the first drops", {DROPPED: "_x5 3x20"}, {"4m": set(), "5m": {"NatsSlowConsumerDrops"}, "11m": set()}),
    Case("more drops", {DROPPED: "3x9 4x20"}, {"9m": set(), "10m": {"NatsSlowConsumerDrops"}, "16m": set()}),
    Case(
        "a backlog grows",
        {PENDING: "2000+10x60", DELIVERIES: "0+1x60"},
        {"15m": set(), "20m": {"NatsJetStreamBacklogGrowing"}},
    ),
    Case("a small backlog grows", {PENDING: "1+10x60", DELIVERIES: "0+1x60"}, {"50m": set()}),
    Case("a backlog shrinks", {PENDING: "5000-10x60", DELIVERIES: "0+1x60"}, {"50m": set()}),
    Case(
        "nothing is delivered of what is pending",
        {PENDING: "5x60", DELIVERIES: "0+1x10 10x50"},
        {"15m": set(), "27m": {"NatsJetStreamConsumerStalled"}},
    ),
    Case("nothing is pending", {PENDING: "0x60", DELIVERIES: "0+1x10 10x50"}, {"27m": set(), "50m": set()}),
    Case(
        "every fifth delivery is repeated",
        {DELIVERIES: "0+10x60", f"nats_jetstream_redeliveries_total{{{STREAM}}}": "0+2x60"},
        {"10m": set(), "13m": {"NatsJetStreamRedeliveries"}},
    ),
    Case(
        "every tenth delivery is repeated",
        {DELIVERIES: "0+10x60", f"nats_jetstream_redeliveries_total{{{STREAM}}}": "0+1x60"},
        {"50m": set()},
    ),
    Case(
        "a message is delivered for the last time",
        {f"nats_jetstream_dead_letters_total{{{STREAM}}}": "0x10 1x50"},
        {"10m": set(), "13m": {"NatsJetStreamDeadLetters"}, "30m": set()},
    ),
    Case(
        "every tenth message fails",
        {PROCESS % ("count", ""): "0+90x60", PROCESS % ("count", ', error_type="ValueError"'): "0+10x60"},
        {"5m": set(), "8m": {"NatsHandlerErrors"}},
    ),
    Case(
        "every fiftieth message fails",
        {PROCESS % ("count", ""): "0+98x60", PROCESS % ("count", ', error_type="ValueError"'): "0+2x60"},
        {"30m": set()},
    ),
    Case(
        "a handler hangs",
        {PROCESSING: "0 1x60", PROCESS % ("count", ""): "0+1x5 5x60"},
        {"15m": set(), "22m": {"NatsHandlerHung"}},
    ),
    Case("a handler hangs at the first message", {PROCESSING: "0 1x60"}, {"10m": set(), "17m": {"NatsHandlerHung"}}),
    Case("a handler is always busy", {PROCESSING: "1x60", PROCESS % ("count", ""): "0+1x60"}, {"50m": set()}),
    Case("a handler is idle", {PROCESSING: "0x60", PROCESS % ("count", ""): "5x60"}, {"50m": set()}),
    Case(
        "every fifth message is refused",
        {
            PROCESS % ("count", ', messaging_nats_jetstream_settlement="ack"'): "0+80x60",
            PROCESS % ("count", ', messaging_nats_jetstream_settlement="term"'): "0+10x60",
            PROCESS % ("count", ', messaging_nats_jetstream_settlement="nak"'): "0+10x60",
        },
        {"10m": set(), "13m": {"NatsMessagesRefused"}},
    ),
    Case(
        "every twentieth message is refused",
        {
            PROCESS % ("count", ', messaging_nats_jetstream_settlement="ack"'): "0+95x60",
            PROCESS % ("count", ', messaging_nats_jetstream_settlement="nak"'): "0+5x60",
        },
        {"50m": set()},
    ),
    Case(
        "every tenth message takes two seconds",
        {
            PROCESS % ("bucket", ', le="1"'): "0+9x60",
            PROCESS % ("bucket", ', le="2.5"'): "0+10x60",
            PROCESS % ("bucket", ', le="+Inf"'): "0+10x60",
        },
        {"10m": set(), "13m": {"NatsHandlersSlow"}},
    ),
    Case(
        "every tenth request takes two seconds",
        {SEND % "1": "0+9x60", SEND % "2.5": "0+10x60", SEND % "+Inf": "0+10x60"},
        {"10m": set(), "13m": {"NatsSendsSlow"}},
    ),
    Case(
        "every request takes half a second",
        {SEND % "0.5": "0+10x60", SEND % "1": "0+10x60", SEND % "+Inf": "0+10x60"},
        {"30m": set()},
    ),
]
