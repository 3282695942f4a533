"""What every shared store has to do, with several tables on one store."""

from __future__ import annotations

import pytest
from support.stores import Replica, replicas
from support.wire import until

from chp.routing.storage import link

TARGET = "http://127.0.0.1:9000"


async def test_routes_outlive_their_proxy(store_url: str) -> None:
    data = {"target": f"{TARGET}/x?y=1", "user": "ada", "nested": {"empty": [], "more": {}, "é": "\u79c0"}}
    async with replicas(store_url, 1) as (one,):
        await one.table.add("/user/ada", data)
        await one.table.add("/sp ace/\u79c0\u6a39", {"target": TARGET})
        await one.table.add("/gone", {"target": TARGET})
        assert await one.table.remove("/gone")
        before = one.shown()
    async with replicas(store_url, 1) as (two,):
        assert two.shown() == before
        assert {**data, "last_activity": before["/user/ada"]["last_activity"]} == before["/user/ada"]


async def test_changes_reach_all_others(store_url: str) -> None:
    async with replicas(store_url, 3) as (one, two, three):
        await one.table.add("/a", {"target": TARGET})
        await two.see("/a")
        await three.see("/a")
        await two.table.add("/a", {"target": "http://127.0.0.1:9001", "x": 1})
        await two.table.change({"/b": {"target": TARGET}, "/c": {"target": TARGET}})
        await three.see("/a", "/b", "/c")
        assert await three.table.remove("/b")
        await one.see("/a", "/c")
        await two.see("/a", "/c")
        assert one.shown() == two.shown() == three.shown()
        assert one.shown()["/a"]["x"] == 1
        assert [one.metrics.store_loads, two.metrics.store_loads, three.metrics.store_loads] == [1, 1, 1]


async def test_the_latest_activity_of_all(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ACTIVITY_INTERVAL", 0.01)
    async with replicas(store_url, 3) as (one, two, three):
        await one.table.change({"/a": {"target": TARGET}, "/b": {"target": TARGET}})
        await two.see("/a", "/b")
        await three.see("/a", "/b")

        def move(replica: Replica, path: str, seconds: float) -> None:
            replica.table.routes()[path].last_activity += seconds

        before = one.shown()
        move(one, "/a", 100)
        move(two, "/a", 300)
        move(three, "/a", 200)
        move(three, "/b", 50)
        await until(lambda: one.shown() == two.shown() == three.shown() != before)
        latest = two.table.routes()["/a"].last_activity
        assert abs(one.table.routes()["/a"].last_activity - latest) < 0.001
    async with replicas(store_url, 1) as (again,):
        assert again.shown() == one.shown()
