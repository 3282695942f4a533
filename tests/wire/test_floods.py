"""Floods of one and the same failure do not flood the log."""

from __future__ import annotations

import contextlib
from typing import Any

from support.wire import Peer, backend, proxy


async def test_a_dead_target_has_one_line_and_a_number(log_lines: Any) -> None:
    async with proxy() as chp:
        await chp.add_route("/a", "http://127.0.0.1:1")
        await chp.add_route("/b", "http://127.0.0.1:2")
        for number in range(20):
            assert (await chp.get(f"/a/{number}?secret")).status == 503
        assert (await chp.get("/b")).status == 503
        (line,) = log_lines.take("503 GET /a/")
        assert "503 GET /a/0 connection refused by http://127.0.0.1:1" in line
        assert log_lines.take("503 GET /b connection refused by http://127.0.0.1:2$")
    (line,) = log_lines.take("repeated")
    assert line.endswith("503 GET /a/19 connection refused by http://127.0.0.1:1: repeated 19 times")


async def test_so_have_responses_that_are_cut_and_other_reasons(log_lines: Any) -> None:
    async def cut(peer: Peer) -> None:
        if b"/early" in await peer.receive_head():
            return
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")

    async with backend(cut) as server, proxy(server.url) as chp:
        for path in ("/early", "/late"):
            for _ in range(3):
                peer = await chp.connect()
                await peer.send(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                with contextlib.suppress(ConnectionResetError):
                    await peer.receive_all() if path == "/late" else await peer.receive_message()
    assert len(log_lines.take("503 GET /early [^:]*$")) == 1
    assert len(log_lines.take("503 GET /early .*: repeated 2 times")) == 1
    assert len(log_lines.take("Response to GET /late cut: [^:]*$")) == 1
    assert len(log_lines.take("Response to GET /late cut: .*: repeated 2 times")) == 1


async def test_requests_without_a_route_each_have_a_line(log_lines: Any) -> None:
    async with proxy() as chp:
        for _ in range(3):
            await chp.get("/missing")
    assert len(log_lines.take("404 GET /missing$")) == 3


async def test_so_has_an_error_target_that_is_dead(log_lines: Any) -> None:
    async with proxy(error_target="http://127.0.0.1:1") as chp:
        for _ in range(3):
            await chp.get("/missing")
    assert len(log_lines.take("Failed to get custom error page: [^:]*http://127.0.0.1:1$")) == 1
    assert len(log_lines.take("Failed to get custom error page: .*: repeated 2 times")) == 1
    assert len(log_lines.take("404 GET /missing$")) == 3
