"""Heads of responses that llhttp has not seen."""

import pytest

from chp.http1.strict import parse_response_head


@pytest.mark.parametrize(
    ("raw", "status", "reason", "length", "chunked"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200, b"OK", None, False),
        (b"HTTP/1.0 404\r\nContent-Length: 12 \r\n\r\n", 404, b"", 12, False),
        (b"HTTP/1.1 599 a\tb\xff\r\nTransfer-Encoding: Chunked\r\nX:\r\n\r\n", 599, b"a\tb\xff", None, True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\nLink: <y>\r\n\r\n", 103, b"Early Hints", None, False),
        (b"HTTP/1.1 200 OK\r\nX-Content-Length: x\r\ncontent-length:0\r\n\r\n", 200, b"OK", 0, False),
    ],
)
def test_heads(raw: bytes, status: int, reason: bytes, length: int | None, chunked: bool) -> None:
    head = parse_response_head(raw)
    assert (head.status, head.reason, head.content_length, head.chunked) == (status, reason, length, chunked)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA\0: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\x7f\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nmore",
    ],
)
def test_what_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of them
        parse_response_head(raw)
