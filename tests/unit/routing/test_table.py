from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import pytest

from chp.errors import InvalidTarget, StorageError
from chp.http1.target import Target
from chp.metrics import Metrics
from chp.routing.route import Route, format_time, parse_time
from chp.routing.storage import Changes, MemoryStore, RouteStore, link
from chp.routing.table import RouteTable, clean_path, printable

LOG = logging.getLogger("test.routes")


class RecordingStore(RouteStore):
    """Notes its calls; raises or hangs when told to."""

    def __init__(self, kept: Mapping[str, Any] | None = None) -> None:
        super().__init__({})
        self.kept: dict[str, Any] = dict(kept or {})
        self.calls: list[tuple[str, ...]] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0
        self.called = asyncio.Event()
        self.updated = asyncio.Event()

    async def _call(self, *call: str) -> None:
        assert self.running == 0, "two calls at a time"
        self.running += 1
        try:
            self.calls.append(call)
            self.called.set()
            await self.gate.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.running -= 1

    async def load(self) -> Mapping[str, object]:
        await self._call("load")
        return self.kept

    async def change(self, changes: Changes) -> None:
        await self._call("change", *changes)
        for path, data in changes.items():
            if data is None:
                self.kept.pop(path, None)
            else:
                self.kept[path] = data

    async def save_activities(self, times: Mapping[str, str]) -> None:
        await self._call("save", *times)
        for path, moment in times.items():
            self.kept[path] = {**self.kept[path], "last_activity": moment}
        self.updated.set()

    async def close(self) -> None:
        await self._call("close")


def make_table(
    store: RouteStore | None = None, *, host_routing: bool = False, retired: list[str] | None = None
) -> RouteTable:
    return RouteTable(
        store or MemoryStore({}),
        Metrics(),
        LOG,
        host_routing=host_routing,
        on_retired=lambda target: None if retired is None else retired.append(target.url),
    )


async def filled(*paths: str, host_routing: bool = False) -> RouteTable:
    table = make_table(host_routing=host_routing)
    for path in paths:
        await table.add(path, {"target": "http://127.0.0.1:9000"})
    return table


def found(table: RouteTable, path: str, host: str = "") -> str | None:
    route = table.find(path, host)
    return route and route.path


# Keys.


@pytest.mark.parametrize(
    ("posted", "key"),
    [("", "/"), ("/", "/"), ("a", "/a"), ("/a/", "/a"), ("/a//", "/a"), ("//a", "//a"), ("//", "/")],
)
def test_clean_path(posted: str, key: str) -> None:
    assert clean_path(posted) == key


async def test_find() -> None:
    table = await filled("/", "/user/ada", "/user/ada/deep/er", "/a b", "/constructor/x")
    assert found(table, "/") == "/"
    assert found(table, "/user/ada") == "/user/ada"
    assert found(table, "/user/ada/") == "/user/ada"
    assert found(table, "/user/ada//") == "/user/ada"
    assert found(table, "/user/ada/deep") == "/user/ada"
    assert found(table, "/user/ada/deep/er/x/y/z") == "/user/ada/deep/er"
    assert found(table, "/user/adam") == "/"
    assert found(table, "/a b/c") == "/a b"
    assert found(table, "/constructor") == "/"
    assert found(table, "/__proto__") == "/"


async def test_double_slashes_are_segments() -> None:
    table = await filled("/", "/a", "//a/b")
    assert found(table, "//a/b/c") == "//a/b"
    assert found(table, "//a") == "/"
    assert found(table, "/a//b") == "/a"


async def test_nothing_found() -> None:
    table = await filled("/a")
    assert found(table, "/") is None
    assert found(table, "/b") is None
    assert found(make_table(), "/") is None


async def test_host_is_ignored_without_host_routing() -> None:
    table = await filled("/a")
    assert found(table, "/a", "example.com") == "/a"
    assert "host" not in table.routes()["/a"].as_json()


async def test_depth_counts_the_path_only() -> None:
    table = await filled("/", "/a", "/a/b")
    assert [route.depth for route in table.routes().values()] == [0, 1, 2]
    table = await filled("/", "/example.com", "/example.com/a/b", host_routing=True)
    assert [route.depth for route in table.routes().values()] == [0, 0, 2]


async def test_host_routing() -> None:
    table = await filled("/", "/Example.com", "/example.com/a", "/[::1]/b", host_routing=True)
    assert found(table, "/x", "example.com") == "/Example.com"
    assert found(table, "/a/x", "example.com") == "/example.com/a"
    assert found(table, "/a", "other.example") == "/"
    assert found(table, "/example.com/a", "other.example") == "/"
    assert found(table, "/b", "::1") == "/[::1]/b"
    assert found(table, "/b", "") == "/"
    assert table.routes()["/Example.com"].as_json()["host"] == "Example.com"
    assert "host" not in table.routes()["/"].as_json()


