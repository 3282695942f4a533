"""Whole responses that the proxy itself makes."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

from chp.http1.fields import Field, serialise


def reason_phrase(status: int) -> bytes:
    """Return the standard reason phrase of a status code, else an empty one."""
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


def local_response(
    status: int,
    content: bytes,
    *,
    content_type: bytes = b"text/plain",
    close: bool = False,
    head_only: bool = False,
    keep_alive: bool = False,
) -> bytes:
    """Write a response with its content.

    ``head_only`` leaves the content out (HEAD). ``close`` announces the end of
    the connection, ``keep_alive`` that it stays (for HTTP/1.0).
    """
    fields: list[Field] = [
        (b"Content-Type", content_type),
        (b"Content-Length", b"%d" % len(content)),
        (b"Date", formatdate(usegmt=True).encode()),  # RFC 9110, section 6.6.1
    ]
    if close:
        fields.append((b"Connection", b"close"))
    elif keep_alive:
        fields.append((b"Connection", b"keep-alive"))
    head = serialise(b"HTTP/1.1 %d %b" % (status, reason_phrase(status)), fields)
    return head if head_only else head + content
