"""Raw bytes on real sockets: a backend that says what a test wants, a client that sends what it wants.

Everything waits for at most :data:`PATIENCE` seconds, so a test that would hang fails instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from support.ports import free_port

from chp.app import ConfigurableProxy

PATIENCE = 5.0
# Options of every proxy that a test runs, unless it says otherwise.
proxy_defaults: dict[str, Any] = {}
# The same for backends on a port.
backend_defaults: dict[str, Any] = {}
END_OF_HEAD = b"\r\n\r\n"

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def reset_when_closed(sock: socket.socket) -> None:
    """Let the peer see a reset in place of an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


async def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until a condition holds; fail when it does not within ``patience`` seconds."""
    for _ in range(int(patience / 0.002)):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("the condition was not met in time")


class Peer:
    """One end of a connection: a client's, or a backend's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait until the socket has taken them."""
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), PATIENCE)

    async def receive(self, count: int) -> bytes:
        """Receive exactly so many bytes."""
        return await asyncio.wait_for(self.reader.readexactly(count), PATIENCE)

    async def receive_until(self, end: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(end), PATIENCE)

    async def receive_head(self) -> bytes:
        """Receive a head, its empty line included."""
        return await self.receive_until(END_OF_HEAD)

    async def receive_some(self) -> bytes:
        """Receive what is there; nothing means the end."""
        return await asyncio.wait_for(self.reader.read(65536), PATIENCE)

    async def receive_all(self) -> bytes:
        """Receive everything up to the end of the connection (a reset raises ConnectionResetError)."""
        return await asyncio.wait_for(self.reader.read(), PATIENCE)

    async def receive_message(self, *, head_only: bool = False) -> Message:
        """Receive a whole request or response; ``head_only`` for the answer to HEAD."""
        message = Message(await self.receive_head())
        if head_only or message.start.split()[1] in (b"204", b"304"):
            return message
        if b"transfer-encoding" in message.names:
            while True:
                line = await self.receive_until(b"\r\n")
                size = int(line.split(b";")[0], 16)
                if not size:
                    while await self.receive_until(b"\r\n") != b"\r\n":
                        pass
                    return message
                message.content += await self.receive(size)
                assert await self.receive(2) == b"\r\n"
        length = message.value(b"content-length")
        if length is not None:
            message.content = await self.receive(int(length))
        elif message.start.startswith(b"HTTP/"):
            message.content = await self.receive_all()
        return message

    def send_eof(self) -> None:
        """Send no more; over TLS, which knows no half of an end, receive no more either."""
        if self.writer.can_write_eof():
            self.writer.write_eof()
        else:
            self.writer.close()

    def stop_reading(self) -> None:
        """Take no more bytes from the kernel: what a stalled peer does."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def abort(self) -> None:
        """Vanish: the other side gets a reset."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None:  # it may be closed already
            with contextlib.suppress(OSError):
                reset_when_closed(sock)
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError, ssl.SSLError):
            await asyncio.wait_for(self.writer.wait_closed(), PATIENCE)


class Message:
    """A received head, taken apart in the simplest way, and its content."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        lines = head[: -len(END_OF_HEAD)].split(b"\r\n")
        self.start = lines[0]
        self.fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines[1:])]
        self.names = [name.lower() for name, _ in self.fields]
        self.content = b""

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    def values(self, name: bytes) -> list[bytes]:
        return [value for own, value in self.fields if own.lower() == name.lower()]

    def value(self, name: bytes) -> bytes | None:
        values = self.values(name)
        assert len(values) < 2, f"{name!r} stands there {len(values)} times"
        return values[0] if values else None


Script = Callable[[Peer], Awaitable[None]]


async def answer_ok(peer: Peer) -> None:
    """A script: answer every request with 200 and ``ok``."""
    while True:
        await peer.receive_message()
        await peer.send(OK)


