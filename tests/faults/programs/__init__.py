# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""The programs; each has a `main(world)` that returns what it did, as JSON has it."""
