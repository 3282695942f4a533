"""A connection of the direct upstream: responses are parsed here."""

from __future__ import annotations

import asyncio
import os
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

import httptools

from chp.errors import UpstreamError
from chp.http1.fields import END_OF_HEAD
from chp.http1.head import ResponseHead
from chp.http1.target import Origin
from chp.runtime import NEVER
from chp.sockets import bare_descriptor, probe_silent_peer, write_through

if TYPE_CHECKING:
    from chp.upstream.direct import DirectStream, DirectUpstream

_LAST: Final = len(END_OF_HEAD)


class UpstreamConnection(asyncio.BufferedProtocol):
    """One connection to an origin. It carries one exchange at a time."""

    __slots__ = (
        "_complete",
        "_descriptor",
        "_excess",
        "_head",
        "_head_complete",
        "_head_sent",
        "_interim",
        "_metrics",
        "_overhead",
        "_parser",
        "_partial",
        "_pieces",
        "_reading_paused",
        "_received",
        "_remaining",
        "_reusable",
        "_reused",
        "_runtime",
        "_settings",
        "_stream",
        "_switching",
        "_timeout",
        "_transport",
        "_upstream",
        "deadline",
        "last_exchange",
        "origin",
        "write_paused",
    )

    def __init__(self, upstream: DirectUpstream, origin: Origin) -> None:
        self.origin = origin
        self.deadline = NEVER
        self.write_paused = False
        self.last_exchange = False  # its origin is no longer wanted: not for the pool
        self._upstream = upstream
        self._runtime = upstream.runtime
        self._metrics = upstream.runtime.metrics
        self._timeout = upstream.settings.upstream_timeout
        self._settings = upstream.settings
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made
        self._descriptor = -1
        self._stream: DirectStream | None = None
        self._reused = False
        self._reading_paused = False
        self._parser = httptools.HttpResponseParser(self)
        self._switching = False  # a 101 came
        # Of the response:
        self._received = False  # any byte of it
        self._partial = b""  # the beginning of a head
        self._interim: list[ResponseHead] = []
        self._head: ResponseHead | None = None
        self._head_complete = False
        self._head_sent = False
        self._reusable = False
        self._pieces: list[bytes | memoryview] = []  # content, not yet passed on
        self._complete = False
        self._excess = False  # bytes came that belong to no exchange
        self._remaining = 0  # bytes to come of content that llhttp does not see
        self._overhead = 0  # bytes since the last content: heads, chunk extensions, trailers

    # -- for streams -------------------------------------------------------

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    def start(self, stream: DirectStream, data: bytes, content: bytes | memoryview = b"") -> None:
        """Begin an exchange by writing the first bytes of its request, with long content apart."""
        self._stream = stream
        self.deadline = NEVER
        self._metrics.upstream_bytes_sent += len(data) + len(content)
        write_through(self._transport, self._descriptor, data, content)
        if self._timeout is not None:
            self._watch()

    def write(self, data: bytes | memoryview) -> None:
        self._metrics.upstream_bytes_sent += len(data)
        write_through(self._transport, self._descriptor, b"", data)
        if self._timeout is not None:
            self._watch()

    def pause_reading(self) -> None:
        if not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()
            self._watch()

    def resume_reading(self) -> None:
        if self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()
            self._watch()

    def abort(self) -> None:
        """Close at once, without a word to anybody."""
        self._stream = None
        self._transport.abort()

    def retire(self) -> None:
        """Close an idle connection."""
        self._transport.close()

    def deadline_passed(self) -> None:
        self.deadline = NEVER
        if self._stream is None:
            self.retire()
        else:
            self._fail("timeout", "no answer in time")

    # -- asyncio -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._descriptor = bare_descriptor(transport)
        probe_silent_peer(transport.get_extra_info("socket"))
        self._transport.set_write_buffer_limits(self._settings.write_buffer_high)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._runtime.view

    def buffer_updated(self, nbytes: int) -> None:
        self._metrics.upstream_bytes_received += nbytes
        if self._stream is None:
            # A response that nobody asked for must not answer the next request.
            self._transport.abort()
            return
        self._parse(nbytes)

    def eof_received(self) -> None:
        # Acted on at once: asyncio would first wait until the upstream has
        # taken what is still written, and it may never do so.
        self.connection_ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.gone(self)
        if exc is not None and self._stream is not None:
            self._read_rest()
        self.connection_ended(exc)

    def pause_writing(self) -> None:
        self.write_paused = True
        if self._stream is not None:
            self._stream.receiver.pause_request()
            self._watch()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._stream is not None:
            self._stream.receiver.resume_request()
            self._watch()

    # -- llhttp ------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            self._excess = True

    def on_headers_complete(self) -> None:
        self._head_complete = True
        self._reusable = self._parser.should_keep_alive()

    def on_body(self, content: bytes) -> None:
        if self._complete:
            self._excess = True
        else:
            self._pieces.append(content)

    def on_message_complete(self) -> None:
        self._complete = True

    # -- private -----------------------------------------------------------

    def _parse(self, nbytes: int) -> None:
        """Parse what was received into the shared buffer."""
        self._received = True
        start = 0
        try:
            while self._head is None and start < nbytes:
                start = self._parse_head(start, nbytes)
            if self._switching:
                self._switch_protocols(bytes(self._runtime.view[start:nbytes]))
                return
            if self._remaining:
                start = self._take_content(start, nbytes)
            if start < nbytes:
                self._parser.feed_data(self._runtime.view[start:nbytes])
        except httptools.HttpParserUpgrade:
            self._excess = True  # a 101 behind the response
        except (httptools.HttpParserError, ValueError) as error:
            if not self._complete or self._head is None:  # llhttp takes some heads for whole messages
                self._fail("invalid_response", f"invalid response: {error}")
                return
            self._excess = True
        if self._head is not None and (self._pieces or self._complete):
            self._overhead = 0
        else:
            self._overhead += nbytes
            if self._overhead > self._settings.max_head_size:
                self._fail("invalid_response", "invalid response: head or trailers too large")
                return
        self._deliver()

    def _parse_head(self, start: int, nbytes: int) -> int:
        """Parse a head, or a part of one; return where the next begins in the buffer."""
        known = self._partial
        if known:
            # Its end may have begun in the read before.
            both = known + bytes(self._runtime.view[start:nbytes])
            found = both.find(END_OF_HEAD, max(len(known) - 3, 0))
            offset = start - len(known)
        else:
            found, offset = self._runtime.buffer.find(END_OF_HEAD, start, nbytes), 0
        end = nbytes if found < 0 else found + offset + _LAST
        fresh = bytes(self._runtime.view[start:end])
        try:
            self._parser.feed_data(fresh)
        except httptools.HttpParserUpgrade:
            self._switching = True
        if self._head_complete:
            self._partial = b""
            self._read_head(known + fresh, nbytes - end)
        else:
            self._partial = known + fresh
        return end

    def _take_content(self, start: int, nbytes: int) -> int:
        """Take long content of a known length out of the buffer; return where it ends.

        Nothing in it is to be parsed: llhttp would only copy it as well, and call back for each read.
        The next response needs a new parser then, which costs more (0.5 µs) than content that came
        with its head.
        """
        end = min(nbytes, start + self._remaining)
        if end > start:
            self._pieces.append(self._runtime.view[start:end])
            self._remaining -= end - start
            if not self._remaining:
                self._complete = True
                self._parser = httptools.HttpResponseParser(self)
        return end

    def _read_head(self, raw: bytes, follows: int) -> None:
        """Read a complete head. ``follows`` is how many bytes came behind it."""
        if len(raw) > self._settings.max_head_size:
            raise ValueError("head too large")
        head = ResponseHead.parse(raw)
        if head.status == 101 and not self._switching:
            raise ValueError("101 that nobody asked for")
        if head.status < 200 and head.status != 101:
            # RFC 9110, section 15.2: the final response is yet to come. llhttp would take
            # content for some of them, which they never have (section 8.6).
            if head.chunked or head.content_length:
                raise ValueError("content in a 1xx response")
            self._interim.append(head)
            self._head_complete = self._complete = False
            # Whatever this one says of the connection means nothing for the response.
            self._parser = httptools.HttpResponseParser(self)
            return
        self._head = head
        if self._stream is not None and self._stream.request.method == b"HEAD":
            # RFC 9110, section 9.3.2: no content follows, which llhttp can't know.
            self._complete = True
        elif not self._complete and head.content_length is not None and head.content_length > follows:
            self._remaining = head.content_length

    def _deliver(self) -> None:
        stream = self._stream
        if stream is None:
            return
        if self._interim:
            interim, self._interim = self._interim, []
            for head in interim:
                stream.receiver.informational(head)
            if stream.over:
                return
        if self._head is None:
            self._watch()
            return
        stream.replay = b""
        content: bytes | memoryview = b""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        new_head = None if self._head_sent else self._head
        complete = self._complete
        if complete:
            stream.over = True
            self._end_exchange(stream)
        else:
            self._head_sent = True
            if self._timeout is not None:
                self._watch()
        if content or complete or new_head is not None:
            stream.receiver.response_received(new_head, content, complete)

    def _end_exchange(self, stream: DirectStream) -> None:
        """The response is complete: keep the connection for the next, or close it."""
        self._stream = None
        if (
            self._reusable
            and stream.sent
            and not self._excess
            and not self.last_exchange
            and not stream.request.upgrade
            and not self._transport.is_closing()
            and not self._transport.get_write_buffer_size()
        ):
            self._reused = True
            if stream.request.method == b"HEAD":
                self._parser = httptools.HttpResponseParser(self)
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
            self._head = None
            self._head_complete = self._head_sent = self._complete = self._received = False
            self.deadline = monotonic() + self._settings.pool_idle_timeout
            self._upstream.release(self)
        elif stream.sent and not self._transport.get_write_buffer_size():
            self._transport.close()
        else:
            self._transport.abort()  # nobody needs the rest, and the upstream may never take it

    def _switch_protocols(self, early: bytes) -> None:
        """A 101 came (RFC 9110, section 7.8)."""
        stream, head = self._stream, self._head
        if stream is None or head is None or not stream.request.upgrade:
            self._fail("invalid_response", "invalid response: 101 that nobody asked for")
            return
        if self._transport.is_closing():  # a tunnel would never be told of its end
            self._fail("reset", "the connection broke behind its 101")
            return
        for interim in self._interim:
            stream.receiver.informational(interim)
        stream.over = True
        self._stream = None
        self._upstream.gone(self)
        stream.receiver.upgraded(head, self._transport, early)

    def connection_ended(self, exc: Exception | None) -> None:
        """No more bytes will come. Does nothing the second time."""
        stream, self._stream = self._stream, None
        if stream is None:
            self._transport.abort()
            return
        self._transport.abort()
        head = self._head
        if head is not None and head.until_close and exc is None:
            stream.over = True
            stream.receiver.response_received(None if self._head_sent else head, b"", True)
            return
        untouched = self._reused and not self._received
        if exc is None:
            error = UpstreamError("closed", "the connection was closed before the response was complete")
        else:
            error = UpstreamError("reset", f"the connection broke: {exc}")
        stream.lost(error, untouched=untouched)

    def _fail(self, reason: str, message: str) -> None:
        stream, self._stream = self._stream, None
        self._transport.abort()
        if stream is not None:
            stream.fail(UpstreamError(reason, message))

    def _read_rest(self) -> None:
        """Save an early response: writing failed, but it may have been received already.

        An upstream that refuses an upload answers, and closes. The next write
        then fails, and asyncio gives up without another read.
        """
        sock = self._transport.get_extra_info("socket")
        if self.origin.tls or sock is None:
            return
        for _ in range(64):
            try:
                nbytes = os.readv(sock.fileno(), [self._runtime.view])
            except OSError:
                return
            if not nbytes or self._stream is None:
                return
            self._parse(nbytes)

    def _watch(self) -> None:
        """Move the deadline: time runs only while the upstream is the one to act."""
        stream = self._stream
        waiting = stream is not None and not self._reading_paused and (stream.sent or self.write_paused)
        self.deadline = monotonic() + self._timeout if waiting and self._timeout is not None else NEVER
