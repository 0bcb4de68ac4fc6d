# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.micro`: the handlers of a service's endpoints, and their answers. Only imported once the program has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._holding import delivery_of
from opentelemetry.instrumentation.nats._origins import Origin
from opentelemetry.instrumentation.nats._patches import _nats
from opentelemetry.instrumentation.nats._patches._bodies import trace_handler
from opentelemetry.instrumentation.nats._patches._keeping import connection_of
from opentelemetry.instrumentation.nats._patches._replacing import Row, Rows
from opentelemetry.instrumentation.nats._patches._running import Arguments, row, sending
from opentelemetry.instrumentation.nats._patches.message import start_reply
from opentelemetry.instrumentation.nats._processing import Delivery
from opentelemetry.instrumentation.nats._telemetry import Failure, Telemetry
from opentelemetry.instrumentation.nats._texts import clean, cut

_Endpoint = _nats.find_class("nats.micro.service", "Endpoint")
_Request = _nats.find_class("nats.micro.request", "Request")
_SERVICE_ERRORS = _nats.find_errors("nats.micro.request", "ServiceError")

# What micro answers with when a handler raises anything but a ServiceError.
_INTERNAL_ERROR = "500"


def _make_start(telemetry: Telemetry, original: Callable[..., Any]) -> Callable[..., Any]:
    async def _start(self: object, *args: object, **kwargs: object) -> Any:
        """Makes the process span around the endpoint's handler, inside of where micro swallows its exception."""
        if telemetry.enabled:
            try:
                handler = _nats.handler_of(self)
                if handler is not None:
                    traced = trace_handler(telemetry, _origin(telemetry, self), handler, _nats.message_of, _explain)
                    _nats.set_handler(self, traced)
            except FAULTS:
                _faults.report("tracing a micro service")
        return await original(self, *args, **kwargs)

    return _start


def _origin(telemetry: Telemetry, endpoint: Any) -> Origin:
    service = _nats.service_of(endpoint)
    name, version, number = _nats.service_identity(service)
    attributes = {
        names.SERVICE_NAME: name,
        names.SERVICE_VERSION: version,
        names.SERVICE_ID: number,
        names.SERVICE_ENDPOINT: _nats.endpoint_name(endpoint),
    }
    return Origin(
        connection_of(telemetry, _nats.client_of_service(service)),
        _nats.subject_of_endpoint(endpoint),
        group=_nats.queue_of_endpoint(endpoint),
        attributes={name: value for name, value in attributes.items() if value is not None},
    )


def _explain(delivery: Delivery, error: BaseException) -> BaseException | Failure:
    try:
        if isinstance(error, _SERVICE_ERRORS):
            refused: Any = error
            failure = _service_error(delivery, refused.code, refused.description)
            expected = delivery.prototype.telemetry.options.expected_errors
            return failure._replace(accepted=expected.have(failure.error_type, error))
        if isinstance(error, Exception):
            _service_error(delivery, _INTERNAL_ERROR, repr(error))
    except FAULTS:
        _faults.report("reading a service's error")
    return error


def _service_error(delivery: Delivery, code: Any, description: Any) -> Failure:
    delivery.set(_error_attributes(delivery.prototype.telemetry, code, description))
    return Failure(cut(str(code)), True, clean(str(description)))


def _error_attributes(telemetry: Telemetry, code: Any, description: Any) -> Attributes:
    attributes: Attributes = {names.SERVICE_ERROR_CODE: cut(str(code))}
    if telemetry.records_texts:
        attributes[names.SERVICE_ERROR] = clean(str(description))
    return attributes


def _start_respond(
    telemetry: Telemetry,
    request: Any,
    context: Context,
    /,
    data: Any = b"",
    headers: Any = None,
    *_: object,
    **__: object,
) -> Call:
    return start_reply(telemetry, _nats.message_of(request), context, data or b"", headers)


def _start_respond_error(
    arguments: Arguments,
    telemetry: Telemetry,
    request: Any,
    context: Context,
    /,
    *args: object,
    **kwargs: object,
) -> Call:
    get = partial(arguments.get, args, kwargs)
    code, description = get("code"), get("description")
    message = _nats.message_of(request)
    delivery = delivery_of(message)
    attributes = _error_attributes(telemetry, code, description)
    if delivery is not None and delivery.span is not None:
        delivery.failure = _service_error(delivery, code, description)
    return start_reply(telemetry, message, context, get("data") or b"", get("headers"), attributes)


ROWS: Rows = [
    Row(_Endpoint, "_start", _make_start),
    Row(_Request, "respond", sending(_start_respond)),
    *row(_Request, "respond_error", sending, _start_respond_error),
]
