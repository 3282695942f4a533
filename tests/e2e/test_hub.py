"""A real JupyterHub with ``chp`` as its proxy: as the class, and as the command that it starts by default."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from support.commands import PATIENCE, fetch, running
from support.hub import HUB_5, Browser, Hub, browser, fetch_json, hub_api, is_running
from support.ports import free_port
from support.wire import until

pytestmark = pytest.mark.timeout(seconds=120)  # a single-user server alone takes some to start

MEGABYTE = 1_000_000
BIG = 100 * MEGABYTE

SERVICE = """
import http.server, os, urllib.parse

class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"service saw " + self.path.encode())

url = urllib.parse.urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
http.server.HTTPServer((url.hostname, url.port), Echo).serve_forever()
"""


def service(directory: Path) -> str:
    script = directory / "service.py"
    script.write_text(SERVICE)
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, str(script)]
    return f'c.JupyterHub.services.append({{"name": "echo", "url": {url!r}, "command": {command!r}}})\n'


@pytest.fixture(scope="module", params=["class", "command"])
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    directory = tmp_path_factory.mktemp(f"hub-{request.param}")
    with running(Hub(directory, request.param, config=service(directory))) as server:
        yield server
        assert server.stop() == 0


async def test_a_day_at_work(hub: Hub) -> None:
    """Log in, watch the server start, run code, open a terminal, move big files."""
    async with browser(hub, "ada") as user:
        events = await user.start_server()
        assert [event["progress"] for event in events][-1] == 100
        await run_code_and_command(user)
        await move_big_file(user)
        routes = await hub_api(hub, "GET", "/proxy")
        assert routes["/user/ada/"]["data"].items() >= {"user": "ada", "server_name": ""}.items()


async def run_code_and_command(user: Browser) -> None:
    kernel = await user.start_kernel()
    assert await user.run_code(kernel, "print(6 * 7)") == "42\n"
    terminal = await user.ask("POST", "/api/terminals", {})
    async with user.websocket(f"/terminals/websocket/{terminal['name']}") as channel:
        await channel.send_json(["stdin", "echo result: $((6 * 7))\r"])
        shown = ""
        while "result: 42" not in shown:
            kind, *rest = json.loads(await asyncio.wait_for(channel.receive_str(), PATIENCE))
            shown += rest[0] if kind == "stdout" else ""


async def move_big_file(user: Browser) -> None:
    sent = hashlib.sha256()
    part = bytes(97 + i % 26 for i in range(MEGABYTE - 10))

    async def content() -> AsyncIterator[bytes]:
        yield b'{"type": "file", "format": "text", "content": "'
        for number in range(BIG // MEGABYTE):
            numbered = b"%010d" % number + part
            sent.update(numbered)
            yield numbered
        yield b'"}'

    url = user.path("/api/contents/big.txt")
    async with user.session.put(url, data=content(), headers=user.xsrf(url)) as response:
        assert response.status == 201, await response.text()
    received = hashlib.sha256()
    async with user.session.get(user.path("/files/big.txt")) as response:
        assert response.status == 200
        async for data in response.content.iter_any():
            received.update(data)
    assert received.hexdigest() == sent.hexdigest()


# JupyterHub's own tests do the same with the command.
@pytest.mark.parametrize("hub", ["class"], indirect=True)
async def test_names_that_need_escapes_and_named_servers(hub: Hub) -> None:
    async def visit(name: str, server: str) -> None:
        quoted = quote(name, safe="@~")
        api = f"/users/{quoted}/servers/{server}" if server else f"/users/{quoted}/server"
        await hub_api(hub, "POST", f"/users/{quoted}")
        await hub_api(hub, "POST", api)
        while not (await hub_api(hub, "GET", f"/users/{quoted}"))["servers"].get(server, {}).get("ready"):
            await asyncio.sleep(0.1)
        page = await fetch_json(hub, "GET", f"/user/{quoted}/{server}".rstrip("/") + "/api/status")
        assert "started" in page
        await hub_api(hub, "DELETE", api)

    servers = [("50fia", ""), ("秀樹", "second"), ("~testjh", ""), ("has@", "x"), ("with space", "")]
    for pair in (servers[:2], servers[2:4], servers[4:]):  # two at a time: they are busy when they start
        await asyncio.gather(*(visit(name, server) for name, server in pair))


async def test_a_service(hub: Hub) -> None:
    response = await fetch(f"{hub.url}/services/echo/x?y=1")
    assert response.body == b"service saw /services/echo/x?y=1"


async def test_a_killed_server_is_the_hubs_error_page(hub: Hub) -> None:
    async with browser(hub, "grace") as user:
        await user.start_server()
        state = await hub_api(hub, "GET", "/users/grace?include_stopped_servers=1")
        os.kill(state["servers"][""]["state"]["pid"], signal.SIGKILL)
        async with user.session.get(user.path("/lab"), allow_redirects=False) as response:
            page = await response.text()
            assert response.status == 503
            assert response.headers["Content-Type"].startswith("text/html")
            assert "JupyterHub" in page
            assert "Your server appears to be down" in page or "Service Unavailable" in page
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await user.websocket("/api/kernels/1/channels")
        assert refused.value.status == 503
        async with user.session.get(f"{hub.url}/hub/no-such-page") as response:
            assert response.status == 404
            assert "JupyterHub" in await response.text()


async def test_a_killed_proxy_is_back_and_no_request_is_lost(hub: Hub) -> None:
    async with browser(hub, "alan") as user:
        await user.start_server()
        kernel = await user.start_kernel()
        before = hub.proxy_pid
        os.kill(before, signal.SIGKILL)
        killed_at = time.monotonic()
        seen = set()
        while 200 not in seen:
            assert time.monotonic() < killed_at + 10, hub.log
            with contextlib.suppress(aiohttp.ClientConnectionError):
                seen.add(await user.status())
            await asyncio.sleep(0.02)
        if "chp.jupyterhub" in hub.log:
            assert seen == {200}  # no answer before the routes are there
        away = time.monotonic() - killed_at
        # JupyterHub itself looks every 5 seconds, and the command then has 10 to start.
        assert away < (5 if "chp.jupyterhub" in hub.log else 15)
        assert hub.proxy_pid != before
        for _ in range(50):
            assert await user.status() == 200
        assert await user.run_code(kernel, "print('still here')") == "still here\n"


BUSY = """
import sys, time
for second in range(200):
    print(second, flush=True)
    time.sleep(0.1)
