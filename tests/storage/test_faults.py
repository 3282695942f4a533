"""What happens when a store dies, falls silent, forgets, or holds what nobody can read."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from typing import Any

import pytest
from support.stores import PostgresServer, RedisServer, Replica, StoreServer, replicas
from support.wire import until

from chp.errors import StorageError
from chp.routing.storage import link, redis_store, sql

TARGET = "http://127.0.0.1:9000"


async def test_a_store_that_dies_takes_nothing_with_it(store_server: StoreServer, log_lines: Any) -> None:
    async with replicas(store_server.new_url()) as (one, two):
        await one.table.add("/a", {"target": TARGET})
        await two.see("/a")
        store_server.crash()
        await until(lambda: not (one.metrics.store_up or two.metrics.store_up))
        refused = (one.table.add("/b", {"target": TARGET}), two.table.remove("/a"), two.table.remove("/x"))
        for change in refused:
            with pytest.raises(StorageError):
                await change
        assert set(one.table.routes()) == set(two.table.routes()) == {"/a"}
        one.table.routes()["/a"].last_activity += 100

        store_server.start()
        await until(lambda: one.metrics.store_up and two.metrics.store_up)
        # What was not saved is saved now, without waiting for the usual time.
        await until(lambda: one.table.routes()["/a"].saved_activity == one.table.routes()["/a"].last_activity)
        await two.table.add("/c", {"target": TARGET})
        await one.see("/a", "/c")
        # Nothing was lost, so nothing had to be loaded again.
        assert (one.metrics.store_loads, two.metrics.store_loads) == (1, 1)
    assert log_lines.take(r"The route store failed: .*Routes stay as they are, changes are refused")
    async with replicas(store_server.new_url(), 1) as (other,):
        assert other.shown() == {}


async def test_a_silent_store(
    store_server: StoreServer, log_lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "STORE_TIMEOUT", 0.5)
    monkeypatch.setattr(redis_store, "REPLY_TIMEOUT", 0.4)
    url = store_server.new_url()
    async with replicas(url) as (one, two):
        await one.table.add("/a", {"target": TARGET})
        await two.see("/a")
        store_server.freeze()
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"did not answer|imeout"):
            await one.table.add("/b", {"target": TARGET})
        assert time.monotonic() - started < 3
        route = one.table.find("/a/x", "")
        assert route is not None
        await until(lambda: not one.metrics.store_up)
        with pytest.raises(StorageError):  # at once, by now
            await one.table.add("/c", {"target": TARGET})
        store_server.thaw()
        await until(lambda: one.metrics.store_up and two.metrics.store_up)
        await two.table.add("/d", {"target": TARGET})
        await one.see("/a", "/d")
        await two.see("/a", "/d")
    assert log_lines.take("changes are refused")
    log_lines.take("Last activities are not saved")  # where their turn came meanwhile
    async with replicas(url, 1) as (again,):
        assert set(again.table.routes()) == {"/a", "/d"}


@pytest.mark.expect_log("cut off")
async def test_whoever_missed_too_much_loads_everything(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "KEPT_CHANGES", 10)
    async with replicas(store_url) as (one, two):
        await one.table.add("/old", {"target": TARGET})
        await two.see("/old")
        monkeypatch.setattr(redis_store, "KEPT_CHANGES", 10)
        # It can't read for a while.
        two.reads.clear()
        two.cut_off(StorageError("cut off"))
        for number in range(300):
            await one.table.add(f"/{number}", {"target": TARGET})
        assert await one.table.remove("/old")
        two.reads.set()
        await two.see(*(f"/{number}" for number in range(300)))
        assert two.metrics.store_loads == 2
        assert one.shown() == two.shown()


async def test_a_large_change_need_not_be_in_the_stream(store_url: str) -> None:
    async with replicas(store_url) as (one, two):
        many = {f"/{number}": {"target": TARGET, "pad": "x" * 100} for number in range(2000)}
        await one.table.change(many)
        await until(lambda: len(two.table.routes()) == 2000)
        await two.table.add("/a", {"target": TARGET})
        await until(lambda: "/a" in one.table.routes())
        assert one.shown() == two.shown()


# Rows that are none of ours.

BAD = {
    "/text": "x",
    "/list": "[]",
    "/null": "null",
    "/no-target": "{}",
    "/bad-target": json.dumps({"target": "ftp://h"}),
    "/nan": '{"target": "http://h", "x": NaN}',
    "/deep": "[" * 100_000,
    "/slash/": json.dumps({"target": TARGET}),
    "no-slash": json.dumps({"target": TARGET}),
}


async def write_rows(url: str, rows: dict[str, str]) -> None:
    if url.startswith("redis"):
        import redis.asyncio

        address, _, prefix = url.partition("?prefix=")
        async with redis.asyncio.from_url(address) as client:
            await client.hset(f"{prefix}:routes", mapping=rows)
            await client.hset(f"{prefix}:routes", b"/\xff", json.dumps({"target": TARGET}))
            await client.xadd(f"{prefix}:changes", {"foreign": "entry"})
    elif url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
            database.executemany("INSERT INTO chp_routes VALUES (?, ?, '', 0)", rows.items())
        database.close()
    else:
        import asyncpg

        connection = await asyncpg.connect(url)
        await connection.executemany("INSERT INTO chp_routes VALUES ($1, $2, '', 0)", list(rows.items()))
        await connection.close()


async def test_rows_that_nobody_can_read_are_left_out(store_url: str, log_lines: Any) -> None:
    async with replicas(store_url, 1) as (one,):
        await one.table.add("/good", {"target": TARGET})
    await write_rows(store_url, BAD)
    async with replicas(store_url) as (one, two):
        for path in BAD:
            assert len(log_lines.take(rf"Route {path} of the store .*: left out$")) >= 2, path
        await one.table.add("/more", {"target": TARGET})
        assert "/more" in one.table.routes()
        await until(lambda: "/more" in two.table.routes())
        assert set(one.table.routes()) == set(two.table.routes()) == {"/good", "/more"}
    log_lines.take("left out")  # once more, where a foreign entry made one of them load again


async def test_a_store_of_another_format(store_url: str) -> None:
    async with replicas(store_url, 1):
        pass
    if store_url.startswith("redis"):
        import redis.asyncio

        address, _, prefix = store_url.partition("?prefix=")
        async with redis.asyncio.from_url(address) as client:
            await client.hset(f"{prefix}:state", "format", "99")
    elif store_url.startswith("sqlite"):
        with sqlite3.connect(store_url.removeprefix("sqlite:///")) as database:
            database.execute("UPDATE chp_state SET format = 99")
        database.close()
    else:
        import asyncpg

        connection = await asyncpg.connect(store_url)
        await connection.execute("UPDATE chp_state SET format = 99")
        await connection.close()
    replica = Replica(store_url)
    with pytest.raises(StorageError, match="have another format"):
        await replica.table.load()
    await replica.table.close()


async def test_a_store_that_was_emptied(redis_server: RedisServer) -> None:
    import redis.asyncio

    url = redis_server.new_url()
    address, _, prefix = url.partition("?prefix=")
    async with replicas(url) as (one, two), redis.asyncio.from_url(address) as client:
        await one.table.change({f"/{number}": {"target": TARGET} for number in range(5)})
        await two.see(*(f"/{number}" for number in range(5)))
        await client.delete(*[f"{prefix}:{key}" for key in redis_store.KEYS])
        await one.see()
        await two.see()
        await two.table.add("/new", {"target": TARGET})
        await one.see("/new")


async def test_five_make_the_tables_at_once(postgres_server: PostgresServer, tmp_path: Any) -> None:
    for url in (postgres_server.new_url(), f"sqlite:///{tmp_path}/new.sqlite"):
        made = [Replica(url) for _ in range(5)]
        await asyncio.gather(*(replica.table.load() for replica in made))
        await made[0].table.add("/a", {"target": TARGET})
        for replica in made:
            await replica.see("/a")
            await replica.table.close()
