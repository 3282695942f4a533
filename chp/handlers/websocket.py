"""Tunnels: what follows a 101 is relayed as bytes, in both directions, whatever protocol it is.

Of a WebSocket, the lengths of frames are followed as well, so that a proxy that stops can close it
as RFC 6455, section 7.1.1 wants it.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

from chp.handlers.frames import Frames
from chp.routing.table import Route
from chp.runtime import NEVER, Runtime
from chp.sockets import bare_descriptor, end_writing, peer_has_left, write_through

# When one side has said its last byte, the other may go on for as long as it
# sends something this often (seconds). Else a peer that vanished would keep the pair for ever.
HALF_CLOSED_TIMEOUT = 60.0
# Seconds for the peers of a WebSocket to answer a Close, when the proxy stops.
LEAVING_TIMEOUT = 1.0


class TunnelObserver(Protocol):
    """Somebody who wants to know about one tunnel."""

    def tunnel_moved(self, from_client: bool, nbytes: int) -> None:
        """Bytes went from one end to the other."""

    def tunnel_ended(self, reason: str) -> None:
        """It is closed. ``reason`` says who began with it, or ``shutdown`` or ``timeout``."""


def open_tunnel(
    runtime: Runtime,
    route: Route,
    address: bytes,
    client: asyncio.Transport,
    upstream: asyncio.Transport,
    tunnels: set[Tunnel],
    *,
    websocket: bool,
) -> Tunnel:
    """Join two transports. They belong to the tunnel from now on. ``address`` is the client's."""
    tunnel = Tunnel(runtime, route, address, tunnels)
    tunnel.client = TunnelEnd(tunnel, client, Frames(masked=True) if websocket else None, is_client=True)
    tunnel.upstream = TunnelEnd(
        tunnel, upstream, Frames(masked=False) if websocket else None, is_client=False
    )
    tunnel.client.peer = tunnel.upstream
    tunnel.upstream.peer = tunnel.client
    client.set_protocol(tunnel.client)
    upstream.set_protocol(tunnel.upstream)
    return tunnel


class Tunnel:
    """A pair of ends, and what they share."""

    __slots__ = (
        "address",
        "client",
        "deadline",
        "end_reason",
        "observer",
        "open_ends",
        "patience",
        "route",
        "runtime",
        "tunnels",
        "upstream",
    )

    client: TunnelEnd
    upstream: TunnelEnd

    def __init__(self, runtime: Runtime, route: Route, address: bytes, tunnels: set[Tunnel]) -> None:
        self.runtime = runtime
        self.route = route
        self.address = address
        self.tunnels = tunnels
        self.open_ends = 2
        self.deadline = NEVER
        self.observer: TunnelObserver | None = None
        self.end_reason = ""
        self.patience = HALF_CLOSED_TIMEOUT
        tunnels.add(self)
        runtime.metrics.tunnels += 1
        runtime.ticker.limit_interval(HALF_CLOSED_TIMEOUT)

    def abort(self, reason: str = "shutdown") -> None:
        self.ending(reason)
        self.client.transport.abort()
        self.upstream.transport.abort()

    def leave(self) -> None:
        """The proxy stops: relay no more, and tell both peers where they can understand it."""
        self.ending("shutdown")
        self.patience = LEAVING_TIMEOUT
        self.runtime.ticker.limit_interval(LEAVING_TIMEOUT)
        self.half_closed()
        self.client.leave()
        self.upstream.leave()

    def deadline_passed(self) -> None:
        self.deadline = NEVER
        self.abort("timeout")

    def ending(self, reason: str) -> None:
        """Note why it ends: what came first counts."""
        self.end_reason = self.end_reason or reason

    def half_closed(self) -> None:
        if self.deadline == NEVER:
            self.runtime.ticker.watch(self)
        self.deadline = monotonic() + self.patience

    def end_lost(self) -> None:
        self.open_ends -= 1
        if self.open_ends:
            self.half_closed()
        else:
            self.tunnels.discard(self)
            self.runtime.metrics.tunnels -= 1
            self.runtime.clients.closed(self.address)
            self.runtime.ticker.forget(self)
            if self.observer is not None:
                self.observer.tunnel_ended(self.end_reason)


