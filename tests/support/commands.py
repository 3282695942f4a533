"""The installed command, and other servers, as processes of their own; what they log goes to a file."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

# Seconds: for the start of most servers, and for their end.
PATIENCE = 20.0
TOKEN = "secret"
# The command that is installed; "python -m chp" would take the sources of the working directory.
CHP = str(Path(sys.executable).with_name("chp"))
# Whether the compiled build is tested (see the Makefile).
COMPILED = os.environ.get("CHP_COMPILE") == "1"

S = TypeVar("S", bound="Server")


class Server:
    """A running process, and its log."""

    patience = PATIENCE  # seconds for what it is waited for

    def __init__(self, log_file: Path, *command: str, **options: Any) -> None:
        """Start it; ``options`` are those of ``subprocess.Popen``, and in capitals environment variables."""
        self._log_file = log_file
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGPROXY_")}
        environment = {name: options.pop(name) for name in list(options) if name.isupper()}
        with log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=log_file.parent,
                env={**inherited, **environment},
                **options,
            )

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    def logged(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.log, re.MULTILINE)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until a line matches. Blocks: for the time in which servers start."""
        gives_up = time.monotonic() + self.patience
        while time.monotonic() < gives_up:
            # Asked before the log is read: what it wrote at last is there then.
            ended = self.process.poll() is not None
            match = self.logged(pattern)
            if match is not None:
                return match
            assert not ended, f"the process has ended:\n{self.log}"
            time.sleep(0.01)
        raise AssertionError(f"no line matches {pattern!r}:\n{self.log}")

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status (negative: a signal's number)."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(self.patience)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(self.patience)

    def memory(self, name: str = "VmRSS") -> int:
        """Return a figure of /proc/PID/status in bytes: VmRSS is now, VmHWM the most there ever was."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024


class Proxy(Server):
    """The installed ``chp``, on free ports."""

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        addresses = ("--ip", "127.0.0.1", "--port", "0", "--api-ip", "127.0.0.1", "--api-port", "0")
        command = (CHP, *addresses, *options)
        environment = {"CONFIGPROXY_AUTH_TOKEN": TOKEN, **environment}
        super().__init__(directory / "chp.log", *command, **environment)
        try:
            self.url = self.wait_for(r"Proxying (https?://127\.0\.0\.1:\d+) to ")[1]
            self.api_url = self.wait_for(r"Proxy API at (http://127\.0\.0\.1:\d+/api/routes)\b")[1]
            build = self.wait_for(r"chp \S+ \((compiled|plain Python)\) runs on")[1]
            assert build == ("compiled" if COMPILED else "plain Python"), "this is not the build to test"
        except AssertionError:
            self.kill()
            raise

    async def api(self, method: str, path: str = "", body: Any = None) -> HTTPResponse:
        """Ask the REST API; ``path`` is that of a route."""
        data = None if body is None else json.dumps(body)
        fields = {"Authorization": f"token {TOKEN}"}
        return await fetch(self.api_url + path, method=method, body=data, headers=fields)

    async def add_route(self, path: str, target: str) -> None:
        response = await self.api("POST", path, {"target": target})
        assert response.code == 201, response.body


@contextmanager
def running(server: S) -> Iterator[S]:
    """See to it that a process ends."""
    try:
        yield server
    finally:
        server.kill()


async def fetch(url: str, **options: Any) -> HTTPResponse:
    """Send a request. Every status is an answer; a failed connection raises."""
    request = HTTPRequest(url, connect_timeout=PATIENCE, request_timeout=PATIENCE, **options)
    client = AsyncHTTPClient(force_instance=True, max_body_size=1 << 40)
    try:
        return await client.fetch(request, raise_error=False)
    finally:
        client.close()


@asynccontextmanager
async def websocket(url: str, **options: Any) -> AsyncIterator[WebSocketClientConnection]:
    """Open a WebSocket at an ``http`` URL."""
    request = HTTPRequest(url.replace("http", "ws", 1), **options)
    socket = await asyncio.wait_for(websocket_connect(request), PATIENCE)
    try:
        yield socket
    finally:
        socket.close()
