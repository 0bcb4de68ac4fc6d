# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The options by name and variable, and a program in which each of them shows."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from typing import Any

from opentelemetry.trace import StatusCode
from support.otlp import OtlpReceiver, ReceivedSpan
from support.processes import Finished

Give = Callable[..., None]
"""Instruments with options, by one of the ways in."""

SCOPE = "opentelemetry.instrumentation.nats"

VARIABLES = {
    "use_span_links": "OTEL_PYTHON_NATS_USE_SPAN_LINKS",
    "included_subjects": "OTEL_PYTHON_NATS_INCLUDED_SUBJECTS",
    "excluded_subjects": "OTEL_PYTHON_NATS_EXCLUDED_SUBJECTS",
    "propagation_excluded_subjects": "OTEL_PYTHON_NATS_PROPAGATION_EXCLUDED_SUBJECTS",
    "subject_templates": "OTEL_PYTHON_NATS_SUBJECT_TEMPLATES",
    "subject_names": "OTEL_PYTHON_NATS_SUBJECT_NAMES",
    "headers_included": "OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_INCLUDED",
    "headers_excluded": "OTEL_INSTRUMENTATION_MESSAGING_EXPERIMENTAL_HEADERS_EXCLUDED",
    "baggage_keys": "OTEL_PYTHON_NATS_BAGGAGE_KEYS",
    "activate_next_msg": "OTEL_PYTHON_NATS_ACTIVATE_NEXT_MSG",
    "record_exception_messages": "OTEL_PYTHON_NATS_RECORD_EXCEPTION_MESSAGES",
    "expected_errors": "OTEL_PYTHON_NATS_EXPECTED_ERRORS",
    "propagation_only": "OTEL_PYTHON_NATS_PROPAGATION_ONLY",
    "record_body_sizes": "OTEL_PYTHON_NATS_RECORD_BODY_SIZES",
}

ALL_OPTIONS: dict[str, Any] = {
    "use_span_links": True,
    "included_subjects": ["app.>", "_INBOX.>"],
    "excluded_subjects": ["app.quiet.>", "app.silent"],
    "propagation_excluded_subjects": ["app.bare"],
    "subject_templates": ["app.tenants.*.>"],
    "subject_names": 10,
    "headers_included": ["x-*"],
    "headers_excluded": ["x-private"],
    "baggage_keys": ["ten*"],
    "activate_next_msg": True,
    "record_exception_messages": False,
    "expected_errors": ["NotFoundError", "nats.errors.TimeoutError"],
    "propagation_only": False,
    "record_body_sizes": True,
}
"""The options that `PROGRAM` is made for."""

OPPOSITES: dict[str, Any] = {
    "use_span_links": False,
    "included_subjects": ["other.>"],
    "excluded_subjects": ["app.linked"],
    "propagation_excluded_subjects": ["app.quiet.>"],
    "subject_templates": ["app.>"],
    "subject_names": 0,
    "headers_included": ["y-*"],
    "headers_excluded": ["x-own"],
    "baggage_keys": ["region"],
    "activate_next_msg": False,
    "record_exception_messages": True,
    "expected_errors": ["NoRespondersError"],
    "propagation_only": True,
    "record_body_sizes": False,
}
"""Other values for all of them, with each of which something is different."""

PROGRAM = textwrap.dedent(
    """
    import asyncio
    import json
    import sys

    import nats

    from opentelemetry import trace
    from opentelemetry.baggage import set_baggage
    from opentelemetry.context import Context, attach

    url, *keywords = sys.argv[1:]
    if keywords:
        from opentelemetry.instrumentation.nats import NatsInstrumentor

        NatsInstrumentor().instrument(**json.loads(keywords[0]))


    async def main():
        tracer = trace.get_tracer("program")
        nc = await nats.connect(url)
        called = asyncio.Event()

        async def callback(msg):
            called.set()

        await nc.subscribe("app.linked", cb=callback)
        attach(set_baggage("tenant", "acme", set_baggage("region", "eu")))
        await nc.publish("app.linked", headers={"X-Own": "1", "X-Private": "2"})
        attach(Context())
        await called.wait()

        headers = {}
        for subject in ("app.quiet.one", "app.bare"):
            subscription = await nc.subscribe(subject)
            with tracer.start_as_current_span("ambient"):
                await nc.publish(subject)
            headers[subject] = (await subscription.next_msg()).headers

        await nc.publish("other.one")
        await nc.publish("app.tenants.acme.orders")
        for user in ("ann", "bob", "cy", "dee", "eva", "fay", "gil", "hal", "ida", "jo", "kim", "lea"):
            await nc.publish(f"app.users.{user}.left")
        try:
            await nc.request("app.nobody")
        except nats.errors.NoRespondersError:
            pass

        async def ignore(msg):
            pass

        await nc.subscribe("app.mute", cb=ignore)
        try:
            await nc.request("app.mute", timeout=0.01)
        except nats.errors.TimeoutError:
            pass

        subscription = await nc.subscribe("app.first")
        await nc.publish("app.first")
        await subscription.next_msg()
        await nc.publish("app.second")
        await nc.close()
        print(json.dumps(headers))


    asyncio.run(main())
    """
)
"""Prints the headers of two messages as JSON. Arguments: the server's URL; keywords for `instrument()`, if any."""


