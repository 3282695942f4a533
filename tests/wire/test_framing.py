"""Where content ends: requests and responses with every kind of framing, and what becomes of it."""

from __future__ import annotations

import asyncio

import pytest
from support.echo import MARK, echo, request_at_backend
from support.wire import Message, Peer, Script, backend, proxy

METHODS = (
    *("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT", "MKCOL", "TRACE", "QUERY"),
    *("SEARCH", "PURGE", "LOCK"),
)
CHUNKS = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n"


def start(method: str, fields: str) -> bytes:
    return f"{method} / HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode()


def answer(response: bytes, *, close: bool = False) -> Script:
    """Make a script that answers every request with these bytes, and closes if asked to."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_message()
            await peer.send(response)
            if close:
                return

    return script


def framing(message: Message) -> dict[bytes, bytes]:
    names = (b"content-length", b"transfer-encoding", b"connection")
    return {name.lower(): value for name, value in message.fields if name.lower() in names}


@pytest.mark.parametrize("method", METHODS)
async def test_request_framing_is_kept_for_every_method(method: str) -> None:
    async with backend(echo) as server, proxy(server.url, x_forward=False) as chp:
        for fields, content in (
            ("Content-Length: 5\r\n", b"abcde"),
            ("Transfer-Encoding: chunked\r\n", CHUNKS),
            ("Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
            ("Content-Length: 0\r\n", b""),
            ("", b""),
        ):
            got = await request_at_backend(chp, start(method, fields) + content)
            assert got.head == start(method, MARK + fields)
            assert got.content == (b"abcde" if b"a" in content else b"")


async def test_head_request_with_content_keeps_it() -> None:
    async with (
        backend(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")) as server,
        proxy(server.url, x_forward=False) as chp,
    ):
        request = start("HEAD", "Content-Length: 5\r\n") + b"abcde"
        message = await chp.request(request)
    assert framing(message) == {b"content-length": b"9"}
    assert server.all_received == start("HEAD", MARK + "Content-Length: 5\r\n") + b"abcde"


async def test_request_chunks_are_framed_anew() -> None:
    async with backend(echo) as server, proxy(server.url, x_forward=False) as chp:
        await chp.request(start("POST", "Transfer-Encoding: chunked\r\n") + CHUNKS)
    expected = start("POST", MARK + "Transfer-Encoding: chunked\r\n") + b"5\r\nabcde\r\n0\r\n\r\n"
    assert server.all_received == expected


@pytest.mark.parametrize("size", [1, 4096, 65535, 65536, 262143, 262144, 262145, 1_000_003])
async def test_content_of_any_size_is_byte_exact_both_ways(size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.receive_message()
            head = b"HTTP/1.1 200 OK\r\n"
            if b"content-length" in request.names:
                data = b"Content-Length: %d\r\n\r\n%b" % (len(request.content), request.content)
            else:
                data = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
                    len(request.content),
                    request.content,
                )
            await peer.send(head + data)

    async with backend(script) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        for fields, framed in (
            (f"Content-Length: {size}\r\n", content),
            ("Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (size, content)),
        ):
            sending = asyncio.ensure_future(peer.send(start("PUT", fields) + framed))
            message = await peer.receive_message()
            await sending
            assert message.content == content
            assert framing(message).keys() == {fields.partition(":")[0].lower().encode()}


# status and fields of the upstream's response, its content, whether it closes;
# the framing that the client sees on HTTP/1.1, and the content.
RESPONSES = [
    ("200 OK", "Content-Length: 5", b"abcde", False, {b"content-length": b"5"}, b"abcde"),
    ("200 OK", "Content-Length: 0", b"", False, {b"content-length": b"0"}, b""),
    ("200 OK", "Transfer-Encoding: chunked", CHUNKS, False, {b"transfer-encoding": b"chunked"}, b"abcde"),
    ("200 OK", "transfer-encoding: CHUNKED", CHUNKS, False, {b"transfer-encoding": b"chunked"}, b"abcde"),
    ("200 OK", "Transfer-Encoding: chunked", b"0\r\n\r\n", False, {b"transfer-encoding": b"chunked"}, b""),
    ("200 OK", "", b"abcde", True, {b"transfer-encoding": b"chunked"}, b"abcde"),
    ("200 OK", "", b"", True, {b"transfer-encoding": b"chunked"}, b""),
    ("200 OK", "Connection: close", b"abcde", True, {b"transfer-encoding": b"chunked"}, b"abcde"),
    (
        *("200 OK", "Connection: close\r\nContent-Length: 5", b"abcde", True),
        *({b"content-length": b"5"}, b"abcde"),
    ),
    ("404 Not Found", "Content-Length: 5", b"abcde", False, {b"content-length": b"5"}, b"abcde"),
    ("500 Oops", "Transfer-Encoding: chunked", CHUNKS, False, {b"transfer-encoding": b"chunked"}, b"abcde"),
    ("205 Reset Content", "Content-Length: 0", b"", False, {b"content-length": b"0"}, b""),
    ("206 Partial Content", "Content-Length: 2", b"ab", False, {b"content-length": b"2"}, b"ab"),
    ("204 No Content", "", b"", False, {}, b""),
    ("204 No Content", "Content-Length: 0", b"", False, {}, b""),
    ("204 No Content", "Transfer-Encoding: chunked", b"", False, {}, b""),
    ("304 Not Modified", "", b"", False, {}, b""),
    ("304 Not Modified", "Content-Length: 5", b"", False, {b"content-length": b"5"}, b""),
]


@pytest.mark.parametrize(
    ("upstream", "status", "fields", "content", "close", "framed", "received"),
    [
        pytest.param(upstream, *response, id=f"{upstream} {response[:3]}")
        for upstream in ("HTTP/1.1", "HTTP/1.0")
        for response in RESPONSES
        if upstream == "HTTP/1.1" or "chunked" not in response[1].lower()  # HTTP/1.0 knows no chunks
    ],
)
async def test_response_framing(
    upstream: str,
    status: str,
    fields: str,
    content: bytes,
    close: bool,
    framed: dict[bytes, bytes],
    received: bytes,
) -> None:
    block = fields + "\r\n" if fields else ""
    response = f"{upstream} {status}\r\n{block}\r\n".encode() + content
    async with backend(answer(response, close=close)) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        for _ in range(2):  # the client's connection stays, whatever the upstream does with its own
            await peer.send(start("GET", ""))
            message = await peer.receive_message()
            assert message.start == f"HTTP/1.1 {status}".encode()
            assert (framing(message), message.content) == (framed, received)

        # An HTTP/1.0 client gets no chunks: the end of the connection ends the content.
        _, answered = await chp.outcome(b"GET / HTTP/1.0\r\n\r\n")
        head, _, rest = answered.partition(b"\r\n\r\n")
        assert b"\r\nConnection: close" in head
        assert b"transfer-encoding" not in head.lower()
        assert rest == received


@pytest.mark.parametrize(
    ("fields", "framed"),
    [
        ("Content-Length: 5\r\n", {b"content-length": b"5"}),
        ("Transfer-Encoding: chunked\r\n", {b"transfer-encoding": b"chunked"}),
        ("", {}),
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "304 Not Modified"])
async def test_answer_to_head_has_the_framing_and_no_content(
    status: str, fields: str, framed: dict[bytes, bytes]
) -> None:
    async with (
        backend(answer(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode())) as server,
        proxy(server.url) as chp,
    ):
        peer = await chp.connect()
        for _ in range(3):
            await peer.send(start("HEAD", ""))
            message = await peer.receive_message(head_only=True)
            assert (message.start, framing(message)) == (f"HTTP/1.1 {status}".encode(), framed)
        await peer.send(b"GET /_chp_healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await peer.receive_message()).content == b'{"status":"OK"}'


async def test_head_and_get_by_turns_on_one_connection_to_the_upstream() -> None:
    async def script(peer: Peer) -> None:
        while True:
            head_only = (await peer.receive_message()).start.startswith(b"HEAD ")
            await peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + (b"" if head_only else b"abcde")
            )

    async with backend(script) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        for method in ("HEAD", "GET", "HEAD", "HEAD", "GET", "GET"):
            await peer.send(start(method, ""))
            message = await peer.receive_message(head_only=method == "HEAD")
            assert message.content == (b"" if method == "HEAD" else b"abcde")
            assert framing(message) == {b"content-length": b"5"}
    assert server.connections == 1


async def test_response_trailers_are_dropped() -> None:
    response = b"HTTP/1.1 200 OK\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS
    async with backend(answer(response)) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        expected = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
        for _ in range(2):
            await peer.send(start("GET", ""))
            assert await peer.receive(len(expected)) == expected
    assert server.connections == 1
