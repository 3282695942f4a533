"""What a head means: one search for the field lines that matter to a proxy.

llhttp has parsed the head before and refused it if it was malformed. Here the
lines that are hop-by-hop or frame the message are cut out; the rest goes on
as it came, as one block of bytes.
"""

from __future__ import annotations

import re
from typing import Final

from chp.errors import BadRequest
from chp.http1.fields import END_OF_HEAD, drop_fields, is_valid_host, list_members

_LAST: Final = len(END_OF_HEAD)
_VERSION: Final = len(b"HTTP/1.1")
_VERSIONS: Final = (b"HTTP/1.1", b"HTTP/1.0")
_MAX_LENGTH_DIGITS = 20  # of 2**64
_NEVER_IN_TARGET: Final = re.compile(rb"[^\x21-\x7e]")
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# RFC 9110, section 7.6.1: meant for this connection only. TE and Trailer go as
# well, because trailers are not forwarded (RFC 9110, section 6.5.1).
_HOP_BY_HOP = rb"connection|keep-alive|proxy-connection|te|trailer|transfer-encoding|upgrade"


def _lines(first_letters: bytes, names: bytes) -> re.Pattern[bytes]:
    """Match a line with one of these names; a look at its first letter before saves a quarter of the time."""
    both_cases = first_letters + first_letters.upper()
    return re.compile(rb"\r\n(?=[%b])(%b):[ \t]*([^\r]*)" % (both_cases, names), re.IGNORECASE)


# One split takes 0.5 µs for a browser's head, a callback of llhttp for each line 4 µs.
_CUT_FROM_REQUEST: Final = _lines(
    b"chkptux", _HOP_BY_HOP + rb"|content-length|cdn-loop|host|x-forwarded-(?:for|host|port|proto)"
)
_CUT_FROM_RESPONSE: Final = _lines(b"ckptu", _HOP_BY_HOP + rb"|content-length")
FORWARDED: Final = (b"x-forwarded-for", b"x-forwarded-port", b"x-forwarded-proto", b"x-forwarded-host")
# Options of Connection that name no field.
_PLAIN_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade"})


