"""One side vanishes: the other is told, and a response that was cut is never made to look complete."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from support.streams import background, broken_off, end_of, gauges, hang, quiet
from support.wire import OK, Peer, answer_ok, backend, proxy, reset_when_closed, until

from chp.logfile import LogFile

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HALF_AN_UPLOAD = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello"
HALF_A_CHUNKED_UPLOAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


def vanish(peer: Peer, how: str) -> None:
    if how == "reset":
        peer.abort()
    elif how == "close":
        peer.writer.close()
    else:
        peer.send_eof()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize(
    "request_", [GET, HALF_AN_UPLOAD, HALF_A_CHUNKED_UPLOAD], ids=["get", "length", "chunked"]
)
async def test_a_client_that_vanishes_while_it_waits_ends_the_exchange(request_: bytes, how: str) -> None:
    async with backend(hang) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(request_)
        await server.wait_for(b"\r\n\r\n" + request_.partition(b"\r\n\r\n")[2])
        vanish(peer, how)
        await server.wait_until_ended()
        await quiet(chp)
        # A request that broke off is not made whole.
        assert not server.all_received.endswith(b"0\r\n\r\n")
        assert chp.app.metrics.upstream_connections == 0


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize(
    "framing", [b"Transfer-Encoding: chunked", b"Content-Length: 9999999", b"Connection: close"]
)
async def test_a_client_that_vanishes_during_a_download_ends_the_exchange(framing: bytes, how: str) -> None:
    async def stream(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nhello\r\n")
        await hang(peer)

    async with backend(stream) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        await peer.receive_until(b"hello")
        vanish(peer, how)
        await server.wait_until_ended()
        await quiet(chp)


async def test_a_client_that_vanishes_while_the_upstream_is_being_reached_leaves_nothing() -> None:
    async with backend(hang) as server, proxy(server.url) as chp:
        for _ in range(20):
            peer = await chp.connect()
            peer.writer.write(GET)
            await asyncio.sleep(0)
            peer.abort()
        await until(lambda: not gauges(chp)["clients"])
        await quiet(chp)
        assert chp.app.metrics.upstream_connections == 0


async def test_a_client_that_vanishes_between_requests_keeps_the_upstream_connection() -> None:
    async with backend() as server, proxy(server.url) as chp:
        for _ in range(3):
            assert (await chp.get()).status == 200
        await quiet(chp)
        assert server.connections == 1


RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"6;x=y\r\nhello,\r\n6\r\n world\r\n0\r\nA: b\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\nServer: s\r\n\r\nhello, world",
    "behind an informational one": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
}


def is_complete(name: str, end: int, *, reset: bool) -> bool:
    """Tell whether an upstream that ends its connection there has said everything."""
    if name == "until close":
        return not reset and end >= RESPONSES[name].index(b"\r\n\r\n") + 4
    return end == len(RESPONSES[name])


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("name", RESPONSES)
async def test_an_upstream_may_die_at_any_byte_of_its_response(
    name: str, reset: bool, log_lines: Any
) -> None:
    response = RESPONSES[name]
    end_of_head = response.index(b"\r\n\r\n", response.index(b" 200 OK")) + 4
    end_of_interim = 0 if b" 103 " not in response else response.index(b"\r\n\r\n") + 4
    received_by_client = asyncio.Event()

    async def die(peer: Peer) -> None:
        end = int((await peer.receive_head()).split()[1][1:])
        await peer.send(response[:end])
        if reset:
            if end >= (end_of_interim or end_of_head):
                await received_by_client.wait()  # a reset may overtake what was sent before it
            peer.abort()

    async with backend(die) as server, proxy(server.url) as chp:
        for end in range(len(response) + 1):
            received_by_client.clear()
            peer = await chp.connect()
            await peer.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % end)
            if end_of_interim and end >= end_of_interim:
                assert b" 103 " in await peer.receive_head()
                if reset and end < end_of_head:
                    received_by_client.set()
            if end < end_of_head:
                message = await peer.receive_message()
                assert message.status == 503, end
                assert message.content.endswith(b"</html>\n"), end
            elif is_complete(name, end, reset=reset):
                received_by_client.set()
                message = await peer.receive_message()
                assert message.status == 200, end
                assert message.content == response[end_of_head:end] or end == len(response), end
            else:
                head = await peer.receive_head()
                assert b" 200 OK" in head
                received_by_client.set()
                assert b"\r\n0\r\n" not in await broken_off(peer), end
            await peer.close()
        await quiet(chp)
    log_lines.take("503 GET /")
    log_lines.take("Response to GET /.* cut")


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_cut_response_resets_the_client_whatever_its_version(
    version: str, reset: bool, log_lines: Any
) -> None:
    """Where the end of the connection ends the content, only a reset tells that something is missing."""
    cut = asyncio.Event()

    async def die(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await cut.wait()
        if reset:
            peer.abort()

    async with backend(die) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(f"GET / HTTP/{version}\r\nHost: h\r\n\r\n".encode())
        await peer.receive_until(b"hello")
        cut.set()
        await broken_off(peer)
        assert log_lines.take("Response to GET / cut: the connection")
        await quiet(chp)
        assert chp.app.metrics.client_connections_closed["upstream_failed"] == 1


async def test_a_reset_that_cuts_a_response_until_close_resets_the_client(log_lines: Any) -> None:
    cut = asyncio.Event()

    async def die(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await cut.wait()
        peer.abort()

    async with backend(die) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        await peer.receive_until(b"hello")
        cut.set()
        assert b"0\r\n\r\n" not in await broken_off(peer)
        log_lines.take("Response to GET / cut")


@pytest.mark.parametrize("request_", [HALF_AN_UPLOAD, HALF_A_CHUNKED_UPLOAD], ids=["length", "chunked"])
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.expect_log("503 POST /")
async def test_an_upstream_that_dies_during_an_upload_is_a_503(request_: bytes, reset: bool) -> None:
    async def die(peer: Peer) -> None:
        await peer.receive_until(b"hello")
        if reset:
            peer.abort()

    async with backend(die) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(request_)
        message = await peer.receive_message()
        assert message.status == 503
        assert message.value(b"Connection") == b"close"
        assert await peer.receive_all() == b""
        await peer.close()
        await quiet(chp)


async def test_bad_chunks_in_the_middle_of_an_upload_end_it_on_both_sides() -> None:
    async with backend(hang) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(HALF_A_CHUNKED_UPLOAD)
        await server.wait_for(b"hello")
        await peer.send(b"nonsense\r\n")
        assert (await peer.receive_message()).status == 400
        assert await peer.receive_all() == b""
        await server.wait_until_ended()
        assert not server.all_received.endswith(b"0\r\n\r\n")
        await peer.close()
        await quiet(chp)


async def test_bad_chunks_after_the_response_has_begun_reset_the_client() -> None:
    async def begin(peer: Peer) -> None:
        await peer.receive_until(b"hello")
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await hang(peer)

    async with backend(begin) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(HALF_A_CHUNKED_UPLOAD)
        await peer.receive_until(b"ok\r\n")
        await peer.send(b"nonsense\r\n")
        assert b"0\r\n\r\n" not in await broken_off(peer)
        await server.wait_until_ended()
        await quiet(chp)


async def test_hundreds_of_vanishing_clients_leave_nothing() -> None:
    async with backend() as server, proxy(server.url) as chp:

        async def come_and_go(number: int) -> None:
            peer = await chp.connect()
            data = [GET, GET + GET, HALF_AN_UPLOAD, b"GET / HT", b"nonsense\r\n\r\n", b""][number % 6]
            peer.writer.write(data)
            if number % 2:
                await asyncio.sleep(0)
            vanish(peer, ["close", "reset", "half-close"][number % 3])
            await end_of(peer)
            await peer.close()

        await asyncio.gather(*(come_and_go(number) for number in range(120)))
        await quiet(chp)
        assert (await chp.get()).status == 200


async def test_one_death_does_not_disturb_other_exchanges_of_the_same_target(log_lines: Any) -> None:
    die = asyncio.Event()

    async def answer(peer: Peer) -> None:
        message = await peer.receive_message()
        if b"/die" in message.start:
            await die.wait()
            peer.abort()
        else:
            await peer.send(OK)
            await answer_ok(peer)

    async with backend(answer) as server, proxy(server.url) as chp:
        dying = await chp.connect()
        await dying.send(b"GET /die HTTP/1.1\r\nHost: h\r\n\r\n")
        await server.wait_for(b"/die")
        living = await chp.connect()
        await living.send(GET)
        assert (await living.receive_message()).status == 200
        die.set()
        assert (await dying.receive_message()).status == 503
        assert log_lines.take("503 GET /die")
        await living.send(GET)
        assert (await living.receive_message()).status == 200


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("request_", [GET, HALF_AN_UPLOAD], ids=["get", "upload"])
async def test_an_upstream_that_closes_as_soon_as_it_accepts_is_a_503(
    request_: bytes, reset: bool, log_lines: Any
) -> None:
    async def die(peer: Peer) -> None:
        if reset:
            peer.abort()

    async with backend(die) as server, proxy(server.url) as chp:
        for _ in range(50):
            assert (await chp.request(request_)).status == 503
        await quiet(chp)
        assert chp.app.metrics.upstream_connections == 0
        assert server.connections == 50
    assert log_lines.take("503 [A-Z]+ / (the connection|can't connect)")


@pytest.mark.parametrize("event_loop_turns", range(8))
async def test_an_upstream_that_closes_while_its_connection_is_being_made_is_a_503(
    event_loop_turns: int, log_lines: Any
) -> None:
    """Its end may be seen before anything was sent to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    loop = asyncio.get_running_loop()

    async def accept_and_close() -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            for _ in range(event_loop_turns):
                await asyncio.sleep(0)
            sock.close()

    with listener:
        async with (
            proxy(f"http://127.0.0.1:{listener.getsockname()[1]}") as chp,
            background(accept_and_close()),
        ):
            for _ in range(20):
                assert (await chp.get()).status == 503
            await quiet(chp)
            assert chp.app.metrics.upstream_connections == 0
    assert log_lines.take("503 GET / (the connection|can't connect)")


# -- both sides at the same moment ----------------------------------------------------------------


async def test_a_refusal_meets_a_client_that_has_just_reset_its_connection(
    monkeypatch: pytest.MonkeyPatch, log_lines: Any, tmp_path: Path
) -> None:
    """The proxy, which has bytes left to read, says the end of its answer before that of the connection."""
    with socket.socket() as client:

        def reset(self: LogFile, line: bytes) -> None:
            """Of the access log: the answer is sent, and its end not yet said."""
            reset_when_closed(client)
            client.close()

        monkeypatch.setattr(LogFile, "write", reset)

        async def die(peer: Peer) -> None:
            await peer.receive_head()
            peer.abort()

        log = str(tmp_path / "log")
        async with backend(die) as server, proxy(server.url, access_log=log) as chp:
            client.connect(("127.0.0.1", chp.port))
            upgrade = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
            client.sendall(upgrade + b"bytes behind it")
            await server.wait_until_ended()
            await quiet(chp)
            assert chp.app.metrics.upstream_connections == 0
    assert log_lines.take("503 GET / the connection")
