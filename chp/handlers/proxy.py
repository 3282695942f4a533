"""One exchange: a client's request, the route that it takes, and the response on its way back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal

from chp.config.settings import ProxySettings
from chp.errors import BadRequest, LoopDetected, UpstreamError
from chp.handlers.errors import ErrorPages
from chp.handlers.fields import FieldRules
from chp.handlers.health import HEALTH_CONTENT_TYPE, HEALTH_PATH, Health
from chp.handlers.waiting import WaitingRequest
from chp.handlers.websocket import Tunnel, open_tunnel
from chp.http1.fields import parse_fields, write_fields
from chp.http1.framing import LAST_CHUNK, chunk, response_has_no_content
from chp.http1.head import RequestHead, ResponseHead
from chp.http1.location import REWRITTEN_STATUSES, rewrite_location
from chp.http1.request_target import RequestTarget, outgoing_target, parse_request_target
from chp.http1.response import local_response, reason_phrase
from chp.http1.target import Origin
from chp.routing.hosts import normal_host
from chp.routing.route import Route
from chp.routing.table import RouteTable
from chp.runtime import Runtime
from chp.servers.connection import ClientConnection, ClientExchange, RequestHandler
from chp.sockets import LONG
from chp.upstream.base import Receiver, Stream, Upstream, UpstreamRequest

if TYPE_CHECKING:
    from chp.handlers.access import AccessLog

ProxyRequestHook = Callable[[UpstreamRequest], None]


class ProxyHandler(RequestHandler):
    """Begins an :class:`Exchange` for each request that has a route."""

    def __init__(
        self,
        runtime: Runtime,
        settings: ProxySettings,
        table: RouteTable,
        upstream: Upstream,
        error_pages: ErrorPages,
        health: Health,
        proxy_request: ProxyRequestHook | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        """``proxy_request`` sees, and may change, the head of each outgoing request."""
        self.runtime = runtime
        self.use(settings)
        self.upstream = upstream
        self.error_pages = error_pages
        self.health = health
        self.proxy_request = proxy_request
        self.access_log = access_log
        self.tunnels: set[Tunnel] = set()
        self.ending = False
        self.table = table
        self.link = table.link

    def use(self, settings: ProxySettings) -> None:
        """Give these settings to exchanges from now on."""
        self.settings = settings
        self.rewrites_location = settings.auto_rewrite or bool(settings.protocol_rewrite)
        self.fields = FieldRules(settings)

    def handle(
        self, connection: ClientConnection, head: RequestHead, content: bytes | memoryview, complete: bool
    ) -> ClientExchange | None:
        log = self.access_log
        exchange = Exchange(self, connection, head) if log is None else log.exchange(self, connection, head)
        if head.target == HEALTH_PATH:
            exchange.send_local(*self.health.answer(), HEALTH_CONTENT_TYPE)
            return exchange
        requested = parse_request_target(head.method, head.target)
        if requested.authority is not None:
            head.replace_host(requested.authority)
        metrics = self.runtime.metrics
        if head.upgrade:
            metrics.requests_ws += 1
        else:
            metrics.requests_web += 1
        host = normal_host((head.host or b"").decode("latin-1")) if self.settings.host_routing else ""
        route = self.table.find(requested.decoded, host)
        behind = self.link.behind
        if behind is not None and (route is None or route.path == "/"):
            exchange.wait(behind, requested, host, content, complete)
        elif route is None:
            exchange.refuse(404, "")
        else:
            exchange.forward(route, requested, content, complete)
        return exchange

    def change_fields(self, block: bytes) -> bytes:
        return self.fields.response(block) if self.fields.changes_responses else block

    def refused(self, connection: ClientConnection, head: RequestHead | None, error: BadRequest) -> None:
        if self.access_log is not None:
            self.access_log.refused(self, connection, head, error)

    def end_tunnels(self, *, force: bool) -> None:
        self.ending = True
        for tunnel in list(self.tunnels):
            if force:
                tunnel.abort()
            else:
                tunnel.leave()


State = Literal[
    "waiting",  # for the upstream's answer
    "refused",  # the proxy itself answers
    "responding",  # the response's head was sent
    "tunnel",
    "done",
    "cut",  # one side broke off
]

_MOVES: Final[dict[State, frozenset[State]]] = {
    "waiting": frozenset({"refused", "responding", "tunnel", "done", "cut"}),
    "refused": frozenset({"responding", "done", "cut"}),
    "responding": frozenset({"done", "cut"}),
    "tunnel": frozenset(),
    "done": frozenset(),
    "cut": frozenset(),
}


class Exchange(ClientExchange, Receiver):
    """One request and its response. Its end, for whatever reason, is its last move."""

    __slots__ = (
        "_begun",
        "_chunked",
        "_connection",
        "_handler",
        "_no_content",
        "_origin",
        "_own_host",
        "_persist",
        "_route",
        "_started",
        "_state",
        "_status",
        "_stream",
        "head",
        "request_id",
    )

    def __init__(self, handler: ProxyHandler, connection: ClientConnection, head: RequestHead) -> None:
        self.head = head
        self._handler = handler
        self._connection = connection
        self._route: Route | None = None
        self._stream: Stream | None = None
        self._origin: Origin | None = None
        self._own_host = b""  # of the target, where Location is rewritten
        self._state: State = "waiting"
        self._begun = False
        self._status = 0
        self._chunked = False
        self._no_content = False
        self._persist = False
        self._started = monotonic()
        fields = handler.fields
        self.request_id = fields.request_id(head, connection.client) if fields.gives_ids else b""

    # -- for the handler ---------------------------------------------------

    def forward(
        self, route: Route, requested: RequestTarget, content: bytes | memoryview, complete: bool
    ) -> None:
        """Send the request to the route's target."""
        self._route = route
        handler, head = self._handler, self.head
        # The route may get another target before the response comes.
        self._origin = route.origin
        if handler.rewrites_location:
            self._own_host = route.target.host_field
        if handler.runtime.log.isEnabledFor(logging.DEBUG):
            kind = "WS" if head.upgrade else "WEB"
            handler.runtime.log.debug("PROXY %s %s to %s", kind, _path(head), route.origin)
        try:
            request = self._outgoing_request(route, requested)
        except LoopDetected as error:
            self.refuse(508, f"{error}; route {route.path} to {route.origin}", ("loop", route.path))
            return
        if handler.proxy_request is not None:
            try:
                handler.proxy_request(request)
            except Exception:
                handler.runtime.log.exception("Error in proxy_request")
                self.refuse(500, "proxy_request failed")
                return
        if content:
            route.touch()
        self._stream = handler.upstream.open(request, content, complete, self)

    def wait(
        self,
        behind: asyncio.Future[None],
        requested: RequestTarget,
        host: str,
        content: bytes | memoryview,
        complete: bool,
    ) -> None:
        """Look for a route when the table has caught up with its store."""
        self._handler.runtime.metrics.store_waits += 1
        self._stream = WaitingRequest(self, behind, requested, host, bytes(content), complete)
        self._connection.pause_request()

    def find_route(self, requested: RequestTarget, host: str, content: bytes, complete: bool) -> None:
        """Go on after :meth:`wait`."""
        self._stream = None
        self._connection.resume_request()
        route = self._handler.table.find(requested.decoded, host)
        if route is None:
            self.refuse(404, "")
        else:
            self.forward(route, requested, content, complete)

    def refuse(self, status: int, reason: str, kind: Hashable = None) -> None:
        """Answer with an error page; an upgrade gets the bare status.

        Of many with the same ``kind``, the log has one and their number.
        """
        self._move("refused")
        self._route = None  # whatever the client still sends, nobody gets it
        runtime = self._handler.runtime
        runtime.metrics.requests_proxy[status] += 1
        level = logging.ERROR if status >= 500 else logging.WARNING
        self._log(level, f"{status} {self._shown} {reason}".rstrip(), kind)
        self._stream = None
        if self.head.upgrade:
            self.send_local(status, reason_phrase(status), b"text/plain")
        else:
            self._stream = self._handler.error_pages.open(self, status)

    def send_local(self, status: int, content: bytes, content_type: bytes) -> None:
        """Answer with a response of our own, whole."""
        if self._state == "cut":
            return
        self._status = status
        self._begun = True
        persist = self._connection.may_persist
        self._connection.send(
            local_response(
                status,
                content,
                content_type=content_type,
                close=not persist,
                head_only=self.head.method == b"HEAD",
                keep_alive=persist and self.head.http10,
                change=self._change_fields if self._handler.fields.changes_responses else None,
            )
        )
        self._persist = persist
        self._finish()

    def abort_stream(self) -> None:
        """Give up what the upstream was asked for."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.abort()

    # -- from the client's connection --------------------------------------

    @property
    def response_begun(self) -> bool:
        return self._begun

    @property
    def over(self) -> bool:
        return self._state in ("done", "cut")

    def content_received(self, content: bytes | memoryview, complete: bool) -> None:
        if self._stream is None:
            return
        if self._route is None:
            if isinstance(self._stream, WaitingRequest):
                self._stream.send(content, complete)
            return
        if content:
            self._route.touch()
        self._stream.send(content, complete)

    def pause_response(self) -> None:
        if self._stream is not None:
            self._stream.pause_response()

    def resume_response(self) -> None:
        if self._stream is not None:
            self._stream.resume_response()

    def client_gone(self) -> None:
        if not self.over:
            self._move("cut")
            self.abort_stream()

    # -- from the upstream -------------------------------------------------

    def informational(self, head: ResponseHead) -> None:
        # RFC 9110, section 15.2: an HTTP/1.0 client does not know them.
        if not self.head.http10:
            self._connection.send(_head(head, b""))

    def response_received(
        self, head: ResponseHead | None, content: bytes | memoryview, complete: bool
    ) -> None:
        connection = self._connection
        data = b"" if head is None else self._response_head(head)
        if complete:
            self._stream = None
        if content and not self._no_content:
            if self._chunked:
                content = chunk(bytes(content))
            if len(content) < LONG:
                data += content  # to leave in one packet with the head
            else:
                connection.send(data, content)
                data = b""
        if complete and self._chunked:
            data += LAST_CHUNK
        if data:
            connection.send(data)
        if self._status < 300 and self._route is not None and (content or complete):
            self._route.touch()
        if complete:
            self._finish()

    def upgraded(self, head: ResponseHead, transport: asyncio.Transport, early: bytes) -> None:
        if self._connection.lost:
            # Its connection_lost() is on the way, and over TLS no longer for whoever gets the transport now.
            transport.abort()
            return
        self._move("tunnel")
        self._stream = None
        handler = self._handler
        handler.runtime.metrics.requests_proxy[101] += 1
        protocol = head.upgrade or self.head.upgrade
        switch = b"\r\nConnection: Upgrade\r\nUpgrade: " + protocol
        if handler.fields.changes_responses:
            head.block = self._change_fields(head.block)
        self._connection.send(_head(head, switch))
        write_paused = self._connection.write_paused
        client, ahead = self._connection.detach()
        tunnel = self._open_tunnel(client, transport, websocket=protocol.lower() == b"websocket")
        if write_paused:
            tunnel.client.pause_writing()
        if early:
            tunnel.client.send(early)
        if ahead:
            tunnel.upstream.send(ahead)
            if tunnel.observer is not None:
                tunnel.observer.tunnel_moved(True, len(ahead))
        if handler.ending:
            tunnel.leave()

    def failed(self, error: UpstreamError) -> None:
        self._stream = None
        if self.over:
            return
        kind = (self._begun, self._origin, error.reason)
        if self._begun:
            self._log(logging.ERROR, f"Response to {self._shown} cut: {error}", kind)
            self._move("cut")
            self._connection.abort("upstream_failed")
        else:
            self.refuse(503, str(error), kind)

    def pause_request(self) -> None:
        self._connection.pause_request()

    def resume_request(self) -> None:
        self._connection.resume_request()

    # -- private -----------------------------------------------------------

    def _open_tunnel(
        self, client: asyncio.Transport, upstream: asyncio.Transport, *, websocket: bool
    ) -> Tunnel:
        assert self._route is not None
        handler, address = self._handler, self._connection.client
        return open_tunnel(
            handler.runtime, self._route, address, client, upstream, handler.tunnels, websocket=websocket
        )

    def _outgoing_request(self, route: Route, requested: RequestTarget) -> UpstreamRequest:
        """Apply the rules of forwarding to the request's head."""
        handler, head = self._handler, self.head
        settings, fields = handler.settings, handler.fields
        block = head.forwarded_block
        if head.host is None or settings.change_origin:
            # HTTP/1.0 needs no Host, ours does (RFC 9112, section 3.2).
            block = fields.outgoing(head, route.target.host_field, self._connection)
        elif block is None:
            block = head.forwarded_block = fields.outgoing(head, head.host, self._connection)
        if self.request_id:
            block += fields.id_line(self.request_id)
        return UpstreamRequest(
            route.origin,
            head.method,
            outgoing_target(
                requested,
                None if route.plain or not settings.prepend_path else route.target,
                cut_segments=0 if settings.include_prefix else route.depth,
            ),
            block,
            content_length=head.content_length,
            chunked=head.chunked,
            upgrade=head.upgrade,
        )

    def _response_head(self, head: ResponseHead) -> bytes:
        """Begin the response: decide its framing, and whether the connection stays."""
        handler, request, status = self._handler, self.head, head.status
        if self._state == "waiting":
            metrics = handler.runtime.metrics
            metrics.requests_proxy[status] += 1
            metrics.first_byte_seconds.observe(monotonic() - self._started)
        self._move("responding")
        self._begun = True
        self._status = status
        if handler.rewrites_location and status in REWRITTEN_STATUSES:
            self._rewrite_location(head)
        if handler.fields.changes_responses:
            head.block = self._change_fields(head.block)
        persist = self._connection.may_persist
        self._no_content = no_content = response_has_no_content(request.method, status)
        framing = b""
        if head.content_length is not None:
            if status != 204:  # RFC 9110, section 8.6
                framing = b"\r\nContent-Length: %d" % head.content_length
        elif no_content:
            if head.chunked and status != 204 and not request.http10:
                framing = b"\r\nTransfer-Encoding: chunked"
        elif request.http10:
            persist = False  # the end of the connection ends the content
        else:
            self._chunked = True
            framing = b"\r\nTransfer-Encoding: chunked"
        self._persist = persist
        if not persist:
            framing += b"\r\nConnection: close"
        elif request.http10:
            framing += b"\r\nConnection: keep-alive"
        return _head(head, framing)

    @property
    def _shown(self) -> str:
        return f"{self.head.method.decode()} {_path(self.head)}"

    def _log(self, level: int, line: str, kind: Hashable = None) -> None:
        if self.request_id:
            line += f" (request {self.request_id.decode()})"
        runtime = self._handler.runtime
        if kind is None:
            runtime.log.log(level, "%s", line)
        else:
            runtime.repeats.write(level, kind, line)

    def _change_fields(self, block: bytes) -> bytes:
        return self._handler.fields.response(block, self.request_id)

    def _rewrite_location(self, head: ResponseHead) -> None:
        settings = self._handler.settings
        if not self._own_host:
            return
        host = self.head.host if settings.auto_rewrite else None
        protocol = settings.protocol_rewrite.encode()
        head.block = write_fields(
            (
                name,
                rewrite_location(value, self._own_host, host, protocol)
                if name.lower() == b"location"
                else value,
            )
            for name, value in parse_fields(head.block)
        )

    def _finish(self) -> None:
        self._move("done")
        runtime = self._handler.runtime
        runtime.metrics.request_seconds.observe(monotonic() - self._started)
        self._connection.response_complete(self._persist)

    def _move(self, state: State) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"an exchange can't go from {self._state} to {state}")
        self._state = state


def _head(head: ResponseHead, more: bytes) -> bytes:
    """Write a response's head, with a block of more fields behind its own."""
    return b"HTTP/1.1 %d %b%b%b\r\n\r\n" % (head.status, head.reason, head.block, more)


def _path(head: RequestHead) -> str:
    """The request's target for the log: without query and fragment, which may hold secrets."""
    return head.target.partition(b"?")[0].partition(b"#")[0].decode("latin-1")
