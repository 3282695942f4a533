"""The backend of all proxies: answers that are made already, echo, uploads, a stream of events.

    python -m benchmarks.backend CERTIFICATE KEY

prints two ports, one for http and one for https, and serves until it is killed. What is asked for
is the last segment of the path.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import ssl
import sys
from time import monotonic_ns

from benchmarks.processes import HOST
from benchmarks.websocket import read_frames, write_frame

EVENT_INTERVAL = 0.005  # seconds between the events of a stream
SIZES = {b"small": 5, b"10k": 10 * 1024, b"1m": 1024 * 1024}  # bytes of content

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_KEY = re.compile(rb"\r\nsec-websocket-key: *([^\r]+)", re.IGNORECASE)
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_BUFFER = memoryview(bytearray(256 * 1024))  # what is received is used up before the next read


def content(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


_RESPONSES = {name: response(content(size)) for name, size in SIZES.items()}
_EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Backend(asyncio.BufferedProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.rest = b""
        self.missing = 0  # bytes of an upload
        self.upgraded = False
        self.events = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        if self.missing:
            self.missing -= nbytes
            if not self.missing:
                self.transport.write(_RESPONSES[b"small"])
            return
        data = self.rest + bytes(_BUFFER[:nbytes])
        while not self.upgraded and _END_OF_HEAD in data:
            head, _, data = data.partition(_END_OF_HEAD)
            data = self.answer(head, data)
        if self.upgraded:
            frames, data = read_frames(data)
            self.transport.write(b"".join([write_frame(opcode, payload) for opcode, payload in frames]))
        self.rest = data

    def answer(self, head: bytes, data: bytes) -> bytes:
        method, target, _ = head[: head.find(b"\r\n")].split(b" ")
        name = target.rpartition(b"/")[2]
        if method == b"POST":
            length = _LENGTH.search(head)
            self.missing = int(length[1]) - len(data) if length else 0
            if not self.missing:
                self.transport.write(_RESPONSES[b"small"])
            return b""
        if name == b"echo":
            self.upgrade(head)
        elif name == b"events":
            self.transport.write(_EVENT_STREAM)
            self.send_event()
        else:
            self.transport.write(_RESPONSES[name])
        return data

    def upgrade(self, head: bytes) -> None:
        key = _KEY.search(head)
        accept = base64.b64encode(hashlib.sha1((key[1].strip() if key else b"") + _GUID).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        self.upgraded = True

    def send_event(self) -> None:
        """Send the next event: its number, and when it was sent."""
        if self.transport.is_closing():
            return
        event = b"data: %d %d\n\n" % (self.events, monotonic_ns())
        self.events += 1
        self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        asyncio.get_running_loop().call_later(EVENT_INTERVAL, self.send_event)


async def serve(certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    plain = await loop.create_server(Backend, HOST, 0, backlog=4096)
    secure = await loop.create_server(Backend, HOST, 0, backlog=4096, ssl=context)
    print(plain.sockets[0].getsockname()[1], secure.sockets[0].getsockname()[1], flush=True)
    await plain.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.install()
    asyncio.run(serve(*sys.argv[1:3]))
