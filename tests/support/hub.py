"""A real JupyterHub as a process of its own, and a client that behaves like a browser."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from support.commands import PATIENCE, Server
from support.jupyter import execute_request
from support.ports import free_port

# Seconds for the Hub and for a single-user server: several of them share two cores.
SPAWN_PATIENCE = 60.0
# A Python with JupyterHub 5, made by the Makefile.
HUB_5 = str(Path(sys.prefix) / "hub5" / "bin" / "python")
API_TOKEN = "token-of-the-tests"

CONFIG = """
import sys
sys.path.append({tests!r})
import support.hub_ports
c.JupyterHub.bind_url = {bind_url!r}
c.JupyterHub.hub_port = {hub_port}
c.JupyterHub.db_url = "sqlite:///:memory:"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = {directory!r} + "/home/{{username}}"
c.Spawner.args = ["--allow-root"]
c.JupyterHub.allow_named_servers = True
c.JupyterHub.last_activity_interval = 2
c.JupyterHub.services = [{{"name": "tests", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [{{
    "name": "tests",
    "services": ["tests"],
    "scopes": ["admin:users", "admin:servers", "admin:server_state", "access:servers", "proxy"],
}}]
"""
WITH_CLASS = """
c.JupyterHub.proxy_class = "chp"
"""
WITH_COMMAND = """
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
"""


def is_running(pid: int) -> bool:
    """Tell whether a process has not ended; nobody may have asked yet for the status of one that has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def processes_that_know_of(directory: Path) -> list[int]:
    """Return the processes that a program has started that has this directory in its environment."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and bytes(directory) in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


class Hub(Server):
    """JupyterHub on free ports of 127.0.0.1, with ``chp`` as its proxy in one of two ways."""

    patience = SPAWN_PATIENCE

    def __init__(
        self,
        directory: Path,
        proxy: str,
        *,
        config: str = "",
        bind_url: str = "",
        python: str = sys.executable,
        path: str = os.environ["PATH"],
        wait: bool = True,
    ) -> None:
        """``proxy``: "class" for ``proxy_class = "chp"``, "command" for what JupyterHub does by default.

        ``config`` is added to the configuration; with "config" it alone says what the proxy is.
        ``path`` is where programs are looked for after those of ``python``.
        """
        self.url = bind_url or f"http://127.0.0.1:{free_port()}"
        self.hub_port = free_port()
        self.directory = directory
        self.pid_file = directory / "jupyterhub-proxy.pid"
        text = CONFIG.format(
            tests=str(Path(__file__).parent.parent),
            bind_url=self.url,
            hub_port=self.hub_port,
            directory=str(directory),
            token=API_TOKEN,
        )
        if proxy == "class":
            text += WITH_CLASS
        elif proxy == "command":
            text += WITH_COMMAND.format(api_port=free_port())
        (directory / "home").mkdir(exist_ok=True)
        (directory / "tmp").mkdir(exist_ok=True)
        (directory / "jupyterhub_config.py").write_text(text + config)
        programs = Path(python).parent
        super().__init__(
            directory / "hub.log",
            *(python, "-m", "jupyterhub"),
            PATH=f"{programs}{os.pathsep}{path}",
            HOME=str(directory),
            TMPDIR=str(directory / "tmp"),
            JUPYTER_PLATFORM_DIRS="1",
            PYTHONWARNINGS="ignore",
        )
        if wait:
            try:
                self.wait_for("JupyterHub is now running")
            except AssertionError:
                self.kill()
                raise

    @property
    def proxy_pid(self) -> int:
        return int(self.pid_file.read_text())

    @property
    def proxy_command(self) -> str:
        return Path(f"/proc/{self.proxy_pid}/cmdline").read_text().replace("\0", " ")

    def kill(self) -> None:
        """End the Hub and what it may have left."""
        super().kill()
        for pid in self.own_processes():
            os.kill(pid, 9)

    def own_processes(self) -> list[int]:
        return processes_that_know_of(self.directory)


class Browser:
    """A logged-in user: keeps cookies, follows redirects, and knows what JupyterHub's pages send."""

    def __init__(self, hub: Hub, session: aiohttp.ClientSession, name: str) -> None:
        self.hub = hub
        self.name = name
        self.session = session
        self.host = hub.url  # of the user's server

    def path(self, rest: str = "", server: str = "") -> str:
        """Return a URL of the user's server."""
        name = f"{quote(self.name, safe='@~')}/{server}".rstrip("/")
        return f"{self.host}/user/{name}{rest}"

    def cookie(self, name: str, path: str) -> str:
        """Return a cookie that belongs to a path: each server has an ``_xsrf`` of its own."""
        fitting = [
            (len(morsel["path"]), morsel.value)
            for morsel in self.session.cookie_jar
            if morsel.key == name and path.startswith(morsel["path"])
        ]
        return max(fitting)[1] if fitting else ""

    def xsrf(self, url: str) -> dict[str, str]:
        return {"X-XSRFToken": self.cookie("_xsrf", urlsplit(url).path)}

    async def log_in(self) -> None:
        page = f"{self.hub.url}/hub/login"
        async with self.session.get(page) as response:
            assert response.status == 200, await response.text()
        data = {"username": self.name, "password": "x", "_xsrf": self.cookie("_xsrf", "/hub/login")}
        async with self.session.post(page, data=data, allow_redirects=False) as response:
            assert response.status == 302, await response.text()

    async def start_server(self, server: str = "") -> list[dict[str, Any]]:
        """Start the user's server as the Hub's page does, and wait for it; returns the progress events."""
        spawn = f"{self.hub.url}/hub/spawn/{quote(self.name, safe='')}" + (f"/{server}" if server else "")
        async with self.session.get(spawn) as response:
            page = await response.text()
            assert response.status == 200, page
        found = re.search(r'progressUrl\s*=\s*"([^"]+)"|"(/hub/api/users/[^"]+/progress[^"]*)"', page)
        events = []
        if found is not None:  # else it is ready already
            events = await self.progress(found[1] or found[2])
            assert events[-1].get("ready"), events
        # The first page of the server brings its cookies: the redirects of OAuth go through the Hub.
        async with self.session.get(self.path("/api/status", server)) as response:
            assert response.status in (200, 403), await response.text()
        async with self.session.get(self.path("/", server)) as response:
            assert response.status == 200, await response.text()
            self.host = str(response.url.origin())
        return events

    async def progress(self, path: str) -> list[dict[str, Any]]:
        """Read the stream of events (``text/event-stream``) of a server that starts."""
        async with self.session.get(self.hub.url + path.replace("\\u0026", "&")) as response:
            assert response.status == 200, await response.text()
            return [json.loads(line[5:]) async for line in response.content if line.startswith(b"data:")]

    async def ask(self, method: str, path: str, body: Any = None, server: str = "") -> Any:
        """Ask the API of the user's server for what has to succeed."""
        url = self.path(path, server)
        async with self.session.request(method, url, json=body, headers=self.xsrf(url)) as response:
            text = await response.text()
            assert response.status < 300, (response.status, text)
            return json.loads(text) if text else None

    async def status(self, path: str = "/api/status") -> int:
        async with self.session.get(self.path(path), allow_redirects=False) as response:
            await response.read()
            return response.status

    async def start_kernel(self) -> str:
        kernel = await self.ask("POST", "/api/kernels", {})
        return str(kernel["id"])

    def websocket(self, path: str) -> Any:
        url = self.path(path)
        return self.session.ws_connect(url, headers=self.xsrf(url), max_msg_size=0)

    async def run_code(self, kernel: str, code: str) -> str:
        """Run code in a kernel over its WebSocket; returns what it prints."""
        async with self.websocket(f"/api/kernels/{kernel}/channels") as channel:
            request = execute_request(code)
            await channel.send_json(request)
            printed, idle, replied = "", False, False
            while not (idle and replied):
                message = json.loads(await asyncio.wait_for(channel.receive_str(), PATIENCE))
                if message["parent_header"].get("msg_id") != request["header"]["msg_id"]:
                    continue
                content = message["content"]
                if message["msg_type"] == "stream":
                    printed += content["text"]
                replied = replied or message["msg_type"] == "execute_reply"
                idle = idle or content.get("execution_state") == "idle"
            return printed


@asynccontextmanager
async def browser(hub: Hub, name: str, **options: Any) -> AsyncIterator[Browser]:
    """Log a user in, in a session of its own. ``options`` are those of aiohttp's connector."""
    timeout = aiohttp.ClientTimeout(total=SPAWN_PATIENCE)
    # Cookies for IP addresses too.
    jar = aiohttp.CookieJar(unsafe=True)
    connector = aiohttp.TCPConnector(**options)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, timeout=timeout) as session:
        user = Browser(hub, session, name)
        await user.log_in()
        yield user


async def fetch_json(hub: Hub, method: str, path: str, body: Any = None) -> Any:
    """Ask for what has to succeed, as an administrator who shows a token instead of cookies."""
    fields = {"Authorization": f"token {API_TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=fields) as session,
        session.request(method, hub.url + path, json=body) as response,
    ):
        text = await response.text()
        assert response.status < 300, (response.status, text)
        return json.loads(text) if text else None


async def hub_api(hub: Hub, method: str, path: str, body: Any = None) -> Any:
    return await fetch_json(hub, method, f"/hub/api{path}", body)
