"""Requests out of bytes: llhttp, and the limits and checks that it does not have. No sockets here."""

from __future__ import annotations

import re

import httptools

from chp.errors import BadRequest
from chp.http1.fields import END_OF_HEAD
from chp.http1.head import RequestHead
from chp.sockets import LONG

_END_OF_HEAD = re.compile(END_OF_HEAD)
_EMPTY_LINES = re.compile(rb"\A(?:\r\n)+")


class RequestParser:
    """Parses the requests of one connection, one after another.

    For each request: :meth:`read_head` until it returns a head, then
    :meth:`read_content` until :attr:`complete`, then :meth:`next_request`.
    llhttp never sees a byte beyond the request that it is parsing: it can't
    be stopped at the end of one.

    All methods raise :class:`BadRequest` for what may not be forwarded; after
    that, the parser is of no more use.
    """

    __slots__ = (
        "_chunk_tail",
        "_content",
        "_head_complete",
        "_last_head",
        "_llhttp",
        "_max_field_count",
        "_max_head_size",
        "_max_repeated",
        "_max_request_line",
        "_overhead",
        "_remaining",
        "complete",
        "partial",
        "rest",
    )

    def __init__(self, max_head_size: int, max_request_line: int, max_field_count: int) -> None:
        self.complete = False  # the request has been parsed to its end
        self.rest: bytes | memoryview = b""  # bytes behind what was parsed last
        self.partial = b""  # the beginning of a head
        self._max_head_size = max_head_size
        self._max_request_line = max_request_line
        self._max_repeated = min(max_head_size, max_request_line)
        self._max_field_count = max_field_count
        self._llhttp = httptools.HttpRequestParser(self)
        self._head_complete = False
        self._last_head: RequestHead | None = None
        self._content: list[bytes] = []  # not yet returned
        self._remaining = 0  # bytes of content to come, when there is a Content-Length
        self._chunk_tail = b""  # up to three bytes that may begin an empty line
        self._overhead = 0  # bytes since the last content: chunk extensions, trailers

    def next_request(self) -> None:
        """Forget the request that was parsed."""
        self.complete = self._head_complete = False

    def forget_last_head(self) -> None:
        """Read the next head as if it were the first: what was made of the last one holds no longer."""
        self._last_head = None

    def read_head(self, data: bytes | memoryview) -> RequestHead | None:
        """Parse up to the end of a head; None: it has not come yet. What follows is in ``rest``."""
        if len(data) >= LONG and not self.partial and data[0] not in b"\r\n":
            found = _END_OF_HEAD.search(data)
            if found is not None:
                # Long content is left where it is: 1 MiB of an upload would cost a quarter more.
                head = self._read_new_head(bytes(data[: found.end()]))
                self.rest = data[found.end() :]
                return head
        data = bytes(data)
        if self._last_head is not None and not self.partial and len(data) <= self._max_repeated:
            head = self._last_head.repeat(data)
            if head is not None:
                self._last_head = head
                self.complete = True
                return head
        return self._read_new_head(data)

    def read_content(self, data: bytes | memoryview) -> bytes | memoryview:
        """Parse content up to its end, and return it: a part of ``data``, if that is all the same.

        What follows is in ``rest``.
        """
        if self._remaining:
            # Nothing in it is to be parsed. llhttp would copy it as well, and call twice; a new
            # one for the next request costs less (0.3 µs) than that.
            content = data[: self._remaining]
            self._remaining -= len(content)
            if not self._remaining:
                self.complete = True
                self._llhttp = httptools.HttpRequestParser(self)
                self.rest = bytes(data[len(content) :])
            return content
        self._read_chunks(bytes(data))
        pieces, self._content = self._content, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- llhttp ------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._head_complete:
            # It was given more than one request: the two of us disagree on where the first ends.
            raise BadRequest("ambiguous request")

    def on_headers_complete(self) -> None:
        self._head_complete = True

    def on_body(self, content: bytes) -> None:
        self._content.append(content)

    def on_message_complete(self) -> None:
        self.complete = True

    # -- private -----------------------------------------------------------

    def _read_new_head(self, data: bytes) -> RequestHead | None:
        raw = self.partial + data
        fed = len(self.partial)
        if raw[0] in b"\r\n":
            raw = _EMPTY_LINES.sub(b"", raw, count=1)  # RFC 9112, section 2.2
            if raw in (b"", b"\r"):
                self.partial = raw
                return None
            if raw[0] in b"\r\n":
                raise BadRequest("invalid request line")
            fed = 0
        end = raw.find(END_OF_HEAD, max(fed - 3, 0))
        limit = self._max_request_line + 2  # with its end
        if len(raw) >= limit and raw.find(b"\r\n", 0, limit) < 0:
            # RFC 9112, section 3.
            raise BadRequest("the request's first line is too long", 414, limit="max_request_line")
        if (len(raw) if end < 0 else end) > self._max_head_size:
            raise _too_large("the request's head is too large")
        if end < 0:
            self._feed(raw[fed:])  # at once, so that nonsense is refused without waiting for its end
            self.partial = raw
            return None
        end += len(END_OF_HEAD)
        upgrade = self._feed(raw[fed:end])
        self.partial = b""
        self.rest = raw[end:]
        head = self._last_head = self._make_head(raw[:end])
        if head.chunked:
            self._chunk_tail = b""
            self._overhead = 0
            if upgrade:
                self._skip_upgrade()
        elif head.has_content:
            self._remaining = head.content_length or 0
            self.complete = False  # if an upgrade is asked for too, llhttp leaves the content out
        return head

    def _make_head(self, raw: bytes) -> RequestHead:
        if not self._head_complete:
            raise BadRequest("invalid request")
        limit = self._max_field_count
        # A line has four bytes at least: short heads need no counting.
        if len(raw) > 4 * limit and raw.count(b"\r\n") > limit + 2:
            raise BadRequest("too many field lines", 431, limit="max_field_count")
        head = RequestHead.parse(raw)
        if head.method == b"CONNECT":
            raise BadRequest("CONNECT is not supported", 405)
        return head

    def _skip_upgrade(self) -> None:
        """Go on with the chunks of a request that wants an upgrade as well: llhttp would leave them out."""
        self._llhttp = httptools.HttpRequestParser(self)
        self._head_complete = self.complete = False
        self._llhttp.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked" + END_OF_HEAD)

    def _read_chunks(self, data: bytes) -> None:
        """Parse chunked content. It can end only behind an empty line, so that is how far llhttp may go."""
        view = memoryview(data)
        start = 0
        while start < len(data) and not self.complete:
            end = self._next_empty_line(data, start)
            self._feed(view[start:end])
            self._overhead = 0 if self._content else self._overhead + end - start
            if self._overhead > self._max_head_size:
                raise _too_large("trailers or chunk extensions are too large")
            start = end
        self.rest = data[start:]

    def _next_empty_line(self, data: bytes, start: int) -> int:
        """Return where the next empty line in chunked content ends, else the length of the data."""
        tail = self._chunk_tail
        self._chunk_tail = b""
        if tail:
            found = (tail + data[:3]).find(END_OF_HEAD)
            if found >= 0:
                return found + len(END_OF_HEAD) - len(tail)
        found = data.find(END_OF_HEAD, start)
        if found >= 0:
            return found + len(END_OF_HEAD)
        self._chunk_tail = (tail + data[max(start, len(data) - 3) :])[-3:]
        return len(data)

    def _feed(self, data: bytes | memoryview) -> bool:
        """Let llhttp parse; tell whether the client asks for another protocol."""
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade:
            return True
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, BadRequest):
                raise error.__context__ from None
            raise BadRequest("invalid request") from error
        return False


def _too_large(reason: str) -> BadRequest:
    return BadRequest(reason, 431, limit="max_head_size")  # RFC 6585, section 5
