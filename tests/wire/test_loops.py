"""Targets that lead back to the proxy: a request goes round a few times, not until descriptors run out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.echo import echo, request_at_backend
from support.wire import Message, Peer, Proxy, backend, proxy

from chp.app import ConfigurableProxy

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
UPGRADE = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
MAX_ROUNDS = 13
LOOP = pytest.mark.expect_log(r"508 GET /x the request has passed .*: a loop; route / to \S+( \(|: rep|$)")
FORWARDED = ["X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Forwarded-Host"]


def own_url(chp: Proxy) -> str:
    return f"http://127.0.0.1:{chp.port}"


def rounds(chp: Proxy) -> int:
    metrics = chp.app.metrics
    return metrics.requests_web + metrics.requests_ws


@LOOP
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trusted_proxies": ["127.0.0.1"]},
        {"trusted_proxies": ["none"]},
        {"x_forward": False},
        {"remove_request_header": FORWARDED},
        {"remove_request_header": FORWARDED[:1]},
        {"change_origin": True},
        {"request_id_header": "X-Request-ID"},
    ],
    ids=str,
)
async def test_a_target_that_is_the_proxy_itself(options: dict[str, Any]) -> None:
    async with proxy(max_connections=64, **options) as chp:
        await chp.add_route("/", own_url(chp))
        answer = await chp.request(GET)
        assert answer.start == b"HTTP/1.1 508 Loop Detected"
        assert answer.value(b"content-type") == b"text/html"
        assert 1 < rounds(chp) <= MAX_ROUNDS


@LOOP
async def test_every_request_of_a_connection() -> None:
    async with proxy(max_connections=64) as chp:
        await chp.add_route("/", own_url(chp))
        peer = await chp.connect()
        for number in range(1, 4):
            await peer.send(GET)
            assert (await peer.receive_message()).status == 508
            assert rounds(chp) <= number * MAX_ROUNDS


@LOOP
async def test_two_proxies_that_point_to_each_other() -> None:
    async with proxy(max_connections=64) as first, proxy(own_url(first), max_connections=64) as second:
        await first.add_route("/", own_url(second))
        assert (await first.request(GET)).status == 508
        assert rounds(first) + rounds(second) <= MAX_ROUNDS


@LOOP
async def test_upgrades() -> None:
    async with proxy(max_connections=64) as chp:
        await chp.add_route("/", own_url(chp))
        status, _ = await chp.outcome(UPGRADE)
        assert status == 508
        assert rounds(chp) <= MAX_ROUNDS


@LOOP
async def test_a_unix_socket_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = Path(tmp_path_factory.mktemp("s") / "s")
    target = "http+unix://" + str(path).replace("/", "%2F")
    app = ConfigurableProxy(
        socket=str(path), api_port=0, auth_token="x", default_target=target, max_connections=64
    )
    await app.start_servers()
    try:
        peer = Peer(*await asyncio.open_unix_connection(str(path)))
        await peer.send(GET)
        assert (await peer.receive_message()).status == 508
        await peer.close()
        assert app.metrics.requests_web <= MAX_ROUNDS
    finally:
        await app.stop()


@pytest.mark.expect_log(r"404 GET /(x|404)$")
async def test_an_error_target_that_is_the_proxy_itself() -> None:
    async with proxy(max_connections=64) as inner, proxy(error_target=own_url(inner)) as chp:
        inner.app.error_target = own_url(inner)
        inner.app.reload()
        answer = await chp.request(GET)
        assert answer.status == 404
        assert b"404: Not Found" in answer.content
        assert rounds(inner) <= MAX_ROUNDS


async def test_a_target_may_go_through_the_proxy_once_more() -> None:
    async with backend(echo) as server, proxy() as chp:
        await chp.add_route("/new", server.url)
        await chp.add_route("/", own_url(chp) + "/new")
        got = await request_at_backend(chp, GET)
    assert got.start == b"GET /new/x HTTP/1.1"
    assert got.value(b"CDN-Loop") == b"chp"


async def at_backend(chp: Proxy, *lines: str) -> Message:
    return await request_at_backend(chp, "\r\n".join(["GET / HTTP/1.1", "Host: h", *lines, "", ""]).encode())


async def test_requests_of_proxies_only_are_marked() -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        assert (await at_backend(chp)).value(b"CDN-Loop") is None
        assert (await at_backend(chp, "X-Forwarded-For: 1.2.3.4")).value(b"CDN-Loop") == b"chp"
        assert (await at_backend(chp, "CDN-Loop: a", "cdn-loop: b;v=1")).value(
            b"CDN-Loop"
        ) == b"a, b;v=1, chp"


async def test_connection_can_not_take_the_mark_away() -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        got = await at_backend(chp, "CDN-Loop: chp", "Connection: cdn-loop")
    assert got.value(b"CDN-Loop") == b"chp, chp"
