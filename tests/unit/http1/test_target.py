"""chp/http1/target.py: target URLs."""

from __future__ import annotations

import pytest

from chp.errors import InvalidTarget
from chp.http1.target import Origin, Target


@pytest.mark.parametrize(
    ("url", "origin", "host_field", "base_path", "query"),
    [
        ("http://h", ("http", "h", 80), b"h", b"/", b""),
        ("http://H:8000/", ("http", "h", 8000), b"h:8000", b"/", b""),
        ("HTTP://h:80/a/b?c=d#e", ("http", "h", 80), b"h", b"/a/b", b"c=d"),
        ("https://h", ("https", "h", 443), b"h", b"/", b""),
        ("https://h:80", ("https", "h", 80), b"h:80", b"/", b""),
        ("http://h:?q", ("http", "h", 80), b"h", b"/", b"q"),
        ("http://[::1]:81/x", ("http", "::1", 81), b"[::1]:81", b"/x", b""),
        ("http://[FE80::1]", ("http", "fe80::1", 80), b"[fe80::1]", b"/", b""),
        ("http://bücher.example", ("http", "xn--bcher-kva.example", 80), b"xn--bcher-kva.example", b"/", b""),
        # Escapes stay as they are; what may not stand there is escaped.
        ("http://h/%2f%41~é?é'", ("http", "h", 80), b"h", b"/%2f%41~%C3%A9", b"%C3%A9'"),
        ("http://h/a//b/../c", ("http", "h", 80), b"h", b"/a//b/../c", b""),
        ("http+unix://%2Frun%2Fa.sock/x?y", ("unix", "/run/a.sock", 0), b"localhost", b"/x", b"y"),
        ("unix+http://%2frun%2fA", ("unix", "/run/A", 0), b"localhost", b"/", b""),
    ],
)
def test_parts_of_a_target(
    url: str, origin: tuple[str, str, int], host_field: bytes, base_path: bytes, query: bytes
) -> None:
    target = Target.parse(url)
    assert target.url == url
    assert target.origin == origin
    assert (target.host_field, target.base_path, target.query) == (host_field, base_path, query)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "h",
            "h:80",
            "/x",
            "//h/x",
            "http:",
            "http://",
            "http:///x",
            "http:/h",
            "http//h",
            "javascript:x",
        ),
        *("ftp://h", "ws://h", "file:///x", "unix://%2Fa", "http+unix:///x", "http+unix://%00", "http://u@h"),
        *(
            "http://u:p@h",
            "http://h:x",
            "http://h:0",
            "http://h:65536",
            "http://h:-1",
            "http://h:1:2",
            "http://::1",
        ),
        *(
            "http://[::1",
            "http://[x]",
            "http://h /",
            "http://h/a b",
            "http://h/\n",
            "http://h\r\nX: y",
            "http://h\0",
        ),
        *(" http://h", "http://h ", "http://h\\x", "http://" + "a" * 64 + "é"),
    ],
)
def test_what_is_no_target(url: str) -> None:
    with pytest.raises(InvalidTarget):
        Target.parse(url)


def test_error_text_holds_no_password() -> None:
    with pytest.raises(InvalidTarget) as error:
        Target.parse("http://user:secret@h")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("origin", "text", "tls"),
    [
        (Origin("http", "h", 80), "http://h:80", False),
        (Origin("https", "::1", 8443), "https://[::1]:8443", True),
        (Origin("unix", "/run/a", 0), "unix:/run/a", False),
    ],
)
def test_origin_as_text(origin: Origin, text: str, tls: bool) -> None:
    assert (str(origin), origin.tls) == (text, tls)
