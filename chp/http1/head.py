"""What a parsed head means: one pass over its field lines, for requests and for responses.

The parser (llhttp) has split the lines and refused malformed ones. Here they
are sorted: what is hop-by-hop ends at this proxy, what frames the message is
taken out and written anew, the rest goes on as it came, in order.
"""

from __future__ import annotations

from chp.errors import BadRequest
from chp.http1.fields import Field, connection_options, is_valid_host

# RFC 9110, section 7.6.1: fields that are meant for this connection only, and
# what announces trailers, which are not forwarded (RFC 9110, section 6.5.1).
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-port", b"x-forwarded-proto", b"x-forwarded-host"})
_REQUEST_SPECIAL = _HOP_BY_HOP | FORWARDED | {b"host", b"content-length", b"expect"}
_RESPONSE_SPECIAL = _HOP_BY_HOP | {b"content-length", b"location"}
# Connection may not name these: the message would lose its framing or its meaning.
_NOT_NOMINABLE = FORWARDED | {b"host", b"content-length"}


class RequestHead:
    """A request's head, ready to be routed and forwarded.

    ``fields`` holds the end-to-end field lines only; Content-Length stands
    among them, Transfer-Encoding does not.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "expects_continue",
        "fields",
        "forwarded_at",
        "host",
        "host_at",
        "http10",
        "keep_alive",
        "method",
        "target",
        "upgrade",
    )

    def __init__(self, method: bytes, target: bytes, http10: bool, raw_fields: list[Field]) -> None:
        """Sort the field lines.

        Raises :class:`BadRequest` for what llhttp lets pass and a proxy must not.
        """
        self.method = method
        self.target = target
        self.http10 = http10
        self.host: bytes | None = None
        self.host_at = -1  # where Host stands in `fields`
        self.content_length = 0
        self.chunked = False
        self.expects_continue = False
        self.upgrade = b""  # protocols that the client would switch to, comma-separated
        self.forwarded_at: dict[bytes, int] | None = None  # where X-Forwarded-* stand in `fields`
        fields: list[Field] = []
        options: set[bytes] | None = None
        for field in raw_fields:
            name = field[0].lower()
            if name not in _REQUEST_SPECIAL:
                fields.append(field)
            elif name == b"host":
                if self.host_at >= 0:
                    raise BadRequest("more than one Host field")  # RFC 9112, section 3.2
                self.host = field[1]
                self.host_at = len(fields)
                fields.append(field)
            elif name == b"connection":
                options = connection_options(field[1], options)
            elif name == b"content-length":
                self.content_length = int(field[1])
                fields.append((field[0], b"%d" % self.content_length))
            elif name == b"transfer-encoding":
                # RFC 9112, section 6.1: a coding that is not understood is answered with 501.
                if field[1].lower() != b"chunked" or self.chunked:
                    raise BadRequest("unsupported Transfer-Encoding", 501)
                self.chunked = True
            elif name in FORWARDED:
                self._note_forwarded(name, field, fields)
            elif name == b"upgrade":
                self.upgrade = self.upgrade + b", " + field[1] if self.upgrade else field[1]
            elif name == b"expect":
                self.expects_continue = field[1].lower() == b"100-continue"
                fields.append(field)
        self.fields = fields
        if self.host is None:
            if not http10:
                raise BadRequest("no Host field")  # RFC 9112, section 3.2
        elif not is_valid_host(self.host):
            raise BadRequest("invalid Host field")
        if http10 and self.chunked:
            raise BadRequest("Transfer-Encoding in an HTTP/1.0 request")  # RFC 9112, section 6.1
        self.keep_alive = not http10
        if options is not None:
            self._apply_connection(options)
        elif self.upgrade:
            self.upgrade = b""

    @property
    def has_content(self) -> bool:
        return self.chunked or self.content_length > 0

    def replace_host(self, authority: bytes) -> None:
        """Let the authority of an absolute-form target win over Host (RFC 9112, section 3.2.2)."""
        if not is_valid_host(authority):
            raise BadRequest("invalid request target")
        self.host = authority
        if self.host_at >= 0:
            self.fields[self.host_at] = (self.fields[self.host_at][0], authority)

    def _note_forwarded(self, name: bytes, field: Field, fields: list[Field]) -> None:
        """Keep one line for each X-Forwarded field: several lines are one list (RFC 9110, section 5.3)."""
        if self.forwarded_at is None:
            self.forwarded_at = {}
        at = self.forwarded_at.get(name)
        if at is None:
            self.forwarded_at[name] = len(fields)
            fields.append(field)
        else:
            fields[at] = (fields[at][0], fields[at][1] + b", " + field[1])

    def _apply_connection(self, options: set[bytes]) -> None:
        if self.http10:
            self.keep_alive = b"keep-alive" in options
        if b"close" in options:
            self.keep_alive = False
        # RFC 9110, section 7.8: Upgrade counts only when Connection names it and
        # never in HTTP/1.0. A request with content is answered without switching.
        if self.upgrade:
            wanted = b"upgrade" in options and not self.http10 and not self.has_content
            self.upgrade = _without_h2c(self.upgrade) if wanted else b""
        nominated = options - {b"close", b"keep-alive", b"upgrade"} - _NOT_NOMINABLE
        if nominated:
            kept = [field for field in self.fields if field[0].lower() not in nominated]
            if len(kept) != len(self.fields):
                self._reindex(kept)

    def _reindex(self, fields: list[Field]) -> None:
        self.fields = fields
        forwarded: dict[bytes, int] = {}
        for at, field in enumerate(fields):
            name = field[0].lower()
            if name == b"host":
                self.host_at = at
            elif name in FORWARDED:
                forwarded[name] = at
        self.forwarded_at = forwarded or None


class ResponseHead:
    """A response's head as it came from an upstream, without its hop-by-hop fields.

    ``content_length`` is None where there is no such field. With ``chunked``
    false and no length, the content ends with the connection.
    """

    __slots__ = ("chunked", "content_length", "fields", "location_at", "reason", "status", "upgrade")

    def __init__(self, status: int, reason: bytes, raw_fields: list[Field]) -> None:
        """Sort the field lines. Raises ValueError for a head that can't be passed on."""
        self.status = status
        self.reason = reason
        self.content_length: int | None = None
        self.chunked = False
        self.upgrade = b""
        self.location_at = -1  # where Location stands in `fields`
        fields: list[Field] = []
        nominated: set[bytes] | None = None
        for field in raw_fields:
            name = field[0].lower()
            if name not in _RESPONSE_SPECIAL:
                fields.append(field)
            elif name == b"content-length":
                self.content_length = int(field[1])
            elif name == b"transfer-encoding":
                # No TE was sent, so nothing but chunked is allowed (RFC 9112, section 7.4).
                if field[1].lower() != b"chunked" or self.chunked:
                    raise ValueError("unsupported Transfer-Encoding")
                self.chunked = True
            elif name == b"connection":
                nominated = connection_options(field[1], nominated)
            elif name == b"location":
                self.location_at = len(fields)
                fields.append(field)
            elif name == b"upgrade":
                self.upgrade = field[1]
        if nominated:
            nominated -= _NOT_NOMINABLE
            kept = [field for field in fields if field[0].lower() not in nominated]
            if len(kept) != len(fields):
                fields = kept
                self.location_at = next((i for i, f in enumerate(kept) if f[0].lower() == b"location"), -1)
        self.fields = fields

    @property
    def until_close(self) -> bool:
        """No length is known: the end of the connection ends the content."""
        return self.content_length is None and not self.chunked


def _without_h2c(protocols: bytes) -> bytes:
    """Drop ``h2c``: RFC 9113, section 3.1 withdrew it, and it would tunnel requests past the routes."""
    kept = [protocol.strip() for protocol in protocols.split(b",")]
    return b", ".join(protocol for protocol in kept if protocol and protocol.lower() != b"h2c")
