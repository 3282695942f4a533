"""A client's connection: requests are parsed here, one after another, and handed to a handler."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from abc import abstractmethod
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal, Protocol, cast

from chp.config.settings import ProxySettings
from chp.errors import BadRequest
from chp.http1.head import RequestHead
from chp.http1.response import local_response
from chp.runtime import NEVER, Runtime
from chp.servers.parser import RequestParser
from chp.sockets import bare_descriptor, end_writing, peer_has_left, write_through

if TYPE_CHECKING:
    from chp.servers.proxy import ProxyServer

# What a client may send ahead, behind a complete request; then reading pauses.
_MAX_AHEAD: Final = 64 * 1024
# Requests in one read that are answered at once, before others have their turn.
_MAX_ANSWERS_AT_ONCE = 50
# A client that takes nothing of a complete response for so long (seconds) gets no more.
_FLUSH_TIMEOUT = 60.0
# close() with this option sends RST: what was sent can't be taken for complete.
_RESET = struct.pack("ii", 1, 0)


class ClientExchange(Protocol):
    """What the connection knows of the exchange that it is carrying."""

    __slots__ = ()

    @property
    @abstractmethod
    def response_begun(self) -> bool:
        """Tell whether bytes of the response were sent."""

    @abstractmethod
    def content_received(self, content: bytes | memoryview, complete: bool) -> None:
        """More of the request's content came. It may be a view of the receive buffer."""

    @abstractmethod
    def pause_response(self) -> None:
        """The client is slow: send no more for now."""

    @abstractmethod
    def resume_response(self) -> None:
        """The client takes content again."""

    @abstractmethod
    def client_gone(self) -> None:
        """The connection is closed. Nothing can be sent any more."""


class RequestHandler(Protocol):
    """Begins an exchange for each request."""

    @abstractmethod
    def handle(
        self, connection: ClientConnection, head: RequestHead, content: bytes | memoryview, complete: bool
    ) -> ClientExchange | None:
        """Answer a request: ``content`` is what came with its head, ``complete`` says that it is all.

        The content may be a view of the receive buffer.
        Returns the exchange, or None when the answer was already sent.
        Raises :class:`BadRequest` for a request that is refused.
        """

    @abstractmethod
    def change_fields(self, block: bytes) -> bytes:
        """Return the block of fields that a response gets which the connection makes itself."""

    @abstractmethod
    def refused(self, connection: ClientConnection, head: RequestHead | None, error: BadRequest) -> None:
        """The connection answers a request itself, and closes; ``head`` is None if that was no head."""

    @abstractmethod
    def end_tunnels(self, *, force: bool) -> None:
        """Close what became of upgraded connections: the server stops. ``force``: abort them."""


# Plain strings: the hash of an Enum's member is a Python call, and costs 0.3 µs.
State = Literal[
    "head",  # between requests, or inside a head
    "content",  # inside a request's content
    "answering",  # the request is complete, its response is not
    "lingering",  # the last response is sent; what still comes is thrown away
    "detached",  # the transport is a tunnel's
    "closed",
]

_MOVES: Final[dict[State, frozenset[State]]] = {
    "head": frozenset({"content", "answering", "lingering", "closed"}),
    "content": frozenset({"answering", "lingering", "closed"}),
    "answering": frozenset({"head", "lingering", "detached", "closed"}),
    "lingering": frozenset({"closed"}),
    "detached": frozenset(),
    "closed": frozenset(),
}


