"""Heads of responses: however they arrive, whatever they say, and how large they are."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from support.echo import answer
from support.wire import OK, Peer, backend, proxy

RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\n\r\nabc",
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: x\r\n\r\n"
    ),
    "until the end": b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nabc",
    "informational": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK,
    "no content": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
}


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
async def test_where_a_response_is_cut_in_two_makes_no_difference(response: bytes) -> None:
    cut = len(response)

    async def answer(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(response[:cut])
        for _ in range(5):  # the proxy, which runs in the same loop, reads it meanwhile
            await asyncio.sleep(0)
        await peer.send(response[cut:])

    async with backend(answer) as server, proxy(server.url) as chp:
        request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        _, whole = await chp.outcome(request)
        for cut in range(1, len(response)):
            _, received = await chp.outcome(request)
            assert without_chunks(received) == without_chunks(whole), cut


def without_chunks(received: bytes) -> bytes:
    """Leave out what frames chunks: they are passed on as they arrive."""
    return re.sub(rb"(?<=\n)[0-9a-f]+\r\n|\r\n(?=[0-9a-f]+\r\n)", b"", received)


@pytest.mark.expect_log("503 GET / invalid response")
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    ],
)
async def test_an_impossible_1xx_is_refused_at_once(head: bytes) -> None:
    async with backend(answer(head + OK)) as server, proxy(server.url) as chp:
        assert (await chp.get()).status == 503


@pytest.mark.parametrize(
    "head", [b"HTTP/1.0 103 Early Hints\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n"]
)
async def test_what_a_1xx_says_of_the_connection_means_nothing(head: bytes) -> None:
    async with backend(answer(head + OK)) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        for _ in range(2):
            await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert await peer.receive_head() == b"HTTP/1.1 103 Early Hints\r\n\r\n"
            assert (await peer.receive_message()).content == b"ok"
        await peer.close()


@pytest.mark.parametrize("size", [4096, 4097])
@pytest.mark.parametrize("end", [b"", b"abc"])
async def test_a_head_has_a_limit_even_if_it_comes_at_once(size: int, end: bytes, log_lines: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX: " % len(end)
    response = head + b"x" * (size - len(head) - 4) + b"\r\n\r\n" + end
    async with backend(answer(response)) as server, proxy(server.url, max_head_size=4096) as chp:
        status = (await chp.get()).status
    if size > 4096:
        assert log_lines.take("503 GET / invalid response: head")
    assert status == (200 if size <= 4096 else 503)
