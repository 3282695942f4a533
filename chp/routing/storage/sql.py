"""Routes in SQLite, for the proxies of one machine, or in PostgreSQL, for any number of them.

Every writer changes the one row of ``chp_state`` first, and so holds a lock on it until it has
committed: changes are numbered without gaps, and become visible in the order of their numbers.
(A sequence would not do that: its numbers are given away before the commit.) ``chp_changes`` keeps
the last of them, for proxies that were cut off.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic
from typing import Any, TypeVar

import greenlet  # noqa: F401 - SQLAlchemy 2.0 misses it at the first query only, long after the start
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from chp.errors import StorageError
from chp.routing.storage import sql_tables as tables
from chp.routing.storage.base import Change, Changes, Missed, SharedStore, Snapshot
from chp.routing.storage.file_watch import file_watched

KEPT_CHANGES = 1000
CHANNEL = "chp_changes"  # of PostgreSQL's NOTIFY
# Seconds that a cancelled call gets. SQLite's thread can't be stopped, and gives up by itself.
GRACE, SQLITE_GRACE = 0.2, tables.LOCK_TIMEOUT + 1
HEARTBEAT = 1.0  # seconds without news; then the database is asked
# Seconds between looks at SQLite's file, which tells nobody of changes. Where the system does that,
# they are needed only for BUSY_TIME after a write, and cost little.
LOOK_INTERVAL = 0.005
BUSY_LOOK_INTERVAL, BUSY_TIME = 0.002, 0.5

Rows = Sequence[Any]
Read = Callable[[int], Awaitable[Rows]]
Wait = Callable[[], Awaitable[None]]
T = TypeVar("T")


class SQLStore(SharedStore):
    """One table of routes in one database, or in one schema of it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raises :class:`StorageError` for a URL that can't be used."""
        super().__init__(config)
        self._engine = tables.make_engine(config["url"])
        # Single statements need no transaction around them.
        self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._notifies = self._engine.dialect.name == "postgresql"
        self._file = "" if self._notifies else os.path.abspath(self._engine.url.database or "")
        self._grace = GRACE if self._notifies else SQLITE_GRACE
        self._revision = 0

    async def load(self) -> Snapshot:
        return await _finish(self._load(), self._grace)

    async def change(self, changes: Changes) -> Change:
        return await _finish(self._change(changes), self._grace)

    async def watch(self, position: str) -> AsyncGenerator[Change | None, None]:
        first = position.partition("-")[0]
        number = int(first) if first.isdecimal() else 0
        watching = _notified if self._notifies else _polled
        with _errors():
            if not await _finish(self._has_tables(), self._grace):
                raise Missed  # somebody has dropped them, or it is another database by now
            async with watching(self._reader) as (read, wait):
                while True:
                    rows = await read(number)
                    if not rows:
                        raise Missed  # somebody has emptied the tables
                    if rows[0].number is None:  # no change after ours
                        if rows[0].current != position:
                            raise Missed
                        yield None
                        await wait()
                        continue
                    for row in rows:
                        yield _read_change(row)
                        number, position = row.number, row.position
                    if len(rows) < tables.READ_AT_ONCE:
                        yield None

    async def exchange_activities(self, times: Mapping[str, str]) -> Mapping[str, str]:
        return await _finish(self._exchange(times), self._grace)

    async def close(self) -> None:
        with _errors():
            await self._engine.dispose()

    # -- in the database ---------------------------------------------------

    async def _load(self) -> Snapshot:
        with _errors(self._file):
            if self._file:
                await asyncio.to_thread(tables.try_to_open, self._file)
            async with self._engine.begin() as connection:
                await connection.run_sync(tables.create_tables)
            async with self._reader.connect() as connection:
                rows = (await connection.execute(tables.LOAD)).all()
        if not rows or rows[0].format != tables.FORMAT:
            raise StorageError("the tables have another format: use another database, or a newer chp")
        self._revision = rows[0].revision
        await asyncio.sleep(0)
        return Snapshot(
            rows[0].position,
            {row.path: row.data for row in rows if row.path is not None},
            {row.path: row.last_activity for row in rows if row.last_activity},
        )

    async def _has_tables(self) -> bool:
        async with self._reader.connect() as connection:
            return await connection.run_sync(tables.are_there)

    async def _change(self, changes: Changes) -> Change:
        texts = {path: None if data is None else json.dumps(data) for path, data in changes.items()}
        added = [
            {"path": path, "data": text, "last_activity": "", "revision": 0}
            for path, text in texts.items()
            if text is not None
        ]
        with _errors():
            async with self._engine.begin() as connection:
                token = {"token": f"-{secrets.token_hex(4)}"}
                change = (await connection.execute(tables.NEXT_CHANGE, token)).one()
                await connection.execute(tables.REMOVE_ROUTE, [{"gone": path} for path in changes])
                if added:
                    await connection.execute(tables.ADD_ROUTE, added)
                row = {**change._mapping, "changes": json.dumps(texts)}
                await connection.execute(tables.ADD_CHANGE, row)
                if change.number % 100 == 0:
                    last = {"last": change.number - KEPT_CHANGES}
                    await connection.execute(tables.FORGET_CHANGES, last)
                if self._notifies:
                    await connection.execute(text(f"NOTIFY {CHANNEL}"))
        return Change(change.previous, change.position)

    async def _exchange(self, times: Mapping[str, str]) -> Mapping[str, str]:
        with _errors():
            if times:
                async with self._engine.begin() as connection:
                    batch = (await connection.execute(tables.NEXT_REVISION)).scalar_one()
                    await connection.execute(
                        tables.SAVE_ACTIVITY,
                        [{"of": path, "moment": moment, "batch": batch} for path, moment in times.items()],
                    )
            async with self._reader.connect() as connection:
                rows = (await connection.execute(tables.ACTIVITIES, {"known": self._revision})).all()
        # SQLite takes any value for a number.
        rows = [row for row in rows if isinstance(row.revision, int)]
        self._revision = max([self._revision, *(row.revision for row in rows)])
        return {row.path: row.last_activity for row in rows}


