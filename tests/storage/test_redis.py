"""Ways to reach a Redis server, and what it has to allow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from support.commands import Server, running
from support.ports import free_port
from support.stores import RedisServer, Replica, replicas
from support.wire import until

from chp.errors import StorageError

TARGET = {"target": "http://127.0.0.1:9000"}
DOCS = Path(__file__).parent.parent.parent / "docs" / "storage.md"


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def works(url: str) -> None:
    async with replicas(url) as (one, two):
        await one.table.add("/a", TARGET)
        await two.see("/a")
        await two.table.link._save_activities(5)


async def test_prefixes_are_tables_of_their_own(redis_server: RedisServer) -> None:
    first, second = (f"{redis_server.url}?prefix={name}" for name in ("hub1", "hub2"))
    async with replicas(first) as (one, two), replicas(second, 1) as (other,):
        await one.table.add("/a", TARGET)
        await two.see("/a")
        await other.table.add("/b", TARGET)
        await one.table.add("/c", TARGET)
        await two.see("/a", "/c")
        assert set(other.table.routes()) == {"/b"}


async def test_databases_and_valkey(redis_server: RedisServer) -> None:
    await works(redis_server.url.replace("redis://", "valkey://") + "/3")
    async with redis.asyncio.from_url(f"{redis_server.url}/3") as client:
        assert await client.exists("chp:state")


async def test_the_user_of_the_documentation_may_do_enough(redis_server: RedisServer) -> None:
    match = re.search(r"^ACL (SETUSER chp .*)$", DOCS.read_text(), re.MULTILINE)
    assert match is not None
    async with redis.asyncio.from_url(redis_server.url) as client:
        await client.execute_command("ACL", *match[1].split())
        await works(redis_server.url.replace("redis://", "redis://chp:secret@"))
        await client.execute_command("ACL", "DELUSER", "chp")


async def test_a_wrong_password_is_not_shown(redis_server: RedisServer) -> None:
    replica = Replica(redis_server.url.replace("redis://", "redis://chp:hunter2@"))
    with pytest.raises(StorageError) as caught:
        await replica.table.load()
    assert "invalid username-password pair" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    await replica.table.close()


async def test_unix_sockets(tmp_path: Path, servers: ExitStack) -> None:
    server = RedisServer(tmp_path, "--unixsocket", str(tmp_path / "redis.sock"))
    servers.callback(server.end)
    await works(f"unix://{tmp_path}/redis.sock?db=1&prefix=x")


async def test_tls(tmp_path: Path, servers: ExitStack, pki: Any) -> None:
    port = free_port()
    files = ("--tls-cert-file", pki.cert, "--tls-key-file", pki.key, "--tls-ca-cert-file", pki.ca)
    server = RedisServer(tmp_path, "--tls-port", str(port), *files)
    servers.callback(server.end)
    ours = f"ssl_certfile={pki.client_cert}&ssl_keyfile={pki.client_key}"
    await works(f"rediss://localhost:{port}?ssl_ca_certs={pki.ca}&{ours}")
    for query in (f"ssl_ca_certs={pki.other_ca}&{ours}", f"ssl_ca_certs={pki.ca}"):
        replica = Replica(f"rediss://localhost:{port}?{query}")
        with pytest.raises(StorageError):
            await replica.table.load()
        await replica.table.close()


@pytest.mark.expect_log("changes are refused")
async def test_a_failover_of_sentinels(tmp_path: Path, servers: ExitStack, log_lines: Any) -> None:
    for name in ("one", "two", "sentinel"):
        (tmp_path / name).mkdir()
    first = RedisServer(tmp_path / "one")
    servers.callback(first.end)
    second = RedisServer(tmp_path / "two", "--replicaof", "127.0.0.1", str(first.port))
    servers.callback(second.end)
    second.server.wait_for("MASTER <-> REPLICA sync: Finished with success|Full resync|master sync: Done")
    port = free_port()
    (tmp_path / "sentinel" / "conf").write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor routes 127.0.0.1 {first.port} 1\n"
        "sentinel down-after-milliseconds routes 300\nsentinel failover-timeout routes 2000\n"
    )
    command = ("redis-server", str(tmp_path / "sentinel" / "conf"), "--sentinel")
    sentinel = servers.enter_context(running(Server(tmp_path / "sentinel" / "log", *command)))
    sentinel.wait_for(rf"\+slave slave 127\.0\.0\.1:{second.port}")
    async with replicas(f"redis+sentinel://127.0.0.1:{port}/routes/2?prefix=x") as (one, two):
        await one.table.add("/a", TARGET)
        await two.see("/a")
        async with redis.asyncio.from_url(f"{second.url}/2") as client:
            for _ in range(1000):  # replication is not at once
                if await client.exists("x:state"):
                    break
            assert await client.exists("x:state")
        first.crash()
        await until(lambda: not one.metrics.store_up)
        await until(lambda: one.metrics.store_up and two.metrics.store_up, 20)
        await two.table.add("/b", TARGET)
        await one.see("/a", "/b")
        log_lines.take("Last activities are not saved")
