"""A client of the REST API for programs that change routes: over TCP, TLS or a unix socket."""

from __future__ import annotations

import socket
import ssl
from typing import Any
from urllib.parse import unquote

from tornado.httpclient import HTTPClientError, HTTPRequest, HTTPResponse
from tornado.netutil import DefaultLoopResolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from chp.errors import ApiError

CONNECT_TIMEOUT = 3.0  # seconds
REQUEST_TIMEOUT = 20.0

_UNIX = "http+unix://"


async def fetch(
    url: str, *, method: str, token: str, body: str | None = None, tls: ssl.SSLContext | None = None
) -> bytes:
    """Ask the API, over a connection of its own; returns the content of a 2xx answer.

    ``url`` is an ``http``, ``https`` or ``http+unix`` URL; the last has the percent-encoded
    path of the socket in the place of the host. Raises :class:`~chp.errors.ApiError`, with
    the status of another answer, or 599 if there was none.
    """
    if url.startswith(_UNIX):
        url = "http://" + url.removeprefix(_UNIX)
    request = HTTPRequest(
        url,
        method=method,
        headers={"Authorization": f"token {token}"},
        body=body,
        ssl_options=tls,
        connect_timeout=CONNECT_TIMEOUT,
        request_timeout=REQUEST_TIMEOUT,
        follow_redirects=False,
        allow_nonstandard_methods=True,  # any of them with or without a body
    )
    client = SimpleAsyncHTTPClient(force_instance=True, resolver=_Resolver())
    try:
        response: HTTPResponse = await client.fetch(request)
    except HTTPClientError as error:
        text = error.response.body.decode("utf-8", "replace") if error.response is not None else ""
        raise ApiError(error.code, text or error.message) from None
    except OSError as error:
        raise ApiError(599, error.strerror or str(error)) from None
    finally:
        client.close()
    return response.body


class _Resolver(DefaultLoopResolver):
    """Takes a percent-encoded path for the address of a unix socket; no host name has such a form."""

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        path = unquote(host)
        if "/" in path:
            return [(socket.AF_UNIX, path)]
        return await super().resolve(host, port, family)
