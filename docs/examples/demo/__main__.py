# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Orders through three services over NATS, and what this leaves in traces and metrics.

Run it from the root of the repository::

    python3 -m venv .venv && .venv/bin/pip install -q '.[demo]' && .venv/bin/python docs/examples/demo

It starts a nats-server and, under `opentelemetry-instrument`, the plain nats-py programs in `services/`; sets prices
and posts some orders; stops everything and prints each trace as a tree and the metrics as a table. With
`OTEL_EXPORTER_OTLP_ENDPOINT` set (OTLP over HTTP, `http://localhost:4318` say) the spans go there as well. `PORT` is
the port of the HTTP gateway, any free one without.

With `--server-trace` (and `'.[demo,server-trace]'` installed) three servers form a cluster, each service connects to
another one, and the way of each message through them is in its trace.
"""

# Before everything else, so that Ctrl-C is answered while the other modules are loaded.
import _interrupts  # noqa: I001  isort: skip

import sys


def main() -> int:
    """Runs the demo; returns the exit code."""
    try:
        import _demo  # noqa: PLC0415
    except ImportError as missing:
        print(f"The demo needs more packages ({missing}): pip install '.[demo]'", file=sys.stderr)
        return 1
    try:
        with _interrupts.raised():
            _demo.run()
    except _demo.DemoError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
