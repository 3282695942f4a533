from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from typing import Any

import pytest
from support.api import LIMIT, Api, route

from chp import __version__
from chp.handlers import api as api_module
from chp.routing.storage import MemoryStore
from chp.routing.table import Route

BAD_JSON = "Body not valid JSON: "


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "test.api")


# The table of requests and answers.


async def test_add_show_remove(serve: Any) -> None:
    api = Api()
    async with serve(api.application) as client:
        before = time.time() - 0.001
        posted = await client(
            "POST", "/api/routes/user/ada", route(target="http://127.0.0.1:9000", user="ada")
        )
        assert (posted.status_line, posted.body) == ("HTTP/1.1 201 Created", b"")
        assert set(posted.fields) == {"date", "content-length"}
        assert posted.fields["content-length"] == "0"

        shown = await client("GET", "/api/routes/user/ada")
        assert shown.status == 200
        assert set(shown.fields) == {"date", "content-length", "content-type"}
        assert shown.fields["content-type"] == "application/json"
        data = json.loads(shown.body)
        assert before <= api.table.routes()["/user/ada"].last_activity <= time.time()
        assert data.pop("last_activity")[-1] == "Z"
        assert data == {"target": "http://127.0.0.1:9000", "user": "ada"}

        removed = await client("DELETE", "/api/routes/user/ada")
        assert (removed.status_line, removed.body) == ("HTTP/1.1 204 No Content", b"")
        assert set(removed.fields) == {"date"}
        assert not api.table.routes()
    assert dict(api.metrics.requests_api) == {201: 1, 200: 1, 204: 1}
    assert (api.metrics.api_route_add, api.metrics.api_route_get, api.metrics.api_route_delete) == (1, 0, 1)


@pytest.mark.parametrize("path", ["/api/routes", "/api/routes/", "/api/routes?x=1"])
async def test_whole_table(serve: Any, path: str) -> None:
    api = Api()
    async with serve(api.application) as client:
        empty = await client("GET", path)
        assert (empty.status, empty.body) == (200, b"{}")
        await api.add("/", "/a", "/a/b")
        shown = await client("GET", path)
        assert shown.fields["content-type"] == "application/json"
        assert json.loads(shown.body) == {path: row.as_json() for path, row in api.table.routes().items()}
        assert list(json.loads(shown.body)) == ["/", "/a", "/a/b"]
    assert api.metrics.api_route_get == 2


@pytest.mark.parametrize("path", ["/api/routes", "/api/routes/"])
async def test_root_route(serve: Any, path: str) -> None:
    api = Api()
    async with serve(api.application) as client:
        assert (await client("DELETE", path)).status == 404
        assert (await client("POST", path, route())).status == 201
        assert list(api.table.routes()) == ["/"]
        assert (await client("DELETE", path)).status == 204
        assert not api.table.routes()
    assert api.metrics.api_route_delete == 2


async def test_unknown_routes(serve: Any) -> None:
    api = Api()
    await api.add("/a", "/a/b/c")
    async with serve(api.application) as client:
        for method in ("GET", "DELETE"):
            answer = await client(method, "/api/routes/a/b")
            assert (answer.status_line, answer.body) == ("HTTP/1.1 404 Not Found", b"")
            assert set(answer.fields) == {"date", "content-length"}
        assert (await client("DELETE", "/api/routes/a")).status == 204
    assert list(api.table.routes()) == ["/a/b/c"]


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("/api/routes/a%2Fb", "/a/b"),
        ("/api/routes/a%2fb/", "/a/b"),
        ("/api/routes/a%20b", "/a b"),
        ("/api/routes/a+b", "/a+b"),
        ("/api/routes/%252F", "/%2F"),
        ("/api/routes/%40x@y", "/@x@y"),
        ("/api/routes/a;b=1", "/a;b=1"),
        ("/api/routes//a", "//a"),
        ("/api/routes/$~!'()*", "/$~!'()*"),
        ("/api/routes/%F0%9F%90%8D", "/\N{SNAKE}"),
        ("/api/routes/a/../b", "/b"),
        ("http://somewhere/api/routes/a", "/a"),
        ("/api/routes/a?target=x", "/a"),
        ("/api/routes/__proto__", "/__proto__"),
    ],
)
async def test_paths_are_decoded_once(serve: Any, target: str, key: str) -> None:
    api = Api()
    async with serve(api.application) as client:
        assert (await client("POST", target, route())).status == 201
        assert list(api.table.routes()) == [key]
        assert (await client("GET", target)).status == 200
        assert (await client("DELETE", target)).status == 204


