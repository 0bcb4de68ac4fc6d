# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""`nats.js.manager`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from faults.recipes._kitchen import Kitchen, nothing, simple


async def _stream_with_two(kitchen: Kitchen) -> None:
    await kitchen.stream(2)


async def _stream_and_consumer(kitchen: Kitchen) -> None:
    await kitchen.pulled(2)


_FAR = "2099-01-01T00:00:00Z"
_MANAGEMENT: dict[str, tuple[Callable[[Kitchen], Awaitable[Any]], Callable[[Kitchen], dict[str, Any]]]] = {
    "account_info": (nothing, lambda k: {}),
    "find_stream_name_by_subject": (_stream_with_two, lambda k: {"subject": f"{k.name}.one"}),
    "stream_info": (_stream_with_two, lambda k: {"name": k.name}),
    "add_stream": (nothing, lambda k: {"name": k.name, "subjects": [f"{k.name}.>"], "storage": "memory"}),
    "update_stream": (
        _stream_with_two,
        lambda k: {"name": k.name, "subjects": [f"{k.name}.>", f"{k.name}-more"], "storage": "memory"},
    ),
    "delete_stream": (_stream_with_two, lambda k: {"name": k.name}),
    "purge_stream": (_stream_with_two, lambda k: {"name": k.name}),
    "consumer_info": (_stream_and_consumer, lambda k: {"stream": k.name, "consumer": "worker"}),
    "streams_info": (_stream_with_two, lambda k: {}),
    "streams_info_iterator": (_stream_with_two, lambda k: {}),
    "add_consumer": (_stream_with_two, lambda k: {"stream": k.name, "durable_name": "made", "ack_policy": "explicit"}),
    "delete_consumer": (_stream_and_consumer, lambda k: {"stream": k.name, "consumer": "worker"}),
    "pause_consumer": (
        _stream_and_consumer,
        lambda k: {"stream": k.name, "consumer": "worker", "pause_until": _FAR},
    ),
    "resume_consumer": (_stream_and_consumer, lambda k: {"stream": k.name, "consumer": "worker"}),
    "reset_consumer": (_stream_and_consumer, lambda k: {"stream": k.name, "consumer": "worker"}),
    "consumers_info": (_stream_and_consumer, lambda k: {"stream": k.name}),
    "delete_msg": (_stream_with_two, lambda k: {"stream_name": k.name, "seq": 1}),
    "get_msg": (_stream_with_two, lambda k: {"stream_name": k.name, "seq": 1}),
    "get_last_msg": (_stream_with_two, lambda k: {"stream_name": k.name, "subject": f"{k.name}.1"}),
}


def _manage(method: str) -> None:
    needs, arguments = _MANAGEMENT[method]
    simple(f"JetStreamManager.{method}", needs, lambda k, _: lambda: getattr(k.js, method)(**arguments(k)))


for _method in _MANAGEMENT:
    _manage(_method)
