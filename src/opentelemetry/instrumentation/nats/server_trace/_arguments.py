# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The command line. Secrets may come from the environment, by the names that the `nats` command line tool uses."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from opentelemetry.instrumentation.nats._subjects import SubjectPatterns
from opentelemetry.instrumentation.nats.environment_variables import (
    OTEL_PYTHON_NATS_SUBJECT_NAMES,
    OTEL_PYTHON_NATS_SUBJECT_TEMPLATES,
)
from opentelemetry.instrumentation.nats.server_trace._names import SUBJECT_NAMES
from opentelemetry.instrumentation.nats.version import __version__

PROGRAM = "opentelemetry-nats-server-trace"

_DESCRIPTION = """\
Exports what nats-server (2.11 and newer) tells of the way of sampled messages as spans of the same trace: through
servers, clusters, gateways, leaf nodes, accounts and streams. The account has to name a destination:

    accounts { SHOP { msg_trace: { dest: "trace.shop", sampling: 10 } } }

and this program subscribes to it: %(prog)s --server nats://nats:4222 --subject trace.shop
"""

_EPILOG = """\
environment:
  NATS_URL, NATS_CREDS, NATS_NKEY, NATS_USER, NATS_PASSWORD, NATS_TOKEN, NATS_CA, NATS_CERT, NATS_KEY
                        stand in for the options of these names: a password on a command line is seen by everybody
  OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_BSP_*, OTEL_TRACES_SAMPLER, OTEL_CONFIG_FILE, ...
                        where spans go, as for every program with OpenTelemetry; OTLP over HTTP by default
  OTEL_METRICS_EXPORTER where the program's own metrics go (otlp, prometheus or none): nats.server_trace.events,
                        nats.server_trace.spans, nats.server_trace.skipped (by reason), nats.server_trace.lag,
                        nats.server_trace.pending
  OTEL_RESOURCE_ATTRIBUTES
                        added to the resource of each server; service.name is always nats-server
  OTEL_PYTHON_NATS_SUBJECT_TEMPLATES, OTEL_PYTHON_NATS_SUBJECT_NAMES
                        names of subjects, as for the instrumented clients: set both alike

The program ends in order on SIGTERM and SIGINT: what it has received is exported. A second signal ends it at once.
Exit codes: 0 ended by a signal, 1 failed, 2 wrong usage.
"""


class Arguments(argparse.Namespace):
    """What the command line asks for.

    Attributes:
        server: URLs of servers.
        subject: Subjects that trace events are published to.
        queue: Queue group of the subscriptions.
        durable: Stream and consumer to read from instead.
        js_domain: JetStream domain of the stream.
        creds: File with the user's JWT and seed.
        nkey: File with the user's seed.
        user: User name.
        password: Password.
        token: Token.
        tls_ca: File with certificates of authorities.
        tls_cert: File with the client's certificate.
        tls_key: File with its key.
        tls_hostname: Name that the server's certificate must have.
        tls_first: Whether the TLS handshake comes before the server's greeting.
        name: Name of the connection.
        inbox_prefix: Prefixes of reply subjects in use, beside `_INBOX`.
        log_level: Level of the log.
        templates: Templates of subjects.
        names: How many different tokens in one place of the subjects keep their names.
    """

    server: list[str]
    subject: list[str]
    queue: str
    durable: list[str] | None
    js_domain: str | None
    creds: str | None
    nkey: str | None
    user: str | None
    password: str | None
    token: str | None
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    tls_hostname: str | None
    tls_first: bool
    name: str
    inbox_prefix: list[str]
    log_level: str
    templates: list[str]
    names: int