@pytest.mark.parametrize("path", ["%", "%2", "%zz", "a%2", "%ff", "%C3", "%ED%A0%80", "a\xff"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_bad_escapes(serve: Any, method: str, path: str) -> None:
    async with serve(Api().application) as client:
        answer = await client(method, "/api/routes/" + path, route() if method == "POST" else None)
        assert (answer.status, answer.body) == (400, b"Invalid request target")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/route",
        "/api/routesx",
        "/api%2Froutes",
        "//api/routes",
        "/api/routes/../../x",
        "/metrics",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "FOO"])
async def test_other_paths(serve: Any, method: str, path: str) -> None:
    if path == "*" and method != "OPTIONS":
        path = "/*"
    async with serve(Api("secret").application) as client:
        answer = await client(method, path)
        assert (answer.status_line, answer.body) == ("HTTP/1.1 404 Not Found", b"Not Found")
        assert "content-type" not in answer.fields
        assert "server" not in answer.fields


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/api/routes", "GET, POST, PATCH, DELETE"), ("/api/routes/a", "GET, POST, DELETE")],
)
@pytest.mark.parametrize("method", ["PUT", "TRACE", "OPTIONS", "HEAD", "FOO", "get"])
async def test_other_methods(serve: Any, method: str, path: str, allowed: str) -> None:
    async with serve(Api("secret").application) as client:
        answer = await client(method, path)
        assert answer.status == 405
        assert answer.body == (b"" if method == "HEAD" else b"Method not supported")
        assert answer.fields["content-length"] == str(len("Method not supported"))
        assert answer.fields["allow"] == allowed
        assert "content-type" not in answer.fields


@pytest.mark.parametrize("path", ["/api", "/api/"])
async def test_name_version_and_instance(serve: Any, path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "test.api")
    instances = set()
    for _ in range(2):
        async with serve(Api("secret").application) as client:
            for _ in range(2):
                answer = await client("GET", path)
                assert answer.fields["content-type"] == "application/json"
                content = json.loads(answer.body)
                instances.add(content.pop("instance"))
                assert content == {"name": "chp", "version": __version__}
            assert caplog.messages == []  # a Hub asks every few seconds
            assert (await client("POST", path, b"{}")).status == 405
            caplog.clear()
    assert len(instances) == 2


async def test_host_routing(serve: Any) -> None:
    api = Api(host_routing=True)
    async with serve(api.application) as client:
        await client("POST", "/api/routes/Example.com/a", route())
        await client("POST", "/api/routes", route())
        shown = json.loads((await client("GET", "/api/routes")).body)
        assert list(shown) == ["/Example.com/a", "/"]
        assert shown["/Example.com/a"]["host"] == "Example.com"
        assert "host" not in shown["/"]


async def test_posting_again_replaces(serve: Any) -> None:
    api = Api()
    async with serve(api.application) as client:
        await client("POST", "/api/routes/a", route(x=1))
        await client("POST", "/api/routes/a", route(y=2))
        shown = json.loads((await client("GET", "/api/routes/a")).body)
        assert set(shown) == {"target", "y", "last_activity"}


