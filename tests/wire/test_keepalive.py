"""Persistent connections on both sides, pipelining, and what counts as activity of a route."""

from __future__ import annotations

import asyncio

import pytest
from support.wire import OK, Peer, Proxy, answer_ok, backend, proxy

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def get(path: str, version: str = "1.1", fields: str = "") -> bytes:
    return f"GET {path} HTTP/{version}\r\nHost: h\r\n{fields}\r\n".encode()


async def answer_with_path(peer: Peer) -> None:
    while True:
        path = (await peer.receive_message()).start.split()[1]
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))


@pytest.mark.parametrize(
    ("version", "fields", "persists", "connection"),
    [
        ("1.1", "", True, None),
        ("1.1", "Connection: keep-alive\r\n", True, None),
        ("1.1", "Connection: close\r\n", False, b"close"),
        ("1.1", "Connection: x, Close\r\n", False, b"close"),
        ("1.1", "Connection: close, keep-alive\r\n", False, b"close"),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", False, b"close"),
        ("1.1", "Connection: closed\r\n", True, None),
        ("1.0", "", False, b"close"),
        ("1.0", "Connection: keep-alive\r\n", True, b"keep-alive"),
        ("1.0", "Connection: Keep-Alive\r\n", True, b"keep-alive"),
        ("1.0", "Connection: keep-alive, close\r\n", False, b"close"),
    ],
)
async def test_client_decides_whether_its_connection_persists(
    version: str, fields: str, persists: bool, connection: bytes | None
) -> None:
    async with backend() as server, proxy(server.url) as chp:
        # The same for what comes from the upstream and for what the proxy answers itself.
        for path in ("/", "/_chp_healthz"):
            peer = await chp.connect()
            await peer.send(get(path, version, fields))
            message = await peer.receive_message()
            assert (message.status, message.value(b"connection")) == (200, connection)
            if persists:
                await peer.send(GET)
                assert (await peer.receive_message()).content == b"ok"
            else:
                assert await peer.receive_all() == b""
    assert server.connections == 1
    assert b"onnection" not in server.all_received


