# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Tokens of subjects: what is an id, and what a word, as far as one token tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from opentelemetry.instrumentation.nats._tokens import looks_generated
from support.schemes import MOSTLY_KNOWN, SCHEMES

IDS = """
    0 7 42 404 8812 20250131 1732608000 1732608000123456789
    A123456 ORD123456 cust00042 INV2026001234 LH4711 DE89370400440532013000 1Z999AA10123456784 1HGCM82633A004352
    ORD-2026-000123 order-8812 order_8812 order:8812 invoice-2026-11 PO-000017 ticket#4711 sku-100-200-xl room-0042
    tenant-42 tenant_42 tenant-007 user-10 customer-123 node-17 redis-12 gate-12 42-north B-XY-123 shop/17
    2026-11-25 25-11-2026 2026_11_25 25-Nov-26 2026-W48 2026-11-25T10:30:00Z 20261125T103000Z 2026-11-25_10-30
    10:30 10:30:00 10-30-00 T10:30:00 10:30:00Z 2026-11 11-25
    +49-30-1234567 +491701234567 +1-555-010-9999 555-0199 (030)-123-45 tel:+4930123456
    00:1A:2B:3C:4D:5E 00-1a-2b-3c-4d-5e aa:bb:cc:dd:ee:ff 001a2b3c4d5e 00:11:22:33:44:55:66:77
    192-168-0-1 10-0-0-12 ip-10-0-0-12 2001:db8::1 fe80::1ff:fe23:4567:890a ::1 fe80::1%eth0
    2001-db8-85a3-0-0-8a2e-370-7334
    web-7d4b9c6f5-x2x7q checkout-service-5c689d88bb-xk7pq api-66b6c48dd5-bcdfg web-bcdfghjklm-xzwvq fluentd-x2x7q
    550e8400-e29b-41d4-a716-446655440000 550E8400-E29B-41D4-A716-446655440000 abcdefab-cdef-abcd-efab-cdefabcdefab
    {550e8400-e29b-41d4-a716-446655440000} urn:uuid:550e8400-e29b-41d4-a716-446655440000
    550e8400_e29b_41d4_a716_446655440000
    1a2b3c4d DEADBEE5 507f1f77bcf86cd799439011 9f86d081884c7d659a2feaa0c55ad015 i-0abcd1234ef567890 session-9f86d0818
    deploy-3f2a91c user-a1b2c3 0x1f 0X1F 0xdeadbeef 0x0
    01ARZ3NDEKTSV4RRFFQ69G5FAV 01arz3ndektsv4rrffq69g5fav 0ujtsYcgvSTl8PAuAdqWYSMnLOv QvjDx2h5aPWIvTsSHxTwqp
    QvjDxZhkaPWIvTsSHxTwqp 1srOrx2ZWZBpBUvZwXKQmoEYga2 cjld2cjxh0000qzrmn831i7rn tz4a98xxat96iws9zmbrgj3a
    9m4e2mr0ui3e8a215n4g 175928847299117063 V1StGXR8_Z5jdHi6B-myT FZZ8ckGWQp-p5X_nF2jF7w -MxK3nB7Lq2ZpRt9Wv4Y
    bQkXvLz_WmTjRn-PyHsDa pi_3MtwBwLkdIwHu7ix28a3tqPD JBSWY3DPEHPK3PXP MFRGGZDFMZTWQ2LK 0HKQ3W2B5Z1XG dQw4w9WgXcQ
    eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9 bmFtZQ== aGVsbG8= JBSWY3DPEHPK3PXPAA======
    alice%40example bob%2Btag%40mail alice@example M%C3%BCller j%20doe user42@mail 订单8812
""".split()

