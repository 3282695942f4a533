"""PATCH of the whole table: many changes in one request."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from support.api import LIMIT, Api

from chp.routing.storage import MemoryStore

TARGET = "http://127.0.0.1:9000"


def body(changes: Any) -> bytes:
    return json.dumps(changes).encode()


@pytest.mark.parametrize("path", ["/api/routes", "/api/routes/"])
async def test_adds_replaces_and_removes_and_leaves_the_others(serve: Any, path: str) -> None:
    api = Api()
    await api.add("/stays", "/goes", "/changes")
    before = api.table.routes()["/stays"].last_activity
    changes = {
        "/new": {"target": TARGET, "user": "ada"},
        "changes/": {"target": "http://127.0.0.1:9001"},
        "/goes": None,
        "/unknown": None,
    }
    async with serve(api.application) as client:
        answer = await client("PATCH", path, body(changes))
        assert (answer.status, answer.body) == (204, b"")
        table = json.loads((await client("GET", "/api/routes")).body)
    assert {path: data["target"] for path, data in table.items()} == {
        "/stays": TARGET,
        "/changes": "http://127.0.0.1:9001",
        "/new": TARGET,
    }
    assert table["/new"]["user"] == "ada"
    assert api.table.routes()["/stays"].last_activity == before
    assert (api.metrics.api_route_add, api.metrics.api_route_delete) == (2, 1)


async def test_what_get_shows_can_be_sent_back(serve: Any) -> None:
    api, other = Api(), Api()
    await api.add("/", "/user/ada", "/sp ace/\u79c0\u6a39")
    async with serve(api.application) as client, serve(other.application) as second:
        shown = (await client("GET", "/api/routes")).body
        assert (await second("PATCH", "/api/routes", shown)).status == 204
        copy = (await second("GET", "/api/routes")).body
    assert json.loads(copy).keys() == json.loads(shown).keys() == {"/", "/user/ada", "/sp ace/\u79c0\u6a39"}


async def test_nothing_to_change(serve: Any) -> None:
    async with serve(Api().application) as client:
        assert (await client("PATCH", "/api/routes", b"{}")).status == 204


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"", "Body not valid JSON: "),
        (b"{", "Body not valid JSON: "),
        (b"[]", "Must be an object with the paths of routes as names"),
        (b"null", "Must be an object with the paths of routes as names"),
        (body({"target": TARGET}), "target: Must specify 'target' as string"),
        (body({"/a": {"target": TARGET}, "/b": {}}), "/b: Must specify 'target' as string"),
        (body({"/a": {"target": TARGET}, "/b": {"target": 1}}), "/b: Must specify 'target' as string"),
        (body({"/a": {"target": TARGET}, "/b": {"target": "ftp://x"}}), "/b: Invalid target "),
        (b'{"/\\ud800": null}', "Invalid path: not UTF-8"),
        (body({"/" + "a/" * 5000: None}), "Invalid path: too long"),
        (b'{"/a": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "Body not valid JSON: nested too deeply"),
    ],
)
async def test_one_that_is_wrong_changes_nothing(serve: Any, sent: bytes, text: str) -> None:
    api = Api(limit=1_000_000)
    async with serve(api.application) as client:
        answer = await client("PATCH", "/api/routes", sent)
    assert answer.status == 400
    assert answer.body.decode().startswith(text)
    assert not api.table.routes()


async def test_needs_the_token_and_a_body_within_the_limit(serve: Any) -> None:
    api = Api("secret")
    async with serve(api.application) as client:
        assert (await client("PATCH", "/api/routes", b"{}")).status == 403
        token = "Authorization: token secret\r\n"
        assert (await client("PATCH", "/api/routes", b"{}".ljust(LIMIT), token)).status == 204
        assert (await client("PATCH", "/api/routes", b"{}".ljust(LIMIT + 1), token)).status == 413


async def test_how_many_are_changed_at_once(serve: Any) -> None:
    """All of them are changed in one turn of the event loop, which others wait for."""
    api = Api(limit=1_000_000)
    async with serve(api.application) as client:
        most = {f"/{number}": {"target": TARGET} for number in range(2000)}
        assert (await client("PATCH", "/api/routes", body(most))).status == 204
        answer = await client("PATCH", "/api/routes", body({**most, "/one/more": None}))
        assert (answer.status, answer.body) == (413, b"Too many changes: at most 2000 in one request")
    assert len(api.table.routes()) == 2000


@pytest.mark.parametrize(
    "values", [b"[]," * 50_000 + b"[]", b"[" * 90_000 + b"]" * 90_000, b"1," * 50_000 + b"1"]
)
async def test_how_many_values_are_read_at_once(serve: Any, values: bytes) -> None:
    """A megabyte of them would keep the event loop for up to a second."""
    api = Api(limit=1_000_000)
    route = b'{"target": "http://127.0.0.1:9000", "x": [%b]}' % values
    async with serve(api.application) as client:
        for method, sent in (("POST", route), ("PATCH", b'{"/a": %b}' % route)):
            answer = await client(method, "/api/routes", sent)
            assert (answer.status, answer.body) == (413, b"Too many values: at most 40000 in one request")
        text = b'{"target": "http://127.0.0.1:9000", "x": "%b"}' % (b"x" * 900_000)
        assert (await client("POST", "/api/routes/a", text)).status == 201
    assert len(api.table.routes()) == 1


async def test_single_routes_have_no_patch(serve: Any) -> None:
    async with serve(Api().application) as client:
        answer = await client("PATCH", "/api/routes/a", b"{}")
        assert (answer.status, answer.fields["allow"]) == (405, "GET, POST, DELETE")


async def test_two_spellings_of_a_host_are_one_route(serve: Any) -> None:
    api = Api(host_routing=True)
    changes = {"/a.example/x": {"target": TARGET}, "/A.example./x": {"target": TARGET}}
    async with serve(api.application) as client:
        assert (await client("PATCH", "/api/routes", body(changes))).status == 204
        assert list(api.table.routes()) == ["/A.example./x"]
        assert (await client("PATCH", "/api/routes", body({"/a.EXAMPLE/x": None}))).status == 204
    assert not api.table.routes()


class OneChangeStore(MemoryStore):
    """Notes what it is told at once; fails when told to."""

    def __init__(self) -> None:
        super().__init__({})
        self.told: list[dict[str, Any]] = []
        self.broken = False

    async def change(self, changes: Mapping[str, dict[str, object] | None]) -> None:
        if self.broken:
            raise RuntimeError("the disk is full")
        self.told.append({path: data and data["target"] for path, data in changes.items()})


async def test_the_store_is_told_once_and_may_refuse(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "test.api")
    store = OneChangeStore()
    api = Api(store=store)
    async with serve(api.application) as client:
        assert (
            await client("PATCH", "/api/routes", body({"/a": {"target": TARGET}, "/b": {"target": TARGET}}))
        ).status == 204
        assert (await client("PATCH", "/api/routes", body({"/a": None, "/unknown": None}))).status == 204
        store.broken = True
        answer = await client("PATCH", "/api/routes", body({"/b": None, "/c": {"target": TARGET}}))
    assert (answer.status, answer.body) == (503, b"The route store failed: the disk is full")
    assert store.told == [{"/a": TARGET, "/b": TARGET}, {"/a": None}]
    assert list(api.table.routes()) == ["/b"]
    lines = [record.getMessage() for record in caplog.records]
    assert f"Route added /a -> {TARGET}" in lines
    assert "Removing route /a" in lines
    assert "204 PATCH /api/routes" in lines