# Bodies.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{'target': 'x'}",
        b'{"target": "http://h",}',
        b'\xef\xbb\xbf{"target": "http://h"}',
        b'{"target": "http://h", "x": NaN}',
        b'{"target": "http://h", "x": -Infinity}',
        b'{"target": "http://h", "x": 1e999}',
        b'{"target": "http://h", "x": "\x01"}',
        b'{"target": "http://h", "x": "\xff"}',
        b'{"target": "http://h", "x": "\xed\xa0\x80"}',
        b"[" * 1900,
        b'{"target": "http://h", "x": ' + b"[" * 150 + b"]" * 150 + b"}",
        b'{"target": "http://h", "x": ' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}",
    ],
)
async def test_invalid_json(serve: Any, body: bytes) -> None:
    api = Api()
    async with serve(api.application) as client:
        answer = await client("POST", "/api/routes/a", body)
        assert answer.status == 400
        assert answer.body.decode().startswith(BAD_JSON)
        assert "content-type" not in answer.fields
    assert not api.table.routes()
    assert api.metrics.api_route_add == 0


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b"5",
        b'"x"',
        b"false",
        b"{}",
        b'{"target": 5}',
        b'{"target": null}',
        b'{"Target": "x"}',
    ],
)
async def test_target_is_needed(serve: Any, body: bytes) -> None:
    async with serve(Api().application) as client:
        answer = await client("POST", "/api/routes/a", body)
        assert (answer.status, answer.body) == (400, b"Must specify 'target' as string")


@pytest.mark.parametrize("target", ["", "nowhere", "ftp://h", "http://", "http://u:p@h", "http://h:99999"])
async def test_invalid_target(serve: Any, target: str, caplog: pytest.LogCaptureFixture) -> None:
    api = Api()
    async with serve(api.application) as client:
        answer = await client("POST", "/api/routes/a", route(target=target))
        assert answer.status == 400
        assert answer.body.startswith(b"Invalid target")
    assert not api.table.routes()
    assert caplog.messages == ["400 POST /api/routes/a Invalid target"]


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:9000",
        "HTTP://LocalHost:80/x/",
        "https://[::1]:8443/a?b=c",
        "http+unix://%2Ftmp%2Fa.sock/x",
        "unix+http://%2Ftmp%2Fa.sock",
        "http://h/\N{SNAKE}\ud800",
    ],
)
async def test_other_keys_and_targets_come_back_as_posted(serve: Any, target: str) -> None:
    extra = {
        "user": "\u00fc\U0001f40d",
        "n": [1, 2.5, True, None, {"x": {}}],
        "": "",
        "data": 10**30,
        "\udc00": 1,
    }
    async with serve(Api().application) as client:
        assert (await client("POST", "/api/routes/a", route(target=target, **extra))).status == 201
        shown = json.loads((await client("GET", "/api/routes")).body)["/a"]
        del shown["last_activity"]
        assert shown == {"target": target, **extra}


async def test_content_type_of_the_body_does_not_matter(serve: Any) -> None:
    api = Api()
    async with serve(api.application) as client:
        for kind in ("text/plain; charset=utf-8", "application/x-www-form-urlencoded", "multipart/form-data"):
            answer = await client("POST", "/api/routes/a", route(), f"Content-Type: {kind}\r\n")
            assert answer.status == 201


async def test_chunked_body(serve: Any) -> None:
    api = Api()
    head = b"POST /api/routes/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in route())
    async with serve(api.application) as client:
        assert (await client.raw(head + body + b"0\r\n\r\n")).status == 201
    assert list(api.table.routes()) == ["/a"]


async def test_limit_of_the_body(serve: Any) -> None:
    api = Api()
    async with serve(api.application) as client:
        body = route()
        assert (await client("POST", "/api/routes/a", body.ljust(LIMIT))).status == 201
        async with client.connect() as connection:
            for _ in range(2):  # the connection goes on
                big = body.ljust(LIMIT + 1)
                connection.writer.write(
                    b"POST /api/routes/b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(big) + big
                )
                answer = await connection.receive()
                assert (answer.status, answer.body) == (413, b"Body too large")
                chunk = b"%x\r\n%b\r\n" % (len(big), big)
                connection.writer.write(
                    b"POST /api/routes/b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                    + chunk * 50
                    + b"0\r\n\r\n"
                )
                answer = await connection.receive()
                assert (answer.status, answer.body) == (413, b"Body too large")
    assert list(api.table.routes()) == ["/a"]
    assert dict(api.metrics.requests_api) == {201: 1, 413: 4}
    assert api.metrics.limits_reached["api_max_body_size"] == 4


