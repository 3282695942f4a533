"""Responses that come before the request is complete reach the client, whatever the upstream does next."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import pytest
from support.streams import background, end_of, hang, heads, quiet
from support.wire import OK, Message, Peer, backend, proxy, until

MIB = 2**20
SIZE = 30 * MIB
TOO_LARGE = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 9\r\n\r\ntoo large"
HEADS = {
    "length": b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % SIZE,
    "chunked": b"POST /up HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
}
CHUNK = b"10000\r\n" + bytes(2**16) + b"\r\n"


async def send_content(peer: Peer, framing: str) -> None:
    """Send everything; a peer that has closed is no error here."""
    with contextlib.suppress(OSError):
        for _ in range(SIZE // 2**16):
            await peer.send(CHUNK if framing == "chunked" else bytes(2**16))
        if framing == "chunked":
            await peer.send(b"0\r\n\r\n")


@pytest.mark.not_over("curl-tls")  # a backend that reads no more never sees the end of TLS
@pytest.mark.parametrize("client", ["reads while it sends", "sends all, then reads"])
@pytest.mark.parametrize("framing", HEADS)
@pytest.mark.parametrize("ending", ["closes", "half-closes", "reads on", "stalls"])
async def test_a_refusal_in_the_middle_of_an_upload_reaches_the_client(
    ending: str, framing: str, client: str
) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.receive_head()
        await peer.receive(1000)
        peer.stop_reading()
        await peer.send(TOO_LARGE)
        if ending == "half-closes":
            peer.send_eof()
        elif ending == "reads on":
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await hang(peer)
        elif ending == "stalls":
            await asyncio.Event().wait()

    async with backend(refuse) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(HEADS[framing])
        async with background(send_content(peer, framing)) as sending:
            if client == "sends all, then reads":
                await sending
            message = await peer.receive_message()
        assert message.status == 413
        assert message.content == b"too large"
        assert message.value(b"Connection") == b"close"
        await peer.close()
        await quiet(chp)
        assert chp.app.metrics.upstream_connections == 0  # it is in the middle of a request


def unread(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1000, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


async def test_a_refusal_is_saved_when_writing_to_the_upstream_fails() -> None:
    """The upstream answers and closes with bytes unread: it resets the connection right behind its answer.

    More content comes at the same time, and is written before the answer is read.
    """
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with proxy(f"http://127.0.0.1:{listener.getsockname()[1]}") as chp:
            peer = await chp.connect()
            await peer.send(HEADS["length"] + b"some")
            upstream, _ = await loop.sock_accept(listener)
            await until(lambda: unread(upstream).endswith(b"some"))
            # The loop sees what happens here at once: first the client, then the upstream.
            client = peer.writer.get_extra_info("socket")
            os.write(client.fileno(), b"more")
            upstream.send(TOO_LARGE)
            upstream.close()
            message = await peer.receive_message()
            assert (message.status, message.content) == (413, b"too large")
            await peer.close()
            await quiet(chp)


async def test_the_connection_is_closed_behind_an_early_response() -> None:
    """What follows could be content or a request: nothing of it is taken for one."""

    async def refuse(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(TOO_LARGE)
        await hang(peer)

    async with backend(refuse) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(HEADS["length"])
        assert (await peer.receive_message()).status == 413
        await peer.send(b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await peer.receive_all() == b""
        assert heads(server) == 1
        assert b"smuggled" not in server.all_received


async def test_an_early_response_may_take_its_time() -> None:
    """Its head comes early, its content slowly; the upload goes on meanwhile."""
    more = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await peer.receive(5)
        more.set()
        await peer.receive(5)
        await peer.send(b"cd")

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n")
        await peer.receive_head()
        assert await peer.receive(2) == b"ab"
        await peer.send(b"hello")
        await more.wait()
        await peer.send(b"world")
        assert await peer.receive(2) == b"cd"
        assert server.all_received.endswith(b"helloworld")
        await peer.close()
        await quiet(chp)


@pytest.mark.parametrize("framing", HEADS)
@pytest.mark.parametrize(("route", "status"), [("/none", 404), ("/dead", 503)])
async def test_error_pages_reach_a_client_that_is_uploading(
    framing: str, route: str, status: int, log_lines: Any
) -> None:
    async with backend() as server:
        pass  # nobody listens there any more
    async with proxy() as chp:
        await chp.add_route("/dead", server.url)
        peer = await chp.connect()
        await peer.send(HEADS[framing].replace(b"/up", route.encode()))
        async with background(send_content(peer, framing)) as sending:
            await sending
            message = await peer.receive_message()
        assert message.status == status
        assert b"</html>" in message.content
        assert message.value(b"Connection") == b"close"
        assert await end_of(peer) == b""
        assert log_lines.take(f"{status} POST {route}")
        await peer.close()
        await quiet(chp)


async def test_an_error_target_answers_a_client_that_is_uploading(log_lines: Any) -> None:
    async def page(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 4\r\n\r\npage")

    async with backend(page) as errors, proxy(error_target=errors.url) as chp:
        peer = await chp.connect()
        await peer.send(HEADS["length"])
        async with background(send_content(peer, "length")) as sending:
            await sending
            message: Message = await peer.receive_message()
        assert (message.status, message.content) == (404, b"page")
        # The page is no place for what the client wanted to tell somebody else.
        assert errors.all_received.endswith(b"\r\n\r\n")
        log_lines.take("404 POST /up")
        await peer.close()
        await quiet(chp)


async def test_a_response_before_any_content_of_a_small_upload() -> None:
    async def answer(peer: Peer) -> None:
        while True:
            await peer.receive_head()
            await peer.send(OK)
            await peer.receive(5)

    async with backend(answer) as server, proxy(server.url) as chp:
        for _ in range(50):
            peer = await chp.connect()
            peer.writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n")
            await asyncio.sleep(0)
            peer.writer.write(b"hello")
            assert (await peer.receive_message()).content == b"ok"
            await peer.close()
        await quiet(chp)
