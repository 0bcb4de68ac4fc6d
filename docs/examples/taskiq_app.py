# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""taskiq: the broker is traced as it is; the task's own work needs a middleware of ten lines.

taskiq takes messages in one asyncio task and works on them in another, where no context comes by itself. It does carry
labels along, and so the middleware puts the sender's context into them.
"""

import asyncio
import logging

from _harness import run
from taskiq import TaskiqMessage, TaskiqMiddleware
from taskiq.api import run_receiver_task
from taskiq_nats import NatsBroker

from opentelemetry import context, propagate, trace

logging.getLogger("taskiq.receiver").setLevel(logging.ERROR)  # it warns when it is told to stop
tracer = trace.get_tracer("shop")


class ContextInLabels(TaskiqMiddleware):
    """Runs a task in the context that it was sent from."""

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        propagate.inject(message.labels)
        return message

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        context.attach(propagate.extract(message.labels))  # in an asyncio task that ends with the task
        return message


async def main(url: str) -> None:
    broker = NatsBroker(url, subject="tasks", queue="workers").with_middlewares(ContextInLabels())
    client = broker.client
    done = asyncio.Event()

    @broker.task
    async def bill(order: int) -> None:
        await client.publish("invoices.created", str(order).encode())
        done.set()

    @broker.task
    async def order(number: int) -> None:
        await bill.kiq(number)

    await broker.startup()
    worker = asyncio.ensure_future(run_receiver_task(broker))
    subscriptions = client._subs
    while not subscriptions:  # the worker says nothing when it listens
        await asyncio.sleep(0.01)
    with tracer.start_as_current_span("checkout"):
        await order.kiq(8812)
    await done.wait()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    await broker.shutdown()


if __name__ == "__main__":
    run(main)
