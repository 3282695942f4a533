"""Unix sockets: for the proxy and its other servers, and for targets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.streams import end_of, quiet
from support.wire import Message, Peer, Proxy, backend, proxy

from chp.app import ConfigurableProxy
from chp.errors import ConfigError

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: the path of a socket may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="chp") as name:
        yield Path(name)


@asynccontextmanager
async def proxy_on(path: Path, target: str = "", **options: Any) -> AsyncIterator[Proxy]:
    app = ConfigurableProxy(
        socket=str(path), api_port=0, auth_token="secret", default_target=target, **options
    )
    await app.start_servers()
    try:
        yield Proxy(app)
    finally:
        await app.stop()


async def connect(path: Path) -> Peer:
    return Peer(*await asyncio.open_unix_connection(str(path)))


async def fetch(path: Path, request: bytes = GET) -> Message:
    peer = await connect(path)
    await peer.send(request)
    message = await peer.receive_message()
    await peer.close()
    return message


async def test_a_client_on_a_unix_socket_has_no_address(folder: Path) -> None:
    async with backend() as server, proxy_on(folder / "p.sock", server.url) as chp:
        assert chp.app.proxy_address == str(folder / "p.sock")
        request = GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
        assert (await fetch(folder / "p.sock", request)).status == 200
        assert Message(bytes(server.received[0])).value(b"X-Forwarded-For") == b"1.2.3.4"
        assert (await fetch(folder / "p.sock")).status == 200
        assert b"x-forwarded-for" not in server.received[0].lower().split(b"\r\n\r\n")[1]
        await quiet(chp)


async def test_the_rest_api_on_a_unix_socket(folder: Path) -> None:
    path = folder / "a.sock"
    async with proxy(api_socket=str(path)) as chp:
        assert chp.app.api_address == str(path)
        request = b"GET /api/routes HTTP/1.1\r\nHost: %2ftmp%2fa.sock\r\nAuthorization: token secret\r\n\r\n"
        message = await fetch(path, request)
        assert (message.status, message.content.strip()) == (200, b"{}")
    assert os.listdir(folder) == []


async def test_files_have_the_mode_of_the_umask_and_are_removed(folder: Path) -> None:
    before = os.umask(0o007)
    try:
        async with proxy_on(folder / "p.sock"):
            assert stat.S_IMODE((folder / "p.sock").stat().st_mode) == 0o770
    finally:
        os.umask(before)
    assert os.listdir(folder) == []


async def test_a_stale_file_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "p.sock"))
        dead.listen()
    async with backend() as server, proxy_on(folder / "p.sock", server.url):
        assert (await fetch(folder / "p.sock")).status == 200


async def test_a_socket_in_use_is_not_taken_away(folder: Path) -> None:
    async with backend() as server, proxy_on(folder / "p.sock", server.url):
        with pytest.raises(ConfigError, match=r"--socket: can't listen on .* address already in use"):
            async with proxy_on(folder / "p.sock"):
                pass
        assert (await fetch(folder / "p.sock")).status == 200


async def test_a_file_that_is_no_socket_is_left_alone(folder: Path) -> None:
    (folder / "p.sock").write_text("precious")
    with pytest.raises(ConfigError, match="is not a socket"):
        async with proxy_on(folder / "p.sock"):
            pass
    assert (folder / "p.sock").read_text() == "precious"


async def test_the_file_of_a_successor_is_not_removed(folder: Path) -> None:
    path = folder / "p.sock"
    async with backend() as server, proxy_on(folder / "successor.sock", server.url):
        async with proxy_on(path):
            (folder / "successor.sock").rename(path)
        assert (await fetch(path)).status == 200


@pytest.mark.parametrize("scheme", ["http+unix", "unix+http"])
async def test_a_target_on_a_unix_socket(scheme: str, folder: Path) -> None:
    async with backend(socket_path=str(folder / "b.sock")) as server, proxy() as chp:
        await chp.add_route("/", server.url.replace("http+unix", scheme) + "/base?k=v")
        for _ in range(3):
            message = await chp.get("/x?y=z")
            assert (message.status, message.content) == (200, b"ok")
        assert server.connections == 1
        request = Message(bytes(server.received[0]).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        assert request.start == b"GET /base/x?k=v&y=z HTTP/1.1"
        assert request.value(b"Host") == b"h"


async def test_an_upgrade_to_a_target_on_a_unix_socket(folder: Path) -> None:
    async def echo(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
        await peer.send(await peer.receive_some())

    path = folder / "p.sock"
    async with backend(echo, socket_path=str(folder / "b.sock")) as server, proxy_on(path, server.url) as chp:
        peer = await connect(path)
        await peer.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nhello")
        await peer.receive_head()
        assert await peer.receive_all() == b"hello"
        await peer.close()
        await quiet(chp)


@pytest.mark.parametrize("there", [False, True], ids=["no file", "nobody listens"])
@pytest.mark.expect_log("503 GET / .*b.sock")
async def test_a_dead_target_on_a_unix_socket_is_a_503(there: bool, folder: Path) -> None:
    path = folder / "b.sock"
    if there:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    async with proxy("http+unix://" + str(path).replace("/", "%2F")) as chp:
        assert (await chp.get()).status == 503
        await quiet(chp)


@pytest.mark.expect_log("503 GET / ")
async def test_a_path_that_is_too_long_is_a_503() -> None:
    async with proxy("http+unix://" + "%2Fx" * 200) as chp:
        assert (await chp.get()).status == 503


@pytest.mark.expect_log("404 GET /none")
async def test_an_error_target_on_a_unix_socket(folder: Path) -> None:
    async with (
        backend(socket_path=str(folder / "e.sock")) as errors,
        proxy(error_target=errors.url + "/hub/error") as chp,
    ):
        message = await chp.get("/none")
        assert (message.status, message.content) == (404, b"ok")
        asked = b"GET /hub/error/404?url=%2Fnone HTTP/1.1\r\nHost: localhost\r\n"
        assert errors.all_received.startswith(asked)


@pytest.mark.expect_log("Response to GET / cut")
async def test_a_cut_response_can_be_told_on_a_unix_socket(folder: Path) -> None:
    """A unix socket knows no reset; the framing tells that something is missing."""

    async def die(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    path = folder / "p.sock"
    async with backend(die, socket_path=str(folder / "b.sock")) as server, proxy_on(path, server.url) as chp:
        peer = await connect(path)
        await peer.send(GET)
        assert b"\r\n0\r\n" not in await end_of(peer)
        await peer.close()
        await quiet(chp)
