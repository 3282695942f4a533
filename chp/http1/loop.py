"""CDN-Loop (RFC 8586): requests that a target leads back to a proxy that they have passed."""

from __future__ import annotations

from chp.errors import LoopDetected
from chp.http1.fields import list_members

_NAME = b"chp"  # of all these proxies: requests may go round through several
_FIRST = b"\r\nCDN-Loop: " + _NAME
# Times that a request may pass one after the first. nginx follows as many internal redirects.
MAX_PASSAGES = 10


def passage(received: bytes) -> bytes:
    """Return the block of the field that notes one more passage; ``received`` is the field's value so far.

    Raises :class:`LoopDetected` for a request that has passed too often.
    """
    if not received:
        return _FIRST
    if list_members(received).count(_NAME) >= MAX_PASSAGES:
        raise LoopDetected(f"the request has passed a proxy like this {MAX_PASSAGES} times: a loop")
    return b"\r\nCDN-Loop: %b, %b" % (received, _NAME)
