# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What contrib tooling and `opentelemetry-instrument` ask of an instrumentation."""

_instruments = ("nats-py >= 2.2, < 3",)
_supports_metrics = True
_semconv_status = "development"
