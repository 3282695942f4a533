"""Several real proxies on one store: what is killed, and when, must not matter to those that stay."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.commands import CHP, Proxy, Server, fetch, running
from support.ports import free_port
from support.stores import StoreServer
from support.wire import backend, until
from tornado.httpclient import HTTPError

PATIENCE = 15.0


class Replicas:
    """Processes that have one store."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._count = 0

    def start(self, url: str, *options: str, **environment: str) -> Proxy:
        self._count += 1
        directory = self._directory / f"replica{self._count}"
        directory.mkdir()
        return self._stack.enter_context(
            running(Proxy(directory, *options, CONFIGPROXY_STORAGE_URL=url, **environment))
        )


@pytest.fixture
def proxies(tmp_path: Path) -> Iterator[Replicas]:
    with ExitStack() as stack:
        yield Replicas(tmp_path, stack)


async def routes(proxy: Proxy) -> dict[str, Any]:
    """Return what the API shows, without the activities, which come later."""
    found: dict[str, Any] = json.loads((await proxy.api("GET")).body)
    for data in found.values():
        del data["last_activity"]
    return found


async def agree(*replicas: Proxy, on: set[str]) -> None:
    """Wait until all have these routes at least, and the same ones."""
    ends = time.monotonic() + PATIENCE
    while True:
        tables = [await routes(replica) for replica in replicas]
        if on <= set(tables[0]) and all(table == tables[0] for table in tables):
            return
        assert time.monotonic() < ends, (on - set(tables[0]), [set(table) for table in tables])
        await asyncio.sleep(0.02)


async def keep_writing(stop: asyncio.Event, proxy: Proxy, name: str, target: str, kept: set[str]) -> None:
    """Add routes one after another; note those that were acknowledged."""
    number = 0
    while not stop.is_set():
        number += 1
        path = f"/{name}/{number}"
        with contextlib.suppress(OSError, HTTPError):  # the proxy was killed
            response = await proxy.api("POST", path, {"target": target})
            if response.code == 201:
                kept.add(path)
                continue
            assert response.code == 503
            assert response.body.startswith(b"The route store ")
        await asyncio.sleep(0.02)  # not so often, and a kill does not become a flood


async def test_users_reach_their_servers_again_after_a_kill(store_url: str, proxies: Replicas) -> None:
    async with backend() as it:
        first = proxies.start(store_url)
        await first.add_route("/user/ada", it.url)
        before = await routes(first)
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        second = proxies.start(store_url)
        response = await fetch(f"{second.url}/user/ada/tree")
        assert (response.code, response.body) == (200, b"ok")
        assert (await routes(second))["/user/ada"]["target"] == before["/user/ada"]["target"]
        assert second.stop() == 0


async def test_two_replicas(store_url: str, proxies: Replicas) -> None:
    async with backend() as it:
        one = proxies.start(store_url, "--default-target", "http://127.0.0.1:1")
        two = proxies.start(store_url, "--default-target", "http://127.0.0.1:2")
        delays = []
        for number in range(30):
            await one.add_route(f"/{number}", it.url)
            started = time.monotonic()
            while (await two.api("GET", f"/{number}")).code != 200:
                assert time.monotonic() < started + PATIENCE
            delays.append(time.monotonic() - started)
            assert (await fetch(f"{two.url}/{number}/x")).code == 200
        assert sorted(delays)[15] < 0.1
        # The default target is each one's own, and not in the store.
        assert (await routes(one))["/"]["target"] == "http://127.0.0.1:1"
        assert (await routes(two))["/"]["target"] == "http://127.0.0.1:2"
        three = proxies.start(store_url)
        assert "/" not in await routes(three)
        # A route / takes its place, everywhere.
        await three.add_route("/", it.url)
        await agree(one, two, three, on={"/"})
        for replica in (one, two, three):
            assert replica.stop() == 0


