"""The curl upstream: a backend can't tell it from the direct one, and libcurl adds nothing of its own."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from support.streams import quiet, receive_headed
from support.wire import OK, Backend, Peer, backend, proxy

SIMPLE = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"

REQUESTS = {
    "nothing but Host": SIMPLE,
    "a browser's": (
        b"GET /lab?x=1 HTTP/1.1\r\nHost: hub.example:8000\r\nUser-Agent: Mozilla/5.0\r\nAccept: text/html\r\n"
        b"Accept-Language: en\r\nAccept-Encoding: gzip, br\r\nReferer: http://x/\r\nCookie: a=b; c=d\r\n"
        b'Range: bytes=0-1\r\nIf-None-Match: "x"\r\nAuthorization: token t\r\n\r\n'
    ),
    "repeated, odd and spaced fields": (
        b"GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\nX-A: 1\r\n!#$%&'*+.^_`|~: odd\r\n"
        b"Semicolon: a;b;\r\nColon: a:b: c\r\nUTF-8: \xc3\xa4\xff\r\n\r\n"
    ),
    "fields that libcurl knows": (
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Type: a/b\r\nPragma: x\r\nExpires: 0\r\n"
        b"Proxy-Authorization: p\r\nContent-Encoding: gzip\r\nAlt-Svc: x\r\nHTTP2-Settings: y\r\n\r\n"
    ),
    "Expect among others": (
        b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nX-A: 1\r\nexpect: 100-Continue, x\r\nX-B:\r\n"
        b"EXPECT: 100-continue\r\nX-C:\r\nX-D:\r\nContent-Length: 5\r\n\r\nhello"
    ),
    "Expect without a value": b"GET / HTTP/1.1\r\nHost: h\r\nX-A:\r\nExpect:\r\nX-B:\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "dots, slashes and escapes": b"GET //a/./%2e%2E/b//c;d/%2F%41?a=/../b&%7A HTTP/1.1\r\nHost: h\r\n\r\n",
    "the signs of a query": b"GET /a%23b?c=%23&&=? HTTP/1.1\r\nHost: h\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "absolute": b"GET http://other.example/x HTTP/1.1\r\nHost: h\r\n\r\n",
    "HEAD": b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST without content": b"POST / HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST with none": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    "an unknown method": b"PURGE /x HTTP/1.1\r\nHost: h\r\n\r\n",
    **{
        f"{method} with {framing}": f"{method} / HTTP/1.1\r\nHost: h\r\nX: y\r\n".encode() + content
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "HEAD")
        for framing, content in (
            ("length", b"Content-Length: 5\r\n\r\nhello"),
            ("chunks", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        )
    },
}


async def answer_by_method(peer: Peer) -> None:
    while True:
        message = await peer.receive_message()
        await peer.send(OK[:-2] if message.start.startswith(b"HEAD ") else OK)


async def received_through(upstream: str, request: bytes, server: Backend) -> bytes:
    """Return the bytes that the backend gets, without the port of the proxy."""
    server.received.clear()
    async with proxy(server.url, upstream=upstream) as chp:
        message = await chp.request(request.replace(b"Host: h\r\n", b"Host: h:1\r\n"))
        assert message.status == 200
        await quiet(chp)
    return server.all_received


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_the_backend_receives_the_same_bytes(request_: bytes) -> None:
    async with backend(answer_by_method) as server:
        direct = await received_through("direct", request_, server)
        assert await received_through("curl", request_, server) == direct


async def test_a_field_without_value_stays() -> None:
    async with backend() as server, proxy(server.url) as chp:
        assert (await chp.get(fields="X-Empty:\r\nX-Blank:  \r\nAccept:\r\nX-Last: z\r\n")).status == 200
        lines = bytes(server.received[0]).split(b"\r\n")
        names = [line.partition(b":")[0] for line in lines if not line.partition(b":")[2].strip()]
        assert names == [b"GET / HTTP/1.1", b"X-Empty", b"X-Blank", b"Accept", b"", b""]


@pytest.mark.parametrize("last", [SIMPLE, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab"])
@pytest.mark.parametrize("first", [b"HEAD", b"PUT", b"GET"])
async def test_a_request_leaves_nothing_to_the_next_one(first: bytes, last: bytes) -> None:
    """They share a handle of libcurl, whose options stay."""
    content = b"" if first == b"HEAD" else b"Content-Length: 3\r\nX-Other: y\r\n\r\nabc"
    async with backend(answer_by_method) as server:
        alone = await received_through("curl", last, server)
        server.received.clear()
        async with proxy(server.url) as chp:
            other = first + b" /other HTTP/1.1\r\nHost: h:1\r\n" + (content or b"\r\n")
            assert (await chp.request(other)).status == 200
            before = len(server.all_received)
            assert (await chp.request(last.replace(b"Host: h\r\n", b"Host: h:1\r\n"))).content == b"ok"
            assert server.connections == 1
        assert server.all_received[before:] == alone


async def test_the_client_and_not_libcurl_waits_for_100() -> None:
    async def answer(peer: Peer) -> None:
        head = await peer.receive_head()
        assert head.count(b"Expect: 100-continue\r\n") == 1
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.receive(5) == b"hello"
        await peer.send(OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert (await receive_headed(peer)).status == 100
        await peer.send(b"hello")
        assert (await peer.receive_message()).status == 200


async def test_a_large_upload_does_not_wait_for_100() -> None:
    content = bytes(2_000_000)

    async def answer(peer: Peer) -> None:
        message = await peer.receive_message()
        assert b"expect" not in message.names
        assert message.content == content
        await peer.send(OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        request = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\n" + content
        assert (await chp.request(request)).status == 200


async def test_nothing_is_taken_from_environment_or_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / ".netrc").write_text("default login user password secret\n")
    (tmp_path / ".curlrc").write_text("user-agent = x\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    async with backend() as server, proxy(server.url) as chp:
        assert (await chp.get()).status == 200
        assert b"uthorization" not in server.all_received


async def test_redirects_cookies_and_codings_are_the_clients_business() -> None:
    response = (
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b'Alt-Svc: h2=":1"\r\nStrict-Transport-Security: max-age=9\r\nContent-Encoding: gzip\r\n'
        b"Content-Length: 4\r\n\r\n\x1f\x8b\x00\x00"
    )

    async def answer(peer: Peer) -> None:
        while True:
            await peer.receive_message()
            await peer.send(response)

    async with backend(answer) as server, proxy(server.url) as chp:
        for _ in range(2):
            message = await chp.get(fields="Accept-Encoding: gzip\r\n")
            assert message.head + message.content == response
        assert server.all_received.count(b"HTTP/1.1\r\n") == 2
        assert b"ookie" not in server.all_received


async def test_two_hundred_requests_at_once() -> None:
    """Tornado's client has ten places, and gives up after 20 seconds."""
    gate, waiting = asyncio.Event(), 0

    async def answer(peer: Peer) -> None:
        nonlocal waiting
        await peer.receive_message()
        waiting += 1
        if waiting == 200:
            gate.set()
        await gate.wait()
        await peer.send(OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        messages = await asyncio.gather(*(chp.get() for _ in range(200)))
        assert {message.status for message in messages} == {200}
        await quiet(chp)


async def test_content_goes_on_in_both_directions_at_once() -> None:
    async def echo(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while data := await peer.receive_until(b"\r\n"):
                size = int(data, 16)
                await peer.send(data + await peer.receive(size + 2))
                if not size:
                    return

    async with backend(echo) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.receive_head()
        for word in (b"one", b"three", b"seventeen"):
            chunk = b"%x\r\n%b\r\n" % (len(word), word)
            await peer.send(chunk)
            assert await peer.receive(len(chunk)) == chunk
        await peer.send(b"0\r\n\r\n")
        assert await peer.receive_until(b"\r\n\r\n") == b"0\r\n\r\n"


async def test_libcurl_neither_waits_for_100_nor_repeats_a_request_after_417() -> None:
    """It would send the request again without Expect, and the second answer would end up in the first."""
    refusal = b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 3\r\n\r\nabc"

    async def refuse(peer: Peer) -> None:
        while True:
            await peer.receive_head()
            await peer.send(refusal)
            await peer.receive(5)

    async with backend(refuse) as server, proxy(server.url) as chp:
        for method in ("PUT", "POST", "PUT"):
            request = (
                f"{method} / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
            )
            message = await chp.request(request.encode())
            assert (message.head + message.content).replace(b"Connection: close\r\n", b"") == refusal
        await quiet(chp)
        assert server.all_received.count(b" / HTTP/1.1\r\n") == 3


async def test_a_server_that_speaks_http10_gets_http11_and_chunks_all_the_same() -> None:
    """libcurl would go on with HTTP/1.0 on its connection, which has no chunked content."""

    async def answer(peer: Peer) -> None:
        while True:
            await peer.receive_message()
            await peer.send(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")

    chunked = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with backend(answer) as server, proxy(server.url) as chp:
        for request in (SIMPLE, chunked, SIMPLE):
            assert (await chp.request(request)).content == b"ok"
        assert b"HTTP/1.0" not in server.all_received
        assert server.all_received.count(b" / HTTP/1.1\r\n") == 3
        assert server.all_received.endswith(b"\r\n\r\n")


@pytest.mark.expect_log("503 HEAD / invalid response")
async def test_a_head_that_only_libcurl_accepts_ends_its_connection() -> None:
    async def answer(peer: Peer) -> None:
        while True:
            message = await peer.receive_message()
            head = b"HTTP/1.1 200 OK\nContent-Length: 2\n\n"
            await peer.send(head if message.start.startswith(b"HEAD") else OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        assert (await chp.request(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")).status == 503
        assert (await chp.get()).content == b"ok"
        assert server.connections == 2


@pytest.mark.expect_log("503 GET / invalid response: (Multiple Location|Too many response)")
@pytest.mark.parametrize(
    "fields", [b"Location: /a\r\nLocation: /b\r\n", b"A: b\r\n" * 5001], ids=["Location", "many"]
)
async def test_what_libcurl_refuses_by_itself(fields: bytes) -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(b"HTTP/1.1 302 Found\r\n" + fields + b"Content-Length: 0\r\n\r\n")

    async with backend(answer) as server, proxy(server.url) as chp:
        assert (await chp.get()).status == 503
