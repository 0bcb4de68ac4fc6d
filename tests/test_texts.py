# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""What a text loses before it leaves: secrets, payloads, length, and what is no UTF-8."""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
import time
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import MsgAlreadyAckdError
from nats.js.kv import KeyValue

from opentelemetry.instrumentation.nats import _faults, _texts
from support.planted import PLANTED

SEED = "SUAIBDPBAUTWCWBKIO6XHQNK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"
JWT = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.eyJqdGkiOiJQRzRJ.c2lnbmF0dXJl-_"
CREDENTIALS = f"-----BEGIN NATS USER JWT-----\n{JWT}\n------END NATS USER JWT------\n"


class TestClean:
    @pytest.mark.parametrize(
        ("text", "cleaned"),
        [
            ("nats: timeout", "nats: timeout"),
            ("nats: JetStream.APIError: code=400", "nats: JetStream.APIError: code=400"),
            ("nats: 'Authorization Violation'", "nats: 'Authorization Violation'"),
            ("", ""),
            ("line one\nline two", "line one\nline two"),
            (f"no route to nats://user:{PLANTED}@host:4222", "no route to nats://host:4222"),
            (f"no route to nats://user:{PLANTED}@ss@host:4222", "no route to nats://host:4222"),
            (f"no route to nats://user:p/{PLANTED}@host:4222", "no route to nats://host:4222"),
            (f"no route to 'nats://{PLANTED}@host', sorry", "no route to 'nats://host', sorry"),
            (f"user:{PLANTED}@host:4222", "host:4222"),
            ("write to joe@example.com", "write to joe@example.com"),
            (
                f"Port could not be cast to integer value as '{PLANTED}'",
                "Port could not be cast to integer value as '...'",
            ),
            (f"netloc 'u:{PLANTED}@h' contains invalid characters", "netloc '...'"),
            (f"no such file: {SEED}", "no such file: [REDACTED]"),
            (f"bad token {JWT}", "bad token [REDACTED]"),
            (f"cannot parse {CREDENTIALS}", "cannot parse [REDACTED]\n"),
            (f"Authorization: Bearer {PLANTED}.x", "Authorization: [REDACTED] [REDACTED]"),
            (f"connect(password='{PLANTED} and more', x=1)", "connect(password=[REDACTED], x=1)"),
            (f'{{"token": "{PLANTED}", "x": 1}}', '{"token": [REDACTED], "x": 1}'),
            (f"auth_token={PLANTED};api-key: {PLANTED}", "auth_token=[REDACTED];api-key: [REDACTED]"),
            (f"cannot decode b'{PLANTED}\\'{PLANTED}' at 1", "cannot decode b'...' at 1"),
            (f'cannot decode b"{PLANTED}', "cannot decode b'...'"),
            ("one\ud800two", "one\ufffdtwo"),
            ("naïve 你好 😀", "naïve 你好 😀"),
        ],
    )
    def test_takes_out_what_must_not_leave_and_nothing_else(self, text: str, cleaned: str):
        assert _texts.clean(text) == cleaned

    def test_cuts_and_says_how_long_it_was(self):
        text = _texts.clean("x" * 3000)
        assert len(text) == 1024
        assert text.endswith("x...[3000 characters]")
        assert _texts.cut("x" * 1024) == "x" * 1024
        assert _texts.cut("x" * 1_000_000).endswith("...[1000000 characters]")

    @pytest.mark.parametrize(
        "piece",
        [
            "://",
            "a:",
            "passwd",
            "token'",
            "b'",
            "-----BEGIN",
            "S",
            "eyJ",
            "a.",
            "bearer ",
            "Msg(_client=",
            "\\'",
            "seed = ",
        ]
        + ["= ", "@", " ", "\n", "netloc ", "integer value as ", "a-", "'", '"', "[", "\ud800"],
    )
    @pytest.mark.parametrize("last", ["", "@", "'", "=", "eyJaaaaaaaa", "passwd: "])
    def test_takes_no_long_time_over_any_text(self, piece: str, last: str):
        text = piece * (1_000_000 // len(piece)) + last
        started = time.process_time()
        cleaned = _texts.clean(text)
        assert time.process_time() - started < 0.05
        assert len(cleaned) <= 1024


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


class TestExceptions:
    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (FileNotFoundError(errno.ENOENT, "No such file or directory", SEED), "[Errno 2] No such file or directory"),
            (OSError(errno.ENAMETOOLONG, "File name too long", CREDENTIALS), "[Errno 36] File name too long"),
            (
                OSError(errno.EXDEV, "Invalid cross-device link", PLANTED, None, PLANTED),
                "[Errno 18] Invalid cross-device link",
            ),
            (ConnectionRefusedError(111, "Connect call failed"), "[Errno 111] Connect call failed"),
            (OSError("no text by the system"), "no text by the system"),
            (ValueError(), ""),
            (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), None),
            (MsgAlreadyAckdError(Msg(Client(), "a", "b", PLANTED.encode(), {"x": PLANTED})), None),
            (KeyError(KeyValue.Entry("b", "k", PLANTED.encode(), 1, 0, 0, None)), None),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_say_what_happened_without_what_they_quote(self, error: BaseException, message: str | None):
        said = _texts.message_of(error)
        assert PLANTED not in said
        assert SEED not in said
        assert message is None or said == message
        said.encode()

    def test_that_cannot_say_what_they_are_have_their_name(self):
        class Mute(Exception):
            def __str__(self) -> str:
                raise asyncio.CancelledError

        assert _texts.message_of(Mute()) == f"{__name__}.{Mute.__qualname__}"

    def test_show_where_they_came_from_without_the_strings_of_the_source(self):
        def connect(url: str, **options: Any) -> None:
            raise ValueError(f"cannot connect to {url}")

        try:
            try:
                connect("nats://user:pl4nted@host", token="pl4nted")
            except ValueError as error:
                error.__dict__["__notes__"] = [f"with the token={PLANTED}", 7]
                raise MsgAlreadyAckdError(Msg(Client(), "a", "b", PLANTED.encode(), None)) from error
        except MsgAlreadyAckdError as error:
            trace = _texts.stack_trace(error)
        assert PLANTED not in trace
        lines = trace.split("\n")
        assert lines[0] == "Traceback (most recent call last):"
        assert any('connect("...", token=[REDACTED])' in line for line in lines)
        assert "ValueError: cannot connect to nats://host" in lines
        assert "with the token=[REDACTED]" in lines
        assert "The above exception was the direct cause of the following exception:" in lines
        assert lines[-1] == "nats.errors.MsgAlreadyAckdError: nats: message was already acknowledged"

    def test_of_a_group_are_all_shown(self):
        if sys.version_info < (3, 11):
            pytest.skip("Python has groups from 3.11 on")
        first, second = raised(ValueError(f"password={PLANTED}")), raised(LookupError("no such order"))
        trace = _texts.stack_trace(raised(ExceptionGroup("two", [first, second])))  # noqa: F821
        assert "  | ValueError: password=[REDACTED]" in trace
        assert "  | LookupError: no such order" in trace

    def test_that_caused_one_another_end(self):
        first, second = raised(ValueError("first")), raised(ValueError("second"))
        first.__cause__, second.__cause__ = second, first
        assert _texts.stack_trace(first).count("ValueError") == 2
        chain = error = ValueError("0")
        for number in range(1000):
            error.__cause__ = ValueError(str(number))
            error = error.__cause__
        assert _texts.stack_trace(chain).count("ValueError") <= 8

    def test_of_deep_recursions_are_short(self):
        def deeper() -> None:
            deeper()

        try:
            deeper()
        except RecursionError as error:
            trace = _texts.stack_trace(error)
        assert trace.count("in deeper") == 64
        assert len(trace) < 20_000