class RequestHead:
    """A request's head, ready to be routed and forwarded."""

    __slots__ = (
        "_repeated",
        "_repeated_begin",
        "block",
        "cdn_loop",
        "chunked",
        "content_length",
        "forwarded",
        "forwarded_block",
        "has_content",
        "host",
        "http10",
        "keep_alive",
        "method",
        "target",
        "upgrade",
    )

    method: bytes
    target: bytes
    http10: bool
    host: bytes | None
    block: bytes  # the end-to-end fields, without Host, Content-Length, CDN-Loop and X-Forwarded-*
    cdn_loop: bytes  # what proxies have noted in this field; empty if it is not there
    content_length: int | None
    chunked: bool
    has_content: bool
    upgrade: bytes  # protocols that the client would switch to, comma-separated
    keep_alive: bool
    forwarded: dict[bytes, bytes]  # X-Forwarded-*, by name in lower case
    forwarded_block: bytes | None  # for the handler: what it made of the fields
    # What the next head begins and ends with, if this one is repeated but for its target; the
    # end is empty if this one can't be.
    _repeated_begin: bytes  # up to the slash of the path
    _repeated: bytes

    @classmethod
    def parse(cls, raw: bytes) -> RequestHead:
        """Read a head that llhttp has accepted, from its first byte to its empty line.

        Raises :class:`BadRequest` for what llhttp lets pass and a proxy must not.
        """
        head = cls()
        head._read(raw)
        return head

    def repeat(self, raw: bytes) -> RequestHead | None:
        """Return the next head of the same connection, if only its path and query are others.

        ``raw`` is all that was received. Clients repeat their method and fields, and the same
        bytes are accepted and mean the same: neither llhttp nor the search for lines has to look
        at them again. That spares a small request 15 % of its instructions. None: they must.
        """
        end, begin = self._repeated, self._repeated_begin
        if not end or not raw.endswith(end) or not raw.startswith(begin):
            return None
        target = raw[len(begin) - 1 : -len(end)]
        if _NEVER_IN_TARGET.search(target):
            return None
        head = RequestHead()
        head.method = self.method
        head.target = target
        head.http10 = self.http10
        head.block = self.block
        head.host = self.host
        head.content_length = self.content_length
        head.chunked = self.chunked
        head.has_content = False
        head.upgrade = b""
        head.keep_alive = True
        head.forwarded = self.forwarded
        head.cdn_loop = self.cdn_loop
        head.forwarded_block = self.forwarded_block
        head._repeated, head._repeated_begin = end, begin
        return head

    def _read(self, raw: bytes) -> None:
        line = raw[: raw.index(b"\r\n")]
        parts = line.split(b" ")
        # RFC 9112, section 3. llhttp takes several spaces, HTTP/2.0, and HTTP/0.9 before a bare LF.
        if len(parts) != 3 or parts[2] not in _VERSIONS or b"\n" in line:
            raise BadRequest("invalid request line")
        self.method, self.target, _ = parts
        version_and_fields = raw[len(line) - _VERSION :]
        self._read_fields(version_and_fields)
        repeatable = self.keep_alive and not self.upgrade and not self.has_content
        self._repeated = b" " + version_and_fields if repeatable else b""
        self._repeated_begin = self.method + b" /"

    def _read_fields(self, version_and_fields: bytes) -> None:
        self.http10 = version_and_fields.startswith(b"HTTP/1.0")
        self.block, cut = _join(_CUT_FROM_REQUEST.split(version_and_fields[_VERSION:-_LAST]))
        self.host = cut.get(b"host")
        if self.host is None:
            if not self.http10:
                raise BadRequest("no Host field")  # RFC 9112, section 3.2
        elif not is_valid_host(self.host):  # neither is a list of two
            raise BadRequest("invalid Host field")
        length = cut.get(b"content-length")
        if length is not None and len(length) > _MAX_LENGTH_DIGITS:
            raise BadRequest("invalid Content-Length")  # zeros in front
        self.content_length = None if length is None else int(length)
        coding = cut.get(b"transfer-encoding")
        self.chunked = coding is not None and self._is_chunked(coding)
        self.has_content = self.chunked or bool(self.content_length)
        self.upgrade = cut.get(b"upgrade", b"")
        self.keep_alive = not self.http10
        connection = cut.get(b"connection")
        if connection is not None:
            self._apply_connection(list_members(connection))
        elif self.upgrade:
            self.upgrade = b""
        self.forwarded = {name: cut[name] for name in FORWARDED if name in cut}
        self.cdn_loop = cut.get(b"cdn-loop", b"")
        self.forwarded_block = None

    def replace_host(self, authority: bytes) -> None:
        """Let the authority of an absolute-form target win over Host (RFC 9112, section 3.2.2)."""
        if not is_valid_host(authority):
            raise BadRequest("invalid request target")
        self.host = authority
        self.forwarded_block = None
        self._repeated = b""  # the next one has a Host of its own

    def _is_chunked(self, coding: bytes) -> bool:
        # RFC 9112, section 6.1: a coding that is not understood is answered with 501.
        if coding.lower() != b"chunked":
            raise BadRequest("unsupported Transfer-Encoding", 501)
        if self.http10:
            raise BadRequest("Transfer-Encoding in an HTTP/1.0 request")  # RFC 9112, section 6.1
        return True

    def _apply_connection(self, options: list[bytes]) -> None:
        if self.http10:
            self.keep_alive = b"keep-alive" in options
        if b"close" in options:
            self.keep_alive = False
        # RFC 9110, section 7.8: Upgrade counts only when Connection names it and
        # never in HTTP/1.0. A request with content is answered without switching.
        if self.upgrade:
            wanted = b"upgrade" in options and not self.http10 and not self.has_content
            self.upgrade = _without_h2c(self.upgrade) if wanted else b""
        self.block = _drop_nominated(self.block, options)


