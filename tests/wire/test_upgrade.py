"""Upgrades: what is asked of the upstream, and every answer that it may give."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from support.streams import end_of, hang, heads, quiet, receive_headed
from support.wire import OK, Message, Peer, backend, dead_url, proxy, reset_when_closed

FIELDS = b"Host: h:1\r\nConnection: Upgrade\r\nUpgrade: raw\r\n"
UPGRADE = b"GET / HTTP/1.1\r\n" + FIELDS + b"\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"


async def echo(peer: Peer) -> None:
    """A script: switch to whatever is asked for, then send back what comes."""
    await peer.receive_head()
    await peer.send(SWITCHED)
    while data := await peer.receive_some():
        await peer.send(data)


async def test_the_handshake_byte_for_byte() -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(
            b"HTTP/1.1 101 Enjoy\r\nupgrade: WebSocket\r\nSec-WebSocket-Accept: x=\r\n"
            b"connection: UPGRADE, keep-alive\r\nKeep-Alive: 5\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\n"
        )
        await hang(peer)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(
            b"GET /a?b HTTP/1.1\r\nHost: h:1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n"
            b"Connection: keep-alive, Upgrade\r\nOrigin: o\r\nSec-WebSocket-Protocol: p\r\n\r\n"
        )
        assert await peer.receive_head() == (
            b"HTTP/1.1 101 Enjoy\r\nSec-WebSocket-Accept: x=\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n"
            b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
        )
        assert server.all_received == (
            b"GET /a?b HTTP/1.1\r\nHost: h:1\r\nSec-WebSocket-Key: k\r\nOrigin: o\r\n"
            b"Sec-WebSocket-Protocol: p\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Port: 1\r\n"
            b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: h:1\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )


@pytest.mark.parametrize(
    ("method", "token"),
    [
        (b"GET", b"websocket"),
        (b"GET", b"WebSocket"),
        (b"GET", b"foo/1.2, bar"),
        (b"POST", b"raw"),
        (b"OPTIONS", b"TLS/1.0"),
        (b"DELETE", b"raw"),
    ],
)
async def test_any_token_and_any_method_may_upgrade(method: bytes, token: bytes) -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(
            method + b" /x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: " + token + b"\r\n\r\n"
        )
        assert (await receive_headed(peer)).status == 101
        await peer.send(b"hello")
        assert await peer.receive(5) == b"hello"
        request = Message(bytes(server.received[0][:-5]))
        assert request.value(b"Upgrade") == token
        assert request.value(b"Connection") == b"Upgrade"


async def test_bytes_that_come_early_are_kept_in_both_directions() -> None:
    """The client sends before it knows the answer; the upstream sends together with its answer."""
    answered = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await answered.wait()
        await peer.send(SWITCHED + b"from the upstream")
        assert await peer.receive(26) == b"together, and a bit later."
        await peer.send(b"!")

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(UPGRADE + b"together, ")
        await server.wait_for(b"\r\n\r\n")
        await peer.send(b"and a bit later.")
        # Nothing of it before the upstream has switched.
        assert server.all_received.endswith(b"\r\n\r\n")
        answered.set()
        assert await peer.receive(len(SWITCHED)) == SWITCHED
        assert await peer.receive(18) == b"from the upstream!"
        metrics = chp.app.metrics
        assert metrics.client_bytes_sent == len(SWITCHED) + 18
        assert metrics.upstream_bytes_sent == len(server.all_received)


async def test_early_bytes_are_limited() -> None:
    """A client that sends on without an answer is stopped; nothing is lost."""
    answered = asyncio.Event()
    data = bytes(range(256)) * 4096 * 8

    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await answered.wait()
        await peer.send(SWITCHED)
        assert await peer.receive(len(data)) == data
        await peer.send(b"ok")

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(UPGRADE)
        peer.writer.write(data)
        await server.wait_for(b"\r\n\r\n")
        assert chp.app.metrics.client_bytes_received < 2**20
        answered.set()
        await peer.receive_head()
        assert await peer.receive(2) == b"ok"


REFUSALS = {
    "content": (b"HTTP/1.1 403 Forbidden\r\nX: y\r\nContent-Length: 2\r\n\r\nno", b"no"),
    "chunked": (b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", b"no"),
    "until close": (b"HTTP/1.0 400 Bad\r\n\r\nno", b"no"),
    "success": (OK, b"ok"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", b""),
    "another protocol": (
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nno",
        b"no",
    ),
    "after a hint": (
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno",
        b"no",
    ),
}


@pytest.mark.parametrize(("response", "content"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_is_a_whole_response(response: bytes, content: bytes) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(response)

    async with backend(refuse) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        # What follows is not a request: the client took it for the new protocol.
        await peer.send(UPGRADE + b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
        if b" 103 " in response:
            assert (await receive_headed(peer)).status == 103
        message = await peer.receive_message()
        assert b"%d" % message.status in response
        assert message.content == content
        assert message.value(b"Connection") == b"close"
        assert message.value(b"Location") == (b"/login" if message.status == 302 else None)
        assert await peer.receive_all() == b""
        assert heads(server) == 1
        await peer.close()
        await quiet(chp)
        assert chp.app.metrics.upstream_connections == 0
        assert chp.app.metrics.requests_ws == 1
        assert chp.app.metrics.requests_proxy == {message.status: 1}


@pytest.mark.parametrize("with_error_target", [False, True])
@pytest.mark.expect_log("404 GET /none")
async def test_no_route_is_a_bare_404(with_error_target: bool) -> None:
    async with backend() as errors, proxy(error_target=errors.url if with_error_target else "") as chp:
        peer = await chp.connect()
        await peer.send(b"GET /none HTTP/1.1\r\n" + FIELDS + b"\r\n")
        message = await peer.receive_message()
        assert message.start == b"HTTP/1.1 404 Not Found"
        assert message.value(b"Connection") == b"close"
        assert message.content == b"Not Found"
        assert await peer.receive_all() == b""
        assert errors.connections == 0


@pytest.mark.expect_log("503 GET / connection refused")
async def test_a_dead_upstream_is_a_bare_503() -> None:
    async with backend() as errors, proxy(dead_url(), error_target=errors.url) as chp:
        peer = await chp.connect()
        await peer.send(UPGRADE)
        message = await peer.receive_message()
        assert message.start == b"HTTP/1.1 503 Service Unavailable"
        assert message.value(b"Connection") == b"close"
        assert await peer.receive_all() == b""
        assert errors.connections == 0


@pytest.mark.parametrize("answer_", [b"", b"HTTP/1.1 101 Swit", b"nonsense\r\n\r\n"])
@pytest.mark.expect_log("503 GET /")
async def test_an_upstream_that_dies_in_the_handshake_is_a_bare_503(answer_: bytes) -> None:
    async def die(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(answer_)

    async with backend(die) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(UPGRADE)
        message = await peer.receive_message()
        assert message.start == b"HTTP/1.1 503 Service Unavailable"
        assert message.content == b"Service Unavailable"
        await peer.close()
        await quiet(chp)


@pytest.mark.expect_log("503 GET / ")
async def test_an_upstream_that_switches_and_resets_before_it_is_asked_leaves_nothing() -> None:
    """Of these moments, one is between the last look at the connection and the first write."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with proxy(f"http://127.0.0.1:{listener.getsockname()[1]}") as chp:
            for turns in range(15):
                peer = await chp.connect()
                await peer.send(UPGRADE)
                upstream = await accepted(listener)
                for _ in range(turns):
                    await asyncio.sleep(0)
                upstream.send(SWITCHED)
                reset_when_closed(upstream)
                upstream.close()
                await end_of(peer)
                await peer.close()
            await quiet(chp)


