"""Strict reading of a response's head, for a transport that does not parse with llhttp."""

from __future__ import annotations

import re

from chp.http1.head import ResponseHead

# RFC 9112, sections 4 and 5, without what section 5.2 deprecates (folded
# lines), and with CRLF as the only end of a line.
_HEAD = re.compile(
    rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*"
    rb"\r\n"
)
_LENGTH = re.compile(rb"[0-9]{1,18}[ \t]*")  # libcurl and llhttp count in 63 and 64 bits
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([^\r]*)", re.IGNORECASE)


def parse_response_head(raw: bytes) -> ResponseHead:
    """Read a head from its first byte to its empty line.

    Raises ValueError for what llhttp refuses: a proxy that lets it pass may
    see other messages in a connection than the next one does.
    """
    if _HEAD.fullmatch(raw) is None:
        raise ValueError("malformed head")
    # int() would take "+5", "5_0" and, from two fields, nothing at all.
    lengths = _CONTENT_LENGTH.findall(raw)
    if len(lengths) > 1 or (lengths and _LENGTH.fullmatch(lengths[0]) is None):
        raise ValueError("invalid Content-Length")
    head = ResponseHead.parse(raw)
    if head.chunked and head.content_length is not None:
        raise ValueError("both Content-Length and Transfer-Encoding")  # RFC 9112, section 6.1
    return head
