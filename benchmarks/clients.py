"""Clients for what wrk can't do: WebSockets, event streams, the REST API."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from benchmarks.load import PATIENCE, Load, summary
from benchmarks.processes import HOST, Failure, Meter
from benchmarks.websocket import TEXT, read_frames, write_frame

_BUFFER = memoryview(bytearray(256 * 1024))
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_EVENT = re.compile(rb"data: (\d+) (\d+)\n\n")
_OPENED_AT_ONCE = 50


class _Client(asyncio.BufferedProtocol):
    """A connection: sends a head, and gives what comes after the head of the answer to :meth:`received`."""

    status = b""

    def __init__(self, request: bytes) -> None:
        self.transport: asyncio.Transport | None = None
        self.answered = asyncio.get_running_loop().create_future()
        self.failure = ""
        self.latencies: list[float] = []
        self._request = request
        self._head: bytes | None = b""
        self._leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(self._request)  # type: ignore[attr-defined]

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(_BUFFER[:nbytes])
        if self._head is not None:
            self._head += data
            head, end, data = self._head.partition(_END_OF_HEAD)
            if not end:
                return
            self._head = None
            if b" %b " % self.status not in head.split(b"\r\n")[0] + b" ":
                self.fail(f"unexpected answer {head[:100]!r}")
            elif not self.answered.done():
                self.answered.set_result(None)
        if data:
            self.received(data)

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._leaving:
            self.fail("the connection was closed")

    def fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        if not self.answered.done():
            self.answered.set_exception(Failure(reason))

    def leave(self) -> None:
        self._leaving = True
        if self.transport is not None:
            self.transport.abort()


class EchoClient(_Client):
    """A WebSocket that sends a message as soon as the last one has come back."""

    status = b"101"

    def __init__(self, size: int) -> None:
        super().__init__(
            b"GET /user/ada/echo HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        self.running = False
        self._payload = b"x" * size
        self._frame = write_frame(TEXT, self._payload, masked=True)
        self._rest = b""
        self._sent = 0.0

    def send(self) -> None:
        assert self.transport is not None
        self._sent = time.perf_counter()
        self.transport.write(self._frame)

    def received(self, data: bytes) -> None:
        frames, self._rest = read_frames(self._rest + data)
        for opcode, payload in frames:
            if opcode != TEXT or payload != self._payload:
                self.fail("a wrong echo")
                return
            self.latencies.append(time.perf_counter() - self._sent)
            if self.running:
                self.send()


class EventClient(_Client):
    """Reads a stream of events, and notes how old each is when it comes."""

    status = b"200"

    def __init__(self) -> None:
        super().__init__(b"GET /user/ada/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        self._rest = b""
        self._next = 0

    def received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self._rest + data
        end = 0
        for event in _EVENT.finditer(data):
            if int(event[1]) != self._next:
                self.fail(f"event {int(event[1])} in place of {self._next}")
            self._next += 1
            self.latencies.append((now - int(event[2])) / 1e9)
            end = event.end()
        self._rest = data[end:]


C = TypeVar("C", bound=_Client)


class _Clients(Generic[C]):
    """Connections to one port, opened a few at a time."""

    def __init__(self, port: int, make: Callable[[], C], count: int) -> None:
        self._port, self._make, self._count = port, make, count
        self.all: list[C] = []

    async def __aenter__(self) -> list[C]:
        loop = asyncio.get_running_loop()
        for start in range(0, self._count, _OPENED_AT_ONCE):
            count = min(_OPENED_AT_ONCE, self._count - start)
            opening = (loop.create_connection(self._make, HOST, self._port) for _ in range(count))
            opened = [protocol for _, protocol in await asyncio.gather(*opening)]
            self.all += opened
            await asyncio.wait_for(asyncio.gather(*(client.answered for client in opened)), PATIENCE)
        return self.all

    async def __aexit__(self, *exc: object) -> None:
        for client in self.all:
            client.leave()


async def echo(port: int, seconds: float, meter: Meter, *, size: int, connections: int) -> Load:
    """Send messages of ``size`` bytes over WebSockets, one at a time on each, and wait for their echo."""
    async with _Clients(port, lambda: EchoClient(size), connections) as clients:
        with meter:
            for client in clients:
                client.running = True
                client.send()
            await asyncio.sleep(seconds)
        return _summary(clients, meter)


def idle_websockets(port: int, count: int) -> _Clients[EchoClient]:
    """Open WebSockets that say nothing, for as long as the context lasts."""
    return _Clients(port, lambda: EchoClient(1), count)


async def events(port: int, seconds: float, meter: Meter, *, connections: int) -> Load:
    """Read streams of events; the latency is that from the backend's write to the client's read."""
    async with _Clients(port, EventClient, connections) as clients:
        with meter:
            for client in clients:
                client.latencies.clear()
            await asyncio.sleep(seconds)
        return _summary(clients, meter)


def _summary(clients: Sequence[_Client], meter: Meter) -> Load:
    for client in clients:
        if client.failure:
            raise Failure(client.failure)
    return summary([latency for client in clients for latency in client.latencies], meter.seconds)


class Keeper:
    """One keep-alive connection for requests one after another, with the time that each took."""

    def __init__(self, port: int, token: str = "") -> None:
        self._port = port
        self._fields = f"Host: {HOST}\r\n" + (f"Authorization: token {token}\r\n" if token else "")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, int, float]:
        """Return the status, the size of the content and the seconds that it took."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port, limit=1 << 20)
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._fields}Content-Length: {len(content)}\r\n\r\n"
        began = time.perf_counter()
        writer.write(head.encode() + content)
        answer = await asyncio.wait_for(reader.readuntil(_END_OF_HEAD), PATIENCE)
        size = await asyncio.wait_for(self._read_content(answer, reader), PATIENCE)
        return int(answer[9:12]), size, time.perf_counter() - began

    async def _read_content(self, head: bytes, reader: asyncio.StreamReader) -> int:
        length = _LENGTH.search(head)
        if length:
            return len(await reader.readexactly(int(length[1])))
        size = 0
        while _CHUNKED.search(head):
            chunk = int(await reader.readuntil(b"\r\n"), 16)
            await reader.readexactly(chunk + 2)
            size += chunk
            if not chunk:
                break
        return size

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
