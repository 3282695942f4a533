"""TLS that comes in pieces, in heaps, at the wrong moment, spoiled, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hmac
import logging
import random
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_port
from support.records import Records
from support.streams import background, broken_off, end_of, hang, heads, quiet, standstill
from support.wire import OK, PATIENCE, Peer, Proxy, backend, proxy, until

from chp import tls
from chp.metrics import Metrics
from chp.runtime import RECEIVE_BUFFER_SIZE, Runtime
from chp.tls import TlsTransport

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
SHORT = 100  # ms
ALERT = b"\x15\x03"  # how a record with one begins (RFC 8446, section 5.1)
MIB = 2**20
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
both_versions = pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])


def client_context(pki: Any, version: ssl.TLSVersion = V13) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=pki.ca)
    context.minimum_version = context.maximum_version = version
    return context


def server_context(pki: Any, version: ssl.TLSVersion = V13) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.cert, pki.key)
    context.minimum_version = context.maximum_version = version
    return context


@contextlib.asynccontextmanager
async def tls_proxy(pki: Any, target: str = "", **options: Any) -> AsyncIterator[Proxy]:
    async with proxy(target, ssl_key=pki.key, ssl_cert=pki.cert, **options) as chp:
        yield chp


async def client(chp: Proxy, pki: Any, version: ssl.TLSVersion = V13, *, by_bytes: bool = False) -> Records:
    """Connect, and shake hands."""
    records = Records(await chp.connect(), client_context(pki, version))
    await records.shake_hands(by_bytes=by_bytes)
    return records


@contextlib.asynccontextmanager
async def tls_backend(
    pki: Any, script: Callable[[Records], Any], version: ssl.TLSVersion = V13
) -> AsyncIterator[str]:
    """Run an https target whose script has the records in its hands."""

    async def serve(peer: Peer) -> None:
        records = Records(peer, server_context(pki, version), server=True)
        await records.shake_hands()
        await script(records)

    async with backend(serve) as server:
        yield server.url.replace("http:", "https:")


def closed_for(chp: Proxy) -> dict[str, int]:
    return dict(chp.app.metrics.client_connections_closed)


def runtime_of(chp: Proxy) -> Runtime:
    it: Runtime = chp.app._servers[0]._runtime  # type: ignore[attr-defined]
    return it


async def gone(chp: Proxy) -> None:
    """Wait until nothing is left of any client, handshakes included."""
    await quiet(chp)
    await until(lambda: not runtime_of(chp).clients.total)


# -- records and reads ------------------------------------------------------------------


@both_versions
async def test_every_byte_on_its_own(version: ssl.TLSVersion, pki: Any) -> None:
    async with backend() as server, tls_proxy(pki, server.url) as chp:
        records = await client(chp, pki, version, by_bytes=True)
        for _ in range(2):
            await records.send_by_bytes(records.sealed(GET))
            assert (await records.receive_message()).content == b"ok"
        await records.send_by_bytes(records.end())
        assert await records.receive_all() == b""
        await records.peer.close()
        await gone(chp)


@both_versions
async def test_records_cut_at_every_byte(version: ssl.TLSVersion, pki: Any) -> None:
    async with backend() as server, tls_proxy(pki, server.url) as chp:
        records = await client(chp, pki, version)
        whole = records.sealed(GET)
        await records.peer.send(whole)
        assert (await records.receive_message()).content == b"ok"
        for at in range(1, len(whole)):
            both = records.sealed(GET) + records.sealed(GET)
            await records.peer.send(both[: len(whole) + at])
            assert (await records.receive_message()).content == b"ok"
            await records.peer.send(both[len(whole) + at :])
            assert (await records.receive_message()).content == b"ok"
        assert await end_after(records) == b""
        await gone(chp)


async def end_after(records: Records) -> bytes:
    """Say goodbye, and receive what still comes before the other side does so too."""
    await records.peer.send(records.end())
    data = await records.receive_all()
    await records.peer.close()
    return data


async def test_many_records_in_one_read(pki: Any) -> None:
    async with backend() as server, tls_proxy(pki, server.url) as chp:
        records = await client(chp, pki)
        await records.peer.send(b"".join(records.sealed(GET) for _ in range(100)))
        for _ in range(100):
            assert (await records.receive_message()).content == b"ok"
        assert await end_after(records) == b""
        assert heads(server) == 100
        await gone(chp)


async def test_a_response_in_records_of_one_byte(pki: Any) -> None:
    async def answer(records: Records) -> None:
        await records.receive(10)
        await records.peer.send(b"".join(records.sealed(OK[at : at + 1]) for at in range(len(OK))))
        await hang(records.peer)

    async with tls_backend(pki, answer) as url, proxy(url, client_ssl_ca=pki.ca) as chp:
        assert (await chp.get()).content == b"ok"
        await quiet(chp)


async def test_half_a_record_and_silence(pki: Any) -> None:
    async with backend() as server, tls_proxy(pki, server.url, head_timeout=SHORT) as chp:
        records = await client(chp, pki)
        data = records.sealed(GET)
        await records.peer.send(data[: len(data) // 2])
        assert await records.receive_all() == b""  # there was no request: nothing is said about it
        await records.peer.close()
        await gone(chp)
        assert closed_for(chp) == {"keep_alive_timeout": 1}
        assert server.connections == 0


# -- the end ----------------------------------------------------------------------------


async def test_who_says_the_last_word_with_a_request_gets_no_answer(pki: Any) -> None:
    async with backend(hang) as server, tls_proxy(pki, server.url) as chp:
        records = await client(chp, pki)
        await records.peer.send(records.sealed(GET) + records.end())
        await until(lambda: closed_for(chp))
        assert closed_for(chp) == {"client_closed": 1}
        await end_of(records.peer)
        await gone(chp)


@pytest.mark.parametrize("word", [True, False], ids=["close_notify", "FIN"])
async def test_a_client_that_leaves(word: bool, pki: Any) -> None:
    async with backend() as server, tls_proxy(pki, server.url) as chp:
        records = await client(chp, pki)
        await records.peer.send(records.sealed(GET))
        await records.receive_message()
        if word:
            assert await end_after(records) == b""
        else:
            await records.peer.close()
        await gone(chp)
        assert closed_for(chp) == {"client_closed": 1}


@pytest.mark.parametrize("word", [True, False], ids=["close_notify", "FIN"])
@pytest.mark.parametrize(
    ("response", "complete"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", True),  # many servers end without a word
    ],
    ids=["complete", "cut", "cut-chunks", "until-close"],
)
async def test_a_target_that_leaves(
    response: bytes, complete: bool, word: bool, pki: Any, log_lines: Any
) -> None:
    async def answer(records: Records) -> None:
        await records.receive(10)
        await records.peer.send(records.sealed(response) + (records.end() if word else b""))

    async with tls_backend(pki, answer) as url, proxy(url, client_ssl_ca=pki.ca) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        if complete:
            await peer.receive_until(b"hello")
            await peer.close()
        else:
            assert (await broken_off(peer)).endswith(b"hello\r\n" if b"chunked" in response else b"hello")
            assert log_lines.take("Response to GET / cut")
        await quiet(chp)


async def test_a_client_that_sends_no_more_and_takes_nothing(pki: Any) -> None:
    """What it does not take is not waited for."""

    async def flood(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        for _ in range(1000):
            await peer.send(bytes(MIB))

    async with backend(flood) as server, tls_proxy(pki, server.url) as chp:
        records = await client(chp, pki)
        records.peer.stop_reading()
        await records.peer.send(records.sealed(GET))
        await standstill(lambda: chp.app.metrics.client_bytes_sent)
        assert chp.app.metrics.client_bytes_sent
        records.peer.writer.write_eof()
        await server.wait_until_ended()
        await gone(chp)
        assert closed_for(chp) == {"client_closed": 1}
        records.peer.abort()


async def test_a_target_that_sends_more_than_its_response(pki: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is thrown away when the connection is closed does not overwrite what is still on its way."""
    monkeypatch.setattr(tls, "RECEIVE_BUFFER_SIZE", 1000)
    content = random.Random(0).randbytes(3300)

    async def answer(records: Records) -> None:
        await records.receive(10)
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content)
        await records.peer.send(records.sealed(head + content + bytes(5000)))
        await records.peer.receive_some()  # the proxy's goodbye

    async with tls_backend(pki, answer) as url, proxy(url, client_ssl_ca=pki.ca) as chp:
        message = await chp.get()
        assert sha256(message.content).digest() == sha256(content).digest()
        await quiet(chp)


