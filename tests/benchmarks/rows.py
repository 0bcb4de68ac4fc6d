# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The rows of the table."""

from __future__ import annotations

from core_rows import Burst, Callback, CallbackWithoutHeaders, Iteration, NextMsg, Publish, Request
from jetstream_rows import Fetch, FetchLoop, JetStreamPublish, Worker
from row import Row
from service_rows import Service
from store_rows import KeyValueGet, KeyValuePut, Watch

ROWS: dict[str, type[Row]] = {
    row.name: row
    for row in (
        Publish,
        Request,
        Callback,
        CallbackWithoutHeaders,
        Iteration,
        NextMsg,
        Service,
        JetStreamPublish,
        Fetch,
        FetchLoop,
        Worker,
        KeyValuePut,
        KeyValueGet,
        Watch,
        Burst,
    )
}
