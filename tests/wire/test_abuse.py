"""Peers that would use the proxy against others, or wear it out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.streams import background, end_of, quiet, standstill
from support.wire import OK, Peer, Proxy, answer_ok, backend, proxy, until

from chp.handlers import websocket
from chp.servers.proxy import ProxyServer

FINE: dict[str, int] = {"pool_idle_timeout": 200}  # lets the ticker look every 50 milliseconds
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: h\r\n\r\n"
HEALTH = b"GET /_chp_healthz HTTP/1.1\r\nHost: h\r\n\r\n"
HIDDEN = b"GET /hub/hidden HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
LARGE = 12 * 2**20  # more than the kernel keeps for a connection whose peer does not read


def server_of(chp: Proxy) -> ProxyServer:
    return next(server for server in chp.app._servers if isinstance(server, ProxyServer))


async def stall(peer: Peer) -> None:
    """A script: take the head, and nothing more."""
    await peer.receive_head()
    peer.stop_reading()
    await asyncio.Event().wait()


# -- bytes that get where they don't belong -----------------------------------------------


@pytest.mark.expect_log("503 POST /user/evil/x")
async def test_content_behind_a_refusal_does_not_reach_the_error_target() -> None:
    content_sent = asyncio.Event()

    async def close_without_answer(peer: Peer) -> None:
        await peer.receive_head()

    async def hub(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        await content_sent.wait()
        await peer.send(b"67890")
        await answer_ok(peer)

    async with (
        backend(close_without_answer) as evil,
        backend(hub) as good,
        proxy(error_target=good.url + "/hub/error") as chp,
    ):
        await chp.add_route("/user/evil", evil.url)
        await chp.add_route("/hub", good.url)
        peer = await chp.connect()
        length = len(HIDDEN) + 1
        await peer.send(b"POST /user/evil/x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\nx" % length)
        await peer.receive_until(b"12345")
        expected = chp.app.metrics.client_bytes_received + len(HIDDEN)
        await peer.send(HIDDEN)
        await until(lambda: chp.app.metrics.client_bytes_received == expected)
        content_sent.set()
        await peer.receive_until(b"67890")
        assert (await chp.get("/hub/afterwards")).content == b"ok"
        assert b"hidden" not in good.all_received
        assert good.all_received.count(b" HTTP/1.1\r\n") == 2


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5", b"Content-Length: 99999999999", b"Transfer-Encoding: chunked"]
)
@pytest.mark.expect_log("503 GET / invalid response: content in a 1xx response")
async def test_content_of_an_informational_response_is_refused(framing: bytes) -> None:
    async def inform(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 150 Wait\r\n" + framing + b"\r\n\r\n")
        while True:
            await peer.send(b"a" * 2**18)

    async with backend(inform) as server, proxy(server.url) as chp:
        assert (await chp.get()).status == 503
        await server.wait_until_ended()
        await quiet(chp)
        assert chp.app.metrics.upstream_bytes_received < 2**20


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "pipelined"])
async def test_a_length_of_thousands_of_digits_is_refused(before: bytes) -> None:
    post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"0" * 5000 + b"5\r\n\r\nhello"
    async with backend() as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(before + post)
        if before:
            assert (await peer.receive_message()).status == 200
        assert (await peer.receive_message()).status == 400
        assert await peer.receive_all() == b""
        await peer.close()
        await quiet(chp)
        assert server.connections == bool(before)


# -- clients that take no answers ---------------------------------------------------------


@pytest.mark.parametrize("count", [1, 1000])
async def test_a_client_that_takes_no_answers_is_not_read_and_keeps_its_order(
    count: int, tmp_path: Path, log_lines: Any
) -> None:
    page = "x" * (LARGE // count)
    (tmp_path / "404.html").write_text(page)
    async with backend() as server, proxy(error_path=str(tmp_path)) as chp:
        await chp.add_route("/last", server.url)
        metrics = chp.app.metrics
        peer = await chp.connect()
        peer.stop_reading()
        await peer.send(b"GET /none HTTP/1.1\r\nHost: h\r\n\r\n" * count)
        sent = await standstill(lambda: metrics.client_bytes_sent)
        assert sent > 0
        assert count == 1 or sent < LARGE
        received = metrics.client_bytes_received
        for _ in range(2):
            await peer.send(LAST)
            await standstill(lambda: metrics.client_bytes_received)
        assert metrics.client_bytes_received <= received + len(LAST)  # one more read at most
        assert metrics.client_bytes_sent == sent
        assert server.connections == 0
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(count):
            message = await peer.receive_message()
            assert (message.status, len(message.content)) == (404, len(page))
        for _ in range(2):
            assert (await peer.receive_message()).content == b"ok"
        assert len(log_lines.take("404 GET /none")) == count


# -- peers that leave, or do not take what they are sent ----------------------------------


async def test_a_client_that_leaves_while_its_upload_stalls_is_noticed() -> None:
    async with backend(stall) as server, proxy(server.url, **FINE) as chp:
        peer = await chp.connect()
        peer.writer.write(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n" + b"a" * LARGE)
        assert await standstill(lambda: chp.app.metrics.client_bytes_received) < LARGE
        peer.abort()
        await quiet(chp)


@pytest.mark.parametrize("flooding", ["client", "upstream"])
async def test_a_client_that_leaves_a_stalled_tunnel_is_noticed(
    flooding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "HALF_CLOSED_TIMEOUT", 0.1)
    flood = b"x" * LARGE

    async def tunnel(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        peer.stop_reading()
        if flooding == "upstream":
            peer.writer.write(flood)
        await asyncio.Event().wait()

    async with backend(tunnel) as server, proxy(server.url, **FINE) as chp:
        metrics = chp.app.metrics
        peer = await chp.connect()
        await peer.send(UPGRADE)
        await peer.receive_head()
        peer.stop_reading()
        if flooding == "client":
            peer.writer.write(flood)
        moved = await standstill(lambda: metrics.client_bytes_received + metrics.upstream_bytes_received)
        assert 2**16 < moved < LARGE
        assert metrics.tunnels == 1
        peer.abort()
        await quiet(chp)


@pytest.mark.not_over("curl")  # it looks into the direct one
@pytest.mark.parametrize("persist", [b"keep-alive", b"close"])
async def test_an_upstream_that_answers_early_and_takes_no_more_is_dropped(
    persist: bytes, tmp_path: Path
) -> None:
    high = 2**20
    answer = asyncio.Event()

    async def answer_early(peer: Peer) -> None:
        await peer.receive_head()
        peer.stop_reading()
        await answer.wait()
        await peer.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: " + persist + b"\r\n\r\n"))
        await asyncio.Event().wait()

    path = tmp_path / "s"  # for a unix socket the kernel keeps little
    async with (
        backend(answer_early, socket_path=str(path)) as server,
        backend() as other,
        proxy(server.url, write_buffer_high=high) as chp,
    ):
        await chp.add_route("/other", other.url)
        metrics = chp.app.metrics
        peer = await chp.connect()

        async def send(data: bytes) -> None:
            expected = metrics.client_bytes_received + len(data)
            await peer.send(data)
            await until(lambda: metrics.client_bytes_received == expected)

        await send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await until(lambda: server.connections)
        connections = server_of(chp)._handler.upstream._connections  # type: ignore[attr-defined]
        await until(lambda: connections)
        (upstream,) = connections
        # The end of the content is what fills the buffer: nothing is left to read, and writing is paused.
        while (room := high - upstream._transport.get_write_buffer_size()) > 2000:
            size = min(room - 1000, 2**16)
            await send(b"%x\r\n%b\r\n" % (size, b"a" * size))
        await send(b"bb8\r\n" + b"a" * 3000 + b"\r\n0\r\n\r\n")
        assert upstream.write_paused
        answer.set()
        assert (await peer.receive_message()).content == b"ok"
        await until(lambda: metrics.upstream_connections == 0)
        assert metrics.upstream_connections_idle == 0
        # The client's connection goes on as if nothing had been.
        await peer.send(b"POST /other HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
        await other.wait_for(b"he")
        await peer.send(b"llo")
        assert (await peer.receive_message()).content == b"ok"
        await peer.close()
        await quiet(chp)


# -- ends ---------------------------------------------------------------------------------


async def test_a_tunnel_that_opens_while_the_proxy_stops_is_closed() -> None:
    switch = asyncio.Event()

    async def tunnel(peer: Peer) -> None:
        await peer.receive_head()
        await switch.wait()
        await peer.send(SWITCHED)
        await peer.receive_all()

    async with backend(tunnel) as server, proxy(server.url) as chp:
        idle = await chp.connect()
        await idle.send(HEALTH)
        await idle.receive_message()
        peer = await chp.connect()
        await peer.send(UPGRADE)
        await server.wait_for(b"Upgrade")
        async with background(chp.app.stop()) as stopping:
            assert await idle.receive_all() == b""  # it has begun to stop
            switch.set()
            await stopping
        assert chp.app.metrics.tunnels == 0
        await end_of(peer)
        await server.wait_until_ended()


async def test_no_connection_is_kept_for_a_route_that_was_removed_meanwhile() -> None:
    answer = asyncio.Event()

    async def answer_late(peer: Peer) -> None:
        await peer.receive_message()
        await answer.wait()
        await peer.send(OK)
        await peer.receive_all()

    async with backend(answer_late) as server, proxy() as chp:
        await chp.add_route("/x", server.url)
        peer = await chp.connect()
        await peer.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        await server.wait_for(b"GET /x")
        await chp.app.table.remove("/x")
        answer.set()
        assert (await peer.receive_message()).content == b"ok"
        await server.wait_until_ended()
        assert chp.app.metrics.upstream_connections == 0


async def test_a_silent_client_of_the_redirect_server_is_closed(pki: Any) -> None:
    async with proxy(ssl_key=pki.key, ssl_cert=pki.cert, redirect_port=0, head_timeout=100) as chp:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(chp.app.redirect_address[1]))
        peer = Peer(reader, writer)
        assert await peer.receive_all() == b""
        await peer.close()
