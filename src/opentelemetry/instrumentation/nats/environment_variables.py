# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Environment variables of the NATS instrumentation. A keyword of `instrument()` beats its variable."""

OTEL_PYTHON_NATS_USE_SPAN_LINKS = "OTEL_PYTHON_NATS_USE_SPAN_LINKS"
"""
.. envvar:: OTEL_PYTHON_NATS_USE_SPAN_LINKS

`true`: process spans start a trace of their own and only link to the message's creation context. Default: `false`.
"""

OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS = "OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS"
"""
.. envvar:: OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS

Comma-separated NATS patterns of subjects that get no spans and no metrics; the current context still travels.
Default: none.
"""

OTEL_PYTHON_NATS_INCLUDED_SUBJECTS = "OTEL_PYTHON_NATS_INCLUDED_SUBJECTS"
"""
.. envvar:: OTEL_PYTHON_NATS_INCLUDED_SUBJECTS

Comma-separated NATS patterns of the only subjects that get spans and metrics; all others are as if they were excluded.
Default: all.
"""

OTEL_PYTHON_NATS_PROPAGATION_EXCLUDED_SUBJECTS = "OTEL_PYTHON_NATS_PROPAGATION_EXCLUDED_SUBJECTS"
"""
.. envvar:: OTEL_PYTHON_NATS_PROPAGATION_EXCLUDED_SUBJECTS

Comma-separated NATS patterns of subjects whose messages are sent exactly as the program gave them, without trace
headers. Default: none.
"""

OTEL_PYTHON_NATS_PROPAGATION_ONLY = "OTEL_PYTHON_NATS_PROPAGATION_ONLY"
"""
.. envvar:: OTEL_PYTHON_NATS_PROPAGATION_ONLY

`true`: no spans and no metrics; the context that is current, or that came with a message, travels. Default: `false`.
"""

OTEL_PYTHON_NATS_SUBJECT_TEMPLATES = "OTEL_PYTHON_NATS_SUBJECT_TEMPLATES"
"""
.. envvar:: OTEL_PYTHON_NATS_SUBJECT_TEMPLATES

Comma-separated NATS patterns; the first that a subject matches is its template. Default: none.
"""

OTEL_PYTHON_NATS_SUBJECT_NAMES = "OTEL_PYTHON_NATS_SUBJECT_NAMES"
"""
.. envvar:: OTEL_PYTHON_NATS_SUBJECT_NAMES

How many different tokens in one place of the subjects keep their names; further ones are `*`. `0`: only what looks
generated is. Default: `50`.
"""

OTEL_PYTHON_NATS_ACTIVATE_NEXT_MSG = "OTEL_PYTHON_NATS_ACTIVATE_NEXT_MSG"
"""
.. envvar:: OTEL_PYTHON_NATS_ACTIVATE_NEXT_MSG

`true`: where no span is current, the context of what `next_msg()` or `updates()` returned stays current in that task
until its next receive. Default: `false`.
"""

OTEL_PYTHON_NATS_RECORD_BODY_SIZES = "OTEL_PYTHON_NATS_RECORD_BODY_SIZES"
"""
.. envvar:: OTEL_PYTHON_NATS_RECORD_BODY_SIZES

`true`: the metric `messaging.client.message.body.size` is recorded. Default: `false`.
"""

OTEL_PYTHON_NATS_RECORD_EXCEPTION_MESSAGES = "OTEL_PYTHON_NATS_RECORD_EXCEPTION_MESSAGES"
"""
.. envvar:: OTEL_PYTHON_NATS_RECORD_EXCEPTION_MESSAGES

`false`: spans tell the type of an exception and of an error answer, and neither its text nor a stack trace. Default:
`true`.
"""

OTEL_PYTHON_NATS_BAGGAGE_KEYS = "OTEL_PYTHON_NATS_BAGGAGE_KEYS"
"""
.. envvar:: OTEL_PYTHON_NATS_BAGGAGE_KEYS

Comma-separated globs of keys of baggage that are recorded as `baggage.<key>`. Default: none.
"""

OTEL_PYTHON_NATS_EXPECTED_ERRORS = "OTEL_PYTHON_NATS_EXPECTED_ERRORS"
"""
.. envvar:: OTEL_PYTHON_NATS_EXPECTED_ERRORS

Comma-separated names of classes of exceptions, or values of `error.type`, whose spans are not marked as failed.
Default: none.
"""

OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_INCLUDED = (
    "OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_INCLUDED"
)
"""
.. envvar:: OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_INCLUDED

Comma-separated globs of message headers that are recorded as `messaging.header.<name>`. Default: none.
"""

OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_EXCLUDED = (
    "OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_EXCLUDED"
)
"""
.. envvar:: OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_EXCLUDED

Comma-separated globs of message headers that are not recorded although they are included. Default: none.
"""
