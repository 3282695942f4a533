"""Whatever several proxies do to one store, in whatever order: they end with the same table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from support.stores import PostgresServer, RedisServer, replicas
from support.wire import until

from chp.errors import StorageError
from chp.routing.storage import Missed

PATHS = [f"/{letter}" for letter in "abcde"]
PATIENCE = 20  # seconds for one example

posts = some.tuples(some.just("add"), some.integers(0, 2), some.sampled_from(PATHS))
deletes = some.tuples(some.just("remove"), some.integers(0, 2), some.sampled_from(PATHS))
patches = some.tuples(
    some.just("change"),
    some.integers(0, 2),
    some.dictionaries(some.sampled_from(PATHS), some.booleans(), min_size=1),
)
pauses = some.tuples(some.just("pause"), some.integers(0, 3), some.none())
cuts = some.tuples(some.just("cut"), some.integers(0, 2), some.booleans())
steps = some.lists(some.one_of(posts, deletes, patches, pauses, cuts), min_size=3, max_size=25)


@pytest.fixture
def cuts_are_logged(log_lines: Any) -> Iterator[None]:
    yield
    log_lines.take("The route store failed: cut")


async def interleave(url: str, script: list[Any]) -> None:
    """Let three tables do all this at once, and compare what becomes of it."""
    async with replicas(url, 3) as tables:
        running = []
        for number, (kind, who, what) in enumerate(script):
            target = {"target": f"http://127.0.0.1:{number + 1}"}
            table = tables[who % 3].table
            if kind == "add":
                running.append(asyncio.create_task(table.add(what, target)))
            elif kind == "remove":
                running.append(asyncio.create_task(table.remove(what)))
            elif kind == "change":
                changes = {path: target if keep else None for path, keep in what.items()}
                running.append(asyncio.create_task(table.change(changes)))
            elif kind == "pause":
                await asyncio.sleep(who / 1000)
            else:
                tables[who].cut_off(Missed() if what else StorageError("cut"))
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            assert outcome is None or isinstance(outcome, (bool, tuple, StorageError))
        one, two, three = tables
        await until(lambda: len({replica.table.link._position for replica in tables}) == 1)
        assert one.shown() == two.shown() == three.shown()
    async with replicas(url, 1) as (after,):
        assert after.shown() == one.shown()


def check(url_of: Any, script: list[Any]) -> None:
    asyncio.run(asyncio.wait_for(interleave(url_of(), script), PATIENCE))


quick = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.usefixtures("cuts_are_logged")
@quick
@given(script=steps)
def test_any_interleaving_on_redis(redis_server: RedisServer, script: list[Any]) -> None:
    check(redis_server.new_url, script)


@pytest.mark.usefixtures("cuts_are_logged")
@quick
@given(script=steps)
def test_any_interleaving_on_postgres(postgres_server: PostgresServer, script: list[Any]) -> None:
    check(postgres_server.new_url, script)


@pytest.mark.usefixtures("cuts_are_logged")
@quick
@given(script=steps)
def test_any_interleaving_on_sqlite(sqlite_url: Any, script: list[Any]) -> None:
    check(sqlite_url, script)


async def test_everybody_writes_at_once(store_url: str) -> None:
    async with replicas(store_url, 5) as tables:

        async def write(number: int) -> None:
            for turn in range(20):
                await tables[number].table.add(
                    f"/shared/{turn % 4}", {"target": f"http://127.0.0.1:{number + 1}"}
                )
                await tables[number].table.add(f"/own/{number}/{turn}", {"target": "http://127.0.0.1:1"})
                if turn % 3 == 0:
                    await tables[number].table.remove(f"/own/{number}/{turn}")

        await asyncio.gather(*(write(number) for number in range(5)))
        await until(lambda: len({replica.table.link._position for replica in tables}) == 1)
        assert all(replica.shown() == tables[0].shown() for replica in tables)
        assert len(tables[0].table.routes()) == 4 + 5 * 13
        # They have kept up: nobody had to start afresh.
        assert [replica.metrics.store_loads for replica in tables] == [1] * 5


async def test_ten_thousand_routes_are_there_in_a_second(store_url: str) -> None:
    routes = {
        f"/user/{number}": {"target": f"http://10.0.{number % 256}.1:8888", "user": f"u{number}"}
        for number in range(10_000)
    }
    async with replicas(store_url, 1) as (one,):
        await one.table.change(routes)
        before = one.shown()
    started, cpu_started = time.perf_counter(), time.process_time()
    async with replicas(store_url, 1) as (two,):
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        assert two.shown() == before
    print(f"10,000 routes in {seconds:.2f} s, {cpu_seconds:.2f} of them on the processor")
    assert cpu_seconds < 1  # whatever else the machine does


async def test_how_soon_others_know(store_url: str) -> None:
    async with replicas(store_url) as (one, two):
        delays = []
        for number in range(100):
            path = f"/{number}"
            started = time.perf_counter()
            await one.table.add(path, {"target": "http://127.0.0.1:1"})
            while path not in two.table.routes():
                await asyncio.sleep(0.0005)
            delays.append(time.perf_counter() - started)
    delays.sort()
    median, p99 = delays[50], delays[98]
    print(f"agreement: median {median * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
    # Ten and a hundred on a machine that has nothing else to do.
    assert median < 0.1
    assert p99 < 1
