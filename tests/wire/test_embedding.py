"""The proxy inside another program: start and stop, addresses, the hook for outgoing requests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.streams import end_of, hang, quiet
from support.wire import OK, PATIENCE, Message, Peer, backend, proxy, until

from chp.app import ConfigurableProxy
from chp.errors import ConfigError
from chp.http1.target import Target
from chp.upstream.base import UpstreamRequest

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def new_app(**options: Any) -> ConfigurableProxy:
    return ConfigurableProxy(
        **{"ip": "127.0.0.1", "port": 0, "api_port": 0, "auth_token": "secret", **options}
    )


async def test_it_starts_and_stops_again_and_again() -> None:
    async with backend() as server:
        app = new_app(default_target=server.url, metrics_port=0)
        for _ in range(3):
            await app.start_servers()
            host, port = app.proxy_address
            assert host == "127.0.0.1"
            ports = {int(port), int(app.api_address[1]), int(app.metrics_address[1])}
            assert len(ports) == 3
            assert 0 not in ports
            reader, writer = await asyncio.open_connection(host, int(port))
            peer = Peer(reader, writer)
            await peer.send(GET)
            assert (await peer.receive_message()).status == 200
            await app.stop()
            assert await peer.receive_all() == b""
            await peer.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(host, int(port))
        await app.stop()  # no error


@pytest.mark.expect_log("404 GET /$")
async def test_nobody_is_answered_before_the_route_that_is_waited_for() -> None:
    async with backend() as server:
        app = new_app(wait_for_route="/", metrics_port=0)
        await app.start_servers()
        reader, writer = await asyncio.open_connection(*app.proxy_address)
        peer = Peer(reader, writer)
        await peer.send(GET)
        await app.table.add("/other", {"target": "http://127.0.0.1:1"})
        await app.table.change({"/other": None, "/": {"target": server.url}})
        assert (await peer.receive_message()).status == 200
        # From then on it is there, whatever becomes of the route.
        await app.table.remove("/")
        await peer.send(GET)
        assert (await peer.receive_message()).status == 404
        await peer.close()
        await app.stop()


async def test_a_proxy_that_still_waits_for_a_route_stops() -> None:
    app = new_app(wait_for_route="/")
    await app.start_servers()
    address = app.proxy_address
    _, writer = await asyncio.open_connection(*address)
    await app.stop()
    writer.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, others
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_a_route_that_is_there_is_not_waited_for() -> None:
    async with backend() as server:
        app = new_app(wait_for_route="/", default_target=server.url)
        await app.start_servers()
        reader, writer = await asyncio.open_connection(*app.proxy_address)
        peer = Peer(reader, writer)
        await peer.send(GET)
        assert (await peer.receive_message()).status == 200
        await peer.close()
        await app.stop()


async def test_two_of_them_in_one_loop() -> None:
    async with (
        backend() as server,
        proxy(server.url) as inner,
        proxy(f"http://127.0.0.1:{inner.port}/x") as outer,
    ):
        assert (await outer.get("/y")).status == 200
        assert server.all_received.startswith(b"GET /x/y HTTP/1.1\r\n")
        assert Message(bytes(server.received[0])).value(b"X-Forwarded-For") == b"127.0.0.1,127.0.0.1"


async def test_nothing_is_left_after_a_failed_start() -> None:
    async with proxy() as other:
        app = new_app(port=other.port)
        before = asyncio.all_tasks()
        with pytest.raises(ConfigError, match="address already in use"):
            await app.start_servers()
        assert asyncio.all_tasks() == before
        app.port = 0
        await app.start_servers()
        await app.stop()


async def test_nothing_is_left_after_a_stop() -> None:
    """Neither tasks nor objects, whatever was going on (the fixture looks for sockets)."""
    before = asyncio.all_tasks()
    async with backend(hang) as server:
        app = new_app(default_target=server.url, drain_timeout=50)
        await app.start_servers()
        port = int(app.proxy_address[1])
        peers = [Peer(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(6)]
        upload = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello"
        upgrade = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
        for peer, data in zip(peers, [b"", b"GET", GET, upload, upgrade, b"bad\r\n\r\n"], strict=True):
            await peer.send(data)
        await until(lambda: server.connections == 3)
        metrics = app.metrics
        await app.stop()
        assert (metrics.client_connections, metrics.upstream_connections, metrics.tunnels) == (0, 0, 0)
        for peer in peers:
            await end_of(peer)
            await peer.close()
        await server.wait_until_ended()
        table = weakref.ref(app.table)
        del app
        gc.collect()
        assert table() is None
    await until(lambda: asyncio.all_tasks() == before)


async def test_requests_under_way_are_finished_before_it_stops() -> None:
    go_on = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await go_on.wait()
        await peer.send(OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        port = chp.port
        busy, idle = await chp.connect(), await chp.connect()
        await busy.send(GET)
        await server.wait_for(b"\r\n\r\n")
        await until(lambda: chp.app.metrics.client_connections == 2)
        stopping = asyncio.ensure_future(chp.app.stop())
        assert await idle.receive_all() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not stopping.done()
        go_on.set()
        message = await busy.receive_message()
        assert (message.status, message.content) == (200, b"ok")
        assert message.value(b"Connection") == b"close"
        assert await busy.receive_all() == b""
        await asyncio.wait_for(stopping, PATIENCE)


async def test_stopping_does_not_wait_for_ever() -> None:
    async with backend(hang) as server, proxy(server.url, drain_timeout=50) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        await server.wait_for(b"\r\n\r\n")
        await asyncio.wait_for(chp.app.stop(), PATIENCE)
        assert await end_of(peer) == b""


async def test_stopping_takes_no_time_when_nothing_is_under_way() -> None:
    async with backend() as server, proxy(server.url) as chp:
        assert (await chp.get()).status == 200
        before = asyncio.get_running_loop().time()
        await chp.app.stop()
        assert asyncio.get_running_loop().time() - before < 0.5


# -- proxy_request --------------------------------------------------------------------


@contextlib.asynccontextmanager
async def hooked(hook: Callable[[UpstreamRequest], None], target: str) -> Any:
    async with proxy(target, proxy_request=hook) as chp:
        yield chp


async def test_the_hook_may_change_everything() -> None:
    async with backend() as first, backend() as second:
        other = Target.parse(second.url)

        def hook(request: UpstreamRequest) -> None:
            assert request.method == b"POST"
            assert dict(request.fields)[b"Cookie"] == b"secret"
            request.origin = other.origin
            request.method = b"PUT"
            request.target = b"/changed?x"
            request.fields = [*(field for field in request.fields if field[0] != b"Cookie"), (b"X-New", b"1")]

        async with hooked(hook, first.url) as chp:
            message = await chp.request(
                b"POST /old HTTP/1.1\r\nHost: h\r\nCookie: secret\r\nContent-Length: 2\r\n\r\nhi"
            )
            assert message.status == 200
        assert first.connections == 0
        head, _, content = second.all_received.partition(b"\r\n\r\n")
        request = Message(head + b"\r\n\r\n")
        assert request.start == b"PUT /changed?x HTTP/1.1"
        assert request.value(b"X-New") == b"1"
        assert request.value(b"Cookie") is None
        assert request.value(b"Host") == b"h"
        assert request.value(b"Content-Length") == b"2"
        assert content == b"hi"


async def test_the_hook_sees_upgrades_as_well() -> None:
    seen = []

    def hook(request: UpstreamRequest) -> None:
        seen.append((request.upgrade, request.target))
        request.fields = [*request.fields, (b"X-User", b"me")]

    async with backend() as server, hooked(hook, server.url) as chp:
        message = await chp.get("/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n")
        assert message.status == 200
        assert seen == [(b"websocket", b"/ws")]
        assert b"\r\nX-User: me\r\n" in server.all_received


@pytest.mark.expect_log("Error in proxy_request")
@pytest.mark.expect_log("500 GET / ")
async def test_a_hook_that_raises_is_a_500_and_nothing_is_sent_on() -> None:
    def hook(request: UpstreamRequest) -> None:
        raise LookupError("no such user")

    async with backend() as server, hooked(hook, server.url) as chp:
        peer = await chp.connect()
        for _ in range(2):
            await peer.send(GET)
            message = await peer.receive_message()
            assert message.status == 500
            assert b"no such user" not in message.content
        assert server.connections == 0
        await peer.close()
        await quiet(chp)
