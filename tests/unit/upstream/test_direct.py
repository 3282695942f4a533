"""chp/upstream/direct.py without sockets: how a request is written, and what ends an exchange."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine
from typing import Any
from unittest.mock import Mock

import pytest

from chp.config.settings import ProxySettings
from chp.errors import UpstreamError
from chp.http1.target import Origin
from chp.metrics import Metrics
from chp.runtime import Runtime
from chp.upstream.addresses import Resolver
from chp.upstream.attempts import Attempts
from chp.upstream.base import UpstreamRequest
from chp.upstream.direct import DirectStream, DirectUpstream, connect_error

ORIGIN = Origin("http", "127.0.0.1", 8000)


class Loop:
    """An event loop that counts the connections that are to be opened, and opens none."""

    def __init__(self) -> None:
        self.connecting = 0

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> Any:
        coroutine.close()
        self.connecting += 1
        return Mock()


class Receiver:
    def __init__(self) -> None:
        self.errors: list[UpstreamError] = []

    def failed(self, error: UpstreamError) -> None:
        self.errors.append(error)


def new_stream(**options: Any) -> tuple[DirectStream, Any, Receiver]:
    loop: Any = Loop()
    runtime = Runtime(loop, Metrics(), logging.getLogger("chp.test"))
    upstream = DirectUpstream(runtime, ProxySettings(), Attempts(loop), Resolver(loop))
    receiver: Any = Receiver()
    request = UpstreamRequest(ORIGIN, b"PUT", b"/x?y", b"\r\nHost: h\r\nA: b", **options)
    return DirectStream(upstream, request, receiver), runtime, receiver


@pytest.mark.parametrize(
    ("options", "content", "complete", "written"),
    [
        ({}, b"", True, b""),
        ({}, b"hi", True, b"hi"),
        ({}, b"", False, b""),
        ({"chunked": True}, b"hi", True, b"2\r\nhi\r\n0\r\n\r\n"),
        ({"chunked": True}, b"hi", False, b"2\r\nhi\r\n"),
        ({"chunked": True}, b"", True, b"0\r\n\r\n"),
        ({"chunked": True}, b"", False, b""),
        ({"upgrade": b"raw"}, b"", True, b""),
    ],
)
def test_the_first_bytes(options: dict[str, Any], content: bytes, complete: bool, written: bytes) -> None:
    stream, _, _ = new_stream(**options)
    extra = b"\r\nTransfer-Encoding: chunked" if "chunked" in options else b""
    extra += b"\r\nConnection: Upgrade\r\nUpgrade: raw" if "upgrade" in options else b""
    head = b"PUT /x?y HTTP/1.1\r\nHost: h\r\nA: b" + extra + b"\r\n\r\n"
    assert stream.first_bytes(content, complete) == head + written
    assert stream.sent is complete


def lost() -> UpstreamError:
    return UpstreamError("closed", "gone")


@pytest.mark.parametrize(
    ("replay", "untouched", "again"),
    [(b"all", True, True), (b"all", False, False), (b"", True, False), (b"", False, False)],
)
def test_a_request_is_sent_again_only_if_nothing_came_and_everything_is_kept(
    replay: bytes, untouched: bool, again: bool
) -> None:
    stream, runtime, receiver = new_stream()
    stream.replay = replay
    stream.lost(lost(), untouched=untouched)
    assert runtime.loop.connecting == again
    assert len(receiver.errors) == (not again)
    if again:  # and only once
        stream.lost(lost(), untouched=True)
    assert runtime.loop.connecting == again
    assert len(receiver.errors) == 1
    assert runtime.metrics.upstream_errors == {"closed": 1}


def test_a_stream_fails_only_once_and_not_after_it_was_given_up() -> None:
    stream, _, receiver = new_stream()
    stream.fail(lost())
    stream.fail(lost())
    assert len(receiver.errors) == 1
    stream, _, receiver = new_stream()
    stream.abort()
    stream.abort()
    stream.fail(lost())
    assert receiver.errors == []


@pytest.mark.parametrize(
    ("method", "upgrade", "idempotent"),
    [
        *((method, b"", True) for method in (b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE")),
        *((method, b"", False) for method in (b"POST", b"PATCH", b"CONNECT", b"get", b"PURGE")),
        (b"GET", b"websocket", False),
    ],
)
def test_which_requests_are_idempotent(method: bytes, upgrade: bytes, idempotent: bool) -> None:
    assert UpstreamRequest(ORIGIN, method, b"/", b"", upgrade=upgrade).idempotent is idempotent


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (asyncio.TimeoutError(), "connect_timeout"),
        (ConnectionRefusedError(), "refused"),
        (ConnectionResetError(), "unreachable"),
        (FileNotFoundError(), "unreachable"),
        (OSError(113, "No route to host"), "unreachable"),
        (UnicodeError("label too long"), "dns"),
        (socket.gaierror(-2, "unknown"), "dns"),
    ],
)
def test_every_failure_to_connect_has_a_reason(error: Exception, reason: str) -> None:
    translated = connect_error(ORIGIN, error)
    assert translated.reason == reason
    assert "http://127.0.0.1:8000" in str(translated)