async def test_one_host_in_two_spellings_is_one_route() -> None:
    store = RecordingStore()
    table = make_table(store, host_routing=True)
    await table.add("/Example.com/a", {"target": "http://one"})
    await table.add("/example.com/a", {"target": "http://two"})
    assert list(table.routes()) == ["/example.com/a"] == list(store.kept)
    route = table.get("/EXAMPLE.com/a")
    assert route is not None
    assert (route.path, route.target.url) == ("/example.com/a", "http://two")
    assert await table.remove("/EXAMPLE.COM/a")
    assert not table.routes()
    assert not store.kept
    await table.close()


# Routes.


async def test_as_json_gives_back_what_was_posted() -> None:
    table = make_table()
    target = "HTTP://Example.com:80"
    await table.add("/a", {"x": [1], "target": target, "last_activity": "no", "host": "h"})
    data = table.routes()["/a"].as_json()
    assert data.pop("last_activity") != "no"
    assert data == {"target": target, "x": [1], "host": "h"}


def test_format_time() -> None:
    assert format_time(0) == "1970-01-01T00:00:00.000Z"
    assert format_time(1700000000.9996) == "2023-11-14T22:13:20.999Z"


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+10:00", "x", 5, None])
def test_times_that_cannot_be_shown(text: object) -> None:
    assert parse_time(text) is None


async def test_touch_does_not_go_back_behind_what_another_proxy_said() -> None:
    table = RouteTable(MemoryStore({}), Metrics(), LOG, host_routing=False, on_retired=lambda target: None)
    await table.add("/a", {"target": "http://h"})
    route = table.routes()["/a"]
    later = format_time(time.time() + 7200)
    route.hear_of_activity(later)
    route.touch()
    assert route.as_json()["last_activity"] == later


async def test_touch() -> None:
    metrics = Metrics()
    table = RouteTable(MemoryStore({}), metrics, LOG, host_routing=False, on_retired=lambda target: None)
    await table.add("/a", {"target": "http://h"})
    route = table.routes()["/a"]
    route.last_activity = 0
    before = time.time()
    route.touch()
    assert before <= route.last_activity <= time.time()
    assert metrics.last_activity_count == 1


async def test_finding_is_counted() -> None:
    metrics = Metrics()
    table = RouteTable(MemoryStore({}), metrics, LOG, host_routing=False, on_retired=lambda target: None)
    table.find("/a", "")
    table.find("/b", "")
    assert metrics.find_target_count == 2
    assert 0 < metrics.find_target_seconds < 1


async def test_posting_again_keeps_the_route_that_runs_already() -> None:
    retired: list[str] = []
    table = make_table(retired=retired)
    await table.add("/a", {"target": "http://one", "x": 1})
    running = table.find("/a", "")
    assert running is not None
    running.last_activity = 0
    await table.add("/a/", {"target": "http://one", "y": 1})
    assert retired == []
    await table.add("/a", {"target": "http://two"})
    assert retired == ["http://one"]
    assert table.routes()["/a"] is running
    assert (running.data, running.target.url) == ({}, "http://two")
    assert running.last_activity > 0


async def test_remove() -> None:
    retired: list[str] = []
    table = make_table(retired=retired)
    await table.add("/a", {"target": "http://one"})
    await table.add("/a/b", {"target": "http://two"})
    assert await table.remove("a/")
    assert retired == ["http://one"]
    assert list(table.routes()) == ["/a/b"]
    assert table.get("/a") is None
    assert not await table.remove("/a")
    assert retired == ["http://one"]


async def test_routes_are_read_only() -> None:
    table = await filled("/a")
    with pytest.raises(TypeError):
        table.routes()["/b"] = table.routes()["/a"]  # type: ignore[index]


@pytest.mark.parametrize("data", [{}, {"target": None}, {"target": "ftp://h"}, {"target": "nowhere"}])
async def test_invalid_targets_change_nothing(data: dict[str, object]) -> None:
    store = RecordingStore()
    table = make_table(store)
    with pytest.raises(InvalidTarget):
        await table.add("/a", data)
    assert not table.routes()
    assert store.calls == []


async def test_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    table = make_table()
    await table.add("/a", {"target": "http://h:1/p?token=secret"})
    await table.remove("/a")
    await table.remove("/a")
    assert caplog.messages == [
        "Adding route /a -> http://h:1/p",
        "Route added /a -> http://h:1/p",
        "Removing route /a",
    ]


def test_printable() -> None:
    assert printable("/ü x") == "/ü x"
    assert printable("/a\nb\x1b\u202e") == r"/a\nb\x1b\u202e"


# The store.


