"""404 and 503: the pages that come with the proxy, the operator's, and those of an error target."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest
from support.echo import MARK, answer, echo
from support.wire import OK, Backend, Message, Peer, backend, dead_url, proxy, until

NOT_FOUND = pytest.mark.expect_log(r"404 [A-Z]+ /\S*$")
UNAVAILABLE = pytest.mark.expect_log(r"503 [A-Z]+ /\S* connection refused by ")
NO_PAGE = pytest.mark.expect_log("Failed to get custom error page: ")


class LogCollector(Protocol):
    def take(self, pattern: str) -> list[str]: ...


def page_asked_for(server: Backend) -> bytes:
    return server.all_received.split(b" ")[1]


@NOT_FOUND
async def test_default_page_without_a_route() -> None:
    async with proxy() as chp:
        message = await chp.get("/x")
    assert message.start == b"HTTP/1.1 404 Not Found"
    assert message.value(b"content-type") == b"text/html"
    assert message.value(b"date") is not None
    assert b"404: Not Found" in message.content


@UNAVAILABLE
async def test_default_page_when_the_target_is_gone() -> None:
    async with proxy(dead_url()) as chp:
        message = await chp.get("/x")
        assert chp.app.metrics.requests_proxy == {503: 1}
        assert chp.app.metrics.upstream_errors == {"refused": 1}
    assert message.start == b"HTTP/1.1 503 Service Unavailable"
    assert message.value(b"content-type") == b"text/html"
    assert b"503: Proxy Target Missing" in message.content


@NOT_FOUND
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_every_method_gets_the_page(method: str) -> None:
    async with proxy() as chp:
        expected = await chp.get("/x")
        message = await chp.request(
            f"{method} /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab".encode()
        )
    assert message.status == 404
    assert message.content == (b"" if method == "HEAD" else expected.content)
    assert message.value(b"content-length") == expected.value(b"content-length")


async def test_log_line_has_no_query(log_lines: LogCollector) -> None:
    async with proxy() as chp:
        await chp.get("/x?token=secret")
    (line,) = log_lines.take("404 GET /x")
    assert "secret" not in line


@NOT_FOUND
async def test_upgrade_gets_a_whole_response_without_a_page() -> None:
    async with proxy(error_target="http://127.0.0.1:9") as chp:
        _, answered = await chp.outcome(
            b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly"
        )
    message = Message(answered[: answered.index(b"\r\n\r\n") + 4])
    assert message.start == b"HTTP/1.1 404 Not Found"
    assert message.value(b"connection") == b"close"
    assert answered.endswith(b"\r\n\r\nNot Found")
    assert message.value(b"content-length") == b"9"


@UNAVAILABLE
async def test_upgrade_to_a_target_that_is_gone() -> None:
    async with proxy(dead_url(), error_target="http://127.0.0.1:9") as chp:
        status, answered = await chp.outcome(
            b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert (chp.app.metrics.requests_ws, chp.app.metrics.requests_web) == (1, 0)
    assert status == 503
    assert answered.endswith(b"\r\n\r\nService Unavailable")


@NOT_FOUND
@UNAVAILABLE
async def test_error_path(tmp_path: Path) -> None:
    async with proxy(error_path=str(tmp_path)) as chp:
        await chp.add_route("/gone", dead_url())

        async def contents() -> tuple[bytes, bytes]:
            first, second = await chp.get("/x"), await chp.get("/gone")
            assert (first.status, second.status) == (404, 503)
            types = {
                first.content: first.value(b"content-type"),
                second.content: second.value(b"content-type"),
            }
            for content, content_type in types.items():
                assert content_type == (b"text/html" if content.startswith(b"<") else b"text/plain")
            return first.content, second.content

        # Read again each time: {code}.html, then error.html, then the bare reason.
        assert await contents() == (b"Not Found", b"Service Unavailable")
        (tmp_path / "error.html").write_bytes(b"<error>")
        assert await contents() == (b"<error>", b"<error>")
        (tmp_path / "404.html").write_bytes(b"<404>")
        assert await contents() == (b"<404>", b"<error>")
        (tmp_path / "404.html").write_bytes("<404, é>".encode())
        (tmp_path / "503.html").write_bytes(b"<503>")
        assert await contents() == ("<404, é>".encode(), b"<503>")
        (tmp_path / "404.html").unlink()
        (tmp_path / "404.html").mkdir()
        assert await contents() == (b"<error>", b"<503>")


@NOT_FOUND
@pytest.mark.parametrize(
    ("base", "requested", "asked"),
    [
        ("", "/x", "/404?url=%2Fx"),
        ("/", "/x", "/404?url=%2Fx"),
        ("/hub/error", "/x", "/hub/error/404?url=%2Fx"),
        ("/hub/error/", "/x", "/hub/error/404?url=%2Fx"),
        ("/hub?k=v", "/x", "/hub/404?k=v&url=%2Fx"),
        # Escaped as a form's field, query included.
        ("", "/a/b?c=d&e=f%20g", "/404?url=%2Fa%2Fb%3Fc%3Dd%26e%3Df%2520g"),
        ("", "/*-._~!$'(),;:@+=", "/404?url=%2F*-._%7E%21%24%27%28%29%2C%3B%3A%40%2B%3D"),
        ("", '/"<>', "/404?url=%2F%22%3C%3E"),
        ("", "/%0d%0aX:y", "/404?url=%2F%250d%250aX%3Ay"),
    ],
)
async def test_error_target_is_asked_for_the_status_and_told_the_url(
    base: str, requested: str, asked: str
) -> None:
    async with backend() as server, proxy(error_target=server.url + base) as chp:
        message = await chp.get(requested, "Cookie: secret\r\nAuthorization: secret\r\n")
    assert (message.status, message.content) == (404, b"ok")
    host = server.url.removeprefix("http://")
    assert server.all_received == f"GET {asked} HTTP/1.1\r\nHost: {host}\r\n{MARK}\r\n".encode()


@UNAVAILABLE
async def test_error_target_is_asked_for_503() -> None:
    async with backend() as server, proxy(dead_url(), error_target=server.url) as chp:
        assert (await chp.get("/x?y")).status == 503
    assert page_asked_for(server) == b"/503?url=%2Fx%3Fy"


@NOT_FOUND
@pytest.mark.parametrize(
    "status", ["200 OK", "404 Nope", "500 Oops", "302 Found", "204 No Content", "304 Same"]
)
async def test_status_stays_and_only_the_description_of_the_content_passes(
    status: str,
) -> None:
    has_content = status[:3] not in ("204", "304")
    response = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/x\r\nContent-Encoding: gzip\r\nSet-Cookie: a\r\n"
        "Location: /y\r\nServer: s\r\nCache-Control: x\r\nConnection: close\r\n"
        + ("Content-Length: 4\r\n\r\npage" if has_content else "\r\n")
    )
    async with backend(answer(response.encode())) as server, proxy(error_target=server.url) as chp:
        message = await chp.get("/x")
    assert message.head == (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/x\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: %d\r\n\r\n" % (4 if has_content else 0)
    )
    assert message.content == (b"page" if has_content else b"")


@NOT_FOUND
@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npage\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\npage",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage",
    ],
)
async def test_error_page_with_any_framing(response: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(response)

    async with backend(script) as server, proxy(error_target=server.url) as chp:
        peer = await chp.connect()
        for method in ("GET", "HEAD", "POST", "GET"):
            await peer.send(f"{method} /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab".encode())
            message = await peer.receive_message(head_only=method == "HEAD")
            assert message.status == 404
            assert message.content == (b"" if method == "HEAD" else b"page")


@NOT_FOUND
@NO_PAGE
@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 000 X\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
async def test_default_page_when_the_error_target_fails(response: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(response)

    async with backend(script) as server, proxy(error_target=server.url) as chp:
        message = await chp.get("/x")
    assert message.status == 404
    assert b"404: Not Found" in message.content
    assert server.connections == 1


@UNAVAILABLE
@NO_PAGE
async def test_default_page_when_the_error_target_is_gone_as_well() -> None:
    async with proxy(dead_url(), error_target=dead_url()) as chp:
        peer = await chp.connect()
        for _ in range(2):
            await peer.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
            message = await peer.receive_message()
            assert message.status == 503
            assert b"503: Proxy Target Missing" in message.content


@NOT_FOUND
@pytest.mark.expect_log("Response to GET /x cut: ")
@pytest.mark.parametrize(
    "head", [b"Content-Length: 10\r\n\r\npage", b"Transfer-Encoding: chunked\r\n\r\n4\r\npage\r\n"]
)
async def test_error_page_that_breaks_off_is_no_whole_page(head: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_message()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + head)

    async with backend(script) as server, proxy(error_target=server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await peer.receive_all()


@NOT_FOUND
@pytest.mark.parametrize("complete", [True, False])
async def test_request_with_content_gets_the_page_at_once(complete: bool) -> None:
    async with backend() as server, proxy(error_target=server.url) as chp:
        peer = await chp.connect()
        await peer.send(
            b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab" + (b"cd" if complete else b"")
        )
        message = await peer.receive_message()
        assert (message.status, message.content) == (404, b"ok")
        # A connection that still brings content can't serve another request.
        assert message.value(b"connection") == (None if complete else b"close")
        if not complete:
            await peer.send(b"cd")
            assert await peer.receive_all() == b""
    assert b"abcd" not in server.all_received


@NOT_FOUND
async def test_client_that_leaves_while_the_page_is_fetched() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_all()

    async with backend(script) as server, proxy(error_target=server.url) as chp:
        peer = await chp.connect()
        await peer.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        await server.wait_for(b"/404?url=%2Fx")
        peer.abort()
        await server.wait_until_ended()
        await until(lambda: chp.app.metrics.upstream_connections == 0)


async def test_errors_of_the_target_itself_pass() -> None:
    async with (
        backend(answer(OK.replace(b"200 OK", b"404 Mine"))) as server,
        backend(echo) as pages,
        proxy(server.url, error_target=pages.url) as chp,
    ):
        message = await chp.get("/x")
    assert (message.start, message.content) == (b"HTTP/1.1 404 Mine", b"ok")
    assert pages.connections == 0


@pytest.mark.expect_log("404 GET /a$")
async def test_the_log_has_neither_query_nor_fragment() -> None:
    async with proxy() as chp:
        assert (await chp.get("/a#token=secret?b")).status == 404
