# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The patched methods, one module for each of nats-py's, each with a table of (class, method, what runs instead).

To trace another method: find the module that is named like nats-py's, write the `Start` function, add the row.
"""

from __future__ import annotations

import sys
from logging import getLogger
from typing import Any
from weakref import WeakSet

from wrapt import register_post_import_hook

from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._abandoning import end_all
from opentelemetry.instrumentation.nats._collecting import watch_collector
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._patches import (
    client,
    jetstream,
    jetstream_subscriptions,
    key_value,
    management,
    message,
    subscription,
)
from opentelemetry.instrumentation.nats._patches._replacing import Patch, apply
from opentelemetry.instrumentation.nats._telemetry import Telemetry

_logger = getLogger(__name__)

_MICRO = "nats.micro.service"
_OBJECT_STORE = "nats.js.object_store"


class Patches:
    """Everything that one `instrument()` call has replaced.

    Args:
        telemetry: The telemetry of that call.

    Raises:
        Exception: Something could not be replaced; nothing is then.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._applied: list[Patch] = []
        if client.is_patched():
            _logger.warning("nats-py is already patched by another instrumentation: its spans will appear twice")
        try:
            for module in (client, message, subscription, jetstream, jetstream_subscriptions, management, key_value):
                apply(telemetry, module.ROWS, self._applied)
            self._applied.append(client.patch_error_callback(telemetry))
            if _OBJECT_STORE in sys.modules:
                from opentelemetry.instrumentation.nats._patches import object_store  # noqa: PLC0415

                apply(telemetry, object_store.ROWS, self._applied)
            # nats-py does not import its micro services by itself, so neither do we.
            if _MICRO in sys.modules:
                self.patch_micro()
            else:
                _wait_for_micro(self)
            watch_collector(True)
        except BaseException:
            self.remove()
            raise

    def patch_micro(self) -> None:
        """Patches micro services, which the program has imported by now."""
        try:
            from opentelemetry.instrumentation.nats._patches import service  # noqa: PLC0415

            apply(self._telemetry, service.ROWS, self._applied)
        except FAULTS:
            # Raised, it would reach the program's own `import nats.micro`.
            _faults.report("tracing micro services")

    def remove(self) -> None:
        """Puts nats-py's own methods back, and silences what still lives: subscriptions, loops, captured methods."""
        self._telemetry.silence()
        _waiting.discard(self)
        for patch in reversed(self._applied):
            patch.remove()
        self._applied.clear()
        end_all(self._telemetry)


_waiting: WeakSet[Patches] = WeakSet()


def _wait_for_micro(patches: Patches) -> None:
    _waiting.add(patches)
    # A hook can't be taken back: so there is one for all, that keeps nobody alive.
    if not _hooked:
        _hooked.append(_MICRO)
        register_post_import_hook(_patch_waiting, _MICRO)


_hooked: list[str] = []


def _patch_waiting(_: Any) -> None:
    for patches in list(_waiting):
        _waiting.discard(patches)
        patches.patch_micro()