class TestFaults:
    @pytest.fixture(autouse=True)
    def _logged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_faults, "raise_faults", False)
        monkeypatch.setattr(_faults, "_reported", set())

    @pytest.mark.parametrize("kind", [ValueError, KeyError, OSError, asyncio.CancelledError])
    def test_show_no_handler_what_they_quote(self, caplog: pytest.LogCaptureFixture, kind: type[BaseException]):
        try:
            raise kind(f"nats://user:{PLANTED}@host")
        except kind:
            _faults.report("the test")
        (record,) = caplog.records
        assert record.getMessage().startswith("nats instrumentation: the test failed; messages go on")
        assert isinstance(record.exc_info[1], kind)
        assert type(record.exc_info[1]).__name__ == kind.__name__
        assert str(record.exc_info[1]) == _texts.message_of(kind(f"nats://user:{PLANTED}@host"))
        assert "test_show_no_handler" in caplog.text
        assert PLANTED not in caplog.text

    def test_of_any_class_are_logged(self, caplog: pytest.LogCaptureFixture):
        class Final(Exception):
            def __init_subclass__(cls) -> None:
                raise TypeError("no subclasses, please")

        try:
            raise Final("too late")
        except Final:
            _faults.report("the test")
        (record,) = caplog.records
        assert str(record.exc_info[1]) == "too late"

    def test_reach_nobody_through_a_filter_that_raises(self):
        class Broken(logging.Filter):
            def filter(self, record: logging.LogRecord) -> bool:
                raise asyncio.CancelledError

        broken = Broken()
        logger = logging.getLogger(_faults.__name__)
        logger.addFilter(broken)
        try:
            raise ValueError
        except ValueError:
            _faults.report("the test")
        finally:
            logger.removeFilter(broken)
