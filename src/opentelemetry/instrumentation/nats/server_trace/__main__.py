# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The command `opentelemetry-nats-server-trace`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from opentelemetry.instrumentation.nats.server_trace._arguments import parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: What follows its name on the command line; this process's own when None.

    Returns:
        The exit code.

    Raises:
        SystemExit: For `--help`, and with code 2 when the command line is wrong.
    """
    parsed = parse(arguments)
    logging.basicConfig(level=parsed.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        from opentelemetry.instrumentation.nats.server_trace._running import run  # noqa: PLC0415 (needs the extra)
    except ImportError as missing:
        print(
            f"{missing}: pip install 'opentelemetry-instrumentation-nats[server-trace]'",
            file=sys.stderr,
        )
        return 1
    return run(parsed)


if __name__ == "__main__":
    sys.exit(main())
