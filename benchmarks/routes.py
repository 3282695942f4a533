"""Many routes: what a lookup, one more route and a look at the whole table cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time

from benchmarks.backend import SIZES
from benchmarks.clients import Keeper
from benchmarks.load import Load, percentile, run_wrk
from benchmarks.peers import TOKEN
from benchmarks.processes import HOST, Failure, Meter
from benchmarks.stage import Stage

FEW, MANY = 10_000, 100_000
_ADDED_ONE_BY_ONE = 2000
_ADDING = 8  # connections
_USERS = 4  # of the proxy, while somebody looks at the table
_READ_TIMEOUT = 60.0  # seconds
_TURNS = 5
# Spread over the table, and the same for any number of routes.
_PATHS = [f"/user/{number * 7919 % MANY}/small" for number in range(2000)]


async def measure(stage: Stage, seconds: float, meter: Meter) -> Load:
    more: dict[str, float] = {}
    await _add(stage, range(FEW))
    more["get_few_ms"], more["stall_few_ms"] = await _stall(stage, FEW)
    await _add(stage, range(FEW, MANY - _ADDED_ONE_BY_ONE))
    adding = Keeper(stage.setup.api_port, TOKEN)
    latencies = [await _add_one(stage, adding, number) for number in range(MANY - _ADDED_ONE_BY_ONE, MANY)]
    adding.close()
    more["add_p50_ms"], more["add_p99_ms"] = (
        percentile(latencies, 0.5) * 1e3,
        percentile(latencies, 0.99) * 1e3,
    )
    more["get_many_ms"], more["stall_many_ms"] = await _stall(stage, MANY)
    return await _compare_lookups(stage, max(round(seconds), 1), meter, more)


async def _compare_lookups(stage: Stage, seconds: int, meter: Meter, more: dict[str, float]) -> Load:
    """Request paths that have a route each, and from a second proxy, in turn, where one route is for all."""
    many, one = [], []
    with stage.theatre.running(stage.peer, tls=False, backend_tls=False) as other:
        for turn in range(_TURNS + 1):
            with meter:
                load = await _request(stage, seconds)
            with (other_meter := other.meter()):
                other_load = await _request(other, seconds)
            if turn:  # the first is for warming up
                many.append(meter.cpu / load.operations * 1e6)
                one.append(other_meter.cpu / other_load.operations * 1e6)
    more["one_us"], more["many_us"] = min(one), min(many)
    more["many_share"] = more["many_us"] / more["one_us"]
    load.more = more
    return load


async def _request(stage: Stage, seconds: int) -> Load:
    url = f"http://{HOST}:{stage.setup.port}/"
    return await run_wrk(url, seconds, size=SIZES[b"small"], paths=_PATHS)


async def _add_one(stage: Stage, keeper: Keeper, number: int) -> float:
    status, _, took = await keeper.ask("POST", f"/api/routes/user/{number}", {"target": stage.setup.backend})
    if status != 201:
        raise Failure(f"route {number} was not added: {status}")
    return took


async def _add(stage: Stage, numbers: range) -> None:
    waiting = iter(numbers)

    async def work() -> None:
        keeper = Keeper(stage.setup.api_port, TOKEN)
        for number in waiting:
            await _add_one(stage, keeper, number)
        keeper.close()

    await asyncio.gather(*(work() for _ in range(_ADDING)))


async def _stall(stage: Stage, count: int) -> tuple[float, float]:
    """Get the whole table while others send requests.

    Returns how long that took, and the slowest of the others, in milliseconds.
    """
    slowest = 0.0
    ended = False

    async def use() -> None:
        nonlocal slowest
        keeper = Keeper(stage.setup.port)
        while not ended:
            status, _, took = await keeper.ask("GET", "/user/1/small")
            if status != 200:
                raise Failure(f"a request failed: {status}")
            slowest = max(slowest, took)
        keeper.close()

    users = [asyncio.create_task(use()) for _ in range(_USERS)]
    try:
        await asyncio.sleep(0.2)
        slowest = 0.0
        began = time.perf_counter()
        # In a thread that does nothing but read, so that it holds up nobody.
        answer = await asyncio.to_thread(_read_table, stage.setup.api_port)
        took = time.perf_counter() - began
    finally:
        ended = True
        await asyncio.gather(*users)
    head, _, body = answer.partition(b"\r\n\r\n")
    table = json.loads(_dechunk(body) if b"chunked" in head.lower() else body)
    if not head.startswith(b"HTTP/1.1 200 ") or len(table) != count + 1:  # and the default one
        raise Failure(f"{len(table)} routes in place of {count + 1}")
    return took * 1e3, slowest * 1e3


def _read_table(api_port: int) -> bytes:
    fields = f"Host: {HOST}\r\nAuthorization: token {TOKEN}\r\nConnection: close"
    request = f"GET /api/routes HTTP/1.1\r\n{fields}\r\n\r\n"
    parts: list[bytes] = []
    with contextlib.closing(socket.create_connection((HOST, api_port), _READ_TIMEOUT)) as sock:
        sock.sendall(request.encode())
        while part := sock.recv(1 << 20):
            parts.append(part)
    return b"".join(parts)


def _dechunk(body: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