"""


async def test_activity_moves_with_what_a_kernel_says_and_the_culler_acts_on_it(tmp_path: Path) -> None:
    """Nothing comes from the client of the busy one: only its kernel prints."""
    culler = [sys.executable, "-m", "jupyterhub_idle_culler", "--timeout=4", "--cull-every=1"]
    config = f"""
c.JupyterHub.services.append({{"name": "culler", "command": {culler!r}}})
c.JupyterHub.load_roles.append({{
    "name": "culler",
    "services": ["culler"],
    "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers", "admin:users"],
}})
c.JupyterHub.last_activity_interval = 1
"""
    with running(Hub(tmp_path, "class", config=config)) as hub:
        async with browser(hub, "busy") as busy, browser(hub, "idle") as idle:
            await asyncio.gather(busy.start_server(), idle.start_server())
            kernel = await busy.start_kernel()
            printing = asyncio.ensure_future(busy.run_code(kernel, BUSY))
            await until(lambda: hub.logged("Removing user idle from proxy"), 30)
            assert not hub.logged("Removing user busy from proxy")
            servers = (await hub_api(hub, "GET", "/users/busy"))["servers"]
            assert servers[""]["ready"]
            printing.cancel()
            # And it is culled as soon as it is silent.
            await busy.ask("DELETE", f"/api/kernels/{kernel}")
            await until(lambda: hub.logged("Removing user busy from proxy"), 30)
        assert hub.stop() == 0


@pytest.mark.parametrize("proxy", ["class", "command"])
async def test_internal_ssl(tmp_path: Path, proxy: str) -> None:
    config = f"""