async def _finish(call: Coroutine[Any, Any, T], grace: float) -> T:
    """Await a call; when cancelled, however often, let it end first, for at most ``grace`` seconds.

    SQLAlchemy and the drivers lose their connections, and some words in the log, when they are cut off.
    """
    task = asyncio.create_task(call)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        gives_up = monotonic() + grace
        while not task.done():
            left = gives_up - monotonic()
            if left <= 0:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait((task,), timeout=left if left > 0 else None)
        _ = task.cancelled() or task.exception()
        raise
    return task.result()


@asynccontextmanager
async def _notified(engine: AsyncEngine) -> AsyncIterator[tuple[Read, Wait]]:
    """Read news on a connection that listens; wait for a notification, or a second."""
    news = asyncio.Event()

    def wake(*_: object) -> None:
        news.set()

    async def read_news(number: int) -> Rows:
        return (await connection.execute(tables.NEWS, {"known": number})).all()

    async def wait() -> None:
        timer = asyncio.get_running_loop().call_later(HEARTBEAT, news.set)
        try:
            await news.wait()
        finally:
            timer.cancel()
        news.clear()

    async def listen() -> None:
        await connection.start()
        driver: Any = (await connection.get_raw_connection()).driver_connection
        driver.add_termination_listener(wake)
        await driver.add_listener(CHANNEL, wake)

    async def end() -> None:
        if connection.sync_connection is not None:
            # Nobody else shall have a connection that listens.
            with suppress(Exception):
                await connection.invalidate()
            await connection.close()

    connection = engine.connect()
    try:
        await _finish(listen(), GRACE)
        yield lambda number: _finish(read_news(number), GRACE), wait
    finally:
        await _finish(end(), GRACE)


@asynccontextmanager
async def _polled(engine: AsyncEngine) -> AsyncIterator[tuple[Read, Wait]]:
    """Read news; wait until the log beside SQLite's file changes, or a second."""
    log = f"{engine.url.database}-wal"
    seen = _look(log)  # what was written before is read first of all
    changed = 0.0  # when that was noticed
    written = asyncio.Event()

    async def read_news(number: int) -> Rows:
        async with engine.connect() as connection:
            return (await connection.execute(tables.NEWS, {"known": number})).all()

    async def wait() -> None:
        nonlocal seen, changed
        began = now = monotonic()
        while now < began + HEARTBEAT:
            if notified and now > changed + BUSY_TIME:
                timer = loop.call_later(began + HEARTBEAT - now, written.set)
                await written.wait()
                timer.cancel()
            await asyncio.sleep(BUSY_LOOK_INTERVAL if notified else LOOK_INTERVAL)
            written.clear()
            look, now = _look(log), monotonic()
            if look != seen:
                seen, changed = look, now
                return
            # What is written can be read later only, after it was flushed to the disk. And a second
            # write may have the time of the first: clocks of files tick slowly.
            if now - began > (now - changed) / 2:
                return

    loop = asyncio.get_running_loop()
    with file_watched(log, written.set) as notified:
        yield lambda number: _finish(read_news(number), SQLITE_GRACE), wait


def _look(path: str) -> tuple[float, int]:
    """Return when a file was written to (seconds), and its size; zeros if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0.0, 0
    return status.st_mtime, status.st_size


@contextmanager
def _errors(where: str = "") -> Iterator[None]:
    """Turn exceptions of SQLAlchemy and its drivers, which have no base class in common, into ours.

    ``where`` is the file that they are about.
    """
    try:
        yield
    except (Missed, StorageError):
        raise
    except Exception as error:
        raise StorageError(tables.reason(error) + (where and f": {where}")) from error


def _read_change(row: Any) -> Change:
    """Raises :class:`Missed` for a row that does not say what was changed."""
    try:
        routes = json.loads(row.changes)
    except ValueError as error:
        raise Missed from error
    if not isinstance(routes, dict):
        raise Missed
    return Change(row.previous, row.position, routes)
