"""TLS on both sides, and everything that can happen to it, leaves nothing; nor does it cost much to wait."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import running
from support.inspected import MIB, InspectedProxy, crowd
from support.streams import end_of, hang
from support.wire import OK, PATIENCE, Peer, answer_ok, backend

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
UPLOAD = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n"
BLOCK = b"x" * 2**16
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # how a client begins


class TlsProxy(InspectedProxy):
    """Its port speaks TLS, and its targets may."""

    def __init__(self, directory: Path, pki: Any, *options: str) -> None:
        self._context = ssl.create_default_context(cafile=pki.ca)
        tls = ("--ssl-key", pki.key, "--ssl-cert", pki.cert, "--client-ssl-ca", pki.ca)
        super().__init__(directory, *tls, "--upstream", "direct", *options)

    async def connect(self) -> Peer:
        opening = asyncio.open_connection("127.0.0.1", self.port, ssl=self._context)
        return Peer(*await asyncio.wait_for(opening, PATIENCE))

    async def connect_without(self) -> Peer:
        return await super().connect()


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def chp(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pki: Any
) -> Iterator[TlsProxy]:
    with running(TlsProxy(tmp_path_factory.mktemp("chp"), pki, "--event-loop", request.param)) as it:
        yield it


async def test_tls_that_ends_in_every_way(chp: TlsProxy, pki: Any, factor: int) -> None:
    """Before, in and after the handshake; with and without a word; in heads and contents."""
    dice = random.Random(1)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.cert, pki.key)

    async def serve(peer: Peer) -> None:
        await peer.receive_head()
        kind = dice.randrange(4)
        if kind == 0:
            peer.abort()
        elif kind == 1:
            await peer.send(OK[: dice.randrange(len(OK))])
        elif kind == 2:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + BLOCK)
            await hang(peer)
        else:
            await peer.send(OK)

    async def ask(number: int) -> None:
        kind = number % 6
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            peer = await (chp.connect_without() if kind < 2 else chp.connect())
            if kind == 0:
                await peer.send(dice.randbytes(100))
                await end_of(peer)
            elif kind == 1:
                await peer.send(HELLO[: dice.randrange(len(HELLO))])
            elif kind == 2:
                await peer.send(UPLOAD + BLOCK)
            elif kind < 5:
                await peer.send(GET)
                await peer.receive(1)
            else:
                await peer.close()
                return
            peer.abort()

    async with backend(serve, tls=context) as server, chp.route("/x", server.url):
        # OpenSSL's allocations leave holes in the heap: it grows by 7 to 9 MB with 300, by 15 with 9,000.
        await chp.leaves_nothing(lambda count: crowd(count, ask), 300 * factor, memory=20 * MIB)


async def test_an_open_connection_costs_little(chp: TlsProxy) -> None:
    """Less than a receive buffer of its own would."""
    count, peers = 300, []

    async def open_one(number: int) -> None:
        peer = await chp.connect()
        peers.append(peer)
        await peer.send(GET)
        await peer.receive_message()

    async with backend(answer_ok) as server, chp.route("/x", server.url):
        await crowd(30, open_one)
        before = chp.memory()
        await crowd(count, open_one)
        assert (chp.memory() - before) / count < 36 * 1024
        for peer in peers:
            peer.abort()
        await chp.settled({"chp_client_connections": 0})
