"""Streams through the installed command arrive as they are sent, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.commands import PATIENCE, Proxy, fetch, running, websocket
from support.wire import until
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body
from tornado.websocket import WebSocketHandler


class Backend:
    """What its handlers share with a test."""

    def __init__(self) -> None:
        self.url = ""
        self.next_event = asyncio.Event()
        self.uploaded = b""
        self.tunnel_closed = asyncio.Event()


class Handler(RequestHandler):
    def initialize(self, backend: Backend) -> None:
        self.backend = backend


class Events(Handler):
    """Sends an event only when the test has asked for it."""

    async def get(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        await self.flush()
        for number in range(3):
            await self.backend.next_event.wait()
            self.backend.next_event.clear()
            self.write(f"data: {number}\n\n")
            await self.flush()


@stream_request_body
class Upload(Handler):
    def data_received(self, chunk: bytes) -> None:
        self.backend.uploaded += chunk

    def post(self) -> None:
        self.write(self.backend.uploaded)


class Echo(WebSocketHandler):
    def initialize(self, backend: Backend) -> None:
        self.backend = backend

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        self.backend.tunnel_closed.set()


@asynccontextmanager
async def tornado_backend() -> AsyncIterator[Backend]:
    backend = Backend()
    shared = {"backend": backend}
    server = HTTPServer(
        Application(
            [(r".*/events", Events, shared), (r".*/upload", Upload, shared), (r".*/echo", Echo, shared)]
        )
    )
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    backend.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    try:
        yield backend
    finally:
        server.stop()
        await server.close_all_connections()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with running(Proxy(tmp_path)) as server:
        yield server
        assert server.stop() == 0


async def test_each_event_arrives_before_the_next_is_sent(proxy: Proxy) -> None:
    async with tornado_backend() as backend:
        await proxy.add_route("/s", backend.url)
        heads: list[str] = []
        received: list[bytes] = []
        request = asyncio.create_task(
            fetch(f"{proxy.url}/s/events", header_callback=heads.append, streaming_callback=received.append)
        )
        # The head first: a browser's EventSource is open from then on.
        await until(lambda: "\r\n" in heads)
        for number in range(3):
            assert b"".join(received) == b"".join(b"data: %d\n\n" % sent for sent in range(number))
            backend.next_event.set()
            await until(lambda: b"data: %d\n\n" % number in b"".join(received))  # noqa: B023 - awaited here
        assert (await asyncio.wait_for(request, PATIENCE)).code == 200


async def test_upload_arrives_before_its_end_is_sent(proxy: Proxy) -> None:
    async with tornado_backend() as backend:
        await proxy.add_route("/s", backend.url)

        async def content(write):  # type: ignore[no-untyped-def]  # Tornado's own callable
            for part in (b"one", b"two"):
                expected = backend.uploaded + part
                await write(part)
                await until(lambda: backend.uploaded == expected)  # noqa: B023 - awaited here

        response = await fetch(f"{proxy.url}/s/upload", method="POST", body_producer=content)
        assert (response.code, response.body) == (200, b"onetwo")


async def test_websocket_is_a_tunnel_that_ends_with_the_proxy(proxy: Proxy) -> None:
    async with tornado_backend() as backend:
        await proxy.add_route("/s", backend.url)
        async with websocket(f"{proxy.url}/s/echo") as socket:
            for message in ("text", b"\x00\xff" * 500_000):
                await socket.write_message(message, binary=isinstance(message, bytes))
                assert await asyncio.wait_for(socket.read_message(), PATIENCE) == message
            assert proxy.stop() == 0
            assert await asyncio.wait_for(socket.read_message(), PATIENCE) is None
        await asyncio.wait_for(backend.tunnel_closed.wait(), PATIENCE)
