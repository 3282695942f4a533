"""chp/repeats.py: of many lines of one kind, the first and their number."""

from __future__ import annotations

import logging

import pytest

from chp import repeats
from chp.repeats import INTERVAL, RepeatedLines


class Log(logging.Logger):
    """Keeps lines with their level."""

    def __init__(self) -> None:
        super().__init__("x")
        self.lines: list[tuple[int, str]] = []

    def handle(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage()))

    def take(self) -> list[str]:
        lines, self.lines = [line for _, line in self.lines], []
        return lines


class Time:
    """A ticker, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.watched: set[RepeatedLines] = set()

    def watch(self, item: RepeatedLines) -> None:
        self.watched.add(item)

    def forget(self, item: RepeatedLines) -> None:
        self.watched.discard(item)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        for item in list(self.watched):
            if item.deadline <= self.now:
                item.deadline_passed()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(repeats, "monotonic", lambda: clock.now)
    return clock


def test_the_first_line_at_once_and_then_their_number_once_a_minute(clock: Time) -> None:
    log = Log()
    lines = RepeatedLines(log, clock)
    for number in range(4712):
        lines.write(logging.ERROR, "a", f"503 /{number}")
    assert log.lines == [(logging.ERROR, "503 /0")]
    log.take()
    clock.passes(INTERVAL - 1)
    assert log.take() == []
    clock.passes(1)
    assert log.lines == [(logging.ERROR, "503 /4711: repeated 4,711 times")]
    log.take()
    lines.write(logging.ERROR, "a", "503 /again")
    clock.passes(INTERVAL)
    assert log.take() == ["503 /again: repeated once"]


def test_after_a_minute_without_one_it_is_the_first_again(clock: Time) -> None:
    log = Log()
    lines = RepeatedLines(log, clock)
    lines.write(logging.ERROR, "a", "one")
    clock.passes(INTERVAL)
    assert not clock.watched
    lines.write(logging.ERROR, "a", "two")
    assert log.take() == ["one", "two"]


def test_kinds_are_told_apart(clock: Time) -> None:
    log = Log()
    lines = RepeatedLines(log, clock)
    for kind in "abab":
        lines.write(logging.ERROR, kind, f"line {kind}")
        clock.passes(1)
    assert log.take() == ["line a", "line b"]
    clock.passes(INTERVAL - 4)
    assert log.take() == ["line a: repeated once"]
    clock.passes(1)
    assert log.take() == ["line b: repeated once"]


def test_the_number_of_kinds_is_limited(clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_MAX_KINDS", 2)
    log = Log()
    lines = RepeatedLines(log, clock)
    for kind in "abcdea":
        lines.write(logging.ERROR, kind, f"line {kind}")
    assert log.take() == ["line a", "line b", "line c"]
    assert len(lines._kinds) == 3
    clock.passes(INTERVAL)
    assert log.take() == ["line a: repeated once", "line e: and more like it 2 times"]


def test_nothing_is_lost_at_the_end(clock: Time) -> None:
    log = Log()
    lines = RepeatedLines(log, clock)
    for _ in range(3):
        lines.write(logging.WARNING, "a", "line")
    lines.close()
    assert log.take() == ["line", "line: repeated 2 times"]
    assert not clock.watched
