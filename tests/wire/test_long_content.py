"""Long content in one read with its head: it is sent on out of the receive buffer, or copied."""

from __future__ import annotations

import asyncio
import random

import pytest
from support.echo import echo
from support.wire import END_OF_HEAD, Backend, Peer, Proxy, backend, proxy, until

from chp.sockets import LONG

SIZES = [LONG - 100, LONG, LONG + 1, 60_000]
HELD_BACK = 10


def upload(content: bytes, *, chunked: bool = False, before: bytes = b"") -> bytes:
    length = len(content) + HELD_BACK
    if not chunked:
        return before + b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (length, content)
    fields = b"Host: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    return before + b"POST /a HTTP/1.1\r\n%b%x\r\n%b" % (fields, length, content)


async def use_the_buffer(chp: Proxy) -> None:
    """Let another client's bytes stand where the content was received."""
    other = b"GET /other HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (b"x" * 20_000)
    assert (await chp.request(other)).status == 200


async def finish(peer: Peer, content: bytes, *, chunked: bool = False) -> None:
    """Send the rest, with another request behind it; see that the upstream got all of it."""
    rest = bytes(range(HELD_BACK))
    await peer.send(rest + (b"\r\n0\r\n\r\n" if chunked else b"") + b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n")
    _, _, got = (await peer.receive_message()).content.partition(END_OF_HEAD)
    assert got == content + rest
    assert (await peer.receive_message()).content.startswith(b"GET /b ")


async def received(server: Backend, content: bytes) -> None:
    await server.wait_for(content[-100:])


@pytest.mark.parametrize("before", [b"", b"\r\n"], ids=["", "empty line"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("pooled", [False, True], ids=["new", "pooled"])
@pytest.mark.parametrize("size", SIZES)
async def test_it_is_sent_on_at_once(size: int, pooled: bool, chunked: bool, before: bytes) -> None:
    content = random.Random(size).randbytes(size)
    async with backend(echo) as server, proxy(server.url) as chp:
        if pooled:
            await use_the_buffer(chp)
        peer = await chp.connect()
        await peer.send(upload(content, chunked=chunked, before=before))
        await received(server, content)
        await use_the_buffer(chp)
        await finish(peer, content, chunked=chunked)


async def test_of_many_that_wait_for_a_connection_each_keeps_its_own() -> None:
    contents = [random.Random(number).randbytes(50_000) for number in range(5)]
    async with backend(echo) as server, proxy(server.url) as chp:
        peers = [await chp.connect() for _ in contents]
        await asyncio.gather(
            *(peer.send(upload(content)) for peer, content in zip(peers, contents, strict=True))
        )
        for peer, content in zip(peers, contents, strict=True):
            await received(server, content)
            await finish(peer, content)


async def test_it_waits_with_its_request() -> None:
    content = random.Random(1).randbytes(50_000)
    async with backend(echo) as server, proxy(server.url) as chp:
        await use_the_buffer(chp)
        link = chp.app.table.link
        link.behind = asyncio.get_running_loop().create_future()
        peer = await chp.connect()
        await peer.send(upload(content))
        await until(lambda: chp.app.metrics.store_waits)
        caught_up, link.behind = link.behind, None
        await use_the_buffer(chp)
        caught_up.set_result(None)
        await received(server, content)
        await finish(peer, content)


async def test_a_client_that_takes_it_slowly_gets_all_of_it() -> None:
    """The head and the beginning of a response, of which the socket takes only a part at once."""
    content = random.Random(2).randbytes(8_000_000)

    async def answer(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.sleep(0.2)
        assert (await peer.receive_message()).content == content
