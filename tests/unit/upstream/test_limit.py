"""chp/upstream/limit.py: places are given back, refused streams can be given up, and nothing is kept."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

from chp.http1.head import ResponseHead
from chp.http1.target import Target
from chp.metrics import Metrics
from chp.runtime import Runtime
from chp.upstream.base import UpstreamRequest
from chp.upstream.limit import LimitedUpstream


class Carrier:
    """An upstream that does what the test says: it keeps the receivers."""

    def __init__(self) -> None:
        self.receivers: list[Any] = []
        self.aborted = 0

    def open(self, request: UpstreamRequest, content: bytes, complete: bool, receiver: Any) -> Any:
        self.receivers.append(receiver)
        return SimpleNamespace(abort=self.abort)

    def abort(self) -> None:
        self.aborted += 1


class Receiver:
    def __init__(self) -> None:
        self.errors: list[str] = []
        self.got: list[object] = []

    def failed(self, error: Any) -> None:
        self.errors.append(error.reason)

    def response_received(self, head: object, content: bytes, complete: bool) -> None:
        self.got.append((content, complete))

    def upgraded(self, head: object, transport: object, early: bytes) -> None:
        self.got.append(transport)


class Transport:
    closed = False

    def is_closing(self) -> bool:
        return self.closed


class Setting:
    def __init__(self, limit: int = 1) -> None:
        runtime = Runtime(asyncio.get_running_loop(), Metrics(), logging.getLogger("chp"))
        self.carrier: Any = Carrier()
        self.upstream = LimitedUpstream(runtime, limit, self.carrier)
        self.receiver: Any = Receiver()

    def open(self, url: str = "http://h:1") -> Any:
        request = UpstreamRequest(Target.parse(url).origin, b"GET", b"/", b"")
        return self.upstream.open(request, b"", True, self.receiver)

    async def refused(self) -> bool:
        before = len(self.receiver.errors)
        self.open()
        assert len(self.receiver.errors) == before, "not from inside open()"
        await asyncio.sleep(0)
        return self.receiver.errors[before:] == ["limit"]


async def test_the_last_content_gives_the_place_back() -> None:
    it = Setting()
    it.open()
    assert await it.refused()
    first = it.carrier.receivers[0]
    first.response_received(None, b"a", False)
    assert await it.refused()
    first.response_received(None, b"b", True)
    assert not await it.refused()
    assert it.receiver.got == [(b"a", False), (b"b", True)]


async def test_abort_and_failure_give_it_back_once() -> None:
    it = Setting(limit=2)
    stream, _ = it.open(), it.open()
    stream.abort()
    stream.abort()
    assert it.carrier.aborted == 2
    assert not await it.refused()
    assert await it.refused()
    it.carrier.receivers[1].failed(SimpleNamespace(reason="closed"))
    assert not await it.refused()
    assert await it.refused()


async def test_a_tunnel_keeps_its_place_until_it_is_closed() -> None:
    it = Setting()
    it.open()
    transport = Transport()
    it.carrier.receivers[0].upgraded(ResponseHead(101, b"", b""), transport, b"")
    assert await it.refused()
    transport.closed = True
    assert not await it.refused()


async def test_who_gives_up_hears_no_failure() -> None:
    it = Setting()
    it.open()
    it.open().abort()
    await asyncio.sleep(0)
    assert it.receiver.errors == []


async def test_origins_that_are_no_longer_busy_are_forgotten() -> None:
    it = Setting()
    busy = {it.open(f"http://busy:{port}"): port for port in range(1, 101)}
    for port in range(1, 2001):
        it.open(f"http://h:{port}").abort()
        assert len(it.upstream._busy) <= 2 * len(busy) + 200
    it.carrier.receivers.clear()
    it.open("http://busy:1")
    await asyncio.sleep(0)
    assert it.receiver.errors == ["limit"]
