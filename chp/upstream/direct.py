"""The direct upstream: llhttp on pooled asyncio connections, for http, https and unix sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl

from chp.config.settings import ProxySettings
from chp.errors import UpstreamError
from chp.http1.fields import END_OF_HEAD
from chp.http1.framing import LAST_CHUNK, chunk
from chp.http1.target import Origin
from chp.runtime import Runtime
from chp.sockets import LONG
from chp.tls import TlsTransport
from chp.upstream.addresses import Resolver, is_address
from chp.upstream.attempts import Attempts
from chp.upstream.base import Receiver, Stream, Upstream, UpstreamRequest
from chp.upstream.direct_connection import UpstreamConnection


class DirectUpstream(Upstream):
    """A pool of connections for each origin; the one used last is used next."""

    def __init__(
        self, runtime: Runtime, settings: ProxySettings, attempts: Attempts, resolver: Resolver
    ) -> None:
        """``resolver`` is closed with it."""
        self.runtime = runtime
        self._attempts = attempts
        self._resolver = resolver
        # A list may be empty as long as there is a connection to come back to it.
        self._idle: dict[Origin, list[UpstreamConnection]] = {}
        self._connections: set[UpstreamConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self.use(settings)

    # -- the contract ------------------------------------------------------

    def open(
        self, request: UpstreamRequest, content: bytes | memoryview, complete: bool, receiver: Receiver
    ) -> Stream:
        stream = DirectStream(self, request, receiver)
        # Long content is written out of the receive buffer, unless it may have to be sent again.
        apart = not complete and not request.chunked and len(content) >= LONG
        data = stream.first_bytes(b"" if apart else bytes(content), complete)
        rest = content if apart else b""
        # An upgrade can't be sent again if that one is just being closed, and no other exchange has a
        # use for its connection afterwards.
        connection = None if request.upgrade else self._take_idle(request.origin)
        if connection is None:
            stream.connect(data + rest)
            if not complete:
                receiver.pause_request()
        else:
            # The server may be closing this connection right now: what may have to
            # be sent again is kept until the response begins.
            if complete:
                stream.replay = data
            stream.connection = connection
            connection.start(stream, data, rest)
        return stream

    def close_idle(self, origin: Origin) -> None:
        for connection in self._connections:
            if connection.origin == origin:
                connection.last_exchange = True
        for connection in self._idle.pop(origin, ()):
            self.runtime.metrics.upstream_connections_idle -= 1
            connection.retire()

    def use(self, settings: ProxySettings) -> None:
        self.settings = settings
        self._tls = settings.client_tls
        self.runtime.ticker.limit_interval(settings.upstream_timeout)
        self.runtime.ticker.limit_interval(settings.pool_idle_timeout)
        for origin in {connection.origin for connection in self._connections}:
            self.close_idle(origin)

    async def close(self) -> None:
        for origin in list(self._idle):
            self.close_idle(origin)
        for connection in list(self._connections):
            connection.abort()
        for task in list(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        await self._resolver.close()

    # -- for streams and connections ---------------------------------------

    def connect(self, stream: DirectStream) -> asyncio.Task[None]:
        task = self.runtime.loop.create_task(self._connect(stream))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return task

    def gone(self, connection: UpstreamConnection) -> None:
        """A connection is closed, or no longer one for exchanges."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        self.runtime.metrics.upstream_connections -= 1
        self.runtime.ticker.forget(connection)
        idle = self._idle.get(connection.origin)
        if idle and connection in idle:
            idle.remove(connection)
            self.runtime.metrics.upstream_connections_idle -= 1
        if idle is not None and not idle:
            del self._idle[connection.origin]

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose exchange is complete."""
        limit = self.settings.pool_max_idle
        if not limit:
            connection.retire()
            return
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = []
        elif len(idle) == limit:
            idle.pop(0).retire()
            self.runtime.metrics.upstream_connections_idle -= 1
        idle.append(connection)
        self.runtime.metrics.upstream_connections_idle += 1

    # -- private -----------------------------------------------------------

    def _take_idle(self, origin: Origin) -> UpstreamConnection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            self.runtime.metrics.upstream_connections_idle -= 1
            if connection.usable:
                return connection
        return None

    async def _connect(self, stream: DirectStream) -> None:
        origin = stream.request.origin
        try:
            await self._attempts.turn(origin)
        except UpstreamError as error:
            stream.fail(error)
            return
        began = self.runtime.loop.time()
        try:
            connection = await asyncio.wait_for(self._open_connection(origin), self.settings.connect_timeout)
            if not connection.usable:
                raise ConnectionResetError("it was closed at once")
        except (OSError, asyncio.TimeoutError, ValueError, ssl.SSLError) as error:
            failure = connect_error(origin, error)
            self._attempts.failed(origin, failure, began)
            stream.fail(failure)
        else:
            self._attempts.succeeded(origin)
            # Not before: an attempt that is cancelled may never see its connection_lost().
            self._connections.add(connection)
            self.runtime.metrics.upstream_connections += 1
            self.runtime.ticker.watch(connection)
            stream.connected(connection)

    async def _open_connection(self, origin: Origin) -> UpstreamConnection:
        loop = self.runtime.loop
        connection = UpstreamConnection(self, origin)
        tls = self._tls_transport(connection) if origin.tls else None

        def factory() -> asyncio.BufferedProtocol:
            return tls or connection

        if origin.scheme == "unix":
            await loop.create_unix_connection(factory, origin.host)
        elif is_address(origin.host):
            await loop.create_connection(factory, origin.host, origin.port)
        else:
            sock = await self._resolver.connect(origin.host, origin.port)
            await loop.create_connection(factory, sock=sock)
        if tls is not None:
            await tls.opened()
        return connection

    def _tls_transport(self, connection: UpstreamConnection) -> TlsTransport:
        context = self._tls = self._tls or ssl.create_default_context()
        return TlsTransport(self.runtime, connection, context, server_hostname=connection.origin.host)


class DirectStream(Stream):
    """One exchange: before its connection is open, while it runs, and when it must be sent again."""

    __slots__ = (
        "_connecting",
        "_paused",
        "_pending",
        "_upstream",
        "connection",
        "over",
        "receiver",
        "replay",
        "request",
        "sent",
    )

    def __init__(self, upstream: DirectUpstream, request: UpstreamRequest, receiver: Receiver) -> None:
        self.request = request
        self.receiver = receiver
        self.replay = b""  # the whole request, while it may be sent again
        self.sent = False  # the request is complete
        self.over = False
        self._upstream = upstream
        self.connection: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._paused = False
        self._pending: list[bytes] = []  # one read's worth: the client is paused while connecting

    # -- the contract ------------------------------------------------------

    def send(self, content: bytes | memoryview, complete: bool) -> None:
        if self.over or self.sent:
            return
        self.sent = complete
        data = self._framed(content, complete)
        if self.connection is not None:
            self.connection.write(data)
        else:
            self._pending.append(bytes(data))

    def pause_response(self) -> None:
        self._paused = True
        if self.connection is not None and not self.over:
            self.connection.pause_reading()

    def resume_response(self) -> None:
        self._paused = False
        if self.connection is not None and not self.over:
            self.connection.resume_reading()

    def abort(self) -> None:
        if self.over:
            return
        self.over = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self.connection is not None:
            self.connection.abort()

    # -- for the pool and the connection -----------------------------------

    def first_bytes(self, content: bytes, complete: bool) -> bytes:
        """The head of the request, and the content that is already there."""
        request = self.request
        self.sent = complete
        more = END_OF_HEAD
        if request.upgrade:
            more = b"\r\nConnection: Upgrade\r\nUpgrade: " + request.upgrade + more
        if request.content_length is not None:
            more = b"\r\nContent-Length: %d" % request.content_length + more
        elif request.chunked:
            more = b"\r\nTransfer-Encoding: chunked" + more
        if content or request.chunked:
            more += self._framed(content, complete)
        return b"%b %b HTTP/1.1%b%b" % (request.method, request.target, request.block, more)

    def connect(self, data: bytes) -> None:
        self._pending.append(data)
        self._connecting = self._upstream.connect(self)

    def connected(self, connection: UpstreamConnection) -> None:
        self._connecting = None
        if self.over:  # aborted in the moment in which the connection opened
            connection.retire()
            return
        data = b"".join(self._pending)
        self._pending.clear()
        self.connection = connection
        connection.start(self, data)
        if self._paused:
            connection.pause_reading()
        if not self.sent and not connection.write_paused:
            self.receiver.resume_request()

    def lost(self, error: UpstreamError, *, untouched: bool) -> None:
        """The connection ended before the response; ``untouched``: it was reused, and not a byte came."""
        self.connection = None
        if untouched and self.replay and self.request.idempotent:  # RFC 9110, section 9.2.2
            self._upstream.runtime.metrics.upstream_retries += 1
            data, self.replay = self.replay, b""
            self.connect(data)
        else:
            self.fail(error)

    def fail(self, error: UpstreamError) -> None:
        if not self.over:
            self.over = True
            self.connection = None
            self._upstream.runtime.metrics.upstream_errors[error.reason] += 1
            self.receiver.failed(error)

    def _framed(self, content: bytes | memoryview, complete: bool) -> bytes | memoryview:
        if not self.request.chunked:
            return content
        data = chunk(bytes(content)) if content else b""
        return data + LAST_CHUNK if complete else data


def connect_error(origin: Origin, error: BaseException) -> UpstreamError:
    """Translate why there is no connection to an origin."""
    if isinstance(error, asyncio.TimeoutError):
        return UpstreamError("connect_timeout", f"connecting to {origin} timed out")
    if isinstance(error, ssl.SSLError):
        # What is wrong with a certificate, else OpenSSL's word.
        reason = getattr(error, "verify_message", None) or getattr(error, "reason", None) or error
        return UpstreamError("tls", f"TLS with {origin} failed: {reason}")
    if isinstance(error, (socket.gaierror, ValueError)):  # ValueError: no host has such a name
        return UpstreamError("dns", f"no address for {origin}: {error}")
    if isinstance(error, ConnectionRefusedError):
        return UpstreamError("refused", f"connection refused by {origin}")
    return UpstreamError("unreachable", f"can't connect to {origin}: {error}")
