"""Changes of routes on their way to a proxy: in their order, and many of them in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from chp.errors import ApiError

Change = dict[str, Any] | None  # a route's data, or None to remove it
_Waiting = tuple[str, Change, "asyncio.Future[None]"]

# Changes in one request: about a quarter of what --api-max-body-size allows by default.
_MOST_IN_ONE = 1000


class RouteChanges:
    """Makes changes one request after the other; what is asked for meanwhile goes with the next one.

    A change never overtakes another: an old one that has to be tried again can't undo a newer one.
    """

    def __init__(self, send: Callable[[dict[str, Change]], Awaitable[object]]) -> None:
        """``send`` makes all of these changes, by path; if it raises, none of them."""
        self._send = send
        self._waiting: list[_Waiting] = []
        self._sending: asyncio.Task[None] | None = None

    async def make(self, path: str, change: Change) -> None:
        """Return when the change is made. Raises what ``send`` raised for it."""
        made = asyncio.get_running_loop().create_future()
        self._waiting.append((path, change, made))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())
        await made

    async def _send_all(self) -> None:
        part: list[_Waiting] = []
        try:
            while self._waiting:
                await asyncio.sleep(0)  # for those that ask in the same turn
                part, self._waiting = self._waiting[:_MOST_IN_ONE], self._waiting[_MOST_IN_ONE:]
                await self._send_part(part)
        finally:  # cancelled: nobody waits for ever
            for *_, made in (*part, *self._waiting):
                made.cancel()
            self._waiting = []

    async def _send_part(self, part: list[_Waiting]) -> None:
        failure: Exception | None = None
        try:
            await self._send({path: change for path, change, _ in part})
        except ApiError as error:
            if len(part) > 1 and 400 <= error.status < 500 and error.status != 403:
                # One of them is refused (or it is a proxy without PATCH), and the others must not suffer.
                half = len(part) // 2
                await self._send_part(part[:half])
                await self._send_part(part[half:])
                return
            failure = error
        except Exception as error:
            failure = error
        for *_, made in part:
            if made.done():
                continue  # nobody waits any more
            if failure is None:
                made.set_result(None)
            else:
                made.set_exception(failure)
