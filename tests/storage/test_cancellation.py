"""A call to a store in SQL that is cancelled, at whatever moment: its connection is in the pool again."""

from __future__ import annotations

import asyncio
import gc
import types
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chp.routing.storage import link, load_store, sql

pytestmark = pytest.mark.timeout(seconds=120)

TARGET = {"target": "http://127.0.0.1:9000"}
MOMENTS = 200  # more than any call has


class Interruption:
    """Cancels a task when it, or anything else in its loop, waits for the n-th time (from 0)."""

    def __init__(self, moment: int) -> None:
        self.left = moment
        self.task: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()

    async def run(self, call: Awaitable[Any]) -> None:
        """Await a call as the table's link does, which cancels it again and again until it has ended."""
        self._loop.set_task_factory(self._new_task)
        self.task = asyncio.ensure_future(link._within(60, call))
        await asyncio.wait((self.task,))
        self._loop.set_task_factory(None)
        if not self.task.cancelled():
            self.task.result()

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        async def run() -> Any:
            return await self._counted(coroutine)

        return asyncio.Task(run(), loop=loop, **options)

    @types.coroutine
    def _counted(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        resume: Callable[[], Any] = partial(coroutine.send, None)
        while True:
            try:
                awaited = resume()
            except StopIteration as end:
                return end.value
            self._waits()
            try:
                resume = partial(coroutine.send, (yield awaited))
            except BaseException as error:
                resume = partial(coroutine.throw, error)

    def _waits(self) -> None:
        if self.left == 0 and self.task is not None:
            self._loop.call_soon(self.task.cancel)
        self.left -= 1


async def load(store: Any) -> None:
    await store.load()


async def change(store: Any) -> None:
    await store.change({"/a": TARGET})


async def exchange_activities(store: Any) -> None:
    await store.exchange_activities({"/a": "2026-01-31T12:00:00.000Z"})


async def watch(store: Any) -> None:
    async with aclosing(store.watch("")) as changes:
        await anext(changes)


@pytest.fixture(params=["sqlite", "patient postgres", "impatient postgres"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(link, "CANCEL_INTERVAL", 0.001)
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chp.sqlite"
    # Either the call ends, or it is cut off.
    monkeypatch.setattr(sql, "GRACE", 60 if request.param == "patient postgres" else 0)
    url: str = request.getfixturevalue("postgres_server").new_url()
    return url


@pytest.fixture
def quick_collection() -> Iterator[None]:
    """Let the garbage collector look at new objects only: at all of the tests' it takes 0.1 s each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quick_collection")
@pytest.mark.parametrize("call", [load, change, exchange_activities, watch])
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
async def test_a_call_that_is_cancelled_at_any_moment(
    sql_url: str, call: Callable[[Any], Coroutine[Any, Any, None]], first: bool, log_lines: Any
) -> None:
    store: Any = load_store(url=sql_url)
    await store.load()
    left = []
    for moment in range(MOMENTS):
        if first:  # it connects
            await store.close()
            store = load_store(url=sql_url)
        interruption = Interruption(moment)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await interruption.run(call(store))
            gc.collect()
        out = store._engine.pool.checkedout()
        if caught or out:
            left.append((moment, out, [str(warning.message) for warning in caught]))
        if interruption.left >= 0:  # it had ended before
            break
    assert left == []
    assert moment in range(5, MOMENTS - 1)
    await store.change({"/b": TARGET})
    await store.close()
    if sql.GRACE == 0:
        log_lines.take("unexpected connection_lost")  # asyncpg's, when it is cut off while it connects
