"""What administrators and other programs do to a store, and to the proxies on it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio
from sqlalchemy import event
from support.stores import PostgresServer, RedisServer, Replica, replicas
from support.wire import until

from chp.errors import StorageError
from chp.routing.storage import sql, sql_tables

TARGET = {"target": "http://127.0.0.1:9000"}


def key(url: str, name: str) -> str:
    return f"{url.partition('?prefix=')[2]}:{name}"


# Redis.


async def test_redis_without_memory_refuses_routes_and_forgets_nothing(redis_server: RedisServer) -> None:
    url = redis_server.new_url()
    async with replicas(url) as (one, two), redis.asyncio.from_url(redis_server.url) as client:
        await one.table.change({"/a": TARGET, "/b": TARGET})
        await two.see("/a", "/b")
        length = await client.xlen(key(url, "changes"))
        await client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StorageError, match="maxmemory"):
                await one.table.add("/c", TARGET)
            assert await client.xlen(key(url, "changes")) == length
            assert await client.hlen(key(url, "routes")) == 2
            # What makes room is allowed.
            assert await one.table.remove("/b")
            await two.see("/a")
        finally:
            await client.config_set("maxmemory", 0)
        await two.table.add("/c", TARGET)
        await one.see("/a", "/c")
        assert (one.metrics.store_loads, two.metrics.store_loads) == (1, 1)


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_clocks_that_are_set_while_it_runs(redis_server: RedisServer, seconds: float) -> None:
    async with replicas(redis_server.new_url(), 1) as (one,):
        store: Any = one.table.link._store
        right = store._clock
        store._clock += seconds
        if seconds < 0:  # or nobody would notice at once
            await one.table.add("/a", TARGET)
        await until(lambda: abs(store._clock - right) < 0.5)
        await one.table.add("/b", TARGET)


async def test_a_position_that_is_none(redis_server: RedisServer) -> None:
    url = redis_server.new_url()
    async with replicas(url) as (one, two), redis.asyncio.from_url(redis_server.url) as client:
        await one.table.add("/a", TARGET)
        await two.see("/a")
        await client.hset(key(url, "state"), "position", "nonsense")
        await until(lambda: one.metrics.store_loads > 1 and two.metrics.store_loads > 1)
        await one.table.add("/b", TARGET)
        await two.see("/a", "/b")
        loads = two.metrics.store_loads
        await two.table.add("/c", TARGET)
        await one.see("/a", "/b", "/c")
        assert two.metrics.store_loads == loads


@pytest.mark.parametrize("query", ["", "&sentinel_password=hunter2&sentinel_username=ada"])
async def test_sentinels_that_do_not_answer_are_a_short_line(query: str) -> None:
    replica = Replica(f"redis+sentinel://:hunter2@127.0.0.1:1,127.0.0.1:2/routes?prefix=x{query}")
    with pytest.raises(StorageError) as caught:
        await replica.table.load()
    line = "The route store failed: No master found for 'routes' on any Sentinel: ConnectionError"
    assert str(caught.value) == line
    await replica.table.close()


# PostgreSQL.


async def test_a_connection_that_was_closed_while_nobody_used_it(postgres_server: PostgresServer) -> None:
    async with replicas(postgres_server.new_url()) as (one, two):
        await one.table.add("/a", TARGET)
        await two.see("/a")
        store: Any = one.table.link._store
        async with store._engine.connect() as connection:
            pooled = (await connection.get_raw_connection()).driver_connection
        other = await asyncpg.connect(f"{postgres_server.url}/postgres")
        await other.execute("SELECT pg_terminate_backend($1)", pooled.get_server_pid())
        await other.close()
        await until(pooled.is_closed)
        await one.table.add("/b", TARGET)
        await two.see("/a", "/b")


async def test_a_proxy_that_hangs_in_the_middle_of_a_change(postgres_server: PostgresServer) -> None:
    async with replicas(postgres_server.new_url()) as (one, two):
        await one.table.add("/a", TARGET)
        await two.see("/a")
        store: Any = two.table.link._store
        async with store._engine.connect() as hanging:
            await hanging.execute(sql_tables.NEXT_CHANGE, {"token": "-x"})
            await one.table.add("/b", TARGET)  # after the other one was given up
            await two.see("/a", "/b")
            await hanging.invalidate()


@pytest.fixture(params=["postgres", "sqlite"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chp.sqlite"
    url: str = request.getfixturevalue("postgres_server").new_url()
    return url


async def test_tables_that_were_dropped(sql_url: str, log_lines: Any) -> None:
    async with replicas(sql_url) as (one, two):
        await one.table.add("/a", TARGET)
        await two.see("/a")
        tables = ("chp_state", "chp_routes", "chp_changes")
        if sql_url.startswith("sqlite"):
            with sqlite3.connect(sql_url.removeprefix("sqlite:///")) as database:
                for table in tables:
                    database.execute(f"DROP TABLE {table}")
            database.close()
        else:
            connection = await asyncpg.connect(sql_url)
            await connection.execute(f"DROP TABLE {', '.join(tables)}")
            await connection.close()
        await one.see()
        await two.see()
        await until(lambda: one.metrics.store_up and two.metrics.store_up)
        await one.table.add("/b", TARGET)
        await two.see("/b")
    log_lines.take("The route store failed: .*chp_state")


# SQLite.


async def test_a_locked_sqlite_file_is_an_answer_in_time(tmp_path: Path) -> None:
    async with replicas(f"sqlite:///{tmp_path}/chp.sqlite") as (one, two):
        await one.table.add("/a", TARGET)
        other = sqlite3.connect(tmp_path / "chp.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="database is locked"):
            await one.table.add("/b", TARGET)
        other.execute("ROLLBACK")
        other.close()
        await one.table.add("/c", TARGET)
        await two.see("/a", "/c")


async def test_a_new_sqlite_file_that_another_writes_to(tmp_path: Path) -> None:
    """SQLite itself does not wait where it switches a file's mode."""
    with closing(sqlite3.connect(tmp_path / "chp.sqlite", isolation_level=None)) as other:
        other.execute("CREATE TABLE something (x)")
        other.execute("BEGIN IMMEDIATE")
        asyncio.get_running_loop().call_later(0.2, other.execute, "COMMIT")
        async with replicas(f"sqlite:///{tmp_path}/chp.sqlite", count=1) as (one,):
            await one.table.add("/a", TARGET)


