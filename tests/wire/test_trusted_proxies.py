"""What requests say of their client: believed from trusted proxies only, once there is a list of them."""

from __future__ import annotations

import asyncio

import pytest
from support.echo import MARK, echo, request_at_backend
from support.wire import Message, Peer, backend, proxy

from chp.app import ConfigurableProxy

CLAIMS = (
    b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n"
    b"X-Forwarded-Host: outer\r\nX-Forwarded-Prefix: /p\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n"
    b"X-Scheme: https\r\n"
)
REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\nA:\t1\r\n" + CLAIMS + b"\r\n"
OWN = (
    b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Port: 80\r\n"
    b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nCDN-Loop: chp\r\n"
)
BEHIND = (
    b"X-Forwarded-For: 1.2.3.4,127.0.0.1\r\nX-Forwarded-Port: 443,80\r\n"
    b"X-Forwarded-Proto: https,http\r\nX-Forwarded-Host: outer\r\nCDN-Loop: chp\r\n"
)
OTHERS = b"X-Forwarded-Prefix: /p\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX-Scheme: https\r\n"


@pytest.mark.parametrize(
    ("trusted", "believed"),
    [
        ([], True),
        (["127.0.0.0/8"], True),
        (["10.0.0.0/8", "127.0.0.1"], True),
        (["10.0.0.0/8, 127.0.0.1/32"], True),
        (["10.0.0.0/8"], False),
        (["unix:"], False),
        (["none"], False),
    ],
)
async def test_claims_pass_from_trusted_peers_only(trusted: list[str], believed: bool) -> None:
    async with backend(echo) as server, proxy(server.url, trusted_proxies=trusted) as chp:
        got = await request_at_backend(chp, REQUEST)
    head = b"GET / HTTP/1.1\r\nHost: h\r\nA:\t1\r\n"
    assert got.head == head + (OTHERS + BEHIND if believed else OWN) + b"\r\n"


async def test_nothing_is_left_of_them_without_x_forward_either() -> None:
    async with backend(echo) as server, proxy(server.url, trusted_proxies=["none"], x_forward=False) as chp:
        got = await request_at_backend(chp, REQUEST)
    assert got.head == b"GET / HTTP/1.1\r\nHost: h\r\nA:\t1\r\n" + MARK.encode() + b"\r\n"


async def test_repeated_requests_of_a_connection_are_all_alike() -> None:
    async with backend(echo) as server, proxy(server.url, trusted_proxies=["none"]) as chp:
        peer = await chp.connect()
        for target in (b"/", b"/2", b"/3"):
            await peer.send(REQUEST.replace(b"/ ", target + b" ", 1))
            got = (await peer.receive_message()).content
            assert got == b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nA:\t1\r\n" + OWN + b"\r\n"


async def test_upgrades_too() -> None:
    async def script(peer: Peer) -> None:
        head = await peer.receive_head()
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n" + head
        )

    request = REQUEST[:-2] + b"Connection: Upgrade\r\nUpgrade: raw\r\n\r\n"
    async with backend(script) as server, proxy(server.url, trusted_proxies=["none"]) as chp:
        peer = await chp.connect()
        await peer.send(request)
        await peer.receive_head()
        got = await peer.receive_head()
    assert got == (
        b"GET / HTTP/1.1\r\nHost: h\r\nA:\t1\r\n" + OWN + b"Connection: Upgrade\r\nUpgrade: raw\r\n\r\n"
    )


@pytest.mark.parametrize("trusted", [["unix:"], ["127.0.0.1"]])
async def test_peers_on_a_unix_socket(trusted: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    async with backend(echo) as server:
        app = ConfigurableProxy(
            socket=str(path), api_port=0, auth_token="x", default_target=server.url, trusted_proxies=trusted
        )
        await app.start_servers()
        try:
            peer = Peer(*await asyncio.open_unix_connection(str(path)))
            await peer.send(REQUEST)
            got = Message((await peer.receive_message()).content)
            await peer.close()
        finally:
            await app.stop()
    if trusted == ["unix:"]:
        assert got.value(b"x-forwarded-for") == b"1.2.3.4"
        assert got.value(b"x-real-ip") == b"1.2.3.4"
        assert got.value(b"x-forwarded-proto") == b"https,http"
    else:
        assert got.value(b"x-forwarded-for") is None
        assert got.value(b"x-real-ip") is None
        assert got.value(b"x-forwarded-proto") == b"http"
