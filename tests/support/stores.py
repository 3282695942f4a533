"""Real servers for route stores, from Debian's packages, on loopback; and tables that share a store."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.commands import Server

from chp.metrics import Metrics
from chp.routing.storage import SharedStore, load_store
from chp.routing.table import RouteTable

LOG = logging.getLogger("test.storage")
PATIENCE = 10.0


def free_port() -> int:
    """Return a port that was free a moment ago, for servers that can't choose one themselves."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class RedisServer(Server):
    """A redis-server with its data in a directory; what it acknowledges is on disk."""

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        self.directory = directory
        self.options = options
        self.port = port or free_port()
        super().__init__(
            directory / "redis.log",
            *("redis-server", "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--dir", str(directory), "--save", "", "--appendonly", "yes", "--appendfsync", "always"),
            *options,
        )
        self.wait_for("Ready to accept connections")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def started_again(self) -> RedisServer:
        """Start it once more, at the same place."""
        return RedisServer(self.directory, *self.options, port=self.port)


class PostgresServer:
    """A PostgreSQL cluster of its own, run by the user that Debian's package made for that."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
        owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        self.demote: dict[str, Any] = (
            {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
        )
        self.user = owner.pw_name if owner else pwd.getpwuid(os.geteuid()).pw_name
        data = directory / "data"
        if owner:
            shutil.chown(directory, owner.pw_uid, owner.pw_gid)
            for parent in directory.parents[:3]:  # pytest keeps its directories to itself
                if parent.stat().st_uid == 0 and parent != Path("/tmp"):
                    parent.chmod(0o755)
        self.run("initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "-D", str(data))
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}"

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, *arguments],
            check=True,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=60,
            **self.demote,
        )

    def make_database(self, name: str) -> None:
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), name)

    def start(self) -> None:
        log = (self.directory / "log").open("ab")
        settings = ("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.directory}")
        with log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", "data", "-p", str(self.port), *settings],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.demote,
            )
        ready = [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        for _ in range(1000):
            if subprocess.run([*ready, "-t", "1"], check=False).returncode == 0:
                return
            assert self.process.poll() is None, (self.directory / "log").read_text()
        raise AssertionError("PostgreSQL does not answer")

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.process.wait(PATIENCE)


class Replica:
    """The routes of one proxy, without the proxy."""

    def __init__(self, url: str, **options: Any) -> None:
        self.metrics = Metrics()
        store = load_store(url=url)
        assert isinstance(store, SharedStore)
        self.store = store
        options = {"host_routing": False, "on_retired": lambda target: None, **options}
        self.table = RouteTable(store, self.metrics, LOG, **options)

    def shown(self) -> dict[str, dict[str, object]]:
        """Return the table as the API shows it."""
        return {path: route.as_json() for path, route in self.table.routes().items()}

    async def see(self, *paths: str) -> None:
        """Wait until the table has exactly these routes."""
        await until(lambda: set(self.table.routes()) == set(paths))


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


async def until(condition: Any, patience: float = PATIENCE) -> None:
    """Wait until a condition holds; fail when it does not in time."""
    for _ in range(int(patience / 0.002)):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("the condition was not met in time")
