"""Names of targets: several addresses, which change; few lookups, and nobody waits for a dead address."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest
from support.silence import attempts_at, silent_port
from support.streams import quiet
from support.wire import OK, Peer, Proxy, backend, proxy, until

from chp.upstream import addresses
from chp.upstream.addresses import Address, Resolver, connect_first, in_turn, is_address


class Names:
    """What the resolver of a test finds, and how often it was asked."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.answer = asyncio.Event()
        self.answer.set()
        self.resolver: Resolver

    async def ask(self, host: str) -> list[Address]:
        self.asked.append(host)
        await self.answer.wait()
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [address(ip) for ip in self.known[host]]


def address(ip: str) -> Address:
    if ":" in ip:
        return Address(socket.AF_INET6, socket.IPPROTO_TCP, (ip, 0, 0, 0))
    return Address(socket.AF_INET, socket.IPPROTO_TCP, (ip, 0))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    it = Names()

    async def ask(resolver: Resolver, host: str) -> list[Address]:
        it.resolver = resolver
        return await it.ask(host)

    monkeypatch.setattr(Resolver, "_ask", ask)
    return it


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@asynccontextmanager
async def named(port: int, **options: Any) -> AsyncIterator[Proxy]:
    """A proxy that keeps no connections, so that each request needs a new one."""
    async with proxy(f"http://pod.test:{port}", pool_max_idle=0, **options) as chp:
        yield chp


