# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The program's life: set up, connect, read until a signal, flush, end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from logging import getLogger
from typing import Any

from opentelemetry import metrics
from opentelemetry.instrumentation.nats.server_trace._arguments import Arguments
from opentelemetry.instrumentation.nats.server_trace._connection import Connection
from opentelemetry.instrumentation.nats.server_trace._exporting import (
    AcknowledgedExport,
    BatchedExport,
    Export,
    ExportError,
    set_up,
)
from opentelemetry.instrumentation.nats.server_trace._health import Health
from opentelemetry.instrumentation.nats.server_trace._intake import Intake
from opentelemetry.instrumentation.nats.server_trace._names import Names
from opentelemetry.instrumentation.nats.server_trace._reading import ReadError, Stream, Subjects
from opentelemetry.instrumentation.nats.server_trace._servers import Servers
from opentelemetry.instrumentation.utils import suppress_instrumentation

_logger = getLogger(__package__)

_REPORT_INTERVAL = 300.0
"""Seconds between two lines about what was skipped, where something was."""


def run(arguments: Arguments) -> int:
    """Runs the program to its end.

    Args:
        arguments: What the command line asks for.

    Returns:
        The exit code.
    """
    # Whatever is instrumented in this process, nats-py and the exporter's HTTP client above all: our own traffic is
    # no part of anybody's trace. Tasks inherit it.
    with suppress_instrumentation():
        try:
            provider = set_up()
            health = Health()
            health.measure(metrics.get_meter_provider())
            export = AcknowledgedExport(provider) if arguments.durable else BatchedExport(provider)
            servers = Servers(export, dict(provider.resource.attributes))
            names = Names(arguments.templates, arguments.inbox_prefix, arguments.names)
            intake = Intake(export, servers, names, health)
            gc.freeze()  # what is imported stays: a tenth of what an event costs is the collector's looking through it
            return asyncio.run(_Run(arguments, export, intake, health).run())
        except (ExportError, ReadError) as error:
            _logger.error("%s", error)
            return 1


class _Run:
    def __init__(self, arguments: Arguments, export: Export, intake: Intake, health: Health) -> None:
        self._arguments = arguments
        self._export = export
        self._intake = intake
        self._health = health
        self._stop = asyncio.Event()
        self._signal: str | None = None

    async def run(self) -> int:
        self._handle_signals()
        connection = Connection(self._arguments, self._health)
        try:
            if await self._connected(connection):
                await self._read(connection)
        finally:
            await connection.close()
            await self._export.close()
            await asyncio.to_thread(_end_metrics)
            _logger.info("stopped by %s: %s", self._signal or "itself", self._health.summary())
        if connection.denied:
            raise ReadError(connection.denied)
        if not self._signal:
            raise ReadError("the connection is closed")
        return 0

    async def _connected(self, connection: Connection) -> bool:
        try:
            return await connection.connect(self._stop)
        except (ImportError, OSError, ValueError) as error:
            raise ReadError(f"can't connect: {error}") from error

    async def _read(self, connection: Connection) -> None:
        reader = self._reader(connection)
        source = await reader.open()
        _logger.info("started: reads %s at %s", source, connection.address)
        others = [asyncio.ensure_future(self._report()), asyncio.ensure_future(self._stop_when(connection.closed))]
        try:
            await reader.read(self._stop)
            if connection.client.is_connected:
                await connection.client.flush()  # acknowledgements
        finally:
            for other in others:
                other.cancel()

    async def _stop_when(self, event: asyncio.Event) -> None:
        await event.wait()
        self._stop.set()

    async def _report(self) -> None:
        reported = 0
        while True:
            await asyncio.sleep(_REPORT_INTERVAL)
            skipped = sum(self._health.skipped.values())
            if skipped != reported:
                reported = skipped
                _logger.info("%s", self._health.summary())

    def _reader(self, connection: Connection) -> Subjects | Stream:
        arguments = self._arguments
        if not arguments.durable:
            return Subjects(connection.client, arguments.subject, arguments.queue, self._intake)
        stream, consumer = arguments.durable
        domain = arguments.js_domain
        return Stream(connection.client, stream, consumer, domain, self._intake, self._export, self._health)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def handle(number: signal.Signals) -> None:
            self._signal = number.name
            self._stop.set()
            for each in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(each)  # a second one ends the program as it always did

        with contextlib.suppress(NotImplementedError):  # Windows
            for each in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(each, handle, each)


def _end_metrics() -> None:
    provider: Any = metrics.get_meter_provider()
    if hasattr(provider, "shutdown"):  # an SDK's; without one there is nothing to end
        provider.shutdown()
