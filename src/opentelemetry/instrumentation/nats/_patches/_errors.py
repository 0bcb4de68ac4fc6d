# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What nats-py's exceptions mean to telemetry."""

from __future__ import annotations

import asyncio
import re

from nats import errors
from nats.js import errors as js_errors

from opentelemetry.instrumentation.nats._operations import class_name
from opentelemetry.instrumentation.nats._telemetry import Failure

# What the protocol provides for: no stack trace is worth its 54 us.
_EXPECTED = (
    asyncio.TimeoutError,
    errors.NoRespondersError,
    js_errors.NoStreamResponseError,
    js_errors.ServiceUnavailableError,
    js_errors.NotFoundError,
    js_errors.KeyWrongLastSequenceError,
    errors.MsgAlreadyAckdError,
)

# The server's codes for a failed compare-and-set.
_WRONG_LAST_SEQUENCE = (10071, 10164)

# Some errors of the connection quote the URL. A password may have an "@" in it: nats-py takes the last one.
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")


def error_type(error: BaseException) -> str:
    """Returns `error.type`: the server's error code where there is one, else the class's name."""
    code = getattr(error, "err_code", None)
    if code and isinstance(error, js_errors.APIError):
        return str(code)
    return class_name(type(error))


def classify(error: BaseException) -> Failure:
    """Says what an exception that left nats-py, or a handler, means."""
    expected = isinstance(error, _EXPECTED) or (
        isinstance(error, js_errors.APIError) and error.err_code in _WRONG_LAST_SEQUENCE
    )
    if isinstance(error, errors.MsgAlreadyAckdError):
        description = "nats: message was already acknowledged"  # nats-py's own words quote the payload
    else:
        try:
            description = _CREDENTIALS.sub("", str(error))
        except Exception:
            # A user's exception class that can't say what it is: recording it with its stack trace would raise again.
            expected, description = True, class_name(type(error))
    return Failure(error_type(error), expected, description)
