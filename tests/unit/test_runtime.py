"""chp/runtime.py: the ticker and its deadlines, with a clock of our own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from chp.metrics import Metrics
from chp.runtime import NEVER, RECEIVE_BUFFER_SIZE, Runtime, Ticker


class Loop:
    """As much of an event loop as a ticker needs: time passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.handles: list[Handle] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        handle = Handle(self, self.now + delay, callback)
        self.handles.append(handle)
        return handle

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.handles and (handle := min(self.handles, key=lambda one: one.when)).when <= end:
            self.handles.remove(handle)
            self.now = handle.when
            handle.callback()
        self.now = end


class Handle:
    def __init__(self, loop: Loop, when: float, callback: Callable[[], None]) -> None:
        self.loop, self.when, self.callback = loop, when, callback

    def cancel(self) -> None:
        self.loop.handles.remove(self)


class Item:
    def __init__(self, deadline: float, act: Callable[[], None] = lambda: None) -> None:
        self.deadline = deadline
        self.calls = 0
        self.act = act

    def deadline_passed(self) -> None:
        self.calls += 1
        self.deadline = NEVER
        self.act()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    it = Loop()
    monkeypatch.setattr("chp.runtime.monotonic", lambda: it.now)
    return it


def new_ticker(loop: Any) -> Ticker:
    return Ticker(loop, logging.getLogger("chp.test"))


def test_a_deadline_is_noticed_within_one_interval_and_not_before(loop: Loop) -> None:
    ticker = new_ticker(loop)
    item = Item(loop.now + 2.5)
    ticker.watch(item)
    loop.pass_time(2.4)
    assert item.calls == 0
    loop.pass_time(1.1)
    assert item.calls == 1


def test_a_deadline_that_moves_is_not_noticed(loop: Loop) -> None:
    ticker = new_ticker(loop)
    item = Item(loop.now + 1.5)
    ticker.watch(item)
    for _ in range(10):
        loop.pass_time(1)
        item.deadline = loop.now + 1.5
    assert item.calls == 0


def test_it_is_called_again_at_each_tick_until_the_deadline_moves(loop: Loop) -> None:
    ticker = new_ticker(loop)
    item = Item(loop.now)
    item.act = lambda: setattr(item, "deadline", 0.0)
    ticker.watch(item)
    loop.pass_time(3)
    assert item.calls == 3


def test_what_is_forgotten_is_left_alone(loop: Loop) -> None:
    ticker = new_ticker(loop)
    item = Item(loop.now + 1)
    ticker.watch(item)
    ticker.forget(item)
    ticker.forget(item)
    loop.pass_time(5)
    assert item.calls == 0


def test_no_timer_runs_when_nothing_is_watched(loop: Loop) -> None:
    ticker = new_ticker(loop)
    item = Item(NEVER)
    ticker.watch(item)
    ticker.forget(item)
    loop.pass_time(2)
    assert not loop.handles
    ticker.watch(Item(loop.now))
    assert len(loop.handles) == 1


def test_there_is_one_timer_for_any_number_of_items(loop: Loop) -> None:
    ticker = new_ticker(loop)
    items = [Item(loop.now + 1) for _ in range(1000)]
    for item in items:
        ticker.watch(item)
    assert len(loop.handles) == 1
    loop.pass_time(2)
    assert all(item.calls == 1 for item in items)
    assert len(loop.handles) == 1


def test_items_may_come_and_go_during_a_tick(loop: Loop) -> None:
    ticker = new_ticker(loop)
    late = Item(loop.now)
    item = Item(loop.now, act=lambda: (ticker.forget(item), ticker.watch(late))[0])
    ticker.watch(item)
    loop.pass_time(1)
    assert (item.calls, late.calls) == (1, 0)
    assert len(loop.handles) == 1
    loop.pass_time(1)
    assert (item.calls, late.calls) == (1, 1)


@pytest.mark.expect_log("Error in a timeout")
def test_an_error_in_one_keeps_nobody_else_from_their_turn(loop: Loop) -> None:
    ticker = new_ticker(loop)
    items = [Item(loop.now, act=lambda: 1 / 0) for _ in range(3)]  # type: ignore[arg-type,return-value]
    for item in items:
        ticker.watch(item)
    loop.pass_time(1)
    assert [item.calls for item in items] == [1, 1, 1]
    assert len(loop.handles) == 1


@pytest.mark.parametrize(
    ("timeouts", "interval"),
    [([], 1.0), ([None], 1.0), ([60.0], 1.0), ([2.0], 0.5), ([2.0, 0.4, 8.0], 0.1), ([0.001], 0.01)],
)
def test_short_timeouts_make_the_interval_shorter(
    timeouts: list[float | None], interval: float, loop: Loop
) -> None:
    ticker = new_ticker(loop)
    for timeout in timeouts:
        ticker.limit_interval(timeout)
    ticker.watch(Item(NEVER))
    assert loop.handles[0].when == pytest.approx(loop.now + interval)


def test_nothing_happens_after_close(loop: Loop) -> None:
    ticker = new_ticker(loop)
    item = Item(loop.now)
    ticker.watch(item)
    ticker.close()
    ticker.close()
    assert not loop.handles
    loop.pass_time(5)
    assert item.calls == 0


def test_one_receive_buffer_is_shared(loop: Any) -> None:
    runtime = Runtime(loop, Metrics(), logging.getLogger("chp.test"))
    assert len(runtime.view) == RECEIVE_BUFFER_SIZE
    runtime.view[:5] = b"hello"
    assert runtime.buffer[:5] == b"hello"
    runtime.close()
