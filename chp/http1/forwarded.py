"""X-Forwarded-*: who the client is, as told to the upstream (CHP's ``xfwd``)."""

from __future__ import annotations

import re

from chp.http1.head import RequestHead

_PORT = re.compile(rb":([0-9]+)\Z")


def add_forwarded_fields(head: RequestHead, client: bytes, tls: bool) -> None:
    """Append the client's address, the port and the protocol to what the client sent.

    ``client`` is its IP address, empty for a unix socket (nothing is added
    for it). The port is that of Host, else the protocol's own.
    X-Forwarded-Host is set only where the client sent none.
    """
    host = head.host or b""
    port = _PORT.search(host)
    if client:
        _append(head, b"x-forwarded-for", b"X-Forwarded-For", client)
    _append(
        head, b"x-forwarded-port", b"X-Forwarded-Port", port[1] if port else b"443" if tls else b"80"
    )
    _append(head, b"x-forwarded-proto", b"X-Forwarded-Proto", b"https" if tls else b"http")
    if host and (head.forwarded_at is None or b"x-forwarded-host" not in head.forwarded_at):
        head.fields.append((b"X-Forwarded-Host", host))


def _append(head: RequestHead, key: bytes, name: bytes, value: bytes) -> None:
    fields = head.fields
    if head.forwarded_at is not None:
        at = head.forwarded_at.get(key)
        if at is not None:
            received_name, received = fields[at]
            fields[at] = (received_name, received + b"," + value if received else value)
            return
    fields.append((name, value))
