# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""A certificate and credentials for the example with TLS, made anew in each run."""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys
import trustme


@dataclass(frozen=True)
class Secrets:
    """What the two sides of a connection need.

    Attributes:
        config: of the server, in its own format.
        authority: path of the certificate that the client trusts.
        credentials: path of the client's credentials, as `nsc` writes them.
    """

    config: str
    authority: Path
    credentials: Path


def make_secrets(folder: Path) -> Secrets:
    """Makes them, as files in `folder`."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")

    operator = _key(nkeys.PREFIX_BYTE_OPERATOR)
    system, shop = _key(nkeys.PREFIX_BYTE_ACCOUNT), _key(nkeys.PREFIX_BYTE_ACCOUNT)
    user = _key(nkeys.PREFIX_BYTE_USER)
    limits = {"subs": -1, "conn": -1, "data": -1, "payload": -1}
    accounts = {_name(each): _token(operator, each, "account", limits=limits) for each in (system, shop)}
    user_token = _token(shop, user, "user", subs=-1, data=-1, payload=-1)
    (folder / "shop.creds").write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    config = f"""
        tls {{ cert_file: "{folder}/server.pem", key_file: "{folder}/server.pem" }}
        operator: {_token(operator, operator, "operator")}
        resolver: MEMORY
        resolver_preload: {{ {", ".join(f"{name}: {token}" for name, token in accounts.items())} }}
        system_account: {_name(system)}
    """
    return Secrets(config, folder / "ca.pem", folder / "shop.creds")


def _key(kind: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


def _name(key: nkeys.KeyPair) -> str:
    return key.public_key.decode()


def _token(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, kind: str, **claims: Any) -> str:
    """A JSON web token as NATS servers read it."""
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {
        "iat": int(time.time()),
        "iss": _name(issuer),
        "sub": _name(subject),
        "name": kind,
        "nats": {"type": kind, "version": 2, **claims},
    }
    signed = ".".join(_encoded(json.dumps(part).encode()) for part in (head, body))
    return f"{signed}.{_encoded(issuer.sign(signed.encode()))}"


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()
