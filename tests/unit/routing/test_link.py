"""StoreLink: the order in which changes of ours and of others meet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import pytest

from chp.errors import StorageError
from chp.metrics import Metrics
from chp.routing.storage import Change, Changes, SharedStore, Snapshot, link
from chp.routing.table import RouteTable

LOG = logging.getLogger("chp.test")
TARGET = {"target": "http://h:1"}
TIME = "2026-01-31T12:00:00.000Z"


class FakeStore(SharedStore):
    """Says what a test lets it say."""

    def __init__(self, routes: Mapping[str, object] | None = None) -> None:
        super().__init__({})
        self.snapshot = Snapshot("0", routes or {})
        self.events: asyncio.Queue[Change | Exception | None] = asyncio.Queue()
        self.answers: asyncio.Queue[Change | Exception] = asyncio.Queue()
        self.loads: list[Exception | None] = []
        self.heard: dict[str, str] = {}
        self.saved: list[Mapping[str, str]] = []
        self.watched: list[str] = []

    async def load(self) -> Snapshot:
        error = self.loads.pop(0) if self.loads else None
        if error is not None:
            raise error
        return self.snapshot

    async def change(self, changes: Changes) -> Change:
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def watch(self, position: str) -> AsyncGenerator[Change | None, None]:
        self.watched.append(position)
        while True:
            event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            yield event

    async def exchange_activities(self, times: Mapping[str, str]) -> Mapping[str, str]:
        self.saved.append(times)
        return self.heard


async def until(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the condition was not met in time")


def make(store: FakeStore, patience: float = 10) -> RouteTable:
    return RouteTable(
        store, Metrics(), LOG, host_routing=False, on_retired=lambda target: None, patience=patience
    )


def targets(table: RouteTable) -> dict[str, str]:
    return {path: route.target.url for path, route in table.routes().items()}


async def test_our_own_change_is_not_made_twice() -> None:
    store = FakeStore()
    table = make(store)
    await table.load()
    await until(lambda: store.watched)
    store.answers.put_nowait(Change("0", "1"))
    await table.add("/a", TARGET)
    store.answers.put_nowait(Change("1", "2"))
    await table.add("/a", {"target": "http://h:2"})
    store.events.put_nowait(Change("0", "1", {"/a": TARGET}))
    store.events.put_nowait(Change("1", "2", {"/a": {"target": "http://h:2"}}))
    store.events.put_nowait(Change("2", "3", {"/b": TARGET}))
    await until(lambda: "/b" in table.routes())
    assert targets(table) == {"/a": "http://h:2", "/b": "http://h:1"}
    assert store.watched == ["0"]
    await table.close()


async def test_others_were_faster() -> None:
    store = FakeStore()
    table = make(store)
    await table.load()
    store.answers.put_nowait(Change("1", "2"))
    adding = asyncio.create_task(table.add("/a", TARGET))
    await until(lambda: table.link.behind)
    assert not table.routes()
    store.events.put_nowait(Change("0", "1", {"/a": {"target": "http://h:9"}}))
    await until(table.routes)
    assert not adding.done()
    store.events.put_nowait(Change("1", "2", {"/a": TARGET}))
    await adding
    assert targets(table) == {"/a": "http://h:1"}
    store.events.put_nowait(None)
    await until(lambda: table.link.behind is None)
    await table.close()


async def test_watch_may_be_first_with_our_own_change() -> None:
    store = FakeStore()
    table = make(store)
    await table.load()
    adding = asyncio.create_task(table.add("/a", TARGET))
    await until(table.link.lock.locked)
    store.events.put_nowait(Change("0", "1", {"/a": TARGET}))
    store.events.put_nowait(Change("1", "2", {"/a": None}))
    await until(lambda: table.link._position == "2")
    store.answers.put_nowait(Change("0", "1"))
    await adding
    assert not table.routes()
    await table.close()


async def test_a_long_change_of_ours_that_watch_is_bringing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore()
    table = make(store)
    await table.load()
    many = {f"/{number}": TARGET for number in range(300)}
    gate = asyncio.Event()
    apply = table.apply

    async def slow(routes: Mapping[str, object]) -> None:
        await gate.wait()
        await apply(routes)

    monkeypatch.setattr(table, "apply", slow)
    changing = asyncio.create_task(table.change(many))
    await until(table.link.lock.locked)
    store.events.put_nowait(Change("0", "1", many))
    await until(lambda: table.link._taking)
    store.answers.put_nowait(Change("0", "1"))
    await until(store.answers.empty)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not table.routes()  # not by us, while it is on its way
    gate.set()
    assert await changing == (300, 0)
    assert len(table.routes()) == 300
    assert table.link._position == "1"
    await table.close()


async def test_a_missing_change_means_to_load(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = FakeStore({"/a": TARGET, "/b": TARGET})
    table = make(store)
    await table.load()
    await until(lambda: store.watched)
    store.snapshot = Snapshot("7", {"/b": {"target": "http://h:2"}, "/c": TARGET})
    store.events.put_nowait(Change("6", "7", {"/c": TARGET}))
    await until(lambda: store.watched == ["0", "7"])
    assert targets(table) == {"/b": "http://h:2", "/c": "http://h:1"}
    assert "Changes of the route store were missed: all routes are loaded again" in caplog.messages
    await table.close()


@pytest.mark.expect_log("The route store failed: no network. Routes stay as they are, changes are refused")
async def test_after_an_error_it_goes_on_from_the_same_place() -> None:
    store = FakeStore({"/a": TARGET})
    table = make(store)
    await table.load()
    await until(lambda: store.watched)
    store.events.put_nowait(Change("0", "1", {"/b": TARGET}))
    store.events.put_nowait(OSError("no\nnetwork."))
    await until(lambda: table.link.behind)
    refused = (table.add("/c", TARGET), table.remove("/x"), table.change({"/x": None}))
    table.link._stop_waiting()
    for change in refused:
        with pytest.raises(StorageError, match="no network"):
            await change
    store.events.put_nowait(None)
    await until(lambda: store.watched == ["0", "1"])
    await until(lambda: table.link._trouble == "")
    assert set(table.routes()) == {"/a", "/b"}
    await table.close()


@pytest.mark.expect_log("The route store did not answer within 0.02 seconds")
async def test_silence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SILENCE_TIMEOUT", 0.02)
    store = FakeStore()
    table = make(store)
    await table.load()
    await until(lambda: len(store.watched) > 1)
    with pytest.raises(StorageError):
        table.link.check()
    await table.close()


async def test_what_the_store_brings_may_be_broken(caplog: pytest.LogCaptureFixture, log_lines: Any) -> None:
    store = FakeStore()
    table = make(store)
    await table.load()
    bad: dict[str, object] = {"/a": "{", "/b": 5, "/c": {"target": 5}, "/d/": TARGET, "/\udcff": TARGET}
    store.events.put_nowait(Change("0", "1", {**bad, "/good": '{"target": "http://h:1"}'}))
    await until(table.routes)
    assert targets(table) == {"/good": "http://h:1"}
    assert len(log_lines.take("left out")) == len(bad)
    await table.close()


@pytest.mark.expect_log("Error in following the route store")
@pytest.mark.expect_log("RuntimeError")
@pytest.mark.expect_log("ZeroDivisionError. Routes stay as they are")
async def test_an_error_of_ours_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore()
    table = make(store)
    await table.load()
    await until(lambda: store.watched)
    monkeypatch.setattr(table, "apply", lambda routes: 1 / 0)
    store.snapshot = Snapshot("1", {"/a": TARGET})
    store.events.put_nowait(RuntimeError())
    store.events.put_nowait(Change("0", "1", {"/a": TARGET}))
    await until(table.routes)
    await table.close()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "NoneType instead of Snapshot"),
        (("0", {}), "tuple instead of Snapshot"),
        (Snapshot("0", None), "NoneType instead of Mapping"),  # type: ignore[arg-type]
        (Snapshot("0", ["/a"]), "list instead of Mapping"),  # type: ignore[arg-type]
    ],
)
async def test_a_store_whose_load_returns_anything_else(answer: Any, text: str) -> None:
    store = FakeStore()
    store.snapshot = answer
    table = make(store)
    with pytest.raises(StorageError, match=f"The route store failed: load: {text}"):
        await table.load("exit")
    await table.close()


@pytest.mark.expect_log("Last activities are not saved: The route store failed: activity: NoneType")
async def test_a_store_whose_methods_return_nothing() -> None:
    store = FakeStore()
    table = make(store)
    await table.load()
    store.answers.put_nowait(None)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="The route store failed: change: NoneType instead of Change"):
        await table.add("/a", TARGET)
    store.heard = None  # type: ignore[assignment]
    await table.close()


async def test_paths_that_are_no_text(log_lines: Any) -> None:
    store = FakeStore({5: TARGET, None: TARGET, b"/b": TARGET, "/a": TARGET})  # type: ignore[dict-item]
    table = make(store)
    await table.load()
    assert set(table.routes()) == {"/a"}
    assert len(log_lines.take("of the store is none of ours: left out")) == 3
    await table.close()


async def test_activities_go_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ACTIVITIES_PER_CALL", 2)
    routes = {f"/{number}": {**TARGET, "last_activity": TIME} for number in range(5)}
    store = FakeStore(routes)
    table = make(store)
    await table.load()
    for route in table.routes().values():
        route.last_activity += 10
    later, earlier = "2026-01-31T13:00:00.000Z", "2026-01-31T11:00:00.000Z"
    store.heard = {"/0": later, "/1": earlier, "/2": "nonsense", "/unknown": later}
    await table.close()
    assert [len(times) for times in store.saved] == [2, 2, 1]
    assert store.saved[0] == {"/0": "2026-01-31T12:00:10.000Z", "/1": "2026-01-31T12:00:10.000Z"}
    shown = {path: route.as_json()["last_activity"] for path, route in table.routes().items()}
    assert shown == {"/0": later, **{f"/{number}": "2026-01-31T12:00:10.000Z" for number in range(1, 5)}}


async def test_what_is_not_saved_yet_outlives_a_change_and_a_load() -> None:
    store = FakeStore({"/a": {**TARGET, "last_activity": TIME}, "/b": {**TARGET, "last_activity": TIME}})
    table = make(store)
    await table.load()
    table.routes()["/a"].last_activity += 100
    store.events.put_nowait(Change("0", "1", dict(store.snapshot.routes)))
    await until(lambda: table.link._position == "1")
    assert table.routes()["/a"].as_json()["last_activity"] == "2026-01-31T12:01:40.000Z"
    assert table.routes()["/b"].as_json()["last_activity"] == TIME
    await table.close()
    assert list(store.saved[-1]) == ["/a"]


@pytest.mark.expect_log("The route store failed: down")
async def test_starting_without_the_store(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = FakeStore({"/a": TARGET})
    store.loads = [OSError("down"), OSError("down")]
    table = make(store)
    reasons: list[str] = []
    await table.load("wait", lambda error: reasons.append(str(error)))
    assert set(table.routes()) == {"/a"}
    assert reasons == ["The route store failed: down"] * 2
    said = "Nobody is answered before the store can be read (--storage-at-start)"
    assert caplog.messages.count(said) == 1
    await table.close()

    store.loads = [OSError("down")]
    table = make(store)
    await table.load("serve")
    assert not table.routes()
    await until(table.routes)
    await table.close()

    store.loads = [OSError("down")]
    table = make(store)
    with pytest.raises(StorageError):
        await table.load("exit")
    await table.close()


async def test_the_default_target_is_not_in_the_store() -> None:
    store = FakeStore({"/a": TARGET})

    def with_default() -> RouteTable:
        return RouteTable(
            store,
            Metrics(),
            LOG,
            host_routing=False,
            on_retired=lambda target: None,
            default_target="http://d",
        )

    table = with_default()
    assert targets(table) == {"/": "http://d"}
    await table.load()
    assert targets(table) == {"/": "http://d", "/a": "http://h:1"}
    # Somebody removes a route / that we never had.
    store.events.put_nowait(Change("0", "1", {"/": None}))
    await until(lambda: table.link._position == "1")
    assert "/" in table.routes()
    # Somebody posts one, and removes it.
    store.events.put_nowait(Change("1", "2", {"/": TARGET}))
    await until(lambda: targets(table)["/"] == "http://h:1")
    store.events.put_nowait(Change("2", "3", {"/": None}))
    await until(lambda: "/" not in table.routes())
    await table.close()
    # Our own is removed without a word to the store.
    table = with_default()
    await table.load()
    assert await table.remove("/")
    assert "/" not in table.routes()
    await table.close()


async def test_calls_that_lose_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CANCEL_INTERVAL", 0.001)
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while lost < 3:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                lost += 1
        await asyncio.sleep(10)

    with pytest.raises(asyncio.TimeoutError):
        await link._within(0.001, stubborn())
    assert lost == 3


async def test_a_call_that_is_left_while_it_is_being_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CANCEL_INTERVAL", 0.001)
    ended = asyncio.Event()
    cleaning = asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            cleaning.set()
            for _ in range(20):
                try:
                    await asyncio.sleep(0.001)
                except asyncio.CancelledError:
                    continue
            ended.set()

    waiting = asyncio.create_task(link._within(0.001, slow_to_end()))
    await cleaning.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()
