"""What keeps a route table and its store in step: loading, changes in both directions, faults."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from itertools import islice
from time import perf_counter
from typing import Protocol, TypeVar

from chp.errors import StorageError, one_line
from chp.metrics import Metrics
from chp.routing.route import Route, format_time
from chp.routing.storage.base import Change, Changes, Missed, SharedStore, Snapshot

# Seconds.
ACTIVITY_INTERVAL = 5.0  # between two exchanges of last activities
LOAD_TIMEOUT = 10.0  # that the store may take to return everything
STORE_TIMEOUT = 5.0  # that any other call may take
SILENCE_TIMEOUT = 4.0  # without a word from the store's watch()
CLOSE_TIMEOUT = 2.0  # that each of the last calls may take
CANCEL_INTERVAL = 0.3  # between attempts to cancel a call, which may have to clean up
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # before the store is tried again

CHANGES_AT_ONCE = 100  # routes in a change: with more, requests may come before it is in the table
ACTIVITIES_PER_CALL = 1000


T = TypeVar("T")


class Table(Protocol):
    """What the link needs of the route table."""

    def routes(self) -> Mapping[str, Route]: ...

    async def replace(self, routes: Mapping[str, object], activities: Mapping[str, str]) -> None:
        """Take over what the store has, instead of everything."""

    async def apply(self, routes: Mapping[str, object]) -> None:
        """Make a change of another proxy; routes that are None are removed."""


class StoreLink:
    """The table's side of a :class:`SharedStore`.

    It holds the position of the last change that is in the table. A change
    that begins with another one would leave something out: then everything is
    loaded again.
    """

    def __init__(
        self, store: SharedStore, table: Table, metrics: Metrics, log: logging.Logger, *, patience: float
    ) -> None:
        """``patience``: seconds that requests may wait for missing changes."""
        self.lock = asyncio.Lock()  # for changes of ours, with what leads to them
        # While the table is known to lack changes: done when they are there, or patience is at an end.
        self.behind: asyncio.Future[None] | None = None
        self.changing = False  # a change of ours is under way
        self._store = store
        self._table = table
        self._metrics = metrics
        self._log = log
        self._patience = patience
        self._patience_over = False
        self._patience_ends: asyncio.TimerHandle | None = None
        self._trouble = ""  # why the store can't be used
        self._unsaved = ""  # why activities were not saved the last time
        self._loaded = False
        self._watching = False
        self._position = ""
        self._own: set[str] = set()  # changes of ours that watch() will bring once more
        self._taken: set[str] = set()  # what watch() has brought while one of ours is under way
        self._taking = ""  # what it has brought, and is not in the table yet
        self._progress = asyncio.Event()
        self._save_now = asyncio.Event()
        self._pauses = _pauses()
        self._tasks: list[asyncio.Task[None]] = []

    # -- for the table -----------------------------------------------------

    async def start(self, at_start: str, waits: Callable[[StorageError], None] | None = None) -> None:
        """Load, and follow the store from then on.

        If the store can't be read, ``at_start`` says what happens: wait until
        it can be, return and serve what is there, or raise
        :class:`StorageError`. ``waits`` is told why, each time that it has to be waited.
        """
        waiting = False
        while not self._loaded:
            try:
                await self._load()
            except StorageError as error:
                if at_start == "exit":
                    raise
                self._lost(error)
                if at_start == "serve":
                    break
                if not waiting:
                    self._log.info("Nobody is answered before the store can be read (--storage-at-start)")
                waiting = True
                if waits is not None:
                    waits(error)
                await asyncio.sleep(next(self._pauses))
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._save_regularly())]

    def check(self) -> None:
        """Raise :class:`StorageError` if the store is known to be out of reach."""
        if self._trouble:
            raise StorageError(self._trouble)

    async def change(self, changes: Changes, apply: Callable[[], None]) -> None:
        """Write to the store; ``apply`` then changes the table. The caller has the lock.

        Raises :class:`StorageError`; then the table has not changed.
        """
        self.check()
        self.changing = True
        try:
            started = perf_counter()
            change = await self._call("change", self._store.change(changes), STORE_TIMEOUT, Change)
            self._metrics.store_change_seconds.observe(perf_counter() - started)
            if change.previous == self._position and change.position != self._taking:
                apply()
                self._position = change.position
                if self._watching:
                    self._own.add(change.position)
            else:
                # Others were faster: watch() brings their changes, and then this one.
                await self._wait_for(change.position)
        finally:
            self.changing = False
            self._taken.clear()

    async def caught_up(self) -> None:
        """Wait for changes that are known to be missing, as long as requests do."""
        if self.behind is not None:
            await asyncio.shield(self.behind)

    async def close(self) -> None:
        """Save what is left to save, and close the store; errors are logged."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            self._tasks = []
            if not self._trouble:
                await self._save_activities(CLOSE_TIMEOUT)
        self._stop_waiting()
        try:
            await self._call("close", self._store.close(), CLOSE_TIMEOUT)
        except StorageError as error:
            self._log.error("%s", error)

    # -- following the store -----------------------------------------------

    async def _follow(self) -> None:
        while True:
            try:
                if not self._loaded:
                    await self._load()
                await self._watch()
                return
            except Missed:
                self._log.info("Changes of the route store were missed: all routes are loaded again")
                self._loaded = False
                self._set_behind()
                await asyncio.sleep(next(self._pauses))
            except StorageError as error:
                self._lost(error)
                await asyncio.sleep(next(self._pauses))
            except Exception as error:
                self._log.exception("Error in following the route store")
                self._lost(StorageError(type(error).__name__))
                self._loaded = False
                await asyncio.sleep(next(self._pauses))

    async def _load(self) -> None:
        async with self.lock:
            snapshot = await self._call("load", self._store.load(), LOAD_TIMEOUT, Snapshot)
            if not isinstance(snapshot.routes, Mapping):
                raise _unexpected("load", snapshot.routes, Mapping)
            self._metrics.store_loads += 1
            await self._table.replace(snapshot.routes, snapshot.activities)
            self._position = snapshot.position
        self._loaded = True
        self._reached()
        self._in_step()

    async def _watch(self) -> None:
        self._own.clear()
        self._watching = True
        try:
            async with aclosing(self._store.watch(self._position)) as changes:
                while True:
                    change = await self._call("watch", anext(changes, self), SILENCE_TIMEOUT)
                    if change is self:  # the end
                        return
                    self._reached()
                    self._pauses = _pauses()
                    if change is None:
                        self._in_step()
                    elif isinstance(change, Change):
                        await self._take(change)
        finally:
            self._watching = False

    async def _take(self, change: Change) -> None:
        if change.position in self._own:
            self._own.remove(change.position)
            return
        if change.previous != self._position:
            raise Missed
        if len(change.routes) > CHANGES_AT_ONCE:
            self._set_behind()
        self._taking = change.position
        await self._table.apply(change.routes)
        self._taking = ""
        self._metrics.store_changes += len(change.routes)
        self._position = change.position
        if self.changing:
            self._taken.add(change.position)
            self._progress.set()

    async def _wait_for(self, position: str) -> None:
        """Wait for a change of ours that is kept, but not in the table. Without an end, it is late there."""
        self._set_behind()
        deadline = asyncio.get_running_loop().time() + STORE_TIMEOUT
        while position not in self._taken and self._loaded and not self._trouble:
            self._progress.clear()
            try:
                await _within(deadline - asyncio.get_running_loop().time(), self._progress.wait())
            except asyncio.TimeoutError:
                return

    # -- where it stands ---------------------------------------------------

    def _lost(self, error: StorageError) -> None:
        if self._trouble != str(error):
            self._log.error("%s. Routes stay as they are, changes are refused; trying again", error)
        self._trouble = str(error)
        self._metrics.store_up = 0
        self._set_behind()

    def _reached(self) -> None:
        if self._trouble:
            self._trouble = ""
            self._log.info("The route store is there")
            self._save_now.set()
        self._metrics.store_up = 1

    def _in_step(self) -> None:
        self._patience_over = False
        self._stop_waiting()

    def _set_behind(self) -> None:
        self._progress.set()
        if self.behind is None and self._patience and not self._patience_over:
            loop = asyncio.get_running_loop()
            self.behind = loop.create_future()
            self._patience_ends = loop.call_later(self._patience, self._lose_patience)

    def _lose_patience(self) -> None:
        self._patience_over = True  # until the store is back: no request waits twice for the same fault
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._patience_ends is not None:
            self._patience_ends.cancel()
            self._patience_ends = None
        if self.behind is not None:
            self.behind.set_result(None)
            self.behind = None

    # -- last activities ---------------------------------------------------

    async def _save_regularly(self) -> None:
        while True:
            timer = asyncio.get_running_loop().call_later(ACTIVITY_INTERVAL, self._save_now.set)
            try:
                await self._save_now.wait()
            finally:
                timer.cancel()
            self._save_now.clear()
            if not self._trouble:
                await self._save_activities(STORE_TIMEOUT)

    async def _save_activities(self, timeout: float) -> None:
        """Tell the store what has moved, and hear what others told it; after an error, the next time."""
        routes = self._table.routes()
        moved = iter([path for path, route in routes.items() if route.last_activity != route.saved_activity])
        more = True
        while more:
            async with self.lock:
                paths = list(islice(moved, ACTIVITIES_PER_CALL))
                more = len(paths) == ACTIVITIES_PER_CALL
                sent = [(routes[path], routes[path].last_activity) for path in paths if path in routes]
                times = {route.path: format_time(moment) for route, moment in sent}
                started = perf_counter()
                try:
                    exchange = self._store.exchange_activities(times)
                    heard: Mapping[str, str] = await self._call("activity", exchange, timeout, Mapping)
                except StorageError as error:
                    if self._unsaved != str(error):
                        self._log.error("Last activities are not saved: %s", error)
                    self._unsaved = str(error)
                    return
                self._metrics.last_activity_seconds += perf_counter() - started
            for route, moment in sent:
                route.saved_activity = moment
            for path, text in heard.items():
                if path in routes:
                    routes[path].hear_of_activity(text)
        self._unsaved = ""

    # -- calls -------------------------------------------------------------

    async def _call(self, what: str, call: Awaitable[T], timeout: float, expected: type = object) -> T:
        """Await the store. Whatever goes wrong in it becomes a :class:`StorageError` of one line."""
        try:
            answer = await _within(timeout, call)
        except Missed:
            raise
        except asyncio.TimeoutError:  # the builtin one only since Python 3.11
            self._metrics.store_errors[what] += 1
            raise StorageError(f"The route store did not answer within {timeout:g} seconds") from None
        except Exception as error:
            self._metrics.store_errors[what] += 1
            reason = one_line(error).rstrip(".")
            raise StorageError(f"The route store failed: {reason or type(error).__name__}") from error
        if not isinstance(answer, expected):
            raise _unexpected(what, answer, expected)
        return answer


def _unexpected(what: str, answer: object, expected: type) -> StorageError:
    return StorageError(
        f"The route store failed: {what}: {type(answer).__name__} instead of {expected.__name__}"
    )


async def _within(seconds: float, call: Awaitable[T]) -> T:
    """As asyncio.wait_for(), for libraries that lose a cancellation now and then, as it does itself."""
    task = asyncio.ensure_future(call)
    # Its exception counts as seen, also where nobody waits for it any more.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    left = False
    try:
        await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        left = True
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait((task,), timeout=CANCEL_INTERVAL)
        except asyncio.CancelledError:
            left = True
    if left:
        raise asyncio.CancelledError
    if task.cancelled():
        raise asyncio.TimeoutError
    return task.result()


def _pauses() -> Iterator[float]:
    """Yield seconds before each new attempt: longer and longer, and not the same in all proxies."""
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1)
        pause = min(pause * 2, LONGEST_PAUSE)
