# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What nats-py's exceptions mean to telemetry."""

from __future__ import annotations

import asyncio

from opentelemetry.instrumentation.nats import _texts
from opentelemetry.instrumentation.nats._patches._nats import find_errors
from opentelemetry.instrumentation.nats._telemetry import Failure

# What the protocol provides for: no stack trace is worth its 54 us.
_EXPECTED = (
    asyncio.TimeoutError,
    *find_errors("nats.errors", "NoRespondersError", "MsgAlreadyAckdError"),
    *find_errors(
        "nats.js.errors",
        "NoStreamResponseError",
        "ServiceUnavailableError",
        "NotFoundError",
        "KeyWrongLastSequenceError",
    ),
)
_API_ERRORS = find_errors("nats.js.errors", "APIError")
_OWN_ERRORS = (OSError, *find_errors("nats.errors", "Error"))

# The server's codes for a failed compare-and-set.
_WRONG_LAST_SEQUENCE = (10071, 10164)


def error_type(error: BaseException) -> str:
    """Returns `error.type`: the server's error code where there is one, else the class's name."""
    code = getattr(error, "err_code", None)
    if code and isinstance(error, _API_ERRORS):
        return _texts.cut(str(code))
    return _texts.type_of(error)


def classify(error: BaseException) -> Failure:
    """Says what an exception that left nats-py, or a handler, means."""
    expected = isinstance(error, _EXPECTED) or (
        isinstance(error, _API_ERRORS) and getattr(error, "err_code", None) in _WRONG_LAST_SEQUENCE
    )
    return Failure(error_type(error), expected, _texts.message_of(error))


def connect_failure(failure: Failure, error: BaseException) -> Failure:
    """Says what the failure of a connect means: no stack trace, which may quote the URL, and the URL the password.

    Args:
        failure: What its exception means elsewhere.
        error: The exception. One that is neither the system's nor nats-py's quotes whatever it was given.
    """
    own = isinstance(error, _OWN_ERRORS)
    description = failure.description if own else _texts.without_quotations(failure.description)
    return failure._replace(expected=True, description=description)