def variables(options: dict[str, Any]) -> dict[str, str]:
    """The environment that gives these options."""
    return {VARIABLES[name]: as_text(value) for name, value in options.items()}


def as_text(value: Any) -> str:
    """An option's value as a variable has it."""
    return ", ".join(value) if isinstance(value, list) else str(value).lower()


def check_program(program: Finished, otlp: OtlpReceiver, options: dict[str, Any] = ALL_OPTIONS) -> None:
    """Checks that a run of `PROGRAM` was as `ALL_OPTIONS` make it.

    Args:
        program: The run, at its end.
        otlp: What it exported.
        options: Which options it was given; the others are at their defaults.
    """
    assert program.returncode == 0, program.stderr
    headers = json.loads(program.stdout)
    wrong: list[str] = []

    def one(name: str) -> ReceivedSpan | None:
        found = otlp.named(name)
        return found[0] if len(found) == 1 else None

    publish, process = one("publish app.linked"), one("process app.linked")
    assert publish and process
    if process.parent_span_id != ("" if "use_span_links" in options else publish.span_id):
        wrong.append("use_span_links")
    assert [link.span_id for link in process.links] == [publish.span_id]

    captured = {key for key in publish.attributes if key.startswith("messaging.header.")}
    expected = {"messaging.header.x-own", "messaging.header.x-private"} if "headers_included" in options else set()
    if "headers_excluded" in options:
        expected.discard("messaging.header.x-private")
    if captured != expected:
        wrong.append(f"headers_included or headers_excluded: {captured}")

    captured = {key for key in process.attributes if key.startswith("baggage.")}
    if captured != ({"baggage.tenant"} if "baggage_keys" in options else set()):
        wrong.append(f"baggage_keys: {captured}")

    quiet, bare = otlp.named("ambient")
    published = one("publish app.quiet.one")
    if (published is None) != ("excluded_subjects" in options):
        wrong.append("excluded_subjects")
    if headers["app.quiet.one"]["traceparent"].split("-")[2] != (published or quiet).span_id:
        wrong.append("the context through excluded_subjects")

    published = one("publish app.bare")
    assert published and published.parent_span_id == bare.span_id
    if (headers["app.bare"] is None) != ("propagation_excluded_subjects" in options):
        wrong.append("propagation_excluded_subjects")

    if (one("publish other.one") is None) != ("included_subjects" in options):
        wrong.append("included_subjects")

    name = "publish app.tenants.*.>" if "subject_templates" in options else "publish app.tenants.acme.orders"
    if one(name) is None:
        wrong.append("subject_templates")

    others = otlp.named("publish app.users.*.left")
    if [span.attributes["messaging.destination.name"] for span in others] != (
        ["app.users.kim.left", "app.users.lea.left"] if "subject_names" in options else []
    ):
        wrong.append("subject_names")

    request = one("request app.nobody")
    assert request and request.attributes["error.type"] == "nats.errors.NoRespondersError"
    if (request.description == "") != ("record_exception_messages" in options):
        wrong.append("record_exception_messages")

    mute = one("request app.mute")
    assert mute and mute.attributes["error.type"] == "nats.errors.TimeoutError"
    if (mute.status is StatusCode.UNSET) != ("expected_errors" in options) or request.status is not StatusCode.ERROR:
        wrong.append("expected_errors")

    sizes = [metric for metric in otlp.metrics if metric.name == "messaging.client.message.body.size"]
    if bool(sizes) != ("record_body_sizes" in options):
        wrong.append("record_body_sizes")

    receive, second = one("receive app.first"), one("publish app.second")
    assert receive and second
    if second.parent_span_id != (receive.span_id if "activate_next_msg" in options else ""):
        wrong.append("activate_next_msg")

    assert not wrong, f"not in effect: {wrong}\n{[span.name for span in otlp.spans]}"
