"""What is measured. Each workload ends with an error if a single answer is wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

from benchmarks import clients, routes
from benchmarks.backend import SIZES
from benchmarks.load import Load, run_wrk
from benchmarks.peers import Peer
from benchmarks.processes import HOST, Meter, ending
from benchmarks.stage import Stage, Theatre

UPLOAD = 1024 * 1024  # bytes
IDLE_WEBSOCKETS = 2000
STARTS = 5

Measure = Callable[[Stage, float, Meter], Awaitable[Load]]


@dataclass(frozen=True)
class Workload:
    """One thing that proxies do, and how it is measured."""

    name: str
    title: str
    unit: str  # of what is counted
    measure: Measure
    tls: bool = False
    backend_tls: bool = False
    wants: Callable[[Peer], bool] = lambda peer: True
    once: bool = False  # takes as long as it takes, and is not repeated

    def suits(self, peer: Peer) -> bool:
        return self.wants(peer) and (peer.tls or not (self.tls or self.backend_tls))


def _http(name: str, *, upload: int = 0, close: bool = False) -> Measure:
    async def measure(stage: Stage, seconds: float, meter: Meter) -> Load:
        setup, size = stage.setup, SIZES[name.encode()]
        stage.check(name, upload=upload)
        url = f"{'https' if setup.tls else 'http'}://{HOST}:{setup.port}/user/ada/{name}"
        with meter:
            return await run_wrk(url, max(round(seconds), 1), size=size, upload=upload, close=close)

    return measure


def _echo(size: int) -> Measure:
    async def measure(stage: Stage, seconds: float, meter: Meter) -> Load:
        return await clients.echo(stage.setup.port, seconds, meter, size=size, connections=32)

    return measure


async def _events(stage: Stage, seconds: float, meter: Meter) -> Load:
    load = await clients.events(stage.setup.port, seconds, meter, connections=20)
    direct = await clients.events(
        stage.setup.backend_port, seconds / 2, meter=Meter(stage.process), connections=20
    )
    load.more = {"added_ms": (load.p50 - direct.p50) * 1e3}
    return load


async def _idle(stage: Stage, seconds: float, meter: Meter) -> Load:
    """Measure what an open WebSocket costs in memory: after one, because the first brings code with it."""
    async with clients.idle_websockets(stage.setup.port, 10):
        before = stage.process.memory()
        with meter:
            async with clients.idle_websockets(stage.setup.port, IDLE_WEBSOCKETS):
                await asyncio.sleep(min(seconds, 1))
                taken = stage.process.memory() - before
    return Load(IDLE_WEBSOCKETS, meter.seconds, more={"idle_kb": taken / IDLE_WEBSOCKETS / 1024})


def _not_curl(peer: Peer) -> bool:
    return not peer.curl  # tunnels are those of direct


def _streaming(peer: Peer) -> bool:
    return peer.name != "corridor"  # it collects responses, and gives up on one without an end


def _with_api(peer: Peer) -> bool:
    return peer.name in ("chp", "chp-compiled", "node")  # one of each kind: it takes a minute each


WORKLOADS = (
    Workload("small", "small GET", "request", _http("small")),
    Workload("10k", "10 KiB GET", "request", _http("10k")),
    Workload("1m", "1 MiB GET", "request", _http("1m")),
    Workload("upload", "1 MiB upload", "request", _http("small", upload=UPLOAD)),
    Workload("connect", "new connection each time", "request", _http("small", close=True)),
    Workload("tls-small", "TLS, small GET", "request", _http("small"), tls=True),
    Workload(
        "tls-connect",
        "TLS, new handshake each time",
        "request",
        _http("small", close=True),
        tls=True,
    ),
    Workload("tls-1m", "TLS, 1 MiB GET", "request", _http("1m"), tls=True),
    Workload("https-small", "https target, small GET", "request", _http("small"), backend_tls=True),
    Workload("https-1m", "https target, 1 MiB GET", "request", _http("1m"), backend_tls=True),
    Workload("ws-100", "WebSocket echo, 100 B", "message", _echo(100), wants=_not_curl),
    Workload("ws-64k", "WebSocket echo, 64 KiB", "message", _echo(64 * 1024), wants=_not_curl),
    Workload("events", "event stream", "event", _events, wants=_streaming),
    Workload("idle", "2,000 idle WebSockets", "socket", _idle, wants=_not_curl, once=True),
    Workload(
        "routes",
        "100,000 routes",
        "request",
        routes.measure,
        wants=_with_api,
        once=True,
    ),
)


async def measure_start(theatre: Theatre, peer: Peer) -> dict[str, float]:
    """Return the seconds from the command to the first right answer, and the memory a moment later."""
    took: list[float] = []
    memory: list[float] = []
    for _ in range(STARTS):
        began = time.perf_counter()
        stage = theatre.start(peer, tls=False, backend_tls=False)
        with ending(stage.process):
            stage.wait()
            took.append(time.perf_counter() - began)
            await asyncio.sleep(0.5)
            memory.append(stage.process.memory())
    return {"ready_ms": median(took) * 1e3, "rest_mb": median(memory) / 1024 / 1024}
