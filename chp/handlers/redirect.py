"""The server of ``--redirect-port``: sends everybody to the same URL with https."""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from chp.handlers.health import HEALTH_CONTENT_TYPE, HEALTH_PATH, Health
from chp.http1.fields import is_valid_host

BODY_TIMEOUT = 5.0  # seconds for a request body, which is read and forgotten
MAX_BODY_SIZE = 1 << 40  # bytes; the time is the limit

_ABSOLUTE_FORM = re.compile(r"https?://([^/?#]+)(.*)", re.IGNORECASE)
_PORT = re.compile(r":[0-9]*\Z")


def make_redirect_application(https_port: int, health: Health) -> HTTPServerConnectionDelegate:
    """Make what a Tornado ``HTTPServer`` needs for redirecting to ``https_port``.

    It is no ``tornado.web.Application``: those refuse methods that they don't
    know, and collect bodies.
    """
    return _RedirectServer(https_port, health)


def location(https_port: int, hosts: list[str], target: str) -> str | None:
    """Return where a request goes to: the same URL, unchanged, on the https port.

    ``hosts`` are the values of Host (RFC 9112, section 3.2: exactly one, and
    an absolute request-target stands above it). None: that can't be told.
    """
    if len(hosts) != 1:
        return None
    host = hosts[0]
    if not target.startswith("/"):
        match = _ABSOLUTE_FORM.fullmatch(target)
        if match is None:
            return None
        host, target = match.groups()
        if not target.startswith("/"):
            target = "/" + target
    if not is_valid_host(host.encode("latin1")):
        return None
    host = _PORT.sub("", host)
    if not host:
        return None
    port = "" if https_port == 443 else f":{https_port}"
    return f"https://{host}{port}{target}"


class _RedirectServer(HTTPServerConnectionDelegate):
    def __init__(self, https_port: int, health: Health) -> None:
        self.https_port = https_port
        self.health = health

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        assert isinstance(request_conn, HTTP1Connection)
        return _Redirect(self.https_port, self.health, request_conn)


class _Redirect(HTTPMessageDelegate):
    """One request: answered by its head, and over when its body is."""

    def __init__(self, https_port: int, health: Health, connection: HTTP1Connection) -> None:
        self.https_port = https_port
        self.health = health
        self.connection = connection

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        assert isinstance(start_line, RequestStartLine)
        self.connection.set_max_body_size(MAX_BODY_SIZE)
        self.connection.set_body_timeout(BODY_TIMEOUT)
        fields = HTTPHeaders()
        body = b""
        if start_line.path.encode("latin1") == HEALTH_PATH:
            status, body = self.health.answer()
            fields["Content-Type"] = HEALTH_CONTENT_TYPE.decode()
        else:
            url = location(self.https_port, headers.get_list("Host"), start_line.path)
            if url is not None:
                status = 301
                fields["Location"] = url
            else:
                status = 400
                body = (
                    b"This server is HTTPS-only on port %d, but an HTTP request was made"
                    b" and the host could not be determined from the request." % self.https_port
                )
        fields["Date"] = formatdate(usegmt=True)
        fields["Content-Length"] = str(len(body))
        if start_line.method == "HEAD":
            body = b""
        self.connection.write_headers(ResponseStartLine("", status, HTTPStatus(status).phrase), fields, body)
        if headers.get("Expect", "").lower() == "100-continue":
            self.connection.finish()  # or Tornado would ask for the body

    def finish(self) -> None:
        self.connection.finish()
