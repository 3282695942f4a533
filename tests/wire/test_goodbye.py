"""What the peers of a WebSocket see when the proxy stops: a Close, wherever they can understand it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from support.streams import end_of
from support.wire import Peer, backend, proxy, until
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler, websocket_connect

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
CLOSE = b"\x88\x02\x03\xe9"  # 1001, to a client

SMALL = b"\x82\x05hello"
MASKED = b"\x82\x85mask" + bytes(byte ^ key for byte, key in zip(b"hello", b"maskm", strict=True))
LARGE = b"\x82\x7e\x01\x00" + bytes(256)


def is_close(data: bytes) -> bool:
    """Tell whether this is one masked Close that says 1001."""
    code = bytes(byte ^ key for byte, key in zip(data[6:], data[2:6], strict=False))
    return len(data) == 8 and data[:2] == b"\x88\x82" and code == b"\x03\xe9"


async def tunnel_is_open(peer: Peer) -> None:
    await peer.send(UPGRADE)
    assert await peer.receive(len(SWITCHED)) == SWITCHED


Answer = Callable[[Peer], Any]


def target(answer: bytes, closed: list[bytes]) -> Answer:
    """Make a script that says ``answer`` with its 101, and keeps what comes at the end."""

    async def serve(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED + answer)
        closed.append(await peer.reader.read())

    return serve


@pytest.mark.parametrize(
    ("from_target", "from_client", "client_gets", "target_gets"),
    [
        (b"", b"", True, True),
        (SMALL, MASKED, True, True),
        (LARGE + SMALL, MASKED * 3, True, True),
        (LARGE[:-1], MASKED, False, True),
        (SMALL + b"\x82", MASKED, False, True),
        (SMALL, MASKED + MASKED[:5], True, False),
        (b"\x82\x7e\x01", b"\x82\xfe", False, False),
        # As if it were a whole frame, in the middle of a large one.
        (b"\x82\x7f" + bytes(5) + b"\x01\x00\x00" + SMALL, MASKED, False, True),
    ],
)
async def test_a_close_stands_only_between_two_frames(
    from_target: bytes, from_client: bytes, client_gets: bool, target_gets: bool
) -> None:
    closed: list[bytes] = []
    async with backend(target(from_target, closed)) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await tunnel_is_open(peer)
        assert await peer.receive(len(from_target)) == from_target
        if from_client:
            await peer.send(from_client)
            await server.wait_for(from_client)
        await chp.app.stop()
        assert await end_of(peer) == (CLOSE if client_gets else b"")
        await until(lambda: closed)
        last = closed[0].removeprefix(from_client)
        assert is_close(last) if target_gets else last == b""


async def test_bytes_that_come_one_by_one_are_frames_too() -> None:
    closed: list[bytes] = []
    async with backend(target(b"", closed)) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await tunnel_is_open(peer)
        for at in range(len(MASKED)):
            await peer.send(MASKED[at : at + 1])
            await until(lambda at=at: server.all_received.endswith(MASKED[: at + 1]))  # type: ignore[misc]
        await chp.app.stop()
        await until(lambda: closed)
        assert is_close(closed[0].removeprefix(MASKED))


async def test_bytes_before_the_answer_are_frames_too() -> None:
    """A client that does not wait for the 101, with half a frame."""
    closed: list[bytes] = []
    async with backend(target(SMALL, closed)) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(UPGRADE + MASKED[:5])
        await peer.receive_until(SMALL)
        await server.wait_for(MASKED[:5])
        await chp.app.stop()
        assert await end_of(peer) == CLOSE
        await until(lambda: closed)
        assert closed == [MASKED[:5]]


async def test_what_is_no_websocket_gets_nothing() -> None:
    async def serve(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED.replace(b"WebSocket", b"raw"))
        await peer.reader.read()

    async with backend(serve) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(UPGRADE.replace(b": WebSocket", b": raw"))
        await peer.receive_head()
        await chp.app.stop()
        assert await end_of(peer) == b""


async def test_a_client_that_is_talking_gets_the_close_and_no_reset() -> None:
    closed: list[bytes] = []
    async with backend(target(b"", closed)) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await tunnel_is_open(peer)
        stopping = asyncio.ensure_future(chp.app.stop())
        received = asyncio.ensure_future(peer.receive_all())
        while not received.done():
            await peer.send(MASKED)
            await asyncio.sleep(0)
        assert received.result() == CLOSE
        await peer.close()
        await stopping
        await until(lambda: closed)
        assert is_close(closed[0][-8:])
        assert (len(closed[0]) - 8) % len(MASKED) == 0


async def test_a_peer_that_takes_nothing_holds_nothing_up() -> None:
    async def pour(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        while True:
            await peer.send(LARGE * 100)

    async with backend(pour) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await tunnel_is_open(peer)
        peer.stop_reading()
        await until(lambda: chp.app._servers[0]._runtime.ticker._paused)  # type: ignore[attr-defined]
        begin = asyncio.get_running_loop().time()
        await chp.app.stop()
        assert asyncio.get_running_loop().time() - begin < 1
        assert chp.app.metrics.tunnels == 0


async def test_over_tls(pki: Any) -> None:
    closed: list[bytes] = []
    options = {"ssl_key": pki.key, "ssl_cert": pki.cert}
    async with backend(target(SMALL, closed)) as server, proxy(server.url, **options) as chp:
        peer = await chp.connect(tls=ssl.create_default_context(cafile=pki.ca))
        await tunnel_is_open(peer)
        await peer.receive(len(SMALL))
        await peer.send(MASKED)
        await server.wait_for(MASKED)
        await chp.app.stop()
        assert await peer.receive_all() == CLOSE
        await until(lambda: closed)
        assert is_close(closed[0].removeprefix(MASKED))


async def test_a_side_that_has_ended_already_gets_nothing_more() -> None:
    """A half-closed tunnel: the client has sent its last byte, the target goes on."""
    closed = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        assert await peer.reader.read() == MASKED
        await peer.send(SMALL)
        await closed.wait()

    async with backend(serve) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await tunnel_is_open(peer)
        await peer.send(MASKED)
        peer.send_eof()
        assert await peer.receive(len(SMALL)) == SMALL
        await chp.app.stop()
        assert await end_of(peer) == CLOSE
        closed.set()


async def test_real_endpoints_see_1001() -> None:
    handlers = []

    class Echo(WebSocketHandler):
        def open(self, *args: str, **kwargs: str) -> None:
            handlers.append(self)

        async def on_message(self, message: str | bytes) -> None:
            await self.write_message(message)

    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Application([("/ws", Echo)], log_function=lambda handler: None))
    server.add_sockets(sockets)
    try:
        async with proxy(f"http://127.0.0.1:{sockets[0].getsockname()[1]}") as chp:
            clients = []
            for number in range(20):
                client = await websocket_connect(f"ws://127.0.0.1:{chp.port}/ws", compression_options={})
                message = "ä" * number**3
                await client.write_message(message)
                assert await client.read_message() == message
                clients.append(client)
            begin = asyncio.get_running_loop().time()
            await chp.app.stop()
            assert asyncio.get_running_loop().time() - begin < 0.2
            for client in clients:
                assert await client.read_message() is None
                assert client.close_code == 1001
                client.close()
            await until(lambda: all(handler.close_code == 1001 for handler in handlers))
    finally:
        server.stop()
        await server.close_all_connections()