def parse(arguments: Sequence[str] | None = None) -> Arguments:
    """Reads the command line.

    Args:
        arguments: What follows the program's name; this process's own when None.

    Raises:
        SystemExit: For `--help` and `--version`, and with code 2 when the command line is wrong.
    """
    parser = _parser()
    parsed = parser.parse_args(arguments, Arguments())
    parsed.server = _split(parsed.server or [os.environ.get("NATS_URL") or "nats://localhost:4222"])
    parsed.subject = _split(parsed.subject)
    parsed.templates = _split([os.environ.get(OTEL_PYTHON_NATS_SUBJECT_TEMPLATES, "")])
    names = os.environ.get(OTEL_PYTHON_NATS_SUBJECT_NAMES) or str(SUBJECT_NAMES)
    if not names.isdecimal():
        parser.error(f"{OTEL_PYTHON_NATS_SUBJECT_NAMES}: not a number: {names!r}")
    parsed.names = int(names)
    if bool(parsed.subject) == bool(parsed.durable):
        parser.error("either --subject or --durable says where the trace events are")
    if parsed.durable and parsed.queue:
        parser.error("--queue goes with --subject: all that read one durable consumer share its messages")
    for option in ("creds", "nkey", "tls_ca", "tls_cert", "tls_key"):
        file: str | None = getattr(parsed, option)
        if file and not os.path.isfile(file):
            parser.error(f"--{option.replace('_', '-')}: there is no file {file}")
    if parsed.tls_key and not parsed.tls_cert:
        parser.error("--tls-key goes with --tls-cert")
    for option, patterns in (("--subject", parsed.subject), (OTEL_PYTHON_NATS_SUBJECT_TEMPLATES, parsed.templates)):
        try:
            SubjectPatterns(patterns)
        except ValueError as error:
            parser.error(f"{option}: {error}")
    return parsed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {__version__}")
    add(
        "--server",
        "-s",
        action="append",
        default=[],
        metavar="URL",
        help="server to connect to; may be repeated (NATS_URL, nats://localhost:4222)",
    )
    add("--name", default=PROGRAM, help="name of the connection (%(default)s)")
    add("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="(%(default)s)")

    events = parser.add_argument_group("trace events")
    add = events.add_argument
    add(
        "--subject",
        action="append",
        default=[],
        help="destination of trace events, wildcards allowed; may be repeated. Events are lost while nobody listens",
    )
    add("--queue", default="", metavar="GROUP", help="share the events of --subject with others of that queue group")
    add(
        "--durable",
        nargs=2,
        metavar=("STREAM", "CONSUMER"),
        help="read events from a stream that stores them, and acknowledge each when it is exported; "
        "the consumer is created if it does not exist",
    )
    add("--js-domain", metavar="DOMAIN", help="JetStream domain of the stream")
    add(
        "--inbox-prefix",
        action="append",
        default=[],
        metavar="PREFIX",
        help="reply subjects of the traced clients, where they do not begin with _INBOX; may be repeated",
    )

    security = parser.add_argument_group("security")
    add = security.add_argument
    add("--creds", default=_env("NATS_CREDS"), metavar="FILE", help="credentials: JWT and seed (NATS_CREDS)")
    add("--nkey", default=_env("NATS_NKEY"), metavar="FILE", help="nkey seed (NATS_NKEY)")
    add("--user", default=_env("NATS_USER"), help="user name (NATS_USER)")
    add("--password", default=_env("NATS_PASSWORD"), help="password (NATS_PASSWORD)")
    add("--token", default=_env("NATS_TOKEN"), help="token (NATS_TOKEN)")
    add("--tls-ca", default=_env("NATS_CA"), metavar="FILE", help="certificates of the authorities to trust (NATS_CA)")
    add("--tls-cert", default=_env("NATS_CERT"), metavar="FILE", help="certificate of this client (NATS_CERT)")
    add("--tls-key", default=_env("NATS_KEY"), metavar="FILE", help="its key (NATS_KEY)")
    add("--tls-hostname", metavar="NAME", help="name that the server's certificate must have")
    add("--tls-first", action="store_true", help="do the TLS handshake before the server's greeting")
    return parser


def _env(name: str) -> str | None:
    return os.environ.get(name) or None


def _split(values: Sequence[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
