"""chp/http1/fields.py: blocks of field lines, and what their parts may be."""

from __future__ import annotations

import pytest

from chp.http1.fields import (
    FieldRemover,
    drop_fields,
    is_token,
    is_valid_host,
    list_members,
    parse_fields,
    write_fields,
)

BLOCK = b"\r\nA: 1\r\nb:2\r\nC:\t x y \t\r\nEmpty:\r\na: 3: 4\r\nObs: \xe9"
FIELDS = [(b"A", b"1"), (b"b", b"2"), (b"C", b"x y"), (b"Empty", b""), (b"a", b"3: 4"), (b"Obs", b"\xe9")]


def test_block_is_parsed_in_order_and_without_outer_white_space() -> None:
    assert parse_fields(BLOCK) == FIELDS
    assert parse_fields(b"") == []


def test_written_block_is_parsed_to_the_same_fields() -> None:
    assert write_fields(FIELDS[:2]) == b"\r\nA: 1\r\nb: 2"
    assert parse_fields(write_fields(FIELDS)) == FIELDS
    assert write_fields([]) == b""


def test_fields_are_dropped_by_name_in_any_case() -> None:
    assert parse_fields(drop_fields(BLOCK, {b"a", b"empty"})) == [FIELDS[1], FIELDS[2], FIELDS[5]]
    assert drop_fields(b"", {b"a"}) == b""


@pytest.mark.parametrize("name", [b"Host", b"!#$%&'*+-.^_`|~09azAZ", b"x"])
def test_token(name: bytes) -> None:
    assert is_token(name)


@pytest.mark.parametrize(
    "name", [b"", b"a b", b"a:", b"a\n", b"\xe9", b"a/b", b"(a)", b'"a"', b"a\0", b"a@b"]
)
def test_no_token(name: bytes) -> None:
    assert not is_token(name)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"h",
        b"h:80",
        b"h:",
        b"1.2.3.4:5",
        b"[::1]",
        b"[::1]:80",
        b"[::ffff:1.2.3.4]",
        b"a_b",
        b"%41",
        b"h.",
    ],
)
def test_valid_host(host: bytes) -> None:
    assert is_valid_host(host)


@pytest.mark.parametrize(
    "host",
    [
        *(b"u@h", b"h/", b"h h", b"h:x", b"h:1:2", b"::1", b"[::1", b"[]", b"[::1]x", b"h\r", b"h\n", b"h?"),
        *(b"h#", b"\xe9", b"<h>", b"h\0", b'"'),
    ],
)
def test_invalid_host(host: bytes) -> None:
    assert not is_valid_host(host)


@pytest.mark.parametrize(
    ("value", "members"),
    [
        (b"", []),
        (b"close", [b"close"]),
        (b" Close ,\tX-Y,, ", [b"close", b"x-y"]),
        (b",,", []),
    ],
)
def test_list_members_in_lower_case(value: bytes, members: list[bytes]) -> None:
    assert list_members(value) == members


def test_removed_lines_leave_the_others_as_they_are() -> None:
    remove = FieldRemover([b"X-a", b"c.d"])
    block = b"\r\nX-A: 1\r\nE:\t2 \r\nx-a:3\r\nB: X-A: 6\r\nx-ab: 7\r\ncxd: 8\r\nC.D:"
    assert remove(block) == b"\r\nE:\t2 \r\nB: X-A: 6\r\nx-ab: 7\r\ncxd: 8"
    assert remove(b"") == b""
