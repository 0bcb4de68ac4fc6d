# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What servers write into the headers of traced messages is no part of an answer, or of a message that is passed on.

`Msg.respond` of nats-py copies the request's headers. `Nats-Trace-Dest: _R_...`, with which newer servers deliver what
came by a service import, would switch the tracing of the answer off, and lose it where the responder may not publish
there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nats.aio.msg import Msg

from support.server import NatsServer
from support.telemetry import Telemetry
from support.topology import cluster, formed, routes
from support.waiting import flush

Start = Callable[..., NatsServer]
Scene = Any  # conftest's

ACCOUNTS = """
accounts {
    A {
        users: [{user: a, password: a}]
        msg_trace: {dest: "trace.a", sampling: 100}
        imports: [{service: {account: B, subject: prices.get}, to: prices.ask}]
    }
    B {
        users: [
            {user: b, password: b}
            {user: pricer, password: p, permissions: {
                subscribe: [prices.get], publish: [trace.b], allow_responses: true
            }}
        ]
        msg_trace: {dest: "trace.b", sampling: 100}
        exports: [{service: prices.get, allow_trace: true}]
    }
}
"""

TRACED = """
accounts { A { users: [{user: a, password: a}], msg_trace: {dest: "trace.a", sampling: 100} } }
no_auth_user: a
"""


async def test_an_answer_by_respond_over_a_service_import(start: Start, scene: Scene, telemetry: Telemetry) -> None:
    server = start(f"server_name: n1\n{ACCOUNTS}", jetstream=False)
    await scene.watch(server, user="a", password="a")
    await scene.watch(server, user="b", password="b")
    asker = await scene.client(server, "asker", user="a", password="a")
    pricer = await scene.client(server, "pricer", user="pricer", password="p")
    await scene.answer(pricer, "prices.get")
    with telemetry.tracer.start_as_current_span("root") as root:
        answer = await asker.request("prices.ask", b"")
    assert answer.data == b"answer"
    await scene.assert_tree(
        root,
        "request prices.ask [app]",
        "  ingress prices.ask [n1] from asker, account A",
        "    deliver prices.get [n1] to pricer, account B",
        "    import prices.get [n1], account B",
        "  process prices.get [app]",
        "    reply [app]",
        "      ingress [n1] from pricer, account B",
        "        import [n1], account A",
    )


async def test_a_message_that_is_passed_on_with_its_headers(start: Start, scene: Scene, telemetry: Telemetry) -> None:
    servers = cluster(start, 2, TRACED)
    await formed(servers, routes, 1)
    await scene.watch(servers["c1"])
    shop = await scene.client(servers["c1"], "shop")
    relay = await scene.client(servers["c2"], "relay")
    headers: list[dict[str, str] | None] = []

    async def pass_on(msg: Msg) -> None:
        headers.append(msg.headers)
        await relay.publish("archive.new", msg.data, headers=msg.headers)

    await relay.subscribe("orders.new", cb=pass_on)
    await flush(relay)
    await scene.probe(shop, "orders.new", lambda: bool(headers))
    headers.clear()
    with telemetry.tracer.start_as_current_span("root") as root:
        await shop.publish("orders.new", b"")
    await scene.assert_tree(
        root,
        "publish orders.new [app]",
        "  ingress orders.new [c1] from shop, account A",
        "    route orders.new [c1] to c2, account A",
        "      ingress orders.new [c2] from c1, account A",
        "        deliver orders.new [c2] to relay, account A",
        "  process orders.new [app]",
        "    publish archive.new [app]",
        "      ingress archive.new [c2] from relay, account A",
    )
    [received] = headers
    assert received is not None
    assert received["Nats-Trace-Hop"] == "1"
