# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Turns the trace events of nats-server into spans of the trace that the message belongs to.

A server from 2.11 on tells the way of a message whose `traceparent` is sampled, if the account sets `msg_trace`
(NATS ADR-41). This package is the program that reads these events and exports them: `opentelemetry-nats-server-trace`,
or `python -m opentelemetry.instrumentation.nats.server_trace`.

Nothing else in the distribution imports it. Data flows one way::

    _arguments -> _running -> _connection -> _reading -> _intake    the program, and where events come from
    _encodings, _times -> _events -> _spans <- _names, _ids, _errors    what an event means: pure functions
    _intake -> _servers -> _making -> _exporting    from records to spans of the SDK, and out
    _health, _reasons    what it tells of itself
"""
