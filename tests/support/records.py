"""One end of a TLS connection whose bytes a test holds in its hands: to cut them, or to spoil them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from support.wire import PATIENCE, Message, Peer


class Records:
    """Encrypts and decrypts beside a connection without TLS of its own."""

    def __init__(self, peer: Peer, context: ssl.SSLContext, *, server: bool = False) -> None:
        self.peer = peer
        self.got = b""  # decrypted, and not yet taken
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        name = None if server else "127.0.0.1"
        self.ssl = context.wrap_bio(self._incoming, self._outgoing, server, name)
        # What a test cuts apart is to arrive like that.
        sock = peer.writer.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send_by_bytes(self, data: bytes) -> None:
        for at in range(len(data)):
            await self.peer.send(data[at : at + 1])
            await asyncio.sleep(0)

    async def shake_hands(self, *, by_bytes: bool = False) -> None:
        while True:
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                await self._send(by_bytes)
                self._incoming.write(await self._receive())
            else:
                await self._send(by_bytes)
                return

    def feed(self, data: bytes) -> None:
        """Take bytes that the test itself has received."""
        self._incoming.write(data)

    def hello(self) -> bytes:
        """Return a client's first bytes."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.ssl.do_handshake()
        return self._outgoing.read()

    def sealed(self, data: bytes) -> bytes:
        """Return data as records."""
        self.ssl.write(data)
        return self._outgoing.read()

    def end(self) -> bytes:
        """Return what says that no more follows (close_notify)."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.ssl.unwrap()
        return self._outgoing.read()

    async def receive(self, size: int) -> bytes:
        while len(self.got) < size:
            assert await self._decrypt(), f"the end came behind {self.got!r}"
        data, self.got = self.got[:size], self.got[size:]
        return data

    async def receive_message(self) -> Message:
        while b"\r\n\r\n" not in self.got:
            assert await self._decrypt(), f"the end came behind {self.got!r}"
        head, _, self.got = self.got.partition(b"\r\n\r\n")
        message = Message(head + b"\r\n\r\n")
        message.content = await self.receive(int(message.value(b"content-length") or 0))
        return message

    async def receive_all(self) -> bytes:
        """Receive up to a proper end of TLS. Raises ssl.SSLError or ConnectionResetError if there is none."""
        while await self._decrypt():
            pass
        data, self.got = self.got, b""
        return data

    async def _send(self, by_bytes: bool) -> None:
        data = self._outgoing.read()
        await (self.send_by_bytes(data) if by_bytes else self.peer.send(data))

    async def _decrypt(self) -> bool:
        """Decrypt some more; return False at a proper end."""
        while True:
            try:
                data = self.ssl.read(2**16)
            except ssl.SSLWantReadError:
                self._incoming.write(await self._receive())
            except ssl.SSLZeroReturnError:
                return False
            else:
                self.got += data
                return bool(data)

    async def _receive(self) -> bytes:
        data = await asyncio.wait_for(self.peer.reader.read(2**16), PATIENCE)
        if not data:
            raise ssl.SSLEOFError("no proper end")
        return data