@pytest.mark.parametrize("rest", [b"", b"\x17\x03\x03\x00\x20half"], ids=["", "half a record"])
async def test_a_reset_in_an_upload(rest: bytes, pki: Any) -> None:
    async with backend(hang) as server, tls_proxy(pki, server.url) as chp:
        records = await client(chp, pki)
        await records.peer.send(
            records.sealed(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n123") + rest
        )
        await server.wait_for(b"123")
        records.peer.abort()
        await server.wait_until_ended()
        await gone(chp)
        assert closed_for(chp) == {"client_reset": 1}


async def test_a_spoiled_record(pki: Any) -> None:
    async with backend() as server, tls_proxy(pki, server.url) as chp:
        records = await client(chp, pki)
        data = records.sealed(GET)
        await records.peer.send(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):  # it is told why
            await records.receive_all()
        await gone(chp)
        assert closed_for(chp) == {"client_reset": 1}
        assert server.connections == 0


async def test_what_is_written_comes_before_the_end(pki: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client takes its time: longer than one that takes nothing would get."""
    monkeypatch.setattr(tls, "_CLOSE_TIMEOUT", 1.0)
    size = 40 * MIB  # more than the kernel keeps

    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // MIB):
            await peer.send(bytes(MIB))

    options = {"write_buffer_high": 2 * size, "keep_alive_timeout": 4 * SHORT}
    async with backend(answer) as server, tls_proxy(pki, server.url, **options) as chp:
        records = await client(chp, pki)
        await records.peer.send(records.sealed(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
        await until(lambda: chp.app.metrics.client_bytes_sent >= size)
        received = 0
        for _ in range(25):
            received += len(await records.receive(size // 30))
            await asyncio.sleep(0.1)
        received += len(await records.receive_all())
        assert received > size
        await records.peer.send(records.end())
        await records.peer.close()
        await gone(chp)
        assert closed_for(chp) == {"response_complete": 1}


async def test_a_peer_that_does_not_answer_the_end_is_left(pki: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_CLOSE_TIMEOUT", SHORT / 1000)
    async with tls_proxy(pki, keep_alive_timeout=SHORT, head_timeout=SHORT) as chp:
        records = await client(chp, pki)
        assert await records.receive_all() == b""
        await gone(chp)  # though it says nothing, and does not close
        await records.peer.close()


# -- in the handshake -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("garbage", "answer"),
    [(b"\0" * 100, b""), (GET, b""), (b"\x16\x03\x01\x00\x05hello", ALERT)],
    ids=["zeros", "http", "record"],
)
async def test_garbage(garbage: bytes, answer: bytes, pki: Any) -> None:
    """What comes in a record of TLS gets an alert."""
    async with tls_proxy(pki) as chp:
        peer = await chp.connect()
        await peer.send(garbage)
        assert (await end_of(peer))[: len(ALERT)] == answer
        await gone(chp)
        assert closed_for(chp) == {"tls_handshake": 1}
        assert not any(chp.app.metrics.limits_reached.values())


async def test_who_spoils_the_connection_right_behind_the_handshake_is_counted_once(pki: Any) -> None:
    async with tls_proxy(pki) as chp:
        records = Records(await chp.connect(), client_context(pki))
        await records.peer.send(records.hello())
        records.feed(await records.peer.reader.read(2**16))
        await records.peer.send(records.finished() + b"\x17\x03\x03\x00\x20" + bytes(32))
        with contextlib.suppress(ConnectionResetError):
            await records.peer.receive_all()
        await gone(chp)
        assert closed_for(chp) == {"client_reset": 1}


@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_leaves_in_the_handshake(reset: bool, pki: Any) -> None:
    async with tls_proxy(pki) as chp:
        for number, share in enumerate((0.0, 0.5, 1.0)):
            records = Records(await chp.connect(), client_context(pki))
            hello = records.hello()
            await records.peer.send(hello[: int(share * len(hello))])
            if share == 1:
                await records.peer.receive(1)
            records.peer.abort() if reset else await records.peer.close()
            await gone(chp)
            await until(lambda number=number: closed_for(chp) == {"tls_handshake": number + 1})
        assert not any(chp.app.metrics.limits_reached.values())


async def test_the_proxy_stops_in_a_handshake(pki: Any) -> None:
    async with tls_proxy(pki) as chp:
        records = Records(await chp.connect(), client_context(pki))
        await records.peer.send(records.hello())
        await records.peer.receive(1)
        runtime = runtime_of(chp)
    with contextlib.suppress(ConnectionResetError):
        await records.peer.receive_all()
    assert not runtime.clients.total


@pytest.mark.expect_log("503 GET / TLS with https://127.0.0.1:\\d+ failed: ")
async def test_a_target_that_refuses_the_handshake_is_told_nothing_of_the_request(pki: Any) -> None:
    """Its alert gives the reason; ours says that we go."""
    received = []

    async def refuse(peer: Peer) -> None:
        await peer.receive(1)
        await peer.send(b"\x15\x03\x03\x00\x02\x02\x28")  # handshake_failure
        received.append(await end_of(peer))

    async with backend(refuse) as server, proxy(server.url.replace("http:", "https:")) as chp:
        assert (await chp.get()).status == 503
        await until(lambda: received)
        assert chp.app.metrics.upstream_errors == {"tls": 1}
        await quiet(chp)


@pytest.mark.expect_log("connecting to https://127.0.0.1:\\d+ timed out")
async def test_a_target_that_does_not_answer_the_handshake(pki: Any) -> None:
    async with (
        backend(hang) as server,
        proxy(server.url.replace("http:", "https:"), connect_timeout=SHORT) as chp,
    ):
        assert (await chp.get()).status == 503
        await server.wait_until_ended()
        await quiet(chp)


# -- messages of TLS itself, between others ---------------------------------------------


@contextlib.asynccontextmanager
async def openssl(*arguments: str) -> AsyncIterator[Callable[..., Any]]:
    """Run a tool of OpenSSL that takes orders.

    Yield ``say(line, pattern, times)``, which waits for the pattern and returns all that it said.
    """
    process = await asyncio.create_subprocess_exec(
        "openssl",
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    said = b""

    async def say(line: bytes, wanted: bytes, times: int = 1) -> bytes:
        nonlocal said
        if line:
            process.stdin.write(line + b"\n")
        while len(re.findall(wanted, said)) < times:
            more = await asyncio.wait_for(process.stdout.read(2**16), PATIENCE)
            assert more, said
            said += more
        return said

    try:
        yield say
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


UPDATE = rb"TLS 1\.3, Handshake \[length 0005\], KeyUpdate"


async def test_a_client_that_changes_its_keys(pki: Any) -> None:
    async with backend() as server, tls_proxy(pki, server.url) as chp:
        arguments = ("s_client", "-connect", f"127.0.0.1:{chp.port}", "-CAfile", pki.ca, "-msg", "-crlf")
        async with openssl(*arguments) as say:
            await say(b"", rb"Verify return code: 0")
            for number in range(1, 4):
                await say(b"K", b">>> " + UPDATE, number)  # and asks for ours
                await say(b"GET / HTTP/1.1\nHost: h\n", b"<<< " + UPDATE, number)
                await say(b"", rb"\nok", number)
            await say(b"k", b">>> " + UPDATE, 4)
            said = await say(b"GET / HTTP/1.1\nHost: h\n", rb"\nok", 4)
            assert len(re.findall(b"<<< " + UPDATE, said)) == 3
        await gone(chp)


@pytest.mark.parametrize(
    ("version", "order"),
    # In TLS 1.2 a server may ask for another handshake: that is what comes in the place of an answer.
    [("-tls1_3", b"K"), ("-tls1_3", b"k"), ("-tls1_2", b"r")],
    ids=["both keys", "its key", "renegotiation"],
)
async def test_a_target_that_changes_its_keys(version: str, order: bytes, pki: Any) -> None:
    port = free_port()
    arguments = ("s_server", "-accept", f"127.0.0.1:{port}", "-cert", pki.cert, "-key", pki.key)
    async with (
        openssl(*arguments, version, "-msg", "-crlf") as say,
        proxy(f"https://127.0.0.1:{port}", client_ssl_ca=pki.ca) as chp,
    ):
        await say(b"", rb"ACCEPT")
        peer = await chp.connect()
        for number in range(1, 4):
            await peer.send(GET)
            await say(b"", rb"GET /", number)
            # An order and what follows must not reach it in one read.
            if order == b"r":
                await say(order, rb"<<< TLS 1\.2, Handshake \[length 0010\], Finished", number + 1)
            else:
                await say(order, b">>> " + UPDATE, number)
            if order == b"K" and number > 1:
                await say(b"", b"<<< " + UPDATE, number - 1)  # with the request, not before
            await say(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", rb"")
            assert (await peer.receive_message()).content == b"ok"
        assert chp.app.metrics.upstream_connections == 1
        await peer.close()
        await quiet(chp)


async def test_a_client_that_wants_to_renegotiate_is_left(pki: Any, tmp_path: Path) -> None:
    """Else each question would get an answer, also when it reads none, and they would fill the memory."""
    cipher = "ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0"  # with which a test can write records that OpenSSL would not
    async with backend(hang) as server, tls_proxy(pki, server.url, ssl_ciphers=cipher) as chp:
        context = client_context(pki, V12)
        context.set_ciphers(cipher)
        keys = tmp_path / "keys"
        context.keylog_filename = str(keys)
        peer = await chp.connect()
        records = Records(peer, context)
        hello = records.hello()
        await peer.send(hello)
        answer = await peer.reader.read(2**16)
        records.feed(answer)
        await records.shake_hands()
        await peer.send(records.sealed(GET))
        await server.wait_for(b"GET")
        master = bytes.fromhex(keys.read_text().split()[-1])
        mac_key = tls12_keys(master, server_random=answer[11:43], client_random=hello[11:43])[:20]
        content = hello[5:]
        start = b"\x16\x03\x03" + len(content).to_bytes(2, "big")
        number = 2  # of the record: one ended the handshake, one had the request
        mac = hmac.digest(mac_key, number.to_bytes(8, "big") + start + content, "sha1")
        await peer.send(start[:3] + (len(content) + len(mac)).to_bytes(2, "big") + content + mac)
        await end_of(peer)
        await gone(chp)
        assert closed_for(chp) == {"client_reset": 1}


def tls12_keys(master: bytes, *, server_random: bytes, client_random: bytes) -> bytes:
    """Return the first keys of a connection (RFC 5246, sections 5 and 6.3)."""
    seed = b"key expansion" + server_random + client_random
    return hmac.digest(master, hmac.digest(master, seed, "sha256") + seed, "sha256")


# -- flow ---------------------------------------------------------------------------------


class Reader(asyncio.BufferedProtocol):
    """What the proxy's protocols are to the transport: takes some, and then nothing until it is told to."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.received = b""
        self.paused = False
        self.surprised = False  # something came although it was paused
        self.ended = False
        self.lost = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.runtime.view

    def buffer_updated(self, nbytes: int) -> None:
        self.surprised = self.surprised or self.paused or self.ended
        self.received += self.runtime.view[:nbytes]
        self.paused = True
        self.transport.pause_reading()

    def go_on(self) -> None:
        self.paused = False
        self.transport.resume_reading()

    def eof_received(self) -> None:
        self.ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@pytest.mark.parametrize("at_once", [RECEIVE_BUFFER_SIZE, 1000])
async def test_nothing_comes_while_reading_is_paused_and_all_of_it_after(
    at_once: int, pki: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decrypted, or waits to be, needs no more bytes from the network to be told; it is bounded."""
    monkeypatch.setattr(tls, "RECEIVE_BUFFER_SIZE", at_once)
    loop = asyncio.get_running_loop()
    runtime = Runtime(loop, Metrics(), logging.getLogger("chp"))
    content = random.Random(0).randbytes(50 * at_once)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    reader = Reader(runtime)
    transport = TlsTransport(runtime, reader, server_context(pki))
    await loop.connect_accepted_socket(lambda: transport, ours)
    peer = Peer(*await asyncio.open_connection(sock=theirs))
    records = Records(peer, client_context(pki))
    await records.shake_hands()
    await asyncio.wait_for(transport.opened(), PATIENCE)
    peer.writer.write(records.sealed(content) + records.end())
    most = received = 0
    for _ in range(len(content)):
        await until(lambda before=received: len(reader.received) > before)
        received = len(reader.received)
        for _ in range(20):  # turns of the loop
            await asyncio.sleep(0)
        assert len(reader.received) == received
        assert not reader.surprised
        most = max(most, transport._incoming.pending)
        if received == len(content):
            break
        reader.go_on()
    assert sha256(reader.received).digest() == sha256(content).digest()  # short enough to be shown
    assert most < 2 * RECEIVE_BUFFER_SIZE
    reader.go_on()
    await asyncio.wait_for(reader.lost.wait(), PATIENCE)
    assert reader.ended
    assert await records.receive_all() == b""
    await peer.close()
    runtime.close()


async def test_a_request_that_waits_for_its_turn_needs_no_more_bytes(pki: Any) -> None:
    """Answers that the client does not take stop the reading, with requests that have been received."""
    content = bytes(MIB)

    async def answer(peer: Peer) -> None:
        while True:
            await peer.receive_head()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    async with backend(answer) as server, tls_proxy(pki, server.url) as chp:
        records = await client(chp, pki)
        await records.peer.send(b"".join(records.sealed(GET) for _ in range(12)))
        for _ in range(12):
            assert len((await records.receive_message()).content) == len(content)
        assert await end_after(records) == b""
        await gone(chp)


async def test_long_contents_both_ways_at_once_while_nobody_hurries(pki: Any) -> None:
    """TLS on both sides, and more than all buffers hold."""
    blocks = [random.Random(seed).randbytes(MIB) for seed in (0, 1)]
    count = 24
    head = b"Content-Length: %d\r\n\r\n" % (count * MIB)

    async def send_and_receive(peer: Peer, sent: bytes, received: bytes) -> None:
        expected = sha256(received).digest()

        async def send() -> None:
            for _ in range(count):
                await peer.send(sent)

        async def receive() -> None:
            for number in range(count):
                assert sha256(await peer.receive(MIB)).digest() == expected
                if number % 8 == 0:
                    await asyncio.sleep(0.02)

        await asyncio.gather(send(), receive())

    async def echo(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + head)
        await send_and_receive(peer, blocks[0], blocks[1])
        await hang(peer)

    async with (
        backend(echo, tls=server_context(pki)) as server,
        tls_proxy(pki, server.url, client_ssl_ca=pki.ca) as chp,
    ):
        peer = await chp.connect(tls=client_context(pki))
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\n" + head)
        await peer.receive_head()
        await send_and_receive(peer, blocks[1], blocks[0])
        await peer.close()
        await gone(chp)


@pytest.mark.parametrize("direction", ["download", "upload"])
async def test_who_does_not_read_stops_who_sends(direction: str, pki: Any) -> None:
    taken = 0
    block = bytes(2**16)

    async def flood(peer: Peer) -> None:
        nonlocal taken
        for _ in range(2000):
            peer.writer.write(block)
            await peer.writer.drain()
            taken += len(block)

    async def script(peer: Peer) -> None:
        await peer.receive_head()
        if direction == "download":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            await flood(peer)
        else:
            peer.stop_reading()
            await asyncio.sleep(100)

    async with (
        backend(script, tls=server_context(pki)) as server,
        tls_proxy(pki, server.url, client_ssl_ca=pki.ca) as chp,
    ):
        peer = await chp.connect(tls=client_context(pki))
        if direction == "download":
            await peer.send(GET)
            await peer.receive_head()
            peer.stop_reading()
            assert await standstill(lambda: taken) < 20 * MIB
        else:
            await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
            async with background(flood(peer)):
                assert await standstill(lambda: taken) < 20 * MIB
        transports = [it for it in gc.get_objects() if type(it) is TlsTransport and not it.is_closing()]
        assert len(transports) == 2
        for transport in transports:
            assert transport._incoming.pending < 2 * RECEIVE_BUFFER_SIZE
            assert transport._outgoing.pending == 0
            assert transport.get_write_buffer_size() < MIB
        peer.abort()
        await gone(chp)