@pytest.mark.parametrize("length", ["1" * 14, "9" * 30, "9" * 6000])
async def test_a_body_of_many_bytes_is_refused_by_its_length(
    serve: Any, length: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "REFUSED_BODY_TIMEOUT", 0.01)
    async with serve(Api().application) as client, client.connect() as connection:
        connection.writer.write(
            f"POST /api/routes/b HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        assert (await connection.receive()).status == 413
        assert await connection.closed()


# The token.


@pytest.mark.parametrize(
    "value",
    ["token s3cret", "Token  \t  s3cret", "Bearer s3cret", "bearer s3cret", "token" + " " * 500 + "s3cret"],
)
async def test_right_token(serve: Any, value: str) -> None:
    async with serve(Api("s3cret").application) as client:
        assert (await client("GET", "/api/routes", fields=f"Authorization: {value}\r\n")).status == 200


@pytest.mark.parametrize(
    "fields",
    [
        "",
        "Authorization:\r\n",
        "Authorization: token\r\n",
        "Authorization: s3cret\r\n",
        "Authorization: token s3cre\r\n",
        "Authorization: token s3crets\r\n",
        "Authorization: token S3CRET\r\n",
        "Authorization: token \xff\r\n",
        "Authorization: Basic s3cret\r\n",
        "Authorization: tokens3cret\r\n",
        "Authorization: token x\r\nAuthorization: token s3cret\r\n",
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/a"), ("POST", "/a"), ("DELETE", "/a")])
async def test_wrong_token(
    serve: Any, fields: str, method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api("s3cret")
    await api.add("/a")
    caplog.clear()
    async with serve(api.application) as client:
        answer = await client(method, "/api/routes" + path, route(x=1) if method == "POST" else None, fields)
        assert (answer.status_line, answer.body) == ("HTTP/1.1 403 Forbidden", b"")
        assert set(answer.fields) == {"date", "content-length"}
    assert api.table.routes()["/a"].data == {}
    assert caplog.messages == [f"403 {method} /api/routes{path}"]
    assert dict(api.metrics.requests_api) == {403: 1}


async def test_token_that_is_no_text(serve: Any) -> None:
    token = b"\xc3\xbc\xff".decode("utf-8", "surrogateescape")
    async with serve(Api(token).application) as client:
        assert (
            await client("GET", "/api/routes", fields="Authorization: token \xc3\xbc\xff\r\n")
        ).status == 200
        assert (await client("GET", "/api/routes", fields="Authorization: token \xc3\xbc\r\n")).status == 403


async def test_refusal_does_not_wait_for_the_body(serve: Any) -> None:
    api = Api("s3cret")
    async with serve(api.application) as client, client.connect() as connection:
        body = route()
        head = f"POST /api/routes/a HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n"
        connection.writer.write((head + "\r\n").encode())
        assert (await connection.receive()).status == 403
        # The connection goes on when the body has come after all.
        connection.writer.write(body + (head + "Authorization: token s3cret\r\n\r\n").encode() + body)
        assert (await connection.receive()).status == 201
    assert dict(api.metrics.requests_api) == {403: 1, 201: 1}


async def test_refused_body_does_not_come(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "REFUSED_BODY_TIMEOUT", 0.01)
    api = Api("s3cret")
    async with serve(api.application) as client, client.connect() as connection:
        connection.writer.write(b"POST /api/routes/a HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n")
        assert (await connection.receive()).status == 403
        assert await connection.closed()
    assert dict(api.metrics.requests_api) == {403: 1}


async def test_body_does_not_come(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "BODY_TIMEOUT", 0.01)
    async with serve(Api().application) as client, client.connect() as connection:
        connection.writer.write(b"POST /api/routes/a HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")
        assert await connection.closed()


async def test_refusal_instead_of_continue(serve: Any) -> None:
    async with serve(Api("s3cret").application) as client, client.connect() as connection:
        connection.writer.write(
            b"POST /api/routes/a HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await connection.receive()).status == 403
        assert await connection.closed()


async def test_answers_leave_the_connection_open(serve: Any) -> None:
    api = Api()
    async with serve(api.application) as client, client.connect() as connection:
        for method, target, status in (
            ("GET", "/x", 404),
            ("PUT", "/api/routes", 405),
            ("HEAD", "/api/routes", 405),
            ("GET", "/api/routes/x", 404),
            ("DELETE", "/api/routes/x", 404),
            ("GET", "/api/routes", 200),
            ("GET", "/api/routes?inactive_since=x", 400),
        ):
            connection.writer.write(f"{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            assert (await connection.receive(method)).status == status


# inactive_since.


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ("", ["/a", "/b"]),
        ("inactive_since=", ["/a", "/b"]),
        ("inactiveSince=&inactive_since=", ["/a", "/b"]),
        ("inactive_since=2024-01-02T00:00:00.000Z", ["/a"]),
        ("inactive_since=2024-01-01T00:00:00.000Z", []),
        ("inactive_since=2024-01-01T00:00:00.001Z", ["/a"]),
        ("inactive_since=2024-01-01T02:00:00%2B02:00", []),
        ("inactive_since=2024-01-01T00:00:00-00:01", ["/a"]),
        ("inactiveSince=2024-01-02&inactive_since=2030-01-01", ["/a"]),
        ("inactiveSince=&inactive_since=2024-01-02", ["/a"]),
        ("inactive_since=2030-01-01", ["/a", "/b"]),
    ],
)
async def test_inactive_since(serve: Any, query: str, paths: list[str]) -> None:
    api = Api()
    await api.add("/a", "/b")
    api.table.routes()["/a"].last_activity = 1704067200.0  # 2024-01-01T00:00:00Z
    api.table.routes()["/b"].last_activity = 1735689600.0  # 2025-01-01T00:00:00Z
    async with serve(api.application) as client:
        answer = await client("GET", f"/api/routes?{query}")
        assert list(json.loads(answer.body)) == paths
        # A single route is not filtered.
        assert (await client("GET", f"/api/routes/a?{query}")).status == 200
    assert api.metrics.api_route_get == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("yesterday", "yesterday"),
        ("2024-13-01", "2024-13-01"),
        ("2024-01-01T00:00:00+00:00", "2024-01-01T00:00:00 00:00"),
    ],
)
async def test_invalid_date(serve: Any, value: str, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    api = Api()
    async with serve(api.application) as client:
        answer = await client("GET", f"/api/routes?inactive_since={value}")
        assert (answer.status, answer.body.decode()) == (400, f"Invalid datestamp '{shown}' must be ISO8601.")
        assert "content-type" not in answer.fields
    assert api.metrics.api_route_get == 0
    assert caplog.messages == ["400 GET /api/routes Invalid datestamp"]


# Log, long tables, odd clients, broken stores.


async def test_log_lines(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(Api("s3cret").application) as client:
        token = "Authorization: token s3cret\r\n"
        await client("POST", "/api/routes/x?token=s3cret", route(), token)
        await client("GET", "/api/routes/%0Ay?q=s3cret", fields=token)
        await client("FOO", "/api/routes")
        await client("GET", "/x")
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [
        ("INFO", "Adding route /x -> http://127.0.0.1:9000"),
        ("INFO", "Route added /x -> http://127.0.0.1:9000"),
        ("INFO", "201 POST /api/routes/x"),
        ("WARNING", "404 GET /api/routes/%0Ay"),
        ("WARNING", "405 FOO /api/routes Method not supported"),
        ("WARNING", "404 GET /x Not Found"),
    ]


@pytest.mark.parametrize("host", ["%2ftmp%2fa.sock", "localhost:8001", "[::1]:8001", ""])
async def test_hosts(serve: Any, host: str) -> None:
    async with serve(Api().application) as client:
        assert (await client("GET", "/api/routes", host=host)).status == 200


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("count", [500, 501, 1000, 1234])
async def test_long_tables(serve: Any, version: str, count: int) -> None:
    api = Api()
    await api.add(*(f"/user/{number}" for number in range(count)))
    async with serve(api.application) as client, client.connect() as connection:
        for _ in range(2):
            connection.writer.write(
                f"GET /api/routes HTTP/{version}\r\nHost: h\r\nConnection: keep-alive\r\n\r\n".encode()
            )
            body = (await connection.receive()).body
            assert json.loads(body) == {path: row.as_json() for path, row in api.table.routes().items()}
    assert api.metrics.api_route_get == 2


@pytest.mark.parametrize("inactive", [[], [0], [1199], [499, 500], [3, 600, 1100]])
async def test_long_tables_filtered(serve: Any, inactive: list[int]) -> None:
    api = Api()
    await api.add(*(f"/user/{number}" for number in range(1200)))
    for number in inactive:
        api.table.routes()[f"/user/{number}"].last_activity = 0
    async with serve(api.application) as client:
        answer = await client("GET", "/api/routes?inactive_since=2000")
        assert list(json.loads(answer.body)) == [f"/user/{number}" for number in inactive]


async def test_long_tables_let_others_have_their_turn(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    await api.add(*(f"/user/{number}" for number in range(3000)))
    turn = 0
    work: Counter[int] = Counter()
    as_json = Route.as_json

    async def others() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def counted(route: Route) -> dict[str, object]:
        work[turn] += 1
        return as_json(route)

    monkeypatch.setattr(Route, "as_json", counted)
    async with serve(api.application) as client:
        task = asyncio.create_task(others())
        assert len(json.loads((await client("GET", "/api/routes")).body)) == 3000
        task.cancel()
    assert sum(work.values()) == 3000
    assert max(work.values()) <= api_module.ROUTES_PER_WRITE


async def test_client_leaves_in_a_long_table(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    api = Api()
    await api.add(*(f"/user/{number:0500}" for number in range(10_000)))
    caplog.clear()
    async with serve(api.application) as client:
        async with client.connect() as connection:
            connection.writer.write(b"GET /api/routes HTTP/1.1\r\nHost: h\r\n\r\n")
            await connection.reader.readuntil(b"{")
            connection.writer.transport.abort()
        assert (await client("GET", "/api")).status == 200
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


class BrokenStore(MemoryStore):
    async def change(self, changes: Any) -> None:
        raise OSError("disk full")

    async def load(self) -> dict[str, object]:
        return {"/a": {"target": "http://h"}}


async def test_broken_store(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    api = Api(store=BrokenStore({}))
    await api.table.load()
    async with serve(api.application) as client:
        for method, body in (("POST", route()), ("DELETE", None)):
            answer = await client(method, "/api/routes/a", body)
            assert (answer.status, answer.body) == (503, b"The route store failed: disk full")
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == [
        "503 POST /api/routes/a The route store failed: disk full",
        "503 DELETE /api/routes/a The route store failed: disk full",
    ]
    assert (api.metrics.api_route_add, api.metrics.api_route_delete) == (0, 0)


async def test_an_error_of_ours(
    serve: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Api()
    monkeypatch.setattr(api.table, "get", lambda path: 1 / 0)
    async with serve(api.application) as client:
        answer = await client("GET", "/api/routes/a?q=secret")
        assert (answer.status, answer.body) == (500, b"Internal Server Error")
        assert "content-type" not in answer.fields
    assert caplog.messages == [
        "Error in handler for GET /api/routes/a",
        "500 GET /api/routes/a Internal Server Error",
    ]