@dataclass
class Backend:
    """A server that runs a script for each connection, and keeps what it received."""

    script: Script = answer_ok
    received: list[bytearray] = field(default_factory=list)  # by connection, in order
    url: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # some connection has ended
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def connections(self) -> int:
        return len(self.received)

    @property
    def all_received(self) -> bytes:
        return b"".join(bytes(data) for data in self.received)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        received = bytearray(reader._buffer)  # type: ignore[attr-defined]  # what came before this task ran
        self.received.append(received)
        feed = reader.feed_data

        def feed_and_keep(data: bytes) -> None:
            received.extend(data)
            feed(data)

        reader.feed_data = feed_and_keep  # type: ignore[method-assign]
        peer = Peer(reader, writer)
        try:
            await self.script(peer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.ended.set()
            self._tasks.discard(task)
            writer.close()

    async def wait_for(self, data: bytes) -> None:
        """Wait until these bytes have arrived on some connection."""
        await until(lambda: data in self.all_received)

    async def wait_until_ended(self) -> None:
        await asyncio.wait_for(self.ended.wait(), PATIENCE)


def dead_url() -> str:
    """Return the URL of a backend that is not there."""
    return f"{'https' if backend_defaults.get('tls') else 'http'}://127.0.0.1:{free_port()}"


@contextlib.asynccontextmanager
async def backend(
    script: Script = answer_ok, *, tls: ssl.SSLContext | None = None, socket_path: str = "", port: int = 0
) -> AsyncIterator[Backend]:
    """Run a backend on a free port, on one of ``support.ports``, or on a unix socket."""
    it = Backend(script)
    if socket_path:
        server = await asyncio.start_unix_server(it._serve, socket_path)
        it.url = "http+unix://" + socket_path.replace("/", "%2F")
    else:
        tls = tls or backend_defaults.get("tls")
        server = await asyncio.start_server(it._serve, "127.0.0.1", port, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        it.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield it
    finally:
        server.close()
        for task in list(it._tasks):
            task.cancel()
        await asyncio.gather(*it._tasks, return_exceptions=True)


class Proxy:
    """A running proxy, from a test's side."""

    def __init__(self, app: ConfigurableProxy) -> None:
        self.app = app
        self._peers: list[Peer] = []

    @property
    def port(self) -> int:
        return int(self.app.proxy_address[1])

    @property
    def authority(self) -> bytes:
        return b"127.0.0.1:%d" % self.port

    async def add_route(self, path: str, target: str, **data: Any) -> None:
        await self.app.table.add(path, {"target": target, **data})

    async def connect(self, *, tls: ssl.SSLContext | None = None) -> Peer:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection("127.0.0.1", self.port, ssl=tls, limit=2**20), PATIENCE
        )
        peer = Peer(reader, writer)
        self._peers.append(peer)
        return peer

    async def request(self, data: bytes) -> Message:
        """Send one request on a connection of its own, and receive the response."""
        peer = await self.connect()
        await peer.send(data)
        try:
            return await peer.receive_message(head_only=data.startswith(b"HEAD "))
        finally:
            await peer.close()

    async def get(self, target: str = "/", fields: str = "") -> Message:
        return await self.request(f"GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode())

    async def outcome(self, data: bytes) -> tuple[int, bytes]:
        """Send bytes; return the first response's status (0: none) and all bytes up to the close."""
        peer = await self.connect()
        await peer.send(data)
        answer = await peer.receive_all()
        match = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
        return int(match[1]) if match else 0, answer


@contextlib.asynccontextmanager
async def proxy(target: str = "", **options: Any) -> AsyncIterator[Proxy]:
    """Run a proxy in this loop, on free ports; ``target`` is its default target."""
    options = {**proxy_defaults, **options}
    app = ConfigurableProxy(ip="127.0.0.1", port=0, auth_token="secret", default_target=target, **options)
    await app.start_servers()
    it = Proxy(app)
    try:
        yield it
    finally:
        for peer in it._peers:
            await peer.close()
        await app.stop()
