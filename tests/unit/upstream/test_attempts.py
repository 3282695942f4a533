"""chp/upstream/attempts.py: what counts as silence, and who may try again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chp.errors import UpstreamError
from chp.http1.target import Origin
from chp.upstream import attempts
from chp.upstream.attempts import Attempts

ORIGIN = Origin("http", "127.0.0.1", 8000)
TIMEOUT = UpstreamError("connect_timeout", "")


class Clock:
    """A loop whose time a test sets; it makes futures of the running one."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()


def new() -> tuple[Attempts, Clock]:
    clock: Any = Clock()
    return Attempts(clock), clock


@pytest.mark.parametrize(
    ("reason", "took", "silent"),
    [
        ("connect_timeout", 0.1, True),  # as short as the operator wants it
        ("connect_timeout", 10.0, True),
        ("refused", 5.0, False),
        ("tls", 5.0, False),
        ("unreachable", 0.1, False),
        ("unreachable", 3.0, True),
        ("dns", 0.1, False),
        ("dns", 5.0, True),
    ],
)
async def test_which_failures_are_silence(reason: str, took: float, silent: bool) -> None:
    them, clock = new()
    began = clock.now
    clock.now += took
    them.failed(ORIGIN, UpstreamError(reason, ""), began)
    assert them.is_silent(ORIGIN) is silent


@pytest.mark.parametrize("answer", ["success", "refusal"])
async def test_an_answer_ends_silence_for_all_who_wait(answer: str) -> None:
    them, clock = new()
    them.failed(ORIGIN, TIMEOUT, clock.now)
    await them.turn(ORIGIN)  # one may try at once
    waiting = [asyncio.ensure_future(them.turn(ORIGIN)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    if answer == "success":
        them.succeeded(ORIGIN)
    else:
        them.failed(ORIGIN, UpstreamError("refused", ""), clock.now)
    await asyncio.gather(*waiting)
    assert not them.is_silent(ORIGIN)


async def test_a_silence_that_is_older_than_an_answer_is_none() -> None:
    them, clock = new()
    began = clock.now
    clock.now += 1
    them.succeeded(ORIGIN)
    clock.now += 9
    them.failed(ORIGIN, TIMEOUT, began)
    assert not them.is_silent(ORIGIN)
    them.failed(ORIGIN, TIMEOUT, clock.now)
    assert them.is_silent(ORIGIN)


async def test_one_origin_is_not_the_other() -> None:
    them, clock = new()
    them.failed(ORIGIN, TIMEOUT, clock.now)
    assert not them.is_silent(ORIGIN._replace(port=8001))


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_MAX_ORIGINS", 10)
    them, clock = new()
    for port in range(30):
        them.failed(ORIGIN._replace(port=port), TIMEOUT, clock.now)
        them.succeeded(ORIGIN._replace(port=100 + port))
    assert [them.is_silent(ORIGIN._replace(port=port)) for port in range(30)] == [False] * 20 + [True] * 10
    assert len(them._answers) == 10
