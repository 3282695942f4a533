"""The PROXY protocol: a load balancer that passes on bytes says before the first of them whose they are.

Versions 1 (text) and 2 (binary) of https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. Not a byte
behind the header is read: what follows may be a TLS handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from ipaddress import IPv4Address, IPv6Address

from chp.http1.trust import unmapped

_V1_START = b"PROXY "
_V1_SHORTEST, _V1_LONGEST = len(b"PROXY UNKNOWN\r\n"), 107  # section 2.1
_V1_LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]{1,5}) ([0-9]{1,5})\r\n")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")
_V2_START = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = 16  # section 2.2: what comes before addresses and TLVs
# Addresses take up to 216 bytes, TLVs as much as a certificate; nginx has the same limit.
_V2_LONGEST = 4096
_LOCAL, _PROXY = 0x20, 0x21  # version and command
_TCP4, _TCP6 = 0x11, 0x21  # family and transport
_TCP4_SIZE, _TCP6_SIZE = 12, 36  # two addresses and two ports


async def receive_header(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes | None:
    """Read a header from a socket that does not block; return the client's address as text.

    None: it says nothing of a client, and the peer speaks for itself. Raises ValueError for what is no
    header, and OSError.
    """
    header = b""
    while count := missing(header):
        try:
            data = sock.recv(count)
        except BlockingIOError:
            await _readable(loop, sock)
            continue
        if not data:
            raise ValueError("closed before the end of the PROXY header")
        header += data
    return source(header)


def missing(header: bytes) -> int:
    """Return how many bytes may be read next that belong to the header for sure; 0: it is complete.

    Raises ValueError as soon as it can't become one.
    """
    size = len(header)
    if header[: len(_V2_START)] == _V2_START[:size]:
        if size < _V2_FIXED:
            return (_V1_SHORTEST if size == 0 else _V2_FIXED) - size
        if header[12] not in (_LOCAL, _PROXY) or header[13] >> 4 > 3 or header[13] & 0xF > 2:
            raise ValueError("invalid PROXY header")
        end = _V2_FIXED + int.from_bytes(header[14:16], "big")
        if end > _V2_LONGEST:
            raise ValueError("the PROXY header is too long")
        return end - size
    if header[: len(_V1_START)] != _V1_START[:size]:
        raise ValueError("no PROXY header")
    if b"\n" in header:
        if not header.endswith(b"\r\n"):
            raise ValueError("invalid PROXY header")
        return 0
    if size < _V1_SHORTEST:
        return _V1_SHORTEST - size
    if size >= _V1_LONGEST:
        raise ValueError("the PROXY header is too long")
    # The line feed is one byte away if the carriage return is there, and two if not.
    return 1 if header.endswith(b"\r") else min(2, _V1_LONGEST - size)


def source(header: bytes) -> bytes | None:
    """Return the client's IP address out of a complete header; None: there is none in it.

    Raises ValueError for an invalid one.
    """
    if header.startswith(_V1_START):
        return _v1_source(header)
    command, family, addresses = header[12], header[13], header[_V2_FIXED:]
    if command == _LOCAL:  # a health check of the load balancer itself
        return None
    address: IPv4Address | IPv6Address
    if family == _TCP4 and len(addresses) >= _TCP4_SIZE:
        address = IPv4Address(addresses[:4])
    elif family == _TCP6 and len(addresses) >= _TCP6_SIZE:
        address = IPv6Address(addresses[:16])
    elif family in (_TCP4, _TCP6):
        raise ValueError("invalid PROXY header")
    else:
        return None  # unspecified, unix sockets, datagrams
    return str(unmapped(address)).encode()


def _v1_source(line: bytes) -> bytes | None:
    if _V1_UNKNOWN.fullmatch(line):
        return None
    match = _V1_LINE.fullmatch(line)
    if match is None or int(match[4]) > 65535 or int(match[5]) > 65535:
        raise ValueError("invalid PROXY header")
    parse = IPv4Address if match[1] == b"4" else IPv6Address
    try:
        parse(match[3].decode())
        return str(unmapped(parse(match[2].decode()))).encode()
    except ValueError:
        raise ValueError("invalid PROXY header") from None


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready = loop.create_future()

    def set_ready() -> None:
        with contextlib.suppress(asyncio.InvalidStateError):
            ready.set_result(None)

    loop.add_reader(sock, set_ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
