"""The id of a request: one for the target, the client and the log."""

from __future__ import annotations

import asyncio
import re

import pytest
from support.echo import MARK, answer, echo, request_at_backend
from support.wire import Message, Peer, backend, proxy, until
from traitlets import TraitError

NEW = re.compile(rb"[0-9a-f]{32}")
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def with_id(*values: bytes) -> bytes:
    lines = b"".join(b"x-request-id:" + value + b"\r\n" for value in values)
    return b"GET / HTTP/1.1\r\nHost: h\r\nA:\t1\r\n" + lines + b"\r\n"


async def test_there_is_none_by_default() -> None:
    async with backend(echo) as server, proxy(server.url, x_forward=False) as chp:
        message = await chp.request(with_id(b"mine"))
    assert message.content == with_id(b"mine")[:-2] + MARK.encode() + b"\r\n"
    assert message.value(b"x-request-id") is None


async def test_every_request_has_its_own() -> None:
    async with backend(echo) as server, proxy(server.url, request_id_header="X-Request-ID") as chp:
        peer = await chp.connect()
        ids = set()
        for _ in range(3):  # the same bytes: what was made of them is kept
            await peer.send(GET)
            message = await peer.receive_message()
            got = Message(message.content)
            request_id = got.value(b"x-request-id")
            assert request_id is not None
            assert NEW.fullmatch(request_id)
            assert message.values(b"x-request-id") == [request_id]
            ids.add(request_id)
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ([b" 4711"], b"4711"),
        (
            [b"Root=1-67891233-abcdef012345678912345678;Self=a \t"],
            b"Root=1-67891233-abcdef012345678912345678;Self=a",
        ),
        ([b"a" * 128], b"a" * 128),
        ([b"a" * 129], None),
        ([b" "], None),
        ([b"a b"], None),
        ([b'"'], None),
        ([b"\xe9"], None),
        ([b"one", b"two"], None),
        ([b"one,two"], None),
    ],
)
async def test_one_from_a_trusted_proxy_is_kept_if_it_is_valid(sent: list[bytes], kept: bytes | None) -> None:
    options = {"request_id_header": "X-Request-ID", "trusted_proxies": ["127.0.0.1"]}
    async with backend(echo) as server, proxy(server.url, **options) as chp:
        message = await chp.request(with_id(*sent))
    got = Message(message.content)
    request_id = got.value(b"x-request-id")
    assert request_id == message.value(b"x-request-id")
    if kept is None:
        assert request_id is not None
        assert NEW.fullmatch(request_id)
    else:
        assert request_id == kept
    assert b"\r\nA:\t1\r\n" in got.head


@pytest.mark.parametrize("trusted", [[], ["none"], ["10.0.0.0/8"]])
async def test_one_from_anybody_else_is_replaced(trusted: list[str]) -> None:
    options = {"request_id_header": "X-Request-ID", "trusted_proxies": trusted}
    async with backend(echo) as server, proxy(server.url, **options) as chp:
        got = await request_at_backend(chp, with_id(b"mine"))
    assert NEW.fullmatch(got.value(b"x-request-id") or b"")


async def test_what_the_target_says_is_replaced() -> None:
    response = b"HTTP/1.1 200 OK\r\nx-request-id: its own\r\nB:\t1 \r\nContent-Length: 0\r\n\r\n"
    async with (
        backend(answer(response)) as server,
        proxy(server.url, request_id_header="X-Request-ID") as chp,
    ):
        message = await chp.get()
    assert NEW.fullmatch(message.value(b"x-request-id") or b"")
    assert b"\r\nB:\t1 \r\n" in message.head


async def test_upgrades_too() -> None:
    async def switch(peer: Peer) -> None:
        head = await peer.receive_head()
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n" + head
        )

    async with backend(switch) as server, proxy(server.url, request_id_header="Id") as chp:
        peer = await chp.connect()
        await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
        head, got = Message(await peer.receive_head()), Message(await peer.receive_head())
    assert NEW.fullmatch(head.value(b"id") or b"")
    assert got.value(b"id") == head.value(b"id")


async def test_the_log_has_it_where_a_request_fails(log_lines: object) -> None:
    seen = asyncio.Event()

    async def die(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        await seen.wait()
        peer.abort()

    async with backend(die) as server, proxy(request_id_header="Id") as chp:
        missing = await chp.get("/x?secret")
        await chp.add_route("/y", "http://127.0.0.1:1")
        failed = await chp.get("/y")
        await chp.add_route("/z", server.url)
        peer = await chp.connect()
        await peer.send(GET.replace(b"/", b"/z", 1))
        cut = Message(await peer.receive_head())
        seen.set()
        with pytest.raises(ConnectionResetError):
            await peer.receive_all()
    for pattern, message in (
        (r"404 GET /x", missing),
        (r"503 GET /y .*", failed),
        (r"Response to GET /z cut.*", cut),
    ):
        request_id = (message.value(b"id") or b"").decode()
        assert log_lines.take(rf"{pattern} \(request {request_id}\)$")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["Host", "Connection", "content-length", "a b", "a:"])
async def test_names_that_can_not_be(name: str) -> None:
    with pytest.raises(TraitError, match="request id header"):
        async with proxy(request_id_header=name):
            pass


async def test_ids_that_are_no_longer_wanted_leave_no_trace() -> None:
    """A reload takes the option away while one request waits for its route, and another for its answer."""
    go_on = asyncio.Event()

    async def slow(peer: Peer) -> None:
        while True:
            head = await peer.receive_head()
            if b" /slow " in head:
                await go_on.wait()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))

    options = {"request_id_header": "X-Request-ID", "custom_response_header": ["A: 1"]}
    async with backend(slow) as server, proxy(**options) as chp:
        await chp.add_route("/slow", server.url)
        answered = await chp.connect()
        await answered.send(GET.replace(b"/", b"/slow", 1))
        await until(lambda: b"X-Request-ID: " in server.all_received)
        chp.app.table.link._set_behind()
        routed = await chp.connect()
        await routed.send(GET.replace(b"/", b"/late", 1))
        await until(lambda: chp.app.metrics.store_waits == 1)
        chp.app.request_id_header = ""
        chp.app.reload()
        await chp.add_route("/late", server.url)
        chp.app.table.link._in_step()
        go_on.set()
        for peer in (answered, routed):
            message = await peer.receive_message()
            assert message.head == (
                b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: %d\r\n\r\n" % len(message.content)
            )
    assert message.content.startswith(b"GET /late HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 127.0.0.1\r\n")
    assert b"\r\n: " not in message.content
