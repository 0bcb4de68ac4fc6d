# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The options in a declarative configuration file, as `opentelemetry-configuration` reads it, in real processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.options import ALL_OPTIONS, OPPOSITES, PROGRAM, check_program, variables
from support.otlp import OtlpReceiver
from support.processes import Finished, run
from support.server import NatsServer

pytest.importorskip("opentelemetry.configuration")

# `opentelemetry-instrument` says so to everybody who has a file: the configurator has read it, and has instrumented.
USUAL_LINES = [
    "OTEL_CONFIG_FILE is set; ignoring configurator kwargs: ['auto_instrumentation_version']",
    "Attempting to instrument while already instrumented",
]

RunWithFile = Callable[..., Any]


@pytest.fixture
def run_with_file(tmp_path: Path, nats_server: NatsServer, otlp: OtlpReceiver) -> RunWithFile:
    """Runs the program with a file that has these options for nats."""

    async def run_with_file(
        options: dict[str, Any] | None,
        *,
        env: dict[str, str] | None = None,
        text: str = PROGRAM,
        arguments: tuple[str, ...] = (),
        instrumented: bool = True,
    ) -> Finished:
        file = tmp_path / "otel.yaml"
        configuration: dict[str, Any] = {
            "file_format": "1.0",
            "resource": {"attributes": [{"name": "service.name", "value": "program"}]},
            "propagator": {"composite": [{"tracecontext": {}}, {"baggage": {}}]},
            "meter_provider": {
                "readers": [{"periodic": {"exporter": {"otlp_http": {"endpoint": "${OTLP_ENDPOINT}/v1/metrics"}}}}]
            },
            "tracer_provider": {
                "processors": [
                    {"simple": {"exporter": {"otlp_http": {"endpoint": "${OTLP_ENDPOINT}/v1/traces"}}}},
                ]
            },
        }
        if options is not None:
            configuration["instrumentation/development"] = {"python": {"nats": options}}
        # JSON is YAML.
        file.write_text(json.dumps(configuration))
        return await run(
            text,
            nats_server.url,
            *arguments,
            env={"OTEL_CONFIG_FILE": str(file), "OTLP_ENDPOINT": otlp.endpoint, **(env or {})},
            instrumented=instrumented,
        )

    return run_with_file


def own_warnings(program: Finished) -> list[str]:
    return [line for line in program.stderr.splitlines() if line not in USUAL_LINES]


async def test_every_option_works_and_beats_its_variable(run_with_file: RunWithFile, otlp: OtlpReceiver):
    program = await run_with_file(ALL_OPTIONS, env=variables(OPPOSITES))
    check_program(program, otlp)
    assert own_warnings(program) == []


async def test_what_the_file_leaves_out_the_variables_decide(run_with_file: RunWithFile, otlp: OtlpReceiver):
    in_file = {name: ALL_OPTIONS[name] for name in ("use_span_links", "subject_templates", "headers_excluded")}
    in_file["excluded_subjects"] = None
    in_environment = {name: value for name, value in ALL_OPTIONS.items() if in_file.get(name) is None}
    program = await run_with_file(in_file, env=variables(in_environment))
    check_program(program, otlp)
    assert own_warnings(program) == []


async def test_bad_and_unknown_options_are_warned_about_and_the_others_hold(
    run_with_file: RunWithFile, otlp: OtlpReceiver
):
    bad = {
        "use_span_links": "maybe",
        "excluded_subjects": 42,
        "propagation_excluded_subjects": ["app.>.bare"],
        "span_links": True,
        "headers_included": ["x-*", 1],
    }
    good = {"subject_templates": "app.tenants.*.>", "activate_next_msg": True, "headers_excluded": ["X-PRIVATE"]}
    program = await run_with_file({**bad, **good})
    check_program(program, otlp, {**good, "headers_included": ["x-*"]})
    assert sorted(own_warnings(program)) == [
        "nats instrumentation: excluded_subjects is 42, not a list of strings; what is a string in it is used",
        "nats instrumentation: headers_included is ['x-*', 1], not a list of strings; what is a string in it is used",
        "nats instrumentation: propagation_excluded_subjects is 'app.>.bare', not a NATS subject pattern;"
        " no such pattern is used",
        "nats instrumentation: unknown option span_links is ignored",
        "nats instrumentation: use_span_links is 'maybe', not true or false; false is used",
    ]


@pytest.mark.parametrize("options", [{}, None], ids=["an empty section", "no section"])
async def test_without_options_the_defaults_hold(
    run_with_file: RunWithFile, otlp: OtlpReceiver, options: dict[str, Any] | None
):
    program = await run_with_file(options)
    check_program(program, otlp, {})
    assert own_warnings(program) == []


async def test_a_program_that_reads_the_file_itself_is_instrumented(run_with_file: RunWithFile, otlp: OtlpReceiver):
    text = f"""
import os

from opentelemetry.configuration import configure_sdk, load_config_file

configure_sdk(load_config_file(os.environ["OTEL_CONFIG_FILE"]))
{PROGRAM}"""
    program = await run_with_file(ALL_OPTIONS, text=text, instrumented=False)
    check_program(program, otlp)
    assert program.stderr == ""


async def test_disabled_in_the_file_and_by_its_variable_it_does_nothing(run_with_file: RunWithFile, otlp: OtlpReceiver):
    program = await run_with_file(
        {"enabled": False, **ALL_OPTIONS}, env={"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "nats"}
    )
    assert program.returncode == 0, program.stderr
    assert own_warnings(program) == []
    assert json.loads(program.stdout) == {"app.quiet.one": None, "app.bare": None}
    assert {span.name for span in otlp.spans} == {"ambient"}


async def test_disabled_in_the_file_a_program_can_instrument_by_itself(run_with_file: RunWithFile, otlp: OtlpReceiver):
    program = await run_with_file(
        {"enabled": False, **OPPOSITES},
        env={"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "nats"},
        arguments=(json.dumps(ALL_OPTIONS),),
    )
    check_program(program, otlp)
    assert own_warnings(program) == []


async def test_a_variable_can_be_used_inside_the_file(run_with_file: RunWithFile, otlp: OtlpReceiver):
    program = await run_with_file(
        {"use_span_links": "${LINKS}", "excluded_subjects": ["${QUIET}"]}, env={"LINKS": "true", "QUIET": "app.quiet.>"}
    )
    check_program(program, otlp, {"use_span_links": True, "excluded_subjects": ["app.quiet.>"]})
    assert own_warnings(program) == []
