"""chp/http1/forwarded.py: X-Forwarded-*."""

from __future__ import annotations

import pytest

from chp.http1.fields import parse_fields
from chp.http1.forwarded import forwarded_fields, received_fields
from chp.http1.head import RequestHead

Values = dict[bytes, bytes]


def head(*lines: bytes, host: bytes = b"h:81") -> RequestHead:
    return RequestHead.parse(b"\r\n".join([b"GET / HTTP/1.1", b"Host: " + host, *lines, b"", b""]))


def values(block: bytes) -> Values:
    fields = parse_fields(block)
    assert len(dict(fields)) == len(fields)
    return {name.removeprefix(b"X-Forwarded-"): value for name, value in fields}


@pytest.mark.parametrize(
    ("host", "tls", "port"),
    [
        (b"h", False, b"80"),
        (b"h", True, b"443"),
        (b"h:81", True, b"81"),
        (b"h:", True, b"443"),
        (b"[::1]", False, b"80"),
        (b"[::1]:81", False, b"81"),
        (b"[::80]", True, b"443"),
    ],
)
def test_first_proxy(host: bytes, tls: bool, port: bytes) -> None:
    proto = b"https" if tls else b"http"
    expected = {b"For": b"1.2.3.4", b"Port": port, b"Proto": proto, b"Host": host}
    assert values(forwarded_fields(head(host=host), b"1.2.3.4", tls)) == expected


def test_client_on_a_unix_socket_has_no_address() -> None:
    expected = {b"Port": b"81", b"Proto": b"http", b"Host": b"h:81"}
    assert values(forwarded_fields(head(), b"", False)) == expected
    received = forwarded_fields(head(b"X-Forwarded-For: 1.2.3.4"), b"", False)
    assert values(received) == {b"For": b"1.2.3.4", **expected}


def test_no_host() -> None:
    request = RequestHead.parse(b"GET / HTTP/1.0\r\n\r\n")
    assert values(forwarded_fields(request, b"::1", False)) == {
        b"For": b"::1",
        b"Port": b"80",
        b"Proto": b"http",
    }


def test_what_was_received_comes_first() -> None:
    request = head(
        b"X-Forwarded-For: a, b",
        b"x-forwarded-FOR: c",
        b"X-Forwarded-Port: 1",
        b"X-Forwarded-Proto:",
        b"X-Forwarded-Host: outer",
    )
    assert values(forwarded_fields(request, b"::1", True)) == {
        b"For": b"a, b, c,::1",
        b"Port": b"1,81",
        b"Proto": b"https",
        b"Host": b"outer",
    }
    assert values(received_fields(request)) == {
        b"For": b"a, b, c",
        b"Port": b"1",
        b"Proto": b"",
        b"Host": b"outer",
    }


def test_nothing_received() -> None:
    assert received_fields(head()) == b""
