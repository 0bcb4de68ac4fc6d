# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Events from subjects and from a stream, by whatever means the server knows its users."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest
import trustme
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from opentelemetry.instrumentation.nats.server_trace import _connection, _reading
from opentelemetry.instrumentation.nats.server_trace._arguments import parse
from opentelemetry.instrumentation.nats.server_trace._connection import Connection
from opentelemetry.instrumentation.nats.server_trace._exporting import AcknowledgedExport
from opentelemetry.instrumentation.nats.server_trace._health import Health
from opentelemetry.instrumentation.nats.server_trace._intake import Intake
from opentelemetry.instrumentation.nats.server_trace._names import Names
from opentelemetry.instrumentation.nats.server_trace._reading import ReadError, Stream, Subjects
from opentelemetry.instrumentation.nats.server_trace._servers import Servers
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from support.server import NatsServer
from support.server_trace import ServerSpans, encode, sample
from support.waiting import eventually, flush

StartServer = Callable[..., NatsServer]


def event(number: int) -> bytes:
    """One event, of another message for each number."""
    made = sample("compressed")["event"]
    made["server"]["seq"] = number
    made["request"]["header"]["traceparent"] = [f"00-{'7' * 32}-{number:016x}-01"]
    return encode(made)


async def stored(nc: Client, subject: str, data: bytes) -> None:
    """Publishes into a stream until that says that it has it: a client notices late that its server went."""
    for _ in range(100):
        with contextlib.suppress(NatsError, asyncio.TimeoutError):
            await nc.jetstream().publish(subject, data, timeout=0.1)
            return
    raise AssertionError("the stream does not answer")


class Backend(SpanExporter):
    """Takes spans, or refuses them."""

    def __init__(self) -> None:
        self.up = True
        self.refused = 0
        self.messages: list[int] = []
        self.stored_after: list[float] = []

    def export(self, spans: Any) -> SpanExportResult:
        if not self.up:
            self.refused += 1
            return SpanExportResult.FAILURE
        servers = [span for span in spans if span.name.startswith("ingress")]
        self.messages += [span.parent.span_id for span in servers]
        self.stored_after += [span.attributes["messaging.nats.trace.stored_after"] for span in servers]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


