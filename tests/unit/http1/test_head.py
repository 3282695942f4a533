"""chp/http1/head.py: what a head means, and what of it goes on."""

from __future__ import annotations

import pytest

from chp.errors import BadRequest
from chp.http1.head import RequestHead, ResponseHead


def request(*lines: bytes, start: bytes = b"GET /x HTTP/1.1", host: bytes = b"Host: h") -> RequestHead:
    return RequestHead.parse(b"\r\n".join([start, *([host] if host else []), *lines, b"", b""]))


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> ResponseHead:
    return ResponseHead.parse(b"\r\n".join([start, *lines, b"", b""]))


def test_request_line() -> None:
    head = request()
    assert (head.method, head.target, head.host, head.http10, head.block) == (b"GET", b"/x", b"h", False, b"")
    assert request(start=b"GET /x HTTP/1.0").http10


@pytest.mark.parametrize(
    "start",
    [
        *(
            b"GET  /x HTTP/1.1",
            b"GET /x  HTTP/1.1",
            b"GET /x HTTP/1.1 ",
            b"GET /x",
            b"GET",
            b" GET /x HTTP/1.1",
        ),
        *(b"GET /x HTTP/0.9", b"GET /x HTTP/2.0", b"GET /x HTTP/1.2", b"GET /x http/1.1", b""),
    ],
)
def test_bad_request_lines_are_refused(start: bytes) -> None:
    with pytest.raises(BadRequest) as error:
        request(start=start)
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (b"", "no Host field"),
        (b"Host: a\r\nhOST: a", "Host field"),
        (b"Host: a\r\nHost:", "Host field"),
        (b"Host:\r\nHost: a", "Host field"),
        (b"Host:\r\nHost:", "Host field"),
        (b"Host: a b", "invalid Host field"),
        (b"Host: u@a", "invalid Host field"),
    ],
)
def test_host_must_be_there_once_and_valid(host: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        request(host=host)


def test_http10_needs_no_host() -> None:
    assert request(start=b"GET / HTTP/1.0", host=b"").host is None


def test_authority_of_the_absolute_form_replaces_host() -> None:
    head = request()
    head.replace_host(b"g:1")
    assert head.host == b"g:1"
    with pytest.raises(BadRequest):
        head.replace_host(b"g:x")


def test_end_to_end_fields_stay_as_they_are() -> None:
    head = request(
        b"A:1", b"b:\t2 ", b"Empty:", b"Hosts: x", b"X-Host: y", b"Content-Length-X: 3", b"A: \xe9"
    )
    assert head.block == (
        b"\r\nA:1\r\nb:\t2 \r\nEmpty:\r\nHosts: x\r\nX-Host: y\r\nContent-Length-X: 3\r\nA: \xe9"
    )


def test_fields_of_the_connection_are_cut_out_wherever_they_stand() -> None:
    head = request(
        *(
            b"TE: x",
            b"A: 1",
            b"Keep-Alive: 5",
            b"KEEP-ALIVE:6",
            b"B: 2",
            b"Proxy-Connection: x",
            b"trailer: X",
        ),
        *(b"Upgrade: x", b"Connection: C", b"C: 3", b"content-length: 0", b"D: 4"),
    )
    assert head.block == b"\r\nA: 1\r\nB: 2\r\nD: 4"


def test_values_of_other_fields_are_not_mistaken_for_names() -> None:
    head = request(b"A: Host: b", b"B: Content-Length: 5", b"C: Connection: close")
    assert (head.host, head.content_length, head.keep_alive) == (b"h", None, True)


@pytest.mark.parametrize(
    ("lines", "length", "chunked", "has_content"),
    [
        ([], None, False, False),
        ([b"Content-Length: 0"], 0, False, False),
        ([b"content-length:5 "], 5, False, True),
        ([b"Transfer-Encoding:  Chunked\t"], None, True, True),
    ],
)
def test_content(lines: list[bytes], length: int | None, chunked: bool, has_content: bool) -> None:
    head = request(*lines)
    assert (head.content_length, head.chunked, head.has_content) == (length, chunked, has_content)
    assert head.block == b""


@pytest.mark.parametrize("value", [b"gzip, chunked", b"identity", b"chunked, chunked", b"x"])
def test_other_transfer_codings_are_not_implemented(value: bytes) -> None:
    with pytest.raises(BadRequest) as error:
        request(b"Transfer-Encoding: " + value)
    assert error.value.status == 501


def test_transfer_encoding_twice_or_in_http10_is_refused() -> None:
    with pytest.raises(BadRequest):
        request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked")
    with pytest.raises(BadRequest):
        request(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0")


@pytest.mark.parametrize(
    ("version", "lines", "keep_alive"),
    [
        ("1.1", [], True),
        ("1.1", [b"Connection: close"], False),
        ("1.1", [b"Connection: x", b"Connection: CLOSE"], False),
        ("1.1", [b"Connection: keep-alive, close"], False),
        ("1.1", [b"Connection: keep-alive"], True),
        ("1.1", [b"Proxy-Connection: close"], True),
        ("1.0", [], False),
        ("1.0", [b"Connection: Keep-Alive"], True),
        ("1.0", [b"Connection: keep-alive, close"], False),
        ("1.0", [b"Keep-Alive: 5"], False),
    ],
)
def test_keep_alive(version: str, lines: list[bytes], keep_alive: bool) -> None:
    assert request(*lines, start=b"GET / HTTP/" + version.encode()).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        ([b"Upgrade: websocket", b"Connection: upgrade"], b"websocket"),
        ([b"Connection: keep-alive, Upgrade", b"upgrade: WebSocket"], b"WebSocket"),
        ([b"Connection: Upgrade", b"Upgrade: a/1", b"Upgrade: b"], b"a/1, b"),
        ([b"Connection: Upgrade", b"Upgrade: h2c, a"], b"a"),
        ([b"Connection: Upgrade", b"Upgrade: H2C"], b""),
        ([b"Connection: Upgrade", b"Upgrade:"], b""),
        ([b"Connection: close", b"Upgrade: a"], b""),
        ([b"Upgrade: a"], b""),
        ([b"Connection: Upgrade"], b""),
        ([b"Connection: Upgrade", b"Upgrade: a", b"Content-Length: 1"], b""),
        ([b"Connection: Upgrade", b"Upgrade: a", b"Transfer-Encoding: chunked"], b""),
        ([b"Connection: Upgrade", b"Upgrade: a", b"Content-Length: 0"], b"a"),
    ],
)
def test_upgrade(lines: list[bytes], upgrade: bytes) -> None:
    head = request(*lines)
    assert head.upgrade == upgrade
    assert head.block == b""


