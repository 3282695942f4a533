"""Reading a response from what libcurl's callbacks bring."""

from __future__ import annotations

import pytest

from chp.upstream.curl_response import ResponseReader


def reader(method: bytes = b"GET", limit: int = 1000) -> ResponseReader:
    return ResponseReader(method, limit)


def feed(it: ResponseReader, head: bytes = b"", *pieces: bytes) -> int:
    it.lines += head.splitlines(keepends=True)
    it.pieces += pieces
    return it.read()


HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = HEAD + b"Content-Length: 5\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def test_a_length() -> None:
    it = reader()
    assert feed(it, LENGTH, b"he") == len(LENGTH) + 2
    assert it.head is not None
    assert not it.complete
    assert feed(it, b"", b"l", b"lo") == 3
    assert it.complete
    assert it.content == [b"he", b"llo"]


def test_chunks_their_extensions_and_trailers() -> None:
    it = reader()
    feed(it, CHUNKED, b"2;a=b\r\nhe\r", b"\n3\r\nllo\r\n0\r\nTrai")
    assert b"".join(it.content) == b"hello"
    assert not it.complete
    feed(it, b"", b"ler: x\r\n\r\n")
    assert it.complete
    assert b"".join(it.content) == b"hello"
    assert not it.last_exchange


@pytest.mark.parametrize("excess", [b"x", b"HTTP/1.1 200 OK\r\n", LENGTH + b"other"])
def test_bytes_behind_the_last_chunk_are_noticed_and_not_content(excess: bytes) -> None:
    it = reader()
    feed(it, CHUNKED, b"5\r\nhello\r\n0\r\n\r\n" + excess)
    assert it.complete
    assert it.last_exchange
    assert it.content == [b"hello"]


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize(
    ("method", "status"), [(b"HEAD", b"200 OK"), (b"GET", b"204 No Content"), (b"GET", b"304 Not Modified")]
)
def test_what_has_no_content_is_complete_with_its_head(method: bytes, status: bytes, framing: bytes) -> None:
    it = reader(method)
    feed(it, b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n")
    assert it.complete
    assert not it.ends_with_connection


def test_the_end_of_the_connection_ends_content_without_a_length() -> None:
    it = reader()
    feed(it, b"HTTP/1.0 200 OK\r\n\r\n", b"hello")
    assert not it.complete
    assert it.ends_with_connection
    assert it.content == [b"hello"]


def test_informational_responses_come_before() -> None:
    it = reader()
    feed(it, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HEAD)
    assert [head.status for head in it.interim] == [100, 103]
    assert it.head is None
    feed(it, b"Content-Length: 0\r\n\r\n")
    assert it.complete


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_whether_it_has_begun(head: bytes) -> None:
    it = reader()
    feed(it, head)
    assert it.begun is bool(head)


@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", ()),
        (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n", ()),
        (b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n", ()),
        (b"nonsense\r\n\r\n", ()),
        (b"", (b"content",)),
        (CHUNKED, (b"x\r\nhello\r\n",)),
        (CHUNKED, (b"5\r\nhelloworld\r\n",)),
        (CHUNKED, (b"-5\r\nhello\r\n",)),
        (CHUNKED, (b"0\r\n" + b"A: b\r\n" * 200,)),
        (CHUNKED, (b"1;" + b"x" * 1001,)),
        (HEAD + b"A: " + b"x" * 1000 + b"\r\n", ()),
        (HEAD + b"A: b\r\n" * 200 + b"\r\n", ()),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 30, ()),
    ],
)
def test_invalid_responses(head: bytes, pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of them
        feed(reader(), head, *pieces)


@pytest.mark.parametrize(
    ("head", "malformed"),
    [
        (b"HTTP/1.1 200 OK\nA: b\n\n", True),
        (b"HTTP/1.1 200 OK\r\nA: b\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n", False),
        (b"", False),
    ],
)
def test_a_head_that_ends_with_bare_line_feeds(head: bytes, malformed: bool) -> None:
    it = reader()
    feed(it, head)
    assert it.malformed is malformed


def test_content_in_between_allows_for_more_chunk_extensions() -> None:
    it = reader()
    feed(it, CHUNKED)
    for _ in range(10):
        feed(it, b"", b"1;" + b"x" * 300 + b"\r\ny\r\n")
    assert it.content == [b"y"] * 10
