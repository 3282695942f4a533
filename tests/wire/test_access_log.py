"""The access log: one line for each request, whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.streams import broken_off, hang, quiet
from support.wire import Peer, Proxy, answer_ok, backend, proxy, until

from chp.errors import ConfigError

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
UPGRADE = b"GET /ws?token=secret HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"


class Log:
    def __init__(self, path: Path) -> None:
        self.path = path

    async def lines(self, count: int = 1) -> list[bytes]:
        """Wait for so many lines, and return them."""
        await until(lambda: self.path.read_bytes().count(b"\n") >= count)
        lines = self.path.read_bytes().splitlines()
        assert len(lines) == count
        return lines

    async def records(self, count: int = 1) -> list[dict[str, Any]]:
        return [json.loads(line) for line in await self.lines(count)]

    async def record(self) -> dict[str, Any]:
        """Wait for the only record."""
        return (await self.records())[0]


@contextlib.asynccontextmanager
async def logging_proxy(
    folder: Path, target: str = "", log_format: str = "json", **options: Any
) -> AsyncIterator[tuple[Proxy, Log]]:
    log = Log(folder / "access.log")
    async with proxy(target, access_log=str(log.path), access_log_format=log_format, **options) as chp:
        yield chp, log


def shown(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names}


async def test_a_request(tmp_path: Path) -> None:
    secret = (
        b"GET /a/b?token=secret HTTP/1.1\r\nHost: h\r\nUser-Agent: tester\r\nAuthorization: token secret\r\n"
        b"Cookie: secret\r\nReferer: http://h/?token=secret\r\n\r\n"
    )
    async with backend() as server, logging_proxy(tmp_path) as (chp, log):
        await chp.add_route("/a", server.url + "/base?key=secret")
        await chp.request(secret)
        record = await log.record()
        raw = log.path.read_bytes()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("time"))
    assert 0 < record.pop("first_byte") <= record.pop("seconds") < 5
    assert record == {
        "client": "127.0.0.1",
        "method": "GET",
        "path": "/a/b",
        "protocol": "HTTP/1.1",
        "user_agent": "tester",
        "route": "/a",
        "target": server.url + "/base",
        "status": 200,
        "bytes_received": 0,
        "bytes_sent": 2,
        "end": "complete",
        "request_id": None,
    }
    assert b"secret" not in raw


async def test_text(tmp_path: Path) -> None:
    async with backend() as server, logging_proxy(tmp_path, server.url, "text") as (chp, log):
        await chp.get("/a?token=secret", "User-Agent: x\r\n")
        line = (await log.lines())[0]
    number = rb"\d\.\d{6}"
    assert re.fullmatch(
        rb'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /a HTTP/1\.1" 200 2 "-" "x" '
        rb'route="/" target="'
        + re.escape(server.url.encode())
        + rb'" received=0 seconds='
        + number
        + rb" first_byte="
        + number
        + rb" end=complete request_id=-",
        line,
    )


async def test_requests_of_one_connection_in_order(tmp_path: Path) -> None:
    async with backend() as server, logging_proxy(tmp_path, server.url) as (chp, log):
        peer = await chp.connect()
        await peer.send(b"".join(GET.replace(b"/", b"/%d" % number, 1) for number in range(5)))
        for _ in range(5):
            await peer.receive_message()
        assert [record["path"] for record in await log.records(5)] == ["/0", "/1", "/2", "/3", "/4"]


async def test_content_in_both_directions(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        )

    async with backend(script) as server, logging_proxy(tmp_path, server.url) as (chp, log):
        await chp.request(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
        )
        record = await log.record()
    assert shown(record, "bytes_received", "bytes_sent", "method") == {
        "bytes_received": 7,
        "bytes_sent": 11,
        "method": "POST",
    }


@pytest.mark.expect_log("404 GET /missing")
@pytest.mark.expect_log("404 HEAD /missing")
@pytest.mark.expect_log("503 GET /dead")
async def test_answers_of_the_proxy_itself(tmp_path: Path) -> None:
    async with logging_proxy(tmp_path) as (chp, log):
        await chp.add_route("/dead", "http://127.0.0.1:1/base?secret")
        pages = [
            await chp.get("/missing?secret"),
            await chp.request(b"HEAD /missing HTTP/1.1\r\nHost: h\r\n\r\n"),
            await chp.get("/dead/x?secret"),
            await chp.get("/_chp_healthz"),
        ]
        records = await log.records(4)
        assert b"secret" not in log.path.read_bytes()
    assert [shown(record, "path", "route", "target", "status", "end") for record in records] == [
        {"path": "/missing", "route": None, "target": None, "status": 404, "end": "complete"},
        {"path": "/missing", "route": None, "target": None, "status": 404, "end": "complete"},
        {
            "path": "/dead/x",
            "route": "/dead",
            "target": "http://127.0.0.1:1/base",
            "status": 503,
            "end": "upstream_refused",
        },
        {"path": "/_chp_healthz", "route": None, "target": None, "status": 200, "end": "complete"},
    ]
    assert [record["bytes_sent"] for record in records] == [len(page.content) for page in pages]


@pytest.mark.expect_log("404 GET /missing")
async def test_a_page_of_an_error_target(tmp_path: Path) -> None:
    async with backend() as server, logging_proxy(tmp_path, error_target=server.url) as (chp, log):
        await chp.get("/missing")
        record = await log.record()
    assert shown(record, "status", "bytes_sent", "end", "target") == {
        "status": 404,
        "bytes_sent": 2,
        "end": "complete",
        "target": None,
    }


@pytest.mark.expect_log("Response to GET / cut")
async def test_a_target_that_breaks_off(tmp_path: Path) -> None:
    seen = asyncio.Event()

    async def die(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await seen.wait()

    async with backend(die) as server, logging_proxy(tmp_path, server.url) as (chp, log):
        peer = await chp.connect()
        await peer.send(GET)
        await peer.receive_until(b"hello")
        seen.set()
        await broken_off(peer)
        record = await log.record()
        await quiet(chp)
    assert shown(record, "status", "bytes_sent", "end") == {
        "status": 200,
        "bytes_sent": 5,
        "end": "upstream_closed",
    }


@pytest.mark.expect_log("503 GET / no answer in time")
async def test_a_target_that_is_silent(tmp_path: Path) -> None:
    async with backend(hang) as server, logging_proxy(tmp_path, server.url, proxy_timeout=50) as (chp, log):
        await chp.get()
        record = await log.record()
    assert shown(record, "status", "end") == {"status": 503, "end": "upstream_timeout"}
    assert record["first_byte"] >= 0.05


async def test_a_client_that_leaves_before_the_response(tmp_path: Path) -> None:
    async with backend(hang) as server, logging_proxy(tmp_path, server.url) as (chp, log):
        for path, leave in ((b"/1", Peer.send_eof), (b"/2", Peer.abort)):
            peer = await chp.connect()
            await peer.send(GET.replace(b"/", path, 1))
            await server.wait_for(path)
            leave(peer)
            await quiet(chp)
        records = await log.records(2)
    assert [shown(record, "status", "first_byte", "end") for record in records] == [
        {"status": None, "first_byte": None, "end": "client_closed"},
        {"status": None, "first_byte": None, "end": "client_reset"},
    ]


async def test_a_client_that_leaves_in_the_response(tmp_path: Path) -> None:
    async def begin(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await hang(peer)

    async with backend(begin) as server, logging_proxy(tmp_path, server.url) as (chp, log):
        peer = await chp.connect()
        await peer.send(GET)
        await peer.receive_until(b"hello")
        await peer.close()
        record = await log.record()
        await quiet(chp)
    assert shown(record, "status", "bytes_sent", "end") == {
        "status": 200,
        "bytes_sent": 5,
        "end": "client_closed",
    }


async def test_a_silent_client(tmp_path: Path) -> None:
    async with backend(hang) as server, logging_proxy(tmp_path, server.url, timeout=50) as (chp, log):
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
        record = await log.record()
        await quiet(chp)
    assert shown(record, "bytes_received", "end") == {"bytes_received": 2, "end": "timeout"}


async def test_what_the_stop_cuts(tmp_path: Path) -> None:
    async def switch_or_hang(peer: Peer) -> None:
        if b"Upgrade" in await peer.receive_head():
            await peer.send(SWITCHED)
        await hang(peer)

    async with backend(switch_or_hang) as server:
        async with logging_proxy(tmp_path, server.url, drain_timeout=0) as (chp, log):
            peer = await chp.connect()
            await peer.send(GET)
            await server.wait_for(b"GET / ")
            tunnel = await chp.connect()
            await tunnel.send(UPGRADE)
            await tunnel.receive_head()
            await chp.app.stop()
        records = await log.records(2)
    assert {record["path"]: record["end"] for record in records} == {"/": "shutdown", "/ws": "shutdown"}


@pytest.mark.parametrize(
    ("sent", "path", "status", "end"),
    [
        (b"nonsense\r\n\r\n", None, 400, "bad_request"),
        (b"GET /a\x1b[2J HTTP/1.1\r\nHost: h\r\n\r\n", None, 400, "bad_request"),
        (b"GET /%zz?secret HTTP/1.1\r\nHost: h\r\n\r\n", "/%zz", 400, "bad_request"),
        (b"GET http://u:secret@h/a?secret HTTP/1.1\r\nHost: h\r\n\r\n", "/a", 400, "bad_request"),
        (b"GET /a?secret HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", None, 431, "bad_request"),
        (
            b"POST /a?secret HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nnonsense",
            "/a",
            400,
            "bad_request",
        ),
    ],
    ids=["no-http", "control-character", "bad-escape", "user-info", "large", "bad-chunk"],
)
async def test_bad_requests(sent: bytes, path: str | None, status: int, end: str, tmp_path: Path) -> None:
    async with backend(hang) as server, logging_proxy(tmp_path, server.url) as (chp, log):
        assert (await chp.outcome(sent))[0] == status
        record = await log.record()
        assert b"secret" not in log.path.read_bytes()
    assert shown(record, "client", "path", "status", "end") == {
        "client": "127.0.0.1",
        "path": path,
        "status": status,
        "end": end,
    }


@pytest.mark.expect_log("404 GET /a")
async def test_a_path_can_not_forge_a_line(tmp_path: Path) -> None:
    async with logging_proxy(tmp_path, log_format="text") as (chp, log):
        fields = 'User-Agent: x" 200\\ \xe9\r\n'
        await chp.request(f'GET /a"%0a HTTP/1.1\r\nHost: h\r\n{fields}\r\n'.encode("latin-1"))
        line = (await log.lines())[0]
    assert b'"GET /a\\x22%0a HTTP/1.1" 404 ' in line
    assert b'"x\\x22 200\\x5c \\xc3\\xa9"' in line


@pytest.mark.parametrize("end", ["client_closed", "client_reset", "upstream_closed"])
async def test_tunnels(end: str, tmp_path: Path) -> None:
    async def switch(peer: Peer) -> None:
        await peer.receive_head()
        await peer.send(SWITCHED + b"early")
        await peer.receive(8)
        await peer.send(b"answer")
        if end != "upstream_closed":
            await hang(peer)

    async with backend(switch) as server, logging_proxy(tmp_path, server.url) as (chp, log):
        peer = await chp.connect()
        await peer.send(UPGRADE + b"ahead")
        await peer.receive_until(b"early")
        await peer.send(b"abc")
        await peer.receive_until(b"answer")
        if end == "client_closed":
            peer.send_eof()
        elif end == "client_reset":
            peer.abort()
        else:
            assert await peer.receive_all() == b""
        if end == "upstream_closed":
            await peer.close()
        record = await log.record()
        await quiet(chp)
    assert shown(record, "method", "path", "route", "status", "bytes_received", "bytes_sent", "end") == {
        "method": "GET",
        "path": "/ws",
        "route": "/",
        "status": 101,
        "bytes_received": 8,
        "bytes_sent": 11,
        "end": end,
    }


@pytest.mark.parametrize(
    ("trusted", "client"),
    [([], "127.0.0.1"), (["127.0.0.1"], "2.2.2.2"), (["127.0.0.1", "2.2.2.2"], "1.1.1.1")],
)
async def test_the_client_is_who_trusted_proxies_say(trusted: list[str], client: str, tmp_path: Path) -> None:
    options = {"trusted_proxies": trusted, "request_id_header": "Id"}
    async with backend() as server, logging_proxy(tmp_path, server.url, **options) as (chp, log):
        message = await chp.get("/", "X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\n")
        await chp.outcome(b"GET /%zz HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2\r\n\r\n")
        record, bad = await log.records(2)
    assert record["client"] == bad["client"] == client
    assert record["request_id"] == (message.value(b"id") or b"").decode()
    assert len(record["request_id"]) == 32


async def test_a_rotated_file(tmp_path: Path) -> None:
    async with backend() as server, logging_proxy(tmp_path, server.url) as (chp, log):
        await chp.get("/old")
        await log.lines()
        log.path.rename(tmp_path / "moved")
        chp.app.reload()  # as SIGHUP does
        await until(log.path.exists)
        await chp.get("/new")
        assert (await log.record())["path"] == "/new"
    assert (tmp_path / "moved").read_bytes().count(b"\n") == 1


async def test_a_file_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--access-log: can't write to .*: No such file or directory$"):
        async with proxy(access_log=str(tmp_path / "missing" / "log")):
            pass


async def test_there_is_none_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with backend(answer_ok) as server, proxy(server.url) as chp:
        await chp.get()
        chp.app.reopen_access_log()
    assert os.listdir(tmp_path) == []
