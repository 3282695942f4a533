"""chp/servers/proxy_protocol.py: headers, whole and in pieces, and what is none."""

from __future__ import annotations

import socket
import struct

import pytest

from chp.servers.proxy_protocol import missing, source

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, family: int, rest: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(rest)) + rest


def addresses(client: str) -> bytes:
    """A client's address, the proxy's, and two ports."""
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    own = "::1" if ":" in client else "10.0.0.1"
    return socket.inet_pton(family, client) + socket.inet_pton(family, own) + struct.pack("!HH", 5678, 443)


TLV = b"\x02\x00\x04name\x05\x00\x00"
LONG_V1 = b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n"

HEADERS = [
    (b"PROXY TCP4 203.0.113.7 10.0.0.1 5678 443\r\n", b"203.0.113.7"),
    (b"PROXY TCP4 1.1.1.1 1.1.1.1 0 0\r\n", b"1.1.1.1"),
    (b"PROXY TCP6 2001:db8:0::7 ::1 5678 443\r\n", b"2001:db8::7"),
    (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 5678 443\r\n", b"203.0.113.7"),
    (LONG_V1, b"ffff:" * 7 + b"ffff"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n", None),
    (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None),
    (v2(0x21, 0x11, addresses("203.0.113.7")), b"203.0.113.7"),
    (v2(0x21, 0x11, addresses("203.0.113.7") + TLV), b"203.0.113.7"),
    (v2(0x21, 0x21, addresses("2001:db8::7")), b"2001:db8::7"),
    (v2(0x21, 0x21, addresses("::ffff:203.0.113.7") + TLV), b"203.0.113.7"),
    (v2(0x21, 0x11, addresses("203.0.113.7") + bytes(4096 - 16 - 12)), b"203.0.113.7"),
    (v2(0x20, 0x00, b""), None),
    (v2(0x20, 0x11, addresses("203.0.113.7")), None),
    (v2(0x21, 0x00, b""), None),
    (v2(0x21, 0x00, TLV), None),
    (v2(0x21, 0x31, bytes(216)), None),
    (v2(0x21, 0x12, addresses("203.0.113.7")), None),
]


@pytest.mark.parametrize(("header", "client"), HEADERS)
def test_headers(header: bytes, client: bytes | None) -> None:
    assert missing(header) == 0
    assert source(header) == client


@pytest.mark.parametrize("header", [header for header, _ in HEADERS])
def test_no_byte_behind_a_header_is_asked_for(header: bytes) -> None:
    for size in range(len(header)):
        assert 0 < missing(header[:size]) <= len(header) - size, size


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 203.0.113.7 10.0.0.1 5678\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 5678 443 1\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 5678 65536\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 70000 443\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 -1 443\r\n",
        b"PROXY TCP4 203.0.113.256 10.0.0.1 5678 443\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0 5678 443\r\n",
        b"PROXY TCP4  203.0.113.7 10.0.0.1 5678 443\r\n",
        b"PROXY TCP4 ::1 ::1 5678 443\r\n",
        b"PROXY TCP6 1.1.1.1 1.1.1.1 5678 443\r\n",
        b"PROXY TCP5 1.1.1.1 1.1.1.1 5678 443\r\n",
        b"PROXY UDP4 1.1.1.1 1.1.1.1 5678 443\r\n",
        b"PROXY UNKNOWNx\r\n",
        b"PROXY tcp4 1.1.1.1 1.1.1.1 5678 443\r\n",
        v2(0x21, 0x11, addresses("203.0.113.7")[:-1]),
        v2(0x21, 0x21, addresses("203.0.113.7")),
        v2(0x21, 0x11, b""),
    ],
)
def test_complete_headers_that_are_invalid(header: bytes) -> None:
    assert missing(header) == 0
    with pytest.raises(ValueError, match=r"^invalid PROXY header$"):
        source(header)


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        (b"G", "no PROXY header"),
        (b"GET / HTTP/1.1\r", "no PROXY header"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "no PROXY header"),
        (b"proxy TCP4 ", "no PROXY header"),
        (b"PROXYTCP4 ", "no PROXY header"),
        (b"\r\n\r\nGET", "no PROXY header"),
        (SIGNATURE[:-1] + b"\r", "no PROXY header"),
        (b"PROXY TCP4 1.1.1.1\n", "invalid PROXY header"),
        (b"PROXY\r\n", "no PROXY header"),
        (b"PROXY X\r\nGET / H", "invalid PROXY header"),
        (b"PROXY UNKNOWN " + b"x" * 93, "the PROXY header is too long"),
        (b"PROXY UNKNOWN " + b"x" * 92 + b"\r", "the PROXY header is too long"),
        (SIGNATURE + b"\x11\x11\0\x0c", "invalid PROXY header"),
        (SIGNATURE + b"\x31\x11\0\x0c", "invalid PROXY header"),
        (SIGNATURE + b"\x22\x11\0\x0c", "invalid PROXY header"),
        (SIGNATURE + b"\x21\x41\0\x0c", "invalid PROXY header"),
        (SIGNATURE + b"\x21\x13\0\x0c", "invalid PROXY header"),
        (SIGNATURE + b"\x21\x11\x0f\xf1", "the PROXY header is too long"),
        (SIGNATURE + b"\x21\x11\xff\xff", "the PROXY header is too long"),
    ],
)
def test_what_can_not_become_a_header(begin: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        missing(begin)
