"""The request-target: which route it takes, and what the target gets of it."""

from __future__ import annotations

import pytest
from support.echo import echo, target_at_backend
from support.wire import backend, proxy

# The first segment that the backend sees tells which route was taken.
ROUTES = {
    "/": "/root",
    "/user": "/user",
    "/user/x": "/x",
    "/user/x@y.z": "/at",
    "/user/a b": "/space",
    "/user/é": "/accent",
    "/constructor": "/constructor",
    "/a/b": "/ab",
}


@pytest.mark.parametrize(
    ("requested", "forwarded"),
    [
        ("/", "/root/"),
        ("/other", "/root/other"),
        ("/user", "/user/user"),
        ("/user/", "/user/user/"),
        ("/user?q=/user/x", "/user/user?q=/user/x"),
        ("/user/x", "/x/user/x"),
        ("/user/x/y/z", "/x/user/x/y/z"),
        # Whole segments, in their own case.
        ("/users", "/root/users"),
        ("/user/xy", "/user/user/xy"),
        ("/user/X", "/user/user/X"),
        ("/User/x", "/root/User/x"),
        # Matched decoded, forwarded as received.
        ("/user/x@y.z/t", "/at/user/x@y.z/t"),
        ("/user/x%40y.z/t", "/at/user/x%40y.z/t"),
        ("/user/a%20b", "/space/user/a%20b"),
        ("/user/%C3%A9", "/accent/user/%C3%A9"),
        ("/user/%c3%a9", "/accent/user/%c3%a9"),
        ("/%75ser/%78", "/x/%75ser/%78"),
        ("/user%2Fx", "/x/user%2Fx"),
        ("/user%2fx/y", "/x/user%2fx/y"),
        ("/user%252Fx", "/root/user%252Fx"),
        # Dot segments go before both.
        ("/user/../other", "/root/other"),
        ("/other/../user/x", "/x/user/x"),
        ("/other/%2e%2E/user/./x", "/x/user/x"),
        ("/user/x/..", "/user/user/"),
        ("/user/x/.", "/x/user/x/"),
        ("/user/x/%2e", "/x/user/x/"),
        ("/../../user/x", "/x/user/x"),
        ("/user/x/../../../../a/b", "/ab/a/b"),
        ("/a/./b/.c/..d/...", "/ab/a/b/.c/..d/..."),
        # An escaped slash ends no segment that a dot could go back over.
        ("/user/x/%2e%2e%2Fb", "/x/user/x/%2e%2e%2Fb"),
        ("/user/x/..%2F..%2Fa/b", "/x/user/x/..%2F..%2Fa/b"),
        # Empty segments are segments.
        ("//user/x", "/root//user/x"),
        ("/user//x", "/user/user//x"),
        ("/user/x//", "/x/user/x//"),
        ("//evil.example/x", "/root//evil.example/x"),
        # Plain paths, whatever they mean elsewhere.
        ("/constructor/a", "/constructor/constructor/a"),
        ("/__proto__", "/root/__proto__"),
        ("/toString", "/root/toString"),
        # The absolute form.
        ("http://h/user/x?y", "/x/user/x?y"),
        ("HTTPS://other:1/user/../a/b", "/ab/a/b"),
        ("http://h", "/root/"),
        ("http://h?q", "/root/?q"),
    ],
)
async def test_route_and_forwarded_path(requested: str, forwarded: str) -> None:
    async with backend(echo) as server, proxy() as chp:
        for path, base in ROUTES.items():
            await chp.add_route(path, server.url + base)
        assert await target_at_backend(chp, requested) == forwarded


@pytest.mark.parametrize(
    ("requested", "forwarded"),
    [
        # What a URL must escape is escaped.
        ('/"<>`{}', "/%22%3C%3E%60%7B%7D"),
        ("/?\"<>'`{}", "/?%22%3C%3E%27`{}"),
        # The rest stays as it is.
        ("/~$!@:,;=&()*+'|^[]-_.", "/~$!@:,;=&()*+'|^[]-_."),
        ("/%7e%41%2F%00", "/%7e%41%2F%00"),
        ("/?%zz%&=?/../\\|^[]", "/?%zz%&=?/../\\|^[]"),
        ("/a\\..\\b", "/a\\..\\b"),
        # An empty query is none, and a fragment is not for servers.
        ("/a?", "/a"),
        ("/a??", "/a??"),
        ("/a?b#c", "/a?b"),
        ("/a#b?c", "/a"),
    ],
)
async def test_path_and_query_as_received_but_for_what_urls_must_escape(
    requested: str, forwarded: str
) -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        assert await target_at_backend(chp, requested) == forwarded


