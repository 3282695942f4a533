"""The installed command under signals and limits: what an operator does to it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from support.commands import PATIENCE, Proxy, fetch, running, websocket
from support.wire import Peer, backend, until
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from chp.notify import NotifyListener

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition("/")[0].rpartition(":")
    return host, int(port)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def seconds_to_end(proxy: Proxy) -> float:
    """Terminate it, and return how long that takes on a machine that has nothing else to do."""
    pids = (proxy.process.pid, os.getpid())

    def queued() -> float:
        """Return how many seconds they have waited for a processor that others used (Linux)."""
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9 for pid in pids)

    begin = time.monotonic() - queued()
    proxy.process.terminate()
    os.waitid(os.P_PID, proxy.process.pid, os.WEXITED | os.WNOWAIT)
    return time.monotonic() - queued() - begin


async def test_it_ends_within_a_fifth_of_a_second_when_nothing_runs(tmp_path: Path) -> None:
    async with backend() as it:
        with running(Proxy(tmp_path, "--default-target", it.url)) as proxy:
            assert (await fetch(proxy.url)).code == 200
            with socket.create_connection(address(proxy.url), timeout=PATIENCE):
                assert seconds_to_end(proxy) < 0.2
                assert proxy.stop() == 0
            assert proxy.logged(r"info: Stopped after 0\.0 s; cut: 0 requests, 0 tunnels$")


async def test_one_line_says_what_was_cut(tmp_path: Path) -> None:
    async def silent(peer: Peer) -> None:
        head = await peer.receive_head()
        if b"Upgrade: " in head:
            await peer.send(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
        await peer.reader.read()

    async with backend(silent) as it:
        with running(Proxy(tmp_path, "--default-target", it.url, "--drain-timeout", "100")) as proxy:
            peers = [Peer(*await asyncio.open_connection(*address(proxy.url))) for _ in range(3)]
            for peer in peers[:2]:
                await peer.send(GET)
            await peers[2].send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
            await peers[2].receive_head()
            await it.wait_for(GET[:16])
            assert await asyncio.to_thread(proxy.stop) == 0
            for peer in peers:
                await peer.close()
        lines = [line for line in proxy.log.splitlines() if "cut: " in line]
        assert [line.partition("; ")[2] for line in lines] == ["cut: 2 requests, 1 tunnels"]


async def test_the_health_check_says_503_before_it_stops(tmp_path: Path) -> None:
    with running(Proxy(tmp_path, "--drain-delay", "60000")) as proxy:
        assert (await fetch(f"{proxy.url}/_chp_healthz")).code == 200
        proxy.process.send_signal(signal.SIGTERM)
        proxy.wait_for("The health check says 503; stopping in 60 s")
        assert (await fetch(f"{proxy.url}/_chp_healthz")).code == 503
        assert (await fetch(f"{proxy.url}/")).code == 404
        assert proxy.stop() == 0  # the second signal


# -- file descriptors -----------------------------------------------------------------------


def test_the_soft_limit_of_descriptors_is_raised(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = hard - 1 if hard < 1024 else 512
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
    try:
        proxy = Proxy(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with running(proxy):
        assert resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        assert proxy.logged(rf"info: Raised the limit of open files from {lower} to {hard}$")


async def test_without_descriptors_it_serves_who_is_in_and_does_not_spin(tmp_path: Path) -> None:
    async with backend() as it:
        options = ("--default-target", it.url, "--metrics-port", "0", "--metrics-ip", "127.0.0.1")
        with running(Proxy(tmp_path, *options)) as proxy:
            metrics_url = proxy.wait_for(r"Serve metrics at (http://\S+)$")[1]
            inside = Peer(*await asyncio.open_connection(*address(proxy.url)))
            await inside.send(GET)
            assert (await inside.receive_message()).content == b"ok"
            pid = proxy.process.pid
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            used = len(os.listdir(f"/proc/{pid}/fd"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, hard))
            urls = [proxy.url, proxy.api_url, metrics_url]
            waiting = [Peer(*await asyncio.open_connection(*address(url))) for url in urls]
            begin, cpu = time.monotonic(), cpu_seconds(pid)
            for peer in waiting:
                await peer.send(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
            proxy.wait_for("Can't accept connections for the moment: Too many open files")
            while time.monotonic() - begin < 2.5:  # two rounds of attempts
                await inside.send(GET)
                assert (await inside.receive_message()).content == b"ok"
                await asyncio.sleep(0.1)
            assert cpu_seconds(pid) - cpu < 0.25 * (time.monotonic() - begin)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
            statuses = [(await peer.receive_message()).status for peer in waiting]
            assert statuses == [200, 404, 200]
            assert len([line for line in proxy.log.splitlines() if "Can't accept" in line]) <= 3
            for peer in (*waiting, inside):
                await peer.close()
            assert await asyncio.to_thread(proxy.stop) == 0


# -- reload ---------------------------------------------------------------------------------


def hang_up(proxy: Proxy, pattern: str) -> str:
    """Send SIGHUP and return the line that follows."""
    before = len(proxy.log)
    proxy.process.send_signal(signal.SIGHUP)
    gives_up = time.monotonic() + PATIENCE
    while time.monotonic() < gives_up:
        match = re.search(pattern, proxy.log[before:], re.MULTILINE)
        if match is not None:
            return match[0]
        time.sleep(0.01)
    raise AssertionError(f"no line matches {pattern!r}:\n{proxy.log}")


async def test_a_hangup_reads_the_file_again(tmp_path: Path) -> None:
    config = tmp_path / "chp_config.py"
    config.write_text('c.ConfigurableProxy.custom_header = ["X-New: 1"]\n')
    async with backend() as it:
        with running(Proxy(tmp_path, "--default-target", it.url, "--timeout", "60000")) as proxy:
            inside = Peer(*await asyncio.open_connection(*address(proxy.url)))
            await inside.send(GET)
            assert (await inside.receive_message()).status == 200
            # The command line wins over the file, as it does at the start.
            config.write_text(
                'c.ConfigurableProxy.custom_header.append("X-New: 2")\n'
                "c.ConfigurableProxy.timeout = 5\n"
                'c.ConfigurableProxy.log_level = "debug"\n'
                "c.ConfigurableProxy.event_loop = 'asyncio'\n"
                "c.ConfigurableProxy.host_routing = True\n"
            )
            assert hang_up(proxy, "changed: .*$") == "changed: custom_header, log_level"
            assert proxy.wait_for(
                r"warn: These can't change while the proxy runs.*: event_loop, host_routing$"
            )
            await inside.send(GET)
            assert (await inside.receive_message()).status == 200
            assert b"X-New: 1" in it.all_received
            assert b"X-New: 2" in it.all_received
            assert proxy.wait_for(r"debug: PROXY WEB /")

            config.write_text("c.ConfigurableProxy.log_json = True\n")
            hang_up(proxy, "changed: custom_header, log_json, log_level$")
            line = json.loads(hang_up(proxy, '^{.*"Configuration reloaded.*$'))  # from now on
            assert line["message"] == "Configuration reloaded; changed: nothing"
            await inside.close()
            assert await asyncio.to_thread(proxy.stop) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0\n", "configuration file .*chp_config.py, line 2: ZeroDivisionError: division by zero$"),
        ("c.ConfigurableProxy.timeuot = 1\n", "unknown option ConfigurableProxy.timeuot"),
        (
            "c.ConfigurableProxy.timeout = 'x'\n",
            "timeout: 'x' is not a whole number of at least 0 and at most 10{12}$",
        ),
        (
            "c.ConfigurableProxy.timeout = 10**400\n",
            "timeout: 1000[^ ]*0 .401 characters. is not a whole number",
        ),
        ("c.ConfigurableProxy.ssl_ciphers = 'x'\n", "--ssl-ciphers: OpenSSL knows no cipher of 'x'$"),
        ("raise KeyboardInterrupt\n", "configuration file .*line 2: KeyboardInterrupt$"),
        ("raise SystemExit(3)\n", "configuration file .*line 2: SystemExit: 3$"),
        (None, "no configuration file .*chp_config.py"),
    ],
)
async def test_a_bad_file_changes_nothing(tmp_path: Path, text: str | None, reason: str) -> None:
    config = tmp_path / "chp_config.py"
    config.write_text('c.ConfigurableProxy.custom_header = ["X-Old: 1"]\n')
    async with backend() as it:
        with running(Proxy(tmp_path, "--default-target", it.url)) as proxy:
            if text is None:
                config.unlink()
            else:
                config.write_text('c.ConfigurableProxy.custom_header = ["X-New: 1"]\n' + text)
            hang_up(proxy, f"error: Configuration not reloaded, all is as it was: .*{reason}")
            assert (await fetch(proxy.url)).code == 200
            assert b"X-Old: 1" in it.all_received
            assert b"X-New" not in it.all_received
            assert "Traceback" not in proxy.log
            assert await asyncio.to_thread(proxy.stop) == 0


async def test_it_tells_who_started_it_that_it_reloads(tmp_path: Path) -> None:
    listener = NotifyListener(str(tmp_path / "notify"))
    try:
        with running(Proxy(tmp_path, **listener.environment)) as proxy:
            hang_up(proxy, "Configuration reloaded; changed: nothing")
            gives_up = time.monotonic() + PATIENCE
            while listener.state.get("RELOADING") != "1" and time.monotonic() < gives_up:
                listener.read()
                await asyncio.sleep(0.01)
            assert int(listener.state["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            assert listener.state["READY"] == "1"
            assert await asyncio.to_thread(proxy.stop) == 0
    finally:
        listener.close()


async def test_two_hundred_reloads_leave_nothing_and_cut_nothing(tmp_path: Path, pki: Any) -> None:
    """With a WebSocket that goes on, and requests one after another."""

    class Echo(WebSocketHandler):
        async def on_message(self, message: str | bytes) -> None:
            await self.write_message(message)

    server = HTTPServer(Application([("/ws", Echo)], log_function=lambda handler: None))
    (listening,) = bind_sockets(0, "127.0.0.1")
    server.add_sockets([listening])
    target = f"http://127.0.0.1:{listening.getsockname()[1]}"
    (tmp_path / "chp_config.py").write_text("c.ConfigurableProxy.timeout = 60000\n")
    try:
        # The system's authorities are a megabyte of small pieces, which the allocator only reuses in part.
        options = ("--default-target", target, "--client-ssl-ca", pki.ca)
        with running(Proxy(tmp_path, *options)) as proxy:
            async with websocket(f"{proxy.url}/ws") as socket_:

                def descriptors() -> int:
                    return len(os.listdir(f"/proc/{proxy.process.pid}/fd"))

                async def reload(times: int) -> None:
                    for _ in range(times):
                        done = proxy.log.count("Configuration reloaded")
                        proxy.process.send_signal(signal.SIGHUP)
                        while proxy.log.count("Configuration reloaded") == done:
                            await socket_.write_message("x")
                            assert await socket_.read_message() == "x"
                            assert (await fetch(f"{proxy.url}/nothing")).code == 404
                    # The connection to the target that is open now stays open.
                    assert (await fetch(f"{proxy.url}/nothing")).code == 404

                await reload(40)
                before, memory = descriptors(), proxy.memory()
                await reload(200)
                await until(lambda: descriptors() <= before)  # the last request's are about to be closed
                assert proxy.memory() < memory + 3 * 2**20
            assert await asyncio.to_thread(proxy.stop) == 0
            assert not proxy.logged("Traceback")
    finally:
        server.stop()
        await server.close_all_connections()
