"""What libcurl received, as heads and content: the framing is read here, not by libcurl."""

from __future__ import annotations

import httptools

from chp.http1.fields import END_OF_HEAD
from chp.http1.framing import response_has_no_content
from chp.http1.head import ResponseHead
from chp.http1.strict import parse_response_head

_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class ResponseReader:
    """Reads one response: callbacks append to ``lines`` and ``pieces``, :meth:`read` makes sense of them.

    libcurl passes chunked content on as it came (``HTTP_TRANSFER_DECODING``
    is off), so that llhttp judges it as it does for the direct upstream, and
    so that the end of a response is known even while libcurl still sends.
    """

    __slots__ = (
        "_limit",
        "_method",
        "_overhead",
        "_parser",
        "_partial",
        "_remaining",
        "complete",
        "content",
        "head",
        "interim",
        "last_exchange",
        "lines",
        "pieces",
    )

    def __init__(self, method: bytes, limit: int) -> None:
        self.lines: list[bytes] = []  # of heads, each with its end
        self.pieces: list[bytes] = []  # of content, still framed
        self.interim: list[ResponseHead] = []
        self.head: ResponseHead | None = None
        self.content: list[bytes] = []  # unframed
        self.complete = False
        # No other request may use the connection: bytes came behind the last chunk, or
        # libcurl would speak HTTP/1.0 from now on, which has no chunks.
        self.last_exchange = False
        self._method = method
        self._limit = limit  # bytes of a head, or of chunk extensions and trailers without content
        self._partial = b""  # the beginning of a head
        self._overhead = 0
        self._remaining = -1  # bytes of content to come, when there is a Content-Length
        self._parser: httptools.HttpResponseParser | None = None  # of chunked content

    def read(self) -> int:
        """Turn lines into heads and pieces into content; return the number of their bytes.

        Raises ValueError for an invalid response.
        """
        size = self._read_lines() if self.lines else 0
        if self.pieces:
            data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
            self.pieces.clear()
            size += len(data)
            if self.head is None:
                raise ValueError("content without a head")
            if self._parser is not None:
                self._read_chunks(data)
            else:
                self._read_content(data)
        return size

    @property
    def begun(self) -> bool:
        """A byte of the response came."""
        return bool(self._partial or self._overhead or self.head)

    @property
    def malformed(self) -> bool:
        """The lines so far are a head to libcurl, which takes bare LF as the end of a line."""
        return self._partial.endswith((b"\n\n", b"\n\r\n"))

    @property
    def ends_with_connection(self) -> bool:
        return self.head is not None and self.head.until_close and not self.complete

    def on_message_begin(self) -> None:
        """Called by llhttp."""
        if self.complete:
            self.last_exchange = True

    def on_body(self, content: bytes) -> None:
        """Called by llhttp."""
        if not self.complete:
            self.content.append(content)

    def on_message_complete(self) -> None:
        """Called by llhttp."""
        self.complete = True

    # -- private -----------------------------------------------------------

    def _read_lines(self) -> int:
        fresh = b"".join(self.lines)
        self.lines.clear()
        data = self._partial + fresh
        while self.head is None:
            end = data.find(END_OF_HEAD) + len(END_OF_HEAD)
            if end < len(END_OF_HEAD):
                break
            self._add_overhead(end)
            self._read_head(data[:end])
            data = data[end:]
        self._partial = data if self.head is None else b""
        if self._overhead + len(self._partial) > self._limit:
            raise ValueError("head too large")
        return len(fresh)

    def _read_head(self, raw: bytes) -> None:
        head = parse_response_head(raw)
        if head.status == 101:
            raise ValueError("101 that nobody asked for")
        if head.status < 200:
            # RFC 9110, section 15.2: the final response is yet to come, and this one has no content.
            if head.chunked or head.content_length:
                raise ValueError("content in a 1xx response")
            self.interim.append(head)
            return
        self._overhead = 0
        self.head = head
        if raw.startswith(b"HTTP/1.0"):
            self.last_exchange = b"keep-alive" in raw.lower()
        if response_has_no_content(self._method, head.status) or head.content_length == 0:
            self.complete = True
        elif head.chunked:
            self._parser = httptools.HttpResponseParser(self)
            self._parser.feed_data(_CHUNKED_HEAD)
        elif head.content_length is not None:
            self._remaining = head.content_length

    def _read_content(self, data: bytes) -> None:
        self.content.append(data)
        if self._remaining >= 0:
            self._remaining -= len(data)
            self.complete = self._remaining <= 0

    def _read_chunks(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise ValueError(str(error)) from None
            self.last_exchange = True
        if self.content:
            self._overhead = 0
        else:
            self._add_overhead(len(data))

    def _add_overhead(self, size: int) -> None:
        self._overhead += size
        if self._overhead > self._limit:
            raise ValueError("heads, chunk extensions or trailers too large")
