"""Malformed and ambiguous requests: what is refused, what is passed on, and that no split changes it."""

from __future__ import annotations

import asyncio
import re
from collections import Counter

import pytest
from support.malformed import CORPUS, LIMITS, PLAIN, Case
from support.wire import END_OF_HEAD, PATIENCE, Peer, Proxy, backend, proxy, until

HEALTH = b"GET /_chp_healthz HTTP/1.1\r\nHost: h\r\n\r\n"
AFTERWARDS = b"GET /afterwards HTTP/1.1\r\nHost: h\r\n\r\n"
_START = re.compile(rb"[A-Z]+ [!-~]+ HTTP/1\.1")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*[^\0-\x08\x0a-\x1f\x7f]*")
_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}\r\n")


class StrictServer:
    """A backend that takes nothing but requests that all servers understand in the same way."""

    def __init__(self) -> None:
        self.heads = 0
        self.requests: list[bytes] = []  # complete ones: head, and content without its chunks
        self.complaints: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            head = await peer.receive_head()
            self.heads += 1
            if not self._is_clean(head):
                self.complaints.append(head)
                return
            content = await self._receive_content(peer, head.lower())
            self.requests.append(head + content)
            start = head.partition(b"\r\n")[0]
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(start), start))

    def _is_clean(self, head: bytes) -> bool:
        start, *fields = head.removesuffix(END_OF_HEAD).split(b"\r\n")
        names = Counter(field.partition(b":")[0].lower() for field in fields)
        return (
            _START.fullmatch(start) is not None
            and all(_FIELD.fullmatch(field) for field in fields)
            and names[b"host"] == 1
            and names[b"content-length"] + names[b"transfer-encoding"] <= 1
        )

    async def _receive_content(self, peer: Peer, head: bytes) -> bytes:
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            content = b""
            while True:
                line = await peer.receive_until(b"\r\n")
                assert _SIZE.fullmatch(line)
                size = int(line, 16)
                chunk = await peer.receive(size + 2)
                assert chunk.endswith(b"\r\n")
                content += chunk[:-2]
                if not size:
                    return content
        length = re.search(rb"\r\ncontent-length: ([0-9]+)\r\n", head)
        return await peer.receive(int(length[1])) if length else b""


async def send_in_pieces(chp: Proxy, peer: Peer, pieces: list[bytes]) -> None:
    """Send pieces so that the proxy receives each in a read of its own."""
    metrics = chp.app.metrics
    for piece in pieces:
        expected = metrics.client_bytes_received + len(piece)
        await peer.send(piece)
        patience_ends = asyncio.get_running_loop().time() + PATIENCE
        while metrics.client_bytes_received < expected and metrics.client_connections:
            await asyncio.sleep(0)
            assert asyncio.get_running_loop().time() < patience_ends, "the proxy does not read"
        if not metrics.client_connections:
            return  # it has closed: the rest is for nobody


async def check(chp: Proxy, server: StrictServer, case: Case, pieces: list[bytes]) -> None:
    peer = await chp.connect()
    await send_in_pieces(chp, peer, pieces)
    statuses = [(await peer.receive_message()).status for _ in case.statuses]
    assert tuple(statuses) == case.statuses
    if case.closed:
        assert await peer.receive_all() == b""
    else:
        # Nothing is left over: the next request on this connection is understood.
        await peer.send(HEALTH)
        assert (await peer.receive_message()).content == b'{"status":"OK"}'
    await peer.close()
    # Nothing is left over at the backend either, and its connections answer what they are asked.
    message = await chp.request(AFTERWARDS)
    assert message.content == AFTERWARDS.partition(b"\r\n")[0]
    assert server.complaints == []
    assert server.requests == [*case.forwarded, AFTERWARDS]
    if not case.forwarded:
        # A head may have gone ahead of content that turns out to be bad, never a second one.
        assert server.heads <= 2
    server.requests.clear()
    server.heads = 0


def splits(data: bytes) -> list[list[bytes]]:
    """Cut data in two at some places: within and behind empty lines and the first line, and elsewhere."""
    ends = [match.start() for match in re.finditer(b"\r\n\r\n", data)][:3]
    at = {end + offset for end in ends for offset in (1, 2, 3, 4)}
    first_line = data.find(b"\r\n")
    at |= {1, first_line + 1, first_line + 2, len(data) // 2, len(data) - 2, len(data) - 1}
    return [[data[:position], data[position:]] for position in sorted(at) if 0 < position < len(data)]


@pytest.mark.parametrize("case", CORPUS, ids=str)
async def test_outcome_is_the_same_however_it_is_split(case: Case) -> None:
    server = StrictServer()
    bytewise = [case.sent[position : position + 1] for position in range(len(case.sent))]
    async with backend(server) as running, proxy(running.url, **LIMITS) as chp:
        for pieces in ([case.sent], bytewise, *splits(case.sent)):
            await check(chp, server, case, pieces)


def test_corpus_names_each_case_once() -> None:
    names = [case.name for case in CORPUS]
    assert len(names) == len(set(names)) > 200


async def test_refusals_say_why_and_that_the_connection_closes() -> None:
    async with proxy() as chp:
        status, answer = await chp.outcome(b"GET / HTTP/1.1\r\nX: y\r\n\r\n")
    assert status == 400
    head, _, content = answer.partition(END_OF_HEAD)
    assert content == b"no Host field\n"
    assert b"\r\nConnection: close" in head
    assert b"\r\nContent-Length: %d\r\n" % len(content) in head
    assert b"\r\nDate: " in head


async def test_refused_head_request_gets_no_content() -> None:
    async with proxy() as chp:
        status, answer = await chp.outcome(b"HEAD /%zz HTTP/1.1\r\nHost: h\r\n\r\n")
    assert status == 400
    assert answer.endswith(END_OF_HEAD)


async def test_refusals_are_counted_and_no_web_requests() -> None:
    async with proxy() as chp:
        metrics = chp.app.metrics
        long = b"x" * 70_000
        for refused in (PLAIN.replace(b"Host: h\r\n", b""), b"GET /" + long, PLAIN[:-2] + b"X: " + long):
            peer = await chp.connect()
            await peer.send(refused)
            await peer.receive_all()
            await peer.close()
        await until(lambda: metrics.client_connections == 0)
        assert metrics.requests_proxy == {400: 1, 414: 1, 431: 1}
        assert metrics.requests_web == 0
        assert metrics.client_connections_closed == {"bad_request": 3}


async def test_client_that_is_still_sending_gets_the_refusal() -> None:
    async with proxy() as chp:
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: nonsense\r\n\r\n")
        for _ in range(64):
            await peer.send(b"x" * 65536)
        assert (await peer.receive_message()).status == 400
        assert await peer.receive_all() == b""
