# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Programs that must do the same with the instrumentation as without it, whatever breaks around them: see `harness`."""
