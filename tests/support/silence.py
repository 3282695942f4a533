"""Ports at which nobody answers: a connection attempt there hangs, as at a host that is gone."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from support.ports import free_port


class SilentPort:
    """A port whose backlog is full: the kernel drops what else comes."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        """``port`` is 0 for a free one, which stays free when this is closed."""
        self.listening = socket.socket()
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listening.bind((address, port or free_port()))
        self.listening.listen(0)
        self.address, self.port = self.listening.getsockname()
        self.url = f"http://{self.address}:{self.port}"
        self._fillers = [socket.create_connection((self.address, self.port), 1)]

    def close(self) -> None:
        """Whoever asks from now on is refused."""
        for sock in (self.listening, *self._fillers):
            sock.close()


@contextlib.contextmanager
def silent_port(address: str = "127.0.0.1", port: int = 0) -> Iterator[SilentPort]:
    it = SilentPort(address, port)
    try:
        yield it
    finally:
        it.close()


def attempts_at(port: int) -> int:
    """Count the connections to a port that are being opened now, by anybody on this machine (Linux)."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        next(table)
        rows = [line.split() for line in table]
    syn_sent = "02"
    return sum(row[3] == syn_sent and int(row[2].split(":")[1], 16) == port for row in rows)
