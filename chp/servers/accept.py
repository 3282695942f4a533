"""Accepting connections, without a busy loop when there is no file descriptor left for one."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, SSLIOStream
from tornado.netutil import ssl_wrap_socket

from chp.runtime import NEVER, Runtime

_ACCEPTS_AT_ONCE = 100  # then other connections have their turn
_ACCEPT_PAUSE = 1.0  # seconds, when file descriptors or memory are used up
_FULL_PAUSE = 0.1  # seconds, when there are as many connections as may be
_LOG_INTERVAL = 60.0  # seconds between two lines that say so


class Acceptor:
    """Hands what comes in on listening sockets to ``accepted(socket, address)``.

    Tornado's add_accept_handler() would be called for ever, with an error each time, once the
    process has no file descriptor left: the socket stays readable.
    """

    def __init__(
        self,
        runtime: Runtime,
        accepted: Callable[[socket.socket, Any], None],
        is_full: Callable[[], bool] = lambda: False,
    ) -> None:
        """``is_full`` tells that no connection is to be accepted for now."""
        self._runtime = runtime
        self._accepted = accepted
        self._is_full = is_full
        self._listening: list[socket.socket] = []
        self._logged = -NEVER

    def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Accept from these, which do not block. They are closed by :meth:`close`."""
        for listening in sockets:
            self._listening.append(listening)
            self._runtime.loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Accept no more, after those that have been waiting."""
        for listening in self._listening:
            self._runtime.loop.remove_reader(listening)
            if not self._is_full():
                self._accept(listening)
            listening.close()
        self._listening.clear()

    def _accept(self, listening: socket.socket) -> None:
        if self._is_full():
            self._runtime.metrics.limits_reached["max_connections"] += 1
            self._pause(listening, "there are as many as may be (max_connections)", _FULL_PAUSE)
            return
        for _ in range(_ACCEPTS_AT_ONCE):
            if self._is_full():
                return  # if somebody is waiting, this is called again
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # this one has left already
            except OSError as error:
                self._runtime.metrics.accept_pauses += 1
                self._pause(listening, str(error.strerror), _ACCEPT_PAUSE)
                return
            self._accepted(sock, address)

    def _pause(self, listening: socket.socket, reason: str, seconds: float) -> None:
        """Leave new connections in the backlog for a moment: there is no room for them."""
        loop = self._runtime.loop
        if monotonic() - self._logged >= _LOG_INTERVAL:
            self._logged = monotonic()
            self._runtime.log.error("Can't accept connections for the moment: %s", reason)
        loop.remove_reader(listening)

        def go_on() -> None:
            if listening not in self._listening:
                return
            if self._is_full():
                loop.call_later(_FULL_PAUSE, go_on)
            else:
                loop.add_reader(listening, self._accept, listening)

        loop.call_later(seconds, go_on)


class PatientServer(HTTPServer):
    """Tornado's server in all but accepting: for the REST API, the metrics and the redirects."""

    def initialize(self, application: Any, runtime: Runtime, **options: Any) -> None:  # type: ignore[override]
        super().initialize(application, **options)
        self._acceptor = Acceptor(runtime, self._accepted)

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        self._acceptor.listen(sockets)

    def stop(self) -> None:
        self._acceptor.close()

    def _accepted(self, sock: socket.socket, address: Any) -> None:
        sizes = {"max_buffer_size": self.max_buffer_size, "read_chunk_size": self.read_chunk_size}
        if not isinstance(self.ssl_options, ssl.SSLContext):
            self.handle_stream(IOStream(sock, **sizes), address)
            return
        try:
            sock.getpeername()  # ssl would raise as well, and leave its socket open
            sock = ssl_wrap_socket(sock, self.ssl_options, server_side=True, do_handshake_on_connect=False)
        except OSError:  # it has left already
            sock.close()
            return
        self.handle_stream(SSLIOStream(sock, **sizes), address)
