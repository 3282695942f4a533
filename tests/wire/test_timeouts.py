"""Timeouts: silence ends what waits for it, progress never does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from support.streams import background, broken_off, end_of, hang, quiet, standstill
from support.wire import OK, Peer, answer_ok, backend, proxy

from chp.config import build
from chp.handlers import errors

SHORT = 100  # milliseconds
FINE: dict[str, int] = {"pool_idle_timeout": 200}  # lets the ticker look every 50 milliseconds
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"


async def drip(peer: Peer, piece: bytes, times: int) -> None:
    """Send a piece now and then, in all for much longer than the timeout."""
    for _ in range(times):
        await peer.send(piece)
        await asyncio.sleep(SHORT / 3000)


# -- --timeout: the client's side -----------------------------------------------------


async def test_a_silent_exchange_is_closed_without_an_answer() -> None:
    async with backend(hang) as server, proxy(server.url, timeout=SHORT) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        assert await end_of(peer) == b""
        await server.wait_until_ended()
        await quiet(chp)
        assert chp.app.metrics.client_connections_closed["timeout"] == 1


async def test_a_client_that_stops_in_the_middle_of_an_upload_is_closed() -> None:
    async with backend(hang) as server, proxy(server.url, timeout=SHORT) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello")
        assert await end_of(peer) == b""
        await quiet(chp)


async def test_a_response_that_stops_is_closed_for_its_client() -> None:
    async def stop(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await hang(peer)

    async with backend(stop) as server, proxy(server.url, timeout=SHORT) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        assert b"0\r\n\r\n" not in await end_of(peer)
        await quiet(chp)


@pytest.mark.parametrize("option", ["timeout", "proxy_timeout"])
async def test_slow_transfers_take_as_long_as_they_like(option: str) -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(CHUNKED)
        await drip(peer, b"1\r\nx\r\n", 8)
        await peer.send(b"0\r\n\r\n")

    options: Any = {option: SHORT}
    async with backend(answer) as server, proxy(server.url, **options) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n")
        await drip(peer, b"x", 8)
        message = await peer.receive_message()
        assert (message.status, message.content) == (200, b"x" * 8)


async def test_timeouts_of_exchanges_do_not_concern_idle_connections_and_tunnels() -> None:
    async def tunnel(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        assert await peer.receive(2) == b"hi"
        await peer.send(b"ho")
        await hang(peer)

    async with (
        backend(tunnel) as server,
        backend() as other,
        proxy(server.url, timeout=SHORT, proxy_timeout=SHORT) as chp,
    ):
        await chp.add_route("/other", other.url)
        idle = await chp.connect()
        await idle.send(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n")
        await idle.receive_message()
        peer = await chp.connect()
        await peer.send(UPGRADE)
        await peer.receive_head()
        await asyncio.sleep(3 * SHORT / 1000)
        await peer.send(b"hi")
        assert await peer.receive(2) == b"ho"
        await idle.send(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await idle.receive_message()).status == 200


# -- --proxy-timeout: the upstream's side ------------------------------------------------


@pytest.mark.expect_log("503 POST / no answer in time")
async def test_a_silent_upstream_is_a_503() -> None:
    async with backend(hang) as server, proxy(server.url, proxy_timeout=SHORT) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok")
        assert (await peer.receive_message()).status == 503
        await server.wait_until_ended()
        assert chp.app.metrics.upstream_errors == {"timeout": 1}
        await peer.close()
        await quiet(chp)


@pytest.mark.parametrize("begun", [CHUNKED, CHUNKED + b"5\r\nhello\r\n", b"HTTP/1.1 200 OK\r\n\r\nhello"])
@pytest.mark.expect_log("Response to GET / cut: no answer in time")
async def test_an_upstream_that_falls_silent_in_a_response_resets_the_client(begun: bytes) -> None:
    async def stop(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(begun)
        await hang(peer)

    async with backend(stop) as server, proxy(server.url, proxy_timeout=SHORT) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        assert b"0\r\n\r\n" not in await broken_off(peer)
        await quiet(chp)


@pytest.mark.expect_log("503 POST / no answer in time")
async def test_an_upstream_that_takes_no_more_content_is_a_503() -> None:
    async def stall(peer: Peer) -> None:
        await peer.receive_head()
        peer.stop_reading()
        await asyncio.Event().wait()

    async def upload(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer.writer.write(bytes(2**16))
                await peer.writer.drain()
                await asyncio.sleep(0)

    async with backend(stall) as server, proxy(server.url, proxy_timeout=SHORT) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999\r\n\r\n")
        async with background(upload(peer)):
            assert (await peer.receive_message()).status == 503


async def test_a_slow_client_is_no_fault_of_the_upstream() -> None:
    """Neither while it uploads nor while it does not take the response."""
    sent = 0

    async def answer(peer: Peer) -> None:
        nonlocal sent
        await peer.receive_message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n")
        for _ in range(300):
            peer.writer.write(bytes(100_000))
            await peer.writer.drain()
            sent += 100_000

    async with backend(answer) as server, proxy(server.url, proxy_timeout=SHORT) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(3 * SHORT / 1000)
        await peer.send(b"ok")
        await peer.receive_head()
        peer.stop_reading()
        await standstill(lambda: sent)
        await asyncio.sleep(3 * SHORT / 1000)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await peer.receive(30_000_000) == bytes(30_000_000)


@contextlib.contextmanager
def unreachable() -> Iterator[str]:
    """An address that answers no SYN: a listener whose queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "request_", [GET, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe", UPGRADE]
)
@pytest.mark.expect_log("503 [A-Z]+ / connecting to http://127.0.0.1:\\d+ timed out")
async def test_an_upstream_that_can_not_be_reached_is_a_503(request_: bytes) -> None:
    with unreachable() as url:
        async with proxy(url, connect_timeout=SHORT) as chp:
            assert (await chp.request(request_)).status == 503
            assert chp.app.metrics.upstream_errors == {"connect_timeout": 1}
            await quiet(chp)


@pytest.mark.not_over("curl-tls")  # the backend is to be silent
@pytest.mark.expect_log("503 GET / connecting to https://127.0.0.1:\\d+ timed out")
async def test_a_silent_tls_handshake_of_an_upstream_is_a_503() -> None:
    async with (
        backend(hang) as server,
        proxy(server.url.replace("http:", "https:"), connect_timeout=SHORT) as chp,
    ):
        assert (await chp.get()).status == 503
        await server.wait_until_ended()


@pytest.mark.expect_log("404 GET /")
@pytest.mark.expect_log("Failed to get custom error page: no answer in time")
async def test_a_silent_error_target_gives_the_default_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "ERROR_TARGET_TIMEOUT", SHORT / 1000)
    async with backend(hang) as server, proxy(error_target=server.url, **FINE) as chp:
        message = await chp.get()
        assert message.status == 404
        assert b"404" in message.content
        await server.wait_until_ended()
        await quiet(chp)


async def test_no_timeout_is_set_for_exchanges_by_default() -> None:
    async with backend(answer_ok) as server, proxy(server.url) as chp:
        settings = build.proxy_settings(chp.app)
        assert settings.client_timeout is settings.upstream_timeout is None
        assert (await chp.get()).content == OK[-2:]
