"""How the servers stop: nothing new comes in, what runs may end, and one line says what was cut."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from tornado.httpserver import HTTPServer

from chp.metrics import Metrics
from chp.servers.proxy import ProxyServer

# Seconds between two looks at what is still busy.
_INTERVAL = 0.02
# Seconds for the last bytes of tunnels to leave the process.
_TUNNEL_TIMEOUT = 0.1
# Seconds that aborted connections get to end.
_CLOSE_TIMEOUT = 2.0


async def stop_servers(
    servers: Sequence[HTTPServer],
    metrics: Metrics,
    log: logging.Logger,
    *,
    timeout: float,
    changing: Callable[[], bool],
) -> None:
    """Stop accepting, end what is idle and all tunnels, and wait for requests that are under way.

    After ``timeout`` seconds, what is left is reset. ``changing`` tells whether the route store is
    making a change: whoever asked the API for it gets his answer.
    """
    loop = asyncio.get_running_loop()
    begin = loop.time()
    tunnels = metrics.tunnels
    # Nothing new on any server, before the first connection is closed.
    for server in servers:
        server.stop()
    tunnels_end = loop.time() + _TUNNEL_TIMEOUT
    await asyncio.sleep(_INTERVAL)  # for those who waited to be accepted to send their requests
    _close_idle(servers)
    if metrics.client_connections:
        log.info("Waiting up to %g s for requests on %d connections", timeout, metrics.client_connections)
    while (metrics.client_connections or changing()) and loop.time() < begin + timeout:
        await asyncio.sleep(_INTERVAL)
        _close_idle(servers)  # a response that began before the stop may have promised to go on
    while metrics.tunnels and loop.time() < tunnels_end:
        await asyncio.sleep(_INTERVAL)
    requests = metrics.client_connections
    closing = asyncio.gather(*(server.close_all_connections() for server in servers))
    try:
        await asyncio.wait_for(closing, _CLOSE_TIMEOUT)
    except asyncio.TimeoutError:  # the builtin one only since Python 3.11
        log.warning("Connections did not close within %d s", _CLOSE_TIMEOUT)
    log.info("Stopped after %.1f s; cut: %d requests, %d tunnels", loop.time() - begin, requests, tunnels)


def _close_idle(servers: Sequence[HTTPServer]) -> None:
    for server in servers:
        if isinstance(server, ProxyServer):
            server.close_idle()
