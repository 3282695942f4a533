"""The curl upstream: what clients get from a backend's bytes is what they get through the direct one."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.wire import OK, Backend, Peer, backend, proxy

PIECES = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: x\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
THREE = b"Content-Length: 3"


def response(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", content: bytes = b"abc") -> bytes:
    return b"\r\n".join((line, *fields, b"", content))


def chunks(content: bytes) -> bytes:
    return response(CHUNKED, content=content)


RESPONSES = {
    "length": response(THREE),
    "leading zeros": response(b"Content-Length: 003"),
    "white space around a length": response(b"Content-Length:\t 3 \t"),
    "chunks": chunks(PIECES),
    "chunked in capitals": response(b"Transfer-Encoding: CHUNKED", content=PIECES),
    "to be kept": response(THREE, b"Connection: keep-alive", b"Keep-Alive: timeout=5"),
    "fields named by Connection": response(THREE, b"Connection: X, Y", b"X: 1", b"Z: 2"),
    "two equal lengths": response(THREE, THREE),
    "two lengths": response(THREE, b"Content-Length: 5"),
    "a list of lengths": response(b"Content-Length: 3, 3"),
    "length and chunks": response(THREE, CHUNKED, content=PIECES),
    **{
        f"length {value!r}": response(b"Content-Length: " + value)
        for value in (b"+3", b"-3", b"0x3", b"3 x", b"")
    },
    **{
        f"coding {value!r}": response(b"Transfer-Encoding: " + value, content=PIECES)
        for value in (
            b"gzip",
            b"gzip, chunked",
            b"chunked, gzip",
            b"xchunked",
            b"chunked, chunked",
            b"identity",
        )
    },
    **{
        f"chunk size {size!r}": chunks(size + b"\r\nabc\r\n0\r\n\r\n")
        for size in (
            b"x",
            b"-3",
            b"+3",
            b"0x3",
            b" 3",
            b"3 ",
            b"",
            b"0003",
            b"f" * 17,
            b'3;a="b;c"',
            b"3;a\nb",
        )
    },
    "no end of a chunk": chunks(b"3\r\nabc0\r\n\r\n"),
    "half an end of a chunk": chunks(b"3\r\nabc\r0\r\n\r\n"),
    "bare line feeds in chunks": chunks(b"3\nabc\n0\n\n"),
    "a bad trailer": chunks(b"3\r\nabc\r\n0\r\nbad trailer\r\n\r\n"),
    "a length as a trailer": chunks(b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n"),
    "bytes behind the last chunk": chunks(PIECES + b"junk"),
    "a response behind the last chunk": chunks(PIECES) + response(THREE, content=b"BAD"),
    "bytes behind the length": response(THREE, content=b"abcjunk"),
    "a response behind the length": response(THREE) + response(THREE, content=b"BAD"),
    "204": response(line=b"HTTP/1.1 204 No Content", content=b""),
    "204 with content": response(THREE, line=b"HTTP/1.1 204 No Content"),
    "304 with a length": response(THREE, line=b"HTTP/1.1 304 Not Modified", content=b""),
    "304 with chunks": response(CHUNKED, line=b"HTTP/1.1 304 Not Modified", content=PIECES),
    **{
        f"status line {line!r}": response(THREE, line=line)
        for line in (
            b"HTTP/1.1 000 X",
            b"HTTP/1.1 99 X",
            b"HTTP/1.1 1000 X",
            b"HTTP/1.1 600 X",
            b"HTTP/1.1 999 X",
            b"HTTP/1.1 abc X",
            b"HTTP/1.1 200",
            b"HTTP/1.1 200 ",
            b"HTTP/1.1 200 a\tb",
            b"HTTP/1.1 200 \xe4",
            b"HTTP/1.1 200 a\1b",
            b"HTTP/1.1  200 OK",
            b"http/1.1 200 OK",
            b"HTTP/1.2 200 OK",
            b"HTTP/2 200 OK",
            b"HTTP/2.0 200 OK",
            b"ICY 200 OK",
            b" HTTP/1.1 200 OK",
        )
    },
    **{
        f"field {line!r}": response(line, THREE)
        for line in (
            b"A: b\nC: d",
            b"A: b\rC: d",
            b"A: b\r",
            b"A: b\0c",
            b"A\0: b",
            b"A: b\1c",
            b"A: b\x7fc",
            b"Abc",
            b": b",
            b"A : b",
            b"A(b): c",
            b"A: \xe4\xff",
            b"\xe4: b",
            b"A:",
            b"A: b \t",
            b"A:b",
            b"Set-Cookie: a=1\r\nset-cookie: b=2\r\nX: y\r\nSet-Cookie: a=1",
            b"Content-Encoding: gzip, bogus",
            b"Content-Type: a\r\nContent-Type: b",
            b"Last-Modified: never",
            b"Content-Range: bytes 9-1/x",
            b'Alt-Svc: h3=":1"\r\nStrict-Transport-Security: max-age=1',
            b"Trailer: X",
            b"Upgrade: h2c",
        )
    },
    "bare line feeds": response(THREE).replace(b"\r\n", b"\n"),
    "103": response(b"Link: a", b"Link: b", line=b"HTTP/1.1 103 Early Hints", content=b"") + OK,
    "several 1xx": response(line=b"HTTP/1.1 102 Processing", content=b"") * 3 + OK,
    "101": response(b"Upgrade: x", b"Connection: Upgrade", line=b"HTTP/1.1 101 Switching", content=b""),
    **{
        f"a Location {value!r}": response(b"Location: " + value, THREE, line=b"HTTP/1.1 302 Found")
        for value in (b"http://[bad", b"/a b\xff", b"", b"gopher://x/", b"/a\tb", b"/" + b"a" * 30_000)
    },
    "challenges": response(
        b"WWW-Authenticate: Negotiate",
        b"WWW-Authenticate: NTLM",
        b'WWW-Authenticate: Digest realm="',
        THREE,
        line=b"HTTP/1.1 401 Unauthorized",
    ),
    **{
        f"status {status}": response(THREE, line=b"HTTP/1.1 %d X" % status)
        for status in (205, 206, 401, 407, 408, 416, 417, 421, 425, 429, 500)
    },
}
# With these the backend closes the connection; else it goes on.
LAST = {
    "until the end": response(),
    "HTTP/1.0": response(line=b"HTTP/1.0 200 OK"),
    "HTTP/1.0 with a length": response(THREE, line=b"HTTP/1.0 200 OK"),
    "to be closed": response(THREE, b"Connection: close"),
    **{
        f"cut after {text!r}": text
        for text in (
            b"",
            b"H",
            b"HTTP/1.1 2",
            b"HTTP/1.1 200 OK\r\nContent-",
            response(b"Content-Length: 9"),
            *(chunks(part) for part in (b"3", b"9\r\nabc", b"3\r\nabc\r\n", b"3\r\nabc\r\n0\r\n")),
        )
    },
}


async def seen_through(upstream: str, server: Backend) -> tuple[bytes, bytes]:
    """Return what the client gets for a request and one more, and what the backend gets."""
    server.received.clear()
    async with proxy(server.url, upstream=upstream) as chp:
        peer = await chp.connect()
        await peer.send(
            b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        )
        received = b""
        try:
            while data := await peer.receive_some():
                received += data
        except ConnectionResetError:
            received += b"(reset)"
    return re.sub(rb"Date: [^\r]*", b"", received), server.all_received


@pytest.mark.parametrize(
    ("sent", "last"),
    [*((sent, False) for sent in RESPONSES.values()), *((sent, True) for sent in LAST.values())],
    ids=[*RESPONSES, *LAST],
)
async def test_what_the_client_gets(sent: bytes, last: bool, log_lines: Any) -> None:
    async def answer(peer: Peer) -> None:
        while True:
            message = await peer.receive_message()
            if b"/next" in message.start:
                await peer.send(OK)
            else:
                await peer.send(sent)
                if last:
                    return

    async with backend(answer) as server:
        direct = await seen_through("direct", server)
        curl = await seen_through("curl", server)
    log_lines.take("invalid response|the connection")
    assert curl == direct
