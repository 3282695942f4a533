"""Malformed, ambiguous and merely strange requests, each with its one right outcome.

The proxy that they are for has the small limits :data:`LIMITS`, and adds no fields of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

LIMITS = {
    "max_head_size": 1024,
    "max_field_count": 20,
    "x_forward": False,
    "remove_request_header": ["CDN-Loop"],
}

HOST = b"Host: h\r\n"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\n"
PLAIN = GET + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"  # what a smuggler would like to slip in
AB = b"2\r\nab\r\n0\r\n\r\n"  # "ab", chunked
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


@dataclass(frozen=True)
class Case:
    """What a client sends on one connection, and what must come of it."""

    name: str
    sent: bytes
    statuses: tuple[int, ...]  # of the responses, in order
    forwarded: tuple[bytes, ...]  # the requests that the backend gets: head, and content without chunks
    closed: bool  # the connection is closed behind the last response

    def __str__(self) -> str:
        return self.name


CORPUS: list[Case] = []


def refused(name: str, sent: bytes, status: int = 400) -> None:
    """The backend gets no request, the client an error, and the connection is closed."""
    CORPUS.append(Case(name, sent, (status,), (), closed=True))


def passed(name: str, sent: bytes, *forwarded: bytes, closed: bool = False) -> None:
    """The backend gets exactly these requests."""
    CORPUS.append(Case(name, sent, (200,) * len(forwarded), forwarded, closed))


# -- Content-Length and Transfer-Encoding (RFC 9112, section 6) ------------

refused("CL and TE", POST + b"Content-Length: 6\r\n" + CHUNKED + b"\r\n0\r\n\r\nG")
refused("TE and CL", POST + CHUNKED + b"Content-Length: 3\r\n\r\n8\r\nSMUGGLED\r\n0\r\n\r\n")
refused("TE and CL 0", POST + CHUNKED + b"Content-Length: 0\r\n\r\n0\r\n\r\n" + HIDDEN)
refused("CL twice, the same", POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab")
refused("CL twice, different", POST + b"Content-Length: 2\r\ncontent-length: 0\r\n\r\nab")

for value in (
    *(b"2, 2", b"+2", b"-2", b"", b"0x2", b"2.0", b"1_0", b"1 0", b"2;", b'"2"', b"\x0b2", b"2\x0c"),
    *(b"two", b"\xef\xbc\x92", b"99999999999999999999"),
):
    refused(f"CL {value!r}", POST + b"Content-Length: " + value + b"\r\n\r\nab")
refused("CL without a value or a space", POST + b"Content-Length:\r\n\r\nab")
refused("CL with a space before the colon", POST + b"Content-Length : 2\r\n\r\nab")
refused("CL on a folded line", POST + b"X: y\r\n Content-Length: 2\r\n\r\nab")
refused("CL with a folded value", POST + b"Content-Length:\r\n 2\r\n\r\nab")

_WITH_AB = POST + b"Content-Length: 2\r\n\r\nab"
passed("CL with white space behind", POST + b"Content-Length: 2 \t\r\n\r\nab", _WITH_AB)
passed("CL with zeros in front", POST + b"Content-Length: 0002\r\n\r\nab", _WITH_AB)
passed("CL of twenty digits", POST + b"Content-Length: " + b"0" * 19 + b"2\r\n\r\nab", _WITH_AB)
refused("CL of twenty-one digits", POST + b"Content-Length: " + b"0" * 20 + b"2\r\n\r\nab")
refused("CL of zeros", POST + b"Content-Length: " + b"0" * 600 + b"2\r\n\r\nab")
passed(
    "CL and something like TE",
    _WITH_AB.replace(b"\r\n\r\n", b"\r\nTransfer_Encoding: chunked\r\n\r\n"),
    POST + b"Transfer_Encoding: chunked\r\nContent-Length: 2\r\n\r\nab",
)
passed("CL 0", POST + b"Content-Length: 0\r\n\r\n", POST + b"Content-Length: 0\r\n\r\n")
passed("POST without CL, then another", POST + b"\r\n" + HIDDEN, POST + b"\r\n", HIDDEN)
passed(
    "GET with content that looks like a request",
    GET + b"Content-Length: 34\r\n\r\n" + HIDDEN + b"x",
    GET + b"Content-Length: 34\r\n\r\n" + HIDDEN + b"x",
)

for value in (
    *(b"gzip", b"identity", b"chunked, identity", b"chunked, chunked", b"xchunked", b"chunkedx", b"chunked,"),
    *(b'"chunked"', b"chunked;q=1", b"", b"\x0bchunked", b"chunked\x00", b"chun ked"),
):
    refused(f"TE {value!r}", POST + b"Transfer-Encoding: " + value + b"\r\n\r\n" + AB)
for value in (b"gzip, chunked", b",chunked"):
    refused(f"TE {value!r}", POST + b"Transfer-Encoding: " + value + b"\r\n\r\n" + AB, 501)
refused("TE twice", POST + CHUNKED + CHUNKED + b"\r\n" + AB)
refused("TE with a space before the colon", POST + b"Transfer-Encoding : chunked\r\n\r\n" + AB)
refused("TE with a folded value", POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + AB)
refused("TE with a folded list", POST + b"Transfer-Encoding: chunked\r\n , identity\r\n\r\n" + AB)
refused("TE in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: h\r\n" + CHUNKED + b"\r\n" + AB)

_CHUNKED_AB = POST + CHUNKED + b"\r\nab"
passed("TE in any case", POST + b"transfer-ENCODING: ChunKed\r\n\r\n" + AB, _CHUNKED_AB)
passed("TE with GET", GET + CHUNKED + b"\r\n" + AB + HIDDEN, GET + CHUNKED + b"\r\nab", HIDDEN)

# -- Chunks (RFC 9112, section 7.1) ----------------------------------------

for content in (
    *(b"0x2\r\nab\r\n", b"+2\r\nab\r\n", b"-2\r\nab\r\n", b"\r\nab\r\n", b";a\r\nab\r\n", b"0_2\r\nab\r\n"),
    *(b"FFFFFFFFFFFFFFFFF\r\nab\r\n", b"10000000000000002\r\nab\r\n", b"2 \r\nab\r\n", b" 2\r\nab\r\n"),
    *(b"2 ;a\r\nab\r\n", b"2\nab\r\n", b"2\rab\r\n", b"2;a\nab\r\n", b"2;a\rb\r\nab\r\n", b"2;a\0\r\nab\r\n"),
    *(b'2;a="\r\nab\r\n', b"2\r\nab\n", b"2\r\nab", b"2\r\nabc\r\n", b"2\r\nabXX", b"2\r\nab\r\r\n"),
    *(b"g\r\nab\r\n", b"2\t\r\nab\r\n", b"2\r\r\nab\r\n"),
):
    refused(f"chunk {content!r}", POST + CHUNKED + b"\r\n" + content + b"0\r\n\r\n" + HIDDEN)
for end in (
    *(b"0\n\n", b"0\r\n\n", b"0\n\r\n", b"0\r\n\r\r\n", b"0\r\nX y\r\n\r\n", b"0\r\nX: y\n\r\n"),
    *(b"0\r\nX: y\r\n z\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX: a\0\r\n\r\n", b"00\r\rX: y\r\n\r\n"),
    *(b"0\r\nContent-Length: 30\r\n\r\n", b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
):
    refused(f"end of chunks {end!r}", POST + CHUNKED + b"\r\n2\r\nab\r\n" + end + HIDDEN)
for content in (
    *(b"0002\r\nab\r\n0\r\n\r\n", b"2;a=b\r\nab\r\n0;c\r\n\r\n", b'2;a="b c"\r\nab\r\n000\r\n\r\n'),
    *(b"2\r\nab\r\n0\r\nX: y\r\n\r\n", b"2\r\nab\r\n0\r\nHost: g\r\n\r\n", b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"),
    b"2\r\nab\r\n0\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
):
    passed(f"chunks {content!r}", POST + CHUNKED + b"\r\n" + content + HIDDEN, _CHUNKED_AB, HIDDEN)
passed(
    "chunk that looks like a request",
    POST + CHUNKED + b"\r\n21\r\n" + HIDDEN + b"\r\n0\r\n\r\n" + PLAIN,
    POST + CHUNKED + b"\r\n" + HIDDEN,
    PLAIN,
)
passed(
    "chunk full of line ends",
    POST + CHUNKED + b"\r\n8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n" + HIDDEN,
    POST + CHUNKED + b"\r\n" + b"\r\n" * 4,
    HIDDEN,
)
passed("empty chunks", POST + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN, POST + CHUNKED + b"\r\n", HIDDEN)
refused("endless trailer", POST + CHUNKED + b"\r\n0\r\nX: " + b"y" * 2000, 431)
refused("endless trailers", POST + CHUNKED + b"\r\n0\r\n" + b"X: y\r\n" * 300, 431)
refused("endless chunk extension", POST + CHUNKED + b"\r\n2;" + b"y" * 2000, 431)

# -- Field lines (RFC 9112, section 5) -------------------------------------

for line in (
    *(b"X Y: z", b"X : z", b"X\t: z", b": z", b"X", b"X\0: z", b"X(Y): z", b"X\xe9: z", b" X: z", b"\tX: z"),
    *(
        b"X\rY: z",
        b'"X": z',
        b"X/Y: z",
        b"X[]: z",
        b"X: a\0b",
        b"X: a\rb",
        b"X: a\nY: b",
        b"X: a\r",
        b"X: \x7f",
    ),
    *(b"X: a\x1bb", b"X: a\r\n b", b"X: a\r\n\tb", b"X: a\r\n ", b"X: a\n b", b"\x00", b"\n", b"\r"),
):
    refused(f"field line {line!r}", GET + line + b"\r\n\r\n")
for line in (b"X: a\xe9b", b"X: a\tb", b"X:y", b"!#$%&'*+-.^_`|~: y", b"X: y\r\nX: z\r\nx: y"):
    passed(f"field line {line!r}", GET + line + b"\r\n\r\n", GET + line + b"\r\n\r\n")
refused("folded line in front", b"GET / HTTP/1.1\r\n Host: g\r\nHost: h\r\n\r\n")
refused("bare LF everywhere", b"GET / HTTP/1.1\nHost: h\n\n")
refused("bare LF behind the request line", b"GET / HTTP/1.1\nHost: h\r\n\r\n")
refused("bare LF at the end", GET + b"\n" + HIDDEN)
refused("bare CR behind the request line", b"GET / HTTP/1.1\rHost: h\r\n\r\n")
refused("CR CR LF", b"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n")

for host in (
    *(b"u@h", b"h/x", b"h h", b"h?x", b"h#x", b"h\\x", b"h:80:90", b"[::1", b"::1", b"h:x", b"<h>", b"\xe9"),
    *(b"h\0", b"h\tg", b'"h"'),
):
    refused(f"Host {host!r}", b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
for host in (b"[::1]:80", b"h.", b"h:", b"%41", b"h_g:1"):
    request = b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    passed(f"Host {host!r}", request, request)
refused("two Host fields", GET + b"host: h\r\n\r\n")
refused("two Host fields, the second empty", GET + b"Host:\r\n\r\n")
refused("two Host fields, the first empty", b"GET / HTTP/1.1\r\nHost:\r\nHost: h\r\n\r\n")
refused("two empty Host fields", b"GET / HTTP/1.1\r\nHost:\r\nHost: \r\n\r\n")
refused("no Host", b"GET / HTTP/1.1\r\nX: y\r\n\r\n")
refused("no fields", b"GET / HTTP/1.1\r\n\r\n")

_BY_CONNECTION = b"Connection: host, content-length, transfer-encoding\r\n"
passed("Connection names Host and CL", POST + _BY_CONNECTION + b"Content-Length: 2\r\n\r\nab", _WITH_AB)
passed("Connection names Host and TE", POST + _BY_CONNECTION + CHUNKED + b"\r\n" + AB, _CHUNKED_AB)
passed(
    "Connection names others",
    GET + b"Connection: a, X\r\nX: y\r\nconnection: B\r\nb: c\r\nZ: z\r\n\r\n",
    GET + b"Z: z\r\n\r\n",
)
passed("Connection is nonsense", GET + b'Connection: a b, ", ,\r\n\r\n', PLAIN)
passed("Connection: close, then more", GET + b"Connection: close\r\n\r\n" + HIDDEN, PLAIN, closed=True)
passed(
    "hop-by-hop fields",
    GET + b"Keep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nTrailer: X\r\n\r\n",
    PLAIN,
)

# -- The request line (RFC 9112, section 3) --------------------------------

for version in (
    *(
        b"HTTP/0.9",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"HTTP/2",
        b"http/1.1",
        b"HTTP/1.10",
        b"HTTP/01.1",
        b"HTTP /1.1",
    ),
    *(
        b"HTTPS/1.1",
        b"ICE/1.0",
        b"RTSP/1.0",
        b"HTTP/1.",
        b"HTTP/11",
        b"HTTP/1.1 ",
        b"HTTP/1.1\t",
        b" HTTP/1.1",
    ),
    b"",
):
    refused(f"version {version!r}", b"GET / " + version + b"\r\nHost: h\r\n\r\n")
for start in (
    *(
        b"GET  / HTTP/1.1",
        b"GET\t/\tHTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET /",
        b"GET HTTP/1.1",
    ),
    *(b"get / HTTP/1.1", b"GETT / HTTP/1.1", b"NONSENSE / HTTP/1.1", b" / HTTP/1.1", b"G\0T / HTTP/1.1"),
    *(
        b"\x16\x03\x01\x02",
        b"\nGET / HTTP/1.1",
        b"\rGET / HTTP/1.1",
        b"\nHEAD / HTTP/1.1",
        b"\xef\xbb\xbfGET / HTTP/1.1",
    ),
):
    refused(f"request line {start!r}", start + b"\r\nHost: h\r\n\r\n")
# llhttp takes what is in front of the line's end for HTTP/0.9, and the rest for fields.
for hidden in (
    *(b"\r\nX-Forwarded-For:6.6.6.6\r\nContent-Length:30\r\nZ:", b"\r\nTransfer-Encoding:chunked\r\nZ:"),
    *(b"\nX:", b"\rX:", b"\r\nX:", b" HTTP/1.1\nX:"),
):
    refused(f"line end before the version {hidden!r}", b"GET /x" + hidden + b" HTTP/1.1\r\n" + HOST + b"\r\n")
refused("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
passed("empty line in front", b"\r\n" + PLAIN, PLAIN)
passed("empty lines in front and between", b"\r\n\r\n" + PLAIN + b"\r\n" + HIDDEN, PLAIN, HIDDEN)

for target in (
    *(b"*", b"h:443", b"a/b", b"?x", b"/%zz", b"/%", b"/%4", b"/%ff", b"/a b", b"/a\tb", b"/a\0", b"/a\x7f"),
    *(
        b"/\x0c",
        b"/\xc3\xa9",
        b"/?\xc3\xa9",
        b"/?a\tb",
        b"http:///x",
        b"http:/x",
        b"ftp://h/x",
        b"http://u@h/x",
    ),
    *(b"http://h:x/", b"http://h\\x", b"/a\rb", b"/a\nb"),
):
    refused(f"target {target!r}", b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
for target, path in {
    b"//g/x": b"//g/x",
    b"///": b"///",
    b"/a/../b": b"/b",
    b"/a/%2e%2E/b": b"/b",
    b"/../../a": b"/a",
    b"/a%2F..%2Fb": b"/a%2F..%2Fb",
    b"/%252e%252e/a": b"/%252e%252e/a",
    b"/%0d%0a": b"/%0d%0a",
    b"/a?b#c": b"/a?b",
    b"/?%zz": b"/?%zz",
    b"/a?/../b": b"/a?/../b",
}.items():
    passed(
        f"target {target!r}",
        b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    )
passed(
    "absolute form",
    b"GET http://g:1/x?y HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /x?y HTTP/1.1\r\nHost: g:1\r\n\r\n",
)
passed("asterisk form", b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
refused("CONNECT", b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n" + HIDDEN, 405)
refused(
    "CONNECT with content",
    b"CONNECT h:443 HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nab" + HIDDEN,
    405,
)

# -- Size ------------------------------------------------------------------

refused("long request line", b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431)
refused("endless request line", b"GET /" + b"x" * 2000, 431)
refused("long field", GET + b"X: " + b"y" * 2000 + b"\r\n\r\n", 431)
refused("endless name", GET + b"X" * 2000, 431)
refused("endless fields", GET + b"X: y\r\n" * 300, 431)
refused("one field too many", GET + b"X: y\r\n" * 20 + b"\r\n", 431)
passed("as many fields as allowed", GET + b"X: y\r\n" * 19 + b"\r\n", GET + b"X: y\r\n" * 19 + b"\r\n")

# -- Pipelining and upgrades -----------------------------------------------

passed("two in one packet", PLAIN + HIDDEN, PLAIN, HIDDEN)
passed("content, then another", _WITH_AB + HIDDEN, _WITH_AB, HIDDEN)
passed("HTTP/1.0, then more", b"GET / HTTP/1.0\r\nHost: h\r\n\r\n" + HIDDEN, PLAIN, closed=True)
CORPUS.append(Case("a good one, then garbage", PLAIN + b"garbage\r\n\r\n", (200, 400), (PLAIN,), closed=True))
CORPUS.append(
    Case(
        "a good one, then CL and TE",
        PLAIN + POST + CHUNKED + b"Content-Length: 2\r\n\r\n" + AB,
        (200, 400),
        (PLAIN,),
        closed=True,
    )
)
passed(
    "Expect, with content at once",
    _WITH_AB.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"),
    POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
)
# The backend does not switch: what came behind is thrown away with the connection.
passed("upgrade, then more", GET + UPGRADE + b"\r\n" + HIDDEN, GET + UPGRADE + b"\r\n", closed=True)
passed("upgrade without Connection", GET + b"Upgrade: websocket\r\n\r\n" + HIDDEN, PLAIN, HIDDEN)
passed(
    "upgrade in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: h\r\n" + UPGRADE + b"\r\n" + HIDDEN, PLAIN, closed=True
)
passed("upgrade with content", POST + UPGRADE + b"Content-Length: 2\r\n\r\nab" + HIDDEN, _WITH_AB, HIDDEN)
passed("upgrade with chunks", POST + UPGRADE + CHUNKED + b"\r\n" + AB + HIDDEN, _CHUNKED_AB, HIDDEN)
refused("upgrade with bad chunks", POST + UPGRADE + CHUNKED + b"\r\nzz\r\nab\r\n0\r\n\r\n" + HIDDEN)
refused("upgrade with CL and TE", POST + UPGRADE + CHUNKED + b"Content-Length: 2\r\n\r\n" + AB + HIDDEN)
passed(
    "upgrade to h2c",
    GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n" + HIDDEN,
    PLAIN,
    HIDDEN,
)
