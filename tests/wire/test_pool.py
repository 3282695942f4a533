"""Upstream connections: which are used again, when a request is sent again, and what is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from support.streams import hang, heads, quiet
from support.wire import OK, Backend, Peer, Proxy, backend, proxy, until


def is_idle(chp: Proxy, count: int) -> bool:
    metrics = chp.app.metrics
    return metrics.upstream_connections == metrics.upstream_connections_idle == count


async def answer_once(peer: Peer) -> None:
    """A script: answer, then leave it to the proxy to close."""
    await peer.receive_message()
    await peer.send(OK)
    await hang(peer)


async def test_one_connection_carries_one_request_after_another() -> None:
    async with backend() as server, proxy(server.url) as chp:
        for _ in range(5):
            assert (await chp.get()).status == 200
        assert (server.connections, heads(server)) == (1, 5)
        assert is_idle(chp, 1)


@pytest.mark.parametrize("method", ["HEAD", "GET", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_a_connection_is_used_again_behind_any_method(method: str) -> None:
    async def answer(peer: Peer) -> None:
        while True:
            message = await peer.receive_message()
            await peer.send(OK[:-2] if message.start.startswith(b"HEAD ") else OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        for _ in range(2):
            fields = "Content-Length: 0\r\n" if method in ("POST", "PUT") else ""
            message = await chp.request(f"{method} / HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode())
            assert message.status == 200
            assert (await chp.get()).content == b"ok"
        assert server.connections == 1


@pytest.mark.not_over("curl", "curl-tls")
async def test_the_connection_used_last_is_used_next() -> None:
    """The others grow idle, and are closed."""
    turn = [b""]

    async def answer(peer: Peer) -> None:
        while True:
            message = await peer.receive_message()
            while message.start.split()[1] != turn[0]:
                await asyncio.sleep(0.001)
            await peer.send(OK)

    async with backend(answer) as server, proxy(server.url) as chp:
        peers = [await chp.connect() for _ in range(3)]
        for number, peer in enumerate(peers):
            await peer.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
            await server.wait_for(b"GET /%d " % number)
        for number in (2, 0, 1):
            turn[0] = b"/%d" % number
            assert (await peers[number].receive_message()).status == 200
        turn[0] = b"/next"
        for _ in range(3):
            assert (await chp.get("/next")).status == 200
        last = next(data for data in server.received if b"GET /1 " in data)
        assert last.count(b"GET /next ") == 3


NOT_REUSABLE = {
    "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "one of several options": b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "a byte too many": OK + b"x",
    "a response too many": OK + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad",
    "content of a 204": b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nbad",
    "content of a 304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\nbad",
    "chunks and more": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + OK,
}


@pytest.mark.parametrize("response", NOT_REUSABLE.values(), ids=NOT_REUSABLE)
async def test_a_connection_is_not_used_again_behind(response: bytes) -> None:
    """What came behind a response never answers the next request."""

    async def answer(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(response)
        await hang(peer)

    async with backend(answer) as server, proxy(server.url) as chp:
        for number in range(3):
            message = await chp.get()
            assert message.status in (200, 204, 304)
            assert message.content in (b"ok", b"")
            assert server.connections == number + 1
        await quiet(chp)
        await until(lambda: not chp.app.metrics.upstream_connections)


async def test_content_behind_the_answer_to_head_answers_nobody() -> None:
    async def answer(peer: Peer) -> None:
        await peer.receive_message()
        bad = b"HTTP/1.1 200 BAD\r\nContent-Length: 3\r\n\r\nbad"
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(bad) + bad)
        await hang(peer)

    async with backend(answer) as server, proxy(server.url) as chp:
        for number in range(3):
            message = await chp.request(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert message.start == b"HTTP/1.1 200 OK"
            assert server.connections == number + 1


async def test_bytes_on_an_idle_connection_close_it() -> None:
    more = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(OK)
        await more.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")
        await hang(peer)

    async with backend(answer) as server, proxy(server.url) as chp:
        assert (await chp.get()).content == b"ok"
        assert is_idle(chp, 1)
        more.set()
        await until(lambda: is_idle(chp, 0))
        assert (await chp.get()).content == b"ok"
        assert server.connections == 2


class DiesSecondTime:
    """A backend whose first connection dies at its second request; the others answer."""

    def __init__(self, *, reset: bool = False, partial: bytes = b"", connections: int = 1) -> None:
        self.reset, self.partial, self.connections = reset, partial, connections
        self.seen = 0

    async def __call__(self, peer: Peer) -> None:
        self.seen += 1
        doomed = self.seen <= self.connections
        await peer.receive_message()
        await peer.send(OK)
        while True:
            await peer.receive_head()
            if doomed:
                await peer.send(self.partial)
                if self.reset:
                    peer.abort()
                return
            await peer.send(OK)


async def primed(chp: Proxy) -> None:
    """Leave one idle connection."""
    assert (await chp.get()).status == 200
    assert is_idle(chp, 1)


IDEMPOTENT = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("method", IDEMPOTENT)
async def test_an_idempotent_request_that_meets_a_dying_connection_is_sent_again(
    method: str, reset: bool
) -> None:
    async with backend(DiesSecondTime(reset=reset)) as server, proxy(server.url) as chp:
        await primed(chp)
        message = await chp.request(f"{method} /again HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert message.status == 200
        assert server.connections == 2
        assert chp.app.metrics.upstream_retries == 1
        assert chp.app.metrics.requests_proxy == {200: 2}
        assert not chp.app.metrics.upstream_errors


async def test_content_that_was_complete_is_sent_again_with_its_head() -> None:
    async with backend(DiesSecondTime()) as server, proxy(server.url) as chp:
        await primed(chp)
        message = await chp.request(b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
        assert message.status == 200
        assert server.received[0].count(b"hello") == server.received[1].count(b"hello") == 1


NOT_REPEATABLE = {
    "POST": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    "PATCH": b"PATCH / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    "unknown": b"PURGE / HTTP/1.1\r\nHost: h\r\n\r\n",
    "half an upload": b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe",
    "chunks": b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n",
}


@pytest.mark.parametrize("request_", NOT_REPEATABLE.values(), ids=NOT_REPEATABLE)
@pytest.mark.expect_log("503 [A-Z]+ /")
async def test_what_can_not_be_sent_twice_is_a_503(request_: bytes) -> None:
    async with backend(DiesSecondTime()) as server, proxy(server.url) as chp:
        await primed(chp)
        message = await chp.request(request_)
        assert message.status == 503
        assert server.connections == 1
        assert chp.app.metrics.upstream_retries == 0


@pytest.mark.not_over("curl", "curl-tls")  # libcurl does not say that half a line came
@pytest.mark.expect_log("503 GET /")
async def test_a_request_is_not_sent_again_when_the_response_had_begun() -> None:
    async with backend(DiesSecondTime(partial=b"H")) as server, proxy(server.url) as chp:
        await primed(chp)
        assert (await chp.get()).status == 503
        assert server.connections == 1


@pytest.mark.expect_log("503 GET /")
async def test_a_request_is_sent_again_only_once() -> None:
    async def die(peer: Peer) -> None:
        await peer.receive_message()
        if len(server.received) == 1:
            await peer.send(OK)
            await peer.receive_message()

    async with backend(die) as server, proxy(server.url) as chp:
        await primed(chp)
        assert (await chp.get()).status == 503
        assert server.connections == 2
        assert chp.app.metrics.upstream_retries == 1


@pytest.mark.expect_log("503 GET /")
async def test_a_new_connection_that_dies_is_no_reason_to_send_again() -> None:
    async def die(peer: Peer) -> None:
        await peer.receive_message()

    async with backend(die) as server, proxy(server.url) as chp:
        assert (await chp.get()).status == 503
        assert server.connections == 1


async def test_connections_that_the_upstream_closes_leave_the_pool() -> None:
    closing = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(OK)
        await closing.wait()

    async with backend(answer) as server, proxy(server.url) as chp:
        await primed(chp)
        closing.set()
        await until(lambda: is_idle(chp, 0))
        assert (await chp.get()).status == 200
        assert server.connections == 2
        assert chp.app.metrics.upstream_retries == 0


async def test_idle_connections_are_closed_after_their_time() -> None:
    async with backend(answer_once) as server, proxy(server.url, pool_idle_timeout=100) as chp:
        await primed(chp)
        await until(lambda: is_idle(chp, 0))
        await server.wait_until_ended()
        assert (await chp.get()).status == 200
        assert server.connections == 2


def all_at_once(count: int) -> Callable[[Peer], Awaitable[None]]:
    """Make a script that answers when so many requests have come."""
    waiting: list[Peer] = []

    async def answer(peer: Peer) -> None:
        while True:
            await peer.receive_message()
            waiting.append(peer)
            await until(lambda: len(waiting) >= count)
            await peer.send(OK)

    return answer


@pytest.mark.parametrize("cap", [0, 1, 3])
async def test_no_more_than_so_many_idle_connections_are_kept(cap: int) -> None:
    async with backend(all_at_once(5)) as server, proxy(server.url, pool_max_idle=cap) as chp:
        messages = await asyncio.gather(*(chp.get() for _ in range(5)))
        assert [message.status for message in messages] == [200] * 5
        assert server.connections == 5
        await until(lambda: is_idle(chp, cap))


async def change_nothing(chp: Proxy, other: Backend) -> None:
    pass


async def delete(chp: Proxy, other: Backend) -> None:
    await chp.app.table.remove("/user")


async def replace(chp: Proxy, other: Backend) -> None:
    await chp.add_route("/user", other.url)


@pytest.mark.parametrize(("change", "idle"), [(change_nothing, 1), (delete, 0), (replace, 0)])
async def test_a_route_that_goes_takes_its_idle_connections_along(
    change: Callable[[Proxy, Backend], Awaitable[None]], idle: int
) -> None:
    async with backend(answer_once) as server, backend() as other, proxy() as chp:
        await chp.add_route("/user", server.url)
        assert (await chp.get("/user")).status == 200
        await change(chp, other)
        await until(lambda: is_idle(chp, idle))


@pytest.mark.parametrize("change", [delete, replace])
async def test_what_runs_goes_on_when_its_route_goes(
    change: Callable[[Proxy, Backend], Awaitable[None]],
) -> None:
    go_on = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await go_on.wait()
        await peer.send(b"cd")
        await hang(peer)

    async with backend(answer) as server, backend() as other, proxy() as chp:
        await chp.add_route("/user", server.url)
        peer = await chp.connect()
        await peer.send(b"GET /user HTTP/1.1\r\nHost: h\r\n\r\n")
        await peer.receive_until(b"ab")
        await change(chp, other)
        go_on.set()
        assert await peer.receive(2) == b"cd"


async def test_targets_share_connections_only_when_they_share_an_origin() -> None:
    async with backend() as one, backend() as other, proxy() as chp:
        await chp.add_route("/a", one.url)
        await chp.add_route("/b", one.url + "/deeper?x=y")
        await chp.add_route("/c", other.url)
        for path in ("/a", "/b", "/c", "/a"):
            assert (await chp.get(path)).status == 200
        assert (one.connections, other.connections) == (1, 1)
        assert (heads(one), heads(other)) == (3, 1)
