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
from opentelemetry.instrumentation.nats.server_trace._making import SpanMaker, maker
from opentelemetry.sdk.resources import Resource
from opentelemetry.semconv._incubating.attributes.service_attributes import SERVICE_INSTANCE_ID
from opentelemetry.semconv.attributes.service_attributes import SERVICE_NAME, SERVICE_VERSION
from opentelemetry.util.types import AttributeValue

SERVICE = "nats-server"

MOST_SERVERS = 4096
"""Servers that are known at a time. An edge of leaf nodes may have some thousands."""

SECONDS_PER_SERVER = 6.0
"""A server beyond those is taken on this often. Who forges events can make up servers, and a tracer provider leaves
some bytes behind for ever (`os.register_at_fork`)."""

# What the user's configuration says of this process, its host or its pod; a server has its own.
_OF_THIS_PROCESS = ("service.", "process.", "host.", "os.", "container.", "k8s.", "telemetry.auto.")
_OF_ALL = ("service.namespace", "k8s.cluster.name", "k8s.cluster.uid")


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
    """What makes the spans of each server, for those that were heard of last.

    Args:
        export: Where their spans go.
        resource: The attributes that the user's configuration gives to this process.
    """

    def __init__(self, export: Export, resource: Mapping[str, AttributeValue]) -> None:
        self._export = export
        self._common = {
            key: value for key, value in resource.items() if key in _OF_ALL or not key.startswith(_OF_THIS_PROCESS)
        }
        self._makers: OrderedDict[Server, SpanMaker] = OrderedDict()
        self._allowance = float(MOST_SERVERS)
        self._allowed_at = time.monotonic()

    def maker(self, server: Server) -> SpanMaker | None:
        """What makes the spans of a server; None if there are too many servers to be true.

        Args:
            server: The server as an event tells it: what else it says makes another resource, so that the resource of a
                span follows from its event alone.
        """
        known = self._makers.get(server)
        if known is not None:
            self._makers.move_to_end(server)
            return known
        if not self._allow():
            return None
        if len(self._makers) >= MOST_SERVERS:
            self._makers.popitem(last=False)
        made = self._makers[server] = maker(self._export, _ServerResource({**self._common, **_describe(server)}))
        return made

    def _allow(self) -> bool:
        now = time.monotonic()
        self._allowance = min(self._allowance + (now - self._allowed_at) / SECONDS_PER_SERVER, MOST_SERVERS)
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True


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