async def accepted(listener: socket.socket) -> socket.socket:
    """Accept a connection in the loop's turn in which it is there."""
    for _ in range(10_000):
        try:
            return listener.accept()[0]
        except BlockingIOError:
            await asyncio.sleep(0)
    raise AssertionError("no connection came")


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
async def test_a_client_that_leaves_before_the_answer_ends_the_upstream_as_well(how: str) -> None:
    async with backend(hang) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(UPGRADE)
        await server.wait_for(b"\r\n\r\n")
        if how == "reset":
            peer.abort()
        elif how == "close":
            await peer.close()
        else:
            peer.send_eof()
        await server.wait_until_ended()
        await quiet(chp)


NO_UPGRADE = {
    "HTTP/1.0": b"GET / HTTP/1.0\r\n" + FIELDS + b"\r\n",
    "not named by Connection": b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: raw\r\n\r\n",
    "Connection: close": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nUpgrade: raw\r\n\r\n",
    "no token": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\r\n",
    "h2c": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: x\r\n\r\n",
    "with content": b"POST / HTTP/1.1\r\n" + FIELDS + b"Content-Length: 2\r\n\r\nhi",
    "with chunks": b"POST / HTTP/1.1\r\n"
    + FIELDS
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("request_", NO_UPGRADE.values(), ids=NO_UPGRADE)
async def test_what_is_no_upgrade_is_an_ordinary_request(request_: bytes) -> None:
    async with backend() as server, proxy(server.url) as chp:
        message = await chp.request(request_)
        assert (message.status, message.content) == (200, b"ok")
        assert b"\r\nupgrade:" not in server.all_received.lower()
        assert chp.app.metrics.requests_ws == 0


@pytest.mark.parametrize("request_", NO_UPGRADE.values(), ids=NO_UPGRADE)
@pytest.mark.expect_log("503 [A-Z]+ / invalid response")
async def test_a_101_that_was_not_asked_for_opens_no_tunnel(request_: bytes) -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        assert (await chp.request(request_)).status == 503
        await quiet(chp)
        assert chp.app.metrics.upstream_connections == 0


async def test_an_upgrade_takes_a_new_connection_and_is_never_sent_again(log_lines: Any) -> None:
    """An idle one may be closed by the target in this very moment."""

    async def answer(peer: Peer) -> None:
        await peer.receive_message()
        if server.connections == 1:
            await peer.send(OK)
            await hang(peer)

    async with backend(answer) as server, proxy(server.url) as chp:
        assert (await chp.get()).status == 200
        peer = await chp.connect()
        await peer.send(UPGRADE)
        assert (await peer.receive_message()).status == 503
        assert server.connections == 2
        assert log_lines.take("503 GET /")
        assert await end_of(peer) == b""