c.JupyterHub.internal_ssl = True
c.JupyterHub.internal_certs_location = {str(tmp_path / "certificates")!r}
"""
    if proxy == "class":
        config += f'c.CHPProxy.api_url = "https://127.0.0.1:{free_port()}"\n'
    else:
        config += f'c.ConfigurableHTTPProxy.api_url = "https://127.0.0.1:{free_port()}"\n'
    with running(Hub(tmp_path, proxy, config=config)) as hub:
        async with browser(hub, "ada") as user:
            await user.start_server()
            await run_code_and_command(user)
            routes = await hub_api(hub, "GET", "/proxy")
            assert routes["/user/ada/"]["target"].startswith("https://")
        assert hub.stop() == 0


class EverythingIsHere(aiohttp.abc.AbstractResolver):
    """Names of any depth below localhost."""

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("proxy", ["class", "command"])
async def test_subdomains(tmp_path: Path, proxy: str) -> None:
    port = free_port()
    config = f"""
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.subdomain_host = "http://hub.localhost:{port}"
"""
    with running(Hub(tmp_path, proxy, config=config)) as hub:
        hub.url = f"http://hub.localhost:{port}"
        async with browser(hub, "ada", resolver=EverythingIsHere()) as user:
            await user.start_server()
            assert user.host == f"http://ada.hub.localhost:{port}"
            await run_code_and_command(user)
        assert hub.stop() == 0


async def test_everything_on_unix_sockets(tmp_path: Path) -> None:
    with running(
        Hub(tmp_path, "class", bind_url="http+unix://%2F" + str(tmp_path / "p")[1:].replace("/", "%2F"))
    ) as hub:
        connector = aiohttp.UnixConnector(str(tmp_path / "p"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://hub/hub/login") as response,
        ):
            assert response.status == 200
        assert hub.stop() == 0
        assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("python", [sys.executable, HUB_5], ids=["6", "5"])
async def test_no_configuration_of_the_proxy_and_no_node(tmp_path: Path, python: str) -> None:
    """Two packages of Python are enough: the Hub's default class finds the command by its name."""
    programs = Path(python).parent
    for missing in ("node", "npm"):
        assert shutil.which(missing, path=str(programs)) is None
    with running(Hub(tmp_path, "command", python=python, path=str(programs))) as hub:
        assert hub.logged(r"Using Proxy: jupyterhub\.proxy\.ConfigurableHTTPProxy")
        interpreter, script, *_ = hub.proxy_command.split()
        assert Path(interpreter).parent == programs
        assert script == f"{programs}/configurable-http-proxy"
        if python == sys.executable:  # the other one has no server for users
            async with browser(hub, "ada") as user:
                await user.start_server()
                kernel = await user.start_kernel()
                assert await user.run_code(kernel, "print('no node')") == "no node\n"
        else:
            assert (await fetch(f"{hub.url}/hub/login")).code == 200
        assert hub.stop() == 0


# What the Hub does with the process.


async def test_nothing_is_left_when_the_hub_stops(tmp_path: Path) -> None:
    with running(Hub(tmp_path, "class")) as hub:
        pid = hub.proxy_pid
        assert (await hub_api(hub, "GET", "/proxy")).keys() == {"/"}
        assert hub.stop() == 0
        assert not is_running(pid)
        assert hub.own_processes() == []
        assert not hub.pid_file.exists()
        assert os.listdir(tmp_path / "tmp") == []


async def test_users_work_on_while_the_hub_is_away(tmp_path: Path) -> None:
    """The proxy of a Hub that was killed goes on, and the next Hub ends it."""
    config = "c.JupyterHub.cleanup_servers = False\n"
    with running(Hub(tmp_path, "class", config=config)) as hub:
        async with browser(hub, "ada") as user:
            await user.start_server()
            kernel = await user.start_kernel()
            old = hub.proxy_pid
            hub.process.kill()
            hub.process.wait(PATIENCE)
            assert await user.run_code(kernel, "print('alone')") == "alone\n"
        with running(Hub(tmp_path, "class", config=config)) as second:
            assert second.logged(f"Proxy still running at pid={old}")
            assert second.proxy_pid != old
            assert not is_running(old)
            assert second.stop() == 0
        assert os.listdir(tmp_path / "tmp") == []  # the first one's directory is gone as well


