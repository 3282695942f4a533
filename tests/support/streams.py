"""For tests of streams that stall, break off or never end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from support.wire import PATIENCE, Backend, Message, Peer, Proxy, until

_CALM = 0.15  # seconds without change that count as a standstill


async def standstill(value: Callable[[], int]) -> int:
    """Wait until a growing number grows no more; return it."""
    last, unchanged = -1, 0.0
    for _ in range(int(6 * PATIENCE / 0.01)):
        await asyncio.sleep(0.01)
        now = value()
        unchanged = unchanged + 0.01 if now == last else 0.0
        last = now
        if unchanged > _CALM:
            return now
    raise AssertionError("it goes on and on")


def gauges(chp: Proxy) -> dict[str, int]:
    metrics = chp.app.metrics
    return {
        "clients": metrics.client_connections,
        "tunnels": metrics.tunnels,
        "upstreams": metrics.upstream_connections - metrics.upstream_connections_idle,
    }


async def quiet(chp: Proxy) -> None:
    """Wait until the proxy carries nothing any more: idle upstream connections may stay."""
    try:
        await until(lambda: not any(gauges(chp).values()))
    except AssertionError:
        raise AssertionError(f"something is left: {gauges(chp)}") from None


async def hang(peer: Peer) -> None:
    """A script: read everything, answer nothing."""
    while await peer.reader.read(2**20):
        pass


async def broken_off(peer: Peer) -> bytes:
    """Receive up to the reset that says that the rest is missing; return what came before it."""
    received = bytearray()
    try:
        while data := await asyncio.wait_for(peer.reader.read(2**16), PATIENCE):
            received += data
    except ConnectionResetError:
        return bytes(received)
    raise AssertionError(f"no reset behind {bytes(received)[-200:]!r}")


async def end_of(peer: Peer) -> bytes:
    """Receive up to the end of the connection, whether it was closed or reset."""
    try:
        return await peer.receive_all()
    except ConnectionResetError:
        return b""


@asynccontextmanager
async def background(coroutine: object) -> AsyncIterator[asyncio.Task[None]]:
    """Run something beside; it has ended, or is ended, at the end."""
    task: asyncio.Task[None] = asyncio.ensure_future(coroutine)  # type: ignore[arg-type]
    try:
        yield task
    finally:
        # More than once: wait_for() of Python 3.11 may swallow a cancellation.
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.01)
        if not task.cancelled():
            task.exception()  # whoever awaits the task gets it


async def receive_headed(peer: Peer) -> Message:
    """Receive a head only."""
    return Message(await peer.receive_head())


def heads(server: Backend) -> int:
    """Count the requests that a backend has received (none has content that looks like one)."""
    return server.all_received.count(b" HTTP/1.1\r\n")
