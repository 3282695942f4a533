"""The curl upstream: a receiver may do anything in a callback, as libcurl is never in the middle of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from support.wire import PATIENCE, Peer, backend, until

from chp.config.settings import ClientTLS, ProxySettings
from chp.errors import UpstreamError
from chp.http1.head import ResponseHead
from chp.http1.target import Target
from chp.metrics import Metrics
from chp.runtime import Runtime
from chp.upstream.addresses import Resolver
from chp.upstream.attempts import Attempts
from chp.upstream.base import Stream, UpstreamRequest
from chp.upstream.curl import CurlUpstream

CONTENT = bytes(600_000)
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"


class Meddler:
    """Notes what it is told, and does something in one of its callbacks."""

    def __init__(self, where: str, action: Callable[[Meddler], None]) -> None:
        self.where = where
        self.action = action
        self.stream: Stream | None = None
        self.calls: list[str] = []
        self.content = 0
        self.aborted_after = -1
        self.over = asyncio.Event()

    def note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.where and self.stream is not None:
            self.action(self)

    def informational(self, head: ResponseHead) -> None:
        self.note("informational")

    def response_received(self, head: ResponseHead | None, content: bytes, complete: bool) -> None:
        self.content += len(content)
        if complete:
            self.over.set()
        self.note("complete" if complete else "head" if head else "content")

    def upgraded(self, head: ResponseHead, transport: asyncio.Transport, early: bytes) -> None:
        raise AssertionError("an upgrade")

    def failed(self, error: UpstreamError) -> None:
        self.over.set()
        self.note("failed")

    def pause_request(self) -> None:
        self.note("pause_request")

    def resume_request(self) -> None:
        if self.stream is not None and "sent" not in self.calls:
            self.calls.append("sent")
            self.stream.send(bytes(70_000), complete=False)
            self.stream.send(b"", complete=True)
        self.note("resume_request")


def do_abort(it: Meddler) -> None:
    assert it.stream is not None
    it.stream.abort()
    it.aborted_after = len(it.calls)
    it.over.set()


def do_pauses(it: Meddler) -> None:
    assert it.stream is not None
    for _ in range(50):
        it.stream.pause_response()
        it.stream.resume_response()


def do_pause_for_a_moment(it: Meddler) -> None:
    assert it.stream is not None
    it.stream.pause_response()
    asyncio.get_running_loop().call_later(0.005, it.stream.resume_response)


def do_send(it: Meddler) -> None:
    assert it.stream is not None
    it.stream.send(b"late", complete=True)


ACTIONS = (do_abort, do_pauses, do_pause_for_a_moment, do_send)
PLACES = ("resume_request", "informational", "head", "content", "complete")


async def answer(peer: Peer) -> None:
    while True:
        await peer.receive_message()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT)
        await peer.send(HINTS + HINTS + head + CONTENT)


@asynccontextmanager
async def upstream() -> AsyncIterator[CurlUpstream]:
    settings = ProxySettings(upstream_timeout=PATIENCE, client_tls_files=ClientTLS(insecure=True))
    runtime = Runtime(asyncio.get_running_loop(), Metrics(), logging.getLogger("chp"))
    it = CurlUpstream(runtime, settings, Attempts(runtime.loop), Resolver(runtime.loop))
    try:
        yield it
    finally:
        await it.close()
        runtime.close()
        assert (runtime.metrics.upstream_connections, runtime.metrics.upstream_connections_idle) == (0, 0)


def begin(it: CurlUpstream, url: str, receiver: Meddler) -> None:
    block = b"\r\nHost: h"
    request = UpstreamRequest(Target.parse(url).origin, b"POST", b"/", block, content_length=70_003)
    receiver.stream = it.open(request, b"abc", False, receiver)


async def others_are_served(it: CurlUpstream, url: str) -> None:
    other = Meddler("", do_abort)
    begin(it, url, other)
    await asyncio.wait_for(other.over.wait(), PATIENCE)
    assert other.content == len(CONTENT)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("action", ACTIONS)
async def test_a_receiver_may_use_its_stream_in_every_callback(
    where: str, action: Callable[[Meddler], None]
) -> None:
    async with backend(answer) as server, upstream() as it:
        receivers = [Meddler(where, action) for _ in range(3)]
        for receiver in receivers:
            begin(it, server.url, receiver)
        for receiver in receivers:
            await asyncio.wait_for(receiver.over.wait(), PATIENCE)
        await others_are_served(it, server.url)
        for receiver in receivers:
            if receiver.aborted_after >= 0:
                assert len(receiver.calls) == receiver.aborted_after, "a call after the abort"
            else:
                assert receiver.content == len(CONTENT)
                assert receiver.calls.count("informational") == 2


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("everything", [False, True])
async def test_connections_may_be_closed_in_every_callback(where: str, everything: bool) -> None:
    """Idle ones, as when a route is deleted: what is running goes on; or all of them."""
    async with backend(answer) as server, upstream() as it:
        origin = Target.parse(server.url).origin

        def close(_: Meddler) -> None:
            if not everything:
                it.close_idle(origin)
            elif origin in it._clients:
                it._clients[origin].close()

        receivers = [Meddler(where, close), Meddler("", close)]
        for receiver in receivers:
            begin(it, server.url, receiver)
        await until(lambda: where in receivers[0].calls)
        if not everything:
            for receiver in receivers:
                await asyncio.wait_for(receiver.over.wait(), PATIENCE)
                assert receiver.content == len(CONTENT)
        await others_are_served(it, server.url)