async def test_kill_of_one_of_five_while_all_write(store_url: str, proxies: Replicas) -> None:
    five = [proxies.start(store_url) for _ in range(5)]
    stop = asyncio.Event()
    kept: list[set[str]] = [set() for _ in five]
    writing = [
        asyncio.create_task(keep_writing(stop, proxy, str(number), "http://127.0.0.1:1", kept[number]))
        for number, proxy in enumerate(five)
    ]
    await until(lambda: all(len(paths) >= 5 for paths in kept))
    five[2].stop(signal.SIGKILL)
    count = sum(map(len, kept))
    await until(lambda: sum(map(len, kept)) > count + 20)
    stop.set()
    await asyncio.gather(*writing)
    await agree(*five[:2], *five[3:], on=set().union(*kept))


async def test_kill_of_the_store_while_two_write(store_server: StoreServer, proxies: Replicas) -> None:
    url = store_server.new_url()
    async with backend() as it:
        one, two = proxies.start(url), proxies.start(url)
        await one.add_route("/stays", it.url)
        await agree(one, two, on={"/stays"})
        stop = asyncio.Event()
        kept = {"/stays"}
        writing = [
            asyncio.create_task(keep_writing(stop, proxy, name, it.url, kept))
            for name, proxy in (("one", one), ("two", two))
        ]
        await until(lambda: len(kept) > 50)
        store_server.crash()
        # Traffic goes on, quickly.
        for _ in range(20):
            started = time.monotonic()
            for proxy in (one, two):
                assert (await fetch(f"{proxy.url}/stays")).code == 200
            assert time.monotonic() - started < 1
        refused = await one.api("DELETE", "/stays")
        assert refused.code == 503
        store_server.start()
        for proxy in (one, two):
            await asyncio.to_thread(proxy.wait_for, "The route store is there")
        stop.set()
        await asyncio.gather(*writing)
        await agree(one, two, on=kept)
        third = proxies.start(url)
        await agree(one, two, third, on=kept)


async def test_a_partition(store_server: StoreServer, proxies: Replicas) -> None:
    url = store_server.new_url()
    async with backend() as it:
        one, two = proxies.start(url), proxies.start(url)
        await one.add_route("/a", it.url)
        await agree(one, two, on={"/a"})
        store_server.freeze()
        adding = asyncio.create_task(one.api("POST", "/b", {"target": it.url}))
        for _ in range(20):
            started = time.monotonic()
            assert (await fetch(f"{one.url}/a/x")).code == 200
            assert time.monotonic() - started < 1
        answer = await adding
        assert answer.code == 503
        store_server.thaw()
        for proxy in (one, two):
            await asyncio.to_thread(proxy.wait_for, "The route store is there")
        await two.add_route("/c", it.url)
        await agree(one, two, on={"/a", "/c"})
        # What was refused has not happened later.
        assert set(await routes(one)) == {"/a", "/c"}


# Starting without the store.


def closed_port() -> str:
    return f"redis://:hunter2@127.0.0.1:{free_port()}"


def test_exit_when_the_store_is_down(tmp_path: Path, proxies: Replicas) -> None:
    with pytest.raises(AssertionError, match="the process has ended") as caught:
        proxies.start(closed_port(), "--storage-at-start", "exit")
    assert "chp: The route store failed: " in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def command(directory: Path, url: str, *options: str) -> Server:
    addresses = ("--ip", "127.0.0.1", "--port", "0", "--api-ip", "127.0.0.1", "--api-port", "0")
    return Server(directory / "log", CHP, *addresses, *options, CONFIGPROXY_STORAGE_URL=url)


def test_a_start_that_waits_can_be_ended(tmp_path: Path) -> None:
    with running(command(tmp_path, closed_port())) as proxy:
        proxy.wait_for("The route store failed: .*trying again$")
        assert proxy.stop() == 0
        assert "hunter2" not in proxy.log
        assert "Traceback" not in proxy.log


async def test_waiting_for_the_store_at_the_start(store_server: StoreServer, tmp_path: Path) -> None:
    url = store_server.new_url()
    store_server.crash()
    with running(command(tmp_path, url)) as proxy:
        await asyncio.to_thread(proxy.wait_for, "The route store failed: .*trying again$")
        assert not proxy.logged("Proxying")
        store_server.start()
        await asyncio.to_thread(proxy.wait_for, "Proxy API at")
        assert proxy.stop() == 0


