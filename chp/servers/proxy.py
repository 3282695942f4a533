"""The proxy's server: a Tornado HTTPServer whose connections are asyncio protocols."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterable

from tornado.httpserver import HTTPServer

from chp.config.settings import ProxySettings
from chp.runtime import Runtime
from chp.servers.connection import ClientConnection, RequestHandler, client_address
from chp.servers.proxy_protocol import receive_header
from chp.sockets import probe_silent_peer

_ACCEPTS_AT_ONCE = 100  # then other connections have their turn
_ACCEPT_PAUSE = 1.0  # seconds, when file descriptors or memory are used up


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
        self._settings = settings
        self._ssl_context = ssl_context
        self._clients: set[ClientConnection] = set()
        self._accepting: set[asyncio.Task[None]] = set()
        self._listening: list[socket.socket] = []
        runtime.ticker.limit_interval(settings.client_timeout)
        runtime.ticker.limit_interval(settings.keep_alive_timeout)
        runtime.ticker.limit_interval(settings.head_timeout)
        runtime.ticker.limit_interval(settings.linger_timeout)

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on listening sockets. They are closed by :meth:`stop`."""
        for listening in sockets:
            self._listening.append(listening)
            self._runtime.loop.add_reader(listening, self._accept, listening)

    def stop(self) -> None:
        """Accept no more, close idle connections and tunnels. Running exchanges go on."""
        self.draining = True
        for listening in self._listening:
            self._runtime.loop.remove_reader(listening)
            listening.close()
        self._listening.clear()
        for connection in list(self._clients):
            connection.shut_down(force=False)
        self._handler.end_tunnels()

    async def close_all_connections(self) -> None:
        """Abort what is still running."""
        if self._ssl_context is not None or self._settings.proxy_protocol:
            for task in list(self._accepting):
                task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for connection in list(self._clients):
            connection.shut_down(force=True)
        self._handler.end_tunnels()
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

    def _accept(self, listening: socket.socket) -> None:
        # Tornado's add_accept_handler() would call this for ever, with an error each
        # time, once the process has no file descriptor left.
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, _address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # this one has left already
            except OSError as error:
                self._pause_accepting(listening, error)
                return
            sock.setblocking(False)
            # On the socket itself: through uvloop's stand-in for it, that costs 20 µs more.
            probe_silent_peer(sock)
            serve = self._serve_behind_balancer if self._settings.proxy_protocol else self._serve
            task = self._runtime.loop.create_task(serve(sock))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    def _pause_accepting(self, listening: socket.socket, error: OSError) -> None:
        """Leave new connections in the backlog for a moment: there is no room for them."""
        self._runtime.log.error("Can't accept connections for the moment: %s", error.strerror)
        loop = self._runtime.loop
        loop.remove_reader(listening)

        def go_on() -> None:
            if listening in self._listening:
                loop.add_reader(listening, self._accept, listening)

        loop.call_later(_ACCEPT_PAUSE, go_on)

    async def _serve_behind_balancer(self, sock: socket.socket) -> None:
        """Serve a connection that begins with a PROXY header, before TLS."""
        peer = b""
        try:
            peer = client_address(sock.getpeername())
            receiving = receive_header(self._runtime.loop, sock)
            told = await asyncio.wait_for(receiving, self._settings.head_timeout)
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            sock.close()
            self._runtime.metrics.client_connections_closed["proxy_protocol"] += 1
            reason = "no complete PROXY header in time" if isinstance(error, asyncio.TimeoutError) else error
            line = f"Closed a connection of {peer.decode() or 'a local client'}: {reason}"
            self._runtime.repeats.write(logging.INFO, ("PROXY header", str(reason)), line)
            return
        except BaseException:
            sock.close()
            raise
        trusted = self._settings.trusted_proxies
        if trusted is not None and not trusted.trusts(peer):
            told = None
        await self._serve(sock, told)

    async def _serve(self, sock: socket.socket, told: bytes | None = None) -> None:
        """Serve a connection; ``told`` is the client's address where a load balancer has said it."""
        timeout = self._settings.tls_handshake_timeout if self._ssl_context else None
        try:
            await self._runtime.loop.connect_accepted_socket(
                lambda: ClientConnection(self, self._handler, self._runtime, self._settings, told),
                sock,
                ssl=self._ssl_context,
                ssl_handshake_timeout=timeout,
            )
        except (OSError, ssl.SSLError, asyncio.TimeoutError) as error:
            self._runtime.metrics.client_connections_closed["tls_handshake"] += 1
            self._runtime.log.debug("A client's connection failed before its first request: %s", error)
            sock.close()


def _refuse_tornado_request(request: object) -> None:
    raise AssertionError("the proxy's connections are not Tornado's")
