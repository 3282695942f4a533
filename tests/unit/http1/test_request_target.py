"""chp/http1/request_target.py: one normal form for routing and forwarding.

tests/wire/test_targets.py shows both; here are the rules behind it.
"""

from __future__ import annotations

import pytest

from chp.errors import BadRequest
from chp.http1.request_target import decode_path, outgoing_target, parse_request_target
from chp.http1.target import Target


@pytest.mark.parametrize(
    ("target", "path", "query", "decoded", "authority"),
    [
        (b"/", b"/", b"", "/", None),
        (b"/a?b?c", b"/a", b"b?c", "/a", None),
        (b"/%41%2f", b"/%41%2f", b"", "/A/", None),
        (b"/%E2%82%AC", b"/%E2%82%AC", b"", "/€", None),
        (b"/%25%32%65", b"/%25%32%65", b"", "/%2e", None),
        (b'/"', b"/%22", b"", '/"', None),
        (b"/a#?b", b"/a", b"", "/a", None),
        (b"http://h:1/a?b#c", b"/a", b"b", "/a", b"h:1"),
        (b"HTTP://h", b"/", b"", "/", b"h"),
    ],
)
def test_normal_form(target: bytes, path: bytes, query: bytes, decoded: str, authority: bytes | None) -> None:
    assert parse_request_target(b"GET", target) == (path, query, decoded, authority)


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        # The examples of RFC 3986, section 5.2.4 and 5.4, as far as they begin with a slash.
        (b"/a/b/c/./../../g", b"/a/g"),
        (b"/./g", b"/g"),
        (b"/../g", b"/g"),
        (b"/g.", b"/g."),
        (b"/.g", b"/.g"),
        (b"/g..", b"/g.."),
        (b"/..g", b"/..g"),
        (b"/b/c/./g/.", b"/b/c/g/"),
        (b"/b/c/g/../h", b"/b/c/h"),
        (b"/.", b"/"),
        (b"/..", b"/"),
        (b"/a/..", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/b/../", b"/a/"),
        # Escaped dots are dots; an empty segment is a segment.
        (b"/a/%2E%2e/b", b"/b"),
        (b"/a/.%2e/b", b"/b"),
        (b"/a/%2E", b"/a/"),
        (b"/a//../b", b"/a/b"),
        (b"//../b", b"/b"),
        (b"/a/%2e%2e%2e", b"/a/%2e%2e%2e"),
    ],
)
def test_dot_segments_are_removed(path: bytes, normal: bytes) -> None:
    requested = parse_request_target(b"GET", path)
    assert requested.path == normal
    # It is a normal form: nothing is left to do.
    assert parse_request_target(b"GET", requested.path) == requested


@pytest.mark.parametrize(
    "path", [b"/%", b"/%4", b"/%4x", b"/%%41", b"/a/%g0", b"/%ff", b"/%c3", b"/%ED%A0%80"]
)
def test_bad_escapes_in_the_path_are_refused(path: bytes) -> None:
    with pytest.raises(BadRequest) as error:
        parse_request_target(b"GET", path)
    assert error.value.status == 400
    with pytest.raises(BadRequest):
        decode_path(path)


@pytest.mark.parametrize(
    "target", [b"*", b"a", b"h:1", b"", b"?a", b"http:/h", b"http://", b"http://u@h/", b"ws://h/"]
)
def test_other_forms_are_refused(target: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_request_target(b"GET", target)


def test_asterisk_is_for_options_alone() -> None:
    assert parse_request_target(b"OPTIONS", b"*") == (b"*", b"", "/", None)
    for method in (b"GET", b"options"):
        with pytest.raises(BadRequest):
            parse_request_target(method, b"*")


@pytest.mark.parametrize(
    ("path", "segments", "left"),
    [
        (b"/a/b", 0, b"/a/b"),
        (b"/a/b", 1, b"/b"),
        (b"/a/b", 2, b"/"),
        (b"/a/", 1, b"/"),
        (b"/a%2Fb%2fc/d", 2, b"/c/d"),
        (b"/a//b", 1, b"//b"),
        (b"//a", 1, b"/a"),
    ],
)
def test_prefix_is_cut_by_segments(path: bytes, segments: int, left: bytes) -> None:
    requested = parse_request_target(b"GET", path)
    target = Target.parse("http://h")
    assert outgoing_target(requested, target, cut_segments=segments) == left
    assert outgoing_target(requested, None, cut_segments=segments) == left


def test_asterisk_gets_no_path() -> None:
    requested = parse_request_target(b"OPTIONS", b"*")
    target = Target.parse("http://h/foo?q")
    assert outgoing_target(requested, target, cut_segments=1) == b"*"
