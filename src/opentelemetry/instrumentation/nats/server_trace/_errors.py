# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the server's words for a step that went wrong mean: `error.type`, or that nothing is wrong.

The words are free text with numbers and subjects in it. The table has their beginnings as servers from 2.11 to 2.15
write them (`msgtrace.go`, `stream.go`, `store.go`); what it does not know is `_OTHER`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

OTHER = "_OTHER"

_ERRORS = {
    "Permissions Violation": "permissions_violation",
    "Not delivered because publish denied": "publish_denied",
    "Not delivered because subscription denies": "subscription_denied",
    "Not delivered because subscription is closed": "subscription_closed",
    "Not delivered because client is closed": "client_closed",
    "Not delivered because fast producer": "slow_consumer",
    "Not delivered because remote does not support": "remote_untraced",
    "maximum payload exceeded": "maximum_payload_exceeded",
    "maximum messages exceeded": "maximum_messages_exceeded",
    "maximum messages per subject exceeded": "maximum_messages_per_subject_exceeded",
    "maximum bytes exceeded": "maximum_bytes_exceeded",
    "message size exceeds maximum allowed": "maximum_payload_exceeded",
    "header size exceeds maximum": "maximum_headers_exceeded",
    "expected stream does not match": "expected_stream_mismatch",
    "expected last sequence": "last_sequence_mismatch",
    "last sequence": "last_sequence_mismatch",
    "wrong last sequence": "last_sequence_mismatch",
    "last msgid mismatch": "last_message_id_mismatch",
    "wrong last msg ID": "last_message_id_mismatch",
    "invalid operation on sealed stream": "stream_sealed",
    "resource limits exceeded": "resource_limits_exceeded",
    "insufficient resources": "insufficient_resources",
    "insufficient storage": "insufficient_storage",
    "no space left": "insufficient_storage",
    "stream is offline": "stream_offline",
    "stream closed": "stream_closed",
}

_OUTCOMES = {
    "msgid is duplicate": "duplicate",
    "Not delivered because of no echo": "no_echo",
    "Not delivered because auto-unsubscribe exceeded": "unsubscribed",
    "Message delivered but remote does not support": "remote_untraced",
}


class Meaning(NamedTuple):
    """What a text means.

    Attributes:
        error_type: The value of `error.type`; None where nothing went wrong.
        outcome: What happened to the message instead of the usual, where that is no fault.
    """

    error_type: str | None
    outcome: str | None


@lru_cache(256)
def meaning(text: str) -> Meaning:
    """Tells what the server's words for a step mean.

    Args:
        text: The `error` of a step.
    """
    for beginning, outcome in _OUTCOMES.items():
        if text.startswith(beginning):
            return Meaning(None, outcome)
    for beginning, error_type in _ERRORS.items():
        if text.startswith(beginning):
            return Meaning(error_type, None)
    return Meaning(OTHER, None)
