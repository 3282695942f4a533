"""The curl upstream: handles, sockets and clients come and go, and nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import select
import socket
import weakref
from typing import Any

import pytest
from support.streams import hang, quiet
from support.wire import OK, Peer, Proxy, answer_ok, backend, proxy, until

from chp.upstream import curl, curl_client
from chp.upstream.addresses import Address, Resolver
from chp.upstream.choice import ChosenUpstream
from chp.upstream.curl_client import CurlClient


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[CurlClient]:
    """All clients that a test makes."""
    made: weakref.WeakSet[CurlClient] = weakref.WeakSet()

    def make_and_note(**options: Any) -> CurlClient:
        client = CurlClient(**options)
        made.add(client)
        return client

    monkeypatch.setattr(curl, "CurlClient", make_and_note)
    return made


def idle(chp: Proxy) -> int:
    return chp.app.metrics.upstream_connections_idle


async def test_each_origin_has_a_client_of_its_own(clients: weakref.WeakSet[CurlClient]) -> None:
    async with backend() as one, backend() as other, proxy() as chp:
        await chp.add_route("/a", one.url)
        await chp.add_route("/b", other.url)
        for path in ("/a", "/b", "/a", "/b"):
            assert (await chp.get(path)).status == 200
        assert len(clients) == 2
        assert (one.connections, other.connections) == (1, 1)


async def test_a_client_without_connections_is_gone(clients: weakref.WeakSet[CurlClient]) -> None:
    async with backend() as server, proxy(server.url, pool_idle_timeout=50) as chp:
        assert (await chp.get()).status == 200
        await until(lambda: not idle(chp))
        gc.collect()
        assert not clients
        assert (await chp.get()).status == 200
        assert server.connections == 2


@pytest.mark.expect_log("503 GET / no address for http://nowhere.test:1")
async def test_a_client_whose_name_has_no_address_is_gone(
    clients: weakref.WeakSet[CurlClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(resolver: Resolver, host: str) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(Resolver, "_ask", ask)
    monkeypatch.setattr(curl_client, "_SWEEP_INTERVAL", 0.02)
    async with proxy("http://nowhere.test:1", pool_idle_timeout=50) as chp:
        assert (await chp.get()).status == 503
        assert chp.app.metrics.upstream_errors == {"dns": 1}
        await until(lambda: gc.collect() >= 0 and not clients)


async def test_nothing_is_left_when_the_proxy_stops(clients: weakref.WeakSet[CurlClient]) -> None:
    async with backend(hang) as silent, backend() as server:
        async with proxy(server.url, drain_timeout=1) as chp:
            await chp.add_route("/silent", silent.url)
            assert (await chp.get()).status == 200
            peer = await chp.connect()
            await peer.send(b"GET /silent HTTP/1.1\r\nHost: h\r\n\r\n")
            await silent.wait_for(b"\r\n\r\n")
            metrics = chp.app.metrics
            assert metrics.upstream_connections == 2
        assert (metrics.upstream_connections, metrics.upstream_connections_idle) == (0, 0)
    gc.collect()
    assert not clients


async def test_many_handles_after_a_rush_are_given_back(clients: weakref.WeakSet[CurlClient]) -> None:
    async with backend() as server, proxy(server.url) as chp:
        messages = await asyncio.gather(*(chp.get() for _ in range(150)))
        assert {message.status for message in messages} == {200}
        (client,) = clients
        assert len(client._handles) == len(client._free) <= 64


async def test_an_exchange_that_ends_while_others_run_leaves_its_connection_to_them() -> None:
    """The socket stays watched between two requests, and a new one may get its number."""
    polls = asyncio.Event()

    async def answer(peer: Peer) -> None:
        while True:
            message = await peer.receive_message()
            if b"/poll" in message.start:
                await polls.wait()
            await peer.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            if b"/close" in message.start:
                return

    async with backend(answer) as server, proxy(server.url) as chp:
        poll = await chp.connect()
        await poll.send(b"GET /poll HTTP/1.1\r\nHost: h\r\n\r\n")
        await server.wait_for(b"/poll")
        for number in range(50):
            path = "/close" if number % 3 == 0 else "/keep"
            assert (await chp.get(path)).content == b"ok"
        polls.set()
        assert (await poll.receive_message()).content == b"ok"
        await poll.close()
        await quiet(chp)


async def test_a_server_that_closes_idle_connections_meets_no_failing_request() -> None:
    """Each of them is closed as soon as it is idle, while others are in use."""

    async def answer(peer: Peer) -> None:
        await answer_once(peer)

    async def answer_once(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        for _ in range(100):
            await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await peer.receive_message()).status == 200
        assert chp.app.metrics.requests_proxy == {200: 100}
        assert server.connections >= 100


async def test_clients_that_vanish_at_any_moment_disturb_nobody() -> None:
    async def answer(peer: Peer) -> None:
        while True:
            await peer.receive_message()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000))

    async def vanish(chp: Proxy, number: int) -> None:
        peer = await chp.connect()
        await peer.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 70000\r\n\r\n" + bytes(number * 1000))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        peer.abort()

    async with backend(answer) as server, proxy(server.url) as chp:
        for start in range(0, 80, 8):
            others = [vanish(chp, number) for number in range(start, start + 8)]
            results = await asyncio.gather(chp.get(), *others)
            assert len(results[0].content) == 300_000
        await quiet(chp)


async def test_a_client_of_an_earlier_tornado_loses_nothing(clients: weakref.WeakSet[CurlClient]) -> None:
    """Before version 6.6 it has libcurl act once a second, and reads the results itself."""

    async def answer(peer: Peer) -> None:
        while True:
            await peer.receive_message()
            await peer.send(OK)
            for client in clients:
                client._handle_force_timeout()

    async with backend(answer) as server, proxy(server.url) as chp:
        for _ in range(20):
            assert (await chp.get()).content == b"ok"


async def test_a_loop_that_has_no_epoll_to_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")
    async with backend() as server, proxy(server.url) as chp:
        content = bytes(100_000)
        request = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + content
        for _ in range(3):
            assert (await chp.request(request)).status == 200
        assert server.connections == 1


async def test_uploads_and_upgrades_have_the_right_upstream() -> None:
    async with backend(answer_ok) as server, proxy(server.url) as chp:
        handler: Any = chp.app._servers[0]._handler  # type: ignore[attr-defined]
        assert isinstance(handler.upstream, ChosenUpstream)
        assert (await chp.get(fields="Connection: Upgrade\r\nUpgrade: x\r\n")).status == 200
        assert not handler.upstream._curl._clients
