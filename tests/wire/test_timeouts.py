"""Timeouts: silence ends what waits for it, progress never does."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.streams import background, broken_off, end_of, hang, quiet, standstill
from support.wire import OK, Peer, answer_ok, backend, proxy

from chp.config import build
from chp.handlers import errors, websocket
from chp.servers import connection

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
        await drip(peer, b"1\r\nx\r\n", 12)
        await peer.send(b"0\r\n\r\n")

    options: Any = {option: SHORT}
    async with backend(answer) as server, proxy(server.url, **options) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\n")
        await drip(peer, b"x", 12)
        message = await peer.receive_message()
        assert (message.status, message.content) == (200, b"x" * 12)


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


# -- heads, idle connections, handshakes --------------------------------------------------


async def test_idle_connections_are_closed() -> None:
    async with backend() as server, proxy(server.url, keep_alive_timeout=SHORT) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        assert (await peer.receive_message()).status == 200
        begin = time.monotonic()
        assert await peer.receive_all() == b""
        assert time.monotonic() - begin >= SHORT / 1000 * 0.9
        await quiet(chp)
        assert chp.app.metrics.client_connections_closed["keep_alive_timeout"] == 1


async def test_connections_without_a_request_are_closed() -> None:
    async with proxy(head_timeout=SHORT) as chp:
        peer = await chp.connect()
        assert await peer.receive_all() == b""
        await quiet(chp)


@pytest.mark.parametrize("requests_before", [0, 1])
async def test_a_head_that_drips_is_refused(requests_before: int) -> None:
    """However often a byte comes (slowloris)."""
    async with backend() as server, proxy(server.url, head_timeout=SHORT) as chp:
        peer = await chp.connect()
        for _ in range(requests_before):
            await peer.send(GET)
            assert (await peer.receive_message()).status == 200

        async def send_slowly() -> None:
            with contextlib.suppress(OSError):
                await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\nX: ")
                await drip(peer, b"x", 100)

        async with background(send_slowly()):
            assert (await peer.receive_message()).status == 408
            assert await peer.receive_all() == b""
        await peer.close()
        await quiet(chp)


async def test_a_silent_tls_handshake_of_a_client_is_closed(pki: Any) -> None:
    async with (
        backend() as server,
        proxy(server.url, ssl_key=pki.key, ssl_cert=pki.cert, tls_handshake_timeout=SHORT) as chp,
    ):
        peer = await chp.connect()
        assert await end_of(peer) == b""
        assert chp.app.metrics.client_connections_closed["tls_handshake"] == 1
        # Others are served meanwhile.
        waiting = await chp.connect()
        context = ssl.create_default_context(cafile=pki.ca)
        other = await chp.connect(tls=context)
        await other.send(GET)
        assert (await other.receive_message()).status == 200
        assert await end_of(waiting) == b""
        await other.close()
        await quiet(chp)


# -- ends ---------------------------------------------------------------------------------


async def test_a_refused_client_that_sends_on_and_on_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = build.proxy_settings
    monkeypatch.setattr(
        build, "proxy_settings", lambda options: dataclasses.replace(original(options), linger_timeout=0.05)
    )
    async with proxy() as chp:
        peer = await chp.connect()
        await peer.send(b"nonsense\r\n\r\n")
        assert (await peer.receive_message()).status == 400

        async def send_on() -> None:
            with contextlib.suppress(OSError):
                while True:
                    await peer.send(b"x")
                    await asyncio.sleep(0.01)

        async with background(send_on()):
            await quiet(chp)


async def test_a_refused_client_that_stays_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = build.proxy_settings
    monkeypatch.setattr(
        build, "proxy_settings", lambda options: dataclasses.replace(original(options), linger_timeout=0.05)
    )
    async with proxy() as chp:
        peer = await chp.connect()
        await peer.send(b"nonsense\r\n\r\n")
        await quiet(chp)


async def test_a_client_that_does_not_take_the_end_of_a_response_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_FLUSH_TIMEOUT", SHORT / 1000)
    content = bytes(20_000_000)

    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    async with backend(answer) as server, proxy(server.url, write_buffer_high=2**26, **FINE) as chp:
        peer = await chp.connect()
        peer.stop_reading()
        await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        await server.wait_until_ended()
        await quiet(chp)


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_a_tunnel_that_is_closed_on_one_side_ends_when_the_other_is_silent(
    side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "HALF_CLOSED_TIMEOUT", SHORT / 1000)

    async def tunnel(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        if side == "upstream":
            peer.send_eof()
        await asyncio.Event().wait()

    async with backend(tunnel) as server, proxy(server.url, **FINE) as chp:
        peer = await chp.connect()
        await peer.send(UPGRADE)
        await peer.receive_head()
        if side == "client":
            peer.send_eof()
        await quiet(chp)


async def test_a_half_closed_tunnel_goes_on_while_something_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HALF_CLOSED_TIMEOUT", SHORT / 1000)

    async def tunnel(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        await hang(peer)  # up to the client's last byte
        await drip(peer, b"x", 12)

    async with backend(tunnel) as server, proxy(server.url, **FINE) as chp:
        peer = await chp.connect()
        await peer.send(UPGRADE)
        await peer.receive_head()
        peer.send_eof()
        assert await peer.receive_all() == b"x" * 12


async def test_no_timeout_is_set_for_exchanges_by_default() -> None:
    async with backend(answer_ok) as server, proxy(server.url) as chp:
        settings = build.proxy_settings(chp.app)
        assert settings.client_timeout is settings.upstream_timeout is None
        assert (await chp.get()).content == OK[-2:]