def test_no_upgrade_in_http10() -> None:
    assert request(b"Connection: Upgrade", b"Upgrade: a", start=b"GET / HTTP/1.0").upgrade == b""


def test_x_forwarded_fields_are_kept_aside() -> None:
    head = request(
        b"X-Forwarded-For: a", b"x-forwarded-for: b ", b"X-FORWARDED-HOST: c", b"X-Forwarded-Server: d"
    )
    assert head.forwarded == {b"x-forwarded-for": b"a, b", b"x-forwarded-host": b"c"}
    assert head.block == b"\r\nX-Forwarded-Server: d"
    assert not request().forwarded


# -- Responses --------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.0 404 ", 404, b""),
        (b"HTTP/1.1 299", 299, b""),
        (b"HTTP/1.1 500 a  b \xe9", 500, b"a  b \xe9"),
    ],
)
def test_status_line(start: bytes, status: int, reason: bytes) -> None:
    head = response(start=start)
    assert (head.status, head.reason) == (status, reason)


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 000 X", b"HTTP/1.1 099 X", b"HTTP/2.0 200 OK", b"\nHTTP/1.1 200 OK", b"X"]
)
def test_bad_status_lines_are_refused(start: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        response(start=start)


def test_response_fields() -> None:
    head = response(
        *(b"A: 1", b"Connection: B, close", b"b: 2", b"Keep-Alive: 5", b"Set-Cookie: x", b"set-cookie: y"),
        *(
            b"Trailer: C",
            b"TE: x",
            b"Proxy-Connection: x",
            b"Content-Length: 7",
            b"Upgrade: a",
            b"Content-Type: t",
        ),
    )
    assert head.block == b"\r\nA: 1\r\nSet-Cookie: x\r\nset-cookie: y\r\nContent-Type: t"
    assert (head.content_length, head.upgrade) == (7, b"a")


@pytest.mark.parametrize(
    ("lines", "length", "chunked", "until_close"),
    [
        ([], None, False, True),
        ([b"Content-Length: 0"], 0, False, False),
        ([b"Transfer-Encoding: CHUNKED "], None, True, False),
    ],
)
def test_response_content(lines: list[bytes], length: int | None, chunked: bool, until_close: bool) -> None:
    head = response(*lines)
    assert (head.content_length, head.chunked, head.until_close) == (length, chunked, until_close)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: identity"],
    ],
)
def test_other_transfer_codings_of_a_response_are_refused(lines: list[bytes]) -> None:
    with pytest.raises(ValueError, match="Transfer-Encoding"):
        response(*lines)


