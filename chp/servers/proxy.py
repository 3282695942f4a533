"""The proxy's server: a Tornado HTTPServer whose connections are asyncio protocols."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterable
from time import monotonic

from tornado.httpserver import HTTPServer

from chp.config.settings import ProxySettings
from chp.runtime import NEVER, Runtime
from chp.servers.accept import Acceptor
from chp.servers.connection import ClientConnection, RequestHandler
from chp.servers.proxy_protocol import receive_header
from chp.sockets import probe_silent_peer
from chp.tls import TlsTransport

_UNKNOWN = b"?"  # in the place of a client's address, until a load balancer has said it
_LOG_INTERVAL = 60.0  # seconds between two lines that say that connections are refused


class ProxyServer(HTTPServer):
    """A server as any of Tornado's from outside, with :class:`ClientConnection` inside.

    Tornado's own HTTP connection costs five times the CPU of llhttp on an
    asyncio transport, so ``add_sockets`` hands accepted sockets to the loop.
    """

    def initialize(  # type: ignore[override]  # the arguments are our own
        self,
        handler: RequestHandler,
        runtime: Runtime,
        settings: ProxySettings,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().initialize(_refuse_tornado_request)
        self.draining = False
        self._handler = handler
        self._runtime = runtime
        self._ssl_context = ssl_context
        self._clients: set[ClientConnection] = set()
        self._accepting: set[asyncio.Task[None]] = set()
        self._acceptor = Acceptor(runtime, self._accepted, self._is_full)
        self._refusal_logged = -NEVER
        self.use(settings)

    def use(self, settings: ProxySettings) -> None:
        """Give these settings to connections from now on."""
        self._settings = settings
        ticker = self._runtime.ticker
        ticker.limit_interval(settings.client_timeout)
        ticker.limit_interval(settings.keep_alive_timeout)
        ticker.limit_interval(settings.head_timeout)
        ticker.limit_interval(settings.linger_timeout)
        ticker.limit_interval(settings.tls_handshake_timeout)
        for connection in self._clients:
            connection.settings_changed()

    def use_tls(self, ssl_context: ssl.SSLContext | None) -> None:
        """Speak TLS with this from now on. Not to begin or end it."""
        self._ssl_context = ssl_context

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on listening sockets. They are closed by :meth:`stop`."""
        self._acceptor.listen(sockets)

    def stop(self) -> None:
        """Accept no more, close idle connections and tunnels. Running exchanges go on."""
        self.draining = True
        self._acceptor.close()
        self.close_idle()
        self._handler.end_tunnels(force=False)

    def close_idle(self) -> None:
        """Close the connections without a request."""
        for connection in list(self._clients):
            connection.shut_down(force=False)

    async def close_all_connections(self) -> None:
        """Abort what is still running."""
        if self._ssl_context is not None or self._settings.proxy_protocol:
            for task in list(self._accepting):
                task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for connection in list(self._clients):
            connection.shut_down(force=True)
        self._handler.end_tunnels(force=True)
        for _ in range(100):  # connection_lost() is called by one of the loop's next turns
            if not self._clients:
                return
            await asyncio.sleep(0.001)

    # -- for connections ---------------------------------------------------

    def opened(self, connection: ClientConnection) -> None:
        self._clients.add(connection)
        self._runtime.metrics.client_connections += 1
        self._runtime.ticker.watch(connection)

    def forget(self, connection: ClientConnection) -> None:
        if connection in self._clients:
            self._clients.discard(connection)
            self._runtime.metrics.client_connections -= 1
            self._runtime.ticker.forget(connection)
            self._runtime.ticker.reading_resumed(connection)

    # -- private -----------------------------------------------------------

    def _is_full(self) -> bool:
        limit = self._settings.max_connections
        return 0 < limit <= self._runtime.clients.total

    def _accepted(self, sock: socket.socket, address: object) -> None:
        peer = _client_address(address)
        if self._settings.proxy_protocol:
            self._runtime.clients.opened(_UNKNOWN)
            serving = self._serve_behind_balancer(sock, peer)
        elif self._may_come(sock, peer):
            serving = self._serve(sock, peer)
        else:
            return
        sock.setblocking(False)
        # On the socket itself: through uvloop's stand-in for it, that costs 20 µs more.
        probe_silent_peer(sock)
        task = self._runtime.loop.create_task(serving)
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    def _may_come(self, sock: socket.socket, client: bytes) -> bool:
        """Count a connection, or close it if its client has too many."""
        clients = self._runtime.clients
        limit = self._settings.max_connections_per_address
        if client and 0 < limit <= clients.by_address.get(client, 0):
            sock.close()
            self._note_refusal(client, limit)
            return False
        clients.opened(client)
        return True

    def _note_refusal(self, client: bytes, limit: int) -> None:
        self._runtime.metrics.limits_reached["max_connections_per_address"] += 1
        if monotonic() - self._refusal_logged >= _LOG_INTERVAL:
            self._refusal_logged = monotonic()
            self._runtime.log.warning(
                "Refused a connection of %s, which has %d (max_connections_per_address)",
                client.decode(),
                limit,
            )

    async def _serve_behind_balancer(self, sock: socket.socket, peer: bytes) -> None:
        """Serve a connection that begins with a PROXY header, before TLS."""
        try:
            receiving = receive_header(self._runtime.loop, sock)
            told = await asyncio.wait_for(receiving, self._settings.head_timeout)
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            sock.close()
            metrics = self._runtime.metrics
            metrics.client_connections_closed["proxy_protocol"] += 1
            reason = str(error)
            if isinstance(error, asyncio.TimeoutError):
                metrics.limits_reached["head_timeout"] += 1
                reason = "no complete PROXY header in time"
            line = f"Closed a connection of {peer.decode() or 'a local client'}: {reason}"
            self._runtime.repeats.write(logging.INFO, ("PROXY header", reason), line)
            return
        except BaseException:
            sock.close()
            raise
        finally:
            self._runtime.clients.closed(_UNKNOWN)
        trusted = self._settings.trusted_proxies
        client = told if told is not None and (trusted is None or trusted.trusts(peer)) else peer
        if self._may_come(sock, client):
            await self._serve(sock, client)

    async def _serve(self, sock: socket.socket, client: bytes) -> None:
        loop, context = self._runtime.loop, self._ssl_context
        connection = ClientConnection(self, self._handler, self._runtime, self._settings, client)
        try:
            if context is None:
                await loop.connect_accepted_socket(lambda: connection, sock)
            else:
                timeout = self._settings.tls_handshake_timeout
                tls = TlsTransport(self._runtime, connection, context, handshake_timeout=timeout)
                await loop.connect_accepted_socket(lambda: tls, sock)
                await tls.opened()
        except (OSError, ssl.SSLError, asyncio.TimeoutError) as error:
            metrics = self._runtime.metrics
            metrics.client_connections_closed["tls_handshake"] += 1
            if isinstance(error, ConnectionAbortedError):
                metrics.limits_reached["tls_handshake_timeout"] += 1
            self._runtime.log.debug("A client's connection failed before its first request: %s", error)
            sock.close()
        finally:
            if not connection.made:  # else it says itself when it is closed
                self._runtime.clients.closed(client)


def _client_address(address: object) -> bytes:
    """Return the IP address of a socket's peer, without a zone; none for a unix socket."""
    return str(address[0]).split("%")[0].encode() if isinstance(address, tuple) else b""


def _refuse_tornado_request(request: object) -> None:
    raise AssertionError("the proxy's connections are not Tornado's")