class Durable:
    """The command's parts for `--durable`, without its process."""

    def __init__(self, client: Client, stream: str, consumer: str = "exporter") -> None:
        self.backend = Backend()
        provider = TracerProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.backend))
        export = AcknowledgedExport(provider)
        self.health = Health()
        intake = Intake(export, Servers(export, {}), Names(), self.health)
        self.stream = Stream(client, stream, consumer, None, intake, export, self.health)
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Durable:
        await self.stream.open()
        self._task = asyncio.ensure_future(self.stream.read(self._stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.wait_for(self._task, 10)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reading, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(_reading, "_FETCH_TIMEOUT", 0.2)
    monkeypatch.setattr(_connection, "_RECONNECT_WAIT", 0.02)


@pytest.fixture
async def stream(nc: Client, unique: Callable[[str], str]) -> AsyncIterator[str]:
    """A stream that stores what is published to a subject of its name."""
    name = unique("traces")
    await nc.jetstream().add_stream(name=name, subjects=[name])
    yield name


class TestStream:
    async def test_what_is_exported_is_acknowledged(self, nc: Client, stream: str) -> None:
        js = nc.jetstream()
        for number in range(1, 601):
            await nc.publish(stream, event(number))
        async with Durable(nc, stream) as durable:
            await eventually(lambda: len(durable.backend.messages) == 600)
        assert sorted(durable.backend.messages) == list(range(1, 601))
        await flush(nc)
        info = await js.consumer_info(stream, "exporter")
        assert (info.num_pending, info.num_ack_pending, info.num_redelivered) == (0, 0, 0)
        assert (info.config.durable_name, info.config.ack_policy, info.config.ack_wait) == ("exporter", "explicit", 60)
        assert durable.health.pending == 0

    async def test_while_nothing_can_be_exported_nothing_is_acknowledged(
        self, nc: Client, stream: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        js = nc.jetstream()
        async with Durable(nc, stream) as durable:
            durable.backend.up = False
            for number in range(1, 11):
                await nc.publish(stream, event(number))
            await eventually(lambda: durable.backend.refused > 2)
            info = await js.consumer_info(stream, "exporter")
            assert info.ack_floor.stream_seq == 0
            durable.backend.up = True
            await eventually(lambda: len(set(durable.backend.messages)) == 10)
        await flush(nc)
        assert (await js.consumer_info(stream, "exporter")).num_ack_pending == 0
        assert "events could not be exported; they come again" in caplog.text

    async def test_one_that_ends_leaves_the_rest_to_the_next(self, nc: Client, stream: str) -> None:
        async with Durable(nc, stream) as first:
            await nc.publish(stream, event(1))
            await eventually(lambda: first.backend.messages)
        await nc.publish(stream, event(2))
        async with Durable(nc, stream) as second:
            await eventually(lambda: second.backend.messages)
        assert (first.backend.messages, second.backend.messages) == ([1], [2])

    async def test_bad_events_do_not_come_again(self, nc: Client, stream: str) -> None:
        async with Durable(nc, stream) as durable:
            await nc.publish(stream, b"junk")
            await nc.publish(stream, event(1))
            await eventually(lambda: durable.backend.messages)
        await flush(nc)
        assert (await nc.jetstream().consumer_info(stream, "exporter")).num_ack_pending == 0
        assert durable.health.skipped == {"not_json": 1}

    async def test_how_long_it_took_until_an_event_was_stored_is_known(self, nc: Client, stream: str) -> None:
        async with Durable(nc, stream) as durable:
            await nc.publish(stream, event(1))
            await eventually(lambda: durable.backend.messages)
        (stored_after,) = durable.backend.stored_after
        assert stored_after == pytest.approx(time.time() - 1768469400, abs=60)

    async def test_a_server_that_goes_away_and_comes_back(
        self, server_factory: StartServer, connect: Callable[..., Any]
    ) -> None:
        server = server_factory()
        nc = await connect(server)
        await nc.jetstream().add_stream(name="TRACES", subjects=["trace"])
        async with Durable(nc, "TRACES") as durable:
            await nc.publish("trace", event(1))
            await eventually(lambda: durable.backend.messages)
            server.restart()
            await stored(nc, "trace", event(2))
            await eventually(lambda: set(durable.backend.messages) == {1, 2}, 10)

    async def test_a_stream_that_is_not_there_is_said(self, nc: Client) -> None:
        with pytest.raises(ReadError, match="consumer exporter of stream NONE: .*stream not found"):
            await Durable(nc, "NONE").stream.open()

    @pytest.mark.parametrize(
        ("config", "why"),
        [
            ({"deliver_subject": "push", "ack_policy": AckPolicy.EXPLICIT}, "is a push consumer"),
            ({"ack_policy": AckPolicy.NONE}, "does not acknowledge explicitly"),
        ],
    )
    async def test_a_consumer_of_another_kind_is_said(
        self, nc: Client, stream: str, config: dict[str, Any], why: str
    ) -> None:
        await nc.jetstream().add_consumer(stream, ConsumerConfig(durable_name="exporter", **config))
        with pytest.raises(ReadError, match=why):
            await Durable(nc, stream).stream.open()

    async def test_a_consumer_that_is_there_is_left_as_it_is(self, nc: Client, stream: str) -> None:
        js = nc.jetstream()
        with pytest.raises(NotFoundError):
            await js.consumer_info(stream, "mine")
        config = ConsumerConfig(durable_name="mine", ack_policy=AckPolicy.EXPLICIT, ack_wait=7)
        await js.add_consumer(stream, config)
        await Durable(nc, stream, "mine").stream.open()
        assert (await js.consumer_info(stream, "mine")).config.ack_wait == 7


class TestSubjects:
    async def test_a_queue_group_shares_events(self, connect: Callable[..., Any], unique: Callable[[str], str]) -> None:
        subject = unique("trace")
        exporters = [ServerSpans(), ServerSpans()]
        stop = asyncio.Event()
        tasks = []
        for exporter in exporters:
            subjects = Subjects(await connect(), [subject], "exporters", exporter.intake)
            assert await subjects.open() == subject
            tasks.append(asyncio.ensure_future(subjects.read(stop)))
        nc = await connect()
        for number in range(1, 101):
            await nc.publish(subject, event(number))
        await flush(nc)
        stop.set()
        await asyncio.gather(*tasks)
        counts = [exporter.health.events for exporter in exporters]
        assert sum(counts) == 100
        assert all(counts)

    async def test_without_a_connection_a_stop_takes_in_what_has_arrived(
        self, server_factory: StartServer, connect: Callable[..., Any]
    ) -> None:
        server = server_factory()
        reader, nc = await connect(server), await connect(server)
        exporter = ServerSpans()
        subjects = Subjects(reader, ["trace"], "", exporter.intake)
        await subjects.open()
        await nc.publish("trace", event(1))
        await flush(nc)
        await eventually(lambda: exporter.health.events, 15, "the event")
        server.stop()
        await eventually(lambda: not reader.is_connected, 15, "the end of the connection")
        stop = asyncio.Event()
        stop.set()
        await asyncio.wait_for(subjects.read(stop), 30)
        assert exporter.health.spans == 3

    async def test_what_comes_too_fast_is_counted(
        self, server_factory: StartServer, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_reading, "_MOST_WAITING_MESSAGES", 2)
        server = server_factory()
        exporter = ServerSpans()
        connection = Connection(parse(["-s", server.url, "--subject", "trace"]), exporter.health)
        await connection.connect(asyncio.Event())
        blocked = asyncio.Event()
        monkeypatch.setattr(exporter.intake, "take", lambda *_: blocked.wait())
        await Subjects(connection.client, ["trace"], "", exporter.intake).open()
        nc = await connect(server)
        for number in range(1, 11):
            await nc.publish("trace", event(number))
        await flush(nc)
        await eventually(lambda: exporter.health.skipped["slow_consumer"] >= 5)
        blocked.set()
        await connection.close()


class TestSecurity:
    """`_connection` against servers that ask who is there."""

    async def check(self, *arguments: str) -> None:
        """Connects, and does what the command does: subscribes."""
        connection = Connection(parse(["--subject", "trace", *arguments]), Health())
        assert await asyncio.wait_for(connection.connect(asyncio.Event()), 10)
        try:
            await connection.client.subscribe("trace")
            await connection.client.flush()
            assert connection.client.is_connected
            assert connection.address.startswith(("127.0.0.1:", "localhost:"))
        finally:
            await connection.close()
        assert connection.closed.is_set()

    async def test_user_and_password(self, server_factory: StartServer) -> None:
        url = server_factory("authorization { user: u, password: secret }").url
        await self.check("-s", url, "--user", "u", "--password", "secret")

    async def test_token(self, server_factory: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NATS_TOKEN", "secret")
        await self.check("-s", server_factory("authorization { token: secret }").url)

    async def test_nkey(self, server_factory: StartServer, tmp_path: Path) -> None:
        pair, seed = key(b"U")
        (tmp_path / "user.nk").write_bytes(seed)
        url = server_factory(f"authorization {{ users: [{{nkey: {pair.public_key.decode()}}}] }}").url
        await self.check("-s", url, "--nkey", str(tmp_path / "user.nk"))

    async def test_credentials_of_operator_mode(self, server_factory: StartServer, tmp_path: Path) -> None:
        (operator, _), (account, _), (user, seed) = key(b"O"), key(b"A"), key(b"U")
        trace = {"dest": "trace", "sampling": 100}
        operator_jwt = jwt(operator, operator, {"type": "operator", "version": 2})
        limits = dict.fromkeys(("subs", "data", "payload", "conn", "leaf", "imports", "exports"), -1)
        claims = {"type": "account", "version": 2, "limits": {**limits, "wildcards": True}, "trace": trace}
        account_jwt = jwt(operator, account, claims)
        user_limits = dict.fromkeys(("subs", "data", "payload"), -1)
        user_jwt = jwt(account, user, {"type": "user", "version": 2, **user_limits})
        creds = tmp_path / "exporter.creds"
        creds.write_text(
            f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
        )
        public = account.public_key.decode()
        url = server_factory(
            f"operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {public}: {account_jwt} }}",
            jetstream=False,
        ).url
        await self.check("-s", url, "--creds", str(creds))

    @pytest.mark.parametrize("first", [False, True])
    async def test_tls_with_a_certificate_of_the_clients_own(
        self, server_factory: StartServer, tmp_path: Path, first: bool
    ) -> None:
        if first and "tls_handshake_first" not in inspect.signature(Client.connect).parameters:
            with pytest.raises(ValueError, match="needs nats-py 2.6 or newer"):
                await self.check("--tls-first")
            return
        authority = trustme.CA()
        ca = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(ca))
        for name, certificate in (("server", authority.issue_cert("nats.test")), ("client", authority.issue_cert("c"))):
            certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / f"{name}.pem"))
        server_pem = tmp_path / "server.pem"
        server = NatsServerWithTls(
            f'tls {{ cert_file: "{server_pem}", key_file: "{server_pem}", ca_file: "{ca}", verify: true, '
            f"handshake_first: {str(first).lower()} }}"
        )
        try:
            server.start()
            options = ["--tls-ca", str(ca), "--tls-cert", str(tmp_path / "client.pem"), "--tls-hostname", "nats.test"]
            await self.check("-s", server.url, *options, *(["--tls-first"] if first else []))
        finally:
            server.close()

    async def test_a_wrong_password_is_logged_once_without_it(
        self, server_factory: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = server_factory("authorization { user: u, password: right }")
        url = server.url.replace("://", "://u:wrong-secret@")
        connection = Connection(parse(["-s", url, "--subject", "trace"]), Health())
        stop = asyncio.Event()
        connecting = asyncio.ensure_future(connection.connect(stop))
        await eventually(lambda: server.log.count("authentication error") > 2, 10)
        stop.set()
        assert await asyncio.wait_for(connecting, 10) is False
        await connection.close()
        assert caplog.text.count("Authorization Violation") == 1
        assert "secret" not in caplog.text


class NatsServerWithTls(NatsServer):
    """Is ready when it listens: the common server's greeting can't be read before the handshake."""

    def _ready(self) -> bool:
        for file in self._ports.iterdir():
            try:
                self.url = json.loads(file.read_text())["nats"][0]
            except ValueError:
                return False
            return "Server is ready" in self.log
        return False


def key(kind: bytes) -> tuple[nkeys.KeyPair, bytes]:
    """A key pair and its seed."""
    prefix = {b"U": nkeys.PREFIX_BYTE_USER, b"A": nkeys.PREFIX_BYTE_ACCOUNT, b"O": nkeys.PREFIX_BYTE_OPERATOR}[kind]
    seed = nkeys.encode_seed(bytes(subprocess.os.urandom(32)), prefix)
    return nkeys.from_seed(bytearray(seed)), bytes(seed)


def jwt(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, nats: dict[str, Any]) -> str:
    """A JWT as NATS has them."""

    def part(value: Any) -> bytes:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {"iss": issuer.public_key.decode(), "sub": subject.public_key.decode(), "iat": 1, "jti": "x", "nats": nats}
    head = part({"typ": "JWT", "alg": "ed25519-nkey"}) + b"." + part(claims)
    return (head + b"." + part(issuer.sign(head))).decode()
