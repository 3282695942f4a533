"""Field lines (RFC 9112, section 5), as blocks and as pairs.

A *block* is a run of field lines as they stand in a head, each begun by the
CRLF that ends the line before: ``b"\\r\\nAccept: */*\\r\\nCookie: a=b"``. Heads
are forwarded as blocks: cutting a few lines out of one costs a tenth of
splitting it into pairs and joining them again.

A *field* is a ``(name, value)`` pair of bytes.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from functools import lru_cache
from typing import Final

Field = tuple[bytes, bytes]

END_OF_HEAD: Final = b"\r\n\r\n"

# llhttp has made sure that a line is a token, a colon and a value without CR or LF.
_LINE = re.compile(rb"\r\n([^:\r]+):[ \t]*([^\r]*)")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 3986, section 3.2.2: reg-name with escapes, IPv4, or an IP literal, and a port.
_MAX_HOST = 512  # a name of the DNS has 253 bytes, a socket's path with escapes may have twice as many
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-fv:.%]+\])(?::[0-9]*)?")


def parse_fields(block: bytes) -> list[Field]:
    """Split a block into fields; outer white space of values is not part of them."""
    return [(name, value.rstrip(b" \t")) for name, value in _LINE.findall(block)]


def write_fields(fields: Iterable[Field]) -> bytes:
    """Make a block of fields."""
    return b"".join([b"\r\n%b: %b" % field for field in fields])


def drop_fields(block: bytes, names: Container[bytes]) -> bytes:
    """Return a block without the fields that have one of these names (lower case)."""
    return write_fields([field for field in parse_fields(block) if field[0].lower() not in names])


class FieldRemover:
    """Takes the lines with certain names out of a block; every other line stays as it is."""

    __slots__ = ("_lines",)

    def __init__(self, names: Iterable[bytes]) -> None:
        """``names`` in any case."""
        self._lines = re.compile(rb"\r\n(?:" + b"|".join(map(re.escape, names)) + rb"):[^\r]*", re.IGNORECASE)

    def __call__(self, block: bytes) -> bytes:
        return self._lines.sub(b"", block)


def is_token(name: bytes) -> bool:
    """Tell whether this may be a field name (RFC 9110, section 5.6.2)."""
    return _TOKEN.fullmatch(name) is not None


def is_valid_host(host: bytes) -> bool:
    """Tell whether this may be the value of Host (RFC 9112, section 3.2); it may be empty."""
    return len(host) <= _MAX_HOST and _matches_host(host)


@lru_cache(maxsize=1024)  # most requests have one of a few hosts
def _matches_host(host: bytes) -> bool:
    return _HOST.fullmatch(host) is not None


def list_members(value: bytes) -> list[bytes]:
    """Return the members of a comma-separated list in lower case (RFC 9110, section 5.6.1)."""
    return [member for part in value.lower().split(b",") if (member := part.strip(b" \t"))]
