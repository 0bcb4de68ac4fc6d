# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What holds for any headers, subjects, texts and contexts, whoever wrote them.

The default run tries a hundred of each, `PROPERTY_EXAMPLES` more. `tox -e fuzz` tries for as long as it is told to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.instrumentation.nats import _arrived, _attributes, _faults, _headers, _texts
from opentelemetry.instrumentation.nats._options import HeaderSelection
from opentelemetry.instrumentation.nats._propagation import extract, write_context
from opentelemetry.instrumentation.nats._providers import span_context
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.propagators.ot_trace import OTTracePropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

bounded = settings(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "100")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

PROPAGATORS = [
    CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()]),
    CompositePropagator([W3CBaggagePropagator(), JaegerPropagator()]),
    CompositePropagator([B3MultiFormat(), OTTracePropagator()]),
    CompositePropagator([B3SingleFormat(), TraceContextTextMapPropagator()]),
    CompositePropagator([]),
]

# Half of what is tried looks like the real thing: chance alone never writes a traceparent.
hexadecimal = st.text("0123456789abcdef", min_size=1, max_size=34)
traceparents = st.builds(
    "{}-{}-{}-{}".format, st.sampled_from(["00", "01", "cc", "ff"]), hexadecimal, hexadecimal, hexadecimal
) | st.builds(
    lambda trace_id, span_id, flags, rest: f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}{rest}",
    st.integers(0, 2**128 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 255),
    st.sampled_from(["", "-more", " ", "\n", "- \nx"]),
)
baggages = st.lists(
    st.builds("{}={}".format, st.text(max_size=8), st.text("ab;=, \t%é", max_size=12)), max_size=200
).map(",".join)
texts = st.text(max_size=40) | st.text("ab=,;:%' \t\r\n\x00\ud800é@/", max_size=60)
names = texts | st.sampled_from(
    [
        "traceparent",
        "Traceparent",
        "Xraceparent",
        "tracestate",
        "baggage",
        "Baggage",
        "b3",
        "x-b3-traceid",
        "X-B3-Flags",
    ]
    + ["uber-trace-id", "uberctx-a", "uberctx-a(b", "ot-tracer-traceid", "ot-baggage-a", "Status", "Nats-Msg-Id"]
    + ["Nats-Trace-Dest", "Nats-Trace-Hop", "Nats-Service-Error", "x-auth", "X-Tenant"]
)
values = texts | traceparents | baggages | st.sampled_from(["trace disabled", "_R_.a.b", "404", "1"])
headers = st.dictionaries(names, values, max_size=40) | st.dictionaries(
    names, values | st.lists(values, max_size=3) | st.none()
)
contexts = st.builds(
    lambda trace_id, span_id, entries: _context(trace_id, span_id, entries),
    st.integers(0, 2**128 - 1),
    st.integers(0, 2**64 - 1),
    st.dictionaries(texts | st.none() | st.integers(), texts | st.none() | st.integers(), max_size=5),
)
propagators = st.sampled_from(PROPAGATORS)


def _context(trace_id: int, span_id: int, entries: dict[Any, Any]) -> Context:
    span = NonRecordingSpan(SpanContext(trace_id, span_id, True, TraceFlags(1)))
    context = trace.set_span_in_context(span, Context())
    for key, value in entries.items():
        context = baggage.set_baggage(key, value, context)
    return context


def with_propagator(propagator: Any, run: Callable[[], Any]) -> Any:
    """Runs with these propagators, and with faults logged as in a user's program: a propagator may refuse baggage."""
    before, raised = propagate.get_global_textmap(), _faults.raise_faults
    propagate.set_global_textmap(propagator)
    _faults.raise_faults = False
    try:
        return run()
    finally:
        propagate.set_global_textmap(before)
        _faults.raise_faults = raised