class TunnelEnd(asyncio.BufferedProtocol):
    """One end of a tunnel: what it receives, the peer sends."""

    __slots__ = (
        "_is_client",
        "_metrics",
        "_view",
        "descriptor",
        "ended",
        "frames",
        "peer",
        "transport",
        "tunnel",
    )

    peer: TunnelEnd

    def __init__(
        self, tunnel: Tunnel, transport: asyncio.Transport, frames: Frames | None, *, is_client: bool
    ) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.frames = frames  # that it has received; None: it is no WebSocket
        self.descriptor = bare_descriptor(transport)
        self.ended = False  # it has said its last byte
        # Of the runtime: a message is worth a look at few objects only.
        self._view = tunnel.runtime.view
        self._metrics = tunnel.runtime.metrics
        self._is_client = is_client

    @property
    def _side(self) -> str:
        return "client" if self._is_client else "upstream"

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        metrics, peer = self._metrics, self.peer
        if self._is_client:
            metrics.client_bytes_received += nbytes
            metrics.upstream_bytes_sent += nbytes
        else:
            metrics.upstream_bytes_received += nbytes
            metrics.client_bytes_sent += nbytes
        data = self._view[:nbytes]
        write_through(peer.transport, peer.descriptor, b"", data)
        frames = self.frames
        # What comes is mostly one small frame: to see that takes 50 ns, the walk 400.
        if frames is not None and (frames.left or not 5 < nbytes < 128 or data[1] != nbytes + frames.offset):
            frames.passed(data)
        tunnel = self.tunnel
        tunnel.route.touch()
        if tunnel.observer is not None:
            tunnel.observer.tunnel_moved(self._is_client, nbytes)
        if tunnel.deadline != NEVER:
            tunnel.half_closed()

    def send(self, data: bytes) -> None:
        """Send what the peer said before there was a tunnel."""
        if self._is_client:
            self._metrics.client_bytes_sent += len(data)
        else:
            self._metrics.upstream_bytes_sent += len(data)
        self.transport.write(data)
        if self.peer.frames is not None:
            self.peer.frames.passed(data)

    def leave(self) -> None:
        """Close; a WebSocket with a Close, unless that would stand in the middle of a frame."""
        transport, frames = self.transport, self.peer.frames
        self.tunnel.runtime.ticker.reading_resumed(self)
        transport.set_protocol(LeavingEnd(self.tunnel))
        if frames is None or frames.left or self.peer.ended:
            transport.abort()
        elif not transport.is_closing():
            transport.write(frames.close_frame())
            if transport.can_write_eof():
                # Bytes that nobody reads would make the kernel reset the connection, which
                # can throw away the Close: they are read until the peer has closed its side.
                end_writing(transport)
                transport.resume_reading()
            else:
                transport.close()

    def pause_writing(self) -> None:
        if not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()
            self.tunnel.runtime.ticker.reading_paused(self.peer)

    def resume_writing(self) -> None:
        self.tunnel.runtime.ticker.reading_resumed(self.peer)
        if not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def check_peer(self) -> None:
        # It may only have ended its direction, with data still on the way: then the rest passes.
        if self.tunnel.deadline == NEVER and peer_has_left(self.transport):
            self.tunnel.half_closed()

    def eof_received(self) -> bool:
        """Pass the end of one direction on; the other goes on where the transports can do that (not TLS)."""
        self.ended = True
        self.tunnel.ending(f"{self._side}_closed")
        peer = self.peer.transport
        if peer.is_closing():
            return False
        if self.peer.ended or not (peer.can_write_eof() and self.transport.can_write_eof()):
            peer.close()
            return False
        end_writing(peer)
        self.tunnel.half_closed()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.tunnel.runtime.ticker.reading_resumed(self)
        self.tunnel.ending(f"{self._side}_{'closed' if exc is None else 'reset'}")
        peer = self.peer.transport
        if exc is None:
            peer.close()  # what is still written is sent first
        else:
            peer.abort()
        self.tunnel.end_lost()


class LeavingEnd(asyncio.BufferedProtocol):
    """What was an end of a tunnel: it waits for its peer to close, and throws away what still comes."""

    __slots__ = ("_tunnel",)

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._tunnel.runtime.view

    def buffer_updated(self, nbytes: int) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        self._tunnel.end_lost()
