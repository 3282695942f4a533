"""Whole responses that the proxy itself makes."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus

from chp.http1.fields import END_OF_HEAD


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
    change: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """Write a response with its content.

    ``head_only`` leaves the content out (HEAD). ``close`` announces the end of
    the connection, ``keep_alive`` that it stays (for HTTP/1.0). ``change``
    makes another one of the block of fields.
    """
    # RFC 9110, section 6.6.1: whoever has a clock says the date.
    block = b"\r\nContent-Type: %b\r\nContent-Length: %d\r\nDate: %b" % (
        content_type,
        len(content),
        formatdate(usegmt=True).encode(),
    )
    if change is not None:
        block = change(block)
    head = b"HTTP/1.1 %d %b%b" % (status, reason_phrase(status), block)
    if close:
        head += b"\r\nConnection: close"
    elif keep_alive:
        head += b"\r\nConnection: keep-alive"
    return head + END_OF_HEAD if head_only else head + END_OF_HEAD + content
