"""chp/http1/response.py: whole responses of the proxy itself."""

from __future__ import annotations

import re

import pytest

from chp.http1.response import local_response, reason_phrase


def without_date(response: bytes) -> bytes:
    """Take the Date away; it must be there, in the form of RFC 9110, section 5.6.7."""
    date = rb"\r\nDate: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
    rest, count = re.subn(date, b"", response)
    assert count == 1
    return rest


def test_response_with_content() -> None:
    assert without_date(local_response(404, b"<p>", content_type=b"text/html")) == (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<p>"
    )


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ({"close": True}, b"\r\nConnection: close\r\n\r\nab"),
        ({"keep_alive": True}, b"\r\nConnection: keep-alive\r\n\r\nab"),
        ({"close": True, "keep_alive": True}, b"\r\nConnection: close\r\n\r\nab"),
        ({"head_only": True}, b"\r\n\r\n"),
        ({"head_only": True, "close": True}, b"\r\nConnection: close\r\n\r\n"),
    ],
)
def test_connection_and_head(options: dict[str, bool], end: bytes) -> None:
    response = without_date(local_response(400, b"ab", **options))
    assert response == b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 2" + end


def test_reason_phrases() -> None:
    assert reason_phrase(503) == b"Service Unavailable"
    assert reason_phrase(599) == b""
