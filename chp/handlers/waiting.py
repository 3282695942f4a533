"""A request that may only seem to have no route: it waits until the table has caught up with its store."""

from __future__ import annotations

import asyncio
from typing import Protocol

from chp.http1.request_target import RequestTarget
from chp.upstream.base import Stream


class Waiter(Protocol):
    """What waits."""

    def find_route(self, requested: RequestTarget, host: str, content: bytes, complete: bool) -> None:
        """Look for the route once more: the table has caught up. Called once, unless it is aborted."""


class WaitingRequest(Stream):
    """Stands where the upstream's stream will be, and keeps what the client sends meanwhile.

    That is what was read already: the client's connection is paused.
    """

    __slots__ = ("_aborted", "_complete", "_content", "_exchange", "_host", "_requested")

    def __init__(
        self,
        exchange: Waiter,
        behind: asyncio.Future[None],
        requested: RequestTarget,
        host: str,
        content: bytes,
        complete: bool,
    ) -> None:
        self._exchange = exchange
        self._requested = requested
        self._host = host
        self._content = content
        self._complete = complete
        self._aborted = False
        behind.add_done_callback(self._go_on)

    def send(self, content: bytes | memoryview, complete: bool) -> None:
        self._content += content
        self._complete = complete

    def pause_response(self) -> None:
        pass  # there is none yet

    def resume_response(self) -> None:
        pass

    def abort(self) -> None:
        # Left where it is: a future looks through all its callbacks to remove one.
        self._aborted = True
        self._content = b""

    def _go_on(self, behind: asyncio.Future[None]) -> None:
        if not self._aborted:
            self._exchange.find_route(self._requested, self._host, self._content, self._complete)
