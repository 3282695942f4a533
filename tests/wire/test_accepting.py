"""Accepting when there is no file descriptor left: it pauses, and goes on; nothing spins."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from typing import Any

import pytest
from support.wire import Message, Peer, backend, proxy, reset_when_closed, until

from chp.servers import accept

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
LISTS = b"GET /api/routes HTTP/1.1\r\nHost: h\r\nAuthorization: token secret\r\n\r\n"
SCRAPES = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"
PAUSE = 0.05


class Exhausted:
    """A listening socket of a process that has no file descriptor left."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.setblocking(False)
        self.attempts = 0
        self.exhausted = True

    def fileno(self) -> int:
        return self.listening.fileno()

    def close(self) -> None:
        self.listening.close()

    def accept(self) -> tuple[socket.socket, Any]:
        if self.exhausted:
            self.attempts += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.listening.accept()


@pytest.mark.parametrize(("server", "request_"), [(0, GET), (1, LISTS), (2, SCRAPES), (3, GET)])
async def test_accepting_pauses_while_there_are_no_descriptors(
    monkeypatch: pytest.MonkeyPatch, log_lines: Any, pki: Any, server: int, request_: bytes
) -> None:
    monkeypatch.setattr(accept, "_ACCEPT_PAUSE", PAUSE)
    tls = {"ssl_key": pki.key, "ssl_cert": pki.cert, "redirect_port": 0} if server == 3 else {}
    async with backend() as it, proxy(it.url, metrics_port=0, metrics_ip="127.0.0.1", **tls) as chp:
        open_before = Peer(*await asyncio.open_connection(*chp.app.api_address))
        stand_in = Exhausted()  # the server closes it
        chp.app._servers[server].add_sockets([stand_in])  # type: ignore[list-item]
        begin = time.monotonic()
        peer = Peer(*await asyncio.open_connection(*stand_in.listening.getsockname()))
        await peer.send(request_)
        await until(lambda: stand_in.attempts >= 3)
        assert time.monotonic() - begin > 2 * PAUSE * 0.9
        # Those that are in are served meanwhile.
        await open_before.send(LISTS)
        assert (await open_before.receive_message()).status == 200
        stand_in.exhausted = False
        assert Message(await peer.receive_head()).status == (301 if server == 3 else 200)
        lines = log_lines.take("Can't accept connections for the moment: Too many open files")
        assert len(lines) == 1  # not one for each attempt
        assert chp.app.metrics.accept_pauses == stand_in.attempts
        await peer.close()
        await open_before.close()


async def test_the_redirect_server_and_the_api_do_not_mind_clients_that_leave_at_once(pki: Any) -> None:
    tls = {"api_ssl_key": pki.key, "api_ssl_cert": pki.cert}
    async with proxy(**tls) as chp:
        for _ in range(20):
            with socket.create_connection(chp.app.api_address) as sock:
                reset_when_closed(sock)
        trusting = ssl.create_default_context(cafile=pki.ca)
        peer = Peer(*await asyncio.open_connection(*chp.app.api_address, ssl=trusting))
        await peer.send(LISTS)
        assert (await peer.receive_message()).status == 200
        await peer.close()


async def test_who_waits_to_be_accepted_when_the_proxy_stops_is_still_served() -> None:
    async with backend() as it, proxy(it.url) as chp:
        # In the backlog, and not yet accepted: nothing here lets the loop run.
        sock = socket.create_connection(chp.app.proxy_address)
        sock.sendall(GET)
        sock.setblocking(False)
        await chp.app.stop()
        peer = Peer(*await asyncio.open_connection(sock=sock))
        message = await peer.receive_message()
        assert (message.status, message.value(b"Connection")) == (200, b"close")
        assert await peer.receive_all() == b""
        await peer.close()
