# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The row of `nats.micro`, with its floor."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

import nats.micro
from core_rows import Callback, Handler, process_floor
from nats.aio.subscription import Subscription
from nats.micro.request import Request
from row import metric_attributes, span_attributes
from variants import VARIANTS, Floor

from opentelemetry.propagate import inject
from opentelemetry.trace import SpanKind, set_span_in_context

ANSWER = b"in stock"


class Service(Callback):
    """The handler of an endpoint, and its answer; the requests wait in its queue when the measurement begins."""

    name = "micro"
    title = "micro handler that responds"
    operations = 300
    variants = VARIANTS

    _SUBJECT = "benchmark.inventory.find"
    _REPLY = "_INBOX.0123456789abcdefABCDEF.0123456789abcdefABCDEF"

    async def _subscribe(self, floor: Floor | None) -> Subscription:
        self._service = await nats.micro.add_service(self.nc, name="inventory", version="1.0.0")
        self._respond: Handler = self._answer if floor is None else self._answer_floor(floor)
        handler: Handler = self._answer_and_count
        if floor is not None:
            more = {
                "messaging.consumer.group.name": "q",
                "messaging.message.conversation_id": self._REPLY,  # all have this one
                "messaging.nats.service.name": "inventory",
                "messaging.nats.service.version": "1.0.0",
                "messaging.nats.service.id": self._service.id,
                "messaging.nats.service.endpoint": "find",
            }
            handler = process_floor(self.nc, handler, floor, self._SUBJECT, more)
        await self._service.add_endpoint(name="find", subject=self._SUBJECT, handler=handler)
        subscription: Any = self._service._endpoints[0]._subscription
        return subscription

    async def _answer_and_count(self, request: Request) -> None:
        await self._respond(request)
        await self._handle(request)

    async def _answer(self, request: Request) -> None:
        await request.respond(ANSWER)

    def _answer_floor(self, floor: Floor) -> Handler:
        tracer, duration = floor.tracer, floor.operation_duration
        attributes = {
            **span_attributes(self.nc, "reply", "send", self._REPLY),
            "messaging.destination.anonymous": True,
            "messaging.destination.temporary": True,
        }
        labels = metric_attributes(attributes)
        del labels["messaging.destination.name"]  # an inbox

        async def carry(request: Request) -> None:
            headers: dict[str, str] = {}
            inject(headers)
            await request.respond(ANSWER, headers=headers)

        if floor.carries:
            return carry

        async def answer(request: Request) -> None:
            started = perf_counter_ns()
            span = tracer.start_span(
                "reply",
                kind=SpanKind.PRODUCER,
                attributes={
                    **attributes,
                    "messaging.message.conversation_id": self._REPLY,
                    "messaging.message.body.size": len(ANSWER),
                },
            )
            context = set_span_in_context(span)
            headers: dict[str, str] = {}
            inject(headers, context)
            await request.respond(ANSWER, headers=headers)
            if duration is not None:
                duration.record((perf_counter_ns() - started) / 1e9, labels, context)
            span.end()

        return answer

    async def clean(self) -> None:
        self._gate.set_result(None)
        await self._service.stop()
        await self.nc.flush()
