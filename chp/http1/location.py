"""Location of a redirect that points at the target itself (CHP's auto-rewrite and protocol-rewrite)."""

from __future__ import annotations

import re

_LOCATION = re.compile(
    rb"(https?)://((\[[^\]/?#@]*\]|[^:/?#@\[\]]*)(:[0-9]*)?)([/?#].*)?", re.IGNORECASE | re.DOTALL
)
_DEFAULT_PORT = {b"http": b":80", b"https": b":443"}
REWRITTEN_STATUSES = frozenset({201, 301, 302, 303, 307, 308})


def rewrite_location(location: bytes, target_host: bytes, host: bytes | None, protocol: bytes) -> bytes:
    """Return the Location as the client shall see it.

    ``target_host`` is the target's ``host[:port]``: a Location elsewhere, a
    relative one, and one that can't be parsed stay as they are. ``host`` is
    the client's Host (None: keep the target's), ``protocol`` the scheme to
    use (empty: keep).
    """
    match = _LOCATION.fullmatch(location)
    if match is None:
        return location
    scheme, authority, name, port, rest = match.groups(b"")
    scheme = scheme.lower()
    if port in (b":", _DEFAULT_PORT[scheme]):
        port = b""
    if name.lower() + port != target_host:
        return location
    return (protocol or scheme) + b"://" + (host or authority) + rest