def test_a_pid_that_belongs_to_somebody_else_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "jupyterhub-proxy.pid").write_text(str(stranger.pid))
        with running(Hub(tmp_path, "class")) as hub:
            assert hub.logged(f"Proxy no longer running at pid={stranger.pid}")
            assert stranger.poll() is None
            assert hub.stop() == 0
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            'c.CHPProxy.command = ["/nowhere/chp"]',
            r"Can't run the proxy's command '/nowhere/chp': No such file or directory",
        ),
        (
            "c.ConfigurableProxy.error_path = '/x'\nc.ConfigurableProxy.error_target = 'http://127.0.0.1:1'",
            "Cannot specify both error-target and error-path",
        ),
        (
            "c.ConfigurableProxy.timeuot = 1",
            r"unknown option ConfigurableProxy.timeuot \(did you mean timeout\?\)",
        ),
        (
            "c.ConfigurableProxy.proxy_request = print",
            r"c.ConfigurableProxy.proxy_request: .* can't be passed",
        ),
        ("c.CHPProxy.config_file = 'nowhere.py'", r"c.CHPProxy.config_file: no file /.*/nowhere.py"),
        (
            "c.CHPProxy.extra_args = ['--redirect-port', '1']",
            "HTTPS redirection specified but certificates not",
        ),
    ],
)
def test_the_hub_says_why_the_proxy_does_not_start(tmp_path: Path, config: str, reason: str) -> None:
    with running(Hub(tmp_path, "class", config=config + "\n", wait=False)) as hub:
        assert hub.process.wait(hub.patience) == 1
        assert hub.logged(rf"(RuntimeError|TraitError): .*{reason}"), hub.log
        assert "npm" not in hub.log
        assert hub.own_processes() == []
        assert os.listdir(tmp_path / "tmp") == []


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with running(Hub(tmp_path, "class", bind_url=url, wait=False)) as hub:
            assert hub.process.wait(hub.patience) == 1
            assert hub.logged("RuntimeError: The proxy did not start, it ended with exit status 1: .*in use")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (False, r"Waiting until the route store can be read \(--storage-at-start\): .*[Cc]onnection refused"),
        (True, "Reading the route store$"),  # it is connected to, and silent
    ],
)
def test_a_store_that_can_not_be_read(tmp_path: Path, answers: bool, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as store:
        config = f"""
c.CHPProxy.start_timeout = 3
c.ConfigurableProxy.storage_url = "redis://:hunter2@127.0.0.1:{store.getsockname()[1]}"
"""
        if not answers:
            store.close()
        with running(Hub(tmp_path, "class", config=config, wait=False)) as hub:
            assert hub.process.wait(PATIENCE) == 1
            late = "The proxy did not start, it did not say within 3 seconds that it is ready: "
            assert hub.logged(f"RuntimeError: {late}{reason}"), hub.log
            assert "hunter2" not in hub.log
            assert hub.own_processes() == []


async def test_options_reach_the_proxy(tmp_path: Path) -> None:
    """From three places; nothing of them can be read in the list of processes but extra arguments."""
    (tmp_path / "own_config.py").write_text(
        "c.ConfigurableProxy.custom_header = ['X-From: file']\nc.ConfigurableProxy.pool_max_idle = 3\n"
    )
    metrics = free_port()
    config = f"""
c.CHPProxy.config_file = "own_config.py"
c.ConfigurableProxy.custom_header = ["X-From: hub-secret"]
c.ConfigurableProxy.metrics_ip = "127.0.0.1"
c.CHPProxy.extra_args = ["--metrics-port", "{metrics}"]
"""
    with running(Hub(tmp_path, "class", config=config)) as hub:
        response = await fetch(f"http://127.0.0.1:{metrics}/metrics")
        assert response.code == 200
        assert "hub-secret" not in hub.proxy_command
        assert "--metrics-port" in hub.proxy_command
        assert hub.stop() == 0


async def test_jupyterhub_5_has_the_same_class(tmp_path: Path) -> None:
    with running(Hub(tmp_path, "class", python=HUB_5)) as hub:
        async with aiohttp.ClientSession() as session, session.get(f"{hub.url}/hub/login") as response:
            assert response.headers["X-JupyterHub-Version"].startswith("5.")
        os.kill(hub.proxy_pid, signal.SIGKILL)
        await until(lambda: hub.logged("New proxy back up"), hub.patience)
        assert (await hub_api(hub, "GET", "/proxy")).keys() == {"/"}
        assert hub.stop() == 0
        assert hub.own_processes() == []
        assert os.listdir(tmp_path / "tmp") == []