REPEATED = b"GET /x HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"


def test_a_repeated_head_means_the_same() -> None:
    head = RequestHead.parse(REPEATED)
    head.forwarded_block = b"made by the handler"
    for target in (b"/y?z", b"/", b"/x"):
        head = head.repeat(REPEATED.replace(b"/x", target))
        assert head is not None
        alike = RequestHead.parse(REPEATED.replace(b"/x", target))
        alike.forwarded_block = b"made by the handler"
        names = [name for name in dir(head) if name[:2] != "__" and not callable(getattr(head, name))]
        assert {"target", "block", "_repeated"} < set(names)
        for name in names:
            assert getattr(head, name) == getattr(alike, name), name


@pytest.mark.parametrize(
    "raw",
    [
        REPEATED.replace(b"GET", b"PUT"),
        REPEATED.replace(b"GET", b"get"),
        REPEATED.replace(b"GET", b" GET"),
        REPEATED.replace(b"Accept", b"accept"),
        REPEATED.replace(b"HTTP/1.1", b"HTTP/1.0"),
        REPEATED[:-2],
        REPEATED + REPEATED,
        b"\r\n" + REPEATED,
        REPEATED.replace(b"/x", b""),
        REPEATED.replace(b"GET /x ", b"GET "),
        REPEATED.replace(b"/x", b"x"),
        REPEATED.replace(b"/x", b"*"),
        REPEATED.replace(b"/x", b"http://other/x"),
        *(REPEATED.replace(b"/x", b"/x" + byte) for byte in (b" ", b"\t", b"\0", b"\x7f", b"\xe9", b"\n")),
        REPEATED.replace(b"/x", b"/x HTTP/1.1\r\nHost: other\r\n\r\nGET /y"),
    ],
)
def test_anything_else_is_no_repeated_head(raw: bytes) -> None:
    assert RequestHead.parse(REPEATED).repeat(raw) is None


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: close",
        b"Connection: Upgrade\r\nUpgrade: x",
        b"Content-Length: 1",
        b"Transfer-Encoding: chunked",
    ],
)
def test_what_changes_a_connection_is_not_repeated(line: bytes) -> None:
    raw = REPEATED.replace(b"Accept: */*", line)
    assert RequestHead.parse(raw).repeat(raw) is None


def test_a_head_whose_host_was_replaced_is_not_repeated() -> None:
    head = RequestHead.parse(REPEATED)
    head.replace_host(b"other")
    assert head.repeat(REPEATED) is None