async def test_serving_without_the_store(store_server: StoreServer, proxies: Replicas) -> None:
    url = store_server.new_url()
    async with backend() as it:
        with contextlib.closing(contextlib.ExitStack()):
            keeper = proxies.start(url)
            await keeper.add_route("/a", it.url)
            keeper.stop()
        store_server.crash()
        proxy = proxies.start(url, "--storage-at-start", "serve", "--default-target", it.url)
        assert (await fetch(f"{proxy.url}/anything")).code == 200
        assert (await proxy.api("POST", "/b", {"target": it.url})).code == 503
        assert set(await routes(proxy)) == {"/"}
        store_server.start()
        await agree(proxy, on={"/", "/a"})
        await proxy.add_route("/b", it.url)


# One machine, one port.


async def test_two_processes_on_one_port(tmp_path: Path, proxies: Replicas) -> None:
    url = f"sqlite:///{tmp_path}/chp.sqlite"
    async with backend() as it:
        one = proxies.start(url, "--reuse-port")
        port, api_port = (address.rsplit(":", 1)[1].partition("/")[0] for address in (one.url, one.api_url))
        two = proxies.start(url, "--reuse-port", "--port", port, "--api-port", api_port)
        assert (two.url, two.api_url) == (one.url, one.api_url)
        await one.add_route("/a", it.url)  # whichever gets it
        for proxy in (one, two):
            await asyncio.to_thread(proxy.wait_for, "/a -> ")
        for _ in range(10):
            assert (await fetch(f"{one.url}/a")).code == 200
        assert one.stop() == 0
        for _ in range(10):
            assert (await fetch(f"{two.url}/a")).code == 200
        with socket.create_connection(("127.0.0.1", int(port))):
            pass


async def test_one_that_waits_for_the_store_gets_no_connections(
    store_server: StoreServer, proxies: Replicas, tmp_path: Path
) -> None:
    url = store_server.new_url()
    async with backend() as it:
        one = proxies.start(url, "--reuse-port")
        port, api_port = (address.rsplit(":", 1)[1].partition("/")[0] for address in (one.url, one.api_url))
        await one.add_route("/a", it.url)
        store_server.crash()
        options = ("--reuse-port", "--port", port, "--api-port", api_port)
        with running(command(tmp_path, url, *options)) as two:
            await asyncio.to_thread(two.wait_for, "The route store failed: .*trying again$")
            for _ in range(20):
                assert (await fetch(f"{one.url}/a")).code == 200
            assert set(await routes(one)) == {"/a"}
            store_server.start()
            await asyncio.to_thread(two.wait_for, "Proxy API at")
            one.stop()
            for _ in range(5):
                assert (await fetch(f"{one.url}/a")).code == 200
            assert two.stop() == 0


async def test_a_change_that_is_under_way_gets_its_answer(tmp_path: Path, proxies: Replicas) -> None:
    proxy = proxies.start(f"sqlite:///{tmp_path}/chp.sqlite")
    other = sqlite3.connect(tmp_path / "chp.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    adding = asyncio.create_task(proxy.api("POST", "/a", {"target": "http://127.0.0.1:1"}))
    await asyncio.to_thread(proxy.wait_for, "Adding route /a")
    proxy.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(proxy.wait_for, "Terminated")
    other.execute("ROLLBACK")
    other.close()
    assert (await adding).code == 201
    assert proxy.stop() == 0


def test_passwords_are_shown_nowhere(tmp_path: Path) -> None:
    config = tmp_path / "chp_config.py"
    config.write_text('c.ConfigurableProxy.storage_url = "postgresql://ada:hunter2@127.0.0.1:1/x"\n')
    for options in (
        ["--show-config"],
        ["--show-config-json", "--storage-url", "redis://:hunter2@h"],
        ["--help-all", "--storage-url", "redis://:hunter2@h"],
        ["--storage-url", "foo://:hunter2@h"],
        ["--storage-url", "redis://:hunter2@h:port"],
        ["--storage-at-start", "exit", "--log-level", "debug"],
    ):
        with running(command(tmp_path, "redis://:hunter2@h", *options)) as proxy:
            proxy.process.wait(PATIENCE)
            assert proxy.log
            assert "hunter2" not in proxy.log
            assert "Traceback" not in proxy.log
