# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What the tests stand on: a real server, recorded telemetry, an OTLP receiver, real processes."""
