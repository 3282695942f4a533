"""Chunks arrive as they are sent: nothing waits for the next chunk, or for the end."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest
from support.streams import background, receive_headed
from support.wire import OK, Peer, answer_ok, backend, proxy

EVENTS = [b"data: %d\n\n" % number for number in range(5)]
STREAM = b"".join(EVENTS)


def as_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


RESPONSE_FRAMINGS = {
    "chunked": (b"Transfer-Encoding: chunked", [as_chunk(event) for event in EVENTS], b"0\r\n\r\n"),
    "length": (b"Content-Length: %d" % len(STREAM), EVENTS, b""),
    "until close": (b"Connection: close", EVENTS, b""),
}


@pytest.mark.parametrize("framing", RESPONSE_FRAMINGS)
async def test_response_head_and_each_event_are_sent_on_at_once(framing: str) -> None:
    field, parts, end = RESPONSE_FRAMINGS[framing]
    seen = asyncio.Semaphore(0)  # by the client

    async def stream(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + field + b"\r\n\r\n")
        for part in parts:
            await seen.acquire()
            await peer.send(part)
        await seen.acquire()
        await peer.send(end)

    async with backend(stream) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        message = await receive_headed(peer)
        assert message.value(b"Content-Type") == b"text/event-stream"
        for event in EVENTS:
            seen.release()
            expected = event if framing == "length" else as_chunk(event)
            assert await peer.receive(len(expected)) == expected
        seen.release()
        if framing != "length":
            assert await peer.receive(5) == b"0\r\n\r\n"
        assert message.value(b"Connection") is None  # the client's connection stays


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
async def test_request_head_and_each_piece_of_content_are_sent_on_at_once(method: str, chunked: bool) -> None:
    field = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(STREAM)}"

    async with backend() as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(f"{method} /up HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n".encode())
        await server.wait_for(b"\r\n\r\n")
        sent = b""
        for event in EVENTS:
            piece = as_chunk(event) if chunked else event
            sent += piece
            await peer.send(piece)
            await server.wait_for(b"\r\n\r\n" + sent)
        if chunked:
            await peer.send(b"0\r\n\r\n")
        assert (await peer.receive_message()).status == 200


async def test_both_directions_stream_at_the_same_time() -> None:
    """The response begins, and goes on, while the request is still being sent."""

    async def echo(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            line = await peer.receive_until(b"\r\n")
            size = int(line, 16)
            await peer.send(line + await peer.receive(size + 2))
            if not size:
                return

    async with backend(echo) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await receive_headed(peer)).status == 200
        for event in [*EVENTS, b""]:
            await peer.send(as_chunk(event))
            assert await peer.receive(len(as_chunk(event))) == as_chunk(event)


@pytest.mark.parametrize("size", [1, 7, 300])
async def test_content_is_the_same_however_it_is_cut(size: int) -> None:
    content = random.Random(size).randbytes(300 * size)
    pieces = [content[start : start + size] for start in range(0, len(content), size)]

    async def answer(peer: Peer) -> None:
        message = await peer.receive_message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert message.content == content
        for piece in pieces:
            await peer.send(as_chunk(piece))
        await peer.send(b"0\r\n\r\n")

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            await peer.send(as_chunk(piece))
        await peer.send(b"0\r\n\r\n")
        assert (await peer.receive_message()).content == content


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_big_bodies_pass_byte_for_byte_in_both_directions_at_once(chunked: bool) -> None:
    block = random.Random(1).randbytes(2**18)
    total = 64 * len(block)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % total
    end = b"0\r\n\r\n" if chunked else b""

    async def send_blocks(peer: Peer, count: int) -> None:
        for _ in range(count):
            await peer.send(as_chunk(block) if chunked else block)

    async def receive_blocks(peer: Peer) -> str:
        digest = hashlib.sha256()
        if not chunked:
            for _ in range(64):
                digest.update(await peer.receive(len(block)))
            return digest.hexdigest()
        while size := int(await peer.receive_until(b"\r\n"), 16):
            digest.update(await peer.receive(size))
            await peer.receive(2)
        await peer.receive(2)
        return digest.hexdigest()

    received = []

    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        async with background(send_blocks(peer, 63)) as sending:
            received.append(await receive_blocks(peer))
            await sending
        await send_blocks(peer, 1)
        await peer.send(end)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n")
        async with background(send_blocks(peer, 64)) as sending:
            assert (await receive_headed(peer)).status == 200
            await sending
            await peer.send(end)
            received.append(await receive_blocks(peer))
    expected = hashlib.sha256(block * 64).hexdigest()
    assert received == [expected, expected]


async def test_many_long_polls_keep_nobody_waiting() -> None:
    """No cap on requests under way, and no order among them."""
    polls = asyncio.Event()

    async def answer(peer: Peer) -> None:
        while True:
            message = await peer.receive_message()
            if b"/poll" in message.start:
                await polls.wait()
            await peer.send(OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        waiting = [await chp.connect() for _ in range(100)]
        for peer in waiting:
            await peer.send(b"GET /poll HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await chp.get("/other")).status == 200
        polls.set()
        for peer in waiting:
            assert (await peer.receive_message()).status == 200


async def test_informational_responses_are_sent_on_at_once() -> None:
    go_on = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await go_on.wait()
        await peer.send(OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await peer.receive_head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        go_on.set()
        assert (await peer.receive_message()).status == 200


async def test_the_upstream_answers_an_expectation() -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.receive(5) == b"hello"
        await peer.send(OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert await peer.receive_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.send(b"hello")
        assert (await peer.receive_message()).status == 200


async def test_an_expectation_may_be_refused_before_the_content() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        await answer_ok(peer)

    async with backend(refuse) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        message = await peer.receive_message()
        assert message.status == 417
        # Whether the content follows is not known, so the connection can't go on.
        assert message.value(b"Connection") == b"close"
        assert await peer.receive_all() == b""
