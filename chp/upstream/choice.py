"""Which upstream carries a request."""

from __future__ import annotations

from chp.config.settings import ProxySettings
from chp.http1.target import Origin
from chp.runtime import Runtime
from chp.upstream.addresses import Resolver
from chp.upstream.attempts import Attempts
from chp.upstream.base import Receiver, Stream, Upstream, UpstreamRequest
from chp.upstream.curl import CurlUpstream
from chp.upstream.direct import DirectUpstream
from chp.upstream.limit import LimitedUpstream


class ChosenUpstream(Upstream):
    """``auto``: direct, with curl for https; ``curl``: curl for all that it can carry."""

    def __init__(self, runtime: Runtime, settings: ProxySettings) -> None:
        self._everywhere = settings.upstream == "curl"
        attempts = Attempts(runtime.loop)
        resolver = Resolver(runtime.loop)
        self._direct: Upstream = DirectUpstream(runtime, settings, attempts, resolver)
        self._curl: Upstream = CurlUpstream(runtime, settings, attempts, resolver)

    def open(
        self, request: UpstreamRequest, content: bytes | memoryview, complete: bool, receiver: Receiver
    ) -> Stream:
        return self._choose(request).open(request, content, complete, receiver)

    def close_idle(self, origin: Origin) -> None:
        self._direct.close_idle(origin)
        self._curl.close_idle(origin)

    def use(self, settings: ProxySettings) -> None:
        self._direct.use(settings)
        self._curl.use(settings)

    async def close(self) -> None:
        await self._curl.close()
        await self._direct.close()

    def _choose(self, request: UpstreamRequest) -> Upstream:
        if not (self._everywhere or request.origin.tls):
            return self._direct
        # libcurl gives no connection away, and sends no content with HEAD.
        if request.upgrade or (request.method == b"HEAD" and (request.chunked or request.content_length)):
            return self._direct
        return self._curl


def make_upstream(runtime: Runtime, settings: ProxySettings) -> Upstream:
    """Make what ``ConfigurableProxy.upstream`` asks for, with ``max_connections_per_target``."""
    upstream: Upstream
    if settings.upstream == "direct":
        upstream = DirectUpstream(runtime, settings, Attempts(runtime.loop), Resolver(runtime.loop))
    else:
        upstream = ChosenUpstream(runtime, settings)
    limit = settings.max_connections_per_target
    return LimitedUpstream(runtime, limit, upstream) if limit else upstream