async def test_a_name_is_looked_up_once_for_a_moment(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    async with backend() as server, named(port_of(server.url)) as chp:
        names.known["pod.test"] = ["127.0.0.1"]
        for _ in range(3):
            assert (await chp.get()).status == 200
        assert names.asked == ["pod.test"]


async def test_a_name_is_looked_up_again_when_its_time_is_over(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_LIFETIME", 0)
    async with backend() as server, named(port_of(server.url)) as chp:
        names.known["pod.test"] = ["127.0.0.1"]
        for _ in range(3):
            assert (await chp.get()).status == 200
        assert len(names.asked) == 3


async def test_requests_share_a_lookup_that_takes_long(names: Names) -> None:
    names.known["pod.test"] = ["127.0.0.1"]
    names.answer.clear()
    async with backend() as server, named(port_of(server.url)) as chp:
        requests = [asyncio.ensure_future(chp.get()) for _ in range(30)]
        leaving = await chp.connect()
        await leaving.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await until(lambda: chp.app.metrics.requests_web == 31)
        leaving.abort()
        await until(lambda: chp.app.metrics.client_connections == 30)
        names.answer.set()
        assert {(await request).status for request in requests} == {200}
        assert names.asked == ["pod.test"]


async def test_a_lookup_that_hangs_is_given_up(names: Names, log_lines: Any) -> None:
    names.answer.clear()
    async with named(1, connect_timeout=100) as chp:
        assert (await chp.get()).status == 503
        assert chp.app.metrics.upstream_errors == {"connect_timeout": 1}
    log_lines.take("503 GET / connecting to http://pod.test:1 timed out")


async def test_a_certificate_that_is_not_trusted_is_no_reason_to_look_again(
    names: Names, pki: Any, log_lines: Any
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.cert, pki.key)
    names.known["pod.test"] = ["127.0.0.1"]
    async with backend(tls=context) as server, proxy(client_ssl_ca=pki.other_ca) as chp:
        await chp.add_route("/", f"https://pod.test:{port_of(server.url)}")
        for _ in range(3):
            assert (await chp.get()).status == 503
        assert chp.app.metrics.upstream_errors == {"tls": 3}
    assert names.asked == ["pod.test"]
    log_lines.take("503 GET / TLS with https://pod.test:")


async def test_the_end_does_not_wait_for_a_lookup(names: Names) -> None:
    names.answer.clear()
    async with named(1, drain_timeout=0) as chp:
        peer = await chp.connect()
        await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await until(lambda: names.asked)
        begin = monotonic()
    assert monotonic() - begin < 1


async def test_nobody_waits_for_a_lookup_of_a_route_that_is_deleted(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_LIFETIME", 0)
    names.known["pod.test"] = ["127.0.0.1"]
    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            message = await peer.receive_message()
            if message.start.startswith(b"GET /held "):
                await release.wait()
            await peer.send(OK)

    async with backend(script) as server, proxy() as chp:
        await chp.add_route("/", f"http://pod.test:{port_of(server.url)}")
        held = asyncio.ensure_future(chp.get("/held"))
        await server.wait_for(b"/held")
        names.answer.clear()
        looking = asyncio.ensure_future(chp.get("/looking"))
        await until(lambda: len(names.asked) == 2)
        release.set()
        assert (await held).status == 200
        begin = monotonic()
        await chp.app.table.remove("/")
        await server.wait_until_ended()  # the idle connection is closed
        assert monotonic() - begin < 1
        names.answer.set()
        assert (await looking).status == 200


async def test_a_name_that_appears_is_found_by_the_next_request(names: Names, log_lines: Any) -> None:
    async with backend() as server, named(port_of(server.url)) as chp:
        for _ in range(2):
            assert (await chp.get()).status == 503
        assert chp.app.metrics.upstream_errors == {"dns": 2}
        names.known["pod.test"] = ["127.0.0.1"]
        assert (await chp.get()).status == 200
    assert log_lines.take("503 GET / no address for http://pod.test:")


async def test_a_target_that_moves_is_found_by_the_next_request(names: Names, log_lines: Any) -> None:
    async with backend() as server:
        port = port_of(server.url)
        async with named(port) as chp:
            names.known["pod.test"] = ["127.0.0.9"]  # nobody is there
            assert (await chp.get()).status == 503
            assert chp.app.metrics.upstream_errors == {"refused": 1}
            names.known["pod.test"] = ["127.0.0.1"]
            assert (await chp.get()).status == 200
            assert names.asked == ["pod.test"] * 2
    assert log_lines.take("503 GET / connection refused by http://pod.test:")


async def test_remembered_addresses_that_fail_are_looked_up_again(names: Names) -> None:
    async with backend() as server, named(port_of(server.url)) as chp:
        names.known["pod.test"] = ["127.0.0.1"]
        assert (await chp.get()).status == 200
        names.resolver._known["pod.test"] = ((address("127.0.0.9"),), float("inf"))  # nobody is there
        assert (await chp.get()).status == 200
        assert names.asked == ["pod.test"] * 2


@pytest.mark.parametrize("first", ["silent", "refusing"])
async def test_nobody_waits_for_an_address_that_does_not_answer(first: str, names: Names) -> None:
    async with backend() as server, named(port_of(server.url)) as chp:
        port = port_of(server.url)
        names.known["pod.test"] = ["127.0.0.2", "127.0.0.1"]
        with silent_port("127.0.0.2", port) as silent:
            if first == "refusing":
                silent.close()
            begin = monotonic()
            assert (await chp.get()).status == 200
            delay = 0.25 if first == "silent" else 0
            assert delay <= monotonic() - begin < delay + 0.2
        await quiet(chp)
        assert attempts_at(port) == 0  # the other attempt is not left


async def test_one_refusal_of_several_is_a_refusal(names: Names, log_lines: Any) -> None:
    names.known["pod.test"] = ["127.0.0.2", "127.0.0.3"]
    async with named(1) as chp:
        assert (await chp.get()).status == 503
        assert chp.app.metrics.upstream_errors == {"refused": 1}
    log_lines.take("503 ")


async def test_a_client_that_leaves_ends_all_attempts(names: Names) -> None:
    names.known["pod.test"] = ["127.0.0.2", "127.0.0.3"]
    with silent_port("127.0.0.2") as one, silent_port("127.0.0.3", one.port):
        async with named(one.port) as chp:
            peer = await chp.connect()
            await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await until(lambda: attempts_at(one.port) == 2)
            peer.abort()
            await until(lambda: attempts_at(one.port) == 0)


async def test_two_that_answer_at_once_leave_one_connection() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(50):
        with socket.create_server(("127.0.0.1", 0)) as one:
            port = one.getsockname()[1]
            with socket.create_server(("127.0.0.2", port)):
                sock = await connect_first(loop, (address("127.0.0.2"), address("127.0.0.1")), port)
                sock.close()


async def test_an_attempt_that_is_given_up_at_any_moment_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(addresses, "ATTEMPT_DELAY", 0)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        with socket.create_server(("127.0.0.2", port)):
            for turns in [*range(12)] * 20:
                attempt = asyncio.ensure_future(
                    connect_first(loop, (address("127.0.0.2"), address("127.0.0.1")), port)
                )
                for _ in range(turns):
                    await asyncio.sleep(0)
                if not attempt.done():
                    attempt.cancel()
                    await asyncio.wait([attempt])
                if not attempt.cancelled():
                    attempt.result().close()


async def test_the_table_of_names_is_bounded(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_MAX_NAMES", 10)
    resolver = Resolver(asyncio.get_running_loop())
    for number in range(30):
        names.known[f"n{number}"] = ["127.0.0.1"]
        await resolver.look_up(f"n{number}")
    assert list(resolver._known) == [f"n{number}" for number in range(20, 30)]
    assert not resolver._lookups


async def test_the_systems_resolver_is_asked() -> None:
    async with backend() as server, proxy(f"http://localhost:{port_of(server.url)}") as chp:
        assert (await chp.get()).status == 200


def test_families_take_turns() -> None:
    six, four = [address(f"::{n}") for n in range(1, 4)], [address("127.0.0.1")]
    assert in_turn([*six, *four]) == (six[0], four[0], six[1], six[2])
    assert in_turn([*four, *six]) == (four[0], six[0], six[1], six[2])


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("fe80::1%eth0", True), ("localhost", False), ("1.2.3", False)],
)
def test_what_is_an_address(host: str, expected: bool) -> None:
    assert is_address(host) is expected


def test_a_name_server_that_is_silent_holds_up_neither_others_nor_the_end() -> None:
    code = """
import asyncio, socket, sys, time
from chp.app import _new_event_loop
from chp.upstream.addresses import Resolver

known = socket.getaddrinfo

def ask(host, *args, **kwargs):
    if host.startswith("silent"):
        time.sleep(60)
    return known(host, *args, **kwargs)

socket.getaddrinfo = ask

async def main(loop):
    resolver = Resolver(loop)
    silent = [asyncio.ensure_future(resolver.look_up(f"silent{number}")) for number in range(40)]
    await asyncio.sleep(0)
    assert await resolver.look_up("localhost")
    await asyncio.to_thread(int)  # what the route store uses
    await resolver.close()
    await asyncio.gather(*silent, return_exceptions=True)

loop = _new_event_loop(sys.argv[1])
loop.run_until_complete(main(loop))
loop.close()
"""
    for name in ("asyncio", "uvloop"):
        command = [sys.executable, "-c", code, name]
        ended = subprocess.run(command, stderr=subprocess.PIPE, timeout=20, check=False)
        assert (ended.returncode, ended.stderr) == (0, b""), name
