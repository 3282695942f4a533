"""A graceful stop: what is under way ends, what is idle closes at once, and nobody new gets in."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from support.records import Records
from support.streams import end_of, hang
from support.wire import OK, PATIENCE, Message, Peer, backend, proxy, until

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HEALTH = b"GET /_chp_healthz HTTP/1.1\r\nHost: h\r\n\r\n"
FIRST_HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf"


async def send_halves(peer: Peer, go_on: asyncio.Event) -> None:
    """Answer a request, in the middle of it not before ``go_on``."""
    await peer.receive_head()
    await peer.send(FIRST_HALF)
    await go_on.wait()
    await peer.send(b"half")


async def stopped(stopping: asyncio.Future[None]) -> None:
    await asyncio.wait_for(asyncio.shield(stopping), PATIENCE)


async def test_the_health_check_says_503_first_while_everything_is_served() -> None:
    async with backend() as server, proxy(server.url, drain_delay=300) as chp:
        peer = await chp.connect()
        await peer.send(HEALTH)
        assert (await peer.receive_message()).status == 200
        begin = asyncio.get_running_loop().time()
        stopping = asyncio.ensure_future(chp.app.stop())
        await asyncio.sleep(0)
        await peer.send(HEALTH)
        message = await peer.receive_message()
        assert (message.status, message.content) == (503, b'{"status":"stopping"}')
        # New connections are taken, old ones stay, and the API answers.
        await peer.send(GET)
        assert (await peer.receive_message()).content == b"ok"
        assert (await chp.get()).content == b"ok"
        await chp.add_route("/new", server.url)
        api = Peer(*await asyncio.open_connection(*chp.app.api_address))
        await api.send(b"GET /api/routes HTTP/1.1\r\nHost: h\r\nAuthorization: token secret\r\n\r\n")
        assert (await api.receive_message()).status == 200
        assert not stopping.done()
        assert await peer.receive_all() == b""
        await stopped(stopping)
        assert asyncio.get_running_loop().time() - begin >= 0.3
        await api.close()


async def test_a_response_that_began_before_the_stop_is_the_last_of_its_connection() -> None:
    """It has promised to keep the connection open; nobody waits for the client to use that."""
    go_on = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await send_halves(peer, go_on)
        await hang(peer)

    async with backend(answer) as server, proxy(server.url, keep_alive_timeout=60_000) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        head = Message(await peer.receive_head())
        assert head.value(b"Connection") is None
        assert await peer.receive(4) == b"half"
        stopping = asyncio.ensure_future(chp.app.stop())
        await until(lambda: chp.app._servers[0].draining)  # type: ignore[attr-defined]
        go_on.set()
        assert await peer.receive(4) == b"half"
        assert await peer.receive_all() == b""
        await stopped(stopping)


async def test_what_is_not_done_in_time_is_reset() -> None:
    async def half(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(FIRST_HALF)
        await hang(peer)

    async with backend(half) as server, proxy(server.url, drain_timeout=100) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        assert (await peer.receive_head()).startswith(b"HTTP/1.1 200")
        await stopped(asyncio.ensure_future(chp.app.stop()))
        assert len(await end_of(peer)) <= 4


async def test_a_connection_in_the_middle_of_a_handshake_holds_nothing_up(pki: Any) -> None:
    async with backend() as server, proxy(server.url, ssl_key=pki.key, ssl_cert=pki.cert) as chp:
        peer = await chp.connect()  # and says nothing
        await until(lambda: chp.app._servers[0]._accepting)  # type: ignore[attr-defined]
        begin = asyncio.get_running_loop().time()
        await stopped(asyncio.ensure_future(chp.app.stop()))
        assert asyncio.get_running_loop().time() - begin < 1
        assert await end_of(peer) == b""


async def test_a_request_that_waits_behind_another_is_answered_before_the_end() -> None:
    go_on = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await send_halves(peer, go_on)
        await peer.receive_head()
        await peer.send(OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(GET + GET)
        await peer.receive_head()
        stopping = asyncio.ensure_future(chp.app.stop())
        await until(lambda: chp.app._servers[0].draining)  # type: ignore[attr-defined]
        go_on.set()
        assert await peer.receive(8) == b"halfhalf"
        assert (await peer.receive_message()).content == b"ok"
        assert await peer.receive_all() == b""
        await stopped(stopping)


async def test_nobody_waits_for_the_end_of_tls_of_an_idle_client(pki: Any) -> None:
    """It is told the end. A client that looks at idle connections at its next request only says nothing."""
    async with backend() as server, proxy(server.url, ssl_key=pki.key, ssl_cert=pki.cert) as chp:
        records = Records(await chp.connect(), ssl.create_default_context(cafile=pki.ca))
        await records.shake_hands()
        await records.peer.send(records.sealed(GET))
        assert (await records.receive_message()).content == b"ok"
        await asyncio.wait_for(chp.app.stop(), PATIENCE)
        assert await records.receive_all() == b""
        assert not chp.app.metrics.client_connections
        await records.peer.close()
