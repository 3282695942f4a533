"""Addresses to listen on: binding, and what is left behind.

An address is what ``socket.connect`` takes: ``(host, port)``, or the path of a
unix domain socket.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from chp.errors import ConfigError

# Connections that wait to be accepted. Reconnecting browsers come by the
# thousand; the system caps it (net.core.somaxconn).
BACKLOG = 4096
_ATTEMPTS = 20
MAX_PORT = 65535

Address = tuple[str, int] | str


@dataclass(frozen=True)
class Endpoint:
    """Where one server is to listen.

    ``name`` says which server's options it is from: ``""``, ``"api-"``, ``"metrics-"`` or ``"redirect-"``.
    """

    name: str
    ip: str = ""  # empty: all interfaces
    port: int = 0  # 0: any free one
    socket: str = ""  # a path, and then no IP address and port
    reuse_port: bool = False  # other processes may listen there too

    def listen(self) -> Listener:
        """Bind, and let connections wait. Raises :class:`ConfigError` if that is not possible.

        With ``reuse_port`` none waits before :meth:`Listener.open`: other processes may answer at once.
        """
        try:
            if self.socket:
                return _listen_unix(self.socket)
            return _listen_tcp(self.ip, self.port, reuse_port=self.reuse_port)
        except (OSError, ValueError) as error:
            option = f"--{self.name}socket" if self.socket else f"--{self.name}port"
            where = self.socket or _host_port(self.ip or "*", self.port)
            raise ConfigError(f"{option}: can't listen on {where}: {_reason(error)}") from None


class Listener:
    """Listening sockets of one server. Their sockets are closed by :meth:`close`, or by the server."""

    def __init__(self, sockets: list[socket.socket], ip: str = "", path: str = "") -> None:
        self.sockets = sockets
        self._ip = ip
        self._path = path
        self._inode = os.lstat(path).st_ino if path else 0

    @property
    def address(self) -> Address:
        """The real address, also where any free port was asked for; ``(host, port)`` or a path."""
        if self._path:
            return self._path
        host, port = self.sockets[0].getsockname()[:2]
        return host, port

    def url(self, scheme: str) -> str:
        """Return a URL for the log, with the IP address as the operator wrote it."""
        if self._path:
            return f"{scheme}+unix://{quote(self._path, safe='')}"
        return f"{scheme}://{_host_port(self._ip or '*', self.sockets[0].getsockname()[1])}"

    def open(self) -> None:
        """Let connections wait, if they do not yet. Raises :class:`ConfigError`."""
        try:
            for sock in self.sockets:
                sock.listen(BACKLOG)
        except OSError as error:  # somebody without --reuse-port came in between
            raise ConfigError(f"can't listen on {self.url('tcp')}: {_reason(error)}") from None

    def remove_file(self) -> None:
        """Remove the file of a unix socket, unless somebody has replaced it. No error if it is gone."""
        with contextlib.suppress(OSError):
            if self._path and os.lstat(self._path).st_ino == self._inode:
                os.unlink(self._path)

    def close(self) -> None:
        self.remove_file()
        for sock in self.sockets:
            sock.close()


def _listen_tcp(ip: str, port: int, *, reuse_port: bool) -> Listener:
    # A port that is free for IPv4 may be taken for IPv6: with port 0, try another.
    attempts = _ATTEMPTS if port == 0 else 1
    while True:
        attempts -= 1
        try:
            return Listener(_bind_all(ip, port, reuse_port=reuse_port), ip=ip)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not attempts:
                raise


def _bind_all(ip: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    """Bind every address of a host name, or of all interfaces, to the same port."""
    if port > MAX_PORT:  # the API's default, where the proxy has the last port
        raise ValueError(f"there is no port above {MAX_PORT}")
    host = None if ip in ("", "::") else ip  # Node binds "::" for IPv4 as well
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    unavailable: OSError | None = None
    try:
        # IPv4 first; a name may have the same address twice in /etc/hosts.
        for family, address in sorted({(entry[0], entry[4]) for entry in found}):
            try:
                wanted = (address[0], port or (sockets[0].getsockname()[1] if sockets else 0), *address[2:])
                sock = _bind(family, wanted) if reuse_port else _listen(family, wanted)
            except OSError as error:
                # localhost has two addresses, also where a kernel has no IPv6.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                unavailable = error
            else:
                sock.setblocking(False)
                sockets.append(sock)
        if not sockets and unavailable is not None:
            raise unavailable
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listen(family: int, address: tuple[Any, ...]) -> socket.socket:
    return socket.create_server(address, family=family, backlog=BACKLOG)


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_unix(path: str) -> Listener:
    """Bind a unix socket. Its modes are those of the umask: JupyterHub relies on that."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.bind(path)
        sock.listen(BACKLOG)
        return Listener([sock], path=path)
    except BaseException:
        sock.close()
        raise


def _remove_stale(path: str) -> None:
    """Remove a socket that an earlier process left.

    Raises ``ValueError`` if it is no socket, ``OSError`` if it is in use.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ValueError("the file exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        # Refused: nobody listens. Anything else (also a full backlog): somebody does.
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(path)


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        # Not the error's own text: create_server() adds the address to it.
        return os.strerror(error.errno).lower()
    return str(error.args[-1] if error.args else error)
