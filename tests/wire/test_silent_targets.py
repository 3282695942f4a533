"""Targets that do not answer when they are connected to: requests don't pile up in front of them."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import pytest
from support.silence import attempts_at, silent_port
from support.streams import background, quiet
from support.wire import OK, Peer, Proxy, backend, proxy, until

from chp.upstream import attempts

TIMEOUT = 300  # milliseconds
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def seconds(chp: Proxy) -> tuple[int, float]:
    begin = monotonic()
    message = await chp.get()
    return message.status, monotonic() - begin


def silent_errors(chp: Proxy) -> int:
    return chp.app.metrics.upstream_errors["silent"]


async def test_a_silent_target_costs_few_connections(log_lines: Any) -> None:
    timeout, count = 1.0, 50
    with silent_port() as silent:
        async with proxy(silent.url, connect_timeout=int(timeout * 1000)) as chp:
            assert (await chp.get()).status == 503
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, attempts_at(silent.port))
                    await asyncio.sleep(0.05)

            async with background(watch()):
                answers = await asyncio.gather(*(chp.get() for _ in range(count)))
            assert {message.status for message in answers} == {503}
            # Some of them were attempts: one at once, and one whenever one more was due.
            begun = 1 + round(attempts._PATIENCE / attempts._INTERVAL)
            assert 1 <= most <= begun
            assert silent_errors(chp) >= count - begun
            await quiet(chp)
            assert attempts_at(silent.port) == 0
    log_lines.take("503 GET / .*(timed out|does not answer, and is being tried already)")


@pytest.mark.parametrize("waiting", [0, 20], ids=["at rest", "while others wait"])
async def test_a_target_that_is_back_is_never_shown_as_down(waiting: int, log_lines: Any) -> None:
    with silent_port() as silent:
        async with proxy(silent.url, connect_timeout=1000) as chp:
            assert (await chp.get()).status == 503
            others = [asyncio.ensure_future(chp.get()) for _ in range(waiting)]
            if others:
                await until(lambda: attempts_at(silent.port))
            silent.close()
            async with backend(port=silent.port):
                answers = await asyncio.gather(*(chp.get() for _ in range(20)))
                assert [message.status for message in answers] == [200] * 20
                await asyncio.gather(*others)
                assert silent_errors(chp) == 0
    log_lines.take("503 GET / ")


@pytest.mark.expect_log("503 GET / connection refused")
async def test_a_target_that_refuses_is_tried_by_every_request() -> None:
    with silent_port() as silent:
        silent.close()
        async with proxy(silent.url) as chp:
            answers = await asyncio.gather(*(seconds(chp) for _ in range(20)))
            assert {status for status, _ in answers} == {503}
            assert max(duration for _, duration in answers) < 1
            async with backend(port=silent.port):
                assert (await chp.get()).status == 200
            assert chp.app.metrics.upstream_errors == {"refused": 20}


async def test_connections_that_are_open_are_used_at_a_silent_target(log_lines: Any) -> None:
    """It may only be too busy to accept more."""
    with silent_port() as silent:
        silent.listening.listen(8)  # it answers for a moment
        silent.listening.setblocking(False)
        loop = asyncio.get_running_loop()
        async with proxy(silent.url, connect_timeout=TIMEOUT) as chp:
            (await loop.sock_accept(silent.listening))[0].close()
            peer = await chp.connect()
            await peer.send(GET)
            accepted, _ = await loop.sock_accept(silent.listening)
            server = Peer(*await asyncio.open_connection(sock=accepted))
            await server.receive_head()
            await server.send(OK)
            assert (await peer.receive_message()).status == 200
            silent.listening.listen(0)
            filler = await asyncio.open_connection(silent.address, silent.port)
            # While the open one is in use, another can't be opened.
            await peer.send(GET)
            await server.receive_head()
            assert (await chp.get()).status == 503
            begun = asyncio.ensure_future(chp.get())
            await until(lambda: attempts_at(silent.port))
            await server.send(OK)
            assert (await peer.receive_message()).status == 200
            await peer.send(GET)
            await asyncio.wait_for(server.receive_head(), 0.5)
            await server.send(OK)
            assert (await peer.receive_message()).status == 200
            await begun
            filler[1].close()
            await server.close()
    log_lines.take("503 GET / connecting to")


async def test_a_client_that_leaves_while_it_waits_for_its_turn(log_lines: Any) -> None:
    with silent_port() as silent:
        async with proxy(silent.url, connect_timeout=TIMEOUT) as chp:
            assert (await chp.get()).status == 503
            peers = [await chp.connect() for _ in range(10)]
            for peer in peers:
                await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
            await until(lambda: attempts_at(silent.port) == 1)
            for peer in peers:
                peer.abort()
            await quiet(chp)
            await until(lambda: attempts_at(silent.port) == 0)
    log_lines.take("503 ")


async def test_a_proxy_that_stops_does_not_wait_for_a_silent_target(log_lines: Any) -> None:
    with silent_port() as silent:
        async with proxy(silent.url, connect_timeout=TIMEOUT, drain_timeout=1) as chp:
            assert (await chp.get()).status == 503
            for _ in range(5):
                await (await chp.connect()).send(GET)
            await until(lambda: attempts_at(silent.port) == 1)
            begin = monotonic()
            await chp.app.stop()
            assert monotonic() - begin < 0.2
    log_lines.take("503 ")
