"""Thousands of requests that go wrong leave nothing: no descriptor, connection, object or memory."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from support.inspected import MIB, InspectedProxy, crowd
from support.streams import end_of, hang
from support.wire import OK, PATIENCE, Peer, backend, dead_url

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
UPGRADE = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
UPLOAD = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n"
DOWNLOAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"
BLOCK = b"x" * 2**16


async def ends(peer: Peer) -> None:
    """Wait for the end of a connection, or of one's own patience with it."""
    with contextlib.suppress(OSError):
        await end_of(peer)


async def test_refused_upgrades(chp: InspectedProxy, factor: int) -> None:
    refusals = {
        200: OK,
        302: b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
        424: b"HTTP/1.1 424 Failed Dependency\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    }
    statuses = list(refusals)

    async def refuse(peer: Peer) -> None:
        head = await peer.receive_head()
        await peer.send(refusals[int(head.split()[1].rpartition(b"/")[2])])
        await hang(peer)

    async def ask(number: int) -> None:
        status = statuses[number % len(statuses)]
        message = await chp.request(UPGRADE.replace(b"/x", b"/x/%d" % status))
        assert message.status == status

    async with backend(refuse) as server, chp.route("/x", server.url):
        await chp.leaves_nothing(lambda count: crowd(count, ask), 2000 * factor)


async def test_upgrades_and_requests_to_nobody(chp: InspectedProxy, factor: int) -> None:
    """The error target, which requests without an upgrade would be sent to, is dead as well."""

    async def ask(number: int) -> None:
        assert (await chp.request(UPGRADE if number % 4 else GET)).status == 503

    async with chp.route("/x", dead_url()):
        await chp.leaves_nothing(lambda count: crowd(count, ask), 2000 * factor)


async def test_upgrades_that_vanish(chp: InspectedProxy, factor: int) -> None:
    """Either side goes, at any moment, with and without a word."""
    dice = random.Random(1)

    async def tunnel(peer: Peer) -> None:
        await peer.receive_head()
        moment = dice.randrange(5)
        if moment == 0:
            peer.abort()
            return
        await peer.send(SWITCHED[: dice.randrange(len(SWITCHED))] if moment == 1 else SWITCHED + b"hello")
        if moment == 1 or moment == 2:
            return
        await hang(peer)

    async def ask(number: int) -> None:
        peer = await chp.connect()
        moment = dice.randrange(5)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await peer.send(UPGRADE[: dice.randrange(len(UPGRADE))] if moment == 0 else UPGRADE + b"early")
            if moment > 1:
                await peer.receive_head()
            if moment == 2:
                await peer.send(BLOCK)
            if moment == 3:
                peer.send_eof()
        peer.writer.close() if dice.randrange(2) else peer.abort()

    async with backend(tunnel) as server, chp.route("/x", server.url):
        await chp.leaves_nothing(lambda count: crowd(count, ask), 2000 * factor)


async def test_aborted_downloads_and_uploads(chp: InspectedProxy, factor: int) -> None:
    dice = random.Random(2)

    async def serve(peer: Peer) -> None:
        head = await peer.receive_head()
        with contextlib.suppress(asyncio.TimeoutError):  # nobody takes it any more
            if head.startswith(b"POST"):
                await peer.receive(dice.randrange(100_000))
                if dice.randrange(2):
                    peer.abort()
                else:
                    await hang(peer)
                return
            await peer.send(DOWNLOAD)
            end = dice.randrange(40)
            for number in range(150):
                if number == end and dice.randrange(2):
                    peer.abort()
                    return
                await peer.send(BLOCK)

    async def ask(number: int) -> None:
        peer = await chp.connect()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if number % 2:
                await peer.send(GET)
                await peer.receive_head()
                await peer.receive(dice.randrange(200_000))
            else:
                await peer.send(UPLOAD)
                for _ in range(dice.randrange(8)):
                    await peer.send(BLOCK)
        peer.abort()

    async with backend(serve) as server, chp.route("/x", server.url):
        await chp.leaves_nothing(lambda count: crowd(count, ask), 2000 * factor)


async def test_stalled_downloads_and_uploads(chp: InspectedProxy) -> None:
    peers: list[Peer] = []

    async def serve(peer: Peer) -> None:
        head = await peer.receive_head()
        if head.startswith(b"POST"):
            peer.stop_reading()
            await asyncio.Event().wait()
        peer.writer.write(DOWNLOAD)
        for _ in range(150):
            peer.writer.write(BLOCK)
            await peer.writer.drain()

    async def stall(number: int) -> None:
        peer = await chp.connect()
        peers.append(peer)
        if number % 80 < 50:
            await peer.send(GET)
            await peer.receive_head()
            peer.stop_reading()
        else:
            peer.writer.write(UPLOAD + BLOCK * 150)

    async def work(count: int) -> None:
        before = chp.memory()
        await crowd(count, stall, width=8)
        await asyncio.sleep(1)  # for as much as would come
        assert chp.memory() - before < count * MIB
        for peer in peers:
            peer.abort()
        peers.clear()

    async with backend(serve) as server, chp.route("/x", server.url):
        await chp.leaves_nothing(work, 80, memory=12 * MIB)


async def test_clients_whose_heads_are_slow_or_endless(chp: InspectedProxy, factor: int) -> None:
    async def ask(number: int) -> None:
        peer = await chp.connect()
        with contextlib.suppress(OSError):
            await peer.send(b"GET /x HTTP/1.1\r\nHost: h\r\n")
            if number % 3 == 0:
                for _ in range(20):
                    await peer.send(b"A: b\r\n" * 1000)
            elif number % 3 == 1:
                for _ in range(5):
                    await peer.send(b"a")
                    await asyncio.sleep(0.05)
        await ends(peer)
        peer.abort()

    async with chp.route("/x", dead_url()):
        await chp.leaves_nothing(lambda count: crowd(count, ask, width=count), 300 * factor)


async def test_upstreams_that_send_anything(chp: InspectedProxy, factor: int) -> None:
    """Random bytes, endless heads, and responses with a few bytes changed."""
    dice = random.Random(3)
    sound = b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

    async def garble(peer: Peer) -> None:
        await peer.receive_head()
        kind = dice.randrange(4)
        with contextlib.suppress(asyncio.TimeoutError):
            if kind == 0:
                await peer.send(dice.randbytes(dice.randrange(1, 3000)))
            elif kind == 1:
                for _ in range(30):
                    await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100)
            elif kind == 2:
                await peer.send(sound[:-30])
                for _ in range(30):
                    await peer.send(b"A: 0123456789\r\n" * 300)
            else:
                changed = bytearray(sound)
                for _ in range(dice.randrange(1, 4)):
                    changed[dice.randrange(len(changed))] = dice.randrange(256)
                await peer.send(bytes(changed))

    async def ask(number: int) -> None:
        peer = await chp.connect()
        await peer.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await ends(peer)
        peer.abort()

    async with backend(garble) as server, chp.route("/x", server.url):
        await chp.leaves_nothing(lambda count: crowd(count, ask), 800 * factor)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_upstreams_that_die_at_every_byte_of_a_response(chp: InspectedProxy, reset: bool) -> None:
    """No response that is cut looks complete."""
    responses = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\ny\r\n0\r\nT: x\r\n\r\n",
    ]
    places = [(response, end) for response in responses for end in range(len(response))]

    async def die(peer: Peer) -> None:
        head = await peer.receive_head()
        response, end = places[int(head.split()[1].rpartition(b"/")[2])]
        await peer.send(response[:end])
        if reset:
            await asyncio.sleep(0.01)  # a reset overtakes what is not yet read
            peer.abort()

    async def ask(number: int) -> None:
        number %= len(places)
        peer = await chp.connect()
        await peer.send(b"GET /x/%d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % number)
        answer, broken = bytearray(), False
        try:
            while data := await asyncio.wait_for(peer.reader.read(2**16), PATIENCE):
                answer += data
        except ConnectionResetError:
            broken = True
        final = bytes(answer).rpartition(b"HTTP/1.1 ")[2]
        if not broken:
            assert final.startswith(b"503 "), (places[number], answer)
        peer.abort()

    async with backend(die) as server, chp.route("/x", server.url):
        await chp.leaves_nothing(lambda count: crowd(count, ask), 2 * len(places))


async def test_pooled_connections_that_have_ended(chp: InspectedProxy, factor: int) -> None:
    """A target that closes every connection behind its answer, which does not say so."""

    async def answer_once(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(OK)

    async def ask(number: int) -> None:
        assert (await chp.request(GET)).status == 200

    async with backend(answer_once) as server, chp.route("/x", server.url):
        await chp.leaves_nothing(lambda count: crowd(count, ask, width=10), 1000 * factor)


async def test_routes_that_change_under_load(chp: InspectedProxy, factor: int) -> None:
    """20,000 requests get what their route says, while others are added, replaced and removed."""

    async def answer(peer: Peer) -> None:
        while True:
            path = (await peer.reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
            peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path) + path)

    async def work(count: int) -> None:
        done = asyncio.Event()
        statuses: set[bytes] = set()

        async def churn() -> None:
            for number in range(10**9):
                name, port = f"/changing/{number % 50}", (one, other)[number % 2].url
                changes = {name: None if number % 3 == 0 else {"target": port}}
                changes["/constant/x"] = {"target": port}
                assert (await chp.api("PATCH", "", changes)).code == 204
                if done.is_set():
                    break
            names = [f"/changing/{number}" for number in range(50)]
            assert (await chp.api("PATCH", "", dict.fromkeys([*names, "/constant/x"]))).code == 204

        async def requests(number: int) -> None:
            peer = await chp.connect()
            for step in range(count // 40):
                constant = step % 2
                path = b"/constant/%s/%d" % (b"xy"[constant - 1 :][:1] if number % 2 else b"z", step)
                if not constant:
                    path = b"/changing/%d/%d" % (step % 50, step)
                peer.writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
                head = await peer.reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                content = await peer.reader.readexactly(length)
                status = head[9:12]
                statuses.add(status)
                if constant:
                    assert status == b"200", (path, head)
                if status == b"200":
                    assert content == path
                else:
                    assert status == b"404"
            peer.abort()

        changing = asyncio.ensure_future(churn())
        await asyncio.gather(*(requests(number) for number in range(40)))
        done.set()
        await changing
        assert statuses == {b"200", b"404"}

    async with (
        backend(answer) as one,
        backend(answer) as other,
        chp.route("/constant", one.url),
    ):
        await chp.leaves_nothing(work, 20_000 * factor)