async def test_routes_come_from_the_store(caplog: pytest.LogCaptureFixture) -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, 120000, timezone.utc)
    store = RecordingStore(
        {
            "/a": {"target": "http://one", "last_activity": "2024-05-06T07:08:09.120Z", "x": 1},
            "/bad": {"target": "ftp://h?secret"},
            "/b": {"target": "http://two"},
        }
    )
    table = make_table(store)
    await table.load()
    assert list(table.routes()) == ["/a", "/b"]
    assert table.routes()["/a"].last_activity == moment.timestamp()
    assert table.routes()["/a"].as_json() == store.kept["/a"]
    assert found(table, "/b/x") == "/b"
    assert caplog.messages == ["Route /bad of the store has no usable target: left out"]
    await table.close()
    assert store.calls == [("load",), ("close",)]


async def test_the_table_changes_after_the_store_only() -> None:
    store = RecordingStore()
    table = make_table(store)
    store.gate.clear()
    adding = asyncio.create_task(table.add("/a", {"target": "http://one"}))
    await asyncio.wait_for(store.called.wait(), 10)
    assert table.get("/a") is None
    store.gate.set()
    await adding
    assert table.get("/a") is not None
    assert store.kept["/a"] == table.routes()["/a"].as_json()


async def test_what_the_store_refuses_does_not_happen() -> None:
    retired: list[str] = []
    store = RecordingStore()
    table = make_table(store, retired=retired)
    await table.add("/a", {"target": "http://one"})
    store.error = RuntimeError("disk\nfull")
    with pytest.raises(StorageError, match=r"^The route store failed: disk full$"):
        await table.add("/a", {"target": "http://two"})
    with pytest.raises(StorageError):
        await table.add("/b", {"target": "http://two"})
    with pytest.raises(StorageError):
        await table.remove("/a")
    assert list(table.routes()) == ["/a"]
    assert table.routes()["/a"].target.url == "http://one"
    assert retired == []
    store.error = None
    assert await table.remove("/a")


async def test_a_store_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "STORE_TIMEOUT", 0.01)
    store = RecordingStore()
    table = make_table(store)
    store.gate.clear()
    with pytest.raises(StorageError, match="did not answer"):
        await table.add("/a", {"target": "http://one"})
    store.gate.set()
    await table.add("/a", {"target": "http://one"})
    assert list(table.routes()) == ["/a"]


async def test_changes_are_written_one_at_a_time() -> None:
    store = RecordingStore()
    table = make_table(store)
    store.gate.clear()
    changes = [
        asyncio.create_task(table.add("/a", {"target": "http://one"})),
        asyncio.create_task(table.remove("/a")),
        asyncio.create_task(table.add("/a", {"target": "http://two"})),
    ]
    await asyncio.wait_for(store.called.wait(), 10)
    store.gate.set()
    await asyncio.gather(*changes)
    assert store.calls == [("change", "/a")] * 3
    assert store.kept["/a"]["target"] == table.routes()["/a"].target.url == "http://two"


async def test_activities_are_written_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ACTIVITY_INTERVAL", 0.001)
    store = RecordingStore({path: {"target": "http://h"} for path in ("/a", "/b")})
    table = make_table(store)
    await table.load()
    table.routes()["/a"].touch()
    await asyncio.wait_for(store.updated.wait(), 10)
    monkeypatch.setattr(link, "ACTIVITY_INTERVAL", 1000)
    assert store.kept["/a"]["last_activity"] == table.routes()["/a"].as_json()["last_activity"]
    assert ("save", "/a") in store.calls
    assert all("/b" not in call for call in store.calls)
    await table.close()


async def test_closing_writes_the_last_activities() -> None:
    store = RecordingStore({path: {"target": "http://h"} for path in ("/a", "/b")})
    table = make_table(store)
    await table.load()
    table.routes()["/b"].last_activity = 0
    await table.close()
    assert store.calls == [("load",), ("save", "/b"), ("close",)]
    assert store.kept["/b"]["last_activity"] == "1970-01-01T00:00:00.000Z"


async def test_closing_with_a_broken_store(caplog: pytest.LogCaptureFixture) -> None:
    store = RecordingStore({path: {"target": "http://h"} for path in ("/a", "/b")})
    table = make_table(store)
    await table.load()
    for route in table.routes().values():
        route.last_activity = 0
    store.error = OSError("gone")
    await table.close()
    assert store.calls == [("load",), ("save", "/a", "/b"), ("close",)]
    assert caplog.messages == [
        "Last activities are not saved: The route store failed: gone",
        "The route store failed: gone",
    ]


def test_route_has_no_dict() -> None:
    target = Target.parse("http://h")
    with pytest.raises(AttributeError):
        Route("/", target, {}, last_activity=0, depth=0, metrics=Metrics()).unknown = 1  # type: ignore[attr-defined]
