# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The patched methods, one module for each of nats-py's, each with a table of (class, method, wrapper).

To trace another method: find the module that is named like nats-py's, write the wrapper, add the row.
"""

from __future__ import annotations

import sys
from logging import getLogger
from typing import Any

from nats.aio.client import Client
from wrapt import register_post_import_hook

from opentelemetry.instrumentation.nats._patches import client, jetstream, key_value, subscription
from opentelemetry.instrumentation.nats._patches._patching import Patch, apply
from opentelemetry.instrumentation.nats._telemetry import Telemetry

_logger = getLogger(__name__)

_MICRO = "nats.micro.service"
_OBJECT_STORE = "nats.js.object_store"


class Patches:
    """Everything that one `instrument()` call has replaced.

    Args:
        telemetry: The telemetry of that call.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        if hasattr(Client.__dict__["publish"], "__wrapped__"):
            _logger.warning("nats-py is already patched by another instrumentation: its spans will appear twice")
        self._applied: list[Patch] = []
        for module in (client, subscription, jetstream, key_value):
            self._applied += apply(telemetry, module.ROWS)
        self._applied.append(client.patch_error_callback(telemetry))
        if _OBJECT_STORE in sys.modules:
            from opentelemetry.instrumentation.nats._patches import object_store  # noqa: PLC0415

            self._applied += apply(telemetry, object_store.ROWS)
        # nats-py does not import its micro services by itself, so neither do we.
        register_post_import_hook(self._patch_micro, _MICRO)

    def _patch_micro(self, _: Any) -> None:
        # The hook outlives us: it can't be taken back.
        if self._telemetry.enabled:
            from opentelemetry.instrumentation.nats._patches import service  # noqa: PLC0415

            self._applied += apply(self._telemetry, service.ROWS)

    def remove(self) -> None:
        """Puts nats-py's own methods back, and silences what still lives: subscriptions, loops, captured methods."""
        self._telemetry.silence()
        for patch in reversed(self._applied):
            patch.remove()
        self._applied.clear()
