"""Limits of connections and of heads: what happens at each, and that it is counted."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
from support.streams import end_of, hang, quiet
from support.wire import OK, Peer, Proxy, backend, proxy, until

from chp.config.options.limits import LimitOptions
from chp.runtime import Runtime

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
FULL = "Can't accept connections for the moment: there are as many as may be"
REFUSED = r"Refused a connection of 127\.0\.0\.1, which has 2 \(max_connections_per_address\)"


async def test_the_largest_numbers_work() -> None:
    largest = {name: trait.max for name, trait in LimitOptions.class_traits(config=True).items()}
    largest["drain_delay"] = 0  # it would not stop
    async with backend() as server, proxy(server.url, **largest) as chp:
        for _ in range(2):
            assert (await chp.get()).status == 200
        status, _ = await chp.outcome(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert status == 200


def reached(chp: Proxy) -> dict[str, int]:
    return {name: count for name, count in chp.app.metrics.limits_reached.items() if count}


def runtime(chp: Proxy) -> Runtime:
    it: Runtime = chp.app._servers[0]._runtime  # type: ignore[attr-defined]
    return it


async def switch(peer: Peer) -> None:
    """A script: a tunnel that says nothing."""
    await peer.receive_head()
    await peer.send(SWITCHED)
    await hang(peer)


async def test_heads_that_are_too_large() -> None:
    async with proxy(max_request_line=200, max_head_size=1024, max_field_count=5) as chp:
        for request, status in (
            (b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"x" * 200), 414),
            (b"GET /%b" % (b"x" * 300), 414),  # an end is not waited for
            (b"GET / HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (b"x" * 1024), 431),
            (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: x\r\n" * 5 + b"\r\n", 431),
        ):
            assert (await chp.outcome(request))[0] == status
        assert reached(chp) == {"max_request_line": 2, "max_head_size": 1, "max_field_count": 1}


async def test_a_head_that_takes_too_long() -> None:
    async with proxy(head_timeout=50) as chp:
        assert (await chp.outcome(b"GET / HTTP/1.1\r\n"))[0] == 408
        assert reached(chp) == {"head_timeout": 1}


async def test_a_handshake_that_takes_too_long(pki: Any) -> None:
    async with proxy(ssl_key=pki.key, ssl_cert=pki.cert, tls_handshake_timeout=50) as chp:
        assert await end_of(await chp.connect()) == b""
        assert reached(chp) == {"tls_handshake_timeout": 1}
        assert runtime(chp).clients.total == 0


# -- connections of clients -----------------------------------------------------------


@pytest.mark.expect_log(FULL)
async def test_who_comes_when_it_is_full_waits_until_somebody_leaves() -> None:
    async with backend() as server, proxy(server.url, max_connections=2) as chp:
        first, second = await chp.connect(), await chp.connect()
        for peer in (first, second):
            await peer.send(GET)
            assert (await peer.receive_message()).status == 200
        third = await chp.connect()  # to the backlog
        await third.send(GET)
        await until(lambda: reached(chp))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(third.reader.read(1), 0.3)
        await first.send(GET)
        assert (await first.receive_message()).status == 200
        await second.close()
        assert (await third.receive_message()).status == 200
        assert reached(chp) == {"max_connections": 1}


@pytest.mark.expect_log(FULL)
async def test_tunnels_are_connections_too() -> None:
    async with backend(switch) as server, proxy(server.url, max_connections=1) as chp:
        tunnel = await chp.connect()
        await tunnel.send(UPGRADE)
        await tunnel.receive_head()
        waiting = await chp.connect()
        await waiting.send(UPGRADE)
        await until(lambda: reached(chp))
        await tunnel.close()
        await waiting.receive_head()


@pytest.mark.expect_log(REFUSED)
async def test_one_address_can_not_take_it_all(log_lines: Any) -> None:
    async with backend(switch) as server, proxy(server.url, max_connections_per_address=2) as chp:
        tunnel, idle = await chp.connect(), await chp.connect()
        await tunnel.send(UPGRADE)
        await tunnel.receive_head()
        await until(lambda: chp.app.metrics.client_connections == 1)
        for _ in range(3):
            assert await end_of(await chp.connect()) == b""
        assert reached(chp) == {"max_connections_per_address": 3}
        assert len(log_lines.lines) == 1
        for leaving in (idle, tunnel):
            await leaving.close()
            await until(lambda: runtime(chp).clients.total < 2)
            tunnel = await chp.connect()
            await tunnel.send(UPGRADE)
            await tunnel.receive_head()


@pytest.mark.expect_log("Refused a connection of 127")
async def test_the_limits_can_change_while_it_runs() -> None:
    async with backend() as server, proxy(server.url) as chp:
        assert (await chp.get()).status == 200
        kept = await chp.connect()
        await kept.send(GET)
        assert (await kept.receive_message()).status == 200
        chp.app.max_connections_per_address = 1
        chp.app.reload()
        assert await end_of(await chp.connect()) == b""
        chp.app.max_connections_per_address = 0
        chp.app.reload()
        assert (await chp.get()).status == 200


@pytest.mark.parametrize("tls", [False, True])
async def test_every_end_of_a_connection_is_counted(pki: Any, tls: bool) -> None:
    options = {"ssl_key": pki.key, "ssl_cert": pki.cert} if tls else {}
    async with backend(switch) as server, proxy(server.url, **options) as chp:
        context = ssl.create_default_context(cafile=pki.ca) if tls else None
        peers = [await chp.connect(tls=context) for _ in range(6)]
        half = [await chp.connect() for _ in range(2)]  # in the middle of a handshake
        for peer in peers[:4]:
            await peer.send(UPGRADE)
            await peer.receive_head()
        clients = runtime(chp).clients
        await until(lambda: clients.total == 8)
        assert clients.by_address == {b"127.0.0.1": 8}
        for peer in (peers[0], peers[4], half[0]):
            peer.abort()
        for peer in (peers[1], peers[5], half[1]):
            await peer.close()
        await until(lambda: clients.total == 2)
        for peer in peers[2:4]:
            await peer.close()
        await quiet(chp)
        assert (clients.total, clients.by_address) == (0, {})


# -- connections to targets -----------------------------------------------------------


@pytest.mark.expect_log(r"503 GET / 2 requests to http://.* are under way \(max_connections_per_target\)")
async def test_a_target_gets_so_many_at_a_time() -> None:
    go_on = asyncio.Event()

    async def slow(peer: Peer) -> None:
        while True:
            await peer.receive_message()
            await go_on.wait()
            await peer.send(OK)

    async with (
        backend(slow) as server,
        backend() as other,
        proxy(server.url, max_connections_per_target=2) as chp,
    ):
        await chp.add_route("/other", other.url)
        busy = [await chp.connect() for _ in range(2)]
        for peer in busy:
            await peer.send(GET)
        await until(lambda: server.all_received.count(b"\r\n\r\n") == 2)
        assert (await chp.get()).status == 503
        assert (await chp.get("/other")).status == 200
        await busy[1].close()  # gives its place back
        await until(lambda: chp.app.metrics.client_connections == 1)
        go_on.set()
        assert (await busy[0].receive_message()).status == 200
        for _ in range(5):
            assert (await chp.get()).status == 200
        assert reached(chp) == {"max_connections_per_target": 1}
        assert chp.app.metrics.upstream_errors == {"limit": 1}


@pytest.mark.expect_log("503 GET / 1 requests to")
async def test_a_tunnel_is_under_way_until_it_ends() -> None:
    async with backend(switch) as server, proxy(server.url, max_connections_per_target=1) as chp:
        tunnel = await chp.connect()
        await tunnel.send(UPGRADE)
        await tunnel.receive_head()
        assert (await chp.request(UPGRADE)).status == 503
        await tunnel.close()
        await quiet(chp)
        again = await chp.connect()
        await again.send(UPGRADE)
        assert (await again.receive_head()).startswith(b"HTTP/1.1 101")


@pytest.mark.expect_log("503 (GET|POST) /")
async def test_what_fails_gives_its_place_back() -> None:
    async def vanish(peer: Peer) -> None:
        await peer.receive_head()

    async with backend(vanish) as server, proxy(server.url, max_connections_per_target=1) as chp:
        for _ in range(3):
            assert (await chp.get()).status == 503
        assert (
            await chp.request(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
        ).status == 503
        assert reached(chp) == {}
