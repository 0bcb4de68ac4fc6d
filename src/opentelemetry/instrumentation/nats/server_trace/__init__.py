# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Turns the trace events of nats-server into spans of the trace that the message belongs to.

A server from 2.11 on tells the way of a message whose `traceparent` is sampled, if the account sets `msg_trace`
(NATS ADR-41). This package is the program that reads these events and exports them: `opentelemetry-nats-server-trace`,
or `python -m opentelemetry.instrumentation.nats.server_trace`.

Nothing else in the distribution imports it. Data flows one way::

    _encodings -> _events -> _spans (names by _names, ids by _ids) -> _intake -> _servers -> _exporting
    _arguments -> _connection -> _running: the loops around it; _health: what it tells of itself
"""
