"""chp/servers/parser.py: requests one after another; tests/wire sends them over sockets."""

from __future__ import annotations

import pytest

from chp.errors import BadRequest
from chp.http1.head import RequestHead
from chp.servers.parser import RequestParser

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n"


def read(parser: RequestParser, data: bytes) -> RequestHead:
    head = parser.read_head(data)
    assert head is not None
    return head


def parser(limit: int = 1000) -> RequestParser:
    return RequestParser(limit, limit, 100)


def test_repeated_requests_and_others_take_turns() -> None:
    one = parser()
    for data, target in [
        (GET, b"/x"),
        (GET.replace(b"/x", b"/y"), b"/y"),
        (GET.replace(b"\r\n\r\n", b"\r\nA: b\r\n\r\n"), b"/x"),
        (GET, b"/x"),
        (GET, b"/x"),
    ]:
        assert read(one, data).target == target
        assert one.complete
        assert one.rest == b""
        one.next_request()


@pytest.mark.parametrize(
    ("head", "line", "status"), [(40, 100, 431), (1000, 40, 414), (40, 40, 414), (1000, 1000, 0)]
)
def test_a_repeated_request_has_the_same_limits(head: int, line: int, status: int) -> None:
    one = RequestParser(head, line, 100)
    read(one, GET)
    one.next_request()
    longer = GET.replace(b"/x", b"/" + b"x" * 40)
    if not status:
        assert read(one, longer).target == b"/" + b"x" * 40
        return
    with pytest.raises(BadRequest) as error:
        read(one, longer)
    assert error.value.status == status
    assert error.value.limit == ("max_head_size" if status == 431 else "max_request_line")


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_the_first_line_may_be_as_long_as_the_limit(step: int) -> None:
    line = b"GET /%b HTTP/1.1" % (b"x" * 100)
    raw = line + b"\r\nHost: h\r\nX-Long: %b\r\n\r\n" % (b"y" * 500)
    pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
    one = RequestParser(1000, len(line), 100)
    assert [one.read_head(piece) is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    one = RequestParser(1000, len(line) - 1, 100)
    unread = iter(pieces)
    with pytest.raises(BadRequest) as error:
        any(one.read_head(piece) for piece in unread)
    assert error.value.status == 414
    assert step == 1000 or len(b"".join(unread)) > 500  # the end of the head is not waited for


@pytest.mark.parametrize("target", [b"/x y", b"/x\0", b"/\xe9", b"x"])
def test_a_bad_target_behind_a_good_one_is_refused(target: bytes) -> None:
    one = parser()
    read(one, GET)
    one.next_request()
    with pytest.raises(BadRequest):
        read(one, GET.replace(b"/x", target))


def test_content_of_known_length_ends_where_it_says() -> None:
    one = parser()
    for split in range(7):
        head = read(one, POST + b"abcdef"[:split])
        assert head.has_content
        assert not one.complete
        rest, one.rest = one.rest, b""
        content = one.read_content(rest) if rest else b""
        if not one.complete:
            content += one.read_content(memoryview(b"abcdef"[split:] + GET))
            assert one.rest == GET
        assert content == b"abcdef"
        assert one.complete
        one.rest = b""
        one.next_request()
        assert read(one, GET).target == b"/x"
        one.next_request()


def test_content_of_a_request_that_asks_for_an_upgrade_is_content() -> None:
    one = parser()
    upgrade = POST.replace(b"Host: h", b"Host: h\r\nConnection: upgrade\r\nUpgrade: x")
    head = read(one, upgrade)
    assert head.has_content
    assert not head.upgrade
    assert not one.complete
    assert one.read_content(b"abcdef") == b"abcdef"
    assert one.complete
    one.next_request()
    assert read(one, GET).target == b"/x"