class ClientConnection(asyncio.BufferedProtocol):
    """Parses requests with llhttp; keeps order, limits and deadlines of one connection."""

    __slots__ = (
        "_ahead",
        "_close_reason",
        "_descriptor",
        "_exchange",
        "_handler",
        "_head",
        "_keep_alive_timeout",
        "_linger_until",
        "_looping",
        "_metrics",
        "_parser",
        "_reading_paused",
        "_runtime",
        "_server",
        "_settings",
        "_state",
        "_timeout",
        "_transport",
        "_unsent",
        "_upstream_slow",
        "_write_paused",
        "client",
        "deadline",
        "tls",
    )

    def __init__(
        self,
        server: ProxyServer,
        handler: RequestHandler,
        runtime: Runtime,
        settings: ProxySettings,
        client: bytes,
    ) -> None:
        """``client`` is its IP address, which a load balancer may have said; empty for a unix socket."""
        self.client = client
        self.tls = False
        self.deadline = NEVER
        self._server = server
        self._handler = handler
        self._runtime = runtime
        self._metrics = runtime.metrics
        self._settings = settings
        self._timeout = settings.client_timeout
        self._keep_alive_timeout = settings.keep_alive_timeout
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made
        self._state: State = "head"
        self._descriptor = -1
        self._exchange: ClientExchange | None = None
        self._close_reason = ""
        self._linger_until = NEVER
        self._looping = False
        self._unsent = 0  # bytes of the last response, when closing
        self._reading_paused = False
        self._upstream_slow = False
        self._write_paused = False
        self._ahead = b""  # received, and not yet parsed
        self._parser = RequestParser(
            settings.max_head_size, settings.max_request_line, settings.max_field_count
        )
        self._head: RequestHead | None = None  # of the request that is being answered

    # -- for exchanges -----------------------------------------------------

    @property
    def write_paused(self) -> bool:
        return self._write_paused

    @property
    def close_reason(self) -> str:
        """Why the connection is closed, or closing; empty if it is neither."""
        return self._close_reason

    @property
    def may_persist(self) -> bool:
        """Tell whether the connection can serve another request when this response is complete."""
        head = self._head
        return (
            head is not None
            and head.keep_alive
            and not head.upgrade
            and self._state == "answering"
            and not self._server.draining
        )

    @property
    def lost(self) -> bool:
        """Tell whether the transport is at its end, which may not have been told yet."""
        return self._transport.is_closing()

    def send(self, data: bytes, content: bytes | memoryview = b"") -> None:
        """Send bytes of a response, and long content behind them. Does nothing when the connection is closed.

        The content may be a view of the receive buffer.
        """
        if self._state == "closed":
            return
        self._metrics.client_bytes_sent += len(data) + len(content)
        write_through(self._transport, self._descriptor, data, content)
        if self._timeout is not None:
            self._watch()

    def response_complete(self, persist: bool) -> None:
        """End the exchange; ``persist``: the response's head promised another one."""
        self._exchange = None
        self._upstream_slow = False
        if self._state == "closed":
            return
        if persist and self._state == "answering":
            self._move("head")
            self._head = None
            self._parser.next_request()
            self.deadline = monotonic() + self._keep_alive_timeout
            if self._ahead or self._reading_paused or self._write_paused:
                self._read_ahead()
                self._update_reading()
        elif self._state == "content" or self._ahead:
            self._linger("answered_early")
        else:
            self._close("response_complete")

    def abort(self, reason: str) -> None:
        """Reset the connection, so that the client knows that the response is not complete."""
        if self._state == "closed":
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None and self.client:
            with contextlib.suppress(OSError):  # it may be closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._closing(reason)
        self._transport.abort()

    def pause_request(self) -> None:
        """Stop reading: the upstream is slow."""
        self._upstream_slow = True
        self._update_reading()

    def resume_request(self) -> None:
        self._upstream_slow = False
        self._update_reading()

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """Give the transport away, with the bytes that came behind the request.

        It stays one of the runtime's clients until the new owner says that it is closed. The caller
        must set a protocol of its own before it returns to the loop.
        """
        self._move("detached")
        self._exchange = None
        self._server.forget(self)
        self._metrics.client_connections_closed["tunnel"] += 1
        ahead, self._ahead = self._ahead, b""
        self._update_reading()
        return self._transport, ahead

    # -- for the server ----------------------------------------------------

    @property
    def made(self) -> bool:
        """Tell whether it was ever open: the handshake, if there was one, is behind it."""
        return self._transport is not None

    def shut_down(self, *, force: bool) -> None:
        """Close when idle; ``force``: in any case."""
        if force:
            self._closing("shutdown")
            self._transport.abort()
        elif self._state == "head" and not self._parser.partial:
            self._close("shutdown")
        elif self._state == "lingering" or (
            # TLS still waits for the client's own end, which a client that is idle may never say.
            self._state == "closed" and not self._transport.get_write_buffer_size()
        ):
            self._transport.abort()

    def settings_changed(self) -> None:
        """Let the handler see the fields of the next request anew. Limits and timeouts stay."""
        self._parser.forget_last_head()
        if self._head is not None:
            self._head.forwarded_block = None  # it may be forwarded later

    def deadline_passed(self) -> None:
        self.deadline = NEVER
        if self._state == "lingering":
            self._transport.abort()
        elif self._state == "closed":
            self._check_flush()
        elif self._state != "head":
            self._runtime.log.info("A client's connection was idle for too long (timeout)")
            self._closing("timeout")
            self._transport.abort()
        elif self._parser.partial:
            self._refuse(BadRequest("the request's head took too long", 408, limit="head_timeout"))
        else:
            self._close("keep_alive_timeout")

    def check_peer(self) -> None:
        if peer_has_left(self._transport):
            self.eof_received()

    # -- asyncio -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(self._settings.write_buffer_high)
        self._descriptor = bare_descriptor(transport)
        self.tls = transport.get_extra_info("ssl_object") is not None
        self.deadline = monotonic() + self._settings.head_timeout
        self._server.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._runtime.view

    def buffer_updated(self, nbytes: int) -> None:
        self._metrics.client_bytes_received += nbytes
        data = self._runtime.view[:nbytes]
        try:
            if self._state == "head" and not self._ahead and not self._write_paused:
                self._read_head(data)
            elif self._state == "content":
                self._read_content(data)
            elif self._state in ("head", "answering"):
                self._ahead += bytes(data)
                self._update_reading()
            elif self._state == "lingering":
                self._watch()
        except BadRequest as error:
            self._refuse(error)

    def eof_received(self) -> None:
        """The client has closed its side: whatever it waited for, it no longer does."""
        if self._state in ("head", "lingering"):
            self._close("client_closed")
        else:
            self._closing("client_closed")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing("client_closed" if exc is None else "client_reset")
        reason = self._close_reason
        self._metrics.client_connections_closed[reason] += 1
        self._runtime.log.debug("Connection of %s closed: %s", self.client.decode(), reason)
        self._server.forget(self)
        self._runtime.clients.closed(self.client)

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._exchange is not None:
            self._exchange.pause_response()
        self._update_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._watch()
        if self._exchange is not None:
            self._exchange.resume_response()
        else:
            self._read_ahead()
        self._update_reading()

    # -- requests ----------------------------------------------------------

    def _read_head(self, data: bytes | memoryview) -> None:
        """Read a head, and what came with it. ``data`` may hold less, or more, than that."""
        parser = self._parser
        began = parser.partial
        head = parser.read_head(data)
        if head is None:
            if parser.partial and not began:
                self.deadline = monotonic() + self._settings.head_timeout
            return
        self._head = head
        content: bytes | memoryview = b""
        if head.has_content:
            rest, parser.rest = parser.rest, b""
            content = parser.read_content(rest) if rest else b""
        complete = parser.complete
        self._move("answering" if complete else "content")
        if parser.rest:
            self._keep_rest()
        # Between requests a deadline is set; now time runs only where a timeout says so.
        self.deadline = NEVER
        if self._timeout is not None:
            self._watch()
        exchange = self._handler.handle(self, head, content, complete)
        # It may be over already, and even the next one begun.
        if exchange is not None and self._answers(head):
            self._exchange = exchange
            if self._write_paused:
                exchange.pause_response()

    def _answers(self, head: RequestHead) -> bool:
        return self._head is head and self._state != "closed"

    def _read_content(self, data: memoryview) -> None:
        content = self._parser.read_content(data)
        complete = self._parser.complete
        if complete:
            self._move("answering")
            self._keep_rest()
        self._watch()
        if self._exchange is not None and (content or complete):
            self._exchange.content_received(content, complete)

    # -- what comes too early ----------------------------------------------

    def _keep_rest(self) -> None:
        """Keep what came behind a complete request: the next one, or early bytes of a tunnel."""
        self._ahead, self._parser.rest = bytes(self._parser.rest), b""
        self._update_reading()

    def _read_ahead(self) -> None:
        """Answer pipelined requests, as long as the answers come at once and are taken."""
        if self._looping or not self._ahead:
            return
        self._looping = True
        try:
            for _ in range(_MAX_ANSWERS_AT_ONCE):
                if not self._ahead or self._state != "head" or self._write_paused:
                    break
                data, self._ahead = self._ahead, b""
                self._read_head(data)
            else:
                self._runtime.loop.call_soon(self._read_ahead)
        except BadRequest as error:
            self._refuse(error)
        finally:
            self._looping = False
        self._update_reading()

    # -- the end -----------------------------------------------------------

    def _refuse(self, error: BadRequest) -> None:
        """Answer a request that can't be forwarded, and close."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            # The head was fine and is on its way, the content is not.
            self._close_reason = "bad_request"
            exchange.client_gone()
            if exchange.response_begun:
                self.abort("bad_request")
                return
        self._metrics.requests_proxy[error.status] += 1
        self._handler.refused(self, self._head, error)
        if error.limit:
            self._metrics.limits_reached[error.limit] += 1
        client = self.client.decode() or "a local client"
        self._runtime.log.info("%d to %s: %s", error.status, client, error)
        head_only = self._head is not None and self._head.method == b"HEAD"
        content = str(error).encode() + b"\n"
        change = self._handler.change_fields
        self.send(local_response(error.status, content, close=True, head_only=head_only, change=change))
        self._linger("bad_request")

    def _linger(self, reason: str) -> None:
        """Close, but let the client finish sending: unread bytes would make the kernel drop the response."""
        self._move("lingering")
        self._close_reason = reason
        self._ahead = b""
        end_writing(self._transport)
        self._update_reading()
        self._linger_until = monotonic() + 6 * self._settings.linger_timeout
        self._watch()

    def _close(self, reason: str) -> None:
        """Close when the client has taken what is written."""
        self._closing(reason)
        self._unsent = self._transport.get_write_buffer_size()
        self.deadline = monotonic() + _FLUSH_TIMEOUT
        self._transport.close()

    def _check_flush(self) -> None:
        """Wait for the client to take the rest, as long as it takes some of it."""
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._unsent = unsent
            self.deadline = monotonic() + _FLUSH_TIMEOUT
        else:
            self._transport.abort()

    def _closing(self, reason: str) -> None:
        """Note why, once; the exchange is told."""
        if self._state == "closed":
            return
        self._move("closed")
        self._close_reason = self._close_reason or reason
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def _move(self, state: State) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"a connection can't go from {self._state} to {state}")
        self._state = state

    def _update_reading(self) -> None:
        """Read, unless the upstream is slow to take content or the client is far ahead."""
        if self._state == "content":
            pause = self._upstream_slow
        elif self._state == "head" and self._write_paused:
            pause = True  # it does not take the answers that it has
        else:
            pause = self._state != "detached" and len(self._ahead) >= _MAX_AHEAD
        if pause is not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = pause
            if pause:
                self._transport.pause_reading()
                self._runtime.ticker.reading_paused(self)
            else:
                self._transport.resume_reading()
                self._runtime.ticker.reading_resumed(self)

    def _watch(self) -> None:
        """Move the deadline: something happened on this connection."""
        if self._state == "lingering":
            now = monotonic()
            self.deadline = min(now + self._settings.linger_timeout, self._linger_until)
        elif self._state != "head":
            self.deadline = NEVER if self._timeout is None else monotonic() + self._timeout
