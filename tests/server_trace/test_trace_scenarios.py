# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Messages on real servers, and their whole trees. `tox -e server-trace` runs them on every version that traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.instrumentation.utils import suppress_instrumentation
from support.server import NatsServer
from support.telemetry import Telemetry
from support.waiting import eventually

Start = Callable[..., NatsServer]
Scene = Any  # conftest's

TRACED = """
accounts { A { users: [{user: a, password: a}], msg_trace: {dest: "trace.a", sampling: 100}, jetstream: enabled } }
no_auth_user: a
"""
TRACED_CORE = TRACED.replace(", jetstream: enabled", "")


class TestOneServer:
    async def test_a_subscriber_and_a_queue_group(
        self, start: Start, scene: Scene, telemetry: Telemetry, server_version: str
    ) -> None:
        server = start(f"server_name: n1\n{TRACED}")
        await scene.watch(server)
        shop, billing, audit = [await scene.client(server, name) for name in ("shop", "billing", "audit")]
        await scene.subscribe(billing, "orders.*.created", "workers")
        await scene.subscribe(audit, "orders.>")
        with telemetry.tracer.start_as_current_span("root") as root:
            await shop.publish("orders.8812.created", b"")
        spans = await scene.assert_tree(
            root,
            "publish orders.*.created [app]",
            "  ingress orders.*.created [n1] from shop, account A",
            "    deliver orders.*.created [n1] to billing, workers, account A",
            "    deliver orders.> [n1] to audit, account A",
            "  process orders.*.created [app]",
            "  process orders.> [app]",
        )
        client_ids = [str(client.client_id) for client in (shop, billing, audit)]
        of_server = [span for span in spans if span.resource.attributes.get("service.name") == "nats-server"]
        assert sorted(span.attributes["messaging.client.id"] for span in of_server) == sorted(client_ids)
        for span in of_server:
            assert span.resource.attributes == {
                "service.name": "nats-server",
                "service.instance.id": shop._server_info["server_id"],
                "service.version": shop._server_info["version"],
                "nats.server.name": "n1",
            }
            assert server_version in (shop._server_info["version"], "installed")

    async def test_nobody_listens(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        server = start(f"server_name: n1\n{TRACED}")
        await scene.watch(server)
        shop = await scene.client(server, "shop")
        with telemetry.tracer.start_as_current_span("root") as root:
            await shop.publish("orders.created", b"")
        await scene.assert_tree(
            root, "publish orders.created [app]", "  ingress orders.created [n1] from shop, account A"
        )

    async def test_a_request_and_its_answer(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        server = start(f"server_name: n1\n{TRACED}")
        await scene.watch(server)
        shop, pricer = await scene.client(server, "shop"), await scene.client(server, "pricer")
        await scene.answer(pricer, "prices.get")
        with telemetry.tracer.start_as_current_span("root") as root:
            await shop.request("prices.get", b"")
        await scene.assert_tree(
            root,
            "request prices.get [app]",
            "  ingress prices.get [n1] from shop, account A",
            "    deliver prices.get [n1] to pricer, account A",
            "  process prices.get [app]",
            "    reply [app]",
            "      ingress [n1] from pricer, account A",
            "        deliver [n1] to shop, account A",
        )

    async def test_a_stream_stores_it_once(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        server = start(f"server_name: n1\n{TRACED}")
        await scene.watch(server)
        shop = await scene.client(server, "shop")
        js = shop.jetstream()
        with suppress_instrumentation():
            await js.add_stream(name="ORDERS", subjects=["orders.>"])
        with telemetry.tracer.start_as_current_span("root") as root:
            await js.publish("orders.created", b"", headers={"Nats-Msg-Id": "1"})
            await js.publish("orders.created", b"", headers={"Nats-Msg-Id": "1"})
        await scene.assert_tree(
            root,
            "publish orders.created [app]",
            "  ingress orders.created [n1] from shop, account A",
            "    store ORDERS [n1], account A",
            "publish orders.created [app]",
            "  ingress orders.created [n1] from shop, account A",
            "    store ORDERS [n1], account A, duplicate True",
        )

    async def test_a_mapping(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        mapped = TRACED.replace("jetstream: enabled", "mappings: {orders.*: sales.$1}")
        server = start(f"server_name: n1\n{mapped}")
        await scene.watch(server)
        shop, billing = await scene.client(server, "shop"), await scene.client(server, "billing")
        await scene.subscribe(billing, "sales.*")
        with telemetry.tracer.start_as_current_span("root") as root:
            await shop.publish("orders.created", b"")
        await scene.assert_tree(
            root,
            "publish orders.created [app]",
            "  ingress orders.created [n1] from shop, account A",
            "    deliver sales.* [n1] to billing, account A",
            "    map sales.created [n1], account A",
            "  process sales.* [app]",
        )

    async def test_a_denied_publish(self, start: Start, scene: Scene, telemetry: Telemetry) -> None:
        server = start(
            'server_name: n1\naccounts { A { msg_trace: {dest: "trace.a", sampling: 100}, users: ['
            '{user: a, password: a}, {user: intern, password: i, permissions: {publish: ["orders.>", "trace.a"]}}] } }'
        )
        await scene.watch(server, user="a", password="a")
        errors: list[Exception] = []

        async def note(error: Exception) -> None:
            errors.append(error)

        intern = await scene.client(server, "intern", user="intern", password="i", error_cb=note)
        with telemetry.tracer.start_as_current_span("root") as root:
            await intern.publish("salaries.raise", b"")
        await scene.assert_tree(
            root,
            "publish salaries.raise [app]",
            "  ingress salaries.raise [n1] from intern, account A, type permissions_violation",
        )
        assert len(errors) == 1

    async def test_a_message_that_was_not_sampled_has_no_event(
        self, start: Start, scene: Scene, telemetry: Telemetry
    ) -> None:
        server = start(f"server_name: n1\n{TRACED}")
        await scene.watch(server)
        shop = await scene.client(server, "shop")
        await shop.publish("orders.a", b"", headers={"traceparent": f"00-{'1' * 32}-{'2' * 16}-00"})
        with telemetry.tracer.start_as_current_span("root") as root:
            await shop.publish("orders.b", b"")
        await scene.assert_tree(root, "publish orders.b [app]", "  ingress orders.b [n1] from shop, account A")
        assert scene.exporter.health.events == 1


class TestPermissions:
    """Of a publisher that may not publish to the destination of trace events."""

    async def test_servers_from_2_12_12_and_2_14_3_on_drop_what_it_publishes(
        self, start: Start, scene: Scene, telemetry: Telemetry
    ) -> None:
        server = start(
            'server_name: n1\naccounts { A { msg_trace: {dest: "trace.a", sampling: 100}, users: ['
            '{user: a, password: a}, {user: intern, password: i, permissions: {publish: ["orders.>"]}}] } }'
        )
        await scene.watch(server, user="a", password="a")
        errors: list[Exception] = []

        async def note(error: Exception) -> None:
            errors.append(error)

        intern = await scene.client(server, "intern", user="intern", password="i", error_cb=note)
        audit = await scene.client(server, "audit", user="a", password="a")
        audited = await scene.subscribe(audit, "orders.>")
        with telemetry.tracer.start_as_current_span("root") as root:
            await intern.publish("orders.created", b"")
        version = tuple(int(part) for part in intern._server_info["version"].split("."))
        if version >= (2, 14, 3) or (2, 12, 12) <= version < (2, 13):
            await eventually(lambda: errors)
            assert "permissions violation" in str(errors[0]).lower()
            await scene.assert_tree(root, "publish orders.created [app]")
            assert not audited()
        else:
            await scene.assert_tree(
                root,
                "publish orders.created [app]",
                "  ingress orders.created [n1] from intern, account A",
                "    deliver orders.> [n1] to audit, account A",
                "  process orders.> [app]",
            )
            assert not errors
