"""A side that stops reading stops the other side: the proxy's memory does not grow with what is sent."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from support.commands import CHP
from support.streams import background, broken_off, end_of, heads, quiet, receive_headed, standstill
from support.wire import OK, PATIENCE, Peer, answer_ok, backend, proxy, proxy_defaults, until

MIB = 2**20
BLOCK = random.Random(0).randbytes(MIB)
BLOCKS = 200
STALLED = 6  # connections at the same time
PER_CONNECTION = 2 * MIB
DOWNLOAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BLOCKS * MIB)
UPLOAD = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (BLOCKS * MIB)
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"


@dataclass
class Process:
    pid: int
    port: int

    @property
    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match
        return int(match[1]) * 1024

    async def connect(self) -> Peer:
        return Peer(*await asyncio.open_connection("127.0.0.1", self.port))


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)


def started_port(log: Path) -> int:
    """Return the port as soon as everything is ready, else 0."""
    text = log.read_text()
    match = re.search(r"Proxying http://127\.0\.0\.1:(\d+) to", text)
    return int(match[1]) if match and "Proxy API at" in text else 0


@asynccontextmanager
async def process(target: str, log: Path) -> AsyncIterator[Process]:
    """Run the proxy's command, on the same kind of loop as the test."""
    event_loop = "uvloop" if isinstance(asyncio.get_running_loop(), uvloop.Loop) else "asyncio"
    command = [CHP, "--ip=127.0.0.1", "--port=0", "--api-port=0"]
    command += [f"--default-target={target}", f"--event-loop={event_loop}"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in proxy_defaults.items()]
    child = start(command, log)
    try:
        await until(lambda: started_port(log) or child.poll() is not None)
        yield Process(child.pid, started_port(log))
    finally:
        child.kill()
        child.wait(PATIENCE)


class Flood:
    """Send without an end, as fast as the other side takes it, and count."""

    def __init__(self) -> None:
        self.taken = 0

    async def send(self, peer: Peer) -> None:
        for _ in range(BLOCKS):
            for start in range(0, MIB, 2**16):
                peer.writer.write(BLOCK[start : start + 2**16])
                await peer.writer.drain()  # without an end: it stalls here
                self.taken += 2**16


async def stall_downloads(chp: Process, flood: Flood) -> None:
    peers = [await chp.connect() for _ in range(STALLED)]
    for peer in peers:
        await peer.send(GET)
        await peer.receive_head()
        peer.stop_reading()
    await check_memory(chp, flood)
    for peer in peers:
        peer.abort()


async def stall_uploads(chp: Process, flood: Flood) -> None:
    peers = [await chp.connect() for _ in range(STALLED)]
    for peer in peers:
        await peer.send(UPLOAD)
    await flood_from(peers, chp, flood)


async def stall_tunnels(chp: Process, flood: Flood) -> None:
    """Neither side reads: the backend floods as well."""
    peers = [await chp.connect() for _ in range(STALLED)]
    for peer in peers:
        await peer.send(UPGRADE)
        await peer.receive_head()
        peer.stop_reading()
    await flood_from(peers, chp, flood)


async def flood_from(peers: list[Peer], chp: Process, flood: Flood) -> None:
    sending = [asyncio.ensure_future(flood.send(peer)) for peer in peers]
    await check_memory(chp, flood)
    for task in sending:
        task.cancel()
    await asyncio.gather(*sending, return_exceptions=True)
    for peer in peers:
        peer.abort()


async def check_memory(chp: Process, flood: Flood) -> None:
    before = chp.memory
    await standstill(lambda: flood.taken)
    assert flood.taken, "nothing was sent"
    assert flood.taken < STALLED * BLOCKS * MIB / 2, "the sender was not stopped"
    assert chp.memory - before < STALLED * PER_CONNECTION