WORDS = """
    orders created OrderCreated order-created order_created created_at a x shop
    v1 v2 V10 v1beta1 v2alpha1 v1-2 v1-2-13 v12 api-v2 orders_v2 v2-orders release-7 rev3 r18 rc1
    eu-west-1 us-east-2 us-east-1a ap-southeast-2 us-gov-west-1 europe-west12 asia-northeast1 westus2 use1-az4 zone-1
    dc2
    ipv4 ipv6 IPv4 sha1 sha256 sha-256 sha3-256 sha512 SHA-512 md5 base64 base-64 crc32 aes256 aes-128 rs256 ed25519
    x25519
    rsa2048 rsa-4096 poly1305 chacha20poly1305 secp256k1 prime256v1 x509 pkcs12 tls13
    oauth2 OAuth2 http2 HTTP2 http3 http-404 status-503 s3 S3 ec2 k8s K8s i18n l10n log4j neo4j web3 b2b p2p e2e c3p0
    h264
    mp3 mp4 utf8 utf-8 UTF-16 utf8mb4 iso-8859-1 iso-8859-15 iso8859 iso8601 ISO-8601 rfc3339 rfc-5424 iso27001 cp1252
    windows-1252 latin1 ascii x86_64 x86-64 amd64 arm64 aarch64 i386 win32 int64 float-32 ieee802 nmea0183 j1939
    es2020
    level-3 level-10 top10 top-10 top-100 stage-2 tier1 phase-12 line7 step-3 priority-1 day-30 q4 p95 p99 5xx 4k
    1080p
    24h 15m 24-hours 15-min 7-days 2fa 3ds 3d-secure covid-19 1password 7zip 4x4 tenant-7 user-a web-0 shard-3 worker2
    deadbeef decade facade cafe added face ab-cd
    customer_notification_service customer-notification-service customernotificationservice
    internationalizationservice
    CUSTOMERNOTIFICATIONSERVICE OrderConfirmationRequested orderConfirmationRequested PaymentHasBeenRefunded
    UserHasBeenAddedToTheTeam HTTPRequestReceivedEvent XMLHttpRequestHandlerFactory InventoryItemReservedEvent
    KubernetesJobWasEvicted OrderConfirmationRequestedV2 customernotificationservicev2
    certificatesigningrequestv1beta1
    Order-Confirmation-Requested_V2 order_confirmation_requested_v2 US-East-1-Order-Created
    Kundenbenachrichtigungsdienst
    notificaciones-de-clientes getOrderById convertUtf8ToUtf16 IPv4ToIPv6 handleHttp2Upgrade MQTT5Bridge
    S3ObjectCreated
    * > $SYS $JS _INBOX $KV ALL-CAPS_AND_MORE größe überweisung 订单 noël
""".split()

# What no rule knows, and learning finds out. Here so that a rule that takes it is a decision.
LEFT_TO_LEARNING = "K3xo alice bob 1a2b3c4 a1b2c3d4e5f6g7h8i9j fluentd-xk7pq".split()


class TestTokens:
    @pytest.mark.parametrize("token", IDS)
    def test_that_are_ids(self, token: str):
        assert looks_generated(token)

    @pytest.mark.parametrize("token", WORDS)
    def test_that_people_name_things(self, token: str):
        assert not looks_generated(token)

    @pytest.mark.parametrize("token", LEFT_TO_LEARNING)
    def test_that_may_be_either(self, token: str):
        assert not looks_generated(token)

    @pytest.mark.parametrize("words", ["word-", "a", "deadbeef", "-", "ä"])
    def test_that_are_very_long_are_nobodys_words(self, words: str):
        assert not looks_generated((words * 14)[:14])
        assert looks_generated((words * 129)[:129])

    def test_are_enough_to_tell(self):
        assert len(IDS) == len(set(IDS)) >= 100
        assert len(WORDS) == len(set(WORDS)) >= 100

    @pytest.mark.parametrize("token", ["", "\ud800", "\ud800" * 20, "-", "=", "@", "%", "a" * 10_000, "1-" * 5_000])
    def test_of_any_text_are_answered(self, token: str):
        assert looks_generated(token) in (True, False)


class TestWordsTogether:
    """A word stays one in the company of others, and an id stays one."""

    words = [word for word in WORDS if word.isascii() and word.replace("-", "").replace("_", "").isalpha()]

    def test_make_words(self):
        assert [f"{a}-{b}" for a in self.words for b in self.words if looks_generated(f"{a}-{b}")] == []

    @pytest.mark.parametrize("separator", ["-", "_", ":"])
    def test_make_ids_with_a_number(self, separator: str):
        numbered = set("level top tier stage phase step zone priority day".split())
        words = [word for word in self.words if word not in numbered]
        assert [word for word in words if not looks_generated(f"{word}{separator}4711")] == []


def tokens(scheme: Callable[[], str], count: int = 10_000) -> Iterator[str]:
    return (scheme() for _ in range(count))


class TestSchemes:
    @pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
    def test_are_known(self, scheme: Callable[[], str]):
        assert [token for token in tokens(scheme) if not looks_generated(token)] == []

    @pytest.mark.parametrize("scheme", MOSTLY_KNOWN.values(), ids=MOSTLY_KNOWN)
    def test_are_known_but_for_a_few_in_a_thousand(self, scheme: Callable[[], str]):
        assert len([token for token in tokens(scheme) if not looks_generated(token)]) <= 30
