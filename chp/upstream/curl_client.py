"""Tornado's curl client for one origin: libcurl's multi interface on the event loop."""

from __future__ import annotations

import asyncio
import os
from time import monotonic
from typing import TYPE_CHECKING, Any

import pycurl
from tornado.curl_httpclient import CurlAsyncHTTPClient

from chp.errors import UpstreamError
from chp.http1.target import Origin
from chp.runtime import NEVER
from chp.upstream.addresses import Addresses, is_address
from chp.upstream.curl_handle import CurlHandle

if TYPE_CHECKING:
    from chp.upstream.curl import CurlUpstream
    from chp.upstream.curl_stream import CurlStream

# Handles that are kept for the next requests.
_MAX_FREE = 64
# Seconds behind a transfer, because the connection may be closed at its end.
_SWEEP_DELAY = 0.1
# As many sockets are looked at without delay when a transfer has failed.
_SWEPT_AT_ONCE = 16
# Seconds between two looks at which connections are still open.
_SWEEP_INTERVAL = 1.0


class CurlClient(CurlAsyncHTTPClient):
    """Runs any number of transfers to one origin, with connections that nobody else uses.

    Of Tornado's client it keeps the multi handle and when to call it. Its own
    are the requests (streams instead of ``HTTPRequest`` and ``HTTPResponse``)
    and, because they cost more than the transfer itself, timers and handlers.
    Callbacks of libcurl only take notes; :meth:`_act` acts on them afterwards.
    """

    def initialize(self, upstream: CurlUpstream, origin: Origin) -> None:  # type: ignore[override]
        self.origin = origin
        self.settings = upstream.settings
        self.metrics = upstream.runtime.metrics
        self.attempts = upstream.attempts
        # Of the origin's name. libcurl looks nothing up: its threads would hold up whoever closes it.
        self.has_name = origin.scheme != "unix" and not is_address(origin.host)
        self.addresses: Addresses = ()
        self.active: set[CurlStream] = set()
        self.deadline = monotonic() + _SWEEP_INTERVAL  # perhaps nothing begins: it has no address
        self._upstream = upstream
        self._loop = upstream.runtime.loop
        self._ticker = upstream.runtime.ticker
        self._poller = upstream.sockets
        self._handles: dict[pycurl.Curl, CurlHandle] = {}
        self._free: list[CurlHandle] = []
        self._touched: list[CurlStream] = []
        self._waking: list[CurlStream] = []
        self._soon: asyncio.Handle | None = None
        self._retired = False
        # libcurl's timer.
        self._due = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        # Open sockets, with what tells them from later ones of the same number.
        self._sockets: dict[int, int] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle = 0
        self._idle_since = monotonic()
        super().initialize(max_clients=0)  # calls back at once
        self._multi.setopt(pycurl.M_MAXCONNECTS, max(1, self.settings.pool_max_idle))
        self._ticker.watch(self)

    # -- for streams -------------------------------------------------------

    def begin(self, stream: CurlStream, *, fresh: bool = False) -> None:
        """Start the transfer of a stream; ``fresh``: on a new connection."""
        if self._free:
            handle = self._free.pop()
        else:
            handle = CurlHandle(self, self.origin, self.settings)
            self._handles[handle.curl] = handle
        handle.stream, stream.handle = stream, handle
        stream.began = self._loop.time()
        handle.prepare(stream.request, fresh=fresh)
        self.active.add(stream)
        if self.settings.upstream_timeout is not None:
            self._ticker.watch(stream)
        self._count_idle()
        self._multi.add_handle(handle.curl)
        self._act_soon()

    def release(self, stream: CurlStream) -> None:
        """End the transfer of a stream; its connection is closed unless the transfer is complete."""
        handle, stream.handle = stream.handle, None
        if handle is None:
            return
        failed = stream.result is None or stream.result[0]
        self._multi.remove_handle(handle.curl)
        handle.stream = None
        if len(self._free) < _MAX_FREE:
            self._free.append(handle)
        else:
            del self._handles[handle.curl]
            handle.close()
        self.active.discard(stream)
        self._ticker.forget(stream)
        self._count_idle()
        if failed and len(self._sockets) <= _SWEPT_AT_ONCE:
            self._sweep()
        elif self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_DELAY, self._sweep)
        if not self.active:
            self._idle_since = monotonic()
            self.deadline = min(self.deadline, self._idle_since + _SWEEP_INTERVAL)
            if self._retired:
                self._act_soon()

    def touch(self, stream: CurlStream) -> None:
        """Note that a stream has something to deliver."""
        if not stream.touched:
            stream.touched = True
            self._touched.append(stream)

    def wake(self, stream: CurlStream) -> None:
        """Resume a paused transfer, in the loop's next turn."""
        self._waking.append(stream)
        self._act_soon()

    def was_reused(self, stream: CurlStream) -> bool:
        """Tell whether the stream's connection was an old one."""
        return stream.handle is not None and not stream.handle.curl.getinfo(pycurl.NUM_CONNECTS)

    def os_errno(self, stream: CurlStream) -> int:
        return int(stream.handle.curl.getinfo(pycurl.OS_ERRNO)) if stream.handle is not None else 0

    def begin_elsewhere(self, stream: CurlStream, error: UpstreamError) -> bool:
        """See whether the target has moved, after its addresses could not be connected to.

        Returns False if that is not to be expected. Else the stream begins again, or fails.
        """
        return self._upstream.begin_elsewhere(stream, error)

    def renew(self) -> None:
        """Use no connection for another request: bytes came that belong to none."""
        self._upstream.close_idle(self.origin)

    # -- for the upstream --------------------------------------------------

    @property
    def has_idle(self) -> bool:
        return self._idle > 0 and self.settings.pool_max_idle > 0

    def retire(self) -> None:
        """Take no more streams: close when the last one is over, at once if there is none."""
        self._retired = True
        if not self.active:
            self._act_soon()

    def close(self) -> None:
        """Abort everything and close all connections."""
        if self._multi is None:
            return
        for stream in list(self.active):
            stream.abort()
        for handle in (self._soon, self._timer, self._sweeper):
            if handle is not None:
                handle.cancel()
        self._ticker.forget(self)
        for fd in list(self._sockets):
            self._forget_socket(fd)
        self._count_idle()
        self._curls = list(self._handles)
        super().close()
        self._poller.drop(self)
        self._handles.clear()
        self._free.clear()
        self._upstream.forget(self)

    def deadline_passed(self) -> None:
        """Look after connections: which are open, and which have been idle for long enough."""
        self._sweep()
        if self.origin.tls:
            self._end_tls()
            if self._multi is None:
                return
        now = monotonic()
        self.deadline = now + _SWEEP_INTERVAL
        if self.active:
            return
        idle_until = self._idle_since + self.settings.pool_idle_timeout
        if self._retired or now >= idle_until or not self._sockets:
            self.close()
        else:
            self.deadline = min(self.deadline, idle_until)

    # -- for the sockets ---------------------------------------------------

    def socket_ready(self, fd: int, events: int) -> None:
        self._act(fd, events)

    def idle_socket_ready(self, fd: int) -> None:
        # It is closed, or says what nobody asked for. While others are busy, libcurl
        # finds out before it uses this one; else now is the time to close it.
        if not self.active:
            self.close()

    # -- called by libcurl -------------------------------------------------

    def socket_opened(self, fd: int) -> None:
        self._forget_socket(fd)
        self.metrics.upstream_connections += 1
        self._sockets[fd] = os.fstat(fd).st_ino
        self.deadline = min(self.deadline, monotonic() + _SWEEP_INTERVAL)

    def _handle_socket(self, event: int, fd: int, multi: pycurl.CurlMulti, data: Any) -> None:
        """libcurl waits for other events of a socket."""
        self._poller.watch(self, fd, 0 if event == pycurl.POLL_REMOVE else event)

    def _set_timeout(self, msecs: int) -> None:
        """libcurl wants to be called after a time, or (-1) no longer."""
        self._due = NEVER if msecs < 0 else self._loop.time() + msecs / 1000

    def _handle_force_timeout(self) -> None:
        """Do nothing. Tornado before 6.6 has libcurl act each second, and then looks for its own requests."""

    # -- private -----------------------------------------------------------

    def _act_soon(self) -> None:
        if self._soon is None:
            self._soon = self._loop.call_soon(self._act_now)

    def _act_now(self) -> None:
        self._soon = None
        waking, self._waking = self._waking, []
        for stream in waking:
            stream.unpause()
        self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _timer_fired(self) -> None:
        self._timer, self._timer_at = None, NEVER
        if self._due <= self._loop.time():
            self._act(pycurl.SOCKET_TIMEOUT, 0)
        else:
            self._set_timer()

    def _set_timer(self) -> None:
        """Keep a timer that fires no later than libcurl needs it; a later need takes no new timer."""
        if self._due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = self._due
            self._timer = self._loop.call_at(self._due, self._timer_fired)

    def _act(self, fd: int, events: int) -> None:
        """Let libcurl work, then pass on what it brought."""
        if fd == pycurl.SOCKET_TIMEOUT:
            self._due = NEVER
        _, running = self._multi.socket_action(fd, events)
        if running != len(self.active):
            self._read_results()
        try:
            while self._touched:
                self._touched.pop().deliver()
        finally:
            if self._touched:  # a receiver raised; that is no fault of the others
                self._act_soon()
        if self._multi is None:
            return
        if self._retired and not self.active:
            self.close()
            return
        self._set_timer()

    def _read_results(self) -> None:
        _, succeeded, failed = self._multi.info_read()
        for curl in succeeded:
            self._note_result(curl, 0, "")
        for curl, code, text in failed:
            self._note_result(curl, code, text)

    def _note_result(self, curl: pycurl.Curl, code: int, text: str) -> None:
        stream = self._handles[curl].stream
        if stream is not None:
            stream.result = (code, text)
            self.touch(stream)

    def _count_idle(self) -> None:
        """Keep the gauge of idle connections, and tell libcurl how many it may keep open."""
        idle = max(0, len(self._sockets) - len(self.active))
        self.metrics.upstream_connections_idle += idle - self._idle
        self._idle = idle
        if len(self._sockets) > self.settings.pool_max_idle:
            self._multi.setopt(
                pycurl.M_MAXCONNECTS, max(1, len(self.active) + self.settings.pool_max_idle - 1)
            )

    def _sweep(self) -> None:
        """Forget sockets that libcurl has closed; it does not say when."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for fd, inode in list(self._sockets.items()):
            try:
                if os.fstat(fd).st_ino == inode:
                    continue
            except OSError:
                pass
            self._forget_socket(fd)
        self._count_idle()

    def _end_tls(self) -> None:
        """Let libcurl look at connections that wait for the other side's end of TLS.

        It gives them two seconds, but sets no timer before it is called for them,
        and does not say which they are.
        """
        for fd in list(self._sockets):
            if self._poller.reads(fd):
                self._multi.socket_action(fd, pycurl.CSELECT_IN)
        self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _forget_socket(self, fd: int) -> None:
        if self._sockets.pop(fd, None) is not None:
            self.metrics.upstream_connections -= 1
