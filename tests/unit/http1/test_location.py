"""chp/http1/location.py: which Locations are the target's own."""

from __future__ import annotations

import pytest

from chp.http1.location import REWRITTEN_STATUSES, rewrite_location


@pytest.mark.parametrize(
    ("location", "target", "rewritten"),
    [
        (b"http://t:81/x", b"t:81", b"https://h:1/x"),
        (b"http://T:81", b"t:81", b"https://h:1"),
        (b"HTTP://t:81?q#f", b"t:81", b"https://h:1?q#f"),
        # The scheme's own port may be written or not.
        (b"http://t/x", b"t", b"https://h:1/x"),
        (b"http://t:80/x", b"t", b"https://h:1/x"),
        (b"https://t:443/x", b"t", b"https://h:1/x"),
        (b"http://[::1]:81/x", b"[::1]:81", b"https://h:1/x"),
        (b"http://[::1]/x", b"[::1]", b"https://h:1/x"),
    ],
)
def test_location_at_the_target(location: bytes, target: bytes, rewritten: bytes) -> None:
    assert rewrite_location(location, target, b"h:1", b"https") == rewritten


@pytest.mark.parametrize(
    "location",
    [
        *(b"", b"/x", b"//t:81/x", b"x", b"ftp://t:81/x", b"http:t:81/x", b"http://t:82/x", b"http://t/x"),
        *(
            b"http://t:81.evil/x",
            b"http://t:811/x",
            b"http://t:81@evil/x",
            b"http://u@t:81/x",
            b"http://t:81:80/x",
        ),
        *(b"https://t:81:443/x", b"http:///x", b"http://", b"http://t:81:x@evil"),
    ],
)
def test_location_elsewhere(location: bytes) -> None:
    assert rewrite_location(location, b"t:81", b"h:1", b"https") == location


def test_host_and_protocol_are_replaced_each_for_itself() -> None:
    assert rewrite_location(b"http://t/x", b"t", b"h", b"") == b"http://h/x"
    assert rewrite_location(b"http://t/x", b"t", None, b"https") == b"https://t/x"
    assert rewrite_location(b"http://t/x", b"t", b"", b"https") == b"https://t/x"
    assert rewrite_location(b"https://t/x", b"t", b"h", b"http") == b"http://h/x"


def test_statuses() -> None:
    assert {201, 301, 302, 303, 307, 308} == REWRITTEN_STATUSES
