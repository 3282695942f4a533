"""chp/http1/framing.py: where content ends."""

from __future__ import annotations

import pytest

from chp.http1.framing import IDEMPOTENT_METHODS, LAST_CHUNK, chunk, response_has_no_content


@pytest.mark.parametrize(
    ("method", "status", "none"),
    [
        *((b"GET", 200, False), (b"POST", 500, False), (b"GET", 205, False), (b"GET", 206, False)),
        *((b"HEAD", 200, True), (b"HEAD", 404, True), (b"GET", 204, True), (b"PUT", 304, True)),
        *((b"GET", 100, True), (b"GET", 101, True), (b"GET", 199, True)),
    ],
)
def test_responses_without_content(method: bytes, status: int, none: bool) -> None:
    assert response_has_no_content(method, status) is none


def test_chunks() -> None:
    assert chunk(b"abc") == b"3\r\nabc\r\n"
    assert chunk(b"x" * 256).startswith(b"100\r\nx")
    assert LAST_CHUNK == b"0\r\n\r\n"


def test_methods_that_may_be_repeated() -> None:
    assert {b"GET", b"HEAD", b"PUT", b"DELETE"} <= IDEMPOTENT_METHODS
    assert not {b"POST", b"PATCH", b"LOCK"} & IDEMPOTENT_METHODS
