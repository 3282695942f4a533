"""Requests without a route, while the table is known to lack changes of its store."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.wire import OK, backend, proxy, until

GET = b"GET /user/ada/x HTTP/1.1\r\nHost: h\r\n\r\n"


async def test_they_wait_for_their_route() -> None:
    async with backend() as it, backend() as default, proxy(default.url) as front:
        front.app.table.link._set_behind()
        waiting = [asyncio.create_task(front.request(GET)) for _ in range(3)]
        await until(lambda: front.app.metrics.store_waits == 3)
        await front.add_route("/user/ada", it.url)
        front.app.table.link._in_step()
        for answer in await asyncio.gather(*waiting):
            assert (answer.status, answer.content) == (200, b"ok")
        assert not default.connections
        assert it.all_received.count(b"GET /user/ada/x HTTP/1.1\r\n") == 3
        # What has a route does not wait, nor does anything afterwards.
        front.app.table.link._set_behind()
        assert (await front.request(GET)).status == 200
        front.app.table.link._in_step()
        assert (await front.get("/elsewhere")).status == 200
        assert front.app.metrics.store_waits == 3
        assert default.connections == 1


async def test_content_that_comes_meanwhile_is_kept() -> None:
    async with backend() as it, proxy() as front:
        front.app.table.link._set_behind()
        peer = await front.connect()
        await peer.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n" + b"x" * 1000)
        await until(lambda: front.app.metrics.store_waits == 1)
        sending = asyncio.create_task(peer.send(b"y" * 299_000))
        await front.add_route("/a", it.url)
        front.app.table.link._in_step()
        await sending
        assert (await peer.receive_message()).status == 200
        assert it.all_received.endswith(b"x" * 1000 + b"y" * 299_000)


async def test_an_upgrade_waits_too() -> None:
    async def switch(peer) -> None:  # type: ignore[no-untyped-def]
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
        await peer.send(await peer.receive(5))

    async with backend(switch) as it, proxy() as front:
        front.app.table.link._set_behind()
        peer = await front.connect()
        await peer.send(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nearly")
        await until(lambda: front.app.metrics.store_waits == 1)
        await front.add_route("/a", it.url)
        front.app.table.link._in_step()
        assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")
        assert await peer.receive(5) == b"early"


@pytest.mark.expect_log("404 GET /user/ada/x")
async def test_they_do_not_wait_for_ever_nor_twice() -> None:
    async with proxy(storage_patience=100) as front:
        front.app.table.link._set_behind()
        started = time.monotonic()
        assert (await front.request(GET)).status == 404
        assert 0.09 < time.monotonic() - started < 3
        front.app.table.link._set_behind()  # the same fault goes on
        assert (await front.request(GET)).status == 404
        assert front.app.metrics.store_waits == 1


@pytest.mark.expect_log("404 GET /user/ada/x")
async def test_without_patience() -> None:
    async with proxy(storage_patience=0) as front:
        front.app.table.link._set_behind()
        assert (await front.request(GET)).status == 404
        assert front.app.metrics.store_waits == 0


async def test_a_client_that_leaves() -> None:
    async with backend() as it, proxy() as front:
        front.app.table.link._set_behind()
        peer = await front.connect()
        await peer.send(GET)
        await until(lambda: front.app.metrics.store_waits == 1)
        peer.abort()
        await until(lambda: front.app.metrics.client_connections == 0)
        await front.add_route("/user/ada", it.url)
        front.app.table.link._in_step()
        assert (await front.request(GET)).status == 200
        assert it.connections == 1


async def test_the_proxy_stops_while_one_waits() -> None:
    async with proxy(drain_timeout=50) as front:
        front.app.table.link._set_behind()
        peer = await front.connect()
        await peer.send(GET)
        await until(lambda: front.app.metrics.store_waits == 1)


async def test_pipelined_requests_stay_in_order() -> None:
    async def echo(peer) -> None:  # type: ignore[no-untyped-def]
        while True:
            message = await peer.receive_message()
            await peer.send(OK[:-2] + message.start.split()[1][-2:])

    async with backend(echo) as it, proxy() as front:
        await front.add_route("/b", it.url)
        front.app.table.link._set_behind()
        peer = await front.connect()
        await peer.send(b"".join(b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % path for path in (b"a/1", b"b/2")))
        await until(lambda: front.app.metrics.store_waits == 1)
        await front.add_route("/a", it.url)
        front.app.table.link._in_step()
        assert [(await peer.receive_message()).content for _ in range(2)] == [b"/1", b"/2"]
