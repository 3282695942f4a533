"""A server on a free port, and a client that says exactly what it is told."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Return a directory whose path leaves room for sockets, as those of pytest do not."""
    with tempfile.TemporaryDirectory(prefix="chp-", dir="/tmp") as path:
        yield Path(path)


class Response:
    def __init__(self, status_line: str, fields: list[tuple[str, str]], body: bytes) -> None:
        self.status = int(status_line.split()[1])
        self.status_line = status_line
        self.fields = {name.lower(): value for name, value in fields}
        self.body = body
        assert len(self.fields) == len(fields), "a field twice"


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def receive(self, method: str = "GET") -> Response:
        return await asyncio.wait_for(self._receive(method), 10)

    async def _receive(self, method: str) -> Response:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin1")
        status_line, *lines = head[:-4].split("\r\n")
        fields = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        names = {name.lower(): value for name, value in fields}
        body = b""
        if method != "HEAD":
            if "transfer-encoding" in names:
                body = await self._chunked()
            else:
                body = await self.reader.readexactly(int(names.get("content-length", 0)))
        return Response(status_line, fields, body)

    async def _chunked(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return body

    async def closed(self) -> bool:
        """Wait for the end; tell whether nothing came before it."""
        return await asyncio.wait_for(self.reader.read(), 10) == b""


class Client:
    """Talks to a server on loopback, one connection for each request unless told otherwise."""

    def __init__(self, port: int) -> None:
        self.port = port

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()

    async def raw(self, data: bytes) -> Response:
        async with self.connect() as connection:
            connection.writer.write(data)
            return await connection.receive(data.split(b" ", 1)[0].decode())

    async def __call__(
        self, method: str, target: str, body: bytes | None = None, fields: str = "", host: str = "h"
    ) -> Response:
        return await self.raw(request(method, target, body, fields, host))


def request(method: str, target: str, body: bytes | None = None, fields: str = "", host: str = "h") -> bytes:
    if body is not None:
        fields += f"Content-Length: {len(body)}\r\n"
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode("latin1") + (body or b"")


Serve = Callable[[Any], AbstractAsyncContextManager[Client]]


@pytest.fixture
def serve() -> Serve:
    """Return a context manager: ``async with serve(application) as client``."""

    @asynccontextmanager
    async def serving(application: Any) -> AsyncIterator[Client]:
        server = HTTPServer(application)
        (socket,) = bind_sockets(0, "127.0.0.1")
        server.add_sockets([socket])
        try:
            yield Client(socket.getsockname()[1])
        finally:
            server.stop()
            await server.close_all_connections()

    return serving
