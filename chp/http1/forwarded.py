"""X-Forwarded-*: who the client is, as told to the upstream (CHP's ``xfwd``)."""

from __future__ import annotations

from chp.http1.fields import write_fields
from chp.http1.head import RequestHead

_NAMES = {
    b"x-forwarded-for": b"X-Forwarded-For",
    b"x-forwarded-port": b"X-Forwarded-Port",
    b"x-forwarded-proto": b"X-Forwarded-Proto",
    b"x-forwarded-host": b"X-Forwarded-Host",
}
# The usual case, in one go: it is part of every request.
_FIRST_PROXY = (
    b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Port: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b"
)


def forwarded_fields(head: RequestHead, client: bytes, tls: bool, *, believed: bool = True) -> bytes:
    """Return the block of X-Forwarded fields: the client's own values, and ours behind them.

    ``client`` is its IP address, empty for a unix socket (nothing is added
    for it). The port is that of Host, else the protocol's own.
    X-Forwarded-Host is Host, unless the client sent one. What a client sent
    that is not ``believed`` is left out.
    """
    received = head.forwarded if believed else {}
    host = head.host or b""
    _, colon, port = host.rpartition(b":")
    if not colon or not port.isdigit():
        port = b"443" if tls else b"80"
    proto = b"https" if tls else b"http"
    if not received and client and host:
        return _FIRST_PROXY % (client, port, proto, host)
    values = {
        b"x-forwarded-for": client,
        b"x-forwarded-port": port,
        b"x-forwarded-proto": proto,
        b"x-forwarded-host": host,
    }
    for name, value in received.items():
        if value:
            own = b"" if name == b"x-forwarded-host" else values[name]
            values[name] = value + b"," + own if own else value
    return write_fields([(_NAMES[name], value) for name, value in values.items() if value])


def received_fields(head: RequestHead) -> bytes:
    """Return the block of X-Forwarded fields just as the client sent them."""
    return write_fields([(_NAMES[name], value) for name, value in head.forwarded.items()])
