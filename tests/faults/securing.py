# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Every way to connect: servers that want a certificate, a token, a password, an nkey or credentials, and WebSocket."""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nkeys
import trustme

from support.server import HOST

PORT = "PORT"


@dataclass
class Security:
    """A server's, and its client's.

    Attributes:
        config: The server's configuration.
        options: What the client connects with, as the program reads it.
        wrong: The same with something wrong, which the server refuses.
        secrets: What must not be in any telemetry.
        scheme: The scheme of the client's URL.
        own_port: Whether the client's port is not the server's first, but another at `PORT` in the configuration.
        user: User and password in the URL.
        plain: Whether a proxy can read what is sent.
    """

    config: str
    options: dict[str, Any]
    wrong: dict[str, Any]
    secrets: list[str] = field(default_factory=list)
    scheme: str = "nats"
    own_port: bool = False
    user: str = ""
    plain: bool = True


def tls(directory: Path) -> Security:
    """The server shows a certificate."""
    authority, server = _certificates(directory)
    config = f"tls {{ {server} }}"
    return Security(config, {"ca": authority}, {"ca": ""}, scheme="tls", plain=False)


def mutual_tls(directory: Path) -> Security:
    """The client shows one as well."""
    authority, server = _certificates(directory)
    config = f'tls {{ {server}, ca_file: "{authority}", verify: true }}'
    key = str(directory / "client.key")
    options = {"ca": authority, "certificate": str(directory / "client.pem"), "key": key}
    secret = Path(key).read_text().splitlines()[1]
    return Security(config, options, {"ca": authority}, [secret], scheme="tls", plain=False)


def token(directory: Path) -> Security:
    """A token."""
    secret = _secret()
    config = f'authorization {{ token: "{secret}" }}'
    return Security(config, {"token": secret}, {"token": f"{secret}-wrong"}, [secret])


def user(directory: Path) -> Security:
    """A user and a password, as options."""
    secret = _secret()
    config = f'authorization {{ user: "mary", password: "{secret}" }}'
    right = {"user": "mary", "password": secret}
    return Security(config, right, {"user": "mary", "password": f"{secret}-wrong"}, [secret])


def user_in_url(directory: Path) -> Security:
    """A user and a password, in the URL."""
    secret = _secret()
    config = f'authorization {{ user: "mary", password: "{secret}" }}'
    return Security(config, {}, {"url_password": f"{secret}-wrong"}, [secret], user=f"mary:{secret}@")


def nkey(directory: Path) -> Security:
    """A key pair, whose seed the client has in a file."""
    right, wrong = _key(nkeys.PREFIX_BYTE_USER), _key(nkeys.PREFIX_BYTE_USER)
    config = f"authorization {{ users = [ {{ nkey: {right.public_key.decode()} }} ] }}"
    files = [directory / "right.nk", directory / "wrong.nk"]
    for file, key in zip(files, (right, wrong), strict=True):
        file.write_bytes(key.seed)
    options, refused = ({"nkeys_seed": str(file)} for file in files)
    return Security(config, options, refused, [right.seed.decode(), wrong.seed.decode()])


def credentials(directory: Path) -> Security:
    """A JWT that an account has signed, and a key pair, in one file."""
    operator, system, account = (
        _key(prefix) for prefix in (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_ACCOUNT)
    )
    unlimited = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
    stored = ("mem_storage", "disk_storage", "streams", "consumer")
    limits = {**dict.fromkeys(unlimited, -1), "wildcards": True}
    accounts = {
        key.public_key.decode(): _jwt(operator, key, "account", limits=limits | dict.fromkeys(more, -1))
        for key, more in ((system, ()), (account, stored))
    }
    preloaded = "\n".join(f"{public}: {jwt}" for public, jwt in accounts.items())
    config = f"""
        operator: {_jwt(operator, operator, "operator", system_account=system.public_key.decode())}
        system_account: {system.public_key.decode()}
        resolver: MEMORY
        resolver_preload: {{ {preloaded} }}
    """
    person, stranger = _key(nkeys.PREFIX_BYTE_USER), _key(nkeys.PREFIX_BYTE_ACCOUNT)
    found: list[str] = []
    files: list[str] = []
    for name, signer in (("right", account), ("wrong", stranger)):
        jwt = _jwt(signer, person, "user", subs=-1, data=-1, payload=-1)
        file = directory / f"{name}.creds"
        file.write_text(_armoured("NATS USER JWT", jwt) + _armoured("USER NKEY SEED", person.seed.decode()))
        files.append(str(file))
        found.append(jwt.rpartition(".")[2])
    options, refused = ({"user_credentials": file} for file in files)
    return Security(config, options, refused, [*found, person.seed.decode()])


def websocket(directory: Path) -> Security:
    """WebSocket, and a token."""
    secret = _secret()
    config = f'authorization {{ token: "{secret}" }}\nwebsocket {{ listen: "{HOST}:{PORT}", no_tls: true }}'
    right = {"token": secret}
    return Security(config, right, {"token": f"{secret}-wrong"}, [secret], scheme="ws", own_port=True, plain=False)


SECURITIES = (tls, mutual_tls, token, user, user_in_url, nkey, credentials, websocket)


def _secret() -> str:
    return f"secret-{secrets.token_hex(8)}"


def _certificates(directory: Path) -> tuple[str, str]:
    """Makes certificates of a server and a client.

    Returns:
        The file of the authority, and the server's files as its configuration has them.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    for name in ("server", "client"):
        certificate = authority.issue_cert(HOST, "localhost")
        certificate.private_key_pem.write_to_path(str(directory / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(directory / f"{name}.pem"))
    server = f'cert_file: "{directory}/server.pem", key_file: "{directory}/server.key"'
    return str(directory / "ca.pem"), server


def _key(prefix: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(secrets.token_bytes(32), prefix))


def _jwt(signer: nkeys.KeyPair, subject: nkeys.KeyPair, kind: str, **claims: Any) -> str:
    """Makes a token in the form that NATS signs: see ADR-14."""
    body = {
        "jti": secrets.token_hex(16),
        "iat": int(time.time()),
        "iss": signer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": kind,
        "nats": {"type": kind, "version": 2, **claims},
    }
    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    signed = ".".join(_base64(json.dumps(part).encode()) for part in (header, body))
    return f"{signed}.{_base64(signer.sign(signed.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _armoured(name: str, text: str) -> str:
    return f"-----BEGIN {name}-----\n{text}\n------END {name}------\n\n"
