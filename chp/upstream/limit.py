"""A limit of what is under way to one origin at a time."""

from __future__ import annotations

import asyncio

from chp.config.settings import ProxySettings
from chp.errors import UpstreamError
from chp.http1.head import ResponseHead
from chp.http1.target import Origin
from chp.runtime import Runtime
from chp.upstream.base import Receiver, Stream, Upstream, UpstreamRequest

_FEW = 64  # origins that are not worth looking for those that are no longer busy


class LimitedUpstream(Upstream):
    """Carries requests with another upstream, as long as their origin has room: one more fails at once."""

    def __init__(self, runtime: Runtime, limit: int, carrier: Upstream) -> None:
        """``limit``: so many exchanges and tunnels may be under way to each origin."""
        self._runtime = runtime
        self._limit = limit
        self._carrier = carrier
        self._busy: dict[Origin, _Busy] = {}
        self._prune_above = _FEW

    # -- the contract ------------------------------------------------------

    def open(
        self, request: UpstreamRequest, content: bytes | memoryview, complete: bool, receiver: Receiver
    ) -> Stream:
        origin = request.origin
        busy = self._busy.get(origin)
        if busy is None:
            busy = self._add(origin)
        elif busy.count() >= self._limit:
            self._runtime.metrics.limits_reached["max_connections_per_target"] += 1
            self._runtime.metrics.upstream_errors["limit"] += 1
            text = f"{self._limit} requests to {origin} are under way (max_connections_per_target)"
            return _Refused(self._runtime, UpstreamError("limit", text), receiver)
        counted = _Counted(busy, receiver)
        counted.stream = self._carrier.open(request, content, complete, counted)
        return counted

    def close_idle(self, origin: Origin) -> None:
        self._carrier.close_idle(origin)

    def use(self, settings: ProxySettings) -> None:
        self._carrier.use(settings)

    async def close(self) -> None:
        await self._carrier.close()

    # -- private -----------------------------------------------------------

    def _add(self, origin: Origin) -> _Busy:
        if len(self._busy) > self._prune_above:
            self._busy = {other: busy for other, busy in self._busy.items() if busy.count()}
            self._prune_above = 2 * len(self._busy) + _FEW
        busy = self._busy[origin] = _Busy()
        return busy


class _Busy:
    """What is under way to one origin."""

    __slots__ = ("exchanges", "tunnels")

    def __init__(self) -> None:
        self.exchanges = 0
        self.tunnels: list[asyncio.Transport] = []

    def count(self) -> int:
        # Nobody says when a tunnel ends: it is seen when somebody wants its place.
        self.tunnels = [transport for transport in self.tunnels if not transport.is_closing()]
        return self.exchanges + len(self.tunnels)


class _Counted(Receiver, Stream):
    """Stands between an exchange and its stream, and sees when they are over."""

    __slots__ = ("_busy", "_over", "_receiver", "stream")

    stream: Stream

    def __init__(self, busy: _Busy, receiver: Receiver) -> None:
        self._busy = busy
        self._receiver = receiver
        self._over = False
        busy.exchanges += 1

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._busy.exchanges -= 1

    # -- from the upstream -------------------------------------------------

    def informational(self, head: ResponseHead) -> None:
        self._receiver.informational(head)

    def response_received(
        self, head: ResponseHead | None, content: bytes | memoryview, complete: bool
    ) -> None:
        if complete:
            self._end()
        self._receiver.response_received(head, content, complete)

    def upgraded(self, head: ResponseHead, transport: asyncio.Transport, early: bytes) -> None:
        self._end()
        self._busy.tunnels.append(transport)
        self._receiver.upgraded(head, transport, early)

    def failed(self, error: UpstreamError) -> None:
        self._end()
        self._receiver.failed(error)

    def pause_request(self) -> None:
        self._receiver.pause_request()

    def resume_request(self) -> None:
        self._receiver.resume_request()

    # -- from the exchange -------------------------------------------------

    def send(self, content: bytes | memoryview, complete: bool) -> None:
        self.stream.send(content, complete)

    def pause_response(self) -> None:
        self.stream.pause_response()

    def resume_response(self) -> None:
        self.stream.resume_response()

    def abort(self) -> None:
        self._end()
        self.stream.abort()


class _Refused(Stream):
    """A stream that fails in the loop's next turn."""

    __slots__ = ("_handle",)

    def __init__(self, runtime: Runtime, error: UpstreamError, receiver: Receiver) -> None:
        self._handle = runtime.loop.call_soon(receiver.failed, error)

    def send(self, content: bytes | memoryview, complete: bool) -> None:
        pass

    def pause_response(self) -> None:
        pass

    def resume_response(self) -> None:
        pass

    def abort(self) -> None:
        self._handle.cancel()
