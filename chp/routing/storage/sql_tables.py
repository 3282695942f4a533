"""The tables of the SQL store, what is said to them, and the engine for a URL."""

from __future__ import annotations

import importlib
import inspect as inspect_python
import re
import sqlite3
from collections.abc import Container, Iterable
from contextlib import closing
from time import monotonic, sleep
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    delete,
    event,
    insert,
    inspect,
    select,
    text,
    true,
    update,
)
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateTable

from chp.errors import StorageError

FORMAT = 1
READ_AT_ONCE = 100  # changes
CONNECT_TIMEOUT = 3.0  # seconds
LOCK_TIMEOUT = 4.0  # seconds to wait for other writers; nobody waits for the answer after five
_MODE_INTERVAL = 0.01  # seconds between two attempts to switch a file's mode
# Seconds in the middle of a change after which PostgreSQL gives up a proxy that has fallen silent:
# it holds the lock that all others need.
IDLE_TIMEOUT = 2.0
# Any number will do, if it is always the same: who holds it makes the tables.
_CREATION_LOCK = 0x636870
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}

_tables = MetaData()

# One row. To change it is the lock that puts all writers in order.
state = Table(
    "chp_state",
    _tables,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("format", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),  # of the last change
    Column("previous", String(64), nullable=False),  # the position before it
    Column("position", String(64), nullable=False),
    Column("revision", BigInteger, nullable=False),  # of the last batch of activities
)
routes = Table(
    "chp_routes",
    _tables,
    Column("path", Text, primary_key=True),
    Column("data", Text, nullable=False),  # JSON
    Column("last_activity", String(32), nullable=False),  # empty, or later than in data
    Column("revision", BigInteger, nullable=False),  # the batch that brought it
)
changes = Table(
    "chp_changes",
    _tables,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("previous", String(64), nullable=False),
    Column("position", String(64), nullable=False),
    Column("changes", Text, nullable=False),  # JSON
)

# All in one statement, and so of one moment.
LOAD = select(
    state.c.format, state.c.position, state.c.revision, routes.c.path, routes.c.data, routes.c.last_activity
).select_from(state.outerjoin(routes, true()))
NEWS = (
    select(state.c.position.label("current"), changes)
    .select_from(state.outerjoin(changes, changes.c.number > bindparam("known")))
    .order_by(changes.c.number)
    .limit(READ_AT_ONCE)
)
NEXT_CHANGE = (
    update(state)
    .values(
        number=state.c.number + 1,
        previous=state.c.position,
        position=(state.c.number + 1).cast(String) + bindparam("token", type_=String),
    )
    .returning(state.c.number, state.c.previous, state.c.position)
)
NEXT_REVISION = update(state).values(revision=state.c.revision + 1).returning(state.c.revision)
REMOVE_ROUTE = delete(routes).where(routes.c.path == bindparam("gone"))
ADD_ROUTE = insert(routes)
ADD_CHANGE = insert(changes)
FORGET_CHANGES = delete(changes).where(changes.c.number <= bindparam("last"))
SAVE_ACTIVITY = (
    update(routes)
    .where(routes.c.path == bindparam("of"), routes.c.last_activity < bindparam("moment"))
    .values(last_activity=bindparam("moment"), revision=bindparam("batch"))
)
ACTIVITIES = select(routes.c.path, routes.c.last_activity, routes.c.revision).where(
    routes.c.revision > bindparam("known")
)


def make_engine(url: str) -> AsyncEngine:
    """Return an engine that connects when it is used.

    Raises :class:`StorageError`, without anything of the URL.
    """
    try:
        parsed = make_url(url)
        parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
        options: dict[str, Any] = {"hide_parameters": True}
        if parsed.get_backend_name() == "sqlite":
            _check_options(parsed.query, ())
            if not parsed.database or parsed.database == ":memory:":
                raise StorageError("--storage-url: SQLite needs a file, as in sqlite:///chp.sqlite")
            options["connect_args"] = {"timeout": LOCK_TIMEOUT}
        else:
            options["connect_args"] = {"timeout": CONNECT_TIMEOUT}
            if "sslmode" in parsed.query:  # libpq's name for it
                mode = parsed.query["sslmode"]
                parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
            driver = importlib.import_module("asyncpg")
            _check_options(parsed.query, inspect_python.signature(driver.connect).parameters)
        engine = create_async_engine(parsed, **options)
    except (ArgumentError, ValueError):
        raise StorageError(
            "--storage-url can't be used: it must be like postgresql://user:password@host:port/database"
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    else:
        event.listen(engine.sync_engine, "connect", _set_up_postgresql)
        event.listen(engine.sync_engine, "checkout", _check_postgresql)
    return engine


def _check_options(query: Iterable[str], known: Container[str]) -> None:
    unknown = [name for name in query if name not in known]
    if unknown:
        raise StorageError(f"--storage-url: there is no option {unknown[0]!r}")


def _set_up_postgresql(connection: Any, record: object) -> None:
    # Not when it connects: poolers refuse what they don't know.
    connection.run_async(
        lambda driver: driver.execute(
            f"SET lock_timeout = {LOCK_TIMEOUT * 1000:.0f};"
            f" SET idle_in_transaction_session_timeout = {IDLE_TIMEOUT * 1000:.0f}"
        )
    )


def _check_postgresql(connection: Any, record: object, proxy: object) -> None:
    """Let the pool forget a connection that the server, or something in between, has closed."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _set_up_sqlite(connection: Any, record: object) -> None:
    # What is no text is left out later, alone.
    connection.driver_connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA synchronous=FULL")  # what is acknowledged is on the disk
        cursor.close()
    except Exception:
        connection.close()  # else its thread may outlive the loop
        raise


def try_to_open(path: str) -> None:
    """Prepare a file of SQLite, in a thread. Raises :class:`sqlite3.Error` if that is none, or none to use.

    A connection of aiosqlite that can't be opened leaves a thread behind, which may outlive the loop.
    """
    gives_up = monotonic() + LOCK_TIMEOUT
    with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT)) as connection:
        while True:
            try:
                # Readers and a writer do not wait for one another. The file remembers it.
                connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                # Of several that begin with this at once, SQLite lets none wait for the others.
                if "locked" not in str(error) or monotonic() > gives_up:
                    raise
            sleep(_MODE_INTERVAL)


def are_there(connection: Connection) -> bool:
    """Tell whether all tables are there."""
    return all(inspect(connection).has_table(table.name) for table in (state, routes, changes))


def create_tables(connection: Connection) -> None:
    """Create what is missing, also when others are doing the same."""
    if are_there(connection):
        return
    if connection.dialect.name == "postgresql":
        # CREATE TABLE IF NOT EXISTS alone fails there, if two do it at once.
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_CREATION_LOCK})"))
    for table in (routes, changes, state):
        connection.execute(CreateTable(table, if_not_exists=True))
    connection.execute(
        text(
            "INSERT INTO chp_state (id, format, number, previous, position, revision)"
            f" VALUES (1, {FORMAT}, 0, '', '', 0) ON CONFLICT DO NOTHING"
        )
    )


def reason(error: BaseException) -> str:
    """Return what went wrong, without the statement that SQLAlchemy adds, and class names."""
    error = getattr(error, "orig", None) or error
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return re.sub(r"^<class '[^']*'>: ", "", str(error)) or type(error).__name__
