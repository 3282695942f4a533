"""Real servers for route stores, from Debian's packages, on loopback; and tables that share a store."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import pwd
import signal
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from support.commands import Server
from support.ports import free_port
from support.wire import until

from chp.metrics import Metrics
from chp.routing.storage import Change, SharedStore, load_store
from chp.routing.table import RouteTable

LOG = logging.getLogger("chp.replica")
PATIENCE = 10.0
_numbers = itertools.count()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


class StoreServer:
    """A server that tests start, kill and freeze."""

    server: Server

    def start(self) -> None:
        raise NotImplementedError

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        main = self.server.process.pid
        for pid in (main, *children(main)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def crash(self) -> None:
        """End it as a power failure would."""
        self.signal(signal.SIGKILL)
        self.server.process.wait(PATIENCE)

    def freeze(self) -> None:
        """Make it silent: its connections stay, as in a partition of the network."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def end(self) -> None:
        if self.server.process.poll() is None:
            self.thaw()
            self.crash()


class RedisServer(StoreServer):
    """A redis-server with its data in a directory; what it acknowledges is on the disk."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.options = options
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def new_url(self) -> str:
        """Return a URL for keys that nobody else uses."""
        return f"{self.url}?prefix=test{next(_numbers)}"

    def start(self) -> None:
        self.server = Server(
            self.directory / "redis.log",
            *("redis-server", "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--dir", str(self.directory), "--save", "", "--appendonly", "yes", "--appendfsync", "always"),
            *self.options,
        )
        self.server.wait_for("Ready to accept connections")


class PostgresServer(StoreServer):
    """A PostgreSQL cluster of its own, run by the user that Debian's package made for that."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
        # It refuses to be run by root.
        self.owner = pwd.getpwnam("postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
        self.demotion: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.demotion = {"user": self.owner.pw_uid, "group": self.owner.pw_gid, "extra_groups": []}
            os.chown(directory, self.owner.pw_uid, self.owner.pw_gid)
        data = str(directory / "data")
        self.run("initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "-D", data)
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://{self.owner.pw_name}@127.0.0.1:{self.port}"

    def new_url(self) -> str:
        """Return the URL of a database, with nothing in it any more."""
        url = f"{self.url}/postgres"
        # To make one for each test takes longer.
        sql = "SET client_min_messages = error; DROP TABLE IF EXISTS chp_state, chp_routes, chp_changes"
        self.run("psql", "-q", "-d", url, "-c", sql)
        return url

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, *arguments],
            check=True,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=60,
            **self.demotion,
        )

    def start(self) -> None:
        self.server = Server(
            self.directory / "postgres.log",
            *(str(self.programs / "postgres"), "-D", "data", "-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
            # It is for power failures of the machine, which no test can have.
            *("-c", "fsync=off"),
            **self.demotion,
        )
        self.server.wait_for("database system is ready to accept connections")


class Replica:
    """The routes of one proxy, without the proxy."""

    def __init__(self, url: str, **options: Any) -> None:
        self.metrics = Metrics()
        store = load_store(url=url)
        assert isinstance(store, SharedStore)
        self._changes = store.watch
        self._cut: asyncio.Future[Exception] | None = None
        store.watch = self._watch  # type: ignore[method-assign]
        options = {"host_routing": False, "on_retired": lambda target: None, **options}
        self.table = RouteTable(store, self.metrics, LOG, **options)
        self.reads = asyncio.Event()  # else it hears nothing of what others change
        self.reads.set()

    def shown(self) -> dict[str, dict[str, object]]:
        """Return the table as the API shows it."""
        return {path: route.as_json() for path, route in self.table.routes().items()}

    async def see(self, *paths: str) -> None:
        """Wait until the table has exactly these routes."""
        await until(lambda: set(self.table.routes()) == set(paths))

    def cut_off(self, error: Exception) -> None:
        """Let reading the store fail: with StorageError it is tried again, with Missed all is loaded."""
        if self._cut is not None and not self._cut.done():
            self._cut.set_result(error)

    async def _watch(self, position: str) -> AsyncGenerator[Change | None, None]:
        await self.reads.wait()
        self._cut = asyncio.get_running_loop().create_future()
        async with aclosing(self._changes(position)) as changes:
            while True:
                change = asyncio.ensure_future(anext(changes))
                change.add_done_callback(lambda done: done.cancelled() or done.exception())
                try:
                    await asyncio.wait((change, self._cut), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    while not change.done():
                        change.cancel()
                        with suppress(asyncio.CancelledError):
                            await asyncio.wait((change,), timeout=0.3)
                if self._cut.done():
                    raise self._cut.result()
                yield change.result()


@asynccontextmanager
async def replicas(url: str, count: int = 2, **options: Any) -> AsyncIterator[list[Replica]]:
    """Run the tables of so many proxies."""
    made = [Replica(url, **options) for _ in range(count)]
    try:
        for replica in made:
            await replica.table.load()
        yield made
    finally:
        for replica in made:
            await replica.table.close()
