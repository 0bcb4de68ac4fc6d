# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""One resource per server: its spans come from it, not from this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping

from opentelemetry.instrumentation.nats.server_trace import _attributes as names_of
from opentelemetry.instrumentation.nats.server_trace._events import Server
from opentelemetry.instrumentation.nats.server_trace._exporting import Export
from opentelemetry.instrumentation.nats.version import __version__
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.semconv._incubating.attributes.service_attributes import SERVICE_INSTANCE_ID
from opentelemetry.semconv.attributes.service_attributes import SERVICE_NAME, SERVICE_VERSION
from opentelemetry.trace import Tracer
from opentelemetry.util.types import AttributeValue

SCOPE = "opentelemetry.instrumentation.nats.server_trace"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

SERVICE = "nats-server"

MOST_SERVERS = 4096
"""Servers that are known at a time. An edge of leaf nodes may have some thousands."""

SECONDS_PER_SERVER = 6.0
"""A server beyond those is taken on this often: a provider leaves some bytes behind for ever (`os.register_at_fork`),
and who forges events can make up as many servers."""

# What the user's configuration says of this process, its host or its pod; a server has its own.
_OF_THIS_PROCESS = ("service.", "process.", "host.", "os.", "container.", "k8s.", "telemetry.auto.")
_OF_ALL = ("service.namespace", "k8s.cluster.name", "k8s.cluster.uid")


class PresetIds(IdGenerator):
    """Gives the next span the id that was computed for it.

    Attributes:
        span_id: The id of the next span.
    """

    def __init__(self) -> None:
        self.span_id = 0

    def generate_span_id(self) -> int:
        """Returns the id that was set."""
        return self.span_id

    def generate_trace_id(self) -> int:
        """Never called: each span has a parent, whose trace is its trace.

        Raises:
            RuntimeError: It was called.
        """
        raise RuntimeError("a span of a server without a parent")


class _ServerResource(Resource):
    """A resource whose hash is computed once.

    OTLP exporters group spans by their resource, and that of the SDK writes itself as JSON each time it is hashed: a
    sixth of what an event costs. A resource never changes.

    Args:
        attributes: Its attributes.
    """

    def __init__(self, attributes: Mapping[str, AttributeValue]) -> None:
        super().__init__(attributes)
        self._hash = super().__hash__()

    __eq__ = Resource.__eq__

    def __hash__(self) -> int:
        return self._hash


class Servers:
    """The tracers of servers, those used last.

    Args:
        export: Where their spans go.
        resource: The attributes that the user's configuration gives to this process.
    """

    def __init__(self, export: Export, resource: Mapping[str, AttributeValue]) -> None:
        self.ids = PresetIds()
        self._export = export
        self._common = {
            key: value for key, value in resource.items() if key in _OF_ALL or not key.startswith(_OF_THIS_PROCESS)
        }
        self._tracers: OrderedDict[Server, Tracer] = OrderedDict()
        self._allowance = float(MOST_SERVERS)
        self._allowed_at = time.monotonic()

    def tracer(self, server: Server) -> Tracer | None:
        """The tracer of a server; None if there are too many servers to be true.

        Args:
            server: The server as an event tells it: what else it says makes another resource, so that the resource of a
                span follows from its event alone.
        """
        tracer = self._tracers.get(server)
        if tracer is not None:
            self._tracers.move_to_end(server)
            return tracer
        if not self._allow():
            return None
        if len(self._tracers) >= MOST_SERVERS:
            self._tracers.popitem(last=False)
        tracer = self._tracers[server] = self._make(server)
        return tracer

    def _allow(self) -> bool:
        now = time.monotonic()
        self._allowance = min(self._allowance + (now - self._allowed_at) / SECONDS_PER_SERVER, MOST_SERVERS)
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _make(self, server: Server) -> Tracer:
        provider = TracerProvider(
            sampler=self._export.sampler,
            resource=_ServerResource({**self._common, **_describe(server)}),
            shutdown_on_exit=False,
            active_span_processor=self._export.processor,
            id_generator=self.ids,
            span_limits=self._export.span_limits,
        )
        return provider.get_tracer(SCOPE, __version__, schema_url=SCHEMA_URL)


def _describe(server: Server) -> dict[str, AttributeValue]:
    """The attributes of a server's resource. Not its `host`: that is the address it listens on, mostly 0.0.0.0."""
    attributes: dict[str, AttributeValue | None] = {
        SERVICE_NAME: SERVICE,
        SERVICE_INSTANCE_ID: server.id,
        SERVICE_VERSION: server.version,
        names_of.SERVER_NAME: server.name,
        names_of.SERVER_CLUSTER: server.cluster,
        names_of.SERVER_DOMAIN: server.domain,
        names_of.SERVER_TAGS: server.tags or None,
    }
    return {key: value for key, value in attributes.items() if value is not None}
