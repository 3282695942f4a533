"""A route's target: the URL that the REST API was given, taken apart once.

Nothing here is parsed again per request.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from chp.errors import InvalidTarget

_TARGET = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<authority>[^/?#\\]*)"
    r"(?P<path>/[^?#]*)?"
    r"(?:\?(?P<query>[^#]*))?"
    r"(?:#.*)?",
    re.IGNORECASE,
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.%]+\]|[^\[\]:]+)(?::(?P<port>[0-9]{0,5}))?", re.IGNORECASE)
# What a URL parser escapes in a path or query (WHATWG URL, sections 1.3 and 4.4).
_ESCAPED_IN_URL = re.compile(r"[^!#-;=?-_a-z|~]")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Where connections go to: what two targets must share to share connections.

    For a unix socket, ``host`` is its path and ``port`` is 0.
    """

    scheme: str  # "http", "https" or "unix"
    host: str  # without the brackets of an IPv6 address
    port: int

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


# Routes to one server share its origin: among 100,000 routes, a request has fewer objects to fetch
# from main memory.
_origin = lru_cache(maxsize=1024)(Origin)


class Target:
    """The parts of a target that forwarding needs, as they go on the wire."""

    __slots__ = ("base_path", "host_field", "origin", "plain", "query", "url")

    def __init__(self, url: str, origin: Origin, host_field: bytes, base_path: bytes, query: bytes) -> None:
        self.url = url  # exactly as it was given
        self.origin = origin
        self.host_field = host_field  # the Host of the target itself: "host[:port]"
        self.base_path = base_path  # begins with a slash
        self.query = query  # without the question mark
        self.plain = base_path == b"/" and not query  # there is nothing to put in front of a request's

    @classmethod
    def parse(cls, url: str) -> Target:
        """Take a target URL apart.

        Raises :class:`InvalidTarget` unless it is an absolute ``http``,
        ``https``, ``http+unix`` or ``unix+http`` URL with a host (for the
        last two: the percent-encoded path of the socket).
        """
        match = None if _UNPRINTABLE.search(url) else _TARGET.fullmatch(url)
        if match is None:
            raise InvalidTarget(f"Invalid target {url!r}: not an absolute URL")
        scheme = match["scheme"].lower()
        authority = match["authority"]
        if "@" in authority:
            raise InvalidTarget("Invalid target: a user name or password in the URL is not supported")
        path = _escape(match["path"] or "/")
        query = _escape(match["query"] or "")
        if scheme in ("http+unix", "unix+http"):
            socket_path = unquote(authority)
            if not socket_path or "\0" in socket_path:
                raise InvalidTarget(f"Invalid target {url!r}: no socket path")
            return cls(url, _origin("unix", socket_path, 0), b"localhost", path, query)
        if scheme not in _DEFAULT_PORTS:
            raise InvalidTarget(
                f"Invalid target {url!r}: the scheme must be http, https, http+unix or unix+http"
            )
        parts = _AUTHORITY.fullmatch(authority)
        if parts is None:
            raise InvalidTarget(f"Invalid target {url!r}: no host")
        port = int(parts["port"] or _DEFAULT_PORTS[scheme])
        if not 0 < port < 65536:
            raise InvalidTarget(f"Invalid target {url!r}: port out of range")
        try:
            host = parts["host"].lower().encode("ascii" if parts["host"].isascii() else "idna")
        except UnicodeError:
            raise InvalidTarget(f"Invalid target {url!r}: invalid host name") from None
        host_field = host if port == _DEFAULT_PORTS[scheme] else b"%b:%d" % (host, port)
        return cls(url, _origin(scheme, host.decode().strip("[]"), port), host_field, path, query)


def _escape(part: str) -> bytes:
    """Percent-encode what may not stand in a path or query; escapes stay as they are."""
    return _ESCAPED_IN_URL.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass")), part
    ).encode("ascii")
