from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from chp import route_changes
from chp.errors import ApiError
from chp.route_changes import Change, RouteChanges


class Proxy:
    """Takes requests, answers when it is told to, and refuses what it does not like."""

    def __init__(self, *, open_: bool = True, refuses: dict[str, Exception] | None = None) -> None:
        self.requests: list[dict[str, Change]] = []
        self.routes: dict[str, Change] = {}
        self.answers = asyncio.Event()
        self.refuses = refuses or {}
        self.changes = RouteChanges(self.send)
        if open_:
            self.answers.set()

    async def send(self, changes: dict[str, Change]) -> None:
        self.requests.append(changes)
        await self.answers.wait()
        for path in changes:
            if path in self.refuses:
                raise self.refuses[path]
        self.routes.update(changes)


async def test_what_is_asked_for_at_once_is_one_request() -> None:
    proxy = Proxy()
    await asyncio.gather(*(proxy.changes.make(f"/{number}", {}) for number in range(3)))
    assert proxy.requests == [{"/0": {}, "/1": {}, "/2": {}}]
    await proxy.changes.make("/0", None)
    assert proxy.requests[1:] == [{"/0": None}]


async def test_a_change_never_overtakes_another() -> None:
    """As when a request has to be tried again while a user's server stops and starts."""
    proxy = Proxy(open_=False)
    made: list[asyncio.Task[None]] = []
    for change in ({"target": "old"}, None, {"target": "new"}):
        made.append(asyncio.create_task(proxy.changes.make("/user", change)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(proxy.requests) == 1
    assert not any(task.done() for task in made)
    proxy.answers.set()
    await asyncio.gather(*made)
    assert proxy.requests == [{"/user": {"target": "old"}}, {"/user": {"target": "new"}}]


async def test_many_are_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_changes, "_MOST_IN_ONE", 3)
    proxy = Proxy()
    await asyncio.gather(*(proxy.changes.make(f"/{number}", {}) for number in range(7)))
    assert [len(request) for request in proxy.requests] == [3, 3, 1]
    assert len(proxy.routes) == 7


async def test_the_others_do_not_suffer_from_one_that_is_refused() -> None:
    proxy = Proxy(refuses={"/5": ApiError(400, "no target"), "/6": ApiError(400, "no target either")})
    making = [proxy.changes.make(f"/{number}", {}) for number in range(9)]
    results = await asyncio.gather(*making, return_exceptions=True)
    assert [str(result) for result in results if result] == ["400 no target", "400 no target either"]
    assert sorted(proxy.routes) == ["/0", "/1", "/2", "/3", "/4", "/7", "/8"]


@pytest.mark.parametrize(
    "failure", [ApiError(403, "wrong token"), ApiError(599, "refused"), TimeoutError("no answer")]
)
async def test_what_concerns_all_is_not_tried_one_by_one(failure: Exception) -> None:
    proxy = Proxy(refuses={"/5": failure})
    making = [proxy.changes.make(f"/{number}", {}) for number in range(9)]
    results = await asyncio.gather(*making, return_exceptions=True)
    assert results == [failure] * 9
    assert len(proxy.requests) == 1
    await proxy.changes.make("/0", {})  # and it goes on


async def test_a_caller_that_gives_up_disturbs_nobody() -> None:
    proxy = Proxy(open_=False)
    first, second = (asyncio.create_task(proxy.changes.make(path, {})) for path in ("/1", "/2"))
    await asyncio.sleep(0)
    first.cancel()
    proxy.answers.set()
    await second
    assert proxy.routes == {"/1": {}, "/2": {}}
    assert first.cancelled()


async def test_nobody_waits_for_what_was_cancelled(log_lines: Any) -> None:
    """A Hub that shuts down cancels every task."""
    proxy = Proxy(open_=False)
    making = [asyncio.create_task(proxy.changes.make("/1", {}))]
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    making.append(asyncio.create_task(proxy.changes.make("/2", {})))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task(), *making}:
        task.cancel()
    results = await asyncio.gather(*making, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    proxy.answers.set()
    await proxy.changes.make("/3", {})
    assert proxy.routes == {"/3": {}}
    gc.collect()  # an exception that nobody has seen would be logged now
