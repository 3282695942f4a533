"""The curl upstream: libcurl through Tornado's ``CurlAsyncHTTPClient``, for http, https and unix sockets."""

from __future__ import annotations

import asyncio

from chp.config.settings import ProxySettings
from chp.errors import UpstreamError
from chp.http1.target import Origin
from chp.runtime import Runtime
from chp.upstream.attempts import Attempts
from chp.upstream.base import Receiver, Stream, Upstream, UpstreamRequest
from chp.upstream.curl_client import CurlClient
from chp.upstream.curl_sockets import make_sockets
from chp.upstream.curl_stream import CurlStream


class CurlUpstream(Upstream):
    """A client for each origin: none sees the connections, certificates or timers of another."""

    def __init__(self, runtime: Runtime, settings: ProxySettings, attempts: Attempts) -> None:
        self.runtime = runtime
        self.attempts = attempts
        self.sockets = make_sockets(runtime.loop)
        self._clients: dict[Origin, CurlClient] = {}
        self._all: set[CurlClient] = set()  # with those that only finish what they have begun
        self._waiting: set[asyncio.Task[None]] = set()  # for their turn to connect
        self.use(settings)

    # -- the contract ------------------------------------------------------

    def open(self, request: UpstreamRequest, content: bytes, complete: bool, receiver: Receiver) -> Stream:
        client = self._client(request.origin)
        stream = CurlStream(client, request, receiver, content, complete)
        if self.attempts.is_silent(request.origin) and not client.has_idle:
            task = self.runtime.loop.create_task(self._begin_in_turn(stream))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
        else:
            client.begin(stream)
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

    # -- private -----------------------------------------------------------

    async def _begin_in_turn(self, stream: CurlStream) -> None:
        origin = stream.request.origin
        try:
            await self.attempts.turn(origin)
        except UpstreamError as error:
            stream.fail(error)
        if not stream.over:
            stream.client = self._client(origin)  # the other may be closed by now
            stream.client.begin(stream)

    def _client(self, origin: Origin) -> CurlClient:
        return self._clients.get(origin) or self._new_client(origin)

    def _new_client(self, origin: Origin) -> CurlClient:
        client = CurlClient(force_instance=True, upstream=self, origin=origin)
        self._clients[origin] = client
        self._all.add(client)
        return client