@pytest.mark.parametrize(
    ("base", "options", "requested", "forwarded"),
    [
        # The target's path comes first, with one slash between, and its query too.
        ("", {}, "/bar/x", "/bar/x"),
        ("/", {}, "/bar/x", "/bar/x"),
        ("/foo", {}, "/bar/x", "/foo/bar/x"),
        ("/foo/", {}, "/bar/x", "/foo/bar/x"),
        ("/foo//", {}, "/bar/x", "/foo//bar/x"),
        ("/foo?k=v", {}, "/bar?q=1", "/foo/bar?k=v&q=1"),
        ("/foo?k=v", {}, "/bar", "/foo/bar?k=v"),
        ("?k=v", {}, "/bar", "/bar?k=v"),
        ("/f%2Fo%20o", {}, "/bar", "/f%2Fo%20o/bar"),
        ("/föö", {}, "/bar", "/f%C3%B6%C3%B6/bar"),
        # --no-include-prefix cuts the route's own path.
        ("/foo", {"include_prefix": False}, "/bar", "/foo"),
        ("/foo", {"include_prefix": False}, "/bar/", "/foo/"),
        ("/foo", {"include_prefix": False}, "/bar/x/y?q", "/foo/x/y?q"),
        ("/foo", {"include_prefix": False}, "/bar?q", "/foo?q"),
        ("/foo/", {"include_prefix": False}, "/bar/x", "/foo/x"),
        ("", {"include_prefix": False}, "/bar", "/"),
        ("", {"include_prefix": False}, "/bar?q", "/?q"),
        ("", {"include_prefix": False}, "/bar//x", "//x"),
        ("", {"include_prefix": False}, "/%62ar/x", "/x"),
        ("", {"include_prefix": False}, "/bar%2Fx%2Fy", "/x%2Fy"),
        ("", {"include_prefix": False}, "/bar/bar/x", "/bar/x"),
        ("", {"include_prefix": False}, "/x/../bar/y", "/y"),
        # --no-prepend-path leaves the target's path and query out.
        ("/foo?k=v", {"prepend_path": False}, "/bar/x?q", "/bar/x?q"),
        ("/foo?k=v", {"prepend_path": False}, "/bar", "/bar"),
        ("/foo", {"prepend_path": False, "include_prefix": False}, "/bar/x", "/x"),
        ("/foo", {"prepend_path": False, "include_prefix": False}, "/bar", "/"),
    ],
)
async def test_joining_with_the_target(
    base: str, options: dict[str, bool], requested: str, forwarded: str
) -> None:
    async with backend(echo) as server, proxy(**options) as chp:
        await chp.add_route("/bar", server.url + base)
        assert await target_at_backend(chp, requested) == forwarded


async def test_default_route_has_no_prefix_to_cut() -> None:
    async with backend(echo) as server, proxy(server.url + "/foo", include_prefix=False) as chp:
        assert await target_at_backend(chp, "/bar/x") == "/foo/bar/x"
        assert await target_at_backend(chp, "//x") == "/foo//x"


async def test_longer_prefix_is_cut_whole() -> None:
    async with backend(echo) as server, proxy(server.url, include_prefix=False) as chp:
        await chp.add_route("/user/x y", server.url + "/foo")
        assert await target_at_backend(chp, "/user/x%20y/z") == "/foo/z"
        assert await target_at_backend(chp, "/user%2Fx%20y%2Fz") == "/foo/z"


async def test_asterisk_form_takes_the_default_route_as_it_is() -> None:
    async with backend(echo) as server, proxy(server.url + "/foo") as chp:
        message = await chp.request(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
    assert message.content.startswith(b"OPTIONS * HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("one.example", "/one"),
        ("ONE.example:8000", "/one"),
        ("one.example.", "/one"),
        ("one.example.:80", "/one"),
        ("[::1]", "/six"),
        ("[::1]:8000", "/six"),
        ("two.example", "/root"),
        ("xone.example", "/root"),
        ("", "/root"),
    ],
)
async def test_host_routing(host: str, base: str) -> None:
    async with backend(echo) as server, proxy(host_routing=True) as chp:
        await chp.add_route("/", server.url + "/root")
        await chp.add_route("/one.example", server.url + "/one")
        await chp.add_route("/one.example/user/x", server.url + "/user-x")
        await chp.add_route("/[::1]", server.url + "/six")
        assert await target_at_backend(chp, "/a", host=host) == base + "/a"
        user_base = "/user-x" if base == "/one" else base
        assert await target_at_backend(chp, "/user/x/a", host=host) == user_base + "/user/x/a"


async def test_host_routing_of_the_absolute_form_goes_by_its_own_host() -> None:
    async with backend(echo) as server, proxy(host_routing=True) as chp:
        await chp.add_route("/", server.url + "/root")
        await chp.add_route("/one.example", server.url + "/one")
        assert await target_at_backend(chp, "http://one.example/a", host="h") == "/one/a"
        assert await target_at_backend(chp, "http://h/a", host="one.example") == "/root/a"


async def test_host_routing_cuts_the_path_of_the_prefix_and_not_its_host() -> None:
    async with backend(echo) as server, proxy(host_routing=True, include_prefix=False) as chp:
        await chp.add_route("/one.example/user/x", server.url + "/foo")
        await chp.add_route("/two.example", server.url + "/two")
        assert await target_at_backend(chp, "/user/x/a", host="one.example") == "/foo/a"
        assert await target_at_backend(chp, "/user/x", host="one.example") == "/foo"
        assert await target_at_backend(chp, "/a/b", host="two.example") == "/two/a/b"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PROPFIND"])
async def test_health_check_answers_any_method(method: str) -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        message = await chp.request(f"{method} /_chp_healthz HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert (message.status, message.value(b"content-type")) == (200, b"application/json")
        assert message.value(b"content-length") == b"15"
        assert message.content == (b"" if method == "HEAD" else b'{"status":"OK"}')
        assert chp.app.metrics.requests_web == 0
    assert server.connections == 0


@pytest.mark.parametrize("target", ["/_chp_healthz/", "/_chp_healthz?x", "/_chp_healthzz", "/%5Fchp_healthz"])
async def test_health_check_is_exactly_one_path(target: str) -> None:
    async with backend(echo) as server, proxy(server.url) as chp:
        assert await target_at_backend(chp, target) == target
        assert chp.app.metrics.requests_web == 1


@pytest.mark.expect_log("404 GET /b$")
async def test_request_without_a_route() -> None:
    async with backend(echo) as server, proxy() as chp:
        await chp.add_route("/a", server.url)
        assert (await chp.get("/b?secret")).status == 404
        assert (await chp.get("/a")).status == 200
        assert chp.app.metrics.requests_web == 2
        assert chp.app.metrics.requests_proxy == {404: 1, 200: 1}
        assert chp.app.metrics.find_target_count == 2
    assert server.connections == 1
