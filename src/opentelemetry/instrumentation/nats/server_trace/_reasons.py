# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Why an event, or a step of one, makes no span: the values of the attribute `reason`."""

from __future__ import annotations

OVERSIZED = "oversized"
UNDECODABLE = "undecodable"
NOT_JSON = "not_json"
MALFORMED = "malformed"
NO_INGRESS = "no_ingress"
NO_TRACE_CONTEXT = "no_trace_context"
NOT_SAMPLED = "not_sampled"
BAD_TIME = "bad_time"
DUPLICATE = "duplicate"
TOO_MANY_SERVERS = "too_many_servers"
SLOW_CONSUMER = "slow_consumer"
FAULT = "fault"

UNKNOWN_STEP = "unknown_step"
TOO_MANY_STEPS = "too_many_steps"


class Skipped(Exception):
    """An event that makes no span.

    Args:
        reason: One of the reasons above.
        detail: What the log adds to the first one of its kind: words of ours, nothing out of the event.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
