"""Tunnels: bytes in both directions, whatever they mean; each direction ends on its own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import socket
from collections.abc import AsyncIterator

import pytest
from support.streams import background, end_of, hang, quiet, standstill
from support.wire import PATIENCE, Peer, Proxy, backend, proxy, reset_when_closed, until
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler, websocket_connect

from chp.handlers import websocket

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"


async def echo(peer: Peer) -> None:
    await peer.receive_head()
    await peer.send(SWITCHED)
    while data := await peer.reader.read(2**16):
        await peer.send(data)


async def open_tunnel(chp: Proxy) -> Peer:
    peer = await chp.connect()
    await peer.send(UPGRADE)
    assert await peer.receive(len(SWITCHED)) == SWITCHED
    return peer


async def test_every_byte_value_passes_in_both_directions() -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        peer = await open_tunnel(chp)
        for piece in (b"\0", bytes(range(256)), b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"\x88\x02\x03\xe8"):
            await peer.send(piece)
            assert await peer.receive(len(piece)) == piece
        metrics = chp.app.metrics
        assert (metrics.tunnels, metrics.client_connections, metrics.upstream_connections) == (1, 0, 0)
        await peer.close()
        await quiet(chp)


async def test_much_passes_byte_for_byte_in_both_directions_at_once() -> None:
    block = random.Random(3).randbytes(2**18)

    async def pour(peer: Peer) -> None:
        for _ in range(100):
            await peer.send(block)
        peer.send_eof()

    async def drink(peer: Peer) -> str:
        digest = hashlib.sha256()
        while data := await asyncio.wait_for(peer.reader.read(2**18), PATIENCE):
            digest.update(data)
        return digest.hexdigest()

    received = []

    async def both(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        async with background(pour(peer)) as pouring:
            received.append(await drink(peer))
            await pouring

    async with backend(both) as server, proxy(server.url) as chp:
        peer = await open_tunnel(chp)
        async with background(pour(peer)) as pouring:
            received.append(await drink(peer))
            await pouring
        await until(lambda: len(received) == 2)
        await peer.close()
        await quiet(chp)
    assert received == [hashlib.sha256(block * 100).hexdigest()] * 2


@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_one_direction_may_end_before_the_other(first: str) -> None:
    async def tunnel(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        if first == "upstream":
            await peer.send(b"last words")
            peer.send_eof()
        received = await peer.receive_all()
        if first == "client":
            await peer.send(b"you said " + received)
        else:
            assert received == b"an answer"

    async with backend(tunnel) as server, proxy(server.url) as chp:
        peer = await open_tunnel(chp)
        if first == "client":
            await peer.send(b"goodbye")
            peer.send_eof()
            assert await peer.receive_all() == b"you said goodbye"
        else:
            assert await peer.receive_all() == b"last words"
            assert chp.app.metrics.tunnels == 1
            await peer.send(b"an answer")
            peer.send_eof()
            await server.wait_for(b"an answer")
            await server.wait_until_ended()
        await peer.close()
        await quiet(chp)


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_what_was_sent_before_a_close_arrives(side: str) -> None:
    content = random.Random(4).randbytes(5_000_000)

    async def tunnel(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        if side == "upstream":
            await peer.send(content)
        else:
            assert await peer.receive_all() == content
            arrived.set()

    arrived = asyncio.Event()
    async with backend(tunnel) as server, proxy(server.url) as chp:
        peer = await open_tunnel(chp)
        if side == "upstream":
            assert await peer.receive_all() == content
        else:
            await peer.send(content)
            await peer.close()
            await asyncio.wait_for(arrived.wait(), PATIENCE)
        await peer.close()
        await quiet(chp)


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_a_reset_ends_both_sides(side: str) -> None:
    vanish = asyncio.Event()

    async def tunnel(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        if side == "upstream":
            await vanish.wait()
            peer.abort()
        else:
            await hang(peer)

    async with backend(tunnel) as server, proxy(server.url) as chp:
        peer = await open_tunnel(chp)
        if side == "client":
            peer.abort()
            await server.wait_until_ended()
        else:
            vanish.set()
            assert await end_of(peer) == b""
        await quiet(chp)


async def received(sock: socket.socket) -> bytes:
    sock.setblocking(False)
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1000), PATIENCE)


@contextlib.asynccontextmanager
async def bare_tunnel() -> AsyncIterator[tuple[Proxy, socket.socket, socket.socket]]:
    """Open a tunnel between two sockets, a client's and a target's, that act outside the loop's turns."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listening.settimeout(PATIENCE)
        async with proxy(f"http://127.0.0.1:{listening.getsockname()[1]}") as chp:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", chp.port)))
            client.sendall(UPGRADE)
            await until(lambda: chp.app.metrics.upstream_connections)
            upstream = stack.enter_context(listening.accept()[0])
            assert (await received(upstream)).endswith(b"\r\n\r\n")
            upstream.sendall(SWITCHED)
            assert await received(client) == SWITCHED
            yield chp, client, upstream


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_last_words_before_a_reset_arrive_where_the_other_direction_ends_at_this_moment(
    side: str,
) -> None:
    """The proxy learns of the end first, and can't pass it on: that is no reason not to read."""
    async with bare_tunnel() as (chp, client, upstream):
        last, other = (client, upstream) if side == "client" else (upstream, client)
        other.shutdown(socket.SHUT_WR)
        last.send(b"last words")
        reset_when_closed(last)
        last.close()
        assert await received(other) == b"last words"
        await quiet(chp)


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_a_reset_ends_a_tunnel_whose_other_side_has_ended_and_takes_nothing(
    side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio tells of no reset on a side that is not read: then the time limit ends both."""
    monkeypatch.setattr(websocket, "HALF_CLOSED_TIMEOUT", 0.1)
    async with bare_tunnel() as (chp, client, upstream):
        metrics = chp.app.metrics
        last, other = (client, upstream) if side == "client" else (upstream, client)
        async with background(asyncio.get_running_loop().sock_sendall(last, bytes(50_000_000))):
            await standstill(lambda: metrics.client_bytes_received + metrics.upstream_bytes_received)
        other.shutdown(socket.SHUT_WR)
        reset_when_closed(last)
        last.close()
        await quiet(chp)


async def test_a_tunnel_outlives_its_route() -> None:
    async with backend(echo) as server, proxy() as chp:
        await chp.add_route("/ws", server.url)
        peer = await open_tunnel(chp)
        await chp.app.table.remove("/ws")
        await peer.send(b"still there?")
        assert await peer.receive(12) == b"still there?"


@pytest.mark.parametrize("from_", ["client", "upstream"])
async def test_data_in_either_direction_is_activity_and_a_handshake_is_none(from_: str) -> None:
    go_on = asyncio.Event()

    async def tunnel(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        if from_ == "upstream":
            await go_on.wait()
            await peer.send(b"x")
        await hang(peer)

    async with backend(tunnel) as server, proxy() as chp:
        await chp.add_route("/ws", server.url)
        route = chp.app.table.get("/ws")
        assert route is not None
        route.last_activity = 0.0
        peer = await open_tunnel(chp)
        assert route.last_activity == 0.0
        if from_ == "upstream":
            go_on.set()
            await peer.receive(1)
        else:
            await peer.send(b"x")
            await server.wait_for(b"\r\n\r\nx")
        assert route.last_activity > 0.0


async def test_hundreds_of_tunnels_come_and_go() -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        for _ in range(3):
            peers = await asyncio.gather(*(open_tunnel(chp) for _ in range(100)))
            assert chp.app.metrics.tunnels == 100
            for number, peer in enumerate(peers):
                if number % 2:
                    peer.abort()
                else:
                    peer.writer.close()
            await quiet(chp)


async def test_stopping_ends_tunnels_at_once() -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        peers = [await open_tunnel(chp) for _ in range(5)]
        before = asyncio.get_running_loop().time()
        await chp.app.stop()
        assert asyncio.get_running_loop().time() - before < 1
        for peer in peers:
            assert await end_of(peer) == b""


class Echo(WebSocketHandler):
    def get_compression_options(self) -> dict[str, int]:
        return {}

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return subprotocols[-1] if subprotocols else None

    async def on_message(self, message: str | bytes) -> None:
        if message == "close":
            self.close(4321, "enough")
        else:
            await self.write_message(message, binary=isinstance(message, bytes))


async def test_websockets_with_compression_subprotocols_and_close_codes() -> None:
    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Application([("/ws", Echo)], websocket_max_message_size=2**25))
    server.add_sockets(sockets)
    try:
        async with proxy(f"http://127.0.0.1:{sockets[0].getsockname()[1]}") as chp:
            client = await websocket_connect(
                f"ws://127.0.0.1:{chp.port}/ws",
                compression_options={},
                subprotocols=["a", "v1.kernel"],
                max_message_size=2**25,
            )
            assert client.selected_subprotocol == "v1.kernel"
            for message in ("", "hello", "ü" * 70_000, os.urandom(10_000_000), b""):
                await client.write_message(message, binary=isinstance(message, bytes))
                assert await client.read_message() == message
            await client.write_message("close")
            assert await client.read_message() is None
            assert (client.close_code, client.close_reason) == (4321, "enough")
            client.close()
            await quiet(chp)
    finally:
        server.stop()
        await server.close_all_connections()
