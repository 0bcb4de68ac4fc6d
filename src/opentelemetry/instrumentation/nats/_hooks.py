# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Running the user's hooks: with their span current, outside of the call, and without consequences for it."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.context import Context, attach, get_current
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._calls import outside
from opentelemetry.instrumentation.nats._options import Options
from opentelemetry.trace import Span


def run_hook(where: str, hook: Callable[[Span, Any], None], span: Span, context: Context, message: Any) -> None:
    """Runs one hook on one message.

    Args:
        where: Which hook, in a user's words.
        hook: The hook.
        span: The span of what happens to the message.
        context: The context with that span.
        message: What the hook is to look at.
    """
    previous = get_current()
    attach(context)
    try:
        with outside():
            hook(span, message)
    except (Exception, CancelledError):  # nobody cancels a plain function: the hook looked at a cancelled future
        _faults.report(where)
    finally:
        attach(previous)


def run_consume_hook(options: Options, span: Span, context: Context, messages: Sequence[Any]) -> None:
    """Shows received messages to the user's hook.

    Args:
        options: The user's options.
        span: The span of their receive or processing.
        context: The context with that span.
        messages: The messages.
    """
    hook = options.consume_hook
    if hook is None or not span.is_recording():
        return
    for message in messages:
        run_hook("the consume hook", hook, span, context, message)
