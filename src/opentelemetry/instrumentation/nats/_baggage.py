# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The entries of baggage that the user wants as attributes of spans."""

from __future__ import annotations

from opentelemetry import baggage
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import Attributes
from opentelemetry.instrumentation.nats._faults import FAULTS
from opentelemetry.instrumentation.nats._options import HeaderSelection
from opentelemetry.instrumentation.nats._texts import HIDDEN, SECRET_WORDS, clean, cut

# With a name of its own in front: whoever sends a message chooses the keys, and may choose one of an attribute of ours.
_PREFIX = "baggage."

# As of headers: an SDK keeps 128 attributes of a span, and of what a remote side chose there is no end.
_MOST_ENTRIES = 32
_LONGEST_KEY = 128


def capture_baggage(selection: HeaderSelection, attributes: Attributes, context: Context) -> None:
    """Adds the selected entries to a span's attributes, before those that are there.

    Args:
        selection: The user's choice of keys.
        attributes: The span's attributes.
        context: The context that holds the baggage: what a message carries, or came with.
    """
    try:
        entries = baggage.get_all(context)
        if not entries:
            return
        captured: Attributes = {}
        for key, value in entries.items():
            if len(captured) >= _MOST_ENTRIES:
                break
            lower = key.lower()
            if len(key) > _LONGEST_KEY or not selection.selects(lower):
                continue
            redact = any(word in lower for word in SECRET_WORDS)
            captured[_PREFIX + cut(key)] = HIDDEN if redact else clean(str(value))
        if captured:
            # Before our own: where a span has room for few, the SDK drops the oldest.
            own = attributes.copy()
            attributes.clear()
            attributes.update(captured)
            attributes.update(own)
    except FAULTS:  # a program may have put anything in
        _faults.report("reading baggage")
