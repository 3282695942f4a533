"""The access log: exchanges that note what becomes of them, in place of those that don't."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic, time

from chp.errors import BadRequest, UpstreamError
from chp.handlers.access_lines import Record
from chp.handlers.proxy import Exchange, ProxyHandler
from chp.handlers.websocket import Tunnel
from chp.http1.head import RequestHead, ResponseHead
from chp.http1.request_target import RequestTarget
from chp.logfile import LogFile
from chp.routing.route import Route
from chp.servers.connection import ClientConnection


class AccessLog:
    """Writes a line for each request that the proxy's port got, when it is over."""

    def __init__(self, file: LogFile, line: Callable[[Record], bytes]) -> None:
        """``line`` writes a record; the file is closed by whoever has opened it."""
        self._file = file
        self._line = line

    def exchange(self, handler: ProxyHandler, connection: ClientConnection, head: RequestHead) -> Exchange:
        """Make an exchange that is logged."""
        return LoggedExchange(self, handler, connection, head)

    def refused(
        self,
        handler: ProxyHandler,
        connection: ClientConnection,
        head: RequestHead | None,
        error: BadRequest,
    ) -> None:
        """Log what was no proper request."""
        record = Record(time())
        client = connection.client
        if head is not None:
            record.take_head(head)
            client = handler.fields.client(head, client)
        record.client = client.decode()
        record.status, record.end = error.status, "bad_request"
        self.write(record)

    def write(self, record: Record) -> None:
        self._file.write(self._line(record))

    def reopen(self) -> None:
        """Go on in a new file of the same name: the old one was moved away."""
        self._file.reopen()


class LoggedExchange(Exchange):
    """An exchange that keeps a record of itself."""

    __slots__ = ("_log_to", "_record")

    def __init__(
        self, log: AccessLog, handler: ProxyHandler, connection: ClientConnection, head: RequestHead
    ) -> None:
        super().__init__(handler, connection, head)
        self._log_to = log
        self._record = record = Record(time())
        record.take_head(head)
        record.client = handler.fields.client(head, connection.client).decode()
        record.request_id = self.request_id.decode()

    # -- what is noted -----------------------------------------------------

    def forward(
        self, route: Route, requested: RequestTarget, content: bytes | memoryview, complete: bool
    ) -> None:
        self._record.take_route(route)
        self._record.received += len(content)
        super().forward(route, requested, content, complete)

    def content_received(self, content: bytes | memoryview, complete: bool) -> None:
        if self._route is not None:
            self._record.received += len(content)
        super().content_received(content, complete)

    def send_local(self, status: int, content: bytes, content_type: bytes) -> None:
        self._response_began(status)
        if self.head.method != b"HEAD":
            self._record.sent += len(content)
        super().send_local(status, content, content_type)

    def response_received(
        self, head: ResponseHead | None, content: bytes | memoryview, complete: bool
    ) -> None:
        if head is not None:
            self._response_began(head.status)
        self._record.sent += len(content)
        super().response_received(head, content, complete)

    def upgraded(self, head: ResponseHead, transport: asyncio.Transport, early: bytes) -> None:
        self._response_began(head.status)
        self._record.sent += len(early)
        super().upgraded(head, transport, early)

    def _open_tunnel(
        self, client: asyncio.Transport, upstream: asyncio.Transport, *, websocket: bool
    ) -> Tunnel:
        tunnel = super()._open_tunnel(client, upstream, websocket=websocket)
        tunnel.observer = self
        return tunnel

    def tunnel_moved(self, from_client: bool, nbytes: int) -> None:
        if from_client:
            self._record.received += nbytes
        else:
            self._record.sent += nbytes

    def _response_began(self, status: int) -> None:
        self._record.status = status
        self._record.first_byte = monotonic() - self._started

    # -- the end -----------------------------------------------------------

    def failed(self, error: UpstreamError) -> None:
        if self.over:
            return
        self._record.end = f"upstream_{error.reason}"
        super().failed(error)
        if self._state == "cut":
            self._write(self._record.end)

    def client_gone(self) -> None:
        if self.over:
            return
        super().client_gone()
        reason = self._connection.close_reason
        # Of a request whose content is malformed, the connection has another line, with its answer.
        if reason != "bad_request" or self._begun:
            self._write(reason)

    def tunnel_ended(self, reason: str) -> None:
        self._write(reason)

    def _finish(self) -> None:
        # Before the rest: the next request of the connection may be answered in there.
        self._write(self._record.end or "complete")
        super()._finish()

    def _write(self, end: str) -> None:
        self._record.end = end
        self._record.seconds = monotonic() - self._started
        self._log_to.write(self._record)
