"""The REST API: shows and changes the route table (CHP's ``/api/routes``)."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import math
import re
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from chp import __version__
from chp.errors import BadRequest, InvalidTarget, StorageError
from chp.handlers.route_queries import parse_changes, parse_date, parse_route_data
from chp.http1.request_target import decode_path, parse_request_target
from chp.metrics import Metrics
from chp.routing.table import RouteTable, printable

ROUTES_PER_WRITE = 100  # of a long table: less than a millisecond of work, then others have their turn
BODY_TIMEOUT = 60.0  # seconds for the body of a request
REFUSED_BODY_TIMEOUT = 5.0  # the same, when the answer has been sent already
MAX_LENGTH_DIGITS = 15  # of Content-Length: a petabyte

_ROOT = re.compile(rb"/api/?")
_ROUTES = re.compile(rb"/api/routes(/.*)?", re.DOTALL)
_WITH_BODY = frozenset({"POST", "PATCH"})
# CHP knows "token", RFC 6750 "Bearer".
_AUTHORIZATION = re.compile(r"(?:token|bearer)\s+(\S+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Context:
    table: RouteTable
    metrics: Metrics
    log: logging.Logger
    auth_token: bytes  # empty: everybody may do everything
    max_body_size: int
    instance: str  # tells this process from the next one that listens here


def make_api_application(
    table: RouteTable, metrics: Metrics, log: logging.Logger, *, auth_token: str, max_body_size: int
) -> Application:
    """Make the application of the REST API's server.

    Without ``auth_token`` the API is open. ``max_body_size`` is the limit of
    a posted body in bytes.
    """
    # The environment may hold bytes that are no text.
    token = auth_token.encode("utf-8", "surrogateescape")
    context = _Context(table, metrics, log, token, max_body_size, secrets.token_hex(8))
    return Application(
        [],
        default_handler_class=_ApiHandler,
        default_handler_args={"context": context},
        log_function=lambda handler: None,  # each request has its line already
    )


@stream_request_body
class _ApiHandler(RequestHandler):
    """One request to the API, whatever its path: only this knows them in their raw form."""

    def initialize(self, context: _Context) -> None:
        self.context = context
        self.routes_path: str | None = None  # the decoded path of a route; None: /api
        self.refused = False
        self.recorded = False
        self.reason = ""  # for the log
        self.body = bytearray()

    # What Tornado calls, in this order.

    def set_default_headers(self) -> None:
        # CHP's answers name no server, and only those with JSON have a type.
        self.clear_header("Server")
        self.clear_header("Content-Type")

    def prepare(self) -> None:
        """Decide by the head alone whether the request is to be answered at all."""
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        connection.set_max_body_size(sys.maxsize)  # data_received() counts
        connection.set_body_timeout(BODY_TIMEOUT)
        refusal = self._refusal()
        if refusal is not None:
            fields = self.request.headers
            # Tornado would ask for the first, and answer again because of the other.
            no_body_comes = (
                fields.get("Expect", "").lower() == "100-continue"
                or len(fields.get("Content-Length", "")) > MAX_LENGTH_DIGITS
            )
            if no_body_comes:
                self.set_header("Connection", "close")
            self._refuse(*refusal)
            if no_body_comes:
                self.finish()

    def data_received(self, chunk: bytes) -> None:
        if self.refused or self.request.method not in _WITH_BODY:
            return  # a body that nobody asked for
        if len(self.body) + len(chunk) > self.context.max_body_size:
            self.body.clear()
            self._refuse(413, "Body too large")
            return
        self.body += chunk

    async def answer(self) -> None:
        """Answer, now that the body is there."""
        if self.refused:
            self.finish()
        elif self.routes_path is None:
            self._finish_json({"name": "chp", "version": __version__, "instance": self.context.instance})
        elif self.request.method == "POST":
            await self._add_route(self.routes_path)
        elif self.request.method == "PATCH":
            await self._change_routes()
        elif self.request.method == "DELETE":
            await self._remove_route(self.routes_path)
        elif self.routes_path in ("", "/"):
            await self._show_table()
        else:
            self._show_route(self.routes_path)

    get = head = post = delete = patch = put = options = answer

    def write_error(self, status_code: int, **kwargs: object) -> None:
        # A method that Tornado does not know has not come to prepare().
        refusal = self._refusal() if status_code == 405 else None
        self._answer(*(refusal or (status_code, self._reason)))
        self.finish()

    def log_exception(self, typ: object, value: BaseException | None, tb: object) -> None:
        if value is not None and not isinstance(value, (HTTPError, StreamClosedError)):
            self.context.log.error("Error in handler for %s", self._request_line(), exc_info=value)

    def on_finish(self) -> None:
        self._record()

    def compute_etag(self) -> None:
        return None

    # Refusals.

    def _refusal(self) -> tuple[int, str] | None:
        """Return the status and text of a request that goes no further, by its head.

        Sets ``routes_path`` on the way.
        """
        request = self.request
        assert request.method is not None
        assert request.uri is not None
        try:
            path = parse_request_target(request.method.encode(), request.uri.encode("latin1")).path
        except (BadRequest, UnicodeDecodeError):
            return 400, "Invalid request target"
        routes = _ROUTES.fullmatch(path)
        if routes is None and _ROOT.fullmatch(path) is None:
            return 404, "Not Found"
        if routes is None:
            allowed: tuple[str, ...] = ("GET",)
        elif routes[1] in (None, b"/"):
            allowed = ("GET", "POST", "PATCH", "DELETE")
        else:
            allowed = ("GET", "POST", "DELETE")
        if request.method not in allowed:
            self.set_header("Allow", ", ".join(allowed))
            return 405, "Method not supported"
        if routes is not None:
            self.routes_path = decode_path(routes[1] or b"")
            if not self._authorized():
                return 403, ""
        if request.method in _WITH_BODY:
            length = request.headers.get("Content-Length", "")
            if length.isdecimal() and (  # or Tornado refuses it
                len(length) > MAX_LENGTH_DIGITS or int(length) > self.context.max_body_size
            ):
                return 413, "Body too large"
        return None

    def _authorized(self) -> bool:
        token = self.context.auth_token
        if not token:
            return True
        match = _AUTHORIZATION.fullmatch(self.request.headers.get("Authorization", ""))
        return match is not None and hmac.compare_digest(match[1].encode("latin1"), token)

    def _refuse(self, status: int, text: str) -> None:
        """Send the whole answer now, and read what is left of the body without keeping it.

        A connection that is closed with bytes unread is reset, and a reset
        can overtake the answer.
        """
        self.refused = True
        self._answer(status, text)
        self._record()
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        connection.set_body_timeout(REFUSED_BODY_TIMEOUT)
        self.set_header("Content-Length", len(text))
        self.flush()

    # Routes.

    async def _show_table(self) -> None:
        query = parse_qs(self.request.query, keep_blank_values=True)
        since = query.get("inactiveSince", [""])[0] or query.get("inactive_since", [""])[0]
        try:
            limit = parse_date(since) if since else math.inf
        except ValueError:
            self._answer(400, f"Invalid datestamp '{since}' must be ISO8601.", "Invalid datestamp")
            self.finish()
            return
        routes = list(self.context.table.routes().values())
        separator = "{"
        self.set_header("Content-Type", "application/json")
        try:
            for start in range(0, len(routes), ROUTES_PER_WRITE):
                if start:
                    if self.request.version != "HTTP/1.0":  # which knows no chunks
                        await self.flush()
                    await asyncio.sleep(0)  # a flush that need not wait does not yield
                part = json.dumps(
                    {
                        route.path: route.as_json()
                        for route in routes[start : start + ROUTES_PER_WRITE]
                        if route.last_activity < limit
                    },
                    separators=(",", ":"),
                )
                if part != "{}":
                    self.write(separator + part[1:-1])
                    separator = ","
            self.write("}" if separator == "," else "{}")
            self.finish()
        except StreamClosedError:
            return  # the client has left
        self.context.metrics.api_route_get += 1

    def _show_route(self, path: str) -> None:
        route = self.context.table.get(path)
        if route is None:
            self._answer(404)
            self.finish()
        else:
            self._finish_json(route.as_json())

    async def _add_route(self, path: str) -> None:
        with self._failures_answered():
            await self.context.table.add(path, parse_route_data(bytes(self.body)))
            self._answer(201)
            self.context.metrics.api_route_add += 1
        self.finish()

    async def _change_routes(self) -> None:
        with self._failures_answered():
            added, removed = await self.context.table.change(parse_changes(bytes(self.body)))
            self._answer(204)
            self.context.metrics.api_route_add += added
            self.context.metrics.api_route_delete += removed
        self.finish()

    async def _remove_route(self, path: str) -> None:
        with self._failures_answered():
            removed = await self.context.table.remove(path)
            self._answer(204 if removed else 404)
            self.context.metrics.api_route_delete += 1
        self.finish()

    @contextlib.contextmanager
    def _failures_answered(self) -> Iterator[None]:
        """Answer what can go wrong with a change: then nothing has changed."""
        try:
            yield
        except BadRequest as error:
            self._answer(error.status, str(error))
        except InvalidTarget as error:
            self._answer(400, str(error), "Invalid target")  # the text shows the whole URL
        except StorageError as error:
            self._answer(503, str(error))

    # Answers.

    def _finish_json(self, value: dict[str, object]) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value, separators=(",", ":")))

    def _answer(self, status: int, text: str = "", reason: str | None = None) -> None:
        """Set the answer. ``reason`` goes to the log; it is the text unless that shows too much."""
        self.set_status(status)
        if text:
            self.write(text)
            self.clear_header("Content-Type")  # Tornado's guess
        self.reason = text if reason is None else reason

    def _request_line(self) -> str:
        assert self.request.uri is not None
        return f"{self.request.method} {printable(self.request.uri.partition('?')[0])}"

    def _record(self) -> None:
        """Count the request and write its line, once."""
        if self.recorded:
            return
        self.recorded = True
        status = self.get_status()
        self.context.metrics.requests_api[status] += 1
        if status == 413:
            self.context.metrics.limits_reached["api_max_body_size"] += 1
        level = logging.INFO if status < 400 else logging.WARNING if status < 500 else logging.ERROR
        if status == 200 and self.routes_path is None:
            level = logging.DEBUG  # a Hub asks every few seconds
        line = f"{status} {self._request_line()} {printable(self.reason)}"
        self.context.log.log(level, "%s", line.rstrip())
