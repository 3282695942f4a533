"""For tests on the wire: both event loops, and nothing may be left when a test is over."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator

import pytest
import uvloop
from tornado.ioloop import IOLoop

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def open_descriptors() -> set[str]:
    """What this process has open, by name: ``17 -> socket:[4711]``."""
    descriptors = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed the directory
            descriptors.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
    return descriptors


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    left = {descriptor for descriptor in open_descriptors() - before if "socket:" in descriptor}
    assert not left


@pytest.fixture(params=LOOPS, autouse=True)
def io_loop(request: pytest.FixtureRequest, no_descriptor_left: None) -> Iterator[IOLoop]:
    """Every test runs on asyncio's own loop and on uvloop."""
    loop = LOOPS[request.param]()
    io_loop = IOLoop(make_current=False, asyncio_loop=loop)
    yield io_loop
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    io_loop.close()
    assert not left, "tasks were left"
