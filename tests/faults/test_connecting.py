# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""TLS, mutual TLS, token, user, nkey, credentials, WebSocket: the same as bare, and no secret in any telemetry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from faults.breaking import free_ports
from faults.harness import Outcome, check_same, results_and_frames, run_plainly, serving
from faults.normal import frames
from faults.securing import PORT, SECURITIES, Security
from support.proxy import Proxy
from support.server import HOST


async def run(security: Security, mode: str) -> Outcome:
    [own_port] = free_ports(1)
    async with serving(security.config.replace(PORT, str(own_port))) as server, Proxy(server.url) as proxy:
        # What is encrypted can't be recorded; and with WebSocket the proxy would be at another port.
        address = proxy.url if security.plain else server.url
        port = own_port if security.own_port else int(address.rpartition(":")[2])
        host = f"{HOST}:{port}"
        wrong = security.user.replace("@", "-wrong@")
        parameters = {
            "url": f"{security.scheme}://{security.user}{host}",
            "wrong_url": f"{security.scheme}://{wrong}{host}",
            "options": security.options,
            "wrong": security.wrong,
            "secrets": security.secrets,
        }
        outcome = await run_plainly("connecting", mode, parameters)
    outcome.sent = [bytes(sent) for sent in proxy.sent]
    # How much of what follows is read before the server has refused it is a matter of chance.
    outcome.sent[1:] = [sent[: sent.find(b"\r\n") + 2] for sent in outcome.sent[1:]]
    return outcome


@pytest.mark.parametrize("secure", SECURITIES)
async def test_connecting(secure: Callable[[Path], Security], tmp_path: Path):
    security = secure(tmp_path)
    outcomes = await check_same(secure.__name__.replace("_", " "), lambda mode: run(security, mode), results_and_frames)
    assert outcomes["bare"].result["refused"] != "connected"
    if security.plain:
        assert any("shout" in frame for sent in outcomes["bare"].sent for frame in frames(sent))
