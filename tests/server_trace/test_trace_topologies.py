# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Messages that cross servers and accounts, and their whole trees."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from support.server import HOST, NatsServer
from support.telemetry import Telemetry
from support.topology import cluster, formed, free_ports, gateways, leafs, routes

Start = Callable[..., NatsServer]
Scene = Any  # conftest's

TRACED = """
accounts {
    A { users: [{user: a, password: a}], msg_trace: {dest: "trace.a", sampling: 100} }
    SYS { users: [{user: s, password: s}] }
}
no_auth_user: a
system_account: SYS
"""


only_in_the_matrix = pytest.mark.skipif("NATS_SERVERS" not in os.environ, reason="takes 5 s: tox -e server-trace")


class TestCluster:
    async def test_a_subscriber_and_a_queue_group_on_other_nodes(
        self, start: Start, scene: Scene, telemetry: Telemetry
    ) -> None:
        servers = cluster(start, 3, TRACED)
        await formed(servers, routes, 2)
        await scene.watch(servers["c2"])
        shop = await scene.client(servers["c1"], "shop")
        audit = await scene.client(servers["c2"], "audit")
        billing = await scene.client(servers["c3"], "billing")
        audited = await scene.subscribe(audit, "orders.>")
        billed = await scene.subscribe(billing, "orders.*.created", "workers")
        await scene.probe(shop, "orders.0.created", audited, billed)
        with telemetry.tracer.start_as_current_span("root") as root:
            await shop.publish("orders.8812.created", b"")
        await scene.assert_tree(
            root,
            "publish orders.*.created [app]",
            "  ingress orders.*.created [c1] from shop, account A",
            "    route orders.*.created [c1] to c2, account A",
            "      ingress orders.*.created [c2] from c1, account A",
            "        deliver orders.> [c2] to audit, account A",
            "    route orders.*.created [c1] to c3, account A",
            "      ingress orders.*.created [c3] from c1, account A",
            "        deliver orders.*.created [c3] to billing, workers, account A",
            "  process orders.*.created [app]",
            "  process orders.> [app]",
        )

        with telemetry.tracer.start_as_current_span("root") as root:
            await scene.answer(billing, "prices.get")
            await scene.probe_request(shop, "prices.get")
            await shop.request("prices.get", b"")
        await scene.assert_tree(
            root,
            "request prices.get [app]",
            "  ingress prices.get [c1] from shop, account A",
            "    route prices.get [c1] to c3, account A",
            "      ingress prices.get [c3] from c1, account A",
            "        deliver prices.get [c3] to billing, account A",
            "  process prices.get [app]",
            "    reply [app]",
            "      ingress [c3] from billing, account A",
            "        route [c3] to c1, account A",
            "          ingress [c1] from c3, account A",
            "            deliver [c1] to shop, account A",
        )

    @only_in_the_matrix
    async def test_a_stream_with_three_replicas(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        traced = TRACED.replace("msg_trace", "jetstream: enabled, msg_trace")
        servers = cluster(start, 3, traced, name="J", jetstream=True)
        await formed(servers, routes, 2)
        await scene.watch(servers["j1"])
        clients = {name: await scene.client(server, "shop") for name, server in servers.items()}
        info = await scene.add_stream(clients["j1"], name="ORDERS", subjects=["orders.>"], num_replicas=3)
        leader = info.cluster.leader
        other = min(set(servers) - {leader})
        with telemetry.tracer.start_as_current_span("root") as root:
            await clients[leader].jetstream().publish("orders.created", b"")
        await scene.assert_tree(
            root,
            "publish orders.created [app]",
            f"  ingress orders.created [{leader}] from shop, account A",
            f"    store ORDERS [{leader}], account A",
        )
        with telemetry.tracer.start_as_current_span("root") as root:
            await clients[other].jetstream().publish("orders.created", b"")
        await scene.assert_tree(
            root,
            "publish orders.created [app]",
            f"  ingress orders.created [{other}] from shop, account A",
            f"    route orders.created [{other}] to {leader}, account A",
            f"      ingress orders.created [{leader}] from {other}, account A",
            f"        store ORDERS [{leader}], account A",
        )


def hub_and_edge(start: Start, edge: str = TRACED) -> dict[str, NatsServer]:
    """Starts a server and a leaf node of it."""
    (port,) = free_ports(1)
    options = {"jetstream": False, "monitoring": True}
    remote = f'{{url: "nats-leaf://a:a@{HOST}:{port}", account: A}}'
    return {
        "hub": start(f'server_name: hub\n{TRACED}\nleafnodes {{ listen: "{HOST}:{port}" }}', **options),
        "edge": start(f"server_name: edge\n{edge}\nleafnodes {{ remotes: [{remote}] }}", **options),
    }


class TestLeafNode:
    async def test_an_origin_that_does_not_trace(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        servers = hub_and_edge(start, TRACED.replace('msg_trace: {dest: "trace.a", sampling: 100}', ""))
        await formed(servers, leafs, 1)
        await scene.watch(servers["hub"])
        sensor = await scene.client(servers["edge"], "sensor")
        store = await scene.client(servers["hub"], "store")
        stored = await scene.subscribe(store, "readings.*")
        await scene.probe(sensor, "readings.none", stored)
        with telemetry.tracer.start_as_current_span("root") as root:
            await sensor.publish("readings.heat", b"")
        await scene.assert_tree(
            root,
            "publish readings.heat [app]",
            "  ingress readings.heat [hub] from edge, account A",
            "    deliver readings.* [hub] to store, account A",
            "  process readings.* [app]",
        )

    async def test_up_and_down(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        servers = hub_and_edge(start)
        await formed(servers, leafs, 1)
        await scene.watch(servers["hub"])
        sensor = await scene.client(servers["edge"], "sensor")
        store = await scene.client(servers["hub"], "store")
        stored = await scene.subscribe(store, "readings.*")
        await scene.probe(sensor, "readings.none", stored)
        with telemetry.tracer.start_as_current_span("root") as root:
            await sensor.publish("readings.heat", b"")
        await scene.assert_tree(
            root,
            "publish readings.heat [app]",
            "  ingress readings.heat [edge] from sensor, account A",
            "    leafnode readings.heat [edge] to hub, account A",
            "      ingress readings.heat [hub] from edge, account A",
            "        deliver readings.* [hub] to store, account A",
            "  process readings.* [app]",
        )
        commanded = await scene.subscribe(sensor, "commands.*")
        await scene.probe(store, "commands.none", commanded)
        with telemetry.tracer.start_as_current_span("root") as root:
            await store.publish("commands.stop", b"")
        await scene.assert_tree(
            root,
            "publish commands.stop [app]",
            "  ingress commands.stop [hub] from store, account A",
            "    leafnode commands.stop [hub] to edge, account A",
            "      ingress commands.stop [edge] from hub, account A",
            "        deliver commands.* [edge] to sensor, account A",
            "  process commands.* [app]",
        )


class TestGateway:
    async def test_two_clusters_and_an_answer(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        ports = dict(zip(("EAST", "WEST"), free_ports(2), strict=True))
        remotes = ", ".join(f'{{name: {name}, url: "nats://{HOST}:{port}"}}' for name, port in ports.items())
        servers: dict[str, NatsServer] = {}
        for name, port in ports.items():
            gateway = f'gateway {{ name: {name}, listen: "{HOST}:{port}", gateways: [{remotes}] }}'
            servers |= cluster(start, 1, TRACED, name=name, more=gateway)
        await formed(servers, gateways, 1)
        await scene.watch(servers["east1"])
        shop = await scene.client(servers["east1"], "shop")
        pricer = await scene.client(servers["west1"], "pricer")
        await scene.answer(pricer, "prices.get")
        await scene.probe_request(shop, "prices.get")
        with telemetry.tracer.start_as_current_span("root") as root:
            await shop.request("prices.get", b"")
        await scene.assert_tree(
            root,
            "request prices.get [app]",
            "  ingress prices.get [east1] from shop, account A",
            "    gateway prices.get [east1] to west1, account A",
            "      ingress prices.get [west1] from east1, account A",
            "        deliver prices.get [west1] to pricer, account A",
            "  process prices.get [app]",
            "    reply [app]",
            "      ingress [west1] from pricer, account A",
            "        gateway [west1] to east1, account A",
            "          ingress [east1] from west1, account A",
            "            deliver [east1] to shop, account A",
        )


class TestAccounts:
    def config(self, allowed: bool) -> str:
        allow = ", allow_trace: true" if allowed else ""
        return f"""
            server_name: n1
            accounts {{
                A {{
                    users: [{{user: a, password: a}}]
                    msg_trace: {{dest: "trace.a", sampling: 100}}
                    exports: [{{stream: "ticker.>"}}]
                    imports: [{{service: {{account: B, subject: prices.get}}, to: prices.ask}}]
                }}
                B {{
                    users: [{{user: b, password: b}}]
                    msg_trace: {{dest: "trace.b", sampling: 100}}
                    exports: [{{service: prices.get{allow}}}]
                    imports: [{{stream: {{account: A, subject: "ticker.>"}}, prefix: from-a{allow}}}]
                }}
            }}
        """

    async def test_a_stream_export(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        server = start(self.config(True), jetstream=False)
        await scene.watch(server, user="a", password="a")
        source = await scene.client(server, "source", user="a", password="a")
        reader = await scene.client(server, "reader", user="b", password="b")
        await scene.subscribe(reader, "from-a.ticker.>")
        with telemetry.tracer.start_as_current_span("root") as root:
            await source.publish("ticker.eur", b"")
        await scene.assert_tree(
            root,
            "publish ticker.eur [app]",
            "  ingress ticker.eur [n1] from source, account A",
            "    deliver from-a.ticker.eur [n1] to reader, account B",
            "    export from-a.ticker.eur [n1], account B",
            "  process from-a.ticker.> [app]",
        )

    async def test_a_stream_export_that_may_not_be_traced(
        self, start: Start, scene: Scene, telemetry: Telemetry
    ) -> None:
        server = start(self.config(False), jetstream=False)
        await scene.watch(server, user="a", password="a")
        source = await scene.client(server, "source", user="a", password="a")
        reader = await scene.client(server, "reader", user="b", password="b")
        await scene.subscribe(reader, "from-a.ticker.>")
        with telemetry.tracer.start_as_current_span("root") as root:
            await source.publish("ticker.eur", b"")
        await scene.assert_tree(
            root,
            "publish ticker.eur [app]",
            "  ingress ticker.eur [n1] from source, account A",
            "    export from-a.ticker.eur [n1], account B",
            "  process from-a.ticker.> [app]",
        )

    async def test_one_account_watches_the_others(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        server = start(
            """
            server_name: n1
            accounts {
                A { users: [{user: a, password: a}], msg_trace: {dest: "trace.a"}, exports: [{stream: "trace.a"}] }
                B { users: [{user: b, password: b}], msg_trace: {dest: "trace.b"}, exports: [{stream: "trace.b"}] }
                WATCH {
                    users: [{user: w, password: w, permissions: {subscribe: ["trace.>"], publish: {deny: [">"]}}}]
                    imports: [
                        {stream: {account: A, subject: "trace.a"}}
                        {stream: {account: B, subject: "trace.b"}}
                    ]
                }
            }
            """,
            jetstream=False,
        )
        await scene.watch(server, user="w", password="w")
        for account in ("a", "b"):
            client = await scene.client(server, f"shop-{account}", user=account, password=account)
            with telemetry.tracer.start_as_current_span("root") as root:
                await client.publish("orders.created", b"")
            await scene.assert_tree(
                root,
                "publish orders.created [app]",
                f"  ingress orders.created [n1] from shop-{account}, account {account.upper()}",
            )

    async def test_a_service_import(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        server = start(self.config(True), jetstream=False)
        await scene.watch(server, user="a", password="a")
        await scene.watch(server, user="b", password="b")
        asker = await scene.client(server, "asker", user="a", password="a")
        pricer = await scene.client(server, "pricer", user="b", password="b")
        await scene.answer(pricer, "prices.get", copies_headers=False)
        with telemetry.tracer.start_as_current_span("root") as root:
            await asker.request("prices.ask", b"")
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