@pytest.mark.parametrize("kind", ["download", "upload", "tunnel"])
async def test_stalled_connections_cost_less_than_two_megabytes_each(kind: str, tmp_path: Path) -> None:
    flood = Flood()

    async def download(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(DOWNLOAD)
        await flood.send(peer)

    async def upload(peer: Peer) -> None:
        await peer.receive_head()
        peer.stop_reading()
        await asyncio.Event().wait()

    async def tunnel(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED)
        peer.stop_reading()
        await flood.send(peer)

    scripts: dict[str, Callable[[Peer], Awaitable[None]]]
    scripts = {"download": download, "upload": upload, "tunnel": tunnel}
    stall = {"download": stall_downloads, "upload": stall_uploads, "tunnel": stall_tunnels}[kind]
    async with backend(scripts[kind]) as server, process(server.url, tmp_path / "log") as chp:
        await stall(chp, flood)


async def test_a_slow_client_gets_everything_in_the_end() -> None:
    flood = Flood()

    async def download(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BLOCKS * MIB))
        await flood.send(peer)

    async with backend(download) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        await receive_headed(peer)
        peer.stop_reading()
        stopped = await standstill(lambda: flood.taken)
        assert 0 < stopped < BLOCKS * MIB / 2
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(BLOCKS):
            assert await peer.receive(MIB) == BLOCK
        await peer.close()
        await quiet(chp)


async def test_a_slow_upstream_gets_everything_in_the_end() -> None:
    read_on = asyncio.Event()
    digests = []

    async def upload(peer: Peer) -> None:
        await peer.receive_head()
        peer.stop_reading()
        await read_on.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        digest = hashlib.sha256()
        for _ in range(BLOCKS):
            digest.update(await peer.receive(MIB))
        digests.append(digest.digest())
        await peer.send(OK)

    flood = Flood()
    async with backend(upload) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(UPLOAD)
        async with background(flood.send(peer)) as sending:
            stopped = await standstill(lambda: flood.taken)
            assert 0 < stopped < BLOCKS * MIB / 2
            read_on.set()
            await sending
        assert (await peer.receive_message()).status == 200
        await peer.close()
        await quiet(chp)
    assert digests == [hashlib.sha256(BLOCK * BLOCKS).digest()]


@pytest.mark.parametrize("gone", ["client", "upstream"])
async def test_a_stalled_download_ends_when_one_side_vanishes(gone: str, log_lines: Any) -> None:
    flood = Flood()
    vanish = asyncio.Event()

    async def download(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(DOWNLOAD)
        async with background(flood.send(peer)):
            await vanish.wait()
        peer.abort()

    async with backend(download) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(GET)
        await peer.receive_head()
        peer.stop_reading()
        await standstill(lambda: flood.taken)
        if gone == "client":
            peer.abort()
            await quiet(chp)
        else:
            vanish.set()
            await server.wait_until_ended()
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await broken_off(peer)
            log_lines.take("Response to GET / cut")
            await quiet(chp)


@pytest.mark.parametrize("noticed_by", ["reading on", "timeout"])
async def test_a_stalled_upload_ends_when_its_client_has_vanished(noticed_by: str) -> None:
    """Its end is noticed at once when something moves or a timeout passes, else by the ticker."""
    read_on = asyncio.Event()

    async def upload(peer: Peer) -> None:
        await peer.receive_head()
        peer.stop_reading()
        await read_on.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await end_of(peer)

    flood = Flood()
    timeout = 300 if noticed_by == "timeout" else 0
    async with backend(upload) as server, proxy(server.url, timeout=timeout) as chp:
        peer = await chp.connect()
        await peer.send(UPLOAD)
        async with background(flood.send(peer)):
            if not timeout:
                await standstill(lambda: flood.taken)
                peer.abort()
                read_on.set()
            await quiet(chp)
        read_on.set()
        await server.wait_until_ended()


async def test_requests_behind_a_waiting_one_are_not_read_without_limit() -> None:
    """A client that sends ahead is stopped after 64 KiB and what one read brings."""
    request = b"GET /" + b"x" * 1000 + b" HTTP/1.1\r\nHost: h\r\n\r\n"
    flood = Flood()
    answered = asyncio.Event()

    async def answer(peer: Peer) -> None:
        await peer.receive_head()
        await answered.wait()
        await peer.send(OK)
        await answer_ok(peer)

    async def send_ahead(peer: Peer) -> None:
        for _ in range(BLOCKS * 1000):
            peer.writer.write(request)
            await peer.writer.drain()
            flood.taken += len(request)

    async with backend(answer) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        async with background(send_ahead(peer)):
            await standstill(lambda: flood.taken)
            assert chp.app.metrics.client_bytes_received < MIB
            assert heads(server) == 1
            answered.set()
            for _ in range(100):  # and then they are answered, one after another
                assert (await peer.receive_message()).status == 200
        peer.abort()
        await quiet(chp)