@pytest.mark.parametrize("fields", [b"Connection: close\r\n", b"connection: Close, x\r\n"])
async def test_upstream_that_closes_does_not_close_the_client(fields: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 2\r\n\r\nok")
        await peer.receive_all()  # until the proxy closes

    async with backend(script) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        for _ in range(3):
            await peer.send(GET)
            message = await peer.receive_message()
            assert (message.head + message.content) == OK
    assert server.connections == 3


async def test_http10_upstream_is_asked_again_on_a_new_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await peer.receive_all()

    async with backend(script) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        for _ in range(2):
            await peer.send(GET)
            assert (await peer.receive_message()).content == b"ok"
    assert server.connections == 2


@pytest.mark.not_over("curl", "curl-tls")  # libcurl would go on with HTTP/1.0
async def test_http10_upstream_may_keep_its_connection() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_message()
            await peer.send(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")

    async with backend(script) as server, proxy(server.url) as chp:
        for _ in range(3):
            assert (await chp.get()).content == b"ok"
    assert server.connections == 1


async def test_clients_share_connections_to_the_upstream() -> None:
    async with backend() as server, proxy(server.url) as chp:
        for _ in range(5):
            assert (await chp.get()).content == b"ok"
        metrics = chp.app.metrics
        assert (metrics.upstream_connections, metrics.upstream_connections_idle) == (1, 1)
    assert server.connections == 1


async def test_http10_persists_only_where_the_length_is_known() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")

    async with backend(script) as server, proxy(server.url) as chp:
        _, answer = await chp.outcome(get("/", "1.0", "Connection: keep-alive\r\n"))
    assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"


async def test_pipelined_requests_are_all_answered_in_order() -> None:
    paths = [f"/{number}" for number in range(50)]
    paths[7] = paths[23] = paths[24] = "/_chp_healthz"
    async with backend(answer_with_path) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"".join(get(path) for path in paths))
        for path in paths:
            content = (await peer.receive_message()).content
            assert content == (b'{"status":"OK"}' if path == "/_chp_healthz" else path.encode())
    assert server.connections == 1


async def test_pipelined_requests_with_content_are_all_answered_in_order() -> None:
    post = b"POST /post HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    chunked = b"PUT /put HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with backend(answer_with_path) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send((post + get("/get") + chunked + chunked + get("/last")) * 5)
        for path in (b"/post", b"/get", b"/put", b"/put", b"/last") * 5:
            assert (await peer.receive_message()).content == path


async def test_second_pipelined_request_waits_for_the_first_response() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_message()
        # Nothing of the second has come; it comes when the first is answered.
        assert server.all_received.count(b"GET /") == 1
        await peer.send(OK)
        await peer.receive_message()
        await peer.send(OK)

    async with backend(script) as server, proxy(server.url) as chp:
        peer = await chp.connect()
        await peer.send(get("/one") + get("/two"))
        for _ in range(2):
            assert (await peer.receive_message()).content == b"ok"


async def test_many_pipelined_health_checks_are_answered_without_recursion() -> None:
    async with proxy() as chp:
        peer = await chp.connect()
        await peer.send(get("/_chp_healthz") * 2000)
        for _ in range(2000):
            assert (await peer.receive_message()).status == 200


@pytest.mark.expect_log("404 GET /a$")
@pytest.mark.expect_log("503 GET /b/x ")
async def test_connection_survives_404_and_503() -> None:
    async with backend() as server, proxy() as chp:
        async with backend() as gone:
            await chp.add_route("/b", gone.url)
        await chp.add_route("/c", server.url)
        peer = await chp.connect()
        for path, status in (("/a", 404), ("/b/x", 503), ("/c", 200)):
            await peer.send(get(path))
            message = await peer.receive_message()
            assert (message.status, message.value(b"connection")) == (status, None)


async def activity_of(chp: Proxy, request: bytes) -> bool:
    """Tell whether a request through the proxy moves the activity of the default route."""
    route = chp.app.table.routes()["/"]
    route.last_activity = 1.0
    await chp.request(request)
    return route.last_activity > 1.0


@pytest.mark.parametrize(
    ("status", "moves"),
    [
        *(
            ("200 OK", True),
            ("204 No Content", True),
            ("299 X", True),
            ("302 Found", False),
            ("304 X", False),
        ),
        *(("404 Not Found", False), ("500 Oops", False), ("503 Busy", False)),
    ],
)
async def test_activity_moves_for_answers_below_300(status: str, moves: bool) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.receive_message()
            end = "\r\n" if status.startswith(("204", "304")) else "Content-Length: 2\r\n\r\nok"
            await peer.send(f"HTTP/1.1 {status}\r\n{end}".encode())

    async with backend(script) as server, proxy(server.url) as chp:
        assert await activity_of(chp, GET) is moves
        # Content of a request always counts.
        assert await activity_of(chp, b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
        assert chp.app.metrics.last_activity_count > 0


async def test_activity_moves_with_each_chunk_of_an_upload() -> None:
    async with backend(answer_ok) as server, proxy(server.url) as chp:
        route = chp.app.table.routes()["/"]
        peer = await chp.connect()
        await peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await server.wait_for(b"\r\n\r\n")
        for chunk in (b"1\r\na\r\n", b"1\r\nb\r\n"):
            route.last_activity = 1.0
            await peer.send(chunk)
            await server.wait_for(chunk)
            assert route.last_activity > 1.0


async def test_activity_moves_with_each_chunk_of_a_download() -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go_on.wait()
        await peer.send(b"1\r\nx\r\n")
        await peer.receive_all()

    async with backend(script) as server, proxy(server.url) as chp:
        route = chp.app.table.routes()["/"]
        peer = await chp.connect()
        await peer.send(GET)
        await peer.receive_head()
        route.last_activity = 1.0
        go_on.set()
        assert await peer.receive(6) == b"1\r\nx\r\n"
        assert route.last_activity > 1.0


@pytest.mark.expect_log("404 GET /a$")
async def test_health_checks_and_errors_are_no_activity() -> None:
    async with backend() as server, proxy() as chp:
        await chp.add_route("/b", server.url)
        route = chp.app.table.routes()["/b"]
        route.last_activity = 1.0
        await chp.get("/_chp_healthz")
        await chp.get("/a")
        assert route.last_activity == 1.0
