"""The tables of the SQL store, what is said to them, and the engine for a URL."""

from __future__ import annotations

import re
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
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateTable

from chp.errors import StorageError

FORMAT = 1
READ_AT_ONCE = 100  # changes
CONNECT_TIMEOUT = 3.0  # seconds
LOCK_TIMEOUT = 5.0  # seconds that SQLite waits for other writers
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
            if not parsed.database or parsed.database == ":memory:":
                raise StorageError("--storage-url: SQLite needs a file, as in sqlite:///chp.sqlite")
            options["connect_args"] = {"timeout": LOCK_TIMEOUT}
        else:
            options["connect_args"] = {"timeout": CONNECT_TIMEOUT}
            if "sslmode" in parsed.query:  # libpq's name for it
                mode = parsed.query["sslmode"]
                parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
        engine = create_async_engine(parsed, **options)
    except (ArgumentError, ValueError) as error:
        raise StorageError(f"--storage-url can't be used: {type(error).__name__}") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers and a writer do not wait for one another
    cursor.execute("PRAGMA synchronous=FULL")  # what is acknowledged is on the disk
    cursor.close()


def create_tables(connection: Connection) -> None:
    """Create what is missing, also when others are doing the same."""
    if inspect(connection).has_table(state.name):
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
    return re.sub(r"^<class '[^']*'>: ", "", str(error)) or type(error).__name__