def is_accepted(name: Any, value: Any) -> bool:
    """Tells whether nats-py takes a header, an older one on the other side reads it, and the server lets it through."""
    return bool(re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name) and re.fullmatch(r"[\t\x20-\x7e]*", value))


@bounded
@given(propagators, headers)
def test_any_headers_are_read(propagator: Any, received: dict[str, Any]):
    context = with_propagator(propagator, lambda: extract(received, Context()))
    assert isinstance(context, Context)
    found = span_context(context)
    assert found is None or found.is_valid
    _arrived.note_of(received, found)


@bounded
@given(propagators, contexts)
def test_any_context_is_written_so_that_nats_takes_it(propagator: Any, context: Context):
    written = with_propagator(propagator, lambda: write_context(context))
    assert all(is_accepted(name, value) for name, value in written.items())


@bounded
@given(propagators, headers | st.none(), contexts, st.integers(-10, 10_000), st.integers(0, 5000))
def test_any_headers_keep_what_the_caller_wrote(
    propagator: Any, headers: Any, context: Context, room: int, subjects: int
):
    before = None if headers is None else dict(headers)
    ours = with_propagator(propagator, lambda: write_context(context))
    result = with_propagator(propagator, lambda: _headers.inject(headers, context, room, subjects))
    assert headers == before
    if result is None or result is headers:
        return
    assert result, "an empty block is longer than none"
    fields = with_propagator(propagator, lambda: _headers.configured().fields) | {name.lower() for name in ours}
    own = {
        name: value
        for name, value in (headers or {}).items()
        if name.lower() not in fields and not name.lower().startswith("nats-trace-")
    }
    assert {name: value for name, value in result.items() if name in own} == own
    if set(result) - set(headers or {}):  # something was added
        strings = all(isinstance(value, str) for value in result.values())
        assert not strings or _headers._block_size(result) <= room
        assert all(is_accepted(name, value) for name, value in result.items() if name not in (headers or {}))


@bounded
@given(propagators, headers, contexts)
def test_any_headers_are_asked_for_a_choice(propagator: Any, headers: Any, context: Context):
    chosen = with_propagator(propagator, lambda: _headers.chosen(headers, context))
    assert chosen is None or chosen.is_valid


@bounded
@given(headers)
def test_any_headers_leave_attributes_bounded(headers: Any):
    captured = _attributes.captured_headers(HeaderSelection(["*"], []), frozenset(), headers)
    assert len(captured) <= 32
    for name, value in captured.items():
        assert len(name) < 200
        assert all(len(item) <= 1024 for item in value)
        name.encode()
        for item in value:
            item.encode()
    assert isinstance(_attributes.is_status(headers, 0), bool)
    message_id = _attributes.header(headers, "Nats-Msg-Id")
    assert message_id is None or len(message_id) <= 1024


tokens = st.text(max_size=6) | st.integers(-(2**70), 2**70).map(str)


@bounded
@given(st.lists(tokens, max_size=14).map(lambda tokens: ".".join(["$JS.ACK", *tokens])) | st.text())
def test_any_reply_subject_is_read(reply: str):
    ack = _attributes.parse_ack_subject(reply)
    assert ack is None or all(0 <= value < 2**63 for value in ack if isinstance(value, int))


@bounded
@given(texts | st.text(max_size=5000), st.sampled_from(["", "nats://user:", "password='", "b'", "Msg(_client=", "eyJ"]))
def test_any_text_is_cleaned(text: str, before: str):
    for cleaned in (_texts.clean(before + text), _texts.cut(before + text)):
        assert len(cleaned) <= 1024
        cleaned.encode()


@bounded
@given(st.lists(texts, min_size=1, max_size=4))
def test_any_exception_is_described(messages: list[str]):
    error: BaseException | None = None
    for message in messages:
        try:
            raise ValueError(message) from error
        except ValueError as raised:
            error = raised
    assert error is not None
    for text in _texts.exception_attributes(error).values():
        text.encode()
