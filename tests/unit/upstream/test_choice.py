"""Which upstream carries which request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from chp.config.settings import ProxySettings
from chp.http1.target import Origin
from chp.metrics import Metrics
from chp.runtime import Runtime
from chp.upstream.base import UpstreamRequest
from chp.upstream.choice import ChosenUpstream, make_upstream
from chp.upstream.direct import DirectUpstream

HTTP, HTTPS, UNIX = Origin("http", "h", 80), Origin("https", "h", 443), Origin("unix", "/run/x", 0)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    loop = asyncio.new_event_loop()
    it = Runtime(loop, Metrics(), logging.getLogger("chp"))
    yield it
    it.close()
    loop.close()


def request(origin: Origin, method: bytes = b"GET", **framing: Any) -> UpstreamRequest:
    return UpstreamRequest(origin, method, b"/", b"\r\nHost: h", **framing)


def carrier(upstream: ChosenUpstream, sent: UpstreamRequest) -> str:
    opened: list[str] = []
    for name in ("_direct", "_curl"):
        fake = SimpleNamespace(open=lambda *args, name=name: opened.append(name))
        setattr(upstream, name, fake)
    upstream.open(sent, b"", True, None)  # type: ignore[arg-type]
    return opened[0]


@pytest.mark.parametrize(
    ("setting", "sent", "expected"),
    [
        ("auto", request(HTTP), "_direct"),
        ("auto", request(UNIX), "_direct"),
        ("auto", request(HTTPS), "_curl"),
        ("auto", request(HTTPS, b"POST", content_length=5), "_curl"),
        ("auto", request(HTTPS, upgrade=b"websocket"), "_direct"),
        ("curl", request(HTTP), "_curl"),
        ("curl", request(UNIX), "_curl"),
        ("curl", request(HTTPS), "_curl"),
        ("curl", request(HTTP, upgrade=b"websocket"), "_direct"),
        ("curl", request(HTTP, b"HEAD"), "_curl"),
        ("curl", request(HTTP, b"HEAD", content_length=0), "_curl"),
        ("curl", request(HTTP, b"HEAD", content_length=5), "_direct"),
        ("curl", request(HTTP, b"HEAD", chunked=True), "_direct"),
    ],
)
def test_choice(runtime: Runtime, setting: str, sent: UpstreamRequest, expected: str) -> None:
    upstream = make_upstream(runtime, ProxySettings(upstream=setting))
    assert isinstance(upstream, ChosenUpstream)
    runtime.loop.run_until_complete(upstream.close())
    assert carrier(upstream, sent) == expected


def test_auto_is_the_default(runtime: Runtime) -> None:
    upstream = make_upstream(runtime, ProxySettings())
    assert isinstance(upstream, ChosenUpstream)
    runtime.loop.run_until_complete(upstream.close())
    assert carrier(upstream, request(HTTP)) == "_direct"


def test_direct_is_nothing_but_direct(runtime: Runtime) -> None:
    upstream = make_upstream(runtime, ProxySettings(upstream="direct"))
    assert isinstance(upstream, DirectUpstream)