class ResponseHead:
    """A response's head as it came from an upstream, without its hop-by-hop fields.

    ``content_length`` is None where there is no such field. With ``chunked``
    false and no length, the content ends with the connection.
    """

    __slots__ = ("block", "chunked", "content_length", "reason", "status", "upgrade")

    def __init__(self, status: int, reason: bytes, block: bytes) -> None:
        self.status = status
        self.reason = reason
        self.block = block  # the end-to-end fields, without Content-Length
        self.content_length: int | None = None
        self.chunked = False
        self.upgrade = b""

    @classmethod
    def parse(cls, raw: bytes) -> ResponseHead:
        """Read a head that llhttp has accepted, from its first byte to its empty line.

        Raises ValueError for one that can't be passed on.
        """
        start = raw.index(b"\r\n")
        if not raw.startswith(b"HTTP/1."):
            raise ValueError("invalid status line")
        parts = _CUT_FROM_RESPONSE.split(raw[start:-_LAST])
        reason = raw[13:start] if start > 13 else b""  # it may be missing with its space
        head = cls(int(raw[9:12]), reason, parts[0])
        if head.status < 100:
            raise ValueError("invalid status code")
        if head.reason != b"OK" and _CONTROLS.search(head.reason):
            raise ValueError("invalid reason phrase")
        if len(parts) == 4 and parts[1].lower() == b"content-length":
            # Most responses: only this line is cut out. It spares them 2 % of a small request.
            head.block += parts[3]
            head.content_length = int(parts[2])
        elif len(parts) > 1:
            head._apply(*_join(parts))
        return head

    def _apply(self, block: bytes, cut: dict[bytes, bytes]) -> None:
        """Apply the fields that were cut out of the block."""
        self.block = block
        length, coding = cut.get(b"content-length"), cut.get(b"transfer-encoding")
        if length is not None:
            self.content_length = int(length)
        if coding is not None:
            # No TE was sent, so nothing but chunked is allowed (RFC 9112, section 7.4).
            if coding.lower() != b"chunked":
                raise ValueError("unsupported Transfer-Encoding")
            self.chunked = True
        self.upgrade = cut.get(b"upgrade", b"")
        connection = cut.get(b"connection")
        if connection is not None:
            self.block = _drop_nominated(block, list_members(connection))

    @property
    def until_close(self) -> bool:
        """No length is known: the end of the connection ends the content."""
        return self.content_length is None and not self.chunked


def _join(parts: list[bytes]) -> tuple[bytes, dict[bytes, bytes]]:
    """Put a block that was split together: return what stays, and what goes: values by name in lower case.

    The parts are, turn by turn, lines that stay, and the name and the value of one that is cut out.
    """
    cut: dict[bytes, bytes] = {}
    for at in range(1, len(parts), 3):
        name, value = parts[at].lower(), parts[at + 1].rstrip(b" \t")
        # Several lines are one list (RFC 9110, section 5.3).
        cut[name] = cut[name] + b", " + value if name in cut else value
    return b"".join(parts[::3]), cut


def _drop_nominated(block: bytes, options: list[bytes]) -> bytes:
    """Drop the fields that Connection names.

    Host, Content-Length, CDN-Loop and X-Forwarded-* are not in the block: a
    Connection that names them takes no effect on them.
    """
    names = {option for option in options if option not in _PLAIN_OPTIONS}
    return drop_fields(block, names) if names and block else block


def _without_h2c(protocols: bytes) -> bytes:
    """Drop ``h2c``: RFC 9113, section 3.1 withdrew it, and it would tunnel requests past the routes."""
    kept = [protocol.strip(b" \t") for protocol in protocols.split(b",")]
    return b", ".join([protocol for protocol in kept if protocol and protocol.lower() != b"h2c"])
