"""One exchange of the curl upstream: what libcurl collects goes to the receiver when libcurl has returned."""

from __future__ import annotations

import contextlib
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

import pycurl

from chp.errors import UpstreamError
from chp.runtime import NEVER
from chp.upstream.base import Receiver, Stream, UpstreamRequest
from chp.upstream.curl_errors import CONNECTION_LOST, upstream_error
from chp.upstream.curl_handle import CurlHandle, request_framing
from chp.upstream.curl_response import ResponseReader

if TYPE_CHECKING:
    from chp.upstream.curl_client import CurlClient

# Bytes of content that are collected before the receiver gets them; libcurl keeps one more read.
_COLLECT_LIMIT = 256 * 1024
_SEND_LATER: int = pycurl.READFUNC_PAUSE
_RECEIVE_LATER: int = pycurl.WRITEFUNC_PAUSE
_ENDED_EARLY = UpstreamError("closed", "the connection was closed before the response was complete")


class CurlStream(Stream):
    """One request and its response, on one handle; on a second one when it must be sent again."""

    __slots__ = (
        "_collected",
        "_connected",
        "_head_sent",
        "_held",
        "_metrics",
        "_offset",
        "_outgoing",
        "_outgoing_size",
        "_reader",
        "_receive_paused",
        "_receiver",
        "_refused",
        "_replay",
        "_request_paused",
        "_send_paused",
        "_sent",
        "_settings",
        "began",
        "client",
        "connecting",
        "deadline",
        "handle",
        "lines",
        "looked_up",
        "over",
        "request",
        "result",
        "touched",
    )

    def __init__(
        self, client: CurlClient, request: UpstreamRequest, receiver: Receiver, content: bytes, complete: bool
    ) -> None:
        self.request = request
        self.handle: CurlHandle | None = None
        self.over = False
        self.touched = False  # waits for deliver()
        self.result: tuple[int, str] | None = None  # libcurl's code and text, when it has ended
        self.deadline = NEVER
        self.began = 0.0  # the loop's time
        self.connecting = False  # over a new connection
        self.looked_up = False  # its addresses are not remembered ones
        self.client = client
        self._settings = client.settings
        self._metrics = client.metrics
        self._receiver = receiver
        self._refused = False  # libcurl wanted to send it once more
        self._connected = False
        # Of the request. What can be sent again is kept (RFC 9110, section 9.2.2).
        self._replay: bytes | None = content if complete and request.idempotent else None
        self._outgoing: deque[bytes] = deque((content,) if content else ())
        self._outgoing_size = len(content)
        self._offset = 0  # in the first of them
        self._sent = complete
        self._send_paused = False
        self._request_paused = not complete
        # Of the response.
        self._reader = ResponseReader(request.method, self._settings.max_head_size)
        self.lines = self._reader.lines  # of heads: libcurl adds to them
        self._collected = 0  # bytes of content since the last deliver()
        self._receive_paused = False
        self._held = False
        self._head_sent = False

    # -- the contract ------------------------------------------------------

    def send(self, content: bytes | memoryview, complete: bool) -> None:
        if self.over or self._sent:
            return
        self._sent = complete
        if content:
            self._outgoing.append(bytes(content))
            self._outgoing_size += len(content)
        if self._send_paused:
            self.client.wake(self)
        if (
            not complete
            and not self._request_paused
            and self._outgoing_size > self._settings.write_buffer_high
        ):
            self._request_paused = True
            self._receiver.pause_request()
        self._watch()

    def pause_response(self) -> None:
        self._held = True
        self._watch()

    def resume_response(self) -> None:
        self._held = False
        if self._receive_paused and not self.over:
            self.client.wake(self)
        self._watch()

    def abort(self) -> None:
        if not self.over:
            self.over = True
            self.client.release(self)

    # -- called by libcurl, through the handle -------------------------------

    def begin_sending(self) -> bool:
        """There is a connection. Tell whether the request may be sent on it."""
        if not self.may_send():
            return False
        self._connected = True
        if self.connecting:
            self.connecting = False
            self.client.attempts.succeeded(self.request.origin)
        request = self.request
        if self._request_paused or self._settings.upstream_timeout is not None:
            self.client.touch(self)
        self._metrics.upstream_bytes_sent += (
            len(request.method)
            + len(request.target)
            + len(request.block)
            + len(request_framing(request))
            + 14
        )
        return True

    def may_send(self) -> bool:
        """Tell whether the request may be sent: once, by libcurl.

        It would send it again by itself when an old connection ends before the response, whatever the
        method, and perhaps on another old one. What may be sent again is, on a new one.
        """
        self._refused = self._connected
        return not self._refused

    def next_content(self, size: int) -> bytes | int:
        outgoing = self._outgoing
        if not outgoing:
            if self._sent:
                return b""
            self._send_paused = True
            return _SEND_LATER
        piece = outgoing[0]
        if len(piece) - self._offset > size:
            piece = piece[self._offset : self._offset + size]
            self._offset += size
        else:
            if self._offset:
                piece = piece[self._offset :]
                self._offset = 0
            outgoing.popleft()
        self._outgoing_size -= len(piece)
        self._metrics.upstream_bytes_sent += len(piece)
        self.client.touch(self)
        return piece

    def collect_content(self, data: bytes) -> int | None:
        if self._held or self._collected >= _COLLECT_LIMIT:
            self._receive_paused = True
            if not self.touched:
                self.client.touch(self)
            return _RECEIVE_LATER
        self._collected += len(data)
        self._reader.pieces.append(data)
        if not self.touched:
            self.client.touch(self)
        return None

    # -- for the client ----------------------------------------------------

    def unpause(self) -> None:
        """Let libcurl go on with what is no longer paused; it may call back at once."""
        if self.over or self.handle is None or self.result is not None:
            return
        if not self._held:
            self._receive_paused = False
        self._send_paused = False
        with contextlib.suppress(pycurl.error):  # it has failed meanwhile, and its result says so
            self.handle.curl.pause(pycurl.PAUSE_RECV if self._receive_paused else pycurl.PAUSE_CONT)

    def deliver(self) -> None:
        """Pass on what libcurl has collected."""
        self.touched = False
        if self.over:
            return
        if self._may_resume_request():
            self._request_paused = False
            self._receiver.resume_request()
            if self.over:
                return
        reader = self._reader
        try:
            self._metrics.upstream_bytes_received += reader.read()
        except ValueError as error:
            self.client.renew()  # libcurl may have taken it for a valid one
            self.fail(UpstreamError("invalid_response", f"invalid response: {error}"))
            return
        if reader.interim:
            interim, reader.interim = reader.interim, []
            for head in interim:
                if not self.over:
                    self._receiver.informational(head)
        if self.over:
            return
        if reader.head is None:
            if self.result is not None:
                self._end_without_response()
            else:
                self._watch()
            return
        self._deliver_response()

    def deadline_passed(self) -> None:
        self.fail(UpstreamError("timeout", "no answer in time"))

    def fail(self, error: UpstreamError) -> None:
        if not self.over:
            self.over = True
            self.client.release(self)
            self._metrics.upstream_errors[error.reason] += 1
            self._receiver.failed(error)

    # -- private -----------------------------------------------------------

    def _may_resume_request(self) -> bool:
        low = self._settings.write_buffer_high // 4
        return self._request_paused and self._connected and not self._sent and self._outgoing_size <= low

    def _deliver_response(self) -> None:
        reader, result = self._reader, self.result
        pieces = reader.content
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        new_head = None if self._head_sent else reader.head
        if pieces:
            reader.content = []
        self._collected = 0
        complete = reader.complete or (reader.ends_with_connection and result is not None and not result[0])
        if complete:
            self.over = True
            self.client.release(self)
            if reader.last_exchange:
                self.client.renew()
        else:
            self._head_sent = True
            self._watch()
        if content or complete or new_head is not None:
            self._receiver.response_received(new_head, content, complete)
        if self.over:
            return
        if result is not None:
            if not result[0]:
                self.client.renew()  # libcurl has seen an end that is none
            self.fail(self._error(result))
        elif self._receive_paused and not self._held:
            self.client.wake(self)

    def _end_without_response(self) -> None:
        assert self.result is not None
        code = self.result[0]
        if not code:
            self.client.renew()  # libcurl took it for a response
            if self._reader.malformed:
                self.fail(UpstreamError("invalid_response", "invalid response: malformed head"))
                return
        replay, self._replay = self._replay, None
        # It gives up at once when it has taken content already.
        lost = self._refused or (code in CONNECTION_LOST and self._connected and self.client.was_reused(self))
        if lost and replay is not None and not self._reader.begun:
            self._metrics.upstream_retries += 1
            self._send_again(replay)
        else:
            error = self._error(self.result)
            if not self._connected and self.client.begin_elsewhere(self, error):
                return
            if not self._connected or self.connecting:
                self.client.attempts.failed(self.request.origin, error, self.began)
            self.fail(error)

    def detach(self) -> None:
        """Give up a transfer that has ended without a connection, for another one."""
        self.client.release(self)
        self.result = None
        self.connecting = False
        self.deadline = NEVER

    def _send_again(self, content: bytes) -> None:
        self.client.release(self)
        self.result = None
        self._connected = self._refused = False
        self._outgoing = deque((content,) if content else ())
        self._outgoing_size = len(content)
        self._offset = 0
        self.deadline = NEVER
        self.client.begin(self, fresh=True)

    def _error(self, result: tuple[int, str]) -> UpstreamError:
        code, text = result
        if not code or self._refused:
            return _ENDED_EARLY
        return upstream_error(
            self.client.origin, code, text, self.client.os_errno(self), connected=self._connected
        )

    def _watch(self) -> None:
        """Move the deadline: time runs only while the upstream is the one to act."""
        timeout = self._settings.upstream_timeout
        if timeout is not None:
            waiting = (
                not self.over and self._connected and not self._held and (self._sent or self._request_paused)
            )
            self.deadline = monotonic() + timeout if waiting else NEVER
