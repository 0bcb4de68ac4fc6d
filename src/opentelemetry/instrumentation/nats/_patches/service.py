# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.micro`: the handlers of a service's endpoints, and their answers. Only imported once the program has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from nats.micro.request import Request, ServiceError
from nats.micro.service import Endpoint

from opentelemetry.context import Context, attach, get_current
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._calls import Call
from opentelemetry.instrumentation.nats._connection import Source
from opentelemetry.instrumentation.nats._patches._patching import Rows
from opentelemetry.instrumentation.nats._patches._running import Arguments, row, sending
from opentelemetry.instrumentation.nats._patches.client import start_reply
from opentelemetry.instrumentation.nats._telemetry import Delivery, Failure, Telemetry, delivery_of, suppressed

# What micro answers with when a handler raises anything but a ServiceError.
_INTERNAL_ERROR = "500"


async def _start(
    telemetry: Telemetry, wrapped: Callable[..., Any], endpoint: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if telemetry.enabled:
        endpoint._handler = _Handler(telemetry, endpoint, endpoint._handler)
    return await wrapped(*args, **kwargs)


class _Handler:
    """Makes the process span around an endpoint's handler, inside of where micro swallows its exception.

    Args:
        telemetry: The telemetry.
        endpoint: The endpoint.
        handler: The user's handler.
    """

    __slots__ = ("_handler", "_source", "_telemetry")

    def __init__(self, telemetry: Telemetry, endpoint: Any, handler: Callable[[Any], Awaitable[Any]]) -> None:
        self._telemetry = telemetry
        self._handler = handler
        service = endpoint._service
        self._source = Source(
            telemetry.connection(service._client),
            endpoint._subject,
            group=endpoint._queue_group,
            attributes={
                names.SERVICE_NAME: service._name,
                names.SERVICE_VERSION: service._version,
                names.SERVICE_ID: service._id,
                names.SERVICE_ENDPOINT: endpoint._name,
            },
        )

    def __call__(self, request: Any) -> Awaitable[Any]:
        if self._telemetry.idle() or suppressed(get_current()):
            return self._handler(request)
        return self._process(request)

    async def _process(self, request: Any) -> Any:
        delivery = self._telemetry.start_process(self._source, request._msg)
        if delivery is None:
            return await self._handler(request)
        previous = get_current()
        attach(delivery.context)
        try:
            result = await self._handler(request)
        except BaseException as error:
            _fail(delivery, error)
            raise
        finally:
            attach(previous)
        delivery.end(delivery.failure)
        return result


def _fail(delivery: Delivery, error: BaseException) -> None:
    if isinstance(error, ServiceError):
        delivery.end(_service_error(delivery, error.code, error.description))
        return
    if isinstance(error, Exception):
        _service_error(delivery, _INTERNAL_ERROR, repr(error))
    delivery.end(error)


def _service_error(delivery: Delivery, code: Any, description: Any) -> Failure:
    attributes: Attributes = {names.SERVICE_ERROR: str(description), names.SERVICE_ERROR_CODE: str(code)}
    delivery.set(attributes)
    return Failure(str(code), True, str(description))


def _start_respond(
    arguments: Arguments,
    telemetry: Telemetry,
    request: Any,
    context: Context,
    /,
    *args: Any,
    **kwargs: Any,
) -> Call:
    get = partial(arguments.get, args, kwargs)
    return start_reply(telemetry, request._msg, get("data") or b"", get("headers"))


def _start_respond_error(
    arguments: Arguments,
    telemetry: Telemetry,
    request: Any,
    context: Context,
    /,
    *args: Any,
    **kwargs: Any,
) -> Call:
    get = partial(arguments.get, args, kwargs)
    code, description = get("code"), get("description")
    delivery = delivery_of(request._msg)
    if delivery is not None and delivery.span is not None:
        delivery.failure = _service_error(delivery, code, description)
    attributes: Attributes = {names.SERVICE_ERROR: str(description), names.SERVICE_ERROR_CODE: str(code)}
    return start_reply(telemetry, request._msg, get("data") or b"", get("headers"), attributes)


ROWS: Rows = [
    (Endpoint, "_start", _start),
    *row(Request, "respond", sending, _start_respond),
    *row(Request, "respond_error", sending, _start_respond_error),
]
