"""The curl upstream: libcurl through Tornado's ``CurlAsyncHTTPClient``, for http, https and unix sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from chp.config.settings import ProxySettings
from chp.errors import UpstreamError
from chp.http1.target import Origin
from chp.runtime import Runtime
from chp.upstream.addresses import Addresses, Resolver
from chp.upstream.attempts import Attempts
from chp.upstream.base import Receiver, Stream, Upstream, UpstreamRequest
from chp.upstream.curl_client import CurlClient
from chp.upstream.curl_sockets import make_sockets
from chp.upstream.curl_stream import CurlStream
from chp.upstream.direct import connect_error

# Reasons of errors after which the target may be at other addresses.
_UNREACHED = frozenset({"refused", "unreachable", "connect_timeout"})


class CurlUpstream(Upstream):
    """A client for each origin: none sees the connections, certificates or timers of another."""

    def __init__(
        self, runtime: Runtime, settings: ProxySettings, attempts: Attempts, resolver: Resolver
    ) -> None:
        self.runtime = runtime
        self.attempts = attempts
        self._resolver = resolver
        self.sockets = make_sockets(runtime.loop)
        self._clients: dict[Origin, CurlClient] = {}
        self._all: set[CurlClient] = set()  # with those that only finish what they have begun
        self._waiting: set[asyncio.Task[None]] = set()  # for their turn to connect, or for addresses
        self.use(settings)

    # -- the contract ------------------------------------------------------

    def open(
        self, request: UpstreamRequest, content: bytes | memoryview, complete: bool, receiver: Receiver
    ) -> Stream:
        client = self._client(request.origin)
        stream = CurlStream(client, request, receiver, bytes(content), complete)
        if client.has_idle or (not self.attempts.is_silent(request.origin) and self._is_found(client)):
            client.begin(stream)
        else:
            self._wait(self._begin_in_turn(stream))
        if not complete:
            receiver.pause_request()  # until there is a connection
        return stream

    def close_idle(self, origin: Origin) -> None:
        client = self._clients.pop(origin, None)
        if client is not None:
            client.retire()

    def use(self, settings: ProxySettings) -> None:
        self.settings = settings
        self.runtime.ticker.limit_interval(settings.upstream_timeout)
        self.runtime.ticker.limit_interval(settings.pool_idle_timeout)
        for origin in list(self._clients):
            self.close_idle(origin)

    async def close(self) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        for client in list(self._all):
            client.close()
        self.sockets.close()

    # -- for clients -------------------------------------------------------

    def forget(self, client: CurlClient) -> None:
        """A client is closed."""
        self._all.discard(client)
        if self._clients.get(client.origin) is client:
            del self._clients[client.origin]

    def begin_elsewhere(self, stream: CurlStream, error: UpstreamError) -> bool:
        """See :meth:`CurlClient.begin_elsewhere`."""
        client = stream.client
        if not client.addresses or error.reason not in _UNREACHED:
            return False
        self._resolver.forget(client.origin.host)
        if stream.looked_up or error.reason == "connect_timeout":  # no time is left
            return False
        stream.detach()
        self._wait(self._begin_elsewhere(stream, error, client.addresses))
        return True

    # -- private -----------------------------------------------------------

    def _wait(self, beginning: Coroutine[None, None, None]) -> None:
        task = self.runtime.loop.create_task(beginning)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def _is_found(self, client: CurlClient) -> bool:
        """Tell whether the addresses of a client's origin are known, and give them to it."""
        if not client.has_name:
            return True
        addresses = self._resolver.remembered(client.origin.host)
        if addresses:
            client.addresses = addresses
        return bool(addresses)

    async def _begin_in_turn(self, stream: CurlStream) -> None:
        origin = stream.request.origin
        try:
            await self.attempts.turn(origin)
            await self._find(stream)
        except UpstreamError as error:
            stream.fail(error)
        self._begin(stream)

    async def _begin_elsewhere(self, stream: CurlStream, error: UpstreamError, tried: Addresses) -> None:
        origin, began = stream.request.origin, stream.began
        try:
            await self._find(stream)
        except UpstreamError as later_error:
            stream.fail(later_error)
        if not stream.over and set(self._client(origin).addresses) == set(tried):
            self.attempts.failed(origin, error, began)
            stream.fail(error)
        self._begin(stream)

    async def _find(self, stream: CurlStream) -> None:
        """Look up the addresses of a stream's origin. Raises UpstreamError."""
        origin, loop = stream.request.origin, self.runtime.loop
        if self._is_found(self._client(origin)):
            return
        began = loop.time()
        try:
            looking = self._resolver.look_up(origin.host)
            addresses = await asyncio.wait_for(looking, self.settings.connect_timeout)
        except (OSError, asyncio.TimeoutError, UnicodeError) as error:
            failure = connect_error(origin, error)
            self.attempts.failed(origin, failure, began)
            raise failure from None
        stream.looked_up = True
        self._client(origin).addresses = addresses

    def _begin(self, stream: CurlStream) -> None:
        if not stream.over:
            stream.client = self._client(stream.request.origin)  # the other may be closed by now
            stream.client.begin(stream)

    def _client(self, origin: Origin) -> CurlClient:
        return self._clients.get(origin) or self._new_client(origin)

    def _new_client(self, origin: Origin) -> CurlClient:
        client = CurlClient(force_instance=True, upstream=self, origin=origin)
        self._clients[origin] = client
        self._all.add(client)
        return client
