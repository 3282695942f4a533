"""Upstreams that speak no HTTP, or bad HTTP: a 503, and nothing of it reaches the client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.streams import broken_off, hang, quiet
from support.wire import OK, Peer, backend, proxy

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n"

GARBAGE = {
    "text": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x16",
    "zeros": bytes(100),
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64",
    "a request": GET,
    "HTTP/0.9": b"<html>hello</html>\r\n",
    "HTTP/2.0 as text": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "ICY": b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "lower case": b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "status 000": b"HTTP/1.1 000 X\r\nContent-Length: 2\r\n\r\nok",
    "status 099": b"HTTP/1.1 099 X\r\nContent-Length: 2\r\n\r\nok",
    "two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    "four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "no digits": b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok",
    "minus": b"HTTP/1.1 -20 OK\r\nContent-Length: 2\r\n\r\nok",
    "no colon": HEAD + b"no colon here\r\n\r\n",
    "no name": HEAD + b": x\r\nContent-Length: 2\r\n\r\nok",
    "space before the colon": HEAD + b"Content-Length : 2\r\n\r\nok",
    "NUL in a name": HEAD + b"A\0b: c\r\nContent-Length: 2\r\n\r\nok",
    "NUL in a value": HEAD + b"A: b\0c\r\nContent-Length: 2\r\n\r\nok",
    "bare CR in a value": HEAD + b"A: b\rX: y\r\nContent-Length: 2\r\n\r\nok",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "a list of lengths": HEAD + b"Content-Length: 2, 2\r\n\r\nok",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\nok",
    "a signed length": HEAD + b"Content-Length: +2\r\n\r\nok",
    "a hexadecimal length": HEAD + b"Content-Length: 0x2\r\n\r\nok",
    "an immense length": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\nok",
    "length and chunked": HEAD
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "an unknown coding": HEAD + b"Transfer-Encoding: gzip\r\n\r\nok",
    "a second coding": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "101 that nobody asked for": b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    "101 without an upgrade": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "a large field": HEAD + b"A: " + b"x" * 70_000 + b"\r\n\r\n",
    "a large reason": b"HTTP/1.1 200 " + b"x" * 70_000 + b"\r\n\r\n",
    "many fields": HEAD + b"A: 0123456789\r\n" * 5000 + b"\r\n",
}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.expect_log("503 GET / (invalid response|the connection)")
async def test_garbage_is_a_503(garbage: bytes, split: bool) -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        if split:
            half = min(len(garbage) // 2, 20)
            await peer.send(garbage[:half])
            await asyncio.sleep(0)
            await peer.send(garbage[half:])
        else:
            await peer.send(garbage)
        peer.send_eof()
        await hang(peer)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        message = await peer.receive_message()
        assert message.status == 503
        assert message.content.endswith(b"</html>\n")
        await peer.close()
        await quiet(chp)
        assert chp.app.metrics.upstream_connections == 0
        assert server.connections == 1
        assert sum(chp.app.metrics.upstream_errors.values()) == 1


ENDLESS = {
    "head": (HEAD, b"A: 0123456789\r\n"),
    "field": (HEAD + b"A: ", b"0123456789"),
    "reason": (b"HTTP/1.1 200 ", b"0123456789"),
    "first line": (b"", b"HTTP"),
    "informational responses": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
    "empty lines": (b"", b"\r\n"),
}


@pytest.mark.parametrize(("start", "more"), ENDLESS.values(), ids=ENDLESS)
@pytest.mark.expect_log("503 GET / invalid response")
async def test_an_endless_head_is_a_503(start: bytes, more: bytes) -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(start)
        while True:
            await peer.send(more * 100)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        head = await peer.receive_head()
        while b" 103 " in head:
            head = await peer.receive_head()
        assert b" 503 " in head
        await server.wait_until_ended()
        assert chp.app.metrics.upstream_bytes_received < 1_000_000


IN_CHUNKS = {
    "no size": b"\r\n",
    "no digit": b"xyz\r\n",
    "minus": b"-1\r\n",
    "immense": b"fffffffffffffffff\r\n",
    "0x": b"0x2\r\nok\r\n",
    "data too long": b"2\r\nokay\r\n",
    "no line end": b"2\r\nok2\r\nok\r\n",
    "bad trailer": b"0\r\nno colon\r\n\r\n",
    "endless extension": b"2;" + b"x" * 200_000,
    "endless trailers": b"0\r\n" + b"A: 0123456789\r\n" * 20_000,
}


@pytest.mark.parametrize("bad", IN_CHUNKS.values(), ids=IN_CHUNKS)
@pytest.mark.expect_log("Response to GET / cut: invalid response")
async def test_bad_chunks_reset_the_client(bad: bytes) -> None:
    seen = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await seen.wait()
        await peer.send(bad)
        await hang(peer)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        await peer.receive_until(b"hello\r\n")
        seen.set()
        assert b"0\r\n\r\n" not in await broken_off(peer)
        await quiet(chp)
        assert chp.app.metrics.upstream_connections == 0


@pytest.mark.parametrize(
    "bad", [GARBAGE["text"], GARBAGE["101 that nobody asked for"], b"", GARBAGE["a large field"]]
)
@pytest.mark.expect_log("404 GET /")
@pytest.mark.expect_log("Failed to get custom error page")
async def test_a_bad_error_target_gives_the_default_page(bad: bytes) -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(bad)

    async with backend(answer) as server, proxy(error_target=server.url) as chp:
        message = await chp.get()
        assert message.status == 404
        assert b"404" in message.content


async def test_an_early_hint_and_then_garbage(log_lines: Any) -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\nnonsense\r\n")
        await hang(peer)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        head = await peer.receive_head()
        if b" 103 " in head:
            head = await peer.receive_head()
        assert b" 503 " in head
        assert log_lines.take("503 GET / invalid response")


async def test_a_line_end_too_many_behind_a_response_is_no_response() -> None:
    async def answer(peer: Peer) -> None:
        while True:
            await peer.receive_head()
            await peer.send(OK + b"\r\n")

    async with backend(answer) as server, proxy(server.url) as chp:
        for _ in range(3):
            message = await chp.get()
            assert (message.status, message.content) == (200, b"ok")


@pytest.mark.expect_log("503 GET / invalid response")
async def test_a_bad_reason_is_a_503_without_waiting_for_more() -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n")
        await hang(peer)

    async with backend(answer) as server, proxy(server.url) as chp:
        assert (await chp.get()).status == 503


@pytest.mark.parametrize(
    "response",
    [OK, HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
    ids=["length", "chunked"],
)
async def test_a_101_behind_a_response_is_no_upgrade(response: bytes) -> None:
    behind = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nabc"

    async def answer(peer: Peer) -> None:
        while True:
            await peer.receive_head()
            await peer.send(response + behind)

    async with backend(answer) as server, proxy(server.url) as chp:
        for _ in range(2):
            message = await chp.get()
            assert (message.status, message.content) == (200, b"ok")
        assert server.connections == 2


LONG_HEAD = HEAD + b"Content-Length: 300000\r\n\r\n"


@pytest.mark.parametrize(("behind", "connections"), [(b"", 1), (b"x", 3), (b"HTTP/1.1 200 OK\r\n", 3)])
async def test_what_comes_behind_long_content(behind: bytes, connections: int) -> None:
    async def answer(peer: Peer) -> None:
        while True:
            await peer.receive_head()
            await peer.send(LONG_HEAD + b"x" * 300_000 + behind)

    async with backend(answer) as server, proxy(server.url) as chp:
        for _ in range(3):
            message = await chp.get()
            assert (message.status, message.content) == (200, b"x" * 300_000)
        assert server.connections == connections


@pytest.mark.expect_log("Response to GET / cut")
async def test_long_content_that_breaks_off_is_not_completed() -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(LONG_HEAD + b"x" * 299_999)
        await peer.close()

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        await broken_off(peer)
