"""What all connections of one event loop share: the receive buffer, the ticker, metrics and log."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Final, Protocol

from chp.metrics import Metrics
from chp.repeats import RepeatedLines

# One read of a socket brings this many bytes at the most, and they are written on in one piece. The
# kernel sends that in packets of up to 64 KiB (also where a network card cuts them up), less headers
# and what is no multiple of a segment: two packets, with an MTU of 1,500, 9,000 or 65,536 bytes. 1 MiB
# of upload costs 20 % less CPU than with 96 KiB; with 128 KiB, which takes a third packet, it costs up to
# 40 % more. It stays in the core's cache, with the copy that is sent on. A plain asyncio.Protocol would
# get a new buffer of 256 KiB for every read.
RECEIVE_BUFFER_SIZE = 120 * 1024

NEVER: Final = float("inf")


class Deadlined(Protocol):
    """Something that the ticker looks at."""

    deadline: float  # time.monotonic(), or NEVER

    def deadline_passed(self) -> None:
        """Act on it. Called again at each tick until the deadline is moved or the watch ends."""


class PausedReader(Protocol):
    """A connection that is not read for now."""

    def check_peer(self) -> None:
        """See whether the peer is still there. Called at each tick."""


class Ticker:
    """Looks at all deadlines a few times a second: no timer object for each request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: logging.Logger, interval: float = 1.0) -> None:
        self._loop = loop
        self._log = log
        self._interval = interval
        self._watched: set[Deadlined] = set()
        self._paused: set[PausedReader] = set()
        self._handle: asyncio.TimerHandle | None = None

    def watch(self, item: Deadlined) -> None:
        self._watched.add(item)
        self._schedule()

    def forget(self, item: Deadlined) -> None:
        self._watched.discard(item)

    def reading_paused(self, item: PausedReader) -> None:
        self._paused.add(item)
        self._schedule()

    def reading_resumed(self, item: PausedReader) -> None:
        """Reading goes on, or the connection is closed."""
        self._paused.discard(item)

    def limit_interval(self, timeout: float | None) -> None:
        """Make sure that a timeout of so many seconds is noticed in good time."""
        if timeout is not None:
            self._interval = max(0.01, min(self._interval, timeout / 4))

    def close(self) -> None:
        self._watched.clear()
        self._paused.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(self._interval, self._tick)

    def _tick(self) -> None:
        self._handle = None
        now = monotonic()
        actions = [item.deadline_passed for item in self._watched if item.deadline <= now]
        actions += [item.check_peer for item in self._paused]
        for action in actions:
            try:
                action()
            except Exception:
                self._log.exception("Error in a timeout")
        if self._watched or self._paused:
            self._schedule()


class Clients:
    """How many connections of clients are open, handshakes and tunnels included: in all, and by address."""

    __slots__ = ("by_address", "total")

    def __init__(self) -> None:
        self.total = 0
        self.by_address: dict[bytes, int] = {}

    def opened(self, address: bytes) -> None:
        self.total += 1
        self.by_address[address] = self.by_address.get(address, 0) + 1

    def closed(self, address: bytes) -> None:
        self.total -= 1
        self.by_address[address] -= 1
        if not self.by_address[address]:
            del self.by_address[address]


class Runtime:
    """Shared by everything that runs on one loop; nothing here outlives :meth:`close`."""

    __slots__ = ("buffer", "clients", "log", "loop", "metrics", "repeats", "ticker", "view")

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics, log: logging.Logger) -> None:
        self.loop = loop
        self.metrics = metrics
        self.log = log
        self.ticker = Ticker(loop, log)
        self.repeats = RepeatedLines(log, self.ticker)
        self.clients = Clients()
        # A protocol must have consumed or copied what it received when
        # buffer_updated() returns: the next read of any connection overwrites it.
        self.buffer = bytearray(RECEIVE_BUFFER_SIZE)
        self.view = memoryview(self.buffer)

    def close(self) -> None:
        self.repeats.close()
        self.ticker.close()
