"""Targets that do not answer when they are connected to: who may try again, and when."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from chp.errors import UpstreamError
from chp.http1.target import Origin

# Seconds between two attempts at a silent target, and for which other requests wait for their
# outcome. As the first is less than the second, nobody is refused who comes after it is back.
_INTERVAL = 0.5
_PATIENCE = 1.0
# A failure that took so many seconds is silence. One that comes sooner is an answer: nothing piles
# up in front of a closed port, and what is behind it may be about to open.
_SLOW = 1.0
_MAX_ORIGINS = 1024  # that are remembered

T = TypeVar("T")


class Attempts:
    """Bounds the attempts to connect to a target that did not answer the last one in time.

    Each holds a socket, and the client, until ``--connect-timeout``. So one begins every half a
    second; other requests wait for a second whether one succeeds, and fail then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answers: dict[Origin, float] = {}  # when it last answered
        self._silences: dict[Origin, _Silence] = {}

    def is_silent(self, origin: Origin) -> bool:
        return origin in self._silences

    async def turn(self, origin: Origin) -> None:
        """Wait until an attempt may begin. Raises :class:`~chp.errors.UpstreamError` if none may for now."""
        gives_up = self._loop.time() + _PATIENCE
        while silence := self._silences.get(origin):
            now = self._loop.time()
            if now >= silence.next_attempt:
                silence.next_attempt = now + _INTERVAL
                return
            if now >= gives_up:
                raise UpstreamError("silent", f"{origin} does not answer, and is being tried already")
            await asyncio.wait([silence.over], timeout=min(silence.next_attempt, gives_up) - now)

    def succeeded(self, origin: Origin) -> None:
        _put(self._answers, origin, self._loop.time())
        silence = self._silences.pop(origin, None)
        if silence is not None:
            silence.over.set_result(None)

    def failed(self, origin: Origin, error: UpstreamError, began: float) -> None:
        """An attempt that began at ``began`` (the loop's time) failed."""
        slow = error.reason in ("unreachable", "dns") and self._loop.time() - began >= _SLOW
        if not slow and error.reason != "connect_timeout":
            self.succeeded(origin)
        elif origin not in self._silences and self._answers.get(origin, 0.0) <= began:
            _put(self._silences, origin, _Silence(self._loop))


class _Silence:
    """A time in which a target does not answer."""

    __slots__ = ("next_attempt", "over")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.next_attempt = loop.time()  # at once: it may be back
        self.over: asyncio.Future[None] = loop.create_future()


def _put(remembered: dict[Origin, T], origin: Origin, value: T) -> None:
    """Remember something of an origin; of too many, the oldest is forgotten."""
    remembered.pop(origin, None)
    if len(remembered) >= _MAX_ORIGINS:
        del remembered[next(iter(remembered))]
    remembered[origin] = value
