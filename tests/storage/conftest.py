"""The stores that every test of the contract runs against."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.stores import PostgresServer, RedisServer, StoreServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.end()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    # Not in one of pytest's directories: they are private, and for root's tests the server has another user.
    with tempfile.TemporaryDirectory(prefix="chp-postgres-") as directory:
        server = PostgresServer(Path(directory))
        yield server
        server.end()


@pytest.fixture(params=["redis", "postgres"])
def store_server(request: pytest.FixtureRequest) -> Iterator[StoreServer]:
    """A server that the test may kill: it is there again for the next one."""
    server: StoreServer = request.getfixturevalue(f"{request.param}_server")
    yield server
    server.thaw() if server.server.process.poll() is None else server.start()


@pytest.fixture(params=["redis", "postgres", "sqlite"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chp.sqlite"
    url: str = request.getfixturevalue(f"{request.param}_server").new_url()
    return url


@pytest.fixture(scope="session")
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Return URLs of new databases."""
    return lambda: f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/chp.sqlite"
