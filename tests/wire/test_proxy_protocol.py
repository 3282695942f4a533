"""The PROXY protocol on the proxy's port: in front of plain HTTP and of TLS."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import socket
import ssl
import termios
from pathlib import Path
from typing import Any

import pytest
from support.echo import echo
from support.streams import quiet
from support.wire import Message, Peer, Proxy, backend, proxy, until

from chp.app import ConfigurableProxy
from chp.servers.proxy_protocol import receive_header

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
V1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 5678 443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V2 = SIGNATURE + b"\x21\x11\0\x14" + bytes([203, 0, 113, 8, 10, 0, 0, 1, 1, 1, 1, 1]) + b"\x05\0\x05token"
V2_IPV6 = SIGNATURE + b"\x21\x21\0\x24" + socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(20)
LOCAL = SIGNATURE + b"\x20\0\0\0"
UNKNOWN = b"PROXY UNKNOWN\r\n"


async def client_seen(peer: Peer, request: bytes = GET) -> bytes | None:
    """Send a request to an echoing backend; return X-Forwarded-For."""
    await peer.send(request)
    return Message((await peer.receive_message()).content).value(b"x-forwarded-for")


async def closed(peer: Peer) -> bool:
    """Tell whether the proxy closes the connection without a word."""
    with contextlib.suppress(ConnectionResetError):
        return await peer.receive_all() == b""
    return True


def refusals(chp: Proxy) -> int:
    return chp.app.metrics.client_connections_closed["proxy_protocol"]


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (V1, b"203.0.113.7"),
        (V2, b"203.0.113.8"),
        (V2_IPV6, b"2001:db8::7"),
        (LOCAL, b"127.0.0.1"),
        (UNKNOWN, b"127.0.0.1"),
        (SIGNATURE + b"\x21\0\0\x03abc", b"127.0.0.1"),
    ],
    ids=["v1", "v2", "v2-ipv6", "local", "unknown", "unspecified"],
)
async def test_the_client_is_who_the_header_says(header: bytes, client: bytes) -> None:
    async with backend(echo) as server, proxy(server.url, proxy_protocol=True) as chp:
        peer = await chp.connect()
        assert await client_seen(peer, header + GET) == client  # in one packet
        assert await client_seen(peer) == client  # once for the connection
        assert await client_seen(peer, GET[:-2] + b"X-Forwarded-For: 9.9.9.9\r\n\r\n") == b"9.9.9.9," + client


@pytest.mark.parametrize("header", [V1, V2, LOCAL, UNKNOWN], ids=["v1", "v2", "local", "unknown"])
async def test_a_header_in_two_pieces(header: bytes) -> None:
    expected = {V1: b"203.0.113.7", V2: b"203.0.113.8"}.get(header, b"127.0.0.1")
    async with backend(echo) as server, proxy(server.url, proxy_protocol=True) as chp:
        for at in range(1, len(header)):
            peer = await chp.connect()
            peer.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await peer.send(header[:at])
            await asyncio.sleep(0)
            assert await client_seen(peer, header[at:] + GET) == expected
            await peer.close()


@pytest.mark.parametrize("header", [V1, V2, LOCAL, UNKNOWN], ids=["v1", "v2", "local", "unknown"])
async def test_every_byte_on_its_own_and_no_byte_too_many(header: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    unread = array.array("i", [0])

    def all_read() -> bool:
        fcntl.ioctl(ours, termios.FIONREAD, unread)
        return unread[0] == 0

    with ours, theirs:
        task = asyncio.ensure_future(receive_header(asyncio.get_running_loop(), ours))
        for at in range(len(header)):
            assert not task.done()
            theirs.send(header[at : at + 1])
            await until(all_read)
        expected = {V1: b"203.0.113.7", V2: b"203.0.113.8"}.get(header)
        assert await asyncio.wait_for(task, 5) == expected
        theirs.send(header + b"rest")
        assert await receive_header(asyncio.get_running_loop(), ours) == expected
        assert ours.recv(100) == b"rest"


@pytest.mark.parametrize(
    "sent",
    [
        GET,
        b"nonsense",
        b"\x16\x03\x01\x02\0\x01\0",
        b"\0",
        b"PROXY \r\n" + GET,
        b"PROXY TCP4 1.2.3.4\r\n" + GET,
        b"PROXY TCP4 1.2.3.4 " + b"x" * 200,
        SIGNATURE + b"\x21\x11\xff\xff",
        SIGNATURE + b"\x21\x11\0\0" + GET,
        SIGNATURE + b"\x41\x11\0\x0c",
    ],
)
async def test_what_is_no_header_is_closed_without_an_answer(sent: bytes) -> None:
    async with backend(echo) as server, proxy(server.url, proxy_protocol=True) as chp:
        peer = await chp.connect()
        await peer.send(sent)
        assert await closed(peer)
        assert refusals(chp) == 1
        assert server.connections == 0
        await quiet(chp)


async def test_who_leaves_in_the_header_is_forgotten() -> None:
    async with proxy(proxy_protocol=True) as chp:
        for number, leave in enumerate((Peer.send_eof, Peer.abort), 1):
            peer = await chp.connect()
            await peer.send(V1[:20])
            leave(peer)
            await until(lambda number=number: refusals(chp) == number)


@pytest.mark.parametrize("sent", [b"", V1[:-1], V2[:20]])
async def test_a_slow_sender_is_closed(sent: bytes) -> None:
    async with proxy(proxy_protocol=True, head_timeout=50) as chp:
        peer = await chp.connect()
        await peer.send(sent)
        assert await closed(peer)
        assert refusals(chp) == 1


async def test_who_waits_in_the_header_is_closed_when_the_proxy_stops() -> None:
    async with proxy(proxy_protocol=True) as chp:
        peer = await chp.connect()
        await peer.send(V1[:20])
        await until(lambda: bool(chp.app._servers[0]._accepting))  # type: ignore[attr-defined]
        await chp.app.stop()
        assert await closed(peer)


@pytest.mark.parametrize(
    ("trusted", "client", "claims"),
    [
        (["127.0.0.0/8"], b"203.0.113.7", b""),
        (["127.0.0.0/8", "203.0.113.0/24"], b"203.0.113.7", b"9.9.9.9,"),
        (["10.0.0.0/8"], b"127.0.0.1", b""),
        (["203.0.113.0/24"], b"127.0.0.1", b""),
    ],
)
async def test_only_trusted_peers_are_believed(trusted: list[str], client: bytes, claims: bytes) -> None:
    async with (
        backend(echo) as server,
        proxy(server.url, proxy_protocol=True, trusted_proxies=trusted) as chp,
    ):
        peer = await chp.connect()
        request = V1 + GET[:-2] + b"X-Forwarded-For: 9.9.9.9\r\n\r\n"
        assert await client_seen(peer, request) == claims + client


async def test_the_limit_of_connections_is_that_of_the_client_in_the_header(log_lines: Any) -> None:
    options: Any = {"proxy_protocol": True, "max_connections_per_address": 1}
    async with backend(echo) as server, proxy(server.url, **options) as chp:
        first, other = await chp.connect(), await chp.connect()
        assert await client_seen(first, V1 + GET) == b"203.0.113.7"
        assert await client_seen(other, V2 + GET) == b"203.0.113.8"
        second = await chp.connect()
        await second.send(V1 + GET)
        assert await closed(second)
        assert log_lines.take("Refused a connection of 203.0.113.7, which has 1")
        await first.close()
        await until(lambda: chp.app.metrics.client_connections == 1)
        again = await chp.connect()
        assert await client_seen(again, V1 + GET) == b"203.0.113.7"


async def test_on_a_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    path: Path = tmp_path_factory.mktemp("s") / "s"
    async with backend(echo) as server:
        app = ConfigurableProxy(
            socket=str(path), api_port=0, auth_token="x", default_target=server.url, proxy_protocol=True
        )
        await app.start_servers()
        try:
            for header, client in ((V1, b"203.0.113.7"), (LOCAL, None)):
                peer = Peer(*await asyncio.open_unix_connection(str(path)))
                assert await client_seen(peer, header + GET) == client
                await peer.close()
        finally:
            await app.stop()


async def test_a_header_by_default_is_no_request() -> None:
    async with proxy() as chp:
        assert (await chp.outcome(V1 + GET))[0] == 400


# -- before TLS -----------------------------------------------------------------------


class TLSPeer:
    """A client that says what comes before its handshake, in the same packet."""

    def __init__(self, peer: Peer, pki: Any) -> None:
        self._peer = peer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=pki.ca)
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    async def handshake(self, before: bytes) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._peer.send(before + self._outgoing.read())
                before = b""
                self._incoming.write(await self._peer.receive_some())
            else:
                return

    async def fetch(self) -> Message:
        self._tls.write(GET)
        await self._peer.send(self._outgoing.read())
        received = b""
        while True:
            try:
                received += self._tls.read()
            except ssl.SSLWantReadError:
                self._incoming.write(await self._peer.receive_some())
                continue
            head, end, content = received.partition(b"\r\n\r\n")
            if end and len(content) == int(Message(head + end).value(b"content-length") or b"0"):
                return Message(content)


@pytest.mark.parametrize(
    ("header", "client"),
    [(V1, b"203.0.113.7"), (V2, b"203.0.113.8"), (LOCAL, b"127.0.0.1"), (UNKNOWN, b"127.0.0.1")],
    ids=["v1", "v2", "local", "unknown"],
)
async def test_before_tls(header: bytes, client: bytes, pki: Any) -> None:
    options: Any = {"proxy_protocol": True, "ssl_key": pki.key, "ssl_cert": pki.cert}
    async with backend(echo) as server, proxy(server.url, **options) as chp:
        peer = await chp.connect()
        tls = TLSPeer(peer, pki)
        await tls.handshake(header)
        for _ in range(2):
            got = await tls.fetch()
            assert got.value(b"x-forwarded-for") == client
            assert got.value(b"x-forwarded-proto") == b"https"
        await peer.close()
        await quiet(chp)


async def test_before_tls_in_pieces(pki: Any) -> None:
    options: Any = {"proxy_protocol": True, "ssl_key": pki.key, "ssl_cert": pki.cert}
    async with backend(echo) as server, proxy(server.url, **options) as chp:
        for at in range(1, len(V2), 3):
            peer = await chp.connect()
            await peer.send(V2[:at])
            await asyncio.sleep(0)
            tls = TLSPeer(peer, pki)
            await tls.handshake(V2[at:])
            assert (await tls.fetch()).value(b"x-forwarded-for") == b"203.0.113.8"
            await peer.close()


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", GET])
async def test_tls_without_a_header_is_closed(sent: bytes, pki: Any) -> None:
    options: Any = {"proxy_protocol": True, "ssl_key": pki.key, "ssl_cert": pki.cert}
    async with proxy(**options) as chp:
        peer = await chp.connect()
        if sent:
            await peer.send(sent)
            assert await closed(peer)
        else:
            with pytest.raises((ConnectionResetError, ssl.SSLError)):
                await TLSPeer(peer, pki).handshake(b"")
        assert refusals(chp) == 1
        assert chp.app.metrics.client_connections_closed["tls_handshake"] == 0


async def test_plain_http_behind_a_header_where_tls_is_spoken(pki: Any) -> None:
    options: Any = {"proxy_protocol": True, "ssl_key": pki.key, "ssl_cert": pki.cert}
    async with proxy(**options) as chp:
        peer = await chp.connect()
        await peer.send(V1 + GET)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            answer = await peer.receive_all()
        assert b"HTTP" not in answer
        assert chp.app.metrics.client_connections_closed["tls_handshake"] == 1
        await quiet(chp)
