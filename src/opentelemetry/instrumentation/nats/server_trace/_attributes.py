# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Names of attributes that only spans of servers and their resources have."""

from __future__ import annotations

ACCOUNT = "messaging.nats.account"
CONNECTION_KIND = "messaging.nats.connection.kind"
CONNECTION_NAME = "messaging.nats.connection.name"

HOP = "messaging.nats.trace.hop"
OUTCOME = "messaging.nats.trace.outcome"
STEPS_DROPPED = "messaging.nats.trace.steps_dropped"
STORED_AFTER = "messaging.nats.trace.stored_after"

SERVER_NAME = "nats.server.name"
SERVER_CLUSTER = "nats.server.cluster"
SERVER_DOMAIN = "nats.server.domain"
SERVER_TAGS = "nats.server.tags"

CONNECTION_KINDS = {
    0: "client",
    1: "route",
    2: "gateway",
    3: "system",
    4: "leafnode",
    5: "jetstream",
    6: "account",
}
"""The server's number of a connection's kind, in its words."""
