from __future__ import annotations

import json
from typing import Any

import pytest

from chp.handlers import redirect as redirect_module
from chp.handlers.health import Health
from chp.handlers.redirect import location, make_redirect_application

REFUSAL = (
    "This server is HTTPS-only on port 8443, but an HTTP request was made"
    " and the host could not be determined from the request."
)


@pytest.mark.parametrize(
    ("port", "host", "target", "url"),
    [
        (443, "example.com", "/", "https://example.com/"),
        (443, "example.com:80", "/a?b=c", "https://example.com/a?b=c"),
        (8443, "example.com:80", "/a", "https://example.com:8443/a"),
        (8443, "example.com", "/a", "https://example.com:8443/a"),
        (443, "Example.com.:", "/a", "https://Example.com./a"),
        (443, "[::1]", "/", "https://[::1]/"),
        (8443, "[2001:db8::1]:8000", "/", "https://[2001:db8::1]:8443/"),
        (443, "h", "//x/y", "https://h//x/y"),
        (443, "h", "/%zz%2F/../.?x=%", "https://h/%zz%2F/../.?x=%"),
        (443, "h", '/"<>`{}|\\^\xe9', 'https://h/"<>`{}|\\^\xe9'),
        (443, "h", "/a?", "https://h/a?"),
        (443, "h", "http://other:81/a?b", "https://other/a?b"),
        (8443, "h", "HTTPS://other?b", "https://other:8443/?b"),
        (443, "", "http://other", "https://other/"),
    ],
)
def test_location(port: int, host: str, target: str, url: str) -> None:
    assert location(port, [host], target) == url


@pytest.mark.parametrize(
    ("hosts", "target"),
    [
        ([], "/"),
        (["a", "b"], "/"),
        ([""], "/"),
        ([":80"], "/"),
        (["a b"], "/"),
        (["a/b"], "/"),
        (["user@a"], "/"),
        (["a:b"], "/"),
        (["::1"], "/"),
        (["[::1"], "/"),
        (["a\xe9"], "/"),
        (["a"], "*"),
        (["a"], "b:443"),
        (["a"], "ftp://b/"),
        (["a"], "http://u@b/"),
        (["a"], "http:///x"),
    ],
)
def test_no_location(hosts: list[str], target: str) -> None:
    assert location(443, hosts, target) is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PROPFIND", "FOO"])
async def test_redirects_any_method(serve: Any, method: str) -> None:
    async with serve(make_redirect_application(8443, Health())) as client, client.connect() as connection:
        for _ in range(2):
            connection.writer.write(f"{method} //a?b HTTP/1.1\r\nHost: example.com:8000\r\n\r\n".encode())
            answer = await connection.receive(method)
            assert answer.status_line == "HTTP/1.1 301 Moved Permanently"
            assert answer.fields.pop("date").endswith(" GMT")
            assert answer.fields == {"location": "https://example.com:8443//a?b", "content-length": "0"}


@pytest.mark.parametrize(
    "head", ["GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n", "GET / HTTP/1.0\r\n"]
)
async def test_no_host(serve: Any, head: str) -> None:
    async with serve(make_redirect_application(8443, Health())) as client:
        answer = await client.raw(f"{head}\r\n".encode())
        assert (answer.status_line, answer.body.decode()) == ("HTTP/1.1 400 Bad Request", REFUSAL)
        assert "location" not in answer.fields


@pytest.mark.parametrize("method", ["GET", "POST", "FOO", "HEAD"])
async def test_health(serve: Any, method: str) -> None:
    async with serve(make_redirect_application(8443, Health())) as client:
        answer = await client.raw(f"{method} /_chp_healthz HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert (answer.status, answer.fields["content-type"]) == (200, "application/json")
        assert answer.fields["content-length"] == "15"
        if method != "HEAD":
            assert json.loads(answer.body) == {"status": "OK"}
        assert (await client(method, "/_chp_healthz?x")).status == 301
        # A probe need not know the host.
        assert (await client.raw(b"GET /_chp_healthz HTTP/1.0\r\n\r\n")).status == 200


async def test_bodies_are_read_and_forgotten(serve: Any) -> None:
    async with serve(make_redirect_application(443, Health())) as client, client.connect() as connection:
        for _ in range(2):
            connection.writer.write(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
            assert (await connection.receive()).status == 301  # before the body
            connection.writer.write(b"x" * 100_000)


async def test_bodies_that_do_not_come(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redirect_module, "BODY_TIMEOUT", 0.01)
    async with serve(make_redirect_application(443, Health())) as client, client.connect() as connection:
        connection.writer.write(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
        assert (await connection.receive()).status == 301
        assert await connection.closed()


async def test_redirect_instead_of_continue(serve: Any) -> None:
    async with serve(make_redirect_application(443, Health())) as client, client.connect() as connection:
        connection.writer.write(
            b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await connection.receive()).status == 301
        assert await connection.closed()


async def test_the_health_check_says_when_the_proxy_is_about_to_stop(serve):
    health = Health()
    async with serve(make_redirect_application(443, health)) as client:
        assert (await client("GET", "/_chp_healthz")).status == 200
        health.stopping = True
        response = await client("GET", "/_chp_healthz")
        assert (response.status, response.body) == (503, b'{"status":"stopping"}')
