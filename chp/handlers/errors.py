"""Error pages: from files, or from another server (CHP's ``--error-path`` and ``--error-target``)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from chp.errors import LoopDetected, UpstreamError
from chp.http1.fields import parse_fields, write_fields
from chp.http1.framing import response_has_no_content
from chp.http1.head import ResponseHead
from chp.http1.loop import passage
from chp.http1.response import reason_phrase
from chp.http1.target import Target
from chp.runtime import Runtime
from chp.upstream.base import Receiver, Stream, Upstream, UpstreamRequest

if TYPE_CHECKING:
    from chp.handlers.proxy import Exchange

# Seconds in which an error target must begin to answer; then the default page is sent.
ERROR_TARGET_TIMEOUT = 10.0
_KEPT_FIELDS = frozenset({b"content-type", b"content-encoding"})


class ErrorPages:
    """Answers for the proxy itself: no route (404), no answer from the target (503)."""

    def __init__(self, runtime: Runtime, upstream: Upstream, *, error_path: str, error_target: str) -> None:
        """``error_path`` is a directory; ``error_target`` a URL, or empty.

        Raises :class:`~chp.errors.InvalidTarget`.
        """
        self._runtime = runtime
        self._upstream = upstream
        self._directory = Path(error_path)
        self._target = Target.parse(error_target) if error_target else None

    def open(self, exchange: Exchange, status: int) -> Stream | None:
        """Answer an exchange with the page for a status.

        Returns the stream of the error target that the exchange now depends on, if any.
        """
        target = self._target
        if target is None:
            self.send_default(exchange, status)
            return None
        try:
            note = passage(exchange.head.cdn_loop)
        except LoopDetected:  # the error target may be a part of it
            self.send_default(exchange, status)
            return None
        base = target.base_path if target.base_path.endswith(b"/") else target.base_path + b"/"
        query = b"url=" + _form_encode(exchange.head.target).encode()
        if target.query:
            query = target.query + b"&" + query
        request = UpstreamRequest(
            target.origin,
            b"GET",
            b"%b%d?%b" % (base, status, query),
            b"\r\nHost: " + target.host_field + note,
        )
        page = ErrorPage(self, exchange, status, self._runtime)
        page.stream = self._upstream.open(request, b"", True, page)
        return page

    def send_default(self, exchange: Exchange, status: int) -> None:
        """Send ``{status}.html``, else ``error.html``, else the reason phrase.

        The files are read each time, so that an edit shows at once.
        """
        for name in (f"{status}.html", "error.html"):
            try:
                page = (self._directory / name).read_bytes()
            except OSError:
                continue
            exchange.send_local(status, page, b"text/html")
            return
        exchange.send_local(status, reason_phrase(status), b"text/plain")

    def fetch_failed(self, exchange: Exchange, status: int, error: UpstreamError) -> None:
        line = f"Failed to get custom error page: {error}"
        self._runtime.repeats.write(logging.ERROR, ("error page", error.reason), line)
        self.send_default(exchange, status)


class ErrorPage(Receiver, Stream):
    """Turns the answer of an error target into that of the exchange: its status stays ours.

    It stands between the two, and is the stream of the exchange.
    """

    __slots__ = ("_exchange", "_pages", "_runtime", "_status", "deadline", "stream")

    stream: Stream  # of the error target

    def __init__(self, pages: ErrorPages, exchange: Exchange, status: int, runtime: Runtime) -> None:
        self.deadline = monotonic() + ERROR_TARGET_TIMEOUT
        self._pages = pages
        self._exchange = exchange
        self._status = status
        self._runtime = runtime
        runtime.ticker.watch(self)

    # -- from the exchange -------------------------------------------------

    def send(self, content: bytes | memoryview, complete: bool) -> None:
        pass  # it is not for the error target

    def pause_response(self) -> None:
        self.stream.pause_response()

    def resume_response(self) -> None:
        self.stream.resume_response()

    def abort(self) -> None:
        self._runtime.ticker.forget(self)
        self.stream.abort()

    # -- from the error target ---------------------------------------------

    def informational(self, head: ResponseHead) -> None:
        pass

    def response_received(
        self, head: ResponseHead | None, content: bytes | memoryview, complete: bool
    ) -> None:
        if head is not None:
            self._runtime.ticker.forget(self)
            head = self._own_head(head)
        self._exchange.response_received(head, content, complete)

    def upgraded(self, head: ResponseHead, transport: asyncio.Transport, early: bytes) -> None:
        raise AssertionError("no upgrade was asked for")

    def failed(self, error: UpstreamError) -> None:
        self._runtime.ticker.forget(self)
        if self._exchange.response_begun:
            self._exchange.failed(error)
        else:
            self._pages.fetch_failed(self._exchange, self._status, error)

    def deadline_passed(self) -> None:
        self._runtime.ticker.forget(self)
        if self._exchange.over:
            return
        self._exchange.abort_stream()
        self.failed(UpstreamError("timeout", "no answer in time"))

    def pause_request(self) -> None:
        pass

    def resume_request(self) -> None:
        pass

    def _own_head(self, head: ResponseHead) -> ResponseHead:
        kept = [field for field in parse_fields(head.block) if field[0].lower() in _KEPT_FIELDS]
        own = ResponseHead(self._status, reason_phrase(self._status), write_fields(kept))
        own.chunked, own.content_length = head.chunked, head.content_length
        if response_has_no_content(b"GET", head.status):
            own.chunked, own.content_length = False, 0
        return own


def _form_encode(url: bytes) -> str:
    """Escape a URL as a value of a query, as browsers' forms do (WHATWG URL, section 5.2)."""
    return quote_plus(url, safe="*").replace("~", "%7E")
