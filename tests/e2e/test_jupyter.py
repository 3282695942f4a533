"""The installed command in front of a real Jupyter server, as in a hub: its base URL is behind a route."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import PATIENCE, TOKEN, Proxy, Server, fetch, running, websocket
from support.jupyter import execute_request
from tornado.websocket import WebSocketClientConnection

PREFIX = "/user/ada"
FIELDS = {"Authorization": f"token {TOKEN}"}

MEGABYTE = 1_000_000
BIG = 200 * MEGABYTE
# How much the proxy may grow by while it carries that.
GROWTH = 20 * MEGABYTE


def start_jupyter(directory: Path) -> Server:
    # Nothing of the account that runs the tests is read or written.
    own = {
        name: str(directory)
        for name in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    (directory / "files").mkdir()
    return Server(
        directory / "jupyter.log",
        *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"),
        *("--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--ServerApp.base_url={PREFIX}/"),
        *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={directory / 'files'}"),
        **own,
        JUPYTER_PLATFORM_DIRS="1",
    )


def url_of(jupyter: Server) -> str:
    return jupyter.wait_for(rf"(http://127\.0\.0\.1:\d+){PREFIX}/\?token=")[1]


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(start_jupyter(tmp_path_factory.mktemp("jupyter"))) as server:
        yield server
        server.stop()  # it ends its kernels and terminals


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with running(Proxy(tmp_path)) as server:
        yield server
        assert server.stop() == 0


async def ask(proxy: Proxy, method: str, path: str, body: Any = None) -> Any:
    """Ask Jupyter's API, through the proxy, for what has to succeed."""
    data = None if body is None else json.dumps(body)
    response = await fetch(proxy.url + PREFIX + path, method=method, body=data, headers=FIELDS)
    assert response.code < 300, (response.code, response.body)
    return json.loads(response.body) if response.body else None


async def read_until(socket: WebSocketClientConnection, found: Callable[[Any], object]) -> None:
    """Read messages up to the one that is meant."""

    async def read() -> None:
        while True:
            message = await socket.read_message()
            assert message is not None, "the WebSocket was closed"
            if found(json.loads(message)):
                return

    await asyncio.wait_for(read(), PATIENCE)


async def test_kernel_executes_code_over_its_websocket(proxy: Proxy, jupyter: Server) -> None:
    await proxy.add_route(PREFIX, url_of(jupyter))

    assert "version" in await ask(proxy, "GET", "/api")
    kernel = await ask(proxy, "POST", "/api/kernels", {})
    try:
        channels = f"{proxy.url}{PREFIX}/api/kernels/{kernel['id']}/channels?session_id=1"
        async with websocket(channels, headers=FIELDS) as socket:
            request = execute_request("print(6 * 7)")
            await socket.write_message(json.dumps(request))
            answers: dict[str, Any] = {}  # by type: output and reply are free to overtake each other

            def is_answered(message: Any) -> bool:
                if message["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                    answers[message["msg_type"]] = message["content"]
                return answers.keys() >= {"stream", "execute_reply"}

            await read_until(socket, is_answered)
            assert answers["stream"] == {"name": "stdout", "text": "42\n"}
            assert answers["execute_reply"]["status"] == "ok"
    finally:
        await ask(proxy, "DELETE", f"/api/kernels/{kernel['id']}")


async def test_terminal_runs_a_command(proxy: Proxy, jupyter: Server) -> None:
    await proxy.add_route(PREFIX, url_of(jupyter))
    terminal = await ask(proxy, "POST", "/api/terminals", {})
    async with websocket(
        f"{proxy.url}{PREFIX}/terminals/websocket/{terminal['name']}", headers=FIELDS
    ) as socket:
        await socket.write_message(json.dumps(["stdin", "echo result: $((6 * 7))\r"]))
        await read_until(socket, lambda message: message[0] == "stdout" and "result: 42" in message[1])
    await ask(proxy, "DELETE", f"/api/terminals/{terminal['name']}")


async def test_big_upload_and_download_pass_without_being_kept(proxy: Proxy, jupyter: Server) -> None:
    await proxy.add_route(PREFIX, url_of(jupyter))
    await ask(proxy, "GET", "/api")  # what is loaded at the first request is no growth
    before = proxy.memory()
    sent = hashlib.sha256()
    begin, end = b'{"type": "file", "format": "text", "content": "', b'"}'
    part = bytes(97 + i % 26 for i in range(MEGABYTE - 10))

    async def content(write: Callable[[bytes], Any]) -> None:
        await write(begin)
        for number in range(BIG // MEGABYTE):
            numbered = b"%010d" % number + part
            sent.update(numbered)
            await write(numbered)
        await write(end)

    response = await fetch(
        f"{proxy.url}{PREFIX}/api/contents/big.txt",
        method="PUT",
        headers={**FIELDS, "Content-Length": str(len(begin) + BIG + len(end))},
        body_producer=content,
    )
    assert response.code == 201, response.body

    received = hashlib.sha256()
    download = await fetch(
        f"{proxy.url}{PREFIX}/files/big.txt", headers=FIELDS, streaming_callback=received.update
    )
    assert download.code == 200
    assert received.hexdigest() == sent.hexdigest()
    # The most that there ever was, not only what is left.
    assert proxy.memory("VmHWM") - before < GROWTH
    await ask(proxy, "DELETE", "/api/contents/big.txt")


async def test_routes_come_and_go_while_the_proxy_runs(proxy: Proxy, jupyter: Server) -> None:
    async def status() -> int:
        return (await fetch(f"{proxy.url}{PREFIX}/api", headers=FIELDS)).code

    assert await status() == 404
    await proxy.add_route(PREFIX, url_of(jupyter))
    assert await status() == 200
    routes = json.loads((await proxy.api("GET")).body)
    assert list(routes) == [PREFIX]
    assert routes[PREFIX]["target"] == url_of(jupyter)
    assert (await proxy.api("DELETE", PREFIX)).code == 204
    assert await status() == 404
    assert json.loads((await proxy.api("GET")).body) == {}


async def test_default_target_needs_no_route(tmp_path: Path, jupyter: Server) -> None:
    with running(Proxy(tmp_path, "--default-target", url_of(jupyter))) as proxy:
        assert "version" in await ask(proxy, "GET", "/api")
        assert list(json.loads((await proxy.api("GET")).body)) == ["/"]
        assert proxy.stop(signal.SIGINT) == 0


async def test_killed_server_becomes_the_503_page(proxy: Proxy, tmp_path: Path) -> None:
    directory = tmp_path / "jupyter"
    directory.mkdir()
    with running(start_jupyter(directory)) as jupyter:
        await proxy.add_route(PREFIX, url_of(jupyter))
        assert "version" in await ask(proxy, "GET", "/api")
        jupyter.kill()
    for _ in range(2):  # first over a connection that was open, then over a new one
        response = await fetch(f"{proxy.url}{PREFIX}/api", headers=FIELDS)
        assert response.code == 503
        assert response.headers["Content-Type"] == "text/html"
        assert b"<h1>503: Proxy Target Missing</h1>" in response.body
    assert proxy.logged(rf"error: 503 GET {PREFIX}/api connection refused by http://127\.0\.0\.1:\d+$")
