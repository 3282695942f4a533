"""Timeouts of what is no exchange: idle connections, slow heads and handshakes, ends that nobody takes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
import time
from typing import Any

import pytest
from support.streams import background, end_of, hang, quiet
from support.wire import Peer, backend, proxy

from chp.config import build
from chp.handlers import websocket
from chp.servers import connection

SHORT = 100  # milliseconds
FINE: dict[str, int] = {"pool_idle_timeout": 200}  # lets the ticker look every 50 milliseconds
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"


async def drip(peer: Peer, piece: bytes, times: int) -> None:
    """Send a piece now and then, in all for much longer than the timeout."""
    for _ in range(times):
        await peer.send(piece)
        await asyncio.sleep(SHORT / 3000)


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