async def test_a_full_sqlite_file(tmp_path: Path) -> None:
    async with replicas(f"sqlite:///{tmp_path}/chp.sqlite") as (one, two):
        await one.table.change({"/a": TARGET, "/b": {**TARGET, "pad": "x" * 10_000}})
        await two.see("/a", "/b")
        store: Any = one.table.link._store
        async with store._engine.connect() as connection:
            pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()

        def limit(connection: Any, *more: Any) -> None:
            connection.cursor().execute(f"PRAGMA max_page_count = {pages}")

        event.listen(store._engine.sync_engine, "checkout", limit)
        with pytest.raises(StorageError, match="database or disk is full"):
            await one.table.add("/c", {**TARGET, "pad": "x" * 100_000})
        assert await one.table.remove("/b")
        await two.see("/a")
        await one.see("/a")


async def test_rows_of_sqlite_that_are_no_text(tmp_path: Path, log_lines: Any) -> None:
    url = f"sqlite:///{tmp_path}/chp.sqlite"
    async with replicas(url, 1) as (one,):
        await one.table.add("/good", TARGET)
    with sqlite3.connect(tmp_path / "chp.sqlite") as database:
        route = '{"target": "http://h"}'
        for path, data, moment, revision in (
            (b"/blob", route, "", 0),
            ("/number", 5, 5, "x"),
            ("/bytes", b"\xff", b"\xff", 1),
        ):
            database.execute("INSERT INTO chp_routes VALUES (?, ?, ?, ?)", (path, data, moment, revision))
        database.execute("INSERT INTO chp_routes VALUES (CAST(x'2fff' AS TEXT), ?, '', 0)", (route,))
    database.close()
    async with replicas(url, 1) as (one,):
        assert set(one.table.routes()) == {"/good"}
        assert len(log_lines.take("left out")) == 4
        one.table.routes()["/good"].last_activity += 100
        await one.table.link._save_activities(5)
        assert one.table.routes()["/good"].saved_activity == one.table.routes()["/good"].last_activity


@pytest.mark.parametrize("name", ["none/chp.sqlite", "garbage"])
async def test_the_line_about_a_sqlite_file_names_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "garbage").write_bytes(b"no database " * 1000)
    monkeypatch.chdir(tmp_path)
    replica = Replica(f"sqlite:///{name}")
    with pytest.raises(StorageError, match=rf"database.*: {tmp_path}/{name}$"):
        await replica.table.load()
    await replica.table.close()


# All of them.


async def test_ten_thousand_routes_of_another_do_not_hold_the_loop(store_url: str) -> None:
    many: dict[str, Any] = {f"/user/{number}": {**TARGET, "user": f"u{number}"} for number in range(10_000)}
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            if 0 < len(two.table.routes()) < len(many):
                turns += 1

    async with replicas(store_url) as (one, two):
        counting = asyncio.create_task(count())
        await one.table.change(many)
        await until(lambda: len(two.table.routes()) == len(many), 30)
        assert turns >= 50
        counting.cancel()


async def test_nobody_looks_at_sqlite_while_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def look(path: str) -> tuple[float, int]:
        nonlocal looks
        looks += 1
        return original(path)

    original = sql._look
    monkeypatch.setattr(sql, "_look", look)
    async with replicas(f"sqlite:///{tmp_path}/chp.sqlite") as (one, two):
        await one.table.add("/a", TARGET)
        await two.see("/a")
        await asyncio.sleep(sql.BUSY_TIME + 0.3)
        looks = 0
        await asyncio.sleep(1)
        assert looks < 10
        await one.table.add("/b", TARGET)
        await two.see("/a", "/b")


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_sqlite_files_whose_time_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """The machine's clock was set. Then it is not read all the time."""
    reads = 0

    def look(path: str) -> tuple[float, int]:
        moment, size = original(path)
        return moment + seconds, size

    original = sql._look
    monkeypatch.setattr(sql, "_look", look)
    async with replicas(f"sqlite:///{tmp_path}/chp.sqlite") as (one, two):
        await one.table.add("/a", TARGET)
        await two.see("/a")
        store: Any = two.table.link._store

        def count(*arguments: Any) -> None:
            nonlocal reads
            reads += 1

        event.listen(store._engine.sync_engine, "before_cursor_execute", count)
        await asyncio.sleep(1)
        assert reads < 20
        await one.table.add("/b", TARGET)
        await two.see("/a", "/b")


async def test_sqlite_where_the_system_tells_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "file_watched", lambda path, written: nullcontext(False))
    async with replicas(f"sqlite:///{tmp_path}/chp.sqlite") as (one, two):
        for number in range(20):
            await one.table.add(f"/{number}", TARGET)
            await until(
                lambda path=f"/{number}": path in two.table.routes(), 0.9
            )  # sooner than the heartbeat
